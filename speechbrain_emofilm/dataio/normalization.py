"""Text as CosyVoice2's front end reads it, with emotions kept on their words.

:class:`TextNormalizer` writes numbers, dates, money and abbreviations of
English and Mandarin as they are spoken, and cuts long text into pieces. The
grammars are those of the package ``wetext``, as in the original front end.

What differs from the original, on purpose:

* the backslashes that wetext 0.1.8 writes before quotation marks are removed;
* text is cleaned first, see :func:`clean_text`;
* ² and ³ are read in English, too, where the original says "zero";
* digits alone ("42") are read in English, not in Mandarin;
* text without a reading in wetext's grammars ("#1") is no error: its other
  parts are read, and its digits spelt.
"""

import logging
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.util import find_spec

from speechbrain_emofilm.dataio.markup import Break, MarkedText, MarkedWord
from speechbrain_emofilm.dataio.text import (
    TextWord,
    map_rewritten_words,
    split_words,
)

logger = logging.getLogger(__name__)

LANGUAGES = ("en", "zh", "both")
#: Bounds of the number of tokens of a piece of a long text, if its sentences
#: allow it. A last piece below the third is joined to the one before it.
MIN_TOKENS = 60
MAX_TOKENS = 80
MIN_LAST_TOKENS = 20

_CHINESE = re.compile("[\u4e00-\u9fff]")
_STOPS = {"en": ".?!;:", "zh": "。？！；：、.?!;"}
_FINAL_STOP = {"en": ".", "zh": "。"}
_CLOSING_QUOTES = '"”'
# A space stays in Mandarin only between two characters of ASCII.
_BLANK = r"(?<![\x00-\x1f!-\x7f]) | (?![\x00-\x1f!-\x7f])"
_DIGITS = "[\\d\u00b9\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468]+"

_PLAIN = re.compile(r"[A-Za-z\s,.!?;:'\"()\[\]‘’“”…–—-]*")
_ABBREVIATION = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|Mt|Ave|Rd|Gen|Capt|Lt|Sgt)\."
)

_SPACES = "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
# Joiners of emoji, and what marks a character as one, go with them.
_EMOJI = (
    "[\U0001f000-\U0001f0ff\U0001f10d-\U0001faff\u231a\u231b\u23e9-\u23fa\u2600-\u2775"
    "\u2794-\u27bf\u2b00-\u2bff]"
)
_INVISIBLE = (
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\u20e3\U000e0020-\U000e007f]"
)
_DASHES = "[\u2012-\u2015]"
# Not between numbers, where it multiplies; a run may have spaces around it.
_ASTERISKS = r"(?<![\d)*])(?<![\d)] )\*+|\*+(?! ?[\d(*])"

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_THOUSANDS = (
    " thousand million billion trillion quadrillion quintillion sextillion "
    "septillion octillion nonillion decillion"
).split(" ")


