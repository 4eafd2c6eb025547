#!/usr/bin/env python3
"""Writes manifests of some speakers only, to train and test on others.

> python select_speakers.py --prepared_folder /path/to/prepared \
    --output_folder selected --training_speakers 0011 0012 0013 \
    --test_speakers 0014

Training and validation hold the utterances of the training speakers, the test
those of the test speakers. Speech tokens and word labels serve as they are.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json, write_json

SPLITS = ("train", "valid", "test")
#: Sentences of one emotion, and those whose emotion switches.
PARTS = ("", "transitions_")


def select(manifest: Mapping, speakers: Collection[str], place: Path) -> dict:
    """Keeps the utterances of some speakers.

    Arguments
    ---------
    manifest : dict
        Utterance id to its entry.
    speakers : collection of str
        The speakers to keep; all if empty.
    place : Path
        Where the manifest stands, for messages.

    Returns
    -------
    dict
        Utterance id to its entry.

    Raises
    ------
    ValueError
        If a speaker has no utterance.

    Example
    -------
    >>> manifest = {"a": {"speaker": "0011"}, "b": {"speaker": "0012"}}
    >>> list(select(manifest, ["0012"], Path("test.json")))
    ['b']
    """
    known = {item["speaker"] for item in manifest.values()}
    for speaker in speakers:
        if speaker not in known:
            raise ValueError(
                f"{place} has no utterance of {speaker}: choose of "
                f"{', '.join(sorted(known))}."
            )
    return {
        name: item
        for name, item in manifest.items()
        if not speakers or item["speaker"] in speakers
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads manifests and writes smaller ones of the same names.

    Arguments
    ---------
    arguments : list of str, optional
        The command line; ``sys.argv`` if None.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--prepared_folder", type=Path, required=True)
    add("--output_folder", type=Path, required=True)
    add("--training_speakers", nargs="*", default=[], help="default: all")
    add("--test_speakers", nargs="*", default=[], help="default: all")
    options = parser.parse_args(arguments)
    for split in SPLITS:
        is_test = split == "test"
        speakers = (
            options.test_speakers if is_test else options.training_speakers
        )
        for part in PARTS:
            path = options.prepared_folder / f"{part}{split}.json"
            if part and not path.is_file():
                continue  # a corpus without such sentences, as ESD
            selected = select(read_json(path), speakers, path)
            write_json(options.output_folder / path.name, selected)


if __name__ == "__main__":
    main()
