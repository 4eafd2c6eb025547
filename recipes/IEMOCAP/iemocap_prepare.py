"""Prepares IEMOCAP from the folders of its original release.

Reads transcripts, evaluations and, where there are any, the release's forced
alignments; writes ``train.json``, ``valid.json``, ``test.json`` and a
TextGrid per aligned utterance. The corpus folder is only read::

    <data_folder>/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt
    <data_folder>/Session1/dialog/transcriptions/Ses01F_impro01.txt
    <data_folder>/Session1/sentences/wav/Ses01F_impro01/<id>.wav
    <data_folder>/Session1/sentences/ForcedAlignment/Ses01F_impro01/<id>.wdseg

IEMOCAP: https://sail.usc.edu/iemocap/
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word, write_alignment
from speechbrain_emofilm.dataio.audio import audio_info
from speechbrain_emofilm.dataio.text import same_word, split_words
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.skipped import report_skipped

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
SESSIONS = (1, 2, 3, 4, 5)
#: Names of the release's categories. ``xxx`` is no agreement of the raters.
CATEGORIES = {
    "neu": "neutral",
    "ang": "angry",
    "hap": "happy",
    "exc": "excited",
    "sad": "sad",
    "sur": "surprise",
    "fru": "frustrated",
    "fea": "fearful",
    "dis": "disgusted",
    "oth": "other",
    "xxx": "undecided",
}
#: The attributes of an evaluation, in its order, each rated from 1 to 5.
ATTRIBUTES = ("valence", "arousal", "dominance")
LOWEST, HIGHEST = 1.0, 5.0
#: Frames per second of the forced alignments.
FRAME_RATE = 100

STATE_FILE = "iemocap_prepare.json"
SKIPPED_FILE = "skipped.json"
ALIGNMENT_FOLDER = "textgrids"

_EVALUATION = re.compile(
    r"\[(?P<start>[\d.]+) - (?P<end>[\d.]+)\]\t(?P<id>Ses\w+)\t"
    r"(?P<category>[a-z]{3})\t"
    r"\[(?P<attributes>[-\d.]+, [-\d.]+, [-\d.]+)\]\s*"
)
_TRANSCRIPT = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")
_SEGMENT = re.compile(r"\s*(\d+)\s+(\d+)\s+-?\d+\s+(\S+)\s*")
#: What the transcripts write for laughter, breathing and the like.
_NOISE = re.compile(r"\[[A-Z_ ]+\]|\+\+[A-Z_ ]+\+\+")


@dataclass(frozen=True)
class Evaluation:
    """What the raters say of a turn.

    Arguments
    ---------
    category : str
        Name of the emotion, one of the values of :data:`CATEGORIES`.
    attributes : dict
        Valence, arousal and dominance, each from 0 to 1.
    """

    category: str
    attributes: Mapping[str, float]


def prepare_iemocap(
    data_folder: str | Path,
    save_folder: str | Path,
    test_session: int = 5,
    valid_session: int | None = None,
    excited_is_happy: bool = True,
    emotions: Sequence[str] = ("neutral", "angry", "happy", "sad", "surprise"),
    max_duration: float = 30.0,
    max_bad_share: float = 0.01,
    skip_prep: bool = False,
) -> None:
    """Writes manifests of one fold, and TextGrids of the aligned turns.

    Each of the five sessions has two speakers of its own, so that a fold
    that tests on one session is independent of speakers.

    A manifest holds, by turn: ``wav``, ``duration``, ``speaker``,
    ``language``, ``text`` (braces doubled, as SpeechBrain formats every
    string), ``emotion``, and from 0 to 1 ``valence``, ``arousal``,
    ``dominance`` and ``intensity``, which is the arousal.

    Turns of another emotion than `emotions` are left out and counted. Turns
    that cannot be used are left out, counted and listed in ``skipped.json``.

    Arguments
    ---------
    data_folder : str or Path
        Folder that holds ``Session1`` to ``Session5``, or some of them.
    save_folder : str or Path
        Where the manifests and ``textgrids/<speaker>/<id>.TextGrid`` go.
    test_session : int
        The session that is tested on, 1 to 5.
    valid_session : int, optional
        The session for validation; by default the one before, in a circle.
    excited_is_happy : bool
        Whether the category ``exc`` counts as happy, as is usual.
    emotions : list of str
        The emotions to keep.
    max_duration : float
        Longest turn in seconds; longer ones are skipped.
    max_bad_share : float
        Largest share of turns that may be unusable, 0 to 1.
    skip_prep : bool
        True: do nothing.

    Raises
    ------
    FileNotFoundError
        If a folder or a file of the release is missing.
    ValueError
        If an option is wrong, a split is empty, or too many turns are bad.
    """
    if skip_prep:
        return
    data_folder, save_folder = Path(data_folder), Path(save_folder)
    if valid_session is None and test_session in SESSIONS:
        valid_session = SESSIONS[SESSIONS.index(test_session) - 1]
    _check_options(test_session, valid_session, emotions)
    options = {
        "test_session": test_session,
        "valid_session": valid_session,
        "excited_is_happy": excited_is_happy,
        "emotions": list(emotions),
        "max_duration": max_duration,
        "max_bad_share": max_bad_share,
    }
    sessions = _find_sessions(data_folder)
    state = {"options": options, "files": _fingerprint(sessions)}
    if _is_prepared(save_folder, state):
        logger.info(f"{save_folder} is up to date, nothing to prepare.")
        return
    (save_folder / STATE_FILE).unlink(missing_ok=True)
    items, bad, others, aligned = {}, {}, Counter(), Counter()
    for number, folder in sessions.items():
        turns = _read_session(folder, bad)
        for turn, (evaluation, text, wav) in tqdm(
            sorted(turns.items()), desc=f"Session {number}"
        ):
            emotion = evaluation.category
            if emotion == "excited" and excited_is_happy:
                emotion = "happy"
            if emotion not in emotions:
                others[emotion] += 1
                continue
            try:
                duration = audio_info(wav, max_duration).duration
            except (OSError, ValueError) as error:
                bad[turn] = str(error)
                continue
            items[turn] = {
                "wav": f"{{data_root}}/{wav.relative_to(data_folder)}",
                "duration": duration,
                "speaker": speaker_of(turn),
                "language": "en",
                "text": text.replace("{", "{{").replace("}", "}}"),
                "emotion": emotion,
                **evaluation.attributes,
                "intensity": evaluation.attributes["arousal"],
            }
            grid = save_folder / ALIGNMENT_FOLDER / speaker_of(turn)
            grid /= f"{turn}.TextGrid"
            aligned[_convert_alignment(folder, turn, text, duration, grid)] += 1
    logger.info(f"Turns of other emotions, left out: {dict(others)}")
    logger.info(f"Forced alignments of the release: {dict(aligned)}")
    report_skipped(
        bad,
        len(items) + len(bad),
        max_bad_share,
        save_folder / SKIPPED_FILE,
        "turns",
    )
    _write_manifests(save_folder, items, test_session, valid_session)
    write_json(save_folder / STATE_FILE, state)


def speaker_of(turn: str) -> str:
    """Who speaks a turn.

    Arguments
    ---------
    turn : str
        The turn's id: the session, who wears the markers of the motion
        capture, the dialogue, and who speaks.

    Example
    -------
    >>> speaker_of("Ses01F_impro01_M003")
    'Ses01M'
    """
    return turn[:5] + turn.rpartition("_")[2][0]


def read_evaluations(path: str | Path) -> dict[str, Evaluation]:
    r"""Reads the summary lines of an ``EmoEvaluation`` file.

    Arguments
    ---------
    path : str or Path
        A file such as ``Ses01F_impro01.txt``.

    Returns
    -------
    dict
        Turn id to what the raters agreed on.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has no summary line, or a category is unknown.

    Example
    -------
    >>> path = getfixture("tmp_path") / "Ses01F_impro01.txt"
    >>> _ = path.write_text(
    ...     "[6.29 - 8.24]\tSes01F_impro01_F000\tneu\t[2.5, 2.0, 3.0]\n"
    ... )
    >>> read_evaluations(path)["Ses01F_impro01_F000"].attributes
    {'valence': 0.375, 'arousal': 0.25, 'dominance': 0.5}
    """
    evaluations = {}
    for number, line in enumerate(_lines(path), start=1):
        match = _EVALUATION.fullmatch(line)
        if match is None:
            continue
        category = CATEGORIES.get(match["category"])
        if category is None:
            raise ValueError(
                f"{path} line {number}: {match['category']!r} is no category "
                f"of IEMOCAP ({', '.join(CATEGORIES)}); copy the file again."
            )
        rated = [float(value) for value in match["attributes"].split(", ")]
        evaluations[match["id"]] = Evaluation(
            category,
            {
                name: min(1.0, max(0.0, (value - LOWEST) / (HIGHEST - LOWEST)))
                for name, value in zip(ATTRIBUTES, rated)
            },
        )
    if not evaluations:
        raise ValueError(
            f"{path}: no line such as '[6.2901 - 8.2357] <tab> id <tab> neu "
            "<tab> [2.5000, 2.5000, 2.5000]'; copy the file again."
        )
    return evaluations


def read_transcripts(path: str | Path) -> dict[str, str]:
    r"""Reads the texts of a dialogue's turns, noises left out.

    Arguments
    ---------
    path : str or Path
        A file such as ``transcriptions/Ses01F_impro01.txt``.

    Returns
    -------
    dict
        Turn id to its text. Lines of other speakers and without times,
        which the release has as well, are passed over.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "Ses01F_impro01.txt"
    >>> line = "Ses01F_impro01_F000 [006.2901-008.2357]: Oh. [LAUGHTER] No.\n"
    >>> _ = path.write_text(line)
    >>> read_transcripts(path)
    {'Ses01F_impro01_F000': 'Oh. No.'}
    """
    texts = {}
    for line in _lines(path):
        match = _TRANSCRIPT.fullmatch(line.strip())
        if match:
            texts[match[1]] = " ".join(_NOISE.sub(" ", match[2]).split())
    return texts


def read_wdseg(path: str | Path) -> list[Word]:
    r"""Reads word times of the release's forced alignment.

    Arguments
    ---------
    path : str or Path
        A ``.wdseg`` file: first and last frame (10 ms each), acoustic score
        and word of each segment.

    Returns
    -------
    list of Word
        Without silence and noise, and without marks of pronunciation.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wdseg"
    >>> _ = path.write_text(
    ...     "\t SFrm  EFrm    SegAScr Word\n\t    0    51    -114 <s>\n"
    ...     "\t   52    66     -958 THE(2)\n Total score:   -1072\n"
    ... )
    >>> read_wdseg(path)
    [Word(text='THE', start=0.52, end=0.67, confidence=1.0)]
    """
    words = []
    for line in _lines(path):
        match = _SEGMENT.fullmatch(line)
        if match is None or match[3].startswith(("<", "+", "[")):
            continue
        words.append(
            Word(
                re.sub(r"\(\d+\)$", "", match[3]),
                int(match[1]) / FRAME_RATE,
                (int(match[2]) + 1) / FRAME_RATE,
            )
        )
    return words


def _lines(path):
    """Lines of a text file of the release, which is Windows-1252 in places."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: copy it from IEMOCAP's release."
        )
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace").splitlines()


