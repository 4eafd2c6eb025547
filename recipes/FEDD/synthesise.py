#!/usr/bin/env python3
"""Speak a set whose emotion changes within the utterance.

> python synthesise.py hparams/synthesise_mini.yaml \
      --model_folder results/emotional_tts/mini/1986

Needs the set (fedd_prepare.py) and a trained model. It writes these systems
for evaluate.py into folders of `output_folder`:

* `copy_synthesis`: speech decoded from the set's speech tokens, the topline;
* `backbone`: the language model before training, the floor;
* `efilm`: the trained model, asked for the set's own word emotions;
* `intensity_0.2` and so on: whole sentences in the last emotion of an item,
  at rising intensities.

With `voices`, a backbone that is prompted with recordings speaks in those of
this file (extract_speaker_embeddings.py of the ESD recipe), else in the
model's own.

The same command resumes an interrupted one, and repeats what another model or
other options change.
"""

import functools
import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.tables import read_table
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    before_training,
    choose_voice,
    copy_system,
    spoken_system,
    synthesise,
    with_voices,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import file_fingerprint

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import infer_device


def read_items(hparams):
    """Read items.csv: id to row."""
    path = Path(hparams["set_folder"]) / "items.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no set there; make it with fedd_prepare.py first."
        )
    return {row["id"]: row for _, row in read_table(path, ["id", "asked"])}


def as_utterance(name, row, emotions):
    """Build the utterance to speak of an item; its labels have no times."""
    marked = parse_markup(row["asked"], emotions)
    words = []
    for word in marked.words:
        probs = {e: p for e, p in zip(emotions, word.probs) if p}
        words.append(WordLabel(word.word, 0, 0, None, probs, word.intensity))
    wav = Path("wavs") / f"{name}.wav"
    labels = UtteranceLabels(words)
    return Utterance(name, wav, row["speaker"], marked.text, None, labels)


def last_emotion(utterance):
    """Find the emotion of the last labelled word."""
    probs = [w.probs for w in utterance.labels.words if w.probs][-1]
    return max(probs, key=probs.get)


def whole_in(utterance, emotion, intensity):
    """Ask for one emotion and intensity of all words."""
    words = [
        WordLabel(w.word, 0, 0, emotion, intensity=intensity)
        for w in utterance.labels.words
    ]
    return replace(utterance, labels=UtteranceLabels(words))


def synthesise_set(hparams, device):
    """Speak the set with every system."""
    items = [
        as_utterance(name, row, hparams["emotions"])
        for name, row in read_items(hparams).items()
    ]
    if not Path(hparams["model_folder"]).is_dir():
        raise FileNotFoundError(
            f"model_folder {hparams['model_folder']}: no such folder; give "
            "the output folder of a finished training."
        )
    set_folder = Path(hparams["set_folder"])
    output = Path(hparams["output_folder"])
    trained = EmoFiLMSynthesizer.from_hparams(
        hparams["model_folder"], run_opts={"device": device}
    )
    trained = with_voices(trained, hparams.get("voices"), device)
    backbone = before_training(trained, hparams["backbone_emofilm"], device)
    tokenizer = hparams["speech_tokenizer"].to(device).eval()
    voice = functools.partial(
        choose_voice,
        voices=trained.speakers,
        baseline_emotion=hparams["unmarked_emotion"],
    )
    # The speech tokenizer may read another rate than that of the speech.
    rate = hparams.get("tokenizer_sample_rate", hparams["sample_rate"])

    def tokens(utterance):
        wav = load_audio(set_folder / utterance.wav, rate)
        return tokenizer.tokenize(wav[None].to(device))[0]

    def speak(system, utterances):
        synthesise(
            system.folder.name,
            # evaluate.py finds the wav files in the folder itself.
            replace(system, wav_folder=system.folder),
            utterances,
            hparams["batch_size"],
            hparams["sample_rate"],
        )

    tokens_version = [
        file_fingerprint(find_file(hparams["speech_tokenizer_file"])),
        file_fingerprint(set_folder / "items.csv"),
    ]
    seed, guidance = hparams["synthesis_seed"], hparams["guidance"]
    copier = copy_system(
        output / "copy_synthesis",
        trained.mods.token_to_wav,
        tokens,
        tokens_version,
        voice,
    )
    plain = attrgetter("text")
    floor = spoken_system(
        output / "backbone", backbone, seed, voice=voice, request=plain
    )
    efilm = spoken_system(
        output / "efilm", trained, seed, guidance, voice=voice
    )
    for system in (copier, floor, efilm):
        speak(system, items)
    rising = [
        u for u in items if last_emotion(u) != hparams["unmarked_emotion"]
    ][: hparams["n_intensity"]]
    for intensity in hparams["intensities"]:
        speak(
            replace(efilm, folder=output / f"intensity_{intensity:g}"),
            [whole_in(u, last_emotion(u), intensity) for u in rising],
        )


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    synthesise_set(hparams, run_opts.get("device") or infer_device())
