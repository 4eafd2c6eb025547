"""Word alignments: start and end time of each word of an utterance.

Alignments are TextGrids in the layout of the Montreal Forced Aligner (MFA):
``<folder>/<speaker>/<utterance>.TextGrid`` with a tier ``words`` in which an
empty interval is silence. MFA's output folder can be read directly. Aligners
of this project add a tier ``confidence``: a number from 0 to 1 for each word.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from speechbrain_emofilm.dataio.tables import read_text
from speechbrain_emofilm.dataio.text import (
    is_ideograph,
    letters,
    split_words,
)
from speechbrain_emofilm.utils.files import atomic_path

import torch

#: Labels that aligners use for silence.
SILENCES = frozenset({"", "<eps>", "<sil>", "sil", "sp"})
#: Labels that MFA and other aligners write for words missing in the dictionary
#: and for words in brackets; they may also mark noise.
UNKNOWN_WORDS = frozenset(
    {"<unk>", "<oov>", "spn", "<spn>", "[bracketed]", "[laughter]", "<cutoff>"}
)
#: Labels of noise, such as ``[laugh]``, ``{LG}`` and ``<noise>``.
_NOISE = re.compile(r"\[.*\]|\{.*\}|<.*>|spn")
#: English words and Chinese characters that numbers are spoken with.
_NUMBER_WORDS = frozenset(
    """a and oh point zero nought one two three four five six seven eight nine
    ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    thousand million billion first second third fourth fifth sixth seventh
    eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth
    fiftieth sixtieth seventieth eightieth ninetieth hundredth thousandth
    零 〇 一 二 两 三 四 五 六 七 八 九 十 百 千 万 亿 点
    """.split()
)
#: Most Chinese characters that one unknown word of an aligner may be.
_LONGEST_UNKNOWN = 8
CONFIDENCE_TIER = "confidence"
#: Factor of the confidence of words whose border had to be guessed.
DIVIDED_CONFIDENCE = 0.5
#: Seconds by which intervals may overlap: aligners round times.
OVERLAP_TOLERANCE = 1e-3
#: Seconds that a word of no length takes from its neighbour.
_SHORTEST = 0.01

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


def read_alignment(
    path: str | Path, tier: str = "words", duration: float | None = None
) -> list[Word]:
    """Read the words of a TextGrid (long or short format).

    Arguments
    ---------
    path : str or Path
        The file.
    tier : str
        Name of the tier. MFA writes ``speaker - words`` where a file holds
        several speakers; such a tier is used if it is the only one.
    duration : float, optional
        Duration of the recording in seconds, at which words are cut.

    Returns
    -------
    list of Word
        Words in order of time, without silence. Their confidence is read
        from the tier ``confidence``; it is 1 without that tier. A word of no
        length takes 10 ms from the next one and has confidence 0.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a TextGrid, has no such tier, its intervals
        overlap or are reversed, a word lies after the recording's end, or
        the confidences are not those of its words.

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
    words = [
        Word(label, start, end, confidence)
        for (start, end, label), confidence in zip(spoken, confidences)
    ]
    for index, word in enumerate(words):
        if duration is not None and word.start >= duration:
            raise ValueError(
                f"{path}: word {index} ({word.text!r}) begins at "
                f"{word.start:.3f} s, but the recording ends at "
                f"{duration:.3f} s: use the alignment of this recording."
            )
        if duration is not None and word.end > duration + OVERLAP_TOLERANCE:
            words[index] = word = replace(word, end=duration)
        if word.end > word.start:
            continue
        end = word.start + _SHORTEST
        if index + 1 < len(words):
            following = words[index + 1]
            end = min(end, (following.start + following.end) / 2)
            start = max(following.start, end)
            words[index + 1] = replace(following, start=start)
        words[index] = replace(word, end=end, confidence=0.0)
    return words


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
    """Match the words of an alignment to those of a text, by their letters.

    An interval may hold several words of the text ("well-kept",
    "years'result", "21" for "twenty one") or a part of one ("we" and "'re").
    Aligners of Mandarin write words of several characters ("我们"), each of
    which is a word here. Boundaries inside an interval are guessed from the
    letters, so that characters get equal parts. Punctuation
    and noise such as ``[laugh]``, ``{LG}`` or ``<noise>`` are skipped.

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
        The words of the text. The confidence of words with guessed times is
        halved; that of words that the aligner did not know (``<unk>``) is 0.

    Raises
    ------
    ValueError
        If the words differ; the message names the first two that do.

    Example
    -------
    >>> match_words([Word("well-kept", 0.0, 0.8)], "Well-kept!", "a.TextGrid")
    [Word(text='Well', start=0.0, end=0.4, confidence=0.5),
     Word(text='kept', start=0.4, end=0.8, confidence=0.5)]
    >>> match_words([Word("我们", 0.0, 0.4)], "我们。", "a.TextGrid")
    [Word(text='我', start=0.0, end=0.2, confidence=0.5),
     Word(text='们', start=0.2, end=0.4, confidence=0.5)]
    """
    names = [word.text for word in split_words(text)]
    # Cost of the best match up to each pair of places, and its steps.
    best: dict[tuple[int, int], tuple[int, list]] = {(0, 0): (0, [])}
    reached = (0, 0)
    for place in (
        (i, j) for i in range(len(found) + 1) for j in range(len(names) + 1)
    ):
        if place not in best:
            continue
        cost, steps = best[place]
        i, j = place
        if (j, i) > reached[::-1]:
            reached = place
        for n_found, n_names, step_cost in _matches(found[i:], names[j:]):
            after = (i + n_found, j + n_names)
            if after not in best or cost + step_cost < best[after][0]:
                best[after] = (cost + step_cost, [*steps, (place, after)])
    if (len(found), len(names)) not in best:
        i, j = reached
        raise ValueError(
            f"{path}: word {i} is "
            f"{repr(found[i].text) if i < len(found) else 'missing'}, but "
            f"{repr(names[j]) if j < len(names) else 'missing'} in the text "
            f"{text!r} ({len(found)} and {len(names)} words): correct the "
            "text, or align it again."
        )
    matched: list[Word] = []
    for (i, j), (end, last) in best[len(found), len(names)][1]:
        if last > j:
            matched += _divide(found[i:end], names[j:last])
    return matched


