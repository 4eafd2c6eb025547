/**
 * What the user has made, with undo and redo, and as part of the address.
 *
 * A state: {current: "a" | "b", a: take, b: take | null}. A take: {marks,
 * words, stale, voice, seed, guidance, speed, instruction}; `stale` names
 * which of marks and words has yet to follow the other.
 */

const STEPS = 200; // kept for undo
const PAUSE = 1000; // milliseconds between two steps of one kind
const DEFAULTS = { voice: "", seed: 0, guidance: 1, speed: 1, instruction: "" };
const LETTERS = { voice: "v", seed: "s", guidance: "g", speed: "p", instruction: "i" };

export function newTake(values = {}) {
  return { marks: "", words: [], stale: null, ...DEFAULTS, ...values };
}

export class Store extends EventTarget {
  #past = [];
  #future = [];
  #last = { kind: null, time: 0 };

  constructor(state) {
    super();
    this.state = state;
  }

  get take() {
    return this.state[this.state.current];
  }

  /** Replace the state; steps of one kind in short order are one. */
  set(state, kind = null) {
    const now = Date.now();
    const same = kind && kind === this.#last.kind && now - this.#last.time < PAUSE;
    if (!same) {
      this.#past.push(this.state);
      this.#past.splice(0, this.#past.length - STEPS);
    }
    this.#last = { kind, time: now };
    this.#future = [];
    this.amend(state);
  }

  /** Change values of the current take. */
  change(values, kind = null) {
    const { current } = this.state;
    this.set({ ...this.state, [current]: { ...this.take, ...values } }, kind);
  }

  /** Replace the state without a step: what follows from the last one. */
  amend(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  undo() {
    this.#move(this.#past, this.#future);
  }

  redo() {
    this.#move(this.#future, this.#past);
  }

  #move(from, to) {
    if (!from.length) return;
    to.push(this.state);
    this.#last.kind = null;
    this.amend(from.pop());
  }
}

/** The part of the address behind # that restores a state. */
export function writeAddress(state, page) {
  const query = new URLSearchParams();
  for (const name of ["a", "b"]) {
    const take = state[name];
    if (!take) continue;
    query.set(name, take.marks);
    for (const [key, letter] of Object.entries(LETTERS)) {
      if (take[key] !== DEFAULTS[key]) query.set(name + letter, take[key]);
    }
  }
  if (state.current !== "a") query.set("take", state.current);
  for (const [key, value] of Object.entries(page)) if (value) query.set(key, value);
  return `#${query}`;
}

/** The state and {view, lang} of an address. */
export function readAddress(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { current: "a", a: null, b: null };
  for (const name of ["a", "b"]) {
    if (!query.has(name)) continue;
    const values = {};
    for (const [key, letter] of Object.entries(LETTERS)) {
      const value = query.get(name + letter);
      if (value === null) continue;
      const number = typeof DEFAULTS[key] === "number";
      if (number && !Number.isFinite(Number(value))) continue;
      values[key] = number ? Number(value) : value;
    }
    const marks = query.get(name);
    state[name] = newTake({ ...values, marks, stale: "words" });
  }
  if (query.get("take") === "b" && state.b) state.current = "b";
  return { state, page: { view: query.get("view"), lang: query.get("lang") } };
}
