#!/usr/bin/env python3
"""Align the words of a corpus: TextGrids in MFA's folder layout.

> python align.py hparams/align.yaml --data_folder /path/to/ESD

Each utterance is aligned by the aligner of its language; in Mandarin every
character is a word. The result is
``<alignment_folder>/<speaker>/<utterance>.TextGrid`` with the tiers ``words``
and ``confidence`` (0 to 1). The same command resumes an interrupted alignment.
An utterance that the aligner cannot align gets times in proportion to its
letters, with confidence 0; one whose audio or text cannot be used gets no
TextGrid. Both are listed with the reason in
``<alignment_folder>/skipped.json`` and tried again by the next run; if there
are more than `max_bad_share`, the script fails. ``alignment.json`` describes
the aligners and counts their results.
"""

import functools
import multiprocessing
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    match_words,
    read_alignment,
    write_alignment,
)
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    AlignmentInput,
    UnusableInputError,
    proportional_alignment,
)
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from esd_corpus import corpus_manifests, prepare_corpus, read_manifests
from hyperpyyaml import load_hyperpyyaml
from tqdm import tqdm

REPORT_FILE = "alignment.json"
BAD_FILE = "skipped.json"
SAMPLE_RATE = 16000  # Hz, of the audio that aligners get


def read_utterances(manifests, data_folder):
    """List the utterances of a corpus."""
    return [
        AlignmentInput(
            id=name,
            wav=item["wav"],
            text=item["text"],
            speaker=item["speaker"],
            language=item["language"],
            duration=item["duration"],
        )
        for name, item in read_manifests(manifests, data_folder).items()
    ]


def textgrid_path(folder, utterance):
    """Return the path of an utterance's TextGrid."""
    return Path(folder) / utterance.speaker / f"{utterance.id}.TextGrid"


def is_aligned(folder, utterance):
    """Tell whether an utterance has an alignment of its current text and wav.

    Guessed alignments do not count.
    """
    path = textgrid_path(folder, utterance)
    try:
        words = match_words(read_alignment(path), utterance.text, path)
        newer = path.stat().st_mtime >= Path(utterance.wav).stat().st_mtime
    except (ValueError, FileNotFoundError):
        return False
    return newer and any(word.confidence > 0 for word in words)


def describe(value):
    """Describe a value like repr, but identically in every process."""
    if isinstance(value, functools.partial):
        described = {"name": describe(value.func)}
        if value.args:
            described["arguments"] = [describe(v) for v in value.args]
        for key, option in sorted(value.keywords.items()):
            described[key] = describe(option)
        return described
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def choose_aligners(aligners, utterances):
    """Choose the aligners of the corpus's languages, by language."""
    first = {}
    for utterance in utterances:
        first.setdefault(utterance.language, utterance.id)
    for language, name in first.items():
        if aligners.get(language) is None:
            raise ValueError(
                f"aligners: there is none of the language {language!r} of "
                f"{name}, only of {', '.join(sorted(aligners))}; add one, or "
                "set `language` to leave these utterances out."
            )
    return {language: aligners[language] for language in sorted(first)}


def open_folder(folder, aligners):
    """Describe the aligners; refuse a folder with alignments of other ones.

    Returns the descriptions by language, with those of earlier runs.
    """
    described = {name: describe(maker) for name, maker in aligners.items()}
    path = Path(folder) / REPORT_FILE
    known = {}
    if path.is_file():
        report = read_json(path)
        # Folders of earlier versions name one aligner for all languages.
        one_for_all = dict.fromkeys(described, report.get("aligner"))
        known = report.get("aligners", one_for_all)
    for language, aligner in described.items():
        if known.get(language, aligner) != aligner:
            raise ValueError(
                f"{path}: the alignments of the language {language!r} in this "
                f"folder were made by {known[language]}, not by {aligner}; "
                "give another alignment_folder, or remove this one."
            )
    described = {**known, **described}
    if not path.is_file():
        write_json(path, {"aligners": described})
    return described


def align_utterance(aligner, utterance):
    """Return an utterance's id and its words, or the error instead of them."""
    try:
        wav = load_audio(utterance.wav, SAMPLE_RATE)
        words = aligner.align(
            wav, SAMPLE_RATE, utterance.text, utterance.language
        )
    except (ValueError, FileNotFoundError) as error:
        return utterance.id, error
    return utterance.id, words


_worker = {}


