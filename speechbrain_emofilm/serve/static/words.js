/**
 * The words of a sentence, to be chosen and given emotions.
 *
 * Both views of the page use it. Words come from the server and go back to it;
 * the page itself never splits a text.
 */

import { background, mixture } from "./drawing.js";
import { icon, make } from "./dom.js";
import { emotionName, percent, seconds, t } from "./i18n.js";

const STEP = 0.1; // of + and -, and of a pause in seconds
const PAUSE = { first: 0.3, least: 0.1, most: 10 }; // seconds
const SMALL = 0.55; // size of what stands below a word, to that of the word
let counter = 0;

export class WordEditor extends EventTarget {
  words = [];
  #anchor = -1;
  #focus = -1;
  #chosen = false;
  #mixing = false;
  #lit = -1;
  #options = [];

  /**
   * root: element to fill. taxonomy: {emotions: [{name, colour}], axes}.
   * describe: what stands below a word; by default its emotion. doubtful:
   * whether a word has a dashed frame. face: the word to be shown for a word.
   * pauses: whether there may be pauses between the words.
   */
  constructor(root, taxonomy, {
    describe = describeEmotion, doubtful = () => false, face = word => word, pauses = false,
  } = {}) {
    super();
    this.taxonomy = taxonomy;
    this.colours = Object.fromEntries(
      taxonomy.emotions.map(({ name, colour }) => [name, colour]),
    );
    this.describe = describe;
    this.doubtful = doubtful;
    this.face = face;
    this.pauses = pauses;
    this.id = `words${counter++}`;
    this.list = make("div", {
      class: "chips",
      role: "listbox",
      tabindex: "0",
      "aria-multiselectable": "true",
      onkeydown: event => this.#key(event),
      onfocus: () => this.#onFocus(),
    });
    this.palette = make("div", { class: "palette", role: "group" });
    root.replaceChildren(this.list, this.palette);
    this.#listenToPointer();
    this.retitle();
  }

  /** Write all texts again, after a change of language or of words. */
  retitle() {
    this.list.setAttribute("aria-label", t("words.label"));
    this.palette.setAttribute("aria-label", t("palette.label"));
    this.#buildPalette();
    this.show(this.words);
  }

