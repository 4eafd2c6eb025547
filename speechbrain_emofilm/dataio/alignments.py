"""Word alignments: start and end time of each word of an utterance.

Alignments are TextGrids in the layout of the Montreal Forced Aligner (MFA):
``<folder>/<speaker>/<utterance>.TextGrid`` with a tier ``words`` in which an
empty interval is silence. MFA's output folder can be read directly. Aligners
of this project add a tier ``confidence``: a number from 0 to 1 for each word.

This module is the only one that imports praatio.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.dataio.text import same_word, split_words
from speechbrain_emofilm.utils.files import atomic_path

import torch

#: Labels that aligners use for silence.
SILENCES = frozenset({"", "<eps>", "<sil>", "sil", "sp"})
#: Label that MFA can be configured to use for words not in its dictionary.
UNKNOWN_WORD = "<unk>"
CONFIDENCE_TIER = "confidence"

# Seconds by which an alignment may extend beyond the speech tokens: a
# tokenizer drops an incomplete last token, an aligner rounds up.
_TOLERANCE = 0.5


@dataclass(frozen=True)
class Word:
    """A word with its start and end time.

    Arguments
    ---------
    text : str
        The word.
    start : float
        Start of the word, in seconds.
    end : float
        End of the word, in seconds.
    confidence : float
        Confidence of the aligner, 0 to 1.
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0


def find_textgrid(
    folder: str | Path, utterance: str, speaker: str | None = None
) -> Path:
    """Find the TextGrid of an utterance.

    Arguments
    ---------
    folder : str or Path
        An aligner's output folder.
    utterance : str
        The utterance id, the file's name without its extension.
    speaker : str, optional
        Speaker, whose folder MFA writes the file to.

    Raises
    ------
    FileNotFoundError
        If the file is neither in the speaker's folder nor in `folder`.
    """
    places = [Path(folder) / speaker] if speaker else []
    places.append(Path(folder))
    for place in places:
        path = place / f"{utterance}.TextGrid"
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"Utterance {utterance} has no alignment: "
        f"{places[0] / utterance}.TextGrid does not exist. Align the corpus, "
        "or give the folder that the aligner wrote."
    )


def read_alignment(path: str | Path, tier: str = "words") -> list[Word]:
    """Read the words of a TextGrid (long or short format).

    Arguments
    ---------
    path : str or Path
        The file.
    tier : str
        Name of the tier. MFA writes ``speaker - words`` where a file holds
        several speakers; such a tier is used if it is the only one.

    Returns
    -------
    list of Word
        Words in order of time, without silence. Their confidence is read
        from the tier ``confidence``; it is 1 without that tier.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a TextGrid, has no such tier, its intervals
        overlap or are reversed, or the confidences are not those of its
        words.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.TextGrid"
    >>> write_alignment(path, [Word("We", 0.1, 0.4)], duration=1.0)
    >>> read_alignment(path)
    [Word(text='We', start=0.1, end=0.4, confidence=1.0)]
    """
    tiers = read_tiers(path)
    named = [n for n in tiers if n == tier or n.endswith(f" - {tier}")]
    if len(named) != 1:
        raise ValueError(
            f"{path} has the tiers {', '.join(tiers) or 'none'}, and "
            f"{len(named)} of them are named {tier!r}: give the name of the "
            "tier that holds the words."
        )
    spoken = [
        interval
        for interval in tiers[named[0]]
        if interval[2].strip().lower() not in SILENCES
    ]
    confidences = _confidences(path, tiers.get(CONFIDENCE_TIER), spoken)
    return [
        Word(label, start, end, confidence)
        for (start, end, label), confidence in zip(spoken, confidences)
    ]


def _confidences(path, tier, spoken) -> list[float]:
    """Read the confidence of each word from the tier, if present."""
    if tier is None:
        return [1.0] * len(spoken)
    same_times = [i[:2] for i in tier] == [i[:2] for i in spoken]
    try:
        confidences = [float(label) for _, _, label in tier]
    except ValueError:
        confidences = [math.nan]
    if not same_times or not all(0 <= c <= 1 for c in confidences):
        raise ValueError(
            f"{path}: the tier {CONFIDENCE_TIER!r} does not give each word a "
            "number from 0 to 1: remove the tier, or align the utterance "
            "again."
        )
    return confidences


def match_words(
    found: Sequence[Word], text: str, path: str | Path
) -> list[Word]:
    """Check that an alignment matches a text.

    Arguments
    ---------
    found : list of Word
        The words of the alignment.
    text : str
        Transcript of the utterance.
    path : str or Path
        File of the alignment, for error messages.

    Returns
    -------
    list of Word
        The words, spelled as in the text. A word that the aligner did not
        know (``<unk>``) has confidence 0.

    Raises
    ------
    ValueError
        If the number or the spelling of the words differs.

    Example
    -------
    >>> match_words([Word("we", 0.0, 0.2)], "We!", "a.TextGrid")
    [Word(text='We', start=0.0, end=0.2, confidence=1.0)]
    """
    expected = [word.text for word in split_words(text)]
    if len(found) != len(expected):
        raise ValueError(
            f"{path} has {len(found)} words, but the text {text!r} "
            f"{len(expected)}: align the utterance again with this text."
        )
    matched = []
    for index, (word, name) in enumerate(zip(found, expected)):
        unknown = word.text == UNKNOWN_WORD
        if not unknown and not same_word(word.text, name):
            raise ValueError(
                f"{path}: word {index} is {word.text!r}, but {name!r} in the "
                f"text {text!r}: it belongs to another utterance; align this "
                "one again."
            )
        confidence = 0.0 if unknown else word.confidence
        matched.append(Word(name, word.start, word.end, confidence))
    return matched