def start_worker(make_aligner):
    """Prepare this process. An error here would start it again for ever."""
    torch.set_num_threads(1)  # one for each process
    _worker["aligner"] = functools.cache(make_aligner)


def align_in_worker(utterance):
    """Align one utterance with the aligner of this process."""
    return align_utterance(_worker["aligner"](), utterance)


def align_utterances(aligners, utterances, folder, n_workers):
    """Yield the id of each utterance with its words or with an error."""
    for language, make_aligner in aligners.items():
        spoken = [u for u in utterances if u.language == language]
        if spoken:
            yield from align_language(make_aligner, spoken, folder, n_workers)


def align_language(make_aligner, utterances, folder, n_workers):
    """Do the same for utterances of one language.

    An aligner with `align_corpus` gets all utterances at once, and may put its
    files into `folder`; any other aligner is made in each process.
    """
    if hasattr(getattr(make_aligner, "func", make_aligner), "align_corpus"):
        yield from make_aligner().align_corpus(utterances, folder)
    elif n_workers > 1:
        with multiprocessing.Pool(
            n_workers, start_worker, (make_aligner,)
        ) as pool:
            yield from pool.imap_unordered(
                align_in_worker, utterances, chunksize=4
            )
    else:
        aligner = make_aligner()
        for utterance in utterances:
            yield align_utterance(aligner, utterance)


def too_long(utterance, max_duration):
    """Tell why an utterance is too long to align; None if it is not."""
    if utterance.duration <= max_duration:
        return None
    return (
        f"{utterance.wav}: {utterance.duration:.1f} s is longer than "
        f"max_duration = {max_duration:g} s; cut it, or raise max_duration."
    )


def align_corpus(aligners, utterances, hparams):
    """Write the missing TextGrids, with the aligner of each language.

    Returns
    -------
    guessed : dict
        Utterance id to the reason why its word times are estimated.
    skipped : dict
        Utterance id to the reason why it has no TextGrid.
    """
    folder = hparams["alignment_folder"]
    skipped = {u.id: too_long(u, hparams["max_duration"]) for u in utterances}
    skipped = {name: reason for name, reason in skipped.items() if reason}
    pending = {
        utterance.id: utterance
        for utterance in utterances
        if utterance.id not in skipped and not is_aligned(folder, utterance)
    }
    guessed = {}
    outcomes = align_utterances(
        aligners, list(pending.values()), folder, hparams["n_workers"]
    )
    for name, words in tqdm(outcomes, "Alignment", len(pending), unit="utt"):
        path = textgrid_path(folder, pending[name])
        if isinstance(words, UnusableInputError) or not isinstance(
            words, (AlignmentError, list)
        ):
            skipped[name] = str(words)
            path.unlink(missing_ok=True)  # of another text or wav
            continue
        if isinstance(words, AlignmentError):
            guessed[name] = str(words)
            words = proportional_alignment(
                [word.text for word in split_words(pending[name].text)],
                pending[name].duration,
            )
        write_alignment(path, words, pending[name].duration)
    return guessed, skipped


def report_bad(aligners, utterances, guessed, skipped, hparams):
    """Describe the run, list bad utterances, and fail if they are too many."""
    folder = Path(hparams["alignment_folder"])
    report = {
        "aligners": aligners,
        "n_utterances": len(utterances),
        "n_aligned": len(utterances) - len(guessed) - len(skipped),
        "n_guessed": len(guessed),
        "n_skipped": len(skipped),
    }
    write_json(folder / REPORT_FILE, report)
    guessed = {
        name: f"{reason} Its word times are guessed."
        for name, reason in guessed.items()
    }
    report_skipped(
        {**dict(sorted(skipped.items())), **dict(sorted(guessed.items()))},
        len(utterances),
        hparams["max_bad_share"],
        folder / BAD_FILE,
    )


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    prepare_corpus(hparams)
    utterances = read_utterances(
        corpus_manifests(hparams), hparams["data_folder"]
    )
    aligners = choose_aligners(hparams["aligners"], utterances)
    described = open_folder(hparams["alignment_folder"], aligners)
    guessed, skipped = align_corpus(aligners, utterances, hparams)
    report_bad(described, utterances, guessed, skipped, hparams)
    print(
        f"{hparams['alignment_folder']}: alignments of "
        f"{len(utterances) - len(guessed) - len(skipped)} utterances"
    )
