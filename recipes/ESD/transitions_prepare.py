"""Prepare the transitions part of MiniESD: sentences that change emotion.

ESD has no such part, since each of its sentences keeps one emotion. MiniESD's
part is a folder next to the speaker folders::

    <data_folder>/transitions/splits.json             id to split
    <data_folder>/transitions/0011.txt                id, text
    <data_folder>/transitions/0011/0011_t00001.wav
"""

from pathlib import Path

from speechbrain_emofilm.dataio.audio import audio_info
from speechbrain_emofilm.utils.files import read_json, write_json

SPLITS = {"train": "train", "evaluation": "valid", "test": "test"}


def prepare_transitions(data_folder, save_folder):
    """Write ``transitions_{train,valid,test}.json`` into ``save_folder``.

    The manifests have the fields that :func:`esd_prepare.prepare_esd` writes;
    the emotion is null, since it differs from word to word. For a corpus
    without a transitions part, nothing is written, and the manifests that
    another corpus left in ``save_folder`` are removed. An error in a file of
    the part stops the preparation before anything is written.
    """
    folder = Path(data_folder) / "transitions"
    paths = {
        split: Path(save_folder) / f"transitions_{split}.json"
        for split in SPLITS.values()
    }
    if not folder.is_dir():
        for path in paths.values():
            path.unlink(missing_ok=True)
        return
    splits = _read_splits(folder / "splits.json")
    transcripts = {
        path: dict(_read_transcript(path))
        for path in sorted(folder.glob("*.txt"))
    }
    _check_complete(folder, splits, transcripts)
    manifests = {split: {} for split in SPLITS.values()}
    for transcript, texts in transcripts.items():
        for utterance, text in texts.items():
            place = Path("transitions", transcript.stem, f"{utterance}.wav")
            manifests[SPLITS[splits[utterance]]][utterance] = {
                "wav": f"{{data_root}}/{place.as_posix()}",
                "duration": audio_info(Path(data_folder) / place).duration,
                "speaker": transcript.stem,
                "language": "en",
                # `load_data_json` reads braces as replacements.
                "text": text.replace("{", "{{").replace("}", "}}"),
                "emotion": None,
            }
    for split, manifest in manifests.items():
        write_json(paths[split], manifest)


def _read_splits(path):
    """Read the split of each utterance id."""
    splits = read_json(path)
    if not isinstance(splits, dict) or not splits:
        raise ValueError(
            f"{path} is not a list of utterances and their splits: make "
            "the corpus again."
        )
    for utterance, split in splits.items():
        if split not in list(SPLITS):
            raise ValueError(
                f"{path}: the split of {utterance} is {split!r}; correct it "
                f"to one of {', '.join(SPLITS)}, or make the corpus again."
            )
    return splits


def _read_transcript(path):
    """Yield the utterance ids and texts of one speaker."""
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            line = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            # Guessing another encoding could give a wrong text.
            raise ValueError(
                f"{path}, line {number}: {line[:40]!r} is not UTF-8; save the "
                "file as UTF-8, or make the corpus again."
            ) from error
        utterance, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise ValueError(
                f"{path}, line {number}: {line!r} is not an id, a tab and a "
                "text: make the corpus again."
            )
        yield utterance, text.strip()


def _check_complete(folder, splits, transcripts):
    """Check that splits and transcripts name the same utterances."""
    listing = folder / "splits.json"
    remedy = "copy it again, or make the corpus again."
    for transcript, texts in transcripts.items():
        unknown = min(texts.keys() - splits.keys(), default=None)
        if unknown is not None:
            raise ValueError(
                f"{listing} has no split of {unknown} ({transcript}): {remedy}"
            )
    known = set().union(*transcripts.values())
    lost = min(splits.keys() - known, default=None)
    if lost is not None:
        transcript = folder / f"{lost.partition('_')[0]}.txt"
        if transcript not in transcripts:
            raise FileNotFoundError(
                f"{transcript} does not exist, but {listing} lists {lost}: "
                f"{remedy}"
            )
        raise ValueError(
            f"{transcript} has no line of {lost}, which {listing} lists: "
            f"{remedy}"
        )
