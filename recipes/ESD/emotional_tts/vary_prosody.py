#!/usr/bin/env python3
"""Make readings whose words have other pitch, pace and level, for training.

> python vary_prosody.py hparams/mini.yaml --data_folder /path/to/ESD

In natural emotional speech, pitch, pace and level of a word go together, and
the emotion tells most about them: a model trained on it alone cannot know how
a happy word sounds at a low pitch. This step copies training readings with the
words changed at random and independently along each axis, with the vocoder
WORLD; emotion and intensity stay. `prosody_variations` is the number of copies
of each reading that has a neutral one.

It writes the copies, the manifest `varied_manifests` and the word labels
`varied_labels`, which the other steps read: run it before
extract_speech_tokens.py and measure_prosody.py, which measures what has become
of each word. The same command makes only what is missing.
"""

import multiprocessing
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    read_word_labels,
    write_word_labels,
)
from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.processing.prosody_variation import vary_prosody
from speechbrain_emofilm.utils.files import (
    atomic_path,
    read_json,
    write_json,
)

import soundfile
import speechbrain as sb
from esd_corpus import corpus_manifests, prepare_corpus, read_manifests
from hyperpyyaml import load_hyperpyyaml
from measure_prosody import neutral_readings, place_of
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from train import label_reader

logger = get_logger(__name__)

#: Largest change of a word along each axis, in steps that add up.
RANGES = {"pitch": 6.0, "pace": 0.7, "level": 8.0}
#: Share of the words that stay as they are along an axis.
UNCHANGED = 0.4


def draw_changes(name, n_words):
    """Draw the changes of the words of a copy, always the same."""
    rng = random.Random(name)
    return [
        {
            axis: AXES[axis].from_steps(rng.uniform(-most, most))
            for axis, most in RANGES.items()
            if rng.random() >= UNCHANGED
        }
        for _ in range(n_words)
    ]


def make_copy(job):
    """Make one copy; returns its manifest entry and labels, or an error."""
    name, item, labels, wav_file, sample_rate = job
    try:
        wav = load_audio(item["wav"], sample_rate).numpy()
        varied, times = vary_prosody(
            wav,
            sample_rate,
            labels.words,
            draw_changes(name, len(labels.words)),
        )
    except (ValueError, FileNotFoundError) as error:
        return name, str(error), None
    with atomic_path(wav_file) as temporary:
        soundfile.write(temporary, varied, sample_rate, format="WAV")
    entry = {
        **item,
        # `load_data_json` reads braces as replacements.
        "text": item["text"].replace("{", "{{").replace("}", "}}"),
        "wav": str(wav_file).replace("{", "{{").replace("}", "}}"),
        "duration": round(len(varied) / sample_rate, 4),
        "varied_from": name.rpartition("_varied")[0],
        "source_bytes": os.path.getsize(item["wav"]),
    }
    words = [
        replace(word, start=round(start, 4), end=round(end, 4))
        for word, (start, end) in zip(labels.words, times)
    ]
    return name, entry, UtteranceLabels(words, {"varied": "pitch pace level"})


def list_jobs(items, hparams):
    """List the copies to make."""
    neutral = neutral_readings(items, hparams["baseline_emotion"])
    labels_of = label_reader(hparams)
    folder = Path(hparams["prepared_folder"]).resolve() / "varied"
    jobs = []
    for name, item in items.items():
        if place_of(item) not in neutral or "varied_from" in item:
            continue
        keys = ("speaker", "emotion", "text")
        try:
            labels, _ = labels_of(name, *(item[key] for key in keys))
        except (ValueError, FileNotFoundError) as error:
            logger.warning(f"{name} is not varied: {error}")
            continue
        for index in range(hparams["prosody_variations"]):
            copy = f"{name}_varied{index}"
            wav = folder / item["speaker"] / f"{copy}.wav"
            jobs.append((copy, item, labels, wav, hparams["sample_rate"]))
    return jobs


def made_before(jobs, hparams):
    """Find the copies of an earlier run that are still as they should be."""
    manifest, labels = hparams["varied_manifests"]["train"], {}
    if Path(manifest).is_file() and Path(hparams["varied_labels"]).is_file():
        labels = read_word_labels(hparams["varied_labels"], hparams["emotions"])
    entries = read_json(manifest) if labels else {}
    return {
        name: (entries[name], labels[name])
        for name, item, _, wav_file, _ in jobs
        if name in entries
        and name in labels
        and wav_file.is_file()
        and os.path.getsize(item["wav"]) == entries[name].get("source_bytes")
    }


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    prepare_corpus(hparams)
    # Without the copies of an earlier run.
    natural = {**hparams, "varied_manifests": {}}
    items = read_manifests(
        corpus_manifests(natural, ["train"]), hparams["data_folder"]
    )
    jobs = list_jobs(items, hparams)
    made = made_before(jobs, hparams)
    missing = [job for job in jobs if job[0] not in made]
    with multiprocessing.Pool(hparams["prosody_workers"]) as pool:
        for name, entry, own in tqdm(
            pool.imap(make_copy, missing),
            total=len(missing),
            desc="Varied readings",
        ):
            if own is None:
                logger.warning(f"{name} cannot be made: {entry}")
            else:
                made[name] = entry, own
    labels = {name: own for name, (_, own) in made.items()}
    write_word_labels(hparams["varied_labels"], labels, hparams["emotions"])
    write_json(
        hparams["varied_manifests"]["train"],
        {name: entry for name, (entry, _) in made.items()},
    )
    print(
        f"{hparams['varied_manifests']['train']}: {len(made)} varied readings"
    )