  show(words) {
    if (words.length !== this.words.length) this.#clearChoice();
    this.words = words;
    this.#options = words.map((word, index) => this.#chip(word, index));
    this.list.replaceChildren(
      ...this.#options.flatMap((chip, index) => [...this.#gap(index), chip]),
      ...(words.length ? this.#gap(words.length) : []),
    );
    this.list.classList.toggle("empty", !words.length);
    if (!words.length) {
      this.list.removeAttribute("role");
      this.list.removeAttribute("aria-multiselectable");
      this.list.append(make("p", { class: "soft" }, t("words.none")));
    } else {
      this.list.setAttribute("role", "listbox");
      this.list.setAttribute("aria-multiselectable", "true");
    }
    this.list.tabIndex = words.length ? 0 : -1;
    this.light(this.#lit);
    this.#showChoice();
  }

  /** Light the spoken word up; -1 for none. */
  light(index) {
    this.#lit = index;
    this.#options.forEach((option, i) => option.classList.toggle("lit", i === index));
  }

  /** First and last chosen word, or null. */
  get choice() {
    if (!this.#chosen) return null;
    return [Math.min(this.#anchor, this.#focus), Math.max(this.#anchor, this.#focus)];
  }

  choose(anchor, focus = anchor) {
    const last = this.words.length - 1;
    if (last < 0) return;
    this.#anchor = Math.min(Math.max(anchor, 0), last);
    this.#focus = Math.min(Math.max(focus, 0), last);
    this.#chosen = true;
    this.#showChoice();
  }

  #clearChoice() {
    this.#anchor = this.#focus = -1;
    this.#chosen = false;
  }

  // Pauses: before each word, and behind the last.

  /** Seconds of the pause before a word, or behind all of them. */
  pauseAt(index) {
    const { words } = this;
    const pause = index < words.length ? words[index].break_before : words.at(-1)?.break_after;
    return pause || 0;
  }

  setPause(index, value) {
    const { words } = this;
    const behind = index === words.length;
    const pause = value < PAUSE.least / 2
      ? null
      : Math.min(Math.max(Math.round(100 * value) / 100, PAUSE.least), PAUSE.most);
    const key = behind ? "break_after" : "break_before";
    const changed = behind ? index - 1 : index;
    const others = words.map((word, i) => (i === changed ? { ...word, [key]: pause } : word));
    this.show(others);
    const detail = { words: others, kind: `pause ${index} ${pause === null}` };
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }

  /** What is clicked between words; keys and the palette do the same. */
  #gap(index) {
    if (!this.pauses) return [];
    const pause = this.pauseAt(index);
    const gap = make(
      "span",
      { class: pause ? "gap pause" : "gap", "aria-hidden": "true", title: t("pause.label") },
      pause ? make("span", {}, written(pause)) : "",
    );
    gap.dataset.gap = index;
    return [gap];
  }

  #pressGap(index) {
    this.choose(Math.min(index, this.words.length - 1));
    if (!this.pauseAt(index)) this.setPause(index, PAUSE.first);
    else {
      const { input } = index < this.words.length ? this.pauseBefore : this.pauseBehind;
      input.focus();
      input.select();
    }
  }

  #lengthen(index, step) {
    const pause = this.pauseAt(index);
    if (!pause && step < 0) return;
    this.setPause(index, pause ? pause + step : PAUSE.first);
  }

  #chip(word, index) {
    const [before, after] = [word.before ?? "", word.after ?? ""];
    const feeling = this.describe(word);
    const previous = this.words[index - 1];
    const next = this.words[index + 1];
    const pause = this.pauseAt(index);
    const joinsPrevious = !pause && this.#same(word, previous);
    const joinsNext = !(next && this.pauseAt(index + 1)) && this.#same(word, next);
    const same = joinsPrevious && this.describe(previous) === feeling;
    // A long name below a short run of words needs its room.
    let run = 0;
    for (let i = index; i < this.words.length; i++) {
      if (i > index && (this.pauseAt(i) || !this.#same(this.words[i], word))) break;
      run += widthOf(this.words[i].text) + 2;
    }
    const label = make(
      "span",
      { class: widthOf(feeling) * SMALL > run ? "feeling wide" : "feeling" },
      same ? "" : feeling,
    );
    const shape = make(
      "span",
      { class: "shape" },
      make("span", { class: "sign" }, before.trim()),
      word.text,
      make("span", { class: "sign" }, after.trim()),
    );
    shape.style.setProperty("--feel", background(this.face(word), this.colours) || "none");
    const [strongest] = this.#parts(word);
    if (strongest) shape.style.setProperty("--tone", this.colours[strongest[0]]);
    const chip = make(
      "span",
      {
        class: "chip",
        role: "option",
        id: `${this.id}-${index}`,
        "aria-selected": "false",
        "aria-label": [
          word.text,
          feeling || t("words.plain"),
          ...(this.pauses && pause ? [t("pause.before", { time: written(pause) })] : []),
          ...(this.pauses && !next && this.pauseAt(index + 1)
            ? [t("pause.behind", { time: written(this.pauseAt(index + 1)) })]
            : []),
        ].join(", "),
      },
      shape,
      label,
    );
    chip.dataset.index = index;
    chip.classList.toggle("felt", Boolean(this.#parts(word).length));
    chip.classList.toggle("joins-previous", joinsPrevious);
    chip.classList.toggle("joins-next", joinsNext);
    chip.classList.toggle("spaced", /\s/.test(after));
    chip.classList.toggle("doubtful", this.doubtful(word));
    return chip;
  }

  #parts(word) {
    return mixture(this.face(word));
  }

  #same(one, other) {
    return Boolean(other) && sameFeeling(this.face(one), this.face(other));
  }

  #showChoice() {
    const choice = this.choice;
    this.#options.forEach((option, index) => {
      const chosen = choice !== null && choice[0] <= index && index <= choice[1];
      option.setAttribute("aria-selected", String(chosen));
      option.classList.toggle("chosen-previous", chosen && index > choice[0]);
      option.classList.toggle("chosen-next", chosen && index < choice[1]);
      option.classList.toggle("active", index === this.#focus);
    });
    if (this.#focus >= 0 && this.words.length) {
      this.list.setAttribute("aria-activedescendant", `${this.id}-${this.#focus}`);
    } else this.list.removeAttribute("aria-activedescendant");
    this.#showPalette();
    this.dispatchEvent(new Event("choice"));
  }