class TextNormalizer:
    """Write text as it is spoken, as CosyVoice2's front end does.

    ``normalizer(text)`` gives the whole text, :meth:`split` its pieces;
    :meth:`normalize_words` and :meth:`split_words` do the same with emotions
    of words. The grammars are loaded with the first text.

    Text with special tokens such as ``<|endofprompt|>`` stays as it is.

    Arguments
    ---------
    language : str
        ``"en"``, ``"zh"``, or ``"both"``: Mandarin for a text with a Chinese
        character, English for any other.
    clean : bool
        Whether to clean the text first, see :func:`clean_text`.
    sparing : bool
        Whether to leave text as it is that has English letters and common
        punctuation only and no abbreviation.

    Raises
    ------
    ImportError
        If wetext is missing; the message names the extra.
    ValueError
        If the language is another.

    Example
    -------
    >>> normalizer = TextNormalizer()
    >>> normalizer("Dr. Smith paid $25")
    'doctor Smith paid twenty five dollars.'
    >>> normalizer("今天是3月14日")
    '今天是三月十四日。'
    """

    def __init__(
        self, language: str = "both", clean: bool = True, sparing: bool = False
    ):
        if language not in LANGUAGES:
            raise ValueError(
                f"The language of a TextNormalizer cannot be {language!r}: "
                f"choose one of {', '.join(LANGUAGES)}."
            )
        if find_spec("wetext") is None:
            raise _missing("wetext")
        self.language = language
        self.clean = clean
        self.sparing = sparing
        self._grammars: dict = {}

    def __call__(self, text: str) -> str:
        """Normalise a text.

        Arguments
        ---------
        text : str
            Any text without emotion marks.

        Returns
        -------
        str
            The text as it is spoken, with a stop at its end.
        """
        return _join(self._sentences(_Traced.plain(text), text)).text

    def split(
        self, text: str, count_tokens: Callable[[str], int] | None = None
    ) -> list[str]:
        """Normalise a text and cut it between sentences if it is long.

        Arguments
        ---------
        text : str
            Any text without emotion marks.
        count_tokens : callable, optional
            Number of tokens of a text, of the language model's tokenizer.
            Without it, words and punctuation marks are counted. Mandarin is
            measured in characters, as in the original.

        Returns
        -------
        list of str
            Pieces of 60 to 80 tokens if the sentences allow it. A space
            between two pieces belongs to the second. Empty if there is
            nothing to speak.

        Example
        -------
        >>> TextNormalizer().split("It costs $5. I paid")
        ['It costs five dollars. I paid.']
        """
        pieces = self._pieces(_Traced.plain(text), text, count_tokens)
        return [piece.text for piece in pieces]

    def trace(self, text: str) -> tuple[str, list[int]]:
        """Normalise a text and say where its words come from.

        Arguments
        ---------
        text : str
            Any text without emotion marks.

        Returns
        -------
        normalised : str
            What calling the normaliser gives.
        origin : list of int
            For each word (:func:`~speechbrain_emofilm.dataio.text.split_words`)
            of the normalised text, the index of the word of `text` that it
            comes from; -1 for the reading of a mark that belongs to no word,
            such as the "and" for "&".

        Example
        -------
        >>> TextNormalizer().trace("Dr. A & $5")
        ('doctor A and five dollars.', [0, 1, -1, 2, 2])
        """
        traced = _join(self._sentences(_Traced.of_words(text), text))
        return traced.text, traced.word_owners()

    def normalize_words(self, marked: MarkedText) -> MarkedText:
        """Normalise a text with emotions of words.

        All words that a word becomes have its emotion, also where their
        order changes. The reading of a mark between two words ("&") has
        their emotion if it is the same, else it is unlabelled.

        Arguments
        ---------
        marked : MarkedText
            Text and emotions, from
            :func:`~speechbrain_emofilm.dataio.markup.parse_markup`.

        Returns
        -------
        MarkedText
            The normalised text, the same as without emotions. Breaks stay
            between the readings of the same words.

        Example
        -------
        >>> from speechbrain_emofilm.dataio.markup import parse_markup
        >>> marked = parse_markup("She paid <happy>$25</> today", ["happy"])
        >>> spoken = TextNormalizer().normalize_words(marked)
        >>> spoken.text
        'She paid twenty five dollars today.'
        >>> [word.word for word in spoken.words if word.probs == [1.0]]
        ['twenty', 'five', 'dollars']
        """
        traced = _Traced.of_marked(marked)
        whole = _join(self._sentences(traced, marked.text))
        return whole.marked(marked, marked.breaks)

    def sentence_ends(self, marked: MarkedText) -> list[tuple[int, int]]:
        """Find the sentences of the normalised text in the text itself.

        Arguments
        ---------
        marked : MarkedText
            A text; its emotions do not matter.

        Returns
        -------
        list of (int, int)
            For each sentence that :meth:`split` may cut behind, the index
            after its last word of `marked`, and the number of characters of
            its reading. Together they hold all words.

        Example
        -------
        >>> from speechbrain_emofilm.dataio.markup import parse_markup
        >>> marked = parse_markup("Dr. A paid $5. We won", ["happy"])
        >>> TextNormalizer().sentence_ends(marked)
        [(4, 27), (6, 8)]
        """
        traced = _Traced.of_marked(marked)
        ends: list[tuple[int, int]] = []
        for sentence in self._sentences(traced, marked.text):
            before, size = ends[-1][0] if ends else 0, len(sentence.text)
            end = max([before, *(owner + 1 for owner in sentence.owners)])
            if ends and end == before:  # no word of its own
                size += ends.pop()[1]
            ends.append((end, size))
        if ends:
            ends[-1] = (len(marked.words), ends[-1][1])
        return ends

    def split_words(
        self,
        marked: MarkedText,
        count_tokens: Callable[[str], int] | None = None,
    ) -> list[MarkedText]:
        """Normalise and cut a text with emotions of words.

        Arguments
        ---------
        marked : MarkedText
            Text and emotions of its words.
        count_tokens : callable, optional
            As for :meth:`split`.

        Returns
        -------
        list of MarkedText
            The pieces of :meth:`split` with the emotions of
            :meth:`normalize_words`; pieces of punctuation are left out.
        """
        traced = _Traced.of_marked(marked)
        pieces = self._pieces(traced, marked.text, count_tokens)
        spoken, first, left = [], 0, list(marked.breaks)
        for piece in pieces:
            first = max([first, *(owner + 1 for owner in piece.owners)])
            last = piece is pieces[-1]
            own = [b for b in left if last or b.word < first]
            left = left[len(own) :]
            spoken.append(piece.marked(marked, own))
        return spoken

    def _language_of(self, text: str) -> str:
        if self.language != "both":
            return self.language
        return "zh" if _CHINESE.search(text) else "en"

    def _pieces(
        self,
        traced: "_Traced",
        text: str,
        count_tokens: Callable[[str], int] | None,
    ) -> list["_Traced"]:
        """Group sentences into pieces and drop those of punctuation only."""
        sentences = self._sentences(traced, text, unescape=False)
        length: Callable[[str], int] = count_tokens or _count_words
        if self._language_of(text) == "zh":
            length = len
        groups = pack_sentences(
            len(sentences),
            lambda start, end: length(_join(sentences[start:end]).text),
            MIN_TOKENS,
            MAX_TOKENS,
            MIN_LAST_TOKENS,
        )
        pieces = [_join(sentences[start:end]) for start, end in groups]
        pieces = [_unescape(piece) for piece in pieces]
        return [p for p in pieces if not _is_punctuation(p.text)]

    def _sentences(
        self, traced: "_Traced", text: str, unescape: bool = True
    ) -> list["_Traced"]:
        """Normalise, and split behind each stop.

        The backslashes are undone last. Where they stood between a stop and
        a quotation mark, the original does not see the two as one end.
        """
        as_it_is = "<|" in text and "|>" in text
        if self.sparing and _PLAIN.fullmatch(text):
            as_it_is = not _ABBREVIATION.search(text)
        if as_it_is or not text.strip():
            return [traced] if text.strip() else []
        language = self._language_of(text)
        if self.clean:
            traced = _clean(traced, language)
        traced = traced.strip()
        if not traced.text:
            return []
        traced = self._read(traced, language)
        finish = _finish_chinese if language == "zh" else _finish_english
        traced = finish(traced)
        if not traced.text:
            return []
        if traced.text[-1] not in _STOPS[language]:
            traced += _Traced.plain(_FINAL_STOP[language])
        sentences = [
            traced.take(places)
            for places in _split_sentences(traced.text, _STOPS[language])
        ]
        return [_unescape(s) for s in sentences] if unescape else sentences

    def _read(self, traced: "_Traced", language: str) -> "_Traced":
        """Write numbers and so on as words; leave what has no reading."""
        spoken = self._say(traced.text, language)
        if spoken is not None:
            return self._follow(traced, spoken, language)
        # Parts that cannot be read alone do not spoil the reading of others.
        runs: list[list[int]] = []
        readable = []
        for part in re.finditer(r"\S+\s*", traced.text):
            good = self._say(part[0].strip(), language) is not None
            if not (readable and good and readable[-1]):
                runs.append([])
                readable.append(good)
            runs[-1] += range(part.start(), part.end())
        whole = _Traced("", [])
        unread = []
        for places, good in zip(runs, readable):
            run = traced.take(places)
            words = run.strip()
            spoken = self._say(words.text, language) if good else None
            if spoken is None:
                unread.append(words.text)
                whole += run
                continue
            whole += self._follow(words, spoken, language)
            whole += run.take(range(len(run.text.rstrip()), len(run.text)))
        logger.warning(
            "No reading was found for %s: only digits are spelt.",
            ", ".join(map(repr, unread)),
        )
        return whole

    def _say(self, text: str, language: str) -> str | None:
        """Apply the grammar; None if it has no reading of the text."""
        try:
            return self._grammar(language).normalize(text)
        # This is how wetext says that its grammars have no reading.
        except (AssertionError, ValueError, RuntimeError, IndexError):
            return None

    def _follow(
        self, traced: "_Traced", spoken: str, language: str
    ) -> "_Traced":
        """Give each word of the reading its owner."""
        if spoken == traced.text:
            return traced
        owners = [-1] * len(spoken)
        if any(owner >= 0 for owner in traced.owners):
            words = split_words(spoken)
            for word, owner in zip(
                words, self._owners_of_reading(traced, spoken, language)
            ):
                owners[word.start : word.end] = [owner] * (
                    word.end - word.start
                )
        return _Traced(spoken, owners)

    def _owners_of_reading(
        self, traced: "_Traced", spoken: str, language: str
    ) -> list[int]:
        """Find the owner of each word of the reading.

        wetext tells which part of the text each part of its reading comes
        from: a date, a sum of money, a word. Labels never leave their part.
        """
        words = [word.text for word in split_words(spoken)]
        owners = []

        def rewrite(part):
            said = self._say(part, language)
            return part if said is None else said

        for start, end, reading in self._parts(traced.text, words, language):
            part = traced.take(range(start, end))
            own = part.word_owners()
            if len(set(own)) == 1:
                owners += own[:1] * len(reading)
            else:
                places = map_rewritten_words(
                    part.text, " ".join(reading), rewrite
                )
                owners += [own[p] if p >= 0 else -1 for p in places]
        return owners

    def _parts(
        self, text: str, spoken: Sequence[str], language: str
    ) -> list[tuple[int, int, list[str]]]:
        """Return start and end of each part, and the words of its reading."""
        try:
            result = self._grammar(language).normalize_with_mapping(
                text, include_identity=True
            )
        # An older wetext has no such method; a newer one may not find parts.
        except (AssertionError, AttributeError, ValueError, RuntimeError):
            return [(0, len(text), list(spoken))]
        said = split_words(result.output_text)
        inside_text = _inside_words(split_words(text))
        inside_said = _inside_words(said)
        parts: list[tuple[int, int]] = []
        ends: list[int] = []
        for token in result.mappings:
            if parts and (
                token.input_start in inside_text
                or token.output_start in inside_said
            ):  # Latin letters in Mandarin come one by one
                parts[-1] = (parts[-1][0], token.input_end)
                ends[-1] = token.output_end
            else:
                parts.append((token.input_start, token.input_end))
                ends.append(token.output_end)
        part_of_said = [bisect_right(ends, word.start) for word in said]
        readings: list[list[str]] = [[] for _ in parts]
        for word, place in zip(
            spoken, _places([word.text for word in said], spoken)
        ):
            readings[part_of_said[place]].append(word)
        return [
            (start, end, reading)
            for (start, end), reading in zip(parts, readings)
            if reading
        ]

    def _grammar(self, language: str):
        """Load a grammar; all of the package's are built at its import."""
        if language not in self._grammars:
            try:
                from wetext import Normalizer
            except ImportError as error:
                raise _missing(error.name or "wetext") from error
            self._grammars[language] = Normalizer(
                lang=language, operator="tn", remove_erhua=False
            )
        return self._grammars[language]