def _matches(
    found: Sequence[Word], names: Sequence[str]
) -> Iterator[tuple[int, int, int]]:
    """Yield the numbers of first words that match, and the cost."""
    if not found:
        return
    label = found[0].text.strip()
    if not letters(label) or _NOISE.fullmatch(label):
        yield 1, 0, 0
    if names and label.lower() in UNKNOWN_WORDS:
        yield 1, 1, 3
        # An unknown word of Mandarin may have several characters.
        for n_names, name in enumerate(names[:_LONGEST_UNKNOWN], start=1):
            if not is_ideograph(name[0]):
                break
            if n_names > 1:
                yield 1, n_names, 2 + n_names
    n_found, n_names, left, right = 0, 0, "", ""
    while not left or left != right:
        shorter = len(left) <= len(right)
        if (n_found == len(found)) if shorter else (n_names == len(names)):
            break
        if shorter:
            left += letters(found[n_found].text)
            n_found += 1
        else:
            right += letters(names[n_names])
            n_names += 1
        if not (left.startswith(right) or right.startswith(left)):
            break
    if left and left == right:
        yield n_found, n_names, int((n_found, n_names) != (1, 1))
    # Digits on one side, number words on the other.
    texts = [word.text for word in found]
    for number, words in ((texts, names), (names, texts)):
        if not number or not any(map(str.isdigit, number[0])):
            continue
        for count, word in enumerate(words, start=1):
            parts = [part.text.lower() for part in split_words(word)]
            if not parts or not _NUMBER_WORDS.issuperset(parts):
                break
            yield (1, count, 2) if number is texts else (count, 1, 2)