  #onFocus() {
    if (this.#focus < 0 && this.words.length && this.list.matches(":focus-visible")) {
      this.choose(0);
    }
  }

  // Pointer: press a word, drag over others; shift extends.

  #listenToPointer() {
    let dragging = false;
    let before = null; // what was chosen before this press
    const indexAt = event => {
      const under = document.elementFromPoint(event.clientX, event.clientY);
      const chip = under?.closest(".chip");
      return chip && this.list.contains(chip) ? Number(chip.dataset.index) : -1;
    };
    this.list.addEventListener("pointerdown", event => {
      if (event.button !== 0) return;
      const gap = event.target.closest(".gap");
      if (gap && this.list.contains(gap)) return; // its click counts
      const index = indexAt(event);
      before = [this.#anchor, this.#focus, this.#chosen];
      if (index < 0) {
        this.#chosen = false;
        this.#showChoice();
        return;
      }
      const anchor = event.shiftKey && this.#anchor >= 0 ? this.#anchor : index;
      dragging = true;
      // A touch would stay with its first word, and could not be dragged.
      event.target.releasePointerCapture?.(event.pointerId);
      this.choose(anchor, index);
    });
    this.list.addEventListener("pointermove", event => {
      if (!dragging) return;
      const index = indexAt(event);
      if (index >= 0 && index !== this.#focus) this.choose(this.#anchor, index);
    });
    window.addEventListener("pointerup", () => {
      dragging = false;
    });
    window.addEventListener("pointercancel", () => {
      // The finger scrolls the page: it has not chosen anything.
      if (dragging) {
        [this.#anchor, this.#focus, this.#chosen] = before;
        this.#showChoice();
      }
      dragging = false;
    });
    this.list.addEventListener("click", event => {
      const gap = event.target.closest(".gap");
      if (gap && this.list.contains(gap)) this.#pressGap(Number(gap.dataset.gap));
    });
    this.list.addEventListener("dblclick", event => {
      const index = indexAt(event);
      if (index >= 0) this.#play(index);
    });
  }

  #play(index) {
    this.dispatchEvent(new CustomEvent("play", { detail: { index } }));
  }

  #key(event) {
    if (!this.words.length || event.altKey) return;
    const control = event.ctrlKey || event.metaKey;
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1] ??
      /^\d$/.exec(event.key)?.[0];
    const at = Math.max(this.#focus, 0);
    const places = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: this.#neighbour(at, 1),
      ArrowUp: this.#neighbour(at, -1),
      Home: 0,
      End: this.words.length - 1,
    };
    if (control) {
      if (event.key.toLowerCase() !== "a") return;
      this.choose(0, this.words.length - 1);
    } else if (event.key in places) {
      const place = this.#focus < 0 ? 0 : places[event.key];
      this.choose(event.shiftKey ? Math.max(this.#anchor, 0) : place, place);
      if (!event.shiftKey) this.#anchor = this.#focus;
      this.#options[this.#focus].scrollIntoView({ block: "nearest" });
    } else if (digit === "0") this.setEmotion(null);
    else if (digit) {
      const emotion = this.taxonomy.emotions[digit - 1];
      if (emotion) this.setEmotion(emotion.name, event.shiftKey || this.#mixing);
    } else if (event.key === "+" || event.key === "=") this.#louder(STEP);
    else if (event.key === "-") this.#louder(-STEP);
    else if (this.pauses && [".", "。"].includes(event.key)) this.#lengthen(at, STEP);
    else if (this.pauses && [",", "，"].includes(event.key)) this.#lengthen(at, -STEP);
    else if (event.key === " " || event.key === "Enter") this.#play(at);
    else if (event.key === "Escape") {
      this.#chosen = false;
      this.#showChoice();
    } else return;
    event.preventDefault();
  }

  /** The word above (-1) or below (1) another. */
  #neighbour(index, way) {
    const boxes = this.#options.map(option => option.getBoundingClientRect());
    const here = boxes[index];
    const centre = (here.left + here.right) / 2;
    const others = boxes
      .map((box, i) => [box, i])
      .filter(([box]) => way * (box.top - here.top) > here.height / 2);
    if (!others.length) return index;
    const rows = others.map(([box]) => box.top);
    const row = way > 0 ? Math.min(...rows) : Math.max(...rows);
    const distance = ([box]) => Math.abs((box.left + box.right) / 2 - centre);
    return others
      .filter(([box]) => Math.abs(box.top - row) < 4)
      .reduce((one, other) => (distance(other) < distance(one) ? other : one))[1];
  }

  // What is given to the chosen words, or to all if none is chosen.

  #apply(change, kind) {
    if (!this.words.length) return;
    const [first, last] = this.choice ?? [0, this.words.length - 1];
    const words = this.words.map((word, index) =>
      first <= index && index <= last ? { ...word, ...change(word) } : word,
    );
    const where = `${kind} ${first} ${last}`;
    this.show(words);
    this.dispatchEvent(new CustomEvent("change", { detail: { words, kind: where } }));
  }

  /** Give an emotion; or add it to the words' mixture, or take it out. */
  setEmotion(name, mix = false) {
    if (name === null) {
      const axes = Object.fromEntries(this.taxonomy.axes.map(axis => [axis.name, null]));
      this.#apply(() => ({ emotion: null, intensity: null, ...axes }), "clear");
      return;
    }
    this.#apply(word => {
      const weights = Object.fromEntries(this.#parts(word));
      if (!mix) return { emotion: { [name]: 1 } };
      if (!(name in weights)) {
        const n = Object.keys(weights).length;
        return { emotion: this.#balanced({ ...weights, [name]: n ? 1 / n : 1 }) };
      }
      delete weights[name];
      if (!Object.keys(weights).length) return { emotion: null, intensity: null };
      return { emotion: this.#balanced(weights) };
    }, `emotion ${name} ${Date.now()}`);
  }

  #louder(step) {
    this.#apply(word => {
      if (!this.#parts(word).length) return {};
      const value = Math.min(Math.max((word.intensity ?? 1) + step, 0), 1);
      return { intensity: Math.round(value * 100) / 100 };
    }, "intensity");
  }

  #setWeight(name, value) {
    this.#apply(word => {
      const weights = Object.fromEntries(this.#parts(word));
      if (!(name in weights)) return {};
      const rest = Object.entries(weights).filter(([other]) => other !== name);
      const total = rest.reduce((sum, [, weight]) => sum + weight, 0);
      const changed = rest.map(([other, weight]) => [
        other,
        ((total ? weight / total : 1 / rest.length) * (100 - value)) / 100,
      ]);
      return { emotion: this.#balanced(Object.fromEntries([...changed, [name, value / 100]])) };
    }, `weight ${name}`);
  }

  /** Weights that sum to 1 exactly, in the order of the emotions. */
  #balanced(weights) {
    const names = this.taxonomy.emotions.map(({ name }) => name);
    const ordered = names.filter(name => name in weights);
    return balanced(Object.fromEntries(ordered.map(name => [name, weights[name]])));
  }

  // The palette.

  #buildPalette() {
    const { emotions, axes } = this.taxonomy;
    this.hint = make("p", { class: "hint soft" });
    this.buttons = emotions.map(({ name, colour }, index) => {
      const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.setProperty("--colour", colour);
      const button = make(
        "button",
        {
          type: "button",
          class: "emotion",
          "data-emotion": name,
          "aria-pressed": "false",
          onclick: event => this.#press(name, event.shiftKey || this.#mixing),
        },
        swatch,
        emotionName(name),
        index < 9 ? make("kbd", { "aria-hidden": "true" }, String(index + 1)) : null,
      );
      return button;
    });
    this.clearButton = make(
      "button",
      { type: "button", class: "emotion clear", onclick: () => this.setEmotion(null) },
      icon("close"),
      t("palette.clear"),
      make("kbd", { "aria-hidden": "true" }, "0"),
    );
    this.mixButton = make(
      "button",
      {
        type: "button",
        class: "emotion mix",
        "aria-pressed": String(this.#mixing),
        title: t("palette.mixHelp"),
        onclick: () => {
          this.#mixing = !this.#mixing;
          this.mixButton.setAttribute("aria-pressed", String(this.#mixing));
          this.#showPalette();
        },
      },
      `+ ${t("palette.mix")}`,
    );
    const slider = (label, options, set, unit) => makeSlider(label, options, set, unit);
    this.intensity = slider(
      t("palette.intensity"),
      { min: 0, max: 100, step: 5 },
      value => this.#apply(
        word => (this.#parts(word).length ? { intensity: value / 100 } : {}),
        "intensity",
      ),
    );
    this.weights = emotions.map(({ name, colour }) => {
      const made = slider(
        emotionName(name),
        { min: 5, max: 95, step: 5 },
        value => this.#setWeight(name, value),
      );
      made.root.style.setProperty("--colour", colour);
      made.root.classList.add("weight");
      return [name, made];
    });
    this.axes = axes.map(axis => [
      axis,
      slider(
        t(`axis.${axis.name}`, {}, axis.name),
        { min: axis.min, max: axis.max, step: axisStep(axis) },
        value => this.#apply(
          () => ({ [axis.name]: value === axis.neutral ? null : value }),
          axis.name,
        ),
        axis.unit ? ` ${axis.unit}` : "",
      ),
    ]);
    this.pauseBefore = this.#pauseField(() => this.choice?.[0] ?? 0);
    this.pauseBehind = this.#pauseField(() => this.words.length);
    this.around = make(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => {
          const [first, last] = this.choice ?? [0, this.words.length - 1];
          this.dispatchEvent(new CustomEvent("around", { detail: { first, last } }));
        },
      },
      icon("play"),
      t("palette.around"),
    );
    this.palette.replaceChildren(
      this.hint,
      make("div", { class: "row" }, ...this.buttons, this.clearButton, this.mixButton),
      make(
        "div",
        { class: "row sliders" },
        this.intensity.root,
        ...this.weights.map(([, made]) => made.root),
        ...this.axes.map(([, made]) => made.root),
        this.pauseBefore.root,
        this.pauseBehind.root,
        this.around,
      ),
    );
  }

  /** A number of seconds, and a button that takes the pause out. */
  #pauseField(placeOf) {
    const label = make("span");
    const input = make("input", {
      type: "number",
      min: "0",
      max: String(PAUSE.most),
      step: String(STEP),
      inputmode: "decimal",
      placeholder: "0",
      oninput: () => {
        // "0." is on its way to "0.5".
        const value = Number(input.value);
        if (input.value && (value >= PAUSE.least || value === 0)) {
          this.setPause(placeOf(), value);
        }
      },
      onchange: () => {
        const value = Number(input.value);
        const place = placeOf();
        if (value !== this.pauseAt(place)) this.setPause(place, value);
        this.#showPalette();
      },
      onblur: () => this.#showPalette(),
    });
    const remove = make(
      "button",
      { type: "button", class: "round", onclick: () => this.setPause(placeOf(), 0) },
      icon("close"),
    );
    const root = make(
      "span",
      { class: "pause-field" },
      make("label", {}, label, input, make("span", { class: "soft" }, " s")),
      remove,
    );
    const set = (text, pause) => {
      label.textContent = text;
      remove.hidden = !pause;
      remove.setAttribute("aria-label", `${t("pause.remove")}: ${text}`);
      remove.title = t("pause.remove");
      // What is being typed stays as it is typed.
      if (document.activeElement !== input) {
        input.value = pause ? String(Math.round(100 * pause) / 100) : "";
      }
    };
    return { root, input, set };
  }

  #press(name, mix) {
    const pressed = this.#shared(word => this.#parts(word).map(String).join());
    if (!mix && pressed === `${name},1`) this.setEmotion(null);
    else this.setEmotion(name, mix);
  }

  /** What all chosen words have in common; undefined if they differ. */
  #shared(read) {
    const choice = this.choice ?? [0, this.words.length - 1];
    const [first, ...rest] = this.words.slice(choice[0], choice[1] + 1).map(read);
    return rest.every(value => value === first) ? first : undefined;
  }

  #showPalette() {
    if (!this.intensity) return;
    const choice = this.choice;
    const n = choice ? choice[1] - choice[0] + 1 : 0;
    this.hint.textContent = n
      ? t(n > 1 ? "palette.several" : "palette.one", {
        n,
        word: this.words[choice[0]]?.text,
      })
      : t("palette.whole");
    const shown = this.words.slice(...(choice ? [choice[0], choice[1] + 1] : []));
    const felt = shown.find(word => this.#parts(word).length);
    const mixed = Object.fromEntries(felt && shown.length ? this.#parts(felt) : []);
    this.buttons.forEach((button, index) => {
      const { name } = this.taxonomy.emotions[index];
      const has = choice && shown.every(word => this.face(word).emotion?.[name] > 0);
      button.setAttribute("aria-pressed", String(Boolean(has)));
      button.disabled = !this.words.length;
    });
    this.clearButton.disabled = this.mixButton.disabled = !this.words.length;
    this.around.disabled = !this.words.length;
    this.intensity.set(Math.round(100 * (this.face(felt ?? {}).intensity ?? 1)));
    this.intensity.root.hidden = !felt;
    const several = Object.keys(mixed).length > 1 && choice;
    for (const [name, made] of this.weights) {
      made.root.hidden = !several || !(name in mixed);
      made.set(Math.round(100 * (mixed[name] ?? 0)));
    }
    const [first, last] = choice ?? [-1, -1];
    this.pauseBefore.root.hidden = !this.pauses || !choice;
    this.pauseBehind.root.hidden = !this.pauses || !choice || last !== this.words.length - 1;
    if (this.pauses && choice) {
      const { text } = this.words[first] ?? {};
      this.pauseBefore.set(t("pause.field", { word: text }), this.pauseAt(first));
      this.pauseBehind.set(t("pause.end"), this.pauseAt(this.words.length));
    }
    for (const [axis, made] of this.axes) {
      made.set(shown[0]?.[axis.name] ?? axis.neutral);
      made.root.hidden = !shown.length;
    }
  }
}

