/** Spoken takes: made by the server, kept for a while, shown with their wave. */

import { ServerError, bytes, post, postForParts } from "./api.js";
import { drawTrack } from "./drawing.js";
import { download, icon, make } from "./dom.js";
import { seconds, t } from "./i18n.js";
import { samplesOf, wavOf } from "./sound.js";

const KEPT = 12; // spoken takes, so that undo and A/B need no server

/** What the server is asked for; takes with the same request sound the same. */
export function requestOf(take) {
  return {
    text: take.marks,
    voice: take.voice || undefined,
    seed: take.seed,
    guidance: take.guidance,
    speed: take.speed,
    instruction: take.instruction || undefined,
    response_format: "wav",
  };
}

export class Speech {
  #kept = new Map();

  constructor(player) {
    this.player = player;
  }

  /** The spoken take, if it has been spoken lately. */
  of(take) {
    return this.#kept.get(JSON.stringify(requestOf(take))) ?? null;
  }

  async speak(take, signal) {
    const known = this.of(take);
    if (known) return known;
    const request = requestOf(take);
    const answer = await post("v1/words", request, signal);
    return this.#keep(request, answer, bytes(answer.audio));
  }

  /**
   * Speak a take, and hear it meanwhile: hear(samples, rate, words) has what
   * has just been spoken and the words that begin in it.
   */
  async stream(take, signal, hear) {
    const request = requestOf(take);
    const parts = [];
    let answer = null;
    for await (const part of postForParts("v1/words", { ...request, stream: true }, signal)) {
      if (part.type === "audio") {
        const pcm = bytes(part.audio);
        parts.push(pcm);
        hear(samplesOf(pcm), part.sample_rate, part.words);
      } else if (part.type === "done") answer = part;
    }
    if (!answer) throw new ServerError(null, 0);
    return this.#keep(request, answer, wavOf(parts, answer.sample_rate));
  }

  async #keep(request, answer, wav) {
    const buffer = await this.player.decode(wav.slice().buffer);
    const spoken = {
      answer,
      wav,
      buffer,
      track: {
        samples: buffer.getChannelData(0),
        duration: buffer.duration,
        words: answer.words,
        f0: answer.f0,
      },
    };
    this.#kept.set(JSON.stringify(request), spoken);
    if (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return spoken;
  }
}

/** A canvas to look at and to seek in, by click and by arrow keys. */
export class Wave {
  track = null;
  time = null;

  constructor(canvas, colours, seek) {
    this.canvas = canvas;
    this.colours = colours;
    canvas.addEventListener("click", event => {
      const box = canvas.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      if (this.track) seek(share * this.track.duration);
    });
    canvas.addEventListener("keydown", event => {
      const way = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!way || !this.track) return;
      event.preventDefault();
      const { words } = this.track;
      const now = words.findLastIndex(word => word.start <= (this.time ?? 0) + 0.01);
      const next = Math.min(Math.max(now + way, 0), words.length - 1);
      seek(words[next]?.start ?? 0);
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  show(track, time = null) {
    this.track = track;
    this.time = time;
    this.draw();
  }

  draw() {
    if (!this.track) return;
    const { canvas, track, time } = this;
    canvas.setAttribute("aria-valuemax", track.duration.toFixed(2));
    canvas.setAttribute("aria-valuenow", (time ?? 0).toFixed(2));
    canvas.setAttribute("aria-valuetext", seconds(time ?? 0));
    drawTrack(canvas, track, this.colours, time);
  }
}

/** One take's card. Events: play, edit, remove, and seek with a time. */
export class TakeCard extends EventTarget {
  #spoken = null;

  constructor(name, colours) {
    super();
    this.name = name;
    this.letter = name.toUpperCase();
    const tell = kind => () => this.dispatchEvent(new Event(kind));
    this.title = make("h3");
    this.editButton = make("button", { type: "button", class: "quiet edit", onclick: tell("edit") });
    this.playButton = make("button", { type: "button", class: "round play", onclick: tell("play") });
    this.wavButton = this.#round("save", () => this.#saveWav());
    this.marksButton = this.#round("copy", () => this.#saveMarks());
    this.removeButton = this.#round("close", tell("remove"));
    this.canvas = make("canvas", {
      class: "wave", role: "slider", tabindex: "0", "aria-valuemin": "0",
    });
    this.none = make("p", { class: "none soft" });
    this.info = make("p", { class: "info soft" });
    this.root = make(
      "section",
      { class: "card take" },
      make(
        "header", {}, this.playButton, this.title, this.editButton,
        make("span", { class: "actions" }, this.wavButton, this.marksButton, this.removeButton),
      ),
      this.none,
      this.canvas,
      this.info,
    );
    this.wave = new Wave(this.canvas, colours, time => {
      this.dispatchEvent(new CustomEvent("seek", { detail: { time } }));
    });
  }

  #round(name, act) {
    return make("button", { type: "button", class: "round", onclick: act }, icon(name));
  }

  #saveWav() {
    if (this.#spoken) download(this.#spoken.wav, `take_${this.name}.wav`, "audio/wav");
  }

  #saveMarks() {
    download(`${this.take.marks}\n`, `take_${this.name}.txt`, "text/plain");
  }

  /** spoken: the take's speech, or an older one (`old`), or null. */
  show({ take, spoken, old, current, playing, live, alone }) {
    this.take = take;
    this.#spoken = old ? null : spoken;
    const name = this.letter;
    this.title.textContent = t("take.name", { name });
    this.root.setAttribute("aria-label", t("take.name", { name }));
    this.root.classList.toggle("current", current && !alone);
    this.root.classList.toggle("old", Boolean(old));
    this.editButton.hidden = alone;
    this.editButton.textContent = t(current ? "take.edited" : "take.edit", { name });
    this.editButton.setAttribute("aria-pressed", String(current));
    this.playButton.replaceChildren(icon(playing ? "stop" : "play"));
    label(this.playButton, t(playing ? "take.stop" : "take.play", { name }));
    label(this.wavButton, t("take.wav"));
    label(this.marksButton, t("take.marks"));
    label(this.removeButton, t("take.remove"));
    this.removeButton.hidden = this.name === "a";
    this.wavButton.disabled = !this.#spoken;
    this.canvas.hidden = !spoken;
    this.canvas.setAttribute("aria-label", t("take.wave", { name }));
    this.none.hidden = Boolean(spoken);
    this.none.textContent = t(live ? "take.live" : "take.none");
    this.info.hidden = !spoken;
    if (spoken) {
      const { answer, buffer } = spoken;
      const parts = [
        t("take.info", {
          duration: seconds(buffer.duration),
          voice: answer.voice ?? take.voice,
          seed: answer.seed ?? take.seed,
        }),
      ];
      if (answer.word_times_source === "proportional") parts.push(t("take.guessed"));
      this.info.textContent = live ? t("take.live") : old ? t("take.old") : parts.join(" · ");
    }
    this.wave.show(spoken?.track ?? null, playing && !live ? this.wave.time : null);
  }
}

function label(button, text) {
  button.setAttribute("aria-label", text);
  button.title = text;
}
