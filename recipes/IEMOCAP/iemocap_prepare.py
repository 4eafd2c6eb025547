"""Prepare IEMOCAP from the folders of its original release.

Reads the transcripts, the emotion evaluations and the forced alignments, if
present; writes ``train.json``, ``valid.json``, ``test.json`` and one TextGrid
per aligned turn. Nothing is written to the corpus folder::

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
#: Abbreviation of each category; ``xxx`` means that the raters disagree.
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
#: Attributes in the order of the evaluation files, each rated from 1 to 5.
ATTRIBUTES = ("valence", "arousal", "dominance")
LOWEST, HIGHEST = 1.0, 5.0
#: Frames per second of the forced alignments.
FRAME_RATE = 100

STATE_FILE = "iemocap_prepare.json"
SKIPPED_FILE = "skipped.json"
ALIGNMENT_FOLDER = "textgrids"

_EVALUATION = re.compile(
    r"\s*\[[^][]*\]\s+(?P<id>Ses\w+_[FM]\w+)\s+(?P<category>[a-z]{3})\s+"
    r"\[(?P<ratings>[^][]*)\]\s*"
)
#: A line that begins with the times of a turn.
_LIKE_EVALUATION = re.compile(r"\s*\[\s*\d")
_RATING = re.compile(r"\s*-?[0-9]+(\.[0-9]*)?\s*")
_SUMMARY_LINE = (
    "line such as '[6.2901 - 8.2357] <tab> id <tab> neu <tab> "
    "[2.5000, 2.5000, 2.5000]'"
)
_TRANSCRIPT = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]:\s*(.*)")
_SEGMENT = re.compile(r"\s*([0-9]{1,9})\s+([0-9]{1,9})\s+-?\d+\s+(\S+)\s*")
#: Laughter, breathing and other noises in the transcripts.
_NOISE = re.compile(r"\[[A-Z_ ]+\]|\+\+[A-Z_ ]+\+\+")


@dataclass(frozen=True)
class Evaluation:
    """The raters' evaluation of a turn."""

    category: str  # one of the values of CATEGORIES
    attributes: Mapping[str, float] | None  # 0 to 1; None if unreadable


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
    """Write the manifests of one fold, and TextGrids of the aligned turns.

    No speaker occurs in two sessions, so that testing on one session is
    speaker-independent.

    A manifest holds, for each turn: ``wav``, ``duration``, ``speaker``,
    ``language``, ``text`` (braces doubled, as SpeechBrain formats every
    string), ``emotion``, and, from 0 to 1, ``valence``, ``arousal``,
    ``dominance`` and ``intensity``, which equals the arousal.

    Turns whose emotion is not in `emotions` are left out and counted, whatever
    else is wrong with them. Other turns that cannot be used are left out,
    counted and listed in ``skipped.json``, as are lines of the evaluations
    that cannot be read. A turn whose forced alignment is missing or damaged
    is kept without a TextGrid: an aligner can create it.

    Arguments
    ---------
    data_folder : str or Path
        Folder that holds ``Session1`` to ``Session5``, or some of them.
    save_folder : str or Path
        Folder of the manifests and ``textgrids/<speaker>/<id>.TextGrid``.
    test_session : int
        Session of the test split, 1 to 5.
    valid_session : int, optional
        Session of the validation split; by default the session before
        `test_session`, and session 5 for session 1.
    excited_is_happy : bool
        Whether to count the category ``exc`` as happy, as is usual.
    emotions : list of str
        The emotions to keep.
    max_duration : float
        Longest turn in seconds; longer turns are skipped.
    max_bad_share : float
        Largest share of turns that may be unusable, 0 to 1.
    skip_prep : bool
        Skip this step.

    Raises
    ------
    FileNotFoundError
        If a folder or a file of the release is missing.
    ValueError
        If an option is wrong, a split is empty, or too many turns cannot be
        used.
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
        turns = sorted(_read_session(folder, bad).items())
        for turn, (evaluation, text, wav) in tqdm(
            turns, desc=f"Session {number}"
        ):
            emotion = evaluation.category
            if emotion == "excited" and excited_is_happy:
                emotion = "happy"
            if emotion not in emotions:
                others[emotion] += 1
                continue
            try:
                duration = _check_turn(
                    turn, evaluation, text, wav, max_duration
                )
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
    """Return the speaker of a turn.

    The first ``F`` or ``M`` of a turn id names the actor who wears the motion
    capture markers, the last one the actor who speaks.

    Example
    -------
    >>> speaker_of("Ses01F_impro01_M003")
    'Ses01M'
    """
    return turn[:5] + turn.rpartition("_")[2][0]


def read_evaluations(
    path: str | Path,
) -> tuple[dict[str, Evaluation], dict[str, str]]:
    r"""Read the summary lines of an ``EmoEvaluation`` file.

    Returns the evaluation of each turn id, and the reason for each line that
    begins like a summary line but is none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "Ses01F_impro01.txt"
    >>> _ = path.write_text(
    ...     "[6.29 - 8.24]\tSes01F_impro01_F000\tneu\t[2.5,2.0, 3.0]\n"
    ... )
    >>> evaluations, malformed = read_evaluations(path)
    >>> evaluations["Ses01F_impro01_F000"].attributes, malformed
    ({'valence': 0.375, 'arousal': 0.25, 'dominance': 0.5}, {})
    """
    evaluations, malformed = {}, {}
    for number, line in enumerate(_lines(path), start=1):
        match = _EVALUATION.fullmatch(line)
        if match is None:
            if _LIKE_EVALUATION.match(line):
                malformed[f"{Path(path).name} line {number}"] = (
                    f"{path} line {number}: {line!r} is not a {_SUMMARY_LINE}; "
                    "correct it."
                )
            continue
        category = CATEGORIES.get(match["category"])
        if category is None:
            raise ValueError(
                f"{path} line {number}: {match['category']!r} is no category "
                f"of IEMOCAP ({', '.join(CATEGORIES)}); copy the file again."
            )
        evaluations[match["id"]] = Evaluation(
            category, _attributes(match["ratings"].split(","))
        )
    if not evaluations and not malformed:
        raise ValueError(f"{path}: no {_SUMMARY_LINE}; copy the file again.")
    return evaluations, malformed


def _attributes(ratings):
    """Scale three ratings to 0 to 1; return None if they cannot be read."""
    if len(ratings) != len(ATTRIBUTES) or not all(
        _RATING.fullmatch(rating) for rating in ratings
    ):
        return None
    return {
        name: min(1.0, max(0.0, (float(rating) - LOWEST) / (HIGHEST - LOWEST)))
        for name, rating in zip(ATTRIBUTES, ratings)
    }


def read_transcripts(path: str | Path) -> dict[str, str]:
    r"""Read the texts of a dialogue's turns, without noises.

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
    r"""Read the word times of one of the release's forced alignments.

    A ``.wdseg`` file holds the first and last frame (10 ms each), acoustic
    score and word of each segment. Silence and noise are left out.

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
    """Read the lines of a text file, which may be Windows-1252."""
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
    """Raise ValueError for sessions and emotions that do not exist."""
    for session in (test_session, valid_session):
        if session not in SESSIONS:
            raise ValueError(
                f"Session {session!r} does not exist: give 1 to 5."
            )
    if test_session == valid_session:
        raise ValueError(
            f"Session {test_session} cannot be used for both test and "
            "validation: give two sessions."
        )
    unknown = sorted(set(emotions) - set(CATEGORIES.values()))
    if unknown:
        raise ValueError(
            f"IEMOCAP has no emotion {unknown[0]!r}: choose from "
            f"{', '.join(CATEGORIES.values())}."
        )


def _find_sessions(data_folder):
    """Map the number of each session to its folder."""
    sessions = {n: data_folder / f"Session{n}" for n in SESSIONS}
    sessions = {n: path for n, path in sessions.items() if path.is_dir()}
    if not sessions:
        raise FileNotFoundError(
            f"data_folder {data_folder} has no folder Session1 to Session5: "
            "give the folder of IEMOCAP's release that holds them."
        )
    return sessions


def _fingerprint(sessions):
    """Return number, size and time of annotations, and number of wavs."""
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
    """Check if all files have been written with the same options."""
    outputs = [f"{split}.json" for split in SPLITS] + [STATE_FILE]
    if not all((save_folder / name).is_file() for name in outputs):
        return False
    return read_json(save_folder / STATE_FILE) == state


def _read_session(folder, bad):
    """Map turn ids to (evaluation, text, wav); list unreadable lines."""
    paths = sorted((folder / "dialog" / "EmoEvaluation").glob("Ses*.txt"))
    if not paths:
        raise FileNotFoundError(
            f"{folder / 'dialog' / 'EmoEvaluation'} has no file such as "
            "Ses01F_impro01.txt: copy it from IEMOCAP's release."
        )
    turns = {}
    for path in paths:
        texts = read_transcripts(
            folder / "dialog" / "transcriptions" / path.name
        )
        evaluations, malformed = read_evaluations(path)
        bad.update(malformed)
        for turn, evaluation in evaluations.items():
            wav = folder / "sentences" / "wav" / path.stem / f"{turn}.wav"
            turns[turn] = evaluation, texts.get(turn, ""), wav
    return turns


def _check_turn(turn, evaluation, text, wav, max_duration):
    """Return a turn's duration; raise ValueError if it cannot be used."""
    if evaluation.attributes is None:
        raise ValueError(
            f"the three ratings of {turn} in EmoEvaluation cannot be read; "
            "correct its line."
        )
    if not split_words(text):
        raise ValueError(
            f"the transcription has no words of {turn}; add its line."
        )
    return audio_info(wav, max_duration).duration


