"""Prepares the transitions part of MiniESD: sentences that change emotion.

ESD has no such part; its sentences keep one emotion. MiniESD's stands beside
the speaker folders::

    <data_folder>/transitions/splits.json             id to split
    <data_folder>/transitions/0011.txt                id, text
    <data_folder>/transitions/0011/0011_t00001.wav

Authors
 * speechbrain-emofilm contributors, 2026
"""

from pathlib import Path

from speechbrain_emofilm.dataio.audio import audio_info
from speechbrain_emofilm.utils.files import read_json, write_json

SPLITS = {"train": "train", "evaluation": "valid", "test": "test"}


def prepare_transitions(data_folder, save_folder):
    """Writes ``transitions_{train,valid,test}.json`` into ``save_folder``.

    The manifests hold what :func:`esd_prepare.prepare_esd` writes; the
    emotion is null, since it differs from word to word.

    Arguments
    ---------
    data_folder : str or Path
        Folder of MiniESD.
    save_folder : str or Path
        Where the manifests go.

    Raises
    ------
    FileNotFoundError
        If there is no such part, or a file of it is missing.
    ValueError
        If a transcript or an audio file cannot be read.
    """
    folder = Path(data_folder) / "transitions"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: set use_transitions to False for a "
            "corpus without a transitions part, such as ESD."
        )
    splits = read_json(folder / "splits.json")
    manifests = {split: {} for split in SPLITS.values()}
    for transcript in sorted(folder.glob("*.txt")):
        for utterance, text in _read_transcript(transcript):
            if utterance not in splits:
                raise ValueError(
                    f"{folder / 'splits.json'} has no split of {utterance} "
                    f"({transcript}): make the corpus again."
                )
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
        write_json(Path(save_folder) / f"transitions_{split}.json", manifest)


def _read_transcript(path):
    """Utterance ids and texts of one speaker."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        utterance, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise ValueError(
                f"{path}, line {number}: {line!r} is not an id, a tab and a "
                "text: make the corpus again."
            )
        yield utterance, text.strip()