def _check_options(test_session, valid_session, emotions):
    """Raises ValueError for folds and emotions that do not exist."""
    for session in (test_session, valid_session):
        if session not in SESSIONS:
            raise ValueError(
                f"Session {session!r} does not exist: give 1 to 5."
            )
    if test_session == valid_session:
        raise ValueError(
            f"Session {test_session} cannot be for test and validation: give "
            "two sessions."
        )
    unknown = sorted(set(emotions) - set(CATEGORIES.values()))
    if unknown:
        raise ValueError(
            f"IEMOCAP has no emotion {unknown[0]!r}: choose from "
            f"{', '.join(CATEGORIES.values())}."
        )


def _find_sessions(data_folder):
    """Session number to its folder; never none."""
    sessions = {n: data_folder / f"Session{n}" for n in SESSIONS}
    sessions = {n: path for n, path in sessions.items() if path.is_dir()}
    if not sessions:
        raise FileNotFoundError(
            f"data_folder {data_folder} has no folder Session1 to Session5: "
            "give the folder of IEMOCAP's release that holds them."
        )
    return sessions


def _fingerprint(sessions):
    """Number, size and time of the annotations, and the number of wavs."""
    files = []
    for folder in sessions.values():
        for pattern in ("EmoEvaluation/*.txt", "transcriptions/*.txt"):
            files += (folder / "dialog").glob(pattern)
    stats = [path.stat() for path in files]
    wavs = [
        len(list(f.glob("sentences/wav/*/*.wav"))) for f in sessions.values()
    ]
    return [
        len(files),
        sum(stat.st_size for stat in stats),
        max((int(stat.st_mtime) for stat in stats), default=0),
        sum(wavs),
    ]