def _convert_alignment(folder, turn, text, duration, grid):
    """Write a turn's TextGrid; return the state of its forced alignment."""
    dialogue = turn.rpartition("_")[0]
    path = folder / "sentences" / "ForcedAlignment" / dialogue / f"{turn}.wdseg"
    if not path.is_file():
        return "missing"
    words, spoken = split_words(text), read_wdseg(path)
    if len(words) != len(spoken) or not all(
        same_word(word.text, segment.text)
        for word, segment in zip(words, spoken)
    ):
        state = "of other words"
        problem = f"its words differ from the transcript of {turn}"
    else:
        try:
            write_alignment(grid, spoken, duration)
            return "used"
        except ValueError as error:
            state, problem = "damaged", str(error)
    logger.warning(f"{path} is not used ({problem}): align the turn again.")
    return state


def _write_manifests(save_folder, items, test_session, valid_session):
    """Write one JSON file per split."""
    splits = {test_session: "test", valid_session: "valid"}
    manifests = {split: {} for split in SPLITS}
    for turn, item in items.items():
        split = splits.get(int(turn[3:5]), "train")
        manifests[split][turn] = item
    for split, manifest in manifests.items():
        if not manifest:
            raise ValueError(
                f"split {split!r} is empty with test_session {test_session} "
                f"and valid_session {valid_session}: choose other sessions, "
                "or copy the missing ones."
            )
    for split, manifest in manifests.items():
        write_json(save_folder / f"{split}.json", manifest)
        logger.info(f"{split}: {len(manifest)} turns")
