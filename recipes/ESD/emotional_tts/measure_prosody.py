#!/usr/bin/env python3
"""Measure pitch, pace and level of every word, for a training with axes.

> python measure_prosody.py hparams/mini.yaml --data_folder /path/to/ESD

Each reading of the training and validation data is compared with the same
speaker's neutral reading of the same sentence, so that what the sentence itself
does to pitch and level cancels. Words have their times in the neutral reading
from the same source as in train.py (`label_source`). A reading without a
neutral one, as there is of some sentences, has no entry, and an unvoiced word
no pitch: training then leaves them to the emotion.

It writes `prosody_file`. The same command resumes an interrupted measurement,
and measures again only what has changed.
"""

import hashlib
import inspect
import json
import multiprocessing
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.word_prosody import (
    WordProsody,
    read_word_prosody,
    write_word_prosody,
)
from speechbrain_emofilm.processing import prosody
from speechbrain_emofilm.utils.files import file_fingerprint
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
from esd_corpus import corpus_manifests, prepare_corpus, read_manifests
from esd_prepare import sentence_key
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from train import label_reader

logger = get_logger(__name__)


def place_of(item):
    """Name the speaker and the sentence of an item."""
    return item["speaker"], sentence_key(item["text"])


def neutral_readings(items, emotion):
    """Find the neutral reading of each speaker and sentence: its id."""
    found = {}
    for name, item in items.items():
        if item["emotion"] == emotion and "varied_from" not in item:
            found.setdefault(place_of(item), name)
    return found


def group_by_neutral(items, hparams):
    """Group readings by the neutral one: its id to (words, ids of others).

    Also returns why readings cannot be measured, by id.
    """
    emotion = hparams["baseline_emotion"]
    neutral = neutral_readings(items, emotion)
    labels_of = label_reader(hparams)
    groups, skipped, without = {}, {}, []
    for name, item in items.items():
        own = neutral.get(place_of(item))
        if item["emotion"] == emotion and "varied_from" not in item:
            own = name  # a second neutral reading is neutral, too
        if own is None:
            without.append(name)
            continue
        if own not in groups:
            keys = ("speaker", "emotion", "text")
            try:
                labels, _ = labels_of(own, *(items[own][key] for key in keys))
                groups[own] = (labels.alignment(), [])
            except (ValueError, FileNotFoundError) as error:
                groups[own] = (None, [])
                skipped[own] = str(error)
        if groups[own][0] is not None:
            groups[own][1].append(name)
    if without:
        logger.warning(
            f"{len(without)} of {len(items)} utterances have no {emotion} "
            "reading of their sentence by the same speaker, and are trained "
            f"without axes; the first is {without[0]}."
        )
    return {own: group for own, group in groups.items() if group[1]}, skipped


def key_of(wav, neutral_wav, words):
    """Hash everything that the prosody of a reading depends on."""
    content = [
        file_fingerprint(wav),
        file_fingerprint(neutral_wav),
        [(word.start, word.end) for word in words],
        inspect.getsource(prosody),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def measure_group(job):
    """Measure the readings of a sentence: id to words, or to an error."""
    neutral_wav, words, wavs = job
    try:
        baseline = _track(neutral_wav)
    except (ValueError, FileNotFoundError) as error:
        return {name: str(error) for name in wavs}
    found = {}
    for name, wav in wavs.items():
        try:
            track = baseline if wav == neutral_wav else _track(wav)
            found[name] = prosody.axis_changes(baseline, words, track)
        except (ValueError, FileNotFoundError) as error:
            found[name] = str(error)
    return found


def _track(wav):
    sample_rate = prosody.SAMPLE_RATE
    return prosody.prosody_track(load_audio(wav, sample_rate), sample_rate)


def pending_jobs(groups, items, known):
    """List what is not known yet as jobs, with the keys of all readings."""
    jobs, keys = [], {}
    for own, (words, names) in groups.items():
        neutral_wav = items[own]["wav"]
        wavs = {name: items[name]["wav"] for name in names}
        present = {
            name: wav for name, wav in wavs.items() if Path(wav).is_file()
        }
        if neutral_wav in present.values():
            for name, wav in present.items():
                keys[name] = key_of(wav, neutral_wav, words)
        wanted = {
            name: wav
            for name, wav in wavs.items()
            if name not in known or known[name].key != keys.get(name)
        }
        if wanted:
            jobs.append((neutral_wav, words, wanted))
    return jobs, keys


def measure_all(items, hparams):
    """Measure all readings; returns their prosody and why others lack it."""
    path = Path(hparams["prosody_file"])
    groups, skipped = group_by_neutral(items, hparams)
    known = read_word_prosody(path) if path.is_file() else {}
    jobs, keys = pending_jobs(groups, items, known)
    found = {
        name: known[name]
        for name, key in keys.items()
        if name in known and known[name].key == key
    }
    saved = len(found)
    with multiprocessing.Pool(hparams["prosody_workers"]) as pool:
        for measured in tqdm(
            pool.imap_unordered(measure_group, jobs),
            total=len(jobs),
            desc="Prosody, by sentence",
        ):
            for name, words in measured.items():
                if isinstance(words, str):
                    skipped[name] = words
                else:
                    found[name] = WordProsody(keys[name], words)
            if len(found) - saved >= hparams["extraction_save_interval"]:
                write_word_prosody(path, found)
                saved = len(found)
    found = {name: found[name] for name in items if name in found}
    write_word_prosody(path, found)
    return found, skipped


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    prepare_corpus(hparams)
    items = read_manifests(
        corpus_manifests(hparams, ["train", "valid"]), hparams["data_folder"]
    )
    found, skipped = measure_all(items, hparams)
    path = Path(hparams["prosody_file"])
    report_skipped(
        skipped,
        len(items),
        hparams["max_bad_share"],
        f"{path.with_suffix('')}_skipped.json",
    )
    words = [word for own in found.values() for word in own.words]
    unvoiced = sum(word["pitch"] is None for word in words)
    print(
        f"{path}: prosody of {len(words)} words of {len(found)} utterances; "
        f"{unvoiced} unvoiced words have no pitch"
    )
