"""Words of a text, its tokens, and which token belongs to which word.

Every part of the project that counts words counts them with
:func:`split_words`: markup, word labels, alignments and text front ends. So
"the third word" is the same word everywhere.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch

_APOSTROPHES = "'’"


@dataclass(frozen=True)
class TextUnits:
    """A text as a language model reads it.

    Arguments
    ---------
    ids : list of int
        Token (or phoneme) ids, T of them.
    word_of_unit : list of int
        For each id the index of its word, -1 where it belongs to none.
    words : list of str
        The W words, one for each of :func:`split_words` of the text; the
        spelling may be the front end's (plain, normalised).

    Raises
    ------
    ValueError
        If the lengths differ or an index is not of a word.

    Example
    -------
    >>> units = TextUnits([7, 8, 9], [0, -1, 1], ["we", "won"])
    >>> len(units.ids) == len(units.word_of_unit)
    True
    """

    ids: list[int]
    word_of_unit: list[int]
    words: list[str]

    def __post_init__(self):
        if len(self.ids) != len(self.word_of_unit):
            raise ValueError(
                f"TextUnits has {len(self.ids)} ids but "
                f"{len(self.word_of_unit)} word indices: give one per id."
            )
        for unit, word in enumerate(self.word_of_unit):
            if not -1 <= word < len(self.words):
                raise ValueError(
                    f"Unit {unit} of TextUnits belongs to word {word}, but "
                    f"there are {len(self.words)} words: use -1 for no word."
                )


@dataclass(frozen=True)
class TextWord:
    """A word and its place in the text.

    Arguments
    ---------
    text : str
        The word without the punctuation around it.
    start : int
        Its first character in the text.
    end : int
        One past its last character.
    """

    text: str
    start: int
    end: int


def split_words(text: str) -> list[TextWord]:
    """Find the words of a text.

    A word is a run of letters and digits with the apostrophes inside it
    (``don't``) and the separators inside its numbers (``1,000.5``). Hyphens
    and slashes end a word. Every Chinese character is a word of its own.

    Arguments
    ---------
    text : str
        Any text.

    Example
    -------
    >>> [word.text for word in split_words("“Don't,” she said: well-kept!")]
    ["Don't", 'she', 'said', 'well', 'kept']
    >>> [word.text for word in split_words("我们赢了。")]
    ['我', '们', '赢', '了']
    """
    words, start = [], None
    for position in range(len(text) + 1):
        inside = position < len(text) and _continues(text, position, start)
        alone = inside and is_ideograph(text[position])
        if start is not None and (not inside or alone):
            words.append(TextWord(text[start:position], start, position))
            start = None
        if alone:
            words.append(TextWord(text[position], position, position + 1))
        elif inside and start is None:
            start = position
    return words


def word_of_characters(text: str) -> list[int]:
    """Give each character of a text to a word.

    Punctuation belongs to the word it is written at: an opening bracket or
    quotation mark to the word behind it, everything else to the word before
    it; if it stands alone, to the last word before, or at the start of the
    text to the first word.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    list of int
        For each character the index of its word in :func:`split_words`; -1
        for spaces (and for every character of a text without words).

    Example
    -------
    >>> word_of_characters("(We) won!")
    [0, 0, 0, 0, -1, 1, 1, 1, 1]
    """
    words = split_words(text)
    owner = [-1] * len(text)
    for index, word in enumerate(words):
        owner[word.start : word.end] = [index] * (word.end - word.start)
    if not words:
        return owner
    start = 0
    for chunk in text.split():
        start = text.index(chunk, start)
        _attach_punctuation(text, owner, start, start + len(chunk))
        start += len(chunk)
    return owner


def map_tokens_to_words(
    offsets: Sequence[tuple[int, int]], text: str
) -> list[int]:
    """Give each token of a (Hugging Face fast) tokenizer to a word.

    A token belongs to the word with which it shares the most letters and
    digits, then the most punctuation; the first of them if several share as
    many. A leading space, which many tokenizers put into the token, counts
    for nothing.

    Arguments
    ---------
    offsets : list of (int, int)
        First character and one past the last character of each token, the
        tokenizer's ``offset_mapping`` of the whole text.
    text : str
        The text that was tokenized.

    Returns
    -------
    list of int
        For each token the index of its word in :func:`split_words`, -1 if it
        holds only spaces or is a special token with an empty span. A token
        that spans several Chinese words belongs to one of them.

    Raises
    ------
    ValueError
        If a span lies outside the text.

    Example
    -------
    >>> map_tokens_to_words([(0, 2), (2, 6), (6, 7)], "We won!")
    [0, 1, 1]
    """
    owner = word_of_characters(text)
    core = [False] * len(text)
    for word in split_words(text):
        core[word.start : word.end] = [True] * (word.end - word.start)
    token_words = []
    for token, (start, end) in enumerate(offsets):
        if not 0 <= start <= end <= len(text):
            raise ValueError(
                f"Token {token} spans characters {start} to {end}, but the "
                f"text has {len(text)}: give the offsets of this very text."
            )
        shares = {}
        for position in range(start, end):
            letters, marks = shares.get(owner[position], (0, 0))
            shares[owner[position]] = (
                letters + core[position],
                marks + (not core[position]),
            )
        shares.pop(-1, None)
        token_words.append(max(shares, key=shares.get, default=-1))
    return token_words


def map_rewritten_words(
    text: str, rewritten: str, rewrite: Callable[[str], str]
) -> list[int]:
    """Find from which word of a text each word of a rewritten text comes.

    Text normalisation writes one word as several ("21" as "twenty one") and
    changes their order ("March 3rd" to "the third of march"); what a label
    says of a word then holds for all that it became. Each part between spaces
    is rewritten by itself, and the words that it becomes are found in the
    rewritten text: most in their order, the others wherever they were moved.
    Those that are found in no part come from the parts of which nothing was
    found, between the same neighbours: one from each if there are as many,
    otherwise by their shares of the letters. If there is no such part ("the"
    and "of" are put in), they come from the one behind them, or from the last
    before. The words of a part ("7:05pm") are told apart in the same way.

    Arguments
    ---------
    text : str
        The text.
    rewritten : str
        What ``rewrite`` has made of it.
    rewrite : callable
        str to str.

    Returns
    -------
    list of int
        For each word of :func:`split_words` of the rewritten text the index
        of a word of the text; -1 if that has none.

    Example
    -------
    >>> spoken = {"3rd": "third", "March 3rd": "the third of march"}
    >>> rewrite = lambda text: spoken.get(text, text)
    >>> map_rewritten_words("March 3rd", "the third of march", rewrite)
    [1, 1, 0, 0]
    """
    words = [word.text for word in split_words(text)]
    spoken = [word.text for word in split_words(rewritten)]
    if not words:
        return [-1] * len(spoken)
    if list(map(_letters, words)) == list(map(_letters, spoken)):
        return list(range(len(words)))
    parts = _parts_with_words(text)
    origin, first = [0] * len(spoken), 0
    owners = _map_parts(parts, spoken, rewrite)
    for index, part in enumerate(parts):
        inside = [word.text for word in split_words(part)]
        places = [place for place, own in enumerate(owners) if own == index]
        own_words = _map_parts(inside, [spoken[p] for p in places], rewrite)
        for place, word in zip(places, own_words):
            origin[place] = first + word
        first += len(inside)
    return origin


def same_word(one: str, other: str) -> bool:
    """Whether two spellings are the same word: case, punctuation and the
    form of the apostrophe do not count.

    Arguments
    ---------
    one : str
        A word.
    other : str
        Another.

    Example
    -------
    >>> same_word("Don’t,", "don't")
    True
    """
    return _letters(one) == _letters(other)


def is_ideograph(character: str) -> bool:
    """Whether a character is a Chinese one.

    Arguments
    ---------
    character : str
        One character.

    Example
    -------
    >>> is_ideograph("赢"), is_ideograph("w")
    (True, False)
    """
    if character < "⺀":
        return False
    return unicodedata.name(character, "").startswith("CJK ") and (
        unicodedata.category(character) == "Lo"
    )


def _continues(text: str, position: int, start: int | None) -> bool:
    """Whether the character is a word's, given where a word is running."""
    character = text[position]
    kind = unicodedata.category(character)[0]
    if kind in "LN":
        return True
    if start is None:
        return False
    if kind == "M":  # a combining mark never begins a word
        return True
    if position + 1 == len(text):
        return False
    before, after = text[position - 1], text[position + 1]
    if character in _APOSTROPHES:
        return unicodedata.category(before)[0] in "LNM" and after.isalnum()
    return character in ".," and before.isdigit() and after.isdigit()


def _attach_punctuation(
    text: str, owner: list[int], start: int, end: int
) -> None:
    """Fill in, in place, the owners of a run without spaces."""
    inside = [word for word in owner[start:end] if word >= 0]
    if not inside:
        before = next((w for w in reversed(owner[:start]) if w >= 0), 0)
        owner[start:end] = [before] * (end - start)
        return
    current, opened = None, False
    for position in range(start, end):
        if owner[position] >= 0:
            current, opened = owner[position], False
            continue
        opened |= unicodedata.category(text[position]) in ("Ps", "Pi")
        if current is None:
            owner[position] = inside[0]
        elif opened and current < inside[-1]:
            owner[position] = current + 1
        else:
            owner[position] = current


def _parts_with_words(text: str) -> list[str]:
    """Runs without spaces; one without words ("&") is put to the one before,
    or to the first.
    """
    parts = []
    for chunk in text.split():
        if parts and not (split_words(chunk) and split_words(parts[-1])):
            parts[-1] += f" {chunk}"
        else:
            parts.append(chunk)
    return parts


def _map_parts(
    parts: Sequence[str], spoken: Sequence[str], rewrite: Callable[[str], str]
) -> list[int]:
    """Give each spoken word to a part; see :func:`map_rewritten_words`."""
    if len(parts) == 1:
        return [0] * len(spoken)
    read, readers = [], []
    for index, part in enumerate(parts):
        own = [_letters(word.text) for word in split_words(rewrite(part))]
        read += own
        readers += [index] * len(own)
    matched = _match(read, [_letters(word) for word in spoken])
    owners = [None if i is None else readers[i] for i in matched]
    found = set(owners)
    for start, end in _gaps(owners):
        before = owners[start - 1] if start else -1
        behind = owners[end] if end < len(owners) else len(parts)
        lost = [i for i in range(before + 1, behind) if i not in found]
        lost = lost or [behind if behind < len(parts) else before]
        owners[start:end] = _share(parts, lost, spoken[start:end])
    return owners


def _match(read: Sequence[str], spoken: Sequence[str]) -> list[int | None]:
    """Index in ``read`` of each spoken word; each is used once.

    The longest runs that both share go first, then single words in any order.
    """
    found = [None] * len(spoken)
    matcher = SequenceMatcher(None, read, spoken, autojunk=False)
    for first, start, size in matcher.get_matching_blocks():
        found[start : start + size] = range(first, first + size)
    left = [index for index in range(len(read)) if index not in found]
    for place, word in enumerate(spoken):
        if found[place] is None:
            found[place] = next((i for i in left if read[i] == word), None)
            left = [index for index in left if index != found[place]]
    return found


def _gaps(owners: Sequence[int | None]) -> list[tuple[int, int]]:
    """Start and end of each run of None."""
    gaps = []
    for place, owner in enumerate(owners):
        if owner is None and gaps and gaps[-1][1] == place:
            gaps[-1] = (gaps[-1][0], place + 1)
        elif owner is None:
            gaps.append((place, place + 1))
    return gaps


def _share(
    parts: Sequence[str], sharing: Sequence[int], spoken: Sequence[str]
) -> list[int]:
    """Divide spoken words among some parts, by letters if not one to one."""
    if len(sharing) == len(spoken):
        return list(sharing)
    sizes = torch.tensor([len(parts[index]) for index in sharing])
    ends = sizes.cumsum(0) / sizes.sum()
    sizes = torch.tensor([len(word) for word in spoken])
    middles = (sizes.cumsum(0) - sizes / 2) / sizes.sum()
    return [sharing[i] for i in torch.searchsorted(ends, middles).tolist()]


def _letters(word: str) -> str:
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")
