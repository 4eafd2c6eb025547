"""A corpus of tones in ESD's layout and a backbone of random weights.

Small enough that a recipe runs on them in seconds:

> python tests/integration/tiny_world.py tests/tmp

makes ``tests/tmp/esd``, ``tests/tmp/backbone``, ``tests/tmp/prepared``,
``tests/tmp/cosyvoice2`` and ``tests/tmp/pretraining``, which the flags in
``tests/recipes/*.csv`` name.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from speechbrain_emofilm.dataio.alignments import Word, write_alignment
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    write_speech_tokens,
)
from speechbrain_emofilm.dataio.text import is_ideograph
from speechbrain_emofilm.utils.files import file_fingerprint, write_json

import numpy as np
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from safetensors.torch import save_file
from tiny_cosyvoice2 import make_snapshot

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = REPOSITORY / "recipes" / "ESD" / "emotional_tts"
HPARAMS = RECIPE / "hparams" / "mini.yaml"
EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
SENTENCES = ["We won the game.", "But he left.", "Come and see it now."]
#: How ESD spells the emotions of its Mandarin speakers, and what they say.
CHINESE_EMOTIONS = ["中立", "生气", "快乐", "伤心", "惊喜"]
MANDARIN = ["我们赢了。", "但是他走了。", "今天天气很好！"]
SPLITS = {"train": "train", "valid": "evaluation", "test": "test"}
SAMPLE_RATE = 24000
SECONDS_PER_WORD = 0.2
#: What makes the trained part of hparams/backbone/mini.yaml tiny.
SIZES = (
    "{text_dim: 16, llm: {module: {qwen2: {intermediate_size: 32,"
    " num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}}},"
    " speech_tokenizer: {module: {channels: 8}}}"
)


def make_corpus(root):
    """Writes wavs, transcripts and word labels; train has each sentence once
    per emotion, the other splits two utterances, and all one transition.

    Returns
    -------
    dict
        Split to its manifest, as recipes/ESD/esd_prepare.py writes it.
    """
    root = Path(root)
    manifests, labels, lines = {}, {}, {"0011": [], "transitions": []}
    splits, number = {}, 0
    for split, emotion, sentence in _plan():
        number += 1
        part = "transitions_" if emotion is None else ""
        utterance = f"0011_{part and 't'}{number:06d}"
        labels[utterance] = label = _label(sentence, emotion)
        duration = label.words[-1].end + 0.1
        if emotion is None:
            place = Path("transitions", "0011")
            splits[utterance] = SPLITS[split]
            lines["transitions"].append(f"{utterance}\t{sentence}\n")
        else:
            place = Path("0011", emotion.capitalize(), SPLITS[split])
            lines["0011"].append(
                f"{utterance}\t{sentence}\t{emotion.capitalize()}\n"
            )
        _write_tone(root / place / f"{utterance}.wav", duration, 20 * number)
        grid = root / "textgrids" / "0011" / f"{utterance}.TextGrid"
        write_label_textgrid(grid, label, duration)
        manifests.setdefault(f"{part}{split}", {})[utterance] = {
            "wav": f"{{data_root}}/{place / utterance}.wav",
            "duration": duration,
            "speaker": "0011",
            "language": "en",
            "text": sentence,
            "emotion": emotion,
        }
    for folder, content in lines.items():
        transcript = root / folder / "0011.txt"
        transcript.write_text("".join(content), encoding="utf-8")
    write_json(root / "transitions" / "splits.json", splits)
    write_word_labels(root / "word_labels.json", labels, EMOTIONS)
    return manifests


def add_mandarin_speaker(root):
    """Adds the speaker 0001 to a corpus, as ESD has its Mandarin half.

    The TextGrids are like MFA's, with two characters in an interval.
    """
    root = Path(root)
    labels = read_word_labels(root / "word_labels.json", EMOTIONS)
    lines, number = [], 0
    for split, emotion, sentence in _plan(MANDARIN):
        if emotion is None:
            continue
        number += 1
        utterance = f"0001_{number:06d}"
        characters = "".join(filter(is_ideograph, sentence))
        labels[utterance] = label = _label(" ".join(characters), emotion)
        duration = label.words[-1].end + 0.1
        folder = root / "0001" / emotion.capitalize() / SPLITS[split]
        _write_tone(folder / f"{utterance}.wav", duration, 20 * number + 200)
        spelled = CHINESE_EMOTIONS[EMOTIONS.index(emotion)]
        lines.append(f"{utterance}\t{sentence}\t{spelled}\r\n")
        pairs = [label.words[i : i + 2] for i in range(0, len(characters), 2)]
        write_alignment(
            root / "textgrids" / "0001" / f"{utterance}.TextGrid",
            [
                Word("".join(w.word for w in p), p[0].start, p[-1].end)
                for p in pairs
            ],
            duration,
        )
    transcript = root / "0001" / "0001.txt"
    transcript.write_text("".join(lines), encoding="utf-8", newline="")
    write_word_labels(root / "word_labels.json", labels, EMOTIONS)


def _plan(sentences=SENTENCES):
    """(split, emotion, sentence) of each utterance; None for a transition."""
    for split in SPLITS:
        everything = split == "train"
        for emotion in EMOTIONS[: 5 if everything else 2]:
            for sentence in sentences[: 3 if everything else 1]:
                yield split, emotion, sentence
        yield split, None, sentences[0]


def _label(sentence, emotion):
    """The words follow each other; the first is neutral."""
    words = []
    for index, word in enumerate(sentence.strip(".").split()):
        start = 0.1 + SECONDS_PER_WORD * index
        words.append(
            WordLabel(
                word,
                round(start, 3),
                round(start + SECONDS_PER_WORD, 3),
                (emotion or "sad") if index else "neutral",
                intensity=0.8 if index else 0.0,
            )
        )
    return UtteranceLabels(words, {"labeler": "tiny world"})


def _write_tone(path, duration, hertz):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.3 * np.sin(2 * np.pi * hertz * time)
    soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")


def make_backbone(folder, sizes):
    """Writes random weights of the modules of hparams/backbone/mini.yaml, and
    that file with other sizes as ``backbone.yaml``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def save_instead(module, path):
        save_file(module.state_dict(), path)
        return module

    torch.manual_seed(0)
    target = "speechbrain_emofilm.utils.assets.load_safetensors"
    hparams_file = REPOSITORY / "hparams" / "backbone" / "mini.yaml"
    overrides = sizes[:-1] + f", backbone_folder: {folder}}}"
    with open(hparams_file) as file:
        hparams = resolve_references(file, overrides).read()
    (folder / "backbone.yaml").write_text(hparams)
    speaker_dim = int(re.search(r"speaker_dim: (\d+)", hparams)[1])
    speakers = {"0011": torch.ones(speaker_dim)}
    save_file(speakers, folder / "speakers.safetensors")
    with mock.patch(target, save_instead):
        load_hyperpyyaml(hparams)


