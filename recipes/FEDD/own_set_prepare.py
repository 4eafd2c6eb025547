#!/usr/bin/env python3
"""Read a test set of one's own: wavs, texts and an emotion for each word.

> python own_set_prepare.py my_list.csv results/my_set

The list is a CSV file with the columns `id`, `wav` (relative to the list),
`speaker` and `text`, perhaps `language`. Emotions are marks in the text::

    id,wav,speaker,text
    a,a.wav,0011,<happy>We won</happy> <sad intensity=0.4>but he left.</sad>

It writes `own.json` (a manifest), `word_labels.json`, `items.csv` and
`textgrids` in the form of fedd_prepare.py, so that the same scripts speak and
evaluate both.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import find_textgrid, read_alignment
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    check_words,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.tables import read_table
from speechbrain_emofilm.utils.files import write_json

from fedd_prepare import EMOTIONS, SAMPLE_RATE, write_items
from tqdm import tqdm

COLUMNS = ("id", "wav", "speaker", "text")


def prepare_own_set(
    list_file: str | Path,
    save_folder: str | Path,
    emotions: Sequence[str] = EMOTIONS,
    alignment_folder: str | Path | None = None,
    make_aligner: Callable[[], object] | None = None,
    skip_prep: bool = False,
) -> None:
    """Read a set of one's own: wavs, texts and an emotion for each word.

    See the top of this file for the list.

    Arguments
    ---------
    list_file : str or Path
        CSV file.
    save_folder : str or Path
        Folder of ``own.json``, ``word_labels.json`` and the TextGrids.
    emotions : sequence of str
        The taxonomy.
    alignment_folder : str or Path, optional
        TextGrids with the words' times.
    make_aligner : callable, optional
        Function that makes an aligner, for words without a TextGrid.
    skip_prep : bool
        Skip this step.

    Raises
    ------
    FileNotFoundError
        If the list or a recording is missing.
    ValueError
        If an entry cannot be used; the message names it and the fix.
    """
    if skip_prep:
        return
    list_file, save_folder = Path(list_file), Path(save_folder)
    rows = read_table(list_file, COLUMNS)
    if not rows:
        raise ValueError(f"{list_file}: the list is empty; add one item.")
    aligner = make_aligner() if make_aligner else None
    manifest, labels = {}, {}
    for number, row in tqdm(rows, "Reading items"):
        place = f"{list_file} line {number}"
        _check_commas(row, place)
        missing = [name for name in COLUMNS if not row.get(name)]
        if missing:
            raise ValueError(
                f"{place}: {', '.join(missing)} is missing; the columns are "
                f"{', '.join(COLUMNS)}."
            )
        if row["id"] in manifest:
            raise ValueError(f"{place}: {row['id']} occurs twice; rename it.")
        manifest[row["id"]], labels[row["id"]] = _own_item(
            row, place, list_file.parent, emotions, alignment_folder, aligner
        )
    for name, utterance in labels.items():
        item = manifest[name]
        write_label_textgrid(
            save_folder / "textgrids" / item["speaker"] / f"{name}.TextGrid",
            utterance,
            item["duration"],
        )
    write_word_labels(save_folder / "word_labels.json", labels, emotions)
    write_items(save_folder / "items.csv", {"own": manifest}, labels)
    write_json(save_folder / "own.json", manifest)


def _check_commas(row, place):
    """Raise ValueError where a comma of an unquoted text splits the row."""
    language = row.get("language") or "en"
    if not re.fullmatch(r"[A-Za-z]{2,3}(-\w+)?", language):
        raise ValueError(
            f"{place}: a comma splits the text {row.get('text')!r} from what "
            'follows it; quote a text with commas: "We won, friend."'
        )


def _own_item(row, place, folder, emotions, alignment_folder, aligner):
    """Make the manifest entry and word labels of one line."""
    try:
        marked = parse_markup(row["text"], list(emotions))
    except ValueError as error:
        raise ValueError(f"{place}, text: {error}") from error
    path = (folder / row["wav"]).resolve()
    wav = load_audio(path, SAMPLE_RATE)
    words = _own_words(row, place, marked, wav, alignment_folder, aligner)
    labelled = []
    for word, mark in zip(words, marked.words):
        probs = dict(zip(emotions, mark.probs))
        probs = {name: value for name, value in probs.items() if value > 0}
        labelled.append(
            WordLabel(
                mark.word,
                word.start,
                word.end,
                max(probs, key=probs.get) if probs else None,
                probs=probs if len(probs) > 1 else None,
                intensity=mark.intensity if probs else None,
            )
        )
    item = {
        "wav": str(path),
        "duration": round(len(wav) / SAMPLE_RATE, 4),
        "speaker": row["speaker"],
        "language": row.get("language") or "en",
        "text": marked.text.replace("{", "{{").replace("}", "}}"),
        "emotion": None,
    }
    return item, UtteranceLabels(labelled, {"labels": place})


def _own_words(row, place, marked, wav, alignment_folder, aligner):
    """Take the times of an item's words from its TextGrid or the aligner."""
    if alignment_folder is not None:
        grid = find_textgrid(alignment_folder, row["id"], row["speaker"])
        words = read_alignment(grid)
        timed = UtteranceLabels(
            [WordLabel(w.text, w.start, w.end) for w in words]
        )
        check_words(timed, [word.word for word in marked.words], place)
        return words
    if aligner is None:
        raise ValueError(
            f"{place}: the words have no times; give alignment_folder or an "
            "aligner."
        )
    try:
        return aligner.align(wav, SAMPLE_RATE, marked.text)
    except ValueError as error:
        raise ValueError(
            f"{place}: its words were not found in {row['wav']} ({error}); "
            "check the text, or give a TextGrid."
        ) from error


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("list_file", help="CSV: id, wav, speaker, text")
    parser.add_argument("save_folder", help="where the set goes")
    parser.add_argument(
        "--alignment_folder",
        help="TextGrids; without them PocketSphinx times the words (English)",
    )
    parser.add_argument("--emotions", nargs="+", default=list(EMOTIONS))
    args = parser.parse_args()
    make_aligner = None
    if args.alignment_folder is None:
        from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
            PocketsphinxAligner as make_aligner,
        )
    prepare_own_set(
        args.list_file,
        args.save_folder,
        args.emotions,
        args.alignment_folder,
        make_aligner,
    )


if __name__ == "__main__":
    main()
