/** Sound: one player for the whole page, and what turns sound into files. */

export class Player extends EventTarget {
  #source = null;
  #context = null;
  #from = 0;
  #began = 0;
  #end = 0;

  /** What plays: {owner, buffer}, or null. */
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

  /** Second of the sound that is heard now. */
  get time() {
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

/** A mono 16-bit WAV of a sound. */
export function encodeWav(buffer) {
  const n = buffer.length;
  const mono = new Float32Array(n);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let i = 0; i < n; i++) mono[i] += samples[i] / buffer.numberOfChannels;
  }
  const view = new DataView(new ArrayBuffer(44 + 2 * n));
  const letters = (place, text) => [...text].forEach((letter, i) => {
    view.setUint8(place + i, letter.charCodeAt(0));
  });
  letters(0, "RIFF");
  view.setUint32(4, 36 + 2 * n, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, buffer.sampleRate, true);
  view.setUint32(28, 2 * buffer.sampleRate, true);
  view.setUint16(32, 2, true); // bytes of a frame
  view.setUint16(34, 16, true); // bits of a sample
  letters(36, "data");
  view.setUint32(40, 2 * n, true);
  mono.forEach((sample, i) => {
    const bounded = Math.min(Math.max(sample, -1), 1);
    view.setInt16(44 + 2 * i, Math.round(bounded * 32767), true);
  });
  return view.buffer;
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