def _divide(found: Sequence[Word], names: Sequence[str]) -> list[Word]:
    """Divide the time of some intervals among words, by their letters."""
    sizes = [max(len(letters(word.text)), 1) for word in found]
    edges = [0, *accumulate(sizes)]
    wanted = [0, *accumulate(len(letters(name)) for name in names)]
    scale = edges[-1] / wanted[-1]
    words = []
    for name, first, last in zip(names, wanted, wanted[1:]):
        times, guessed = [], False
        places = (first * scale, last * scale)
        begin = bisect_right(edges, places[0] + 1e-9) - 1
        end = bisect_left(edges, places[1] - 1e-9) - 1
        for place, index in zip(places, (begin, end)):
            word = found[index]
            part = (place - edges[index]) / sizes[index]
            inside = 1e-9 < part < 1 - 1e-9
            guessed |= inside
            times.append(
                word.start + part * (word.end - word.start)
                if inside
                else (word.start, word.end)[round(part)]
            )
        confidence = min(word.confidence for word in found[begin : end + 1])
        labels = {word.text.strip().lower() for word in found[begin : end + 1]}
        if labels & UNKNOWN_WORDS:
            confidence = 0.0
        elif guessed:
            confidence *= DIVIDED_CONFIDENCE
        words.append(Word(name, times[0], times[1], confidence))
    return words


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
        Tier name to its (start, end, label) intervals in order of time, empty
        labels left out. Overlaps of up to 1 ms are removed, and times below 0
        set to 0.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a TextGrid.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give the path of a TextGrid."
        )
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    content = read_text(path)
    try:
        for name, intervals in _parse_textgrid(content):
            unique, copies = name, 1
            while unique in tiers:
                copies += 1
                unique = f"{name}_{copies}"
            tiers[unique] = _without_overlaps(intervals)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a TextGrid ({error}): write it again "
            "with the aligner or with Praat."
        ) from error
    return tiers


# Like Praat, read only quoted texts and free-standing numbers: by these, the
# long and the short format are the same.
_TOKEN = re.compile(
    r""""((?:[^"]|"")*)"|(?<!\S)([+-]?[\d.]+(?:[eE][+-]?\d+)?)(?!\S)"""
)


def _parse_textgrid(
    content: str,
) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """Yield the name and the intervals of each interval tier."""
    tokens = _TOKEN.finditer(content)

    def take(group: int) -> str:
        token = next(tokens, None)
        if token is None or token[group] is None:
            at = token[0] if token else "the end"
            expected = ("", "a text", "a number")[group]
            raise ValueError(f"{expected} is missing at {at}")
        return token[group].replace('""', '"')

    if not take(1).startswith("ooTextFile") or take(1) != "TextGrid":
        raise ValueError("it does not begin like one")
    take(2), take(2)
    for _ in range(int(take(2))):
        kind, name = take(1), take(1)
        take(2), take(2)
        intervals = []
        for _ in range(int(take(2))):
            start = float(take(2))
            end = float(take(2)) if kind == "IntervalTier" else start
            label = take(1)
            if label.strip():
                intervals.append((start, end, label))
        if kind == "IntervalTier":
            yield name, intervals


def _without_overlaps(
    intervals: Sequence[tuple[float, float, str]],
) -> list[tuple[float, float, str]]:
    """Sort intervals, remove small overlaps and set times below 0 to 0."""
    moved = []
    previous = 0.0
    for start, end, label in sorted(intervals, key=lambda i: i[:2]):
        if end < start:
            raise ValueError(f"{label!r} ends before it begins, at {start} s")
        if moved and start < previous - OVERLAP_TOLERANCE:
            raise ValueError(
                f"{label!r} begins at {start} s, inside of {moved[-1][2]!r}"
            )
        start = max(start, previous)
        previous = max(start, end)
        moved.append((start, previous, label))
    return moved


def write_tiers(
    path: str | Path,
    tiers: Mapping[str, Sequence[tuple[float, float, str]]],
    duration: float,
) -> None:
    """Write interval tiers as a long TextGrid.

    Arguments
    ---------
    path : str or Path
        File to write; its folder is created.
    tiers : mapping
        Tier name to its (start, end, label) intervals.
    duration : float
        Duration of the utterance, in seconds; extended to the last interval.

    Raises
    ------
    ValueError
        If a time is not finite, or intervals of a tier overlap by more than
        1 ms or have no length.
    """
    from praatio import textgrid

    times = [
        time for tier in tiers.values() for one in tier for time in one[:2]
    ]
    if not all(map(math.isfinite, [duration, *times])):
        raise ValueError(
            f"{path} cannot be written as a TextGrid: give finite times."
        )
    duration = max([duration, *times])
    grid = textgrid.Textgrid(0.0, duration)
    try:
        for name, intervals in tiers.items():
            # Many readers take a line break for the end of a label.
            entries = [
                (start, end, re.sub(r"\s+", " ", label))
                for start, end, label in _without_overlaps(intervals)
            ]
            grid.addTier(textgrid.IntervalTier(name, entries, 0.0, duration))
    except Exception as error:  # praatio raises many types
        raise ValueError(
            f"{path} cannot be written as a TextGrid ({error}): give "
            "intervals with a length that do not overlap."
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
        if not previous - OVERLAP_TOLERANCE <= word.start <= word.end:
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