def pack_sentences(
    n_sentences: int,
    size: Callable[[int, int], int],
    min_size: int,
    max_size: int,
    min_last: int,
) -> list[tuple[int, int]]:
    """Group the sentences of a long text into pieces, as CosyVoice2 does.

    A piece ends where the following sentence would make it longer than the
    maximum, unless it is not longer than the minimum yet.

    Arguments
    ---------
    n_sentences : int
        Number of sentences.
    size : callable
        Size of the sentences from an index up to another one.
    min_size, max_size : int
        Bounds of the size of a piece, if the sentences allow it.
    min_last : int
        A last piece below it is joined to the one before it.

    Returns
    -------
    list of (int, int)
        First sentence of each piece, and the one after its last.

    Example
    -------
    >>> sizes = [50, 40, 30, 5]
    >>> pack_sentences(4, lambda a, b: sum(sizes[a:b]), 60, 80, 20)
    [(0, 2), (2, 4)]
    """
    groups: list[tuple[int, int]] = []
    start = 0
    for last in range(1, n_sentences):
        if size(start, last + 1) > max_size and size(start, last) > min_size:
            groups.append((start, last))
            start = last
    if start < n_sentences:
        if groups and size(start, n_sentences) < min_last:
            start, _ = groups.pop()
        groups.append((start, n_sentences))
    return groups


