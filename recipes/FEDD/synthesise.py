#!/usr/bin/env python3
"""Speaks a set whose emotion changes within the utterance.

> python synthesise.py hparams/synthesise_mini.yaml \
      --model_folder results/emotional_tts/mini/1986

Needs the set (fedd_prepare.py) and a trained model. It writes, below
`output_folder`, what evaluate.py compares:

* `copy_synthesis`: the set's speech tokens made into speech again, the
  topline;
* `backbone`: the language model as it was before training, the floor;
* `efilm`: the trained model, asked for the set's own word emotions;
* `intensity_0.2` and so on: whole sentences in the last emotion of an item,
  at rising intensities.

The same command goes on where an interrupted one stopped, and speaks again
what another model or other options would speak otherwise.
"""

import csv
import hashlib
import json
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import (
    atomic_path,
    file_fingerprint,
    read_json,
    write_json,
)

import soundfile
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

INDEX = "spoken.json"


def read_items(hparams):
    """Reads what is asked of each item.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    dict
        Id to row of items.csv.
    """
    path = Path(hparams["set_folder"]) / "items.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no set there; make it with fedd_prepare.py first."
        )
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def speak_pending(folder, requests, version, speak, hparams):
    """Speaks what was not spoken before.

    Arguments
    ---------
    folder : Path
        Where `<id>.wav` go.
    requests : dict
        Id to (what to speak, speaker).
    version : str
        Changes when the system would speak otherwise.
    speak : callable
        Ids and their requests to waves.
    hparams : dict
        The hyperparameters.
    """
    index_file = folder / INDEX
    index = read_json(index_file) if index_file.is_file() else {}
    keys = {
        name: hashlib.sha256(
            json.dumps([version, request]).encode()
        ).hexdigest()[:16]
        for name, request in requests.items()
    }
    pending = [
        name
        for name in sorted(requests, key=lambda name: len(requests[name][0]))
        if index.get(name) != keys[name]
        or not (folder / f"{name}.wav").is_file()
    ]
    size = hparams["batch_size"]
    for start in tqdm(range(0, len(pending), size), f"Speaking, {folder.name}"):
        names = pending[start : start + size]
        with torch.inference_mode():
            wavs = speak(names, [requests[name] for name in names])
        for name, wav in zip(names, wavs):
            with atomic_path(folder / f"{name}.wav") as temporary:
                samples = wav.float().cpu().numpy()
                soundfile.write(
                    temporary, samples, hparams["sample_rate"], "PCM_16"
                )
            index[name] = keys[name]
        write_json(index_file, index)


def plain_text(asked, emotions):
    """A text without its marks.

    Arguments
    ---------
    asked : str
        Marked-up text.
    emotions : list of str
        The taxonomy.
    """
    return parse_markup(asked, emotions).text


def last_emotion(asked, emotions):
    """The emotion of the last labelled word.

    Arguments
    ---------
    asked : str
        Marked-up text.
    emotions : list of str
        The taxonomy.
    """
    words = parse_markup(asked, emotions).words
    probs = [word.probs for word in words if any(word.probs)][-1]
    return emotions[probs.index(max(probs))]


def synthesise(hparams, device):
    """Speaks the set in every way.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    device : str
        Where the models run.
    """
    items, emotions = read_items(hparams), hparams["emotions"]
    if not Path(hparams["model_folder"]).is_dir():
        raise FileNotFoundError(
            f"model_folder {hparams['model_folder']}: no such folder; give "
            "the output folder of a finished training."
        )
    output = Path(hparams["output_folder"])
    trained = EmoFiLMSynthesizer.from_hparams(
        hparams["model_folder"], run_opts={"device": device}
    )
    token_to_wav = trained.mods.token_to_wav
    backbone = EmoFiLMSynthesizer(
        modules={
            "emofilm": hparams["backbone_emofilm"],
            "token_to_wav": token_to_wav,
        },
        hparams=vars(trained.hparams),
        run_opts={"device": device},
    )
    tokenizer = hparams["speech_tokenizer"].to(device).eval()
    wavs = Path(hparams["set_folder"]) / "wavs"

    def copy(names, requests):
        tokens = [
            tokenizer.tokenize(
                load_audio(wavs / f"{name}.wav", hparams["sample_rate"])[
                    None
                ].to(device)
            )[0]
            for name in names
        ]
        return token_to_wav(tokens, [speaker for _, speaker in requests])

    def speak_with(synthesizer, guidance):
        def speak(_, requests):
            texts, speakers = zip(*requests)
            results = synthesizer.synthesize(
                list(texts),
                speaker=list(speakers),
                seed=hparams["synthesis_seed"],
                guidance=guidance,
                batch_size=len(texts),
            )
            return [result.wav for result in results]

        return speak

    frozen = folder_version(find_file(hparams["speech_tokenizer_file"]).parent)
    seed, guidance = hparams["synthesis_seed"], hparams["guidance"]
    version = f"{folder_version(hparams['model_folder'])} {frozen}"
    version = f"{version} {seed} {guidance}"
    marked = {n: (row["asked"], row["speaker"]) for n, row in items.items()}
    plain = {
        name: (plain_text(asked, emotions), speaker)
        for name, (asked, speaker) in marked.items()
    }
    speak = speak_with(trained, guidance)
    set_version = file_fingerprint(Path(hparams["set_folder"]) / "items.csv")
    for folder, requests, own, way in (
        ("copy_synthesis", plain, f"{frozen} {set_version}", copy),
        ("backbone", plain, f"{frozen} {seed}", speak_with(backbone, 1.0)),
        ("efilm", marked, version, speak),
    ):
        speak_pending(output / folder, requests, own, way, hparams)
    rising = [
        name
        for name, (asked, _) in marked.items()
        if last_emotion(asked, emotions) != hparams["unmarked_emotion"]
    ][: hparams["n_intensity"]]
    for intensity in hparams["intensities"]:
        requests = {
            name: (
                f"<{last_emotion(marked[name][0], emotions)} "
                f"intensity={intensity:g}>{plain[name][0]}</>",
                marked[name][1],
            )
            for name in rising
        }
        folder = output / f"intensity_{intensity:g}"
        speak_pending(folder, requests, version, speak, hparams)


def folder_version(folder):
    """Names the content of a folder of weights.

    Arguments
    ---------
    folder : str or Path
        It.
    """
    files = [
        path
        for path in sorted(Path(folder).iterdir())
        if path.suffix in (".safetensors", ".ckpt", ".yaml")
    ]
    prints = [(path.name, file_fingerprint(path)) for path in files]
    return hashlib.sha256(json.dumps(prints).encode()).hexdigest()[:16]


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    synthesise(hparams, run_opts.get("device") or infer_device())
