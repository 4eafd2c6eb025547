"""Words of a text and the mapping from its tokens to its words.

Markup, word labels, alignments and text front ends all count words with
:func:`split_words`, so that "the third word" is the same word everywhere.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch

#: What ends an instruction at the start of a text.
END_OF_INSTRUCTION = "<|endofprompt|>"

_APOSTROPHES = "'’"


@dataclass(frozen=True)
class TextUnits:
    """A text as input of a language model.

    Arguments
    ---------
    ids : list of int
        Token (or phoneme) ids, T of them.
    word_of_unit : list of int
        Word index of each id, -1 where it belongs to none.
    words : list of str
        The W words, one for each of :func:`split_words` of the text; the
        spelling may be the front end's (plain, normalised).

    Raises
    ------
    ValueError
        If the lengths differ or an index is out of range.

    Example
    -------
    >>> units = TextUnits([7, 8, 9], [0, -1, 1], ["we", "won"])
    >>> units.words[units.word_of_unit[2]]
    'won'
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
    """A word and its position in the text.

    Arguments
    ---------
    text : str
        The word without the punctuation around it.
    start : int
        Index of its first character.
    end : int
        Index after its last character.
    """

    text: str
    start: int
    end: int


def split_words(text: str) -> list[TextWord]:
    """Split a text into words.

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


def language_of(text: str) -> str:
    """Name the language of a text: ``"zh"`` if it has Chinese characters.

    Example
    -------
    >>> language_of("We won."), language_of("我们 won.")
    ('en', 'zh')
    """
    return "zh" if any(map(is_ideograph, text)) else "en"


def blank_tags(text: str, tags: Sequence[str]) -> str:
    """Replace tags by spaces, so that no word is found in them.

    Arguments
    ---------
    text : str
        Any text.
    tags : list of str
        Tags of a language model, such as ``"[laughter]"``.

    Returns
    -------
    str
        A text of the same length.

    Example
    -------
    >>> blank_tags("We [breath] won", ["[breath]"])
    'We          won'
    """
    for tag in tags:
        text = text.replace(tag, " " * len(tag))
    return text


def word_of_characters(text: str) -> list[int]:
    """Assign each character of a text to a word.

    Punctuation belongs to the word that it touches: an opening bracket or
    quotation mark to the following word, everything else to the preceding
    one. Detached punctuation belongs to the preceding word or, at the start
    of the text, to the first.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    list of int
        Word index (as in :func:`split_words`) of each character; -1 for
        spaces (and for every character of a text without words).

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
    """Assign each token of a (Hugging Face fast) tokenizer to a word.

    A token belongs to the word with which it shares the most letters and
    digits, then the most punctuation; ties go to the first word. A leading
    space, which many tokenizers include in the token, is ignored.

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
        Word index (as in :func:`split_words`) of each token, -1 if it holds
        only spaces or is a special token with an empty span. A token
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
                f"text has {len(text)}: pass the offsets of the same text."
            )
        shares: dict[int, tuple[int, int]] = {}
        for position in range(start, end):
            inside, around = shares.get(owner[position], (0, 0))
            shares[owner[position]] = (
                inside + core[position],
                around + (not core[position]),
            )
        shares.pop(-1, None)
        token_words.append(max(shares, key=shares.__getitem__, default=-1))
    return token_words


def map_rewritten_words(
    text: str, rewritten: str, rewrite: Callable[[str], str]
) -> list[int]:
    """Map each word of a rewritten text to its word in the original.

    Text normalisation writes one word as several ("21" as "twenty one") and
    changes their order ("March 3rd" to "the third of march"); the label of
    a word applies to all words that it becomes. Each part between spaces is
    rewritten separately, and the resulting words are located in the rewritten
    text: most in order, the others wherever they were moved. Unlocated words
    are assigned to the unlocated parts between the same neighbours: one to
    one if their numbers are equal, otherwise in proportion to the letters.
    Without such a part (inserted "the" or "of"), they are assigned to the
    following part, or to the last. The words within a part ("7:05pm") are
    distinguished in the same way.

    Arguments
    ---------
    text : str
        The original text.
    rewritten : str
        Result of ``rewrite`` for the text.
    rewrite : callable
        Function from str to str that rewrites a text.

    Returns
    -------
    list of int
        For each word (:func:`split_words`) of the rewritten text, the index
        of a word of the original; -1 if the original has no words.

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
    if list(map(letters, words)) == list(map(letters, spoken)):
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
    """Check whether two spellings are of the same word.

    Case, punctuation and the form of the apostrophe are ignored.

    Arguments
    ---------
    one : str
        A word.
    other : str
        Another word.

    Example
    -------
    >>> same_word("Don’t,", "don't")
    True
    """
    return letters(one) == letters(other)


def letters(word: str) -> str:
    """Reduce a word to its letters and digits, in lower case.

    Arguments
    ---------
    word : str
        A word.

    Example
    -------
    >>> letters("Don’t,")
    'dont'
    """
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LNM")


def is_ideograph(character: str) -> bool:
    """Check whether a character is a Chinese one.

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
    """Check if a character is in a word, given the current word's start."""
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
    """Assign the punctuation of a chunk without spaces, in place."""
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
    """Split at spaces; join a chunk without words ("&") to its neighbour."""
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
    """Assign each spoken word to a part; see :func:`map_rewritten_words`."""
    if len(parts) == 1:
        return [0] * len(spoken)
    read, readers = [], []
    for index, part in enumerate(parts):
        own = [letters(word.text) for word in split_words(rewrite(part))]
        read += own
        readers += [index] * len(own)
    matched = _match(read, [letters(word) for word in spoken])
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
    """Find the index in ``read`` of each spoken word; each is used once.

    The longest common runs are matched first, then single words in any order.
    """
    found: list[int | None] = [None] * len(spoken)
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
    """Find the start and end of each run of None."""
    gaps: list[tuple[int, int]] = []
    for place, owner in enumerate(owners):
        if owner is None and gaps and gaps[-1][1] == place:
            gaps[-1] = (gaps[-1][0], place + 1)
        elif owner is None:
            gaps.append((place, place + 1))
    return gaps


def _share(
    parts: Sequence[str], sharing: Sequence[int], spoken: Sequence[str]
) -> list[int]:
    """Divide spoken words among parts, by letters if not one to one."""
    if len(sharing) == len(spoken):
        return list(sharing)
    sizes = torch.tensor([len(parts[index]) for index in sharing])
    ends = sizes.cumsum(0) / sizes.sum()
    sizes = torch.tensor([len(word) for word in spoken])
    middles = (sizes.cumsum(0) - sizes / 2) / sizes.sum()
    return [sharing[i] for i in torch.searchsorted(ends, middles).tolist()]