def _is_prepared(save_folder, state):
    """Whether the same options have written all files."""
    outputs = [f"{split}.json" for split in SPLITS] + [STATE_FILE]
    if not all((save_folder / name).is_file() for name in outputs):
        return False
    return read_json(save_folder / STATE_FILE) == state


def _read_session(folder, bad):
    """Map turn ids to (evaluation, text, wav), and add to the bad turns."""
    paths = sorted((folder / "dialog" / "EmoEvaluation").glob("Ses*.txt"))
    if not paths:
        raise FileNotFoundError(
            f"{folder / 'dialog' / 'EmoEvaluation'} has no file such as "
            "Ses01F_impro01.txt: copy it from IEMOCAP's release."
        )
    turns = {}
    for path in paths:
        transcript = folder / "dialog" / "transcriptions" / path.name
        texts = read_transcripts(transcript)
        for turn, evaluation in read_evaluations(path).items():
            text = texts.get(turn, "")
            wav = folder / "sentences" / "wav" / path.stem / f"{turn}.wav"
            if split_words(text):
                turns[turn] = evaluation, text, wav
            else:
                bad[turn] = f"{transcript}: no words of {turn}; add its line."
    return turns


def _convert_alignment(folder, turn, text, duration, grid):
    """Writes a turn's TextGrid; returns how its alignment was found to be.

    A turn without one stays in the manifests: an aligner can make it.
    """
    dialogue = turn.rpartition("_")[0]
    path = folder / "sentences" / "ForcedAlignment" / dialogue / f"{turn}.wdseg"
    if not path.is_file():
        return "missing"
    words, spoken = split_words(text), read_wdseg(path)
    if len(words) != len(spoken) or not all(
        same_word(word.text, segment.text)
        for word, segment in zip(words, spoken)
    ):
        logger.warning(
            f"{path} has other words than the transcript of {turn}: it is "
            "not used; align the turn again."
        )
        return "of other words"
    write_alignment(grid, spoken, duration)
    return "used"


def _write_manifests(save_folder, items, test_session, valid_session):
    """Writes one JSON file per split."""
    splits = {test_session: "test", valid_session: "valid"}
    manifests = {split: {} for split in SPLITS}
    for turn, item in items.items():
        split = splits.get(int(turn[3:5]), "train")
        manifests[split][turn] = item
    for split, manifest in manifests.items():
        if not manifest:
            raise ValueError(
                f"split {split!r} is empty: test_session {test_session} and "
                f"valid_session {valid_session} leave it no turn; choose "
                "other sessions, or copy those that are missing."
            )
    for split, manifest in manifests.items():
        write_json(save_folder / f"{split}.json", manifest)
        logger.info(f"{split}: {len(manifest)} turns")
