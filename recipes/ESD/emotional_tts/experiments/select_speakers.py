#!/usr/bin/env python3
"""Write manifests of some speakers, to train and test on different ones.

> python select_speakers.py --prepared_folder /path/to/prepared \
    --output_folder selected --training_speakers 0011 0012 0013 \
    --test_speakers 0014

The training and validation manifests hold utterances of the training speakers,
the test manifests those of the test speakers. Speech tokens and word labels
are used as they are.
"""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json, write_json

SPLITS = ("train", "valid", "test")
#: Sentences of one emotion, and those whose emotion switches.
PARTS = ("", "transitions_")


def select(manifest: Mapping, speakers: Collection[str], place: Path) -> dict:
    """Keep the utterances of some speakers, or of all if none are given.

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
                f"{place} has no utterance of {speaker}: choose from "
                f"{', '.join(sorted(known))}."
            )
    return {
        name: item
        for name, item in manifest.items()
        if not speakers or item["speaker"] in speakers
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read manifests and write smaller ones of the same names."""
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
                continue  # a corpus without such sentences, like ESD
            selected = select(read_json(path), speakers, path)
            write_json(options.output_folder / path.name, selected)


if __name__ == "__main__":
    main()
