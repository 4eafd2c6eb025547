/** The view that speaks: a sentence, its words, its settings and its takes. */

import { post } from "./api.js";
import { wordAt } from "./drawing.js";
import { $, debounced, explainInstead, icon } from "./dom.js";
import { emotionName, messageOf, seconds, t } from "./i18n.js";
import { Store, newTake } from "./state.js";
import { Speech, TakeCard } from "./takes.js";
import { WordEditor, makeSlider, widthOf } from "./words.js";

const QUIET = 250; // milliseconds without a key, until the server is asked
const LEAD = 0.03; // seconds before a word from which it is played
const LONG = 60; // letters of a text that is heard before all of it is spoken
const LARGEST_SEED = 2 ** 32 - 1;
const EXAMPLE = "<happy>We won!</happy> But then <sad>he left.</sad>";

export class SpeakView {
  #busy = null; // AbortController of the take that is being spoken
  #span = null; // words that are played, of the speech; null for all
  #problem = null; // {marks, error} of the server
  #live = null; // {name, words} of the take that is heard while it is spoken
  #heard = { a: null, b: null }; // what was spoken last
  #syncSoon = debounced(() => this.#sync(), QUIET);

  constructor({ taxonomy, voices, tags, model, player, state, say, changed }) {
    Object.assign(this, { taxonomy, player, say, changed });
    this.voices = voices;
    this.model = model;
    this.tags = tags;
    this.speech = new Speech(player);
    this.colours = Object.fromEntries(taxonomy.emotions.map(e => [e.name, e.colour]));
    this.store = new Store(this.#complete(state));
    this.editor = new WordEditor($("#words"), taxonomy, { pauses: true });
    this.cards = Object.fromEntries(["a", "b"].map(name => [name, this.#card(name)]));
    $("#takes").append(this.cards.a.root, this.cards.b.root);
    this.#buildSliders();
    this.#listen();
    this.store.addEventListener("change", () => this.#show());
    this.#show();
    this.#offer();
  }

  /** Put a state in the place of this one, as of a new address. */
  restore(state) {
    this.store.set(this.#complete(state));
  }

  #complete(state) {
    const known = this.voices.voices.map(voice => voice.id);
    const voiced = take => take && {
      ...take,
      voice: known.includes(take.voice) ? take.voice : this.voices.default ?? "",
    };
    const a = state.a ?? newTake({ marks: EXAMPLE, stale: "words" });
    return { ...state, a: voiced(a), b: voiced(state.b) };
  }

  retitle() {
    this.editor.retitle();
    delete $("#voice").dataset.known; // its emotions' names
    this.#buildSliders();
    this.#offer();
    this.#show();
  }

  /** Show what the server and its model can do beside speaking. */
  #offer() {
    const { missing = {} } = this.model;
    if ("suggest" in missing) {
      const error = { message: missing.suggest, code: "suggest_missing", values: { reason: missing.suggest } };
      explainInstead($("#suggest"), messageOf(error), this.say);
    }
    $("#tags").hidden = !this.tags.length;
    $("#tags").replaceChildren(
      new Option(t("tags.insert"), ""), ...this.tags.map(tag => new Option(tag)),
    );
  }

  /** Put a tag of the model where the cursor is. */
  #insertTag(tag) {
    const text = $("#text");
    const { selectionStart: start, selectionEnd: end, value } = text;
    const before = start && !/\s$/.test(value.slice(0, start)) ? " " : "";
    const after = /^\s/.test(value.slice(end)) ? "" : " ";
    text.focus();
    text.setRangeText(`${before}${tag}${after}`, start, end, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  }

  #buildSliders() {
    const build = (label, key, options, unit) =>
      makeSlider(label, options, value => this.store.change({ [key]: value }, key), unit);
    this.guidance = build(t("guidance.label"), "guidance", { min: 0, max: 5, step: 0.1 }, "");
    this.speed = build(t("speed.label"), "speed", { min: 0.5, max: 2, step: 0.05 }, " ×");
    this.guidance.input.id = "guidance";
    this.speed.input.id = "speed";
    $("#sliders").replaceChildren(this.guidance.root, this.speed.root);
  }

  #card(name) {
    const card = new TakeCard(name, this.colours);
    card.addEventListener("edit", () => this.switchTo(name));
    card.addEventListener("play", () => this.toggle(name));
    card.addEventListener("seek", event => this.#seek(name, event.detail.time));
    card.addEventListener("remove", () => {
      if (this.player.playing?.owner === "b") this.player.stop();
      this.store.set({ ...this.store.state, current: "a", b: null });
    });
    return card;
  }

  #listen() {
    const { store } = this;
    const text = $("#text");
    text.addEventListener("input", () => {
      store.change({ marks: text.value, stale: "words" }, "text");
    });
    text.addEventListener("scroll", () => {
      $(".behind").scrollTop = text.scrollTop;
    });
    this.editor.addEventListener("change", event => {
      const { words, kind } = event.detail;
      store.change({ words, stale: "marks" }, kind);
    });
    this.editor.addEventListener("play", event => {
      this.play(store.state.current, { first: event.detail.index });
    });
    this.editor.addEventListener("around", event => {
      const { first, last } = event.detail;
      this.play(store.state.current, { first: first - 1, last: last + 1 });
    });
    $("#undo").addEventListener("click", () => this.undo());
    $("#redo").addEventListener("click", () => this.redo());
    $("#play").addEventListener("click", () => this.toggle(store.state.current));
    $("#voice").addEventListener("change", event => {
      store.change({ voice: event.target.value });
    });
    $("#seed").addEventListener("change", event => {
      const seed = Math.floor(Number(event.target.value) || 0);
      store.change({ seed: Math.min(Math.max(seed, 0), LARGEST_SEED) });
    });
    $("#dice").addEventListener("click", () => store.change({ seed: newSeed() }));
    $("#instruction").addEventListener("input", event => {
      store.change({ instruction: event.target.value }, "instruction");
    });
    $("#compare").addEventListener("click", () => {
      const b = { ...store.take, seed: newSeed() };
      store.set({ ...store.state, current: "b", b });
    });
    $("#share").addEventListener("click", () => this.#share());
    $("#suggest").addEventListener("click", () => this.#suggest());
    $("#tags").addEventListener("change", event => {
      if (event.target.value) this.#insertTag(event.target.value);
      event.target.value = "";
    });
    $("#speak").addEventListener("keydown", event => {
      const writing = event.target.matches("input, textarea, select");
      if (writing || event.key !== "x" || event.ctrlKey || event.metaKey) return;
      this.switchTo(store.state.current === "a" ? "b" : "a");
    });
    for (const kind of ["start", "stop", "time"]) {
      this.player.addEventListener(kind, () => this.#hear(kind));
    }
  }

  undo() {
    this.store.undo();
  }

  redo() {
    this.store.redo();
  }

  // What is shown.

  #show() {
    const { state, take } = this.store;
    const text = $("#text");
    if (text.value !== take.marks) text.value = take.marks;
    fit(text);
    if (this.editor.words !== take.words) this.editor.show(take.words);
    if (this.#problem && this.#problem.marks !== take.marks) this.#problem = null;
    this.#showProblem();
    this.#showVoices(take.voice);
    $("#seed").value = take.seed;
    if ($("#instruction").value !== take.instruction) $("#instruction").value = take.instruction;
    if (take.instruction) $("#more").open = true;
    this.guidance.set(take.guidance);
    this.speed.set(take.speed);
    $("#undo").disabled = !this.store.canUndo;
    $("#redo").disabled = !this.store.canRedo;
    $("#compare").hidden = Boolean(state.b);
    $("#takes").classList.toggle("two", Boolean(state.b));
    this.#showCards();
    if (state.a.stale || state.b?.stale) this.#syncSoon();
    this.changed(state);
  }

  #showCards() {
    const { state } = this.store;
    const playing = this.player.playing?.owner;
    for (const [name, card] of Object.entries(this.cards)) {
      const take = state[name];
      card.root.hidden = !take;
      if (!take) continue;
      const fresh = take.stale === "marks" ? null : this.speech.of(take);
      if (fresh) this.#heard[name] = fresh;
      card.show({
        take,
        spoken: this.#heard[name],
        old: !fresh && this.#heard[name],
        current: name === state.current,
        playing: name === playing,
        live: this.#live?.name === name,
        alone: !state.b,
      });
    }
    const on = Boolean(this.#busy) || playing === state.current;
    const waiting = this.#busy && !this.#live;
    const label = waiting ? "working" : on ? "stop" : "play";
    $("#play").replaceChildren(icon(on ? "stop" : "play"), t(label));
    $("#play").classList.toggle("busy", Boolean(waiting));
  }

  #showVoices(chosen) {
    const select = $("#voice");
    const known = this.voices.voices.map(voice => voice.id);
    if (select.dataset.known !== known.join("\n")) {
      select.dataset.known = known.join("\n");
      select.replaceChildren(...this.voices.voices.map(({ id, emotions }) =>
        new Option(emotions?.length ? `${id} (${emotions.map(emotionName).join(", ")})` : id, id),
      ));
    }
    select.value = chosen;
  }

  #showProblem() {
    const text = $("#text");
    const behind = $(".behind");
    const problem = this.#problem;
    text.setAttribute("aria-invalid", String(Boolean(problem)));
    $("#text-error").textContent = problem ? messageOf(problem.error) : "";
    behind.replaceChildren();
    const found = problem && /^\D{0,20}(\d+):/.exec(problem.error.message);
    if (!found) return;
    // The text again, behind the one that is typed, with the place underlined.
    const place = Math.min(Number(found[1]), problem.marks.length - 1);
    const wrong = document.createElement("mark");
    const word = /^(<[^>]*>?|[^\s<]+|\s)/.exec(problem.marks.slice(place))?.[0] ?? " ";
    wrong.textContent = word;
    behind.append(
      problem.marks.slice(0, place), wrong, problem.marks.slice(place + word.length), "\n",
    );
    behind.scrollTop = text.scrollTop;
  }

  // Marks and words follow each other, through the server.

  async #sync() {
    await Promise.all(["a", "b"].map(name => this.#syncTake(name)));
  }

  async #syncTake(name) {
    const sent = this.store.state[name];
    if (!sent?.stale) return;
    const amend = values => {
      const now = this.store.state[name];
      const same = now && now.marks === sent.marks && now.words === sent.words;
      if (same) this.store.amend({ ...this.store.state, [name]: { ...now, ...values, stale: null } });
    };
    if (sent.stale === "words" && !sent.marks.trim()) {
      amend({ words: [] });
      return;
    }
    try {
      if (sent.stale === "words") {
        const { words } = await post("v1/marks", { text: sent.marks });
        amend({ words });
      } else {
        const { marks } = await post("v1/marks", { words: sent.words });
        amend({ marks });
      }
    } catch (error) {
      const now = this.store.state[name];
      if (now?.marks !== sent.marks || now.words !== sent.words) return;
      if (name !== this.store.state.current) return;
      this.#problem = { marks: sent.marks, error };
      this.#showProblem();
    }
  }

  async #suggest() {
    const name = this.store.state.current;
    const take = this.store.take;
    if (!take.marks.trim() || "suggest" in (this.model.missing ?? {})) return;
    try {
      const { marks, words } = await post("v1/suggest", { text: take.marks });
      if (this.store.state[name] === take) this.store.change({ marks, words, stale: null });
    } catch (error) {
      this.say(messageOf(error), true);
    }
  }

  // Sound.

  toggle(name) {
    if (this.#busy) {
      this.#busy.abort();
      this.player.stop();
    } else if (this.player.playing?.owner === name) {
      this.player.stop();
    } else {
      this.play(name);
    }
  }

  /** Speak a take if need be, and play it, or its words from first to last. */
  async play(name, { first = null, last = null } = {}) {
    this.player.wake();
    this.player.stop();
    this.#busy?.abort();
    await this.#syncTake(name);
    const take = this.store.state[name];
    if (!take) return;
    if (!take.marks.trim()) {
      this.say(t("error.text"), true);
      $("#text").focus();
      return;
    }
    const asked = new AbortController();
    this.#busy = asked;
    this.#showCards();
    try {
      const known = this.speech.of(take);
      if (!known && first === null && isLong(take)) {
        await this.#playWhileSpoken(name, take, asked);
        return;
      }
      const spoken = known ?? (await this.speech.speak(take, asked.signal));
      if (this.#busy !== asked) return;
      this.#busy = null;
      const { words } = spoken.answer;
      const place = index => matching(index, take.words.length, words.length);
      this.#span = first === null ? null : [place(first), place(last ?? Infinity)];
      const from = first === null ? 0 : words[place(first)].start - LEAD;
      const to = last === null ? undefined : words[place(last)].end + LEAD;
      this.player.play(name, spoken.buffer, Math.max(from, 0), to);
      if (!known) this.say(t("take.ready", { duration: seconds(spoken.buffer.duration) }));
    } catch (error) {
      if (error.name !== "AbortError") this.say(messageOf(error), true);
    } finally {
      if (this.#busy === asked) this.#busy = null;
      this.#showCards();
    }
  }

  /** Play what is spoken of a take while the rest is being spoken. */
  async #playWhileSpoken(name, take, asked) {
    const words = [];
    let sound = null;
    this.#span = null;
    try {
      const spoken = await this.speech.stream(take, asked.signal, (samples, rate, begun) => {
        words.push(...begun);
        if (this.#busy !== asked) return;
        if (!sound) {
          this.#live = { name, words };
          sound = this.player.startLive(name);
        }
        sound.push(samples, rate);
      });
      this.#heard[name] = spoken;
      this.say(t("take.ready", { duration: seconds(spoken.buffer.duration) }));
    } finally {
      sound?.end();
      if (this.#live?.words === words) this.#live = null;
    }
  }

  #seek(name, time) {
    const spoken = this.#heard[name];
    if (!spoken) return;
    this.#span = null;
    this.player.play(name, spoken.buffer, time);
  }

  /** Edit the other take; what plays goes on with the same word of it. */
  switchTo(name) {
    const { state } = this.store;
    if (!state[name] || name === state.current) return;
    const { playing } = this.player;
    let first = null;
    if (playing?.owner === state.current) {
      const words = this.#wordsOf(state.current);
      const time = this.player.time;
      first = Math.max(0, words.findLastIndex(word => word.start <= time));
    }
    this.store.amend({ ...state, current: name });
    if (first !== null) this.play(name, { first });
  }

  /** Words of a take with their times, as far as they are known. */
  #wordsOf(name) {
    if (this.#live?.name === name) return this.#live.words;
    return this.#heard[name]?.answer.words ?? [];
  }

  #hear(kind) {
    const owner = this.player.playing?.owner;
    if (kind !== "time") this.#showCards();
    for (const [name, card] of Object.entries(this.cards)) {
      // While it is spoken there is no wave yet, or that of another reading.
      const time = owner === name && this.#live?.name !== name ? this.player.time : null;
      if (kind !== "time" || time !== null) card.wave.show(card.wave.track, time);
    }
    const { current } = this.store.state;
    const words = this.#wordsOf(current);
    let spoken = owner === current ? wordAt(words, this.player.time) : -1;
    // A little of the words around is heard with the chosen ones.
    const [first, last] = this.#span ?? [0, Infinity];
    if (spoken >= 0) spoken = Math.min(Math.max(spoken, first), last);
    const n = this.editor.words.length;
    // Of a take that is being spoken, the first words are known.
    const total = this.#live?.name === current ? n : words.length;
    this.editor.light(spoken < 0 ? -1 : matching(spoken, total, n));
  }

  async #share() {
    try {
      await navigator.clipboard.writeText(location.href);
      this.say(t("share.copied"));
    } catch {
      this.say(t("share.address"));
    }
  }
}

/** The word of another reading; texts may be normalised to other words. */
function matching(index, n, others) {
  const place = n === others ? index : Math.floor((index * others) / Math.max(n, 1));
  return Math.min(Math.max(place, 0), others - 1);
}

function newSeed() {
  return Math.floor(Math.random() * 10000);
}

function isLong(take) {
  return take.words.reduce((sum, word) => sum + widthOf(word.text) + 1, 0) > LONG;
}

/** Make a text field as high as its text. */
function fit(text) {
  text.style.height = "auto";
  if (text.scrollHeight) text.style.height = `${text.scrollHeight + 2}px`;
}