def clean_text(text: str, language: str = "en") -> str:
    r"""Replace the characters of typesetting by what the grammars know.

    * Curly quotation marks become straight ones. Mandarin keeps them, and
      only an apostrophe between Latin letters is changed.
    * A dash becomes a hyphen between digits and a comma elsewhere; the
      double dash of Mandarin stays.
    * No-break and other wide or thin spaces become spaces; zero-width and
      other invisible characters are dropped.
    * Markdown's asterisks are dropped, but for those that multiply numbers.
    * Emoji are dropped, with one warning.

    Arguments
    ---------
    text : str
        Any text.
    language : str
        ``"en"`` or ``"zh"``.

    Returns
    -------
    str
        The text without them.

    Example
    -------
    >>> clean_text("It’s **really** “good” — 5–10 people said so")
    'It\'s really "good", 5-10 people said so'
    """
    return _clean(_Traced.plain(text), language).text


def spell_number(digits: str) -> str:
    """Write a whole number in English words.

    Arguments
    ---------
    digits : str
        Decimal digits. More than 36 are read one by one.

    Returns
    -------
    str
        The number as in British English.

    Example
    -------
    >>> spell_number("1234")
    'one thousand, two hundred and thirty-four'
    """
    digits = "".join(str(unicodedata.digit(digit)) for digit in digits)
    digits = digits.lstrip("0") or "0"
    if len(digits) > 3 * len(_THOUSANDS):
        return " ".join(_UNITS[int(digit)] for digit in digits)
    number, groups = int(digits), []
    while number:
        number, group = divmod(number, 1000)
        groups.append(group)
    parts = [
        f"{_spell_hundreds(group)} {_THOUSANDS[power]}".strip()
        for power, group in reversed(list(enumerate(groups)))
        if group
    ]
    if len(parts) > 1 and 0 < groups[0] < 100:
        last = parts.pop()
        return f"{', '.join(parts)} and {last}"
    return ", ".join(parts) or _UNITS[0]


