"""English text front end of the mini backbone.

:class:`HibariTextFrontend` turns text into the phonemes that the
grapheme-to-phoneme conversion of hibari-tts (on PyPI, Apache-2.0, 14 MB with
its weights) finds, and reads the written cues of every word.

Needs the ``demo`` extra; the package is imported when the class is
constructed.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from speechbrain_emofilm.dataio.text import (
    END_OF_INSTRUCTION,
    TextUnits,
    split_words,
)

#: American English phonemes of hibari's G2P, stress marks and punctuation.
UNITS = tuple(" ,.AIOTWYbdfhijklmnpstuvwzæðŋɐɑɔəɛɜɡɪɹɾʃʊʌʒʔʤʧˈˌθᵊᵻ")
#: Words that an utterance instruction may use, one token each.
INSTRUCTION_WORDS = (
    END_OF_INSTRUCTION,
    "loud",
    "soft",
    "high",
    "low",
    "slow",
    "fast",
    "rising",
    "falling",
    "plain",
)
#: Written cues of a word: one axis of prosody each, three levels.
CUE_AXES = ("loudness", "pitch", "tempo", "contour")
CUE_LEVELS = 3
#: Number of combinations of levels, plus one for the explicit plain cue.
N_CUES = CUE_LEVELS ** len(CUE_AXES) + 1

#: Symbols that are no sound of their own.
_UNHEARD = " ,.ˈˌ"
#: Number of letters to which :class:`Cues` stretches a single letter.
_STRETCHED_SIZE = 4
_STRETCH = re.compile(r"([A-Za-z])\1{2,}")
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
#: Marks that may enclose several words.
_PAIRS = {"(": ")", "[": "]"}
#: Characters other than letters that are read aloud.
_SPOKEN_SYMBOLS = "#$%&+<=>@"


@dataclass(frozen=True)
class Cues:
    """Prosodic cues in the spelling of a word.

    Every field but the last is -1, 0 or 1; all are 0 without cues.

    Arguments
    ---------
    loudness : int
        1 for capitals (``WON``), -1 for parentheses (``(won)``).
    pitch : int
        1 for an exclamation mark (``won!``), -1 for an ellipsis (``won...``).
    tempo : int
        Sign of the change of duration: 1 for stretched spelling (``wooon``),
        -1 for a cut-off dash (``won-``).
    contour : int
        1 for a question mark (rising, ``won?``), -1 for a semicolon (falling,
        ``won;``).
    plain : bool
        True for brackets (``[won]``), a neutral aside: no change along any
        axis, whatever the other fields are.

    Example
    -------
    >>> Cues(loudness=1).code
    27
    >>> Cues.from_code(27)
    Cues(loudness=1, pitch=0, tempo=0, contour=0, plain=False)
    """

    loudness: int = 0
    pitch: int = 0
    tempo: int = 0
    contour: int = 0
    plain: bool = False

    @property
    def code(self) -> int:
        """Index of this combination, 0 for text without cues."""
        if self.plain:
            return N_CUES - 1
        code = 0
        for axis in CUE_AXES:
            code = code * CUE_LEVELS + getattr(self, axis) % CUE_LEVELS
        return code

    @classmethod
    def from_code(cls, code: int) -> "Cues":
        """Return the combination with this index."""
        if code == N_CUES - 1:
            return cls(plain=True)
        levels = []
        for _ in CUE_AXES:
            code, level = divmod(code, CUE_LEVELS)
            levels.append(level if level < 2 else -1)
        contour, tempo, pitch, loudness = levels
        return cls(loudness, pitch, tempo, contour)

    def write(self, word: str) -> str:
        """Spell a word with these cues (the inverse of :func:`read_cues`).

        Arguments
        ---------
        word : str
            A plain word.

        Example
        -------
        >>> Cues(loudness=1, pitch=1, tempo=1).write("so")
        'SOOOO!'
        """
        if self.plain:
            return f"[{word}]"
        if self.tempo > 0:
            vowel = re.search(r"[aeiouyAEIOUY](?=[^aeiouy]*$)", word)
            at = vowel.start() if vowel else len(word) - 1
            stretched = word[at] * _STRETCHED_SIZE
            word = word[:at] + stretched + word[at + 1 :]
        if self.loudness > 0:
            word = word.upper()
        marks = {1: "!", -1: "...", 0: ""}[self.pitch]
        marks += {1: "?", -1: ";", 0: ""}[self.contour]
        marks += "-" if self.tempo < 0 else ""
        word += marks
        return f"({word})" if self.loudness < 0 else word


def read_cues(
    token: str, is_word: Callable[[str], bool] | None = None
) -> tuple[str, Cues]:
    """Split one written token into its plain word and its cues.

    Arguments
    ---------
    token : str
        A token between spaces, such as ``"SOOOO!"``.
    is_word : callable, optional
        Function that checks whether a spelling is a word, to distinguish
        stretched double letters (``goooood``) from single ones (``sooooo``).

    Returns
    -------
    word : str
        Lower-cased where it was in capitals, letters that occur three or more
        times in a row reduced to one or to two.
    cues : Cues
        Cues of the token.

    Example
    -------
    >>> read_cues("SOOOO!")
    ('so', Cues(loudness=1, pitch=1, tempo=1, contour=0, plain=False))
    >>> read_cues("[so]")[1].plain
    True
    """
    match = _WORD.search(token)
    if match is None:
        return "", Cues()
    word, tail = match.group(), token[match.end() :]
    stretched = _STRETCH.search(word) is not None
    word = _unstretch(word, is_word)
    loud = len(word) > 1 and word.isupper()  # the pronoun I is not
    word = word.lower() if loud else word
    if "[" in token[: match.start()]:
        return word, Cues(plain=True)
    falling_pitch = "..." in tail or "…" in tail
    return word, Cues(
        loudness=1 if loud else -int("(" in token[: match.start()]),
        pitch=1 if "!" in tail else -int(falling_pitch),
        tempo=1 if stretched else -int(tail.rstrip("),.").endswith("-")),
        contour=1 if "?" in tail else -int(";" in tail),
    )


def _unstretch(word: str, is_word: Callable[[str], bool] | None) -> str:
    """Undo stretched spelling.

    Of the spellings with one or two letters in each stretched place, the first
    that is a word is returned. If both are words (``loose`` and ``lose``), a
    vowel is taken for double unless it has the length that
    :meth:`Cues.write` gives to a single one.
    """
    places = list(_STRETCH.finditer(word))
    choices = []
    for place in places:
        long = len(place.group()) != _STRETCHED_SIZE
        prefers_double = long and place[1].lower() in "aeiou"
        choices.append((2, 1) if prefers_double else (1, 2))
    for sizes in itertools.product(*choices):
        spelling, end = "", 0
        for place, size in zip(places, sizes):
            spelling += word[end : place.start()] + place[1] * size
            end = place.end()
        spelling += word[end:]
        if is_word is not None and is_word(spelling.lower()):
            return spelling
    return _STRETCH.sub(r"\1", word)


def written_tokens(text: str) -> list[str]:
    """Split a text into words, each with its punctuation marks.

    Parentheses and brackets around several words are attached to each.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    list of str
        One token for each word of :func:`split_words`.

    Example
    -------
    >>> written_tokens("(Well), it was well-kept!")
    ['(Well),', 'it', 'was', 'well', 'kept!']
    >>> written_tokens("(It was) well kept.")
    ['(It', '(was)', 'well', 'kept.']
    """
    words = split_words(text)
    edges = [0, *(word.start for word in words[1:]), len(text)]
    tokens, before = [], text[: words[0].start] if words else ""
    # End of the most recently opened pair.
    closing = dict.fromkeys(_PAIRS, -1)
    for word, end in zip(words, edges[1:]):
        after, *rest = re.split(r"\s", text[word.end : end])
        if not rest and end < len(text):
            after = after.rstrip("-")  # the hyphen of a compound, no cue
        opening = re.split(r"\s", before)[-1]
        for left, right in _PAIRS.items():
            if word.start < closing[left] and left not in opening:
                opening += left
            elif left in opening:
                closing[left] = text.find(right, word.start)
        tokens.append(opening + text[word.start : word.end] + after)
        before = rest[-1] if rest else ""
    return tokens


def missing_hibari(error: ImportError) -> ImportError:
    """Build the error that says how to install the missing package."""
    return ImportError(
        f"The English mini voice needs the package {error.name}: "
        "pip install 'speechbrain-emofilm[demo]'."
    )


class HibariTextFrontend:
    """Converter of English text to the units of the mini language model.

    A unit is one phoneme symbol (stress marks, spaces, commas and full stops
    are units too) in one of the 82 combinations of written cues
    (:class:`Cues`): ``id = cues * len(UNITS) + symbol``. As in the vocabulary
    of a large model, ``won``, ``WON`` and ``won!`` are thus different tokens.
    An instruction (``"loud fast<|endofprompt|>We won."``) adds one token per
    instruction word.

    Raises
    ------
    ImportError
        If hibari-tts is missing.

    Example
    -------
    >>> frontend = HibariTextFrontend()
    >>> units = frontend.encode("We WON.")
    >>> units.words, units.word_of_unit, frontend.vocab_size
    (['We', 'won'], [0, 0, 0, 1, 1, 1, 1, 1, 1], 4192)
    """

    language = "en"

    def __init__(self):
        # `hibari.g2p` needs no onnxruntime session of the voice.
        try:
            from hibari.g2p import G2P
        except ImportError as error:
            raise missing_hibari(error) from error

        self._g2p = G2P(british=False)
        self._symbol = {symbol: index for index, symbol in enumerate(UNITS)}

    @property
    def n_symbols(self) -> int:
        """Number of different symbols, whatever their cues."""
        return len(UNITS)

    @property
    def vocab_size(self) -> int:
        """Number of different unit ids."""
        return N_CUES * len(UNITS) + len(INSTRUCTION_WORDS)

    def encode(self, text: str) -> TextUnits:
        """Convert text to units.

        Arguments
        ---------
        text : str
            English text, optionally with written cues and an instruction.

        Returns
        -------
        TextUnits
            ids (list of int), word_of_unit (list of int, -1 = no word) and
            words (list of str, plain spelling).

        Raises
        ------
        ValueError
            If the text is empty, holds characters that the English mini voice
            cannot read, or an instruction uses an unknown word.
        """
        instruction, _, spoken = text.rpartition(END_OF_INSTRUCTION)
        self._check(text, len(text) - len(spoken))
        tokens = written_tokens(spoken)
        if not tokens:
            raise ValueError(
                f"The text {text!r} has no word to speak: give at least one "
                "English word."
            )
        words, cues = zip(
            *(read_cues(token, self._is_word) for token in tokens)
        )
        ids = self._instruction_ids(instruction)
        word_of_unit = [-1] * len(ids)
        symbols = self._phonemes(words, tokens)
        for index, (word_symbols, cue) in enumerate(zip(symbols, cues)):
            block = cue.code * len(UNITS)
            ids += [block + self._symbol[symbol] for symbol in word_symbols]
            word_of_unit += [index] * len(word_symbols)
        return TextUnits(ids, word_of_unit, list(words))

    def pronounce(self, word: str) -> str:
        """Return the phoneme symbols of a word, including stress marks.

        Example
        -------
        >>> HibariTextFrontend().pronounce("won")
        'wˈʌn'
        """
        return self._g2p(word).strip(" .,")

    def phonemes(self, ids: Sequence[int]) -> list[int]:
        """Tell which phoneme each unit stands for, whatever its cues.

        Arguments
        ---------
        ids : list of int
            Units of :meth:`encode`.

        Returns
        -------
        list of int
            Index in :data:`UNITS`; -1 for stress marks, spaces, punctuation
            and the words of an instruction.

        Example
        -------
        >>> frontend = HibariTextFrontend()
        >>> heard = frontend.phonemes(frontend.encode("We WON.").ids)
        >>> "".join(UNITS[index] for index in heard if index >= 0)
        'wiwʌn'
        """
        n_cued = N_CUES * len(UNITS)
        symbols = [unit % len(UNITS) if unit < n_cued else 0 for unit in ids]
        return [-1 if UNITS[i] in _UNHEARD else i for i in symbols]

    def _is_word(self, spelling: str) -> bool:
        """Check whether the pronunciation dictionary has a lower-case word."""
        # Its second half has names and rarities: "woon", "al".
        return spelling in self._g2p.lexicon.golds.d

    @staticmethod
    def _check(text: str, start: int) -> None:
        """Raise ValueError for characters that an English voice cannot read.

        The instruction before `start` is not spoken.
        """
        for position, character in enumerate(text[start:], start):
            if character.isdigit():
                raise ValueError(
                    f"The text {text!r} has the digit {character!r} at "
                    f"character {position}: write numbers as words for the "
                    "English mini voice."
                )
            foreign = ord(character) > 0x7F and character not in "‘’“”–—…"
            if foreign or character in _SPOKEN_SYMBOLS:
                raise ValueError(
                    f"The text {text!r} has {character!r} at character "
                    f"{position}, which the English mini voice cannot read: "
                    "write it as words, or use a backbone that reads it."
                )

    def _instruction_ids(self, instruction: str) -> list[int]:
        """Return the ids of the instruction's words and its end mark."""
        if not instruction:
            return []
        words = instruction.split() + [END_OF_INSTRUCTION]
        unknown = [word for word in words if word not in INSTRUCTION_WORDS]
        if unknown:
            raise ValueError(
                f"The instruction {instruction!r} uses {unknown[0]!r}: the "
                f"mini voice knows {', '.join(INSTRUCTION_WORDS[1:])}."
            )
        first = N_CUES * len(UNITS)
        return [first + INSTRUCTION_WORDS.index(word) for word in words]

    def _phonemes(
        self, words: Sequence[str], tokens: Sequence[str]
    ) -> list[str]:
        """Return the phoneme symbols of each word.

        They include the space before each word but the first, and the comma
        or full stop after a word.
        """
        commas = ["," if "," in token else "" for token in tokens[:-1]] + [""]
        sentence = " ".join(w + c for w, c in zip(words, commas))
        groups = self._g2p(sentence + ".").rstrip(".").split(" ")
        if len(groups) != len(words):
            groups = [self._g2p(w).replace(" ", "") for w in words]
        out = []
        commas[-1] = "."
        for index, (group, end) in enumerate(zip(groups, commas)):
            spelled = "".join(c for c in group if c in self._symbol)
            spelled = spelled.strip(" ,.")
            if not spelled:
                raise ValueError(
                    f"No pronunciation was found for {words[index]!r}: spell "
                    "it as it is spoken."
                )
            out.append(" " * (index > 0) + spelled + end)
        return out