def make_prepared(folder, manifests, backbone):
    """Writes manifests and random speech tokens, as prepared beforehand."""
    folder = Path(folder)
    generator = torch.Generator().manual_seed(0)
    tokenizer = Path(backbone) / "speech_tokenizer.safetensors"
    cache = SpeechTokenCache(file_fingerprint(tokenizer))
    for split, manifest in manifests.items():
        write_json(folder / f"{split}.json", manifest)
        for utterance, item in manifest.items():
            size = (int(item["duration"] * 25),)
            cache.tokens[utterance] = torch.randint(
                6561, size, generator=generator
            )
    write_speech_tokens(folder / "speech_tokens.safetensors", cache)


def make_world(root, sizes=SIZES):
    """Makes all of it under a folder."""
    root = Path(root)
    manifests = make_corpus(root / "esd")
    make_backbone(root / "backbone", sizes)
    make_prepared(root / "prepared", manifests, root / "backbone")


def make_pretraining(root, n_utterances=24, python=sys.executable):
    """Makes a pretraining corpus of MiniESD with its features."""
    folder = REPOSITORY / "recipes" / "MiniESD"
    size = f"--n_utterances={n_utterances}"
    for command in (
        ["make_pretraining_corpus.py", size],
        ["pretraining_data.py"],
    ):
        subprocess.run(
            [python, *command, str(root), "--workers=1"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            check=True,
        )


def recipe_flags(root, output, **overrides):
    """Command-line options of the recipe on a world."""
    flags = {
        "data_folder": f"{root}/esd",
        "prepared_folder": f"{root}/prepared",
        "backbone": f"!include:{root}/backbone/backbone.yaml",
        "output_folder": output,
        "skip_prep": True,
        "number_of_steps": 4,
        "warmup_steps": 1,
        "batch_size": 4,
        "dynamic_batching": False,
        "use_tensorboard": False,
        "history_corruption": 0.4,
        "condition_dropout": 0.3,
        **overrides,
    }
    return [f"--{name}={value}" for name, value in flags.items()] + [
        "--device=cpu",
        "--noprogressbar",
    ]


def run_script(name, flags, hparams_file=HPARAMS, run_name="__main__"):
    """Runs one of the recipe's scripts in this process.

    With another `run_name`, its functions are only defined.

    Returns
    -------
    dict
        The script's variables, for a look inside.
    """
    argv = [str(RECIPE / name), str(hparams_file), *map(str, flags)]
    known = set(sys.modules)
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", [str(RECIPE), *sys.path]),
        mock.patch.object(sys, "excepthook", sys.excepthook),
    ):
        try:
            return runpy.run_path(argv[0], run_name=run_name)
        finally:
            # Another recipe has modules of the same names.
            for module in set(sys.modules) - known:
                path = getattr(sys.modules[module], "__file__", None) or ""
                if path.startswith(str(RECIPE)):
                    del sys.modules[module]


if __name__ == "__main__":
    make_world(sys.argv[1])
    make_snapshot(Path(sys.argv[1]) / "cosyvoice2")
    make_pretraining(Path(sys.argv[1]) / "pretraining")