def _spell_hundreds(number: int) -> str:
    """Write a number from 1 to 999."""
    hundreds, rest = divmod(number, 100)
    if rest < 20:
        words = _UNITS[rest] if rest else ""
    else:
        tens, ones = divmod(rest, 10)
        words = _TENS[tens - 2] + (f"-{_UNITS[ones]}" if ones else "")
    if not hundreds:
        return words
    return f"{_UNITS[hundreds]} hundred" + (f" and {words}" if words else "")


@dataclass(frozen=True)
class _Traced:
    """A text and the number of the word that each character belongs to."""

    text: str
    owners: Sequence[int]

    @classmethod
    def plain(cls, text: str) -> "_Traced":
        """Make a text whose characters belong to no word."""
        return cls(text, [-1] * len(text))

    @classmethod
    def of_words(cls, text: str) -> "_Traced":
        """Make a text whose characters belong to its own words."""
        owners = [-1] * len(text)
        for index, word in enumerate(split_words(text)):
            owners[word.start : word.end] = [index] * (word.end - word.start)
        return cls(text, owners)

    @classmethod
    def of_marked(cls, marked: MarkedText) -> "_Traced":
        """Make a text whose characters belong to the words of a marked one."""
        owners = [-1] * len(marked.text)
        for index, word in enumerate(marked.words):
            owners[word.start : word.end] = [index] * (word.end - word.start)
        return cls(marked.text, owners)

    def __add__(self, other: "_Traced") -> "_Traced":
        return _Traced(self.text + other.text, [*self.owners, *other.owners])

    def take(self, places: Sequence[int]) -> "_Traced":
        """Return the characters at the given places."""
        return _Traced(
            "".join(self.text[place] for place in places),
            [self.owners[place] for place in places],
        )

    def strip(self) -> "_Traced":
        """Remove the spaces at both ends."""
        start = len(self.text) - len(self.text.lstrip())
        return self.take(range(start, max(start, len(self.text.rstrip()))))

    def sub(
        self, pattern: str, replacement: str | Callable[[re.Match], str]
    ) -> "_Traced":
        """Replace matches, as :func:`re.sub`; what is new keeps the owner."""
        text, owners, done = "", [], 0
        for match in re.finditer(pattern, self.text):
            start, end = match.span()
            if callable(replacement):
                new = replacement(match)
            else:
                new = match.expand(replacement)
            own = [owner for owner in self.owners[start:end] if owner >= 0]
            text += self.text[done:start] + new
            owners += self.owners[done:start]
            owners += (own[:1] or [-1]) * len(new)
            done = end
        return _Traced(text + self.text[done:], [*owners, *self.owners[done:]])

    def word_owners(self) -> list[int]:
        """Return the owner of each word of the text."""
        return [
            next((o for o in self.owners[word.start : word.end] if o >= 0), -1)
            for word in split_words(self.text)
        ]

    def marked(self, source: MarkedText, breaks: Sequence[Break]) -> MarkedText:
        """Give the words of the text the emotions of the source's words."""
        owners = self.word_owners()
        nothing = ([0.0] * len(source.emotions), None, {})

        def label(owner):
            word = source.words[owner]
            return list(word.probs), word.intensity, dict(word.axes)

        words = []
        for place, word in enumerate(split_words(self.text)):
            owner = owners[place]
            before = next((o for o in owners[place::-1] if o >= 0), None)
            behind = next((o for o in owners[place:] if o >= 0), None)
            if owner >= 0:
                probs, intensity, axes = label(owner)
            elif None in (before, behind) or label(before) != label(behind):
                probs, intensity, axes = nothing
            else:
                probs, intensity, axes = label(before)
            words.append(
                MarkedWord(
                    word.text,
                    list(probs),
                    intensity,
                    word.start,
                    word.end,
                    dict(axes),
                )
            )
        # Behind everything that the words before a break have become.
        moved = [
            Break(
                max(
                    (p + 1 for p, o in enumerate(owners) if 0 <= o < b.word),
                    default=0,
                ),
                b.seconds,
            )
            for b in breaks
        ]
        return MarkedText(self.text, words, list(source.emotions), moved)


