/**
 * Colours of emotions and words in time, for the page and the report.
 *
 * No imports: the report inlines this file.
 */

/** Opacity of a word's colour: the stronger the emotion, the stronger it is. */
export function strength(intensity) {
  const value = Math.min(Math.max(intensity ?? 1, 0), 1);
  return 0.18 + 0.42 * value;
}

/** "#rrggbb" with an opacity from 0 to 1. */
export function tint(colour, opacity) {
  const value = Math.round(255 * opacity).toString(16).padStart(2, "0");
  return `${colour}${value}`;
}

/** A word's emotions, the strongest first: [[name, weight], ...]. */
export function mixture(word) {
  return Object.entries(word.emotion ?? {})
    .filter(([, weight]) => weight > 0)
    .sort((one, other) => other[1] - one[1]);
}

/** CSS background of a word: its colour, or the colours of its mixture. */
export function background(word, colours) {
  const parts = mixture(word).filter(([name]) => colours[name]);
  if (!parts.length) return "";
  const opacity = strength(word.intensity);
  const total = parts.reduce((sum, [, weight]) => sum + weight, 0);
  let done = 0;
  const stops = parts.flatMap(([name, weight]) => {
    const shade = tint(colours[name], opacity);
    const from = done;
    done += (100 * weight) / total;
    return [`${shade} ${from.toFixed(1)}%`, `${shade} ${done.toFixed(1)}%`];
  });
  return `linear-gradient(to bottom, ${stops.join(", ")})`;
}

/** Index of the word that is spoken at a time, -1 in a pause. */
export function wordAt(words, time) {
  return words.findIndex(word => word.start <= time && time < word.end);
}

/** Loudest sample of each of n equal pieces. */
export function peaks(samples, n) {
  const loudest = new Float32Array(n);
  for (let piece = 0; piece < n; piece++) {
    const end = Math.floor(((piece + 1) * samples.length) / n);
    let most = 0;
    for (let i = Math.floor((piece * samples.length) / n); i < end; i++) {
      most = Math.max(most, Math.abs(samples[i]));
    }
    loudest[piece] = most;
  }
  return loudest;
}

const inks = { theme: null, colours: {} };

/** Value of a colour variable of theme.css as a canvas understands it. */
export function ink(name) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = `${document.documentElement.dataset.theme} ${dark}`;
  if (theme !== inks.theme) Object.assign(inks, { theme, colours: {} });
  return (inks.colours[name] ??= readInk(name));
}

function readInk(name) {
  const probe = document.createElement("span");
  probe.hidden = true;
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

const F0_RANGE = [60, 600]; // Hz
const BAND = 26; // pixels of the words' strip

/**
 * Draw a wave with its words, their emotions, F0 and the place of listening.
 *
 * track: {samples, duration, words, f0: {hop, hz}}; time in seconds or null.
 */
export function drawTrack(canvas, track, colours, time = null) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * scale)) {
    canvas.width = Math.round(width * scale);
  }
  if (canvas.height !== Math.round(height * scale)) {
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const x = seconds => (seconds / track.duration) * width;
  const lit = time === null ? -1 : wordAt(track.words, time);
  drawWords(pen, track.words, colours, x, height, lit);
  drawWave(pen, track, width, height, time === null ? width : x(time));
  drawF0(pen, track.f0, x, height);
  if (time !== null) {
    pen.fillStyle = ink("text");
    pen.fillRect(x(time) - 0.75, 0, 1.5, height);
  }
}

function drawWords(pen, words, colours, x, height, lit) {
  const text = ink("text");
  const line = ink("edge");
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  words.forEach((word, index) => {
    const left = x(word.start);
    const right = x(word.end);
    const parts = mixture(word).filter(([name]) => colours[name]);
    const total = parts.reduce((sum, [, weight]) => sum + weight, 0);
    const opacity = strength(word.intensity);
    for (const [top, high, faint] of [
      [0, BAND, 1],
      [BAND, height - BAND, index === lit ? 1 : 3],
    ]) {
      let from = top;
      for (const [name, weight] of parts) {
        pen.fillStyle = tint(colours[name], opacity / faint);
        pen.fillRect(left, from, right - left, (high * weight) / total);
        from += (high * weight) / total;
      }
    }
    pen.fillStyle = line;
    pen.globalAlpha = 0.45;
    pen.fillRect(left, 0, 1, height);
    pen.fillRect(right - 1, 0, 1, height);
    pen.globalAlpha = 1;
    pen.fillStyle = text;
    pen.font = `${index === lit ? "600 " : ""}12px system-ui, sans-serif`;
    const room = right - left - 4;
    if (room > 6) pen.fillText(fitted(pen, word.text, room), (left + right) / 2, BAND / 2);
  });
}

/** As much of a text as fits, with an ellipsis for the rest. */
function fitted(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  let short = text;
  while (short && pen.measureText(`${short}…`).width > room) {
    short = short.slice(0, -1);
  }
  return short ? `${short}…` : "";
}

function drawWave(pen, track, width, height, played) {
  const n = Math.max(1, Math.floor(width / 3));
  track.peaks = track.peaks?.length === n ? track.peaks : peaks(track.samples, n);
  const loudest = Math.max(...track.peaks, 1e-6);
  const middle = (height + BAND) / 2;
  const reach = (height - BAND) / 2 - 6;
  pen.fillStyle = ink("soft");
  track.peaks.forEach((peak, index) => {
    const half = Math.max(0.75, (peak / loudest) * reach);
    const left = (index * width) / n;
    pen.globalAlpha = left <= played ? 0.85 : 0.4;
    pen.fillRect(left, middle - half, 2, 2 * half);
  });
  pen.globalAlpha = 1;
}

function drawF0(pen, f0, x, height) {
  if (!f0) return;
  const [low, high] = F0_RANGE.map(Math.log);
  const y = hertz => {
    const share = (Math.log(hertz) - low) / (high - low);
    return height - 5 - Math.min(Math.max(share, 0), 1) * (height - BAND - 10);
  };
  for (const [colour, wide] of [[ink("card"), 5], [ink("pitch"), 2.2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = wide;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    let down = false;
    f0.hz.forEach((hertz, frame) => {
      if (hertz) {
        const place = [x(frame * f0.hop), y(hertz)];
        if (down) pen.lineTo(...place);
        else pen.moveTo(...place);
      }
      down = Boolean(hertz);
    });
    pen.stroke();
  }
}