def write_alignment(
    path: str | Path, words: Sequence[Word], duration: float
) -> None:
    """Write words as a TextGrid in MFA's layout, which Praat can open.

    If any word has a confidence below 1, all confidences are written as a
    separate tier.

    Arguments
    ---------
    path : str or Path
        File to write; its folder is created.
    words : list of Word
        Words in order of time.
    duration : float
        Duration of the utterance, in seconds.
    """
    tiers = {"words": [(w.start, w.end, w.text) for w in words]}
    if any(word.confidence < 1 for word in words):
        tiers[CONFIDENCE_TIER] = [
            (w.start, w.end, f"{w.confidence:.3f}") for w in words
        ]
    write_tiers(path, tiers, duration)


def read_tiers(
    path: str | Path,
) -> dict[str, list[tuple[float, float, str]]]:
    """Read the interval tiers of a TextGrid.

    Arguments
    ---------
    path : str or Path
        The file, UTF-8 or UTF-16, long or short format.

    Returns
    -------
    dict
        Tier name to its (start, end, label) intervals, empty labels left
        out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a TextGrid.
    """
    from praatio import textgrid

    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give the path of a TextGrid."
        )
    try:
        grid = textgrid.openTextgrid(
            str(path),
            includeEmptyIntervals=False,
            reportingMode="silence",
            duplicateNamesMode="rename",
        )
    except Exception as error:  # praatio raises many types
        reason = " ".join(str(error).split())  # may have several lines
        raise ValueError(
            f"{path} cannot be read as a TextGrid ({reason}): write it again "
            "with the aligner or with Praat."
        ) from error
    return {
        tier.name: [tuple(entry) for entry in tier.entries]
        for tier in grid.tiers
        if isinstance(tier, textgrid.IntervalTier)
    }


def write_tiers(
    path: str | Path,
    tiers: dict[str, Sequence[tuple[float, float, str]]],
    duration: float,
) -> None:
    """Write interval tiers as a long TextGrid.

    Arguments
    ---------
    path : str or Path
        File to write; its folder is created.
    tiers : dict
        Tier name to its (start, end, label) intervals in order of time.
    duration : float
        Duration of the utterance, in seconds; extended to the last interval.

    Raises
    ------
    ValueError
        If intervals of a tier overlap or have no length.
    """
    from praatio import textgrid

    ends = [end for tier in tiers.values() for _, end, _ in tier]
    duration = max([duration, *ends])
    grid = textgrid.Textgrid(0.0, duration)
    try:
        for name, intervals in tiers.items():
            # Many readers take a line break for the end of a label.
            entries = [
                (start, end, re.sub(r"\s+", " ", label))
                for start, end, label in intervals
            ]
            grid.addTier(textgrid.IntervalTier(name, entries, 0.0, duration))
    except Exception as error:
        raise ValueError(
            f"{path} cannot be written as a TextGrid ({error}): give "
            "intervals in order of time that do not overlap."
        ) from error
    with atomic_path(path) as temporary:
        grid.save(str(temporary), "long_textgrid", includeBlankSpaces=True)


def word_of_speech(
    words: Sequence[Word], n_tokens: int, rate: float = 25.0
) -> torch.Tensor:
    """Assign each speech token to the word spoken at its time.

    Boundaries are rounded to whole tokens; where a short word would get none,
    its neighbours are shortened, so that every word has at least one token.

    Arguments
    ---------
    words : list of Word
        Words in order of time.
    n_tokens : int
        Number of speech tokens of the utterance.
    rate : float
        Tokens per second.

    Returns
    -------
    torch.Tensor
        (n_tokens,) long: the index of the word, -1 for silence.

    Raises
    ------
    ValueError
        If there are more words than tokens, if the words are not in order,
        or if they extend far beyond the tokens.

    Example
    -------
    >>> words = [Word("We", 0.04, 0.12), Word("won", 0.12, 0.24)]
    >>> word_of_speech(words, n_tokens=8).tolist()
    [-1, 0, 0, 1, 1, 1, -1, -1]
    """
    _check_times(words, n_tokens, rate)
    starts, ends, free = [], [], 0
    for word in words:
        starts.append(max(free, math.floor(word.start * rate + 0.5)))
        free = max(starts[-1] + 1, math.floor(word.end * rate + 0.5))
        ends.append(free)
    limit = n_tokens
    for index in reversed(range(len(words))):
        ends[index] = min(ends[index], limit)
        starts[index] = limit = min(starts[index], ends[index] - 1)
    word_of_token = torch.full((n_tokens,), -1, dtype=torch.long)
    for index, (start, end) in enumerate(zip(starts, ends)):
        word_of_token[start:end] = index
    return word_of_token


def _check_times(words: Sequence[Word], n_tokens: int, rate: float) -> None:
    """Raise ValueError if an alignment cannot belong to the tokens."""
    if len(words) > n_tokens:
        raise ValueError(
            f"{len(words)} words ({words[0].text!r} to {words[-1].text!r}) "
            f"do not fit in {n_tokens} speech tokens: check that the "
            "transcript and the recording are of the same utterance."
        )
    previous = 0.0
    for index, word in enumerate(words):
        # Aligners round times: 1 ms of overlap is accepted.
        if not previous - 1e-3 <= word.start <= word.end:
            raise ValueError(
                f"Word {index} ({word.text!r}, {word.start:.3f} to "
                f"{word.end:.3f} s) is out of order: words must follow each "
                "other in time. Align the utterance again."
            )
        previous = word.end
    if previous > n_tokens / rate + _TOLERANCE:
        raise ValueError(
            f"The words end at {previous:.2f} s but the {n_tokens} speech "
            f"tokens at {n_tokens / rate:.2f} s: use the alignment of this "
            "recording."
        )
