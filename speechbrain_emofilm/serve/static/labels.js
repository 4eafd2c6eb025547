/** The view that shows a recording's words with their emotions, to correct. */

import { postForm, postForText } from "./api.js";
import { mixture, wordAt } from "./drawing.js";
import { $, download, icon } from "./dom.js";
import { emotionName, messageOf, percent, t } from "./i18n.js";
import { Store } from "./state.js";
import { Wave } from "./takes.js";
import { WordEditor } from "./words.js";

const DOUBTFUL = 0.5;
const LEAD = 0.03; // seconds before a word from which it is played

export class LabelsView {
  #track = null;
  #buffer = null;
  #name = "labels";
  #note = null; // of the labeler

  constructor({ taxonomy, model, player, say }) {
    Object.assign(this, { model, player, say });
    this.store = new Store({ current: "a", a: { words: [] } });
    this.editor = new WordEditor(
      $("#label-words"),
      { ...taxonomy, axes: [] },
      { describe, doubtful, face },
    );
    const colours = this.editor.colours;
    this.wave = new Wave($("#label-wave"), colours, time => this.#play(time));
    $("#label-form").addEventListener("submit", event => {
      event.preventDefault();
      this.#label();
    });
    this.editor.addEventListener("change", event => this.#correct(event.detail));
    this.editor.addEventListener("play", event => {
      this.#play(this.store.take.words[event.detail.index].start - LEAD);
    });
    this.editor.addEventListener("around", event => {
      const { words } = this.store.take;
      const { first, last } = event.detail;
      this.#play(
        words[Math.max(first - 1, 0)].start - LEAD,
        words[Math.min(last + 1, words.length - 1)].end + LEAD,
      );
    });
    this.store.addEventListener("change", () => this.#show());
    $("#label-undo").addEventListener("click", () => this.undo());
    $("#label-redo").addEventListener("click", () => this.redo());
    $("#label-play").addEventListener("click", () => {
      if (this.player.playing?.owner === this) this.player.stop();
      else this.#play(0);
    });
    $("#label-json").addEventListener("click", () => this.#export("json"));
    $("#label-textgrid").addEventListener("click", () => this.#export("textgrid"));
    for (const kind of ["start", "stop", "time"]) {
      this.player.addEventListener(kind, () => this.#hear());
    }
    this.retitle();
  }

  retitle() {
    this.editor.retitle();
    const reason = this.model.missing?.label;
    $("#label-missing").hidden = !reason;
    $("#label-missing").textContent = reason ? t("labels.missing", { reason }) : "";
    this.#showNote();
    this.#show();
  }

  #showNote() {
    $("#label-note").textContent = this.#note ? t("labels.note", { note: this.#note }) : "";
    $("#label-note").hidden = !this.#note;
  }

  undo() {
    this.store.undo();
  }

  redo() {
    this.store.redo();
  }

  async #label() {
    const button = $("#label-run");
    const error = $("#label-error");
    const file = $("#label-file").files[0];
    error.textContent = file ? "" : t("labels.noFile");
    if (!file) return;
    button.disabled = true;
    button.textContent = t("labels.running");
    this.player.stop();
    try {
      const answer = await postForm("v1/label", {
        file,
        alignment: $("#label-alignment").files[0],
        text: $("#label-text").value.trim(),
      });
      this.#buffer = await this.player.decode(await file.arrayBuffer());
      this.#name = file.name.replace(/\.[^.]*$/, "");
      this.#track = {
        samples: this.#buffer.getChannelData(0),
        duration: this.#buffer.duration,
        f0: answer.f0,
      };
      this.duration = answer.duration;
      this.#note = answer.note;
      this.#showNote();
      $("#labelled").hidden = false;
      this.store = this.#emptied(answer.words);
      this.say(t("labels.ready", { n: answer.words.length }));
    } catch (problem) {
      error.textContent = messageOf(problem);
    } finally {
      button.disabled = false;
      button.textContent = t("labels.run");
    }
  }

  /** A store without a past: another recording's labels are not undone. */
  #emptied(words) {
    const store = new Store({ current: "a", a: { words } });
    store.addEventListener("change", () => this.#show());
    queueMicrotask(() => this.#show());
    return store;
  }

  #correct({ words, kind }) {
    const before = this.store.take.words;
    const corrected = words.map((word, index) =>
      JSON.stringify(word) === JSON.stringify(before[index])
        ? before[index]
        : { ...word, confidence: 1, corrected: true },
    );
    this.store.change({ words: corrected }, kind);
  }

  #show() {
    const { words } = this.store.take;
    this.editor.show(words);
    $("#label-undo").disabled = !this.store.canUndo;
    $("#label-redo").disabled = !this.store.canRedo;
    $("#label-count").textContent = t("labels.count", {
      n: words.length,
      doubtful: words.filter(doubtful).length,
      corrected: words.filter(word => word.corrected).length,
    });
    if (this.#track) this.#track.words = words.map(face);
    this.#hear();
  }

  #play(from, to) {
    if (this.#buffer) this.player.play(this, this.#buffer, from, to);
  }

  #hear() {
    const playing = this.player.playing?.owner === this;
    const time = playing ? this.player.time : null;
    this.wave.show(this.#track, time);
    this.editor.light(playing ? wordAt(this.store.take.words, time) : -1);
    $("#label-play").replaceChildren(
      icon(playing ? "stop" : "play"), t(playing ? "stop" : "play"),
    );
  }

  async #export(format) {
    const words = this.store.take.words.map(
      ({ text, start, end, confidence, emotion, intensity }) =>
        ({ text, start, end, confidence, emotion, intensity }),
    );
    try {
      const content = await postForText("v1/label/export", {
        duration: this.duration, words, format, name: plain(this.#name),
      });
      const ending = format === "json" ? "json" : "TextGrid";
      download(content, `${this.#name}.${ending}`, "text/plain");
    } catch (error) {
      this.say(messageOf(error), true);
    }
  }
}

/** A name of letters and digits that the server takes. */
function plain(name) {
  return name.replace(/[^A-Za-z0-9_.-]+/g, "_").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64) ||
    "labels";
}

function doubtful(word) {
  return (word.confidence ?? 1) < DOUBTFUL;
}

/** A word as it is shown: its likeliest emotion, unless a person chose. */
function face(word) {
  if (word.corrected || !mixture(word).length) return word;
  return { ...word, emotion: { [mixture(word)[0][0]]: 1 } };
}

function describe(word) {
  const names = mixture(face(word)).map(([name]) => emotionName(name)).join(" + ");
  if (word.corrected) return `${names} ✓`;
  // A TextGrid does not say how sure the labeler was.
  if (!names || (word.confidence ?? null) === null) return names;
  return `${names} · ${percent(word.confidence)}`;
}
