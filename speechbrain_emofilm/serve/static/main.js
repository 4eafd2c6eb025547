/** Starts the page: its language, its look, its views, its address. */

import { adoptToken, get, onTokenNeeded } from "./api.js";
import { $, $$, debounced } from "./dom.js";
import { language, messageOf, setLanguage, t } from "./i18n.js";
import { LabelsView } from "./labels.js";
import { Player } from "./sound.js";
import { SpeakView } from "./speak.js";
import { readAddress, writeAddress } from "./state.js";
import { connectVoices, offerVoices } from "./voices.js";

const VIEWS = ["speak", "labels"];
const page = { view: null, lang: null };
let views = {};

/** Say something briefly, below; screen readers read it. */
let quiet;
function say(text, wrong = false, stays = false) {
  const status = $("#status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
  status.classList.add("shown");
  clearTimeout(quiet);
  if (stays) return;
  quiet = setTimeout(() => status.classList.remove("shown"), wrong ? 9000 : 4000);
}

function show(view) {
  page.view = VIEWS.includes(view) && view !== "speak" ? view : null;
  for (const name of VIEWS) {
    const here = name === (page.view ?? "speak");
    $(`#${name}`).hidden = !here;
    const button = $(`[data-view="${name}"]`);
    if (here) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
}

function speakLanguage(name) {
  page.lang = name;
  setLanguage(name);
  $("#language").value = language;
  document.title = t("title");
  for (const view of Object.values(views)) view.retitle();
  if (views.speak) offerVoices({ view: views.speak, say });
}

let written = null;
function writeNow() {
  if (!views.speak) return;
  written = writeAddress(views.speak.store.state, page);
  history.replaceState(null, "", written);
}
const writeSoon = debounced(writeNow, 150);

function changeTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
  if (next === system) delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (next === system) localStorage.removeItem("emofilm-theme");
    else localStorage.setItem("emofilm-theme", next);
  } catch { /* a browser that keeps nothing */ }
  redraw();
}

function redraw() {
  for (const card of Object.values(views.speak?.cards ?? {})) card.wave.draw();
  views.labels?.wave.draw();
}

function askForToken(refused) {
  const dialog = $("#token-dialog");
  $("#token").value = "";
  $("#token-wrong").hidden = !refused;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(done => {
    dialog.addEventListener(
      "close",
      () => done(dialog.returnValue === "ok" ? $("#token").value : null),
      { once: true },
    );
  });
}

function listen() {
  for (const button of $$("[data-view]")) {
    button.addEventListener("click", () => {
      show(button.dataset.view);
      writeNow();
      redraw();
    });
  }
  $("#language").addEventListener("change", event => {
    speakLanguage(event.target.value);
    writeNow();
  });
  $("#theme").addEventListener("click", changeTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("keydown", event => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    // Other fields undo their own typing.
    if (event.target.matches("input:not([type=range]):not([type=number]), select")) return;
    if ($("dialog[open]")) return;
    event.preventDefault();
    const view = views[page.view ?? "speak"];
    if (key === "y" || event.shiftKey) view?.redo();
    else view?.undo();
  });
  window.addEventListener("hashchange", () => {
    adoptToken();
    if (location.hash === written || !views.speak) return;
    const read = readAddress(location.hash);
    show(read.page.view);
    speakLanguage(read.page.lang);
    views.speak.restore(read.state);
  });
}

async function start() {
  adoptToken();
  const read = readAddress(location.hash);
  show(read.page.view);
  speakLanguage(read.page.lang);
  listen();
  onTokenNeeded(askForToken);
  try {
    const [taxonomy, voices, { tags }, models] = await Promise.all(
      ["emotions", "voices", "tags", "models"].map(name => get(`v1/${name}`)),
    );
    taxonomy.axes ??= [];
    const [model] = models.data;
    const player = new Player();
    const parts = { taxonomy, voices, tags, model, player, say };
    const speak = new SpeakView({ ...parts, state: read.state, changed: writeSoon });
    views = { speak, labels: new LabelsView(parts) };
    connectVoices({ view: speak, player, say });
    writeSoon();
    document.documentElement.dataset.ready = "";
    // For a console, and for tests: what is heard.
    window.emofilm = { views, player };
  } catch (error) {
    if (!("status" in error)) throw error;
    say(t("error.start", { reason: messageOf(error) }), true, true);
  }
}

start();
