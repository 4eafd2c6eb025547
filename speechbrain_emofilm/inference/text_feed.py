"""Text that is still being written: what of it can be spoken already."""

import html
import re
from collections.abc import Sequence

from speechbrain_emofilm.dataio.text import (
    blank_tags,
    is_ideograph,
    split_words,
)

_CHINESE_MARKS = "。！？；，、：（）《》"
_TOKEN = re.compile(r"<[^<>]*>|\s+|.", re.DOTALL)
_MARK = re.compile(r"<[^<>]*>")
_BREAK = re.compile(r"<\s*break\b", re.IGNORECASE)
_CLOSING = re.compile(r"\s*</[^<>]*>\s*")


class TextFeed:
    """Collect pieces of a text with marks, and cut it between words.

    A mark that is open where the text is cut is closed there, and opened
    again in what follows. A word counts as known as soon as something follows
    it: the next piece might go on with it.

    Arguments
    ---------
    tags : list of str
        Tags that the model knows, such as ``"<strong>"``; they are no marks.

    Example
    -------
    >>> feed = TextFeed()
    >>> for piece in ("<happy>We w", "on! He", " left.</ha"):
    ...     feed.add(piece)
    >>> feed.known
    '<happy>We won! He </>'
    >>> feed.take(2)
    '<happy>We won! </>'
    >>> feed.add("ppy>")
    >>> feed.finish()
    >>> feed.known
    '<happy>He left.</happy>'
    """

    def __init__(self, tags: Sequence[str] = ()):
        self.tags = list(tags)
        self.finished = False
        self._text = ""

    def add(self, piece: str) -> None:
        """Append a piece of text."""
        self._text += piece

    def finish(self) -> None:
        """Say that there is no more text."""
        self.finished = True

    @property
    def known(self) -> str:
        """Text up to its last known word, with its marks closed."""
        if self.finished:
            return self._text
        # Most often the last head is the one.
        heads = (self._head(*cut) for cut in reversed(self._cuts()))
        return next((head for head in heads if head is not None), "")

    def take(self, n_words: int | None = None) -> str:
        """Cut off the first words, or all, and return them."""
        for place, mark in self._cuts() if n_words is not None else ():
            head = self._head(place, mark)
            if head is None or self.count(head) < n_words:
                continue
            closing = _CLOSING.match(self._text, place) if mark else None
            if closing:
                head, mark = self._text[: closing.end()], None
                place = closing.end()
            rest = self._text[place:]
            self._text = (mark or "") + rest
            return head
        text, self._text = self._text, ""
        return text

    def count(self, text: str) -> int:
        """Count the words of a text with marks."""
        plain = html.unescape(_MARK.sub(" ", blank_tags(text, self.tags)))
        return len(split_words(plain))

    def _head(self, place: int, mark: str | None) -> str | None:
        """Return the text before a cut; None if that leaves an empty mark."""
        head = self._text[:place]
        if mark is None:
            return head
        inside = head[head.rindex(mark) + len(mark) :]
        return f"{head}</>" if self.count(inside) else None

    def _cuts(self) -> list[tuple[int, str | None]]:
        """Find the places between words, each with the mark that is open."""
        cuts: list[tuple[int, str | None]] = []
        mark = None
        for token in _TOKEN.finditer(self._text):
            part = token[0]
            if part == "<":  # the rest of this mark is not here yet
                break
            if part.startswith("<"):
                if part in self.tags:
                    continue
                if _BREAK.match(part):
                    cuts.append((token.start(), mark))
                elif part.startswith("</"):
                    mark = None
                else:
                    mark = part
            elif part.isspace() or part in _CHINESE_MARKS or is_ideograph(part):
                cuts.append((token.end(), mark))
        return cuts
