"""Cutting of marked text into pieces that are spoken one after the other."""

import re
from collections.abc import Sequence

from speechbrain_emofilm.dataio.text import blank_tags, split_words

#: Greatest number of words of a piece; longer sentences are cut at a clause.
MAX_WORDS = 40
#: Longest mark, in characters, that is waited for.
MAX_MARK = 400

#: A sentence ends with such a sign, the quotes behind it and a space; a
#: Chinese sign needs no space.
_END = re.compile(
    r"""[.!?…]+["'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|\n\s*\n""", re.VERBOSE
)
#: Dots that end no sentence: initials and titles.
_NO_END = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e)\.\Z"
)
_CLAUSE = re.compile(r"[,;:，；：、—]+(?=\s)|[，；：、]")


class PieceReader:
    """Reader that cuts a marked text, which may arrive bit by bit.

    A piece is a sentence. A mark around several sentences is closed at the
    end of one and opened again for the next, so that every piece can be read
    alone.

    Arguments
    ---------
    tags : list of str
        The model's tags, which are no marks.
    max_words : int
        Greatest number of words of a piece.

    Example
    -------
    >>> reader = PieceReader()
    >>> reader.feed("<happy>We won! And th")
    ['<happy>We won!</>']
    >>> reader.feed("en we left.</happy>"), reader.finish()
    ([], ['<happy>And then we left.</>'])
    """

    def __init__(self, tags: Sequence[str] = (), max_words: int = MAX_WORDS):
        self._tags = tags
        self._max_words = max_words
        self._raw = ""  # an incomplete mark
        self._text = ""  # text without marks
        self._marks: list[str] = []  # mark around each of its characters
        self._open = ""

    def feed(self, text: str) -> list[str]:
        """Read some text and return the pieces that it completes.

        Raises
        ------
        ValueError
            If a mark is too long.
        """
        self._take(text)
        return self._cut()

    def finish(self) -> list[str]:
        """Return the rest of the text as pieces.

        Raises
        ------
        ValueError
            If the text ends inside a mark.
        """
        if self._raw:
            raise ValueError(
                f"The text ends inside the mark {self._raw!r}: complete it, "
                "or write &lt; for a plain '<'."
            )
        pieces = self._cut()
        while _count(self._text, self._tags) > self._max_words:
            pieces.append(self._take_piece(self._clause_end()))
        if _count(self._text, self._tags):
            pieces.append(self._take_piece(len(self._text)))
        self._text, self._marks = "", []
        return pieces

    def _take(self, text: str) -> None:
        """Read text and marks as far as they are complete."""
        raw, self._raw = self._raw + text, ""
        for part in re.split(r"(<[^<>]*>)", raw):
            if part in self._tags or not re.match(r"<.*>\Z", part, re.DOTALL):
                start = part.find("<") if part not in self._tags else -1
                if start >= 0:
                    # Only the last part may hold the begin of a mark.
                    self._raw, part = part[start:], part[:start]
                self._text += part
                self._marks += [self._open] * len(part)
            else:
                self._open = "" if part.startswith("</") else part
        if len(self._raw) > MAX_MARK:
            raise ValueError(
                f"The mark {self._raw[:20]!r}... has no '>': complete it, or "
                "write &lt; for a plain '<'."
            )

    def _cut(self) -> list[str]:
        """Take all complete sentences from the text."""
        pieces, start = [], 0
        while True:
            end = _END.search(self._text, start)
            if end is None:
                break
            start = end.end()
            if _NO_END.search(self._text[:start]):
                continue
            n_words = _count(self._text[:start], self._tags)
            if n_words > self._max_words:
                pieces.append(self._take_piece(self._clause_end()))
                start = 0
            elif n_words:
                pieces.append(self._take_piece(start))
                start = 0
        while _count(self._text, self._tags) > 2 * self._max_words:
            pieces.append(self._take_piece(self._clause_end()))
        return pieces

    def _clause_end(self) -> int:
        """Find where to cut a text with too many words."""
        words = split_words(blank_tags(self._text, self._tags))
        last = words[self._max_words].start
        ends = [
            found.end()
            for found in _CLAUSE.finditer(self._text, 0, last)
            if found.end() > words[self._max_words // 2].start
        ]
        return ends[-1] if ends else last

    def _take_piece(self, end: int) -> str:
        """Remove text up to a place and write it with its marks."""
        text, marks = self._text[:end], self._marks[:end]
        self._text, self._marks = self._text[end:], self._marks[end:]
        piece, start = "", 0
        while start < end:
            stop = start
            while stop < end and marks[stop] == marks[start]:
                stop += 1
            run = text[start:stop]
            if marks[start] and _count(run, self._tags):
                space = run[: len(run) - len(run.lstrip())]
                body = run.strip()
                tail = run[len(space) + len(body) :]
                run = f"{space}{marks[start]}{body}</>{tail}"
            piece += run
            start = stop
        return piece.strip()


def cut_text(text: str, tags: Sequence[str] = ()) -> list[str]:
    """Cut a whole marked text into pieces.

    Arguments
    ---------
    text : str
        Text with valid marks.
    tags : list of str
        The model's tags.

    Returns
    -------
    list of str
        Marked sentences.

    Example
    -------
    >>> cut_text("<sad>Mr. Hill left. He</sad> came back.")
    ['<sad>Mr. Hill left.</>', '<sad>He</> came back.']
    """
    reader = PieceReader(tags)
    return reader.feed(text) + reader.finish()


def _count(text: str, tags: Sequence[str]) -> int:
    """Count the words of a text without marks."""
    return len(split_words(blank_tags(text, tags)))
