/** Sound: one player for the whole page, and what turns sound into files. */

const AHEAD = 0.1; // seconds between a sound's coming and its being heard

export class Player extends EventTarget {
  #source = null;
  #context = null;
  #from = 0;
  #began = 0;
  #end = 0;
  #liveContexts = {}; // by rate

  /** What plays: {owner, buffer}, or null; no buffer while it is made. */
  playing = null;

  get context() {
    this.#context ??= new AudioContext();
    return this.#context;
  }

  /** Allow sound; browsers want this while a click is handled. */
  wake() {
    this.context.resume();
  }

  decode(content) {
    return this.context.decodeAudioData(content);
  }

  /** Play from one second to another; the owner may be any object. */
  play(owner, buffer, from = 0, to = buffer.duration) {
    this.#silence();
    this.wake();
    this.#from = Math.min(Math.max(from, 0), buffer.duration);
    this.#end = Math.min(to, buffer.duration);
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.context.destination);
    source.onended = () => {
      if (this.#source === source) this.stop();
    };
    this.#began = this.context.currentTime;
    source.start(0, this.#from, Math.max(this.#end - this.#from, 0.01));
    this.#source = source;
    this.playing = { owner, buffer };
    this.dispatchEvent(new Event("start"));
    this.#tick();
  }

  /** Play sound that is still being made: its push() and end() give it. */
  startLive(owner) {
    this.#silence();
    const contextOf = rate =>
      (this.#liveContexts[rate] ??= new AudioContext({ sampleRate: rate }));
    const sound = new LiveSound(contextOf, () => {
      if (this.#source === sound) this.stop();
    });
    this.#source = sound;
    this.playing = { owner, buffer: null };
    this.dispatchEvent(new Event("start"));
    this.#tick();
    return sound;
  }

  /** Second of the sound that is heard now. */
  get time() {
    if (this.#source instanceof LiveSound) return this.#source.time;
    const passed = this.context.currentTime - this.#began;
    return Math.min(this.#from + Math.max(passed, 0), this.#end);
  }

  stop() {
    if (!this.playing) return;
    this.#silence();
    this.playing = null;
    this.dispatchEvent(new Event("stop"));
  }

  #silence() {
    const source = this.#source;
    this.#source = null;
    source?.stop();
  }

  #tick() {
    const source = this.#source;
    const next = () => {
      if (this.#source !== source || !source) return;
      this.dispatchEvent(new Event("time"));
      requestAnimationFrame(next);
    };
    next();
  }
}

/** Sound that is played while it is still being made. */
class LiveSound {
  #context = null;
  #pieces = []; // {at, from, source}: times of the context and of the sound
  #end = 0; // time of the context at which the last piece ends
  #length = 0; // seconds that have come
  #playing = 0; // pieces that have not ended
  #complete = false;
  #stopped = false;

  /** contextOf: rate => AudioContext; onended: called once all was heard. */
  constructor(contextOf, onended) {
    Object.assign(this, { contextOf, onended });
  }

  push(samples, rate) {
    if (this.#stopped || !samples.length) return;
    // At the sound's own rate, pieces join without a click.
    this.#context ??= this.contextOf(rate);
    const context = this.#context;
    context.resume();
    const buffer = new AudioBuffer({ length: samples.length, sampleRate: rate });
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.onended = () => {
      this.#playing -= 1;
      this.#finish();
    };
    // What comes too late is heard a little after it has come.
    const late = this.#end <= context.currentTime;
    const at = late ? context.currentTime + AHEAD : this.#end;
    source.start(at);
    this.#pieces.push({ at, from: this.#length, duration: buffer.duration, source });
    this.#playing += 1;
    this.#length += buffer.duration;
    this.#end = at + buffer.duration;
  }

  /** Say that no more will come. */
  end() {
    this.#complete = true;
    this.#finish();
  }

  #finish() {
    if (this.#complete && !this.#playing && !this.#stopped) this.onended();
  }

  stop() {
    this.#stopped = true;
    for (const { source } of this.#pieces) source.stop();
  }

  /** Second of the sound that is heard now. */
  get time() {
    const now = this.#context?.currentTime ?? 0;
    const piece = this.#pieces.findLast(({ at }) => at <= now);
    return piece ? piece.from + Math.min(now - piece.at, piece.duration) : 0;
  }
}

/** Samples of 16-bit PCM. */
export function samplesOf(pcm) {
  const view = new DataView(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  return Float32Array.from(
    { length: pcm.byteLength / 2 }, (_, i) => view.getInt16(2 * i, true) / 32767,
  );
}

/** A WAV of parts of 16-bit PCM, of one channel. */
export function wavOf(parts, rate) {
  const n = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const wav = new Uint8Array(44 + n);
  const view = new DataView(wav.buffer);
  const letters = (place, text) => [...text].forEach((letter, i) => {
    view.setUint8(place + i, letter.charCodeAt(0));
  });
  letters(0, "RIFF");
  view.setUint32(4, 36 + n, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); // bytes of a frame
  view.setUint16(34, 16, true); // bits of a sample
  letters(36, "data");
  view.setUint32(40, n, true);
  let place = 44;
  for (const part of parts) {
    wav.set(part, place);
    place += part.byteLength;
  }
  return wav;
}

/** A mono 16-bit WAV of a sound. */
export function encodeWav(buffer) {
  const n = buffer.length;
  const mono = new Float32Array(n);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < n; i++) mono[i] += samples[i] / buffer.numberOfChannels;
  }
  const pcm = new DataView(new ArrayBuffer(2 * n));
  mono.forEach((sample, i) => {
    const bounded = Math.min(Math.max(sample, -1), 1);
    pcm.setInt16(2 * i, Math.round(bounded * 32767), true);
  });
  return wavOf([new Uint8Array(pcm.buffer)], buffer.sampleRate);
}

/** Record the microphone: {stop: async () => Blob}. */
export async function record() {
  if (!navigator.mediaDevices) {
    throw new DOMException("https:// or this machine's own address is needed");
  }
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { echoCancellation: false, autoGainControl: false },
  });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  recorder.ondataavailable = event => pieces.push(event.data);
  const ended = new Promise(done => {
    recorder.onstop = done;
  });
  recorder.start();
  return {
    async stop() {
      recorder.stop();
      await ended;
      for (const track of stream.getTracks()) track.stop();
      return new Blob(pieces, { type: recorder.mimeType });
    },
  };
}