def _inside_words(words: Sequence[TextWord]) -> set[int]:
    """Return the places between two characters of the same word."""
    return {p for word in words for p in range(word.start + 1, word.end)}


def _places(said: Sequence[str], spoken: Sequence[str]) -> list[int]:
    """Map each word of one reading to a word of another, in order.

    Where two readings are equally good, the two ways of calling the grammar
    may choose differently.
    """
    places: list[int] = []
    matcher = SequenceMatcher(None, said, spoken, autojunk=False)
    for _, first, last, start, end in matcher.get_opcodes():
        for place in range(start, end):
            share = (place - start) * (last - first) // (end - start)
            places.append(min(first + share, len(said) - 1))
    return places


def _join(parts: Sequence[_Traced]) -> _Traced:
    return _Traced(
        "".join(part.text for part in parts),
        [owner for part in parts for owner in part.owners],
    )


def _missing(package: str) -> ImportError:
    return ImportError(
        f"Text normalisation needs the package {package}: "
        "pip install 'speechbrain-emofilm[cosyvoice]'.",
        name=package,
    )


def _clean(traced: _Traced, language: str) -> _Traced:
    """Do what :func:`clean_text` says."""
    traced = traced.sub(_INVISIBLE, "").sub(_SPACES, " ")
    emoji = re.findall(_EMOJI, traced.text)
    if emoji:
        logger.warning(
            "Emoji cannot be spoken and are left out: %s.",
            " ".join(dict.fromkeys(emoji)),
        )
        traced = _drop(traced, rf"\s*{_EMOJI}(?:\s*{_EMOJI})*")
    traced = traced.sub(_ASTERISKS, "")
    traced = traced.sub("[\u2010\u2011\u2212]", "-")
    traced = traced.sub(rf"(?<=\d){_DASHES}(?=\d)", "-")
    if language == "zh":
        traced = traced.sub("(?<=[A-Za-z])[\u2019\u02bc](?=[A-Za-z])", "'")
        return traced.sub(rf"(?<!{_DASHES}){_DASHES}(?!{_DASHES})", "，")
    traced = traced.sub("[\u2018-\u201b\u2032\u02bc]", "'")
    traced = traced.sub("[\u201c-\u201f\u2033\u00ab\u00bb]", '"')
    return traced.sub(rf"\s*{_DASHES}+\s*", _pause)