/** A pause as it is written: 0.3 s, or 0.25 s. */
function written(pause) {
  return Math.abs(10 * pause - Math.round(10 * pause)) < 1e-6
    ? seconds(pause)
    : `${Math.round(100 * pause) / 100} s`;
}

/** Rough width of a text in letters; Chinese ones are two wide. */
export function widthOf(text) {
  return [...text].reduce((sum, letter) => sum + (letter > "\u2e7f" ? 2 : 1), 0);
}

/** A slider with its name and value: {root, set(value)}. */
export function makeSlider(label, { min, max, step }, change, unit = " %") {
  const value = make("output", { class: "value" });
  const written = number => `${Math.round(number * 100) / 100}${unit}`;
  const input = make("input", {
    type: "range",
    min: String(min),
    max: String(max),
    step: String(step),
    oninput: () => {
      set(Number(input.value));
      change(Number(input.value));
    },
  });
  const set = number => {
    input.value = number;
    value.textContent = written(number);
    input.setAttribute("aria-valuetext", written(number));
  };
  const root = make("label", { class: "slider" }, make("span", {}, label), input, value);
  return { root, input, set };
}

/** What stands below a word: its emotions with their weights. */
export function describeEmotion(word) {
  const parts = mixture(word);
  if (!parts.length) return "";
  const names = parts.length > 1
    ? parts.map(([name, weight]) => `${emotionName(name)} ${Math.round(100 * weight)}`).join(" + ")
    : emotionName(parts[0][0]);
  const weak = word.intensity !== null && word.intensity !== undefined && word.intensity < 1;
  return weak ? `${names} · ${percent(word.intensity)}` : names;
}

function sameFeeling(one, other) {
  if (!mixture(one).length) return false;
  const key = word => JSON.stringify([
    mixture(word), word.intensity, word.pitch ?? null, word.pace ?? null, word.level ?? null,
  ]);
  return key(one) === key(other);
}

/** Weights that sum to 1 exactly, with two decimals. */
function balanced(weights) {
  const entries = Object.entries(weights);
  const total = entries.reduce((sum, [, weight]) => sum + weight, 0) || 1;
  const rounded = entries.map(([name, weight]) => [name, Math.round((100 * weight) / total)]);
  const rest = 100 - rounded.reduce((sum, [, weight]) => sum + weight, 0);
  rounded.reduce((one, other) => (other[1] > one[1] ? other : one))[1] += rest;
  return Object.fromEntries(rounded.map(([name, weight]) => [name, weight / 100]));
}

function axisStep({ min, max }) {
  const step = (max - min) / 40;
  return [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1].find(value => value >= step) ?? step;
}
