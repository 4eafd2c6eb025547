"""Where a long text is cut, and how long the pauses between its parts are.

The grouping is that of CosyVoice2's front end: pieces of 60 to 80 tokens, cut
at sentence ends. No package for sentence boundaries is used: a normaliser
reads abbreviations, initials and decimals ("Dr.", "3.5") as words before the
text is cut, and the original's own rule applies to the result. Only text
without a normaliser is cut by the rules of this module, which need to be
cautious and not complete: a sentence end that is missed joins two sentences.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

from speechbrain_emofilm.dataio.markup import MarkedText, MarkedWord
from speechbrain_emofilm.dataio.normalization import (
    MAX_TOKENS,
    MIN_LAST_TOKENS,
    MIN_TOKENS,
    TextNormalizer,
    pack_sentences,
)
from speechbrain_emofilm.dataio.text import (
    TextUnits,
    blank_tags,
    language_of,
    word_of_characters,
)

_STOPS = ".?!…。？！"
_ENGLISH_END = re.compile(rf"[{_STOPS}]+[\"'”’)\]»]*\s")
_CHINESE_END = re.compile("[。？！]|……")
_CLAUSE_END = re.compile("[,;:，、；：—–]|\\s-+\\s")
_CLOSING_TAGS = re.compile(r"(?:\s*</[^>]*>)*")
#: A full stop behind them ends no sentence, nor one behind a single letter.
_ABBREVIATIONS = frozenset(
    "dr mr mrs ms prof st jr sr vs etc mt rev gen col capt lt sgt hon no vol "
    "fig approx dept est inc ltd co corp jan feb mar apr aug sept oct nov dec "
    "eg ie cf al".split()
)
#: Pause in seconds where a sentence is cut without punctuation.
_WORD_PAUSE = 0.1


class TextSplitter:
    """Choose where a long text is cut.

    Sizes are counted in units of the text front end (tokens or phonemes),
    Mandarin with a normaliser in characters, as in the original.

    Arguments
    ---------
    min_units, max_units : int
        Bounds of the size of a piece, if the sentences allow it.
    min_last_units : int
        A last piece below it is joined to the one before it.
    whole_units : int, optional
        Largest size of a text that is never cut; `max_units` if None.
    max_sentence_units : int
        Largest size of a sentence that is not cut. A longer one is halved
        until its parts are small enough, at commas if possible.
    sentence_pause, clause_pause : float
        Pauses in seconds between pieces, behind a sentence and within one.
    normalizer : TextNormalizer, optional
        Finds the sentence ends as the original does, for a text front end
        that normalises text itself. Without it, they are found in the text
        as it is.

    Raises
    ------
    ValueError
        If a size or a pause is not possible.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.markup import parse_markup
    >>> splitter = TextSplitter(min_units=3, max_units=5, min_last_units=2)
    >>> marked = parse_markup("We won it, Dr. Lee. He left. Why?", ["sad"])
    >>> units = TextUnits(list(range(8)), list(range(8)), ["w"] * 8)
    >>> splitter.split(marked, units)
    [5, 8]
    >>> splitter.pause(marked, 5), splitter.pause(marked, 3)
    (0.5, 0.25)
    """

    def __init__(
        self,
        min_units: int = MIN_TOKENS,
        max_units: int = MAX_TOKENS,
        min_last_units: int = MIN_LAST_TOKENS,
        whole_units: int | None = None,
        max_sentence_units: int = 200,
        sentence_pause: float = 0.5,
        clause_pause: float = 0.25,
        normalizer: TextNormalizer | None = None,
    ):
        if not 0 <= min_units <= max_units <= max_sentence_units:
            raise ValueError(
                f"A TextSplitter cannot have min_units {min_units}, max_units "
                f"{max_units} and max_sentence_units {max_sentence_units}: "
                "give numbers of at least 0 in rising order."
            )
        if min(sentence_pause, clause_pause) < 0:
            raise ValueError(
                f"A TextSplitter cannot have the pauses {sentence_pause} and "
                f"{clause_pause}: give seconds of 0 or more."
            )
        self.min_units = min_units
        self.max_units = max_units
        self.min_last_units = min_last_units
        self.whole_units = max_units if whole_units is None else whole_units
        self.max_sentence_units = max_sentence_units
        self.sentence_pause = sentence_pause
        self.clause_pause = clause_pause
        self.normalizer = normalizer

    def split(self, marked: MarkedText, units: TextUnits) -> list[int]:
        """Choose the ends of the pieces of a text.

        Arguments
        ---------
        marked : MarkedText
            The text.
        units : TextUnits
            What the front end makes of it.

        Returns
        -------
        list of int
            Index after the last word of each piece.
        """
        reached = units_before(units)
        if reached[-1] <= self.whole_units:
            return [len(marked.words)]
        if self.normalizer is None:
            ends = sentence_ends(marked)
        else:
            found = self.normalizer.sentence_ends(marked)
            ends = [end for end, _ in found]
        sizes = [0, *(reached[end] for end in ends)]
        if self.normalizer is not None and language_of(marked.text) == "zh":
            sizes = list(accumulate((n for _, n in found), initial=0))
        groups = pack_sentences(
            len(ends),
            lambda start, end: sizes[end] - sizes[start],
            self.min_units,
            self.max_units,
            self.min_last_units,
        )
        pieces: list[int] = []
        for _, last in groups:
            start = pieces[-1] if pieces else 0
            pieces += self._cut_long(marked, start, ends[last - 1], reached)
        return pieces

    def _cut_long(
        self, marked: MarkedText, start: int, end: int, reached: Sequence[int]
    ) -> list[int]:
        """Return the ends of the parts of a piece, which are mostly one."""
        size = reached[end] - reached[start]
        if size <= self.max_sentence_units:
            return [end]
        middle = (reached[start] + reached[end]) / 2
        near = [
            word
            for word in range(start + 1, end)
            if abs(reached[word] - middle) <= size / 4
        ]
        if not near:
            return [end]
        # The strongest punctuation, then the most equal parts.
        best = max(
            near,
            key=lambda word: (
                self.pause(marked, word),
                -abs(reached[word] - middle),
            ),
        )
        return [
            *self._cut_long(marked, start, best, reached),
            *self._cut_long(marked, best, end, reached),
        ]

    def pause(self, marked: MarkedText, end: int) -> float:
        """Return the natural pause behind the words up to an index.

        Arguments
        ---------
        marked : MarkedText
            The text.
        end : int
            Index after the last word before the pause.

        Returns
        -------
        float
            Seconds, by the punctuation there.
        """
        gap = _gap(marked, end)
        if any(stop in gap for stop in _STOPS):
            return self.sentence_pause
        return self.clause_pause if _CLAUSE_END.search(gap) else _WORD_PAUSE


def units_before(units: TextUnits) -> list[int]:
    """Count the units before each of W words, and all: W + 1 numbers.

    Units of no word count to the word before them.

    Arguments
    ---------
    units : TextUnits
        A text as the front end reads it.

    Example
    -------
    >>> units_before(TextUnits([5, 6, 7, 8], [0, -1, 1, 1], ["a", "be"]))
    [0, 2, 4]
    """
    reached = [0, *([len(units.ids)] * len(units.words))]
    for place in range(len(units.ids) - 1, -1, -1):
        word = units.word_of_unit[place]
        if word > 0:
            reached[word] = place
    for word in range(len(units.words) - 1, 0, -1):
        reached[word] = min(reached[word], reached[word + 1])
    return reached


def cut_marked(
    marked: MarkedText, ends: Sequence[int], tags: Sequence[str] = ()
) -> list[MarkedText]:
    """Cut a text with emotions of words.

    Arguments
    ---------
    marked : MarkedText
        The text. Its breaks are left out.
    ends : list of int
        Index after the last word of each part, rising; the last is the number
        of words.
    tags : list of str
        Tags of the language model, which are no words. They go with the word
        behind them, closing ones (``</strong>``) with that before.

    Returns
    -------
    list of MarkedText
        The parts, each with the punctuation that touches its words.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.markup import parse_markup
    >>> marked = parse_markup('<sad>He left.</> "Why?"', ["sad"])
    >>> [part.text for part in cut_marked(marked, [2, 3])]
    ['He left.', '"Why?"']
    """
    text = marked.text
    owners = word_of_characters(blank_tags(text, tags))
    starts: dict[int, int] = {}
    for place in range(len(text) - 1, -1, -1):
        starts[owners[place]] = place
    parts, first, start = [], 0, 0
    for end in ends:
        stop = len(text)
        if end < len(marked.words):
            stop = starts[end]
            if tags:
                own = stop
                while owners[own - 1] != end - 1:
                    own -= 1
                stop = _CLOSING_TAGS.match(text, own, stop).end()
        part = text[start:stop]
        lost = start + len(part) - len(part.lstrip())
        words = [
            MarkedWord(
                word.word,
                list(word.probs),
                word.intensity,
                word.start - lost,
                word.end - lost,
                dict(word.axes),
            )
            for word in marked.words[first:end]
        ]
        parts.append(MarkedText(part.strip(), words, list(marked.emotions)))
        first, start = end, stop
    return parts


def _gap(marked: MarkedText, end: int) -> str:
    """Return the characters between a word and the one before it."""
    following = marked.words[end].start if end < len(marked.words) else None
    return marked.text[marked.words[end - 1].end : following]


def sentence_ends(marked: MarkedText) -> list[int]:
    """Find the ends of the sentences of a text that is not normalised.

    Arguments
    ---------
    marked : MarkedText
        The text; its emotions do not matter.

    Returns
    -------
    list of int
        Index after the last word of each sentence.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.markup import parse_markup
    >>> sentence_ends(parse_markup("Dr. Lee left. Why?", ["sad"]))
    [3, 4]
    """
    inside = range(1, len(marked.words))
    ends = [end for end in inside if _ends_sentence(marked, end)]
    return [*ends, len(marked.words)]


def _ends_sentence(marked: MarkedText, end: int) -> bool:
    gap = _gap(marked, end)
    if _CHINESE_END.search(gap):
        return True
    found = _ENGLISH_END.search(gap)
    if found is None:
        return False
    if re.search(r"[\"”’»]", found[0]) and marked.words[end].word[0].islower():
        return False  # "Why?" he asked.
    if not found[0].startswith(".") or found[0].startswith(".."):
        return True
    word = marked.words[end - 1].word
    initial = len(word) == 1 and word.isalpha() and word != "I"
    return not initial and word.lower() not in _ABBREVIATIONS