def _pause(match: re.Match) -> str:
    """Write a comma, unless at an end or beside other punctuation."""
    before = match.string[: match.start()].rstrip()
    behind = match.string[match.end() :]
    if not before:
        return ""
    if before[-1] in ".,;:!?(" or not behind or behind[0] in ".,;:!?)":
        return "" if not behind or behind[0] in ".,;:!?)" else " "
    if behind[0] in "\"'" and not behind[1:2].isalnum():  # it closes
        return ""
    return ", "


def _drop(traced: _Traced, pattern: str) -> _Traced:
    """Remove matches without joining the words on both sides."""

    def space(match):
        joins = (
            match.string[: match.start()][-1:].isalnum()
            and match.string[match.end() :][:1].isalnum()
        )
        return " " if joins else ""

    return traced.sub(pattern, space)


def _finish_chinese(traced: _Traced) -> _Traced:
    """Apply what the original does to Mandarin after the grammar."""
    for pattern, replacement in (
        ("\n", ""),
        (_BLANK, ""),
        ("²", "平方"),
        ("³", "立方"),
        (r"\.", "。"),
        (" - ", "，"),
        ("[（）【】`]", ""),
        ("——", " "),
        ("[，,、]+$", "。"),
    ):
        traced = traced.sub(pattern, replacement)
    return traced


def _finish_english(traced: _Traced) -> _Traced:
    """Write the superscripts and digits that the grammar left as words."""
    traced = traced.sub(r"(?<=\w)²", " squared").sub(r"(?<=\w)³", " cubed")
    traced = traced.sub("²", "squared").sub("³", "cubed")
    return traced.sub(_DIGITS, lambda match: spell_number(match[0]))


def _split_sentences(text: str, stops: str) -> list[list[int]]:
    """Return the places of each sentence's characters; drop repeated stops."""
    sentences: list[list[int]] = []
    start = 0
    for place, character in enumerate(text):
        if character not in stops:
            continue
        if place > start:
            sentences.append(list(range(start, place + 1)))
        start = place + 1
        following = text[start : start + 1]
        if sentences and following and following in _CLOSING_QUOTES:
            sentences[-1].append(start)
            start += 1
    return sentences


def _unescape(traced: _Traced) -> _Traced:
    r"""Undo what wetext 0.1.8 writes: \" for " and \\ for \."""
    return traced.sub(r"\\([\\\"])", r"\1")


def _count_words(text: str) -> int:
    """Count words and marks, about as many as a tokenizer has tokens."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(c)[0] in "PS" for c in text)
