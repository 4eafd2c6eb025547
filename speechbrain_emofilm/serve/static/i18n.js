/** The page's language: texts, and elements that show them. */

import en from "./i18n/en.js";
import zh from "./i18n/zh.js";
import { $$ } from "./dom.js";

const LANGUAGES = { en, zh };
export let language = "en";

export function preferredLanguage() {
  const known = navigator.languages.map(name => name.slice(0, 2).toLowerCase());
  return known.find(name => name in LANGUAGES) ?? "en";
}

export function setLanguage(name) {
  language = name in LANGUAGES ? name : preferredLanguage();
  document.documentElement.lang = { en: "en", zh: "zh-Hans" }[language];
  translate(document);
}

/** The text of a key; {name} is replaced by the value of that name. */
export function t(key, values = {}, otherwise = key) {
  const text = LANGUAGES[language][key] ?? en[key] ?? otherwise;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/**
 * What to tell of an error: a sentence of this language where there is one,
 * with the server's numbers and names, else the server's own.
 */
export function messageOf({ message, code, values }) {
  if (!message) return t("error.network");
  const own = `error.${code}`;
  return own in LANGUAGES[language] ? t(own, { ...values, message }) : message;
}

/** Fill elements by data-t (text), data-t-label and data-t-hint. */
export function translate(root) {
  for (const element of $$("[data-t]", root)) {
    element.textContent = t(element.dataset.t);
  }
  for (const element of $$("[data-t-label]", root)) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.matches("button")) element.title = t(element.dataset.tLabel);
  }
  for (const element of $$("[data-t-hint]", root)) {
    element.placeholder = t(element.dataset.tHint);
  }
}

/** Name of an emotion of the model, translated where it is known. */
export function emotionName(name) {
  return t(`emotion.${name.toLowerCase()}`, {}, name);
}

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

export function seconds(time) {
  return `${time.toFixed(1)} s`;
}
