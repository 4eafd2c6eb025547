/** The dialog that adds a voice, from a file or from the microphone. */

import { get, postForm } from "./api.js";
import { $, explainInstead, icon } from "./dom.js";
import { messageOf, seconds, t } from "./i18n.js";
import { encodeWav, record } from "./sound.js";

/** Let the button that adds a voice say why the model takes on none. */
export function offerVoices({ view, say }) {
  const { can_add: able, cannot_add: message } = view.voices;
  if (able) return;
  const error = { message: message ?? t("voice.none"), code: "voices_fixed", values: {} };
  explainInstead($("#add-voice"), messageOf(error), say);
}

export function connectVoices({ view, player, say }) {
  const dialog = $("#voice-dialog");
  const opener = $("#add-voice");
  const button = $("#voice-record");
  const error = $("#voice-error");
  const preview = $("#voice-preview");
  let recording = null; // while the microphone is open
  let recorded = null; // a WAV
  let clock = null;

  offerVoices({ view, say });

  function title() {
    const began = recording?.began;
    const text = began
      ? t("voice.recording", { time: seconds((Date.now() - began) / 1000) })
      : t("voice.record");
    button.replaceChildren(icon(began ? "stop" : "mic"), text);
    button.setAttribute("aria-pressed", String(Boolean(began)));
  }

  function keep(wav) {
    recorded = wav;
    preview.hidden = !wav;
    if (wav) preview.src = URL.createObjectURL(wav);
  }

  async function stop() {
    clearInterval(clock);
    const open = recording;
    recording = null;
    title();
    return open ? open.stop() : null;
  }

  async function asWav(blob) {
    try {
      const buffer = await player.decode(await blob.arrayBuffer());
      return new File([encodeWav(buffer)], "voice.wav", { type: "audio/wav" });
    } catch {
      throw new Error(t("voice.unreadable"));
    }
  }

  opener.addEventListener("click", () => {
    if (!view.voices.can_add) return;
    $("#voice-form").reset();
    error.textContent = "";
    keep(null);
    title();
    dialog.showModal();
  });
  dialog.addEventListener("close", stop);
  $("#voice-cancel").addEventListener("click", () => dialog.close());
  $("#voice-file").addEventListener("change", () => keep(null));

  button.addEventListener("click", async () => {
    error.textContent = "";
    try {
      if (recording) {
        const sound = await stop();
        keep(await asWav(sound));
        $("#voice-file").value = "";
        return;
      }
      const open = await record();
      if (!dialog.open) {
        await open.stop();
        return;
      }
      recording = { ...open, began: Date.now() };
      clock = setInterval(title, 100);
      title();
    } catch (problem) {
      error.textContent = problem instanceof DOMException
        ? t("voice.noMicrophone", { reason: problem.message })
        : problem.message;
    }
  });

  $("#voice-form").addEventListener("submit", async event => {
    event.preventDefault();
    error.textContent = "";
    try {
      if (recording) keep(await asWav(await stop()));
      const chosen = $("#voice-file").files[0];
      const file = recorded ?? (chosen && (await asWav(chosen)));
      if (!file) throw new Error(t("voice.noSound"));
      const name = $("#voice-name").value.trim();
      const text = $("#voice-text").value.trim();
      await postForm("v1/voices", { name, file, text });
      view.voices = await get("v1/voices");
      view.store.change({ voice: name });
      dialog.close();
      say(t("voice.added", { name }));
    } catch (problem) {
      error.textContent = messageOf(problem);
    }
  });
}
