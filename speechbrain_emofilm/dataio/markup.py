"""Text with marks for the emotion and the prosody of each word.

``<happy>We won!</happy> <sad intensity=0.4>but he left.</sad>``

* ``<happy>...</happy>`` gives each word inside the emotion *happy*;
  ``intensity=`` (0 to 1) says how strongly.
* ``<happy=0.7 surprise=0.3>...</happy>`` is a mixture. Its weights sum to 1.
* ``<happy pitch=+2st pace=0.8 level=+3dB>...</happy>`` changes the prosody
  of each word from the neutral reading: its pitch in semitones (-12 to 12),
  its pace by a factor (0.5 to 2; above 1 is faster) and its level in decibels
  (-12 to 12), see :mod:`speechbrain_emofilm.processing.prosody_axes`. An axis
  that is not named is left to the model. Only models with such axes can.
* ``<pace=0.7>...</pace>`` changes the prosody only: the emotion is that of
  words outside of marks.
* ``<stress>...</stress>`` raises what stress raises in English: it stands for
  ``<pitch=+2st pace=0.8 level=+3dB>``, as far as the model has these axes. A
  value that is given as well wins: ``<stress pace=1>``.
* A mark is closed by ``</>`` or by its first emotion's name, ``</happy>``;
  one without an emotion by its first name.
* Marks hold whole words and do not contain other marks.
* ``<break time="300ms"/>`` (or ``time=0.3s``; 0 to 10 s) is silence of that
  length between two words, or before or after all. Several in a row add up;
  a mark around a break goes on behind it.
* Words outside of marks are, by the caller's choice, unlabelled (left to the
  model), neutral, or of any other emotion.
* ``&lt;`` and ``&amp;`` write a plain ``<`` and ``&``.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from speechbrain_emofilm.dataio.labels import WordLabel, full_intensity
from speechbrain_emofilm.dataio.text import blank_tags, split_words
from speechbrain_emofilm.processing.prosody_axes import (
    AXES,
    STRESS,
    axes_tensor,
)

import torch

#: Maximum number of words of one utterance; longer ones would exceed the
#: training lengths of the language model.
MAX_WORDS = 400
#: Longest silence of one break, in seconds.
MAX_BREAK = 10.0
#: Tolerance of the sum of a mixture's weights, so that three thirds can be
#: written as 0.33.
SUM_TOLERANCE = 0.02

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_ATTRIBUTE = re.compile(r"""([^\s=<>"']+)(?:\s*=\s*("[^"]*"|'[^']*'|\S*))?""")
_BREAK = re.compile(r"\s*break\b", re.IGNORECASE)
_BREAK_TIME = re.compile(
    r"""break\s+time\s*=\s*(["']?)"""
    rf"({_NUMBER})\s*(ms|s)\1\s*/",
    re.IGNORECASE,
)
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
_PIECE = re.compile("|".join([r"<", *_ENTITIES, r"\s+", r"."]), re.DOTALL)


class MarkupError(ValueError):
    """Error in the marks of a text.

    Arguments
    ---------
    message : str
        Error and its correction.
    position : int
        Character (from 0) of the marked text where the error is.
    """

    def __init__(self, message: str, position: int):
        super().__init__(f"Character {position}: {message}")
        self.position = position


@dataclass(frozen=True)
class MarkedWord:
    """A word, its asked emotion and its asked prosody.

    Arguments
    ---------
    word : str
        The word without punctuation.
    probs : list of float
        Weight of each emotion of the taxonomy; they sum to 1, or are all 0
        for an unlabelled word.
    intensity : float or None
        Intensity from 0 to 1, None if the text gives none.
    start : int
        Index of its first character in the text without marks.
    end : int
        Index after its last character.
    axes : dict
        Axis to asked value in natural units, see
        :mod:`speechbrain_emofilm.processing.prosody_axes`; empty if none is
        asked for.
    """

    word: str
    probs: list[float]
    intensity: float | None
    start: int
    end: int
    axes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Break:
    """Silence that a text asks for.

    Arguments
    ---------
    word : int
        Index of the word before which it comes; the number of words for a
        break behind the last.
    seconds : float
        Its duration.
    """

    word: int
    seconds: float


@dataclass(frozen=True)
class MarkedText:
    """A text, the emotions of its words and the breaks between them.

    Arguments
    ---------
    text : str
        The text without marks and repeated spaces.
    words : list of MarkedWord
        The words of :func:`~speechbrain_emofilm.dataio.text.split_words`.
    emotions : list of str
        The taxonomy, in the order of the words' weights.
    breaks : list of Break
        Breaks in their order. What speaks one utterance only may leave them
        out.
    """

    text: str
    words: list[MarkedWord]
    emotions: list[str]
    breaks: list[Break] = field(default_factory=list)

    def tensors(
        self, intensity: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert the emotions to the model's inputs.

        Arguments
        ---------
        intensity : float
            Intensity, 0 to 1, of words for which the text gives none.

        Returns
        -------
        word_emotions : torch.Tensor
            Weights (W, K).
        word_intensity : torch.Tensor
            Intensities (W,); where the text gives none, `intensity` times
            that of :func:`~speechbrain_emofilm.dataio.labels.full_intensity`.
        """
        word_emotions = torch.tensor([word.probs for word in self.words])
        full = full_intensity(word_emotions, self.emotions)
        word_intensity = [
            intensity * default if word.intensity is None else word.intensity
            for word, default in zip(self.words, full.tolist())
        ]
        return word_emotions, torch.tensor(word_intensity)

    def axes_tensor(self, axes: Sequence[str]) -> torch.Tensor:
        """Convert the asked prosody to the model's input.

        Arguments
        ---------
        axes : list of str
            The model's A axes.

        Returns
        -------
        torch.Tensor
            Values (W, A) of
            :func:`~speechbrain_emofilm.processing.prosody_axes.axes_tensor`,
            NaN where nothing is asked.
        """
        return axes_tensor([word.axes for word in self.words], axes)


@dataclass(frozen=True)
class _Mark:
    """An opening mark: its weights, intensity, name, position and axes.

    The weights are None for a mark without an emotion.
    """

    probs: tuple[float, ...] | None
    intensity: float | None
    name: str
    position: int
    axes: Mapping[str, float]


def parse_markup(
    text: str,
    emotions: Sequence[str],
    unmarked: str | Mapping[str, float] = "unlabelled",
    max_words: int | None = MAX_WORDS,
    tags: Sequence[str] = (),
    axes: Sequence[str] = (),
) -> MarkedText:
    """Parse a text with marks.

    Arguments
    ---------
    text : str
        Text with marks, see the module's description.
    emotions : list of str
        The taxonomy, in the model's order; case is ignored.
    unmarked : str or dict
        Emotion of words outside of marks: ``"unlabelled"``, an emotion such
        as ``"neutral"``, or a mixture (name to weight).
    max_words : int, optional
        Maximum number of words; any number if None.
    tags : list of str
        Tags that the model knows, such as ``"[laughter]"`` or ``"<strong>"``.
        They stay in the text and are no words.
    axes : list of str
        Axes of prosody that the model has, some of
        :data:`~speechbrain_emofilm.processing.prosody_axes.AXES`.

    Raises
    ------
    MarkupError
        If the text is empty or too long, or a mark is not closed, is nested,
        cuts a word, names an unknown emotion or an axis that the model lacks,
        or holds a number out of range; or if a break has no such time or cuts
        a word.
    ValueError
        If `unmarked` is not ``"unlabelled"`` and not of the taxonomy.

    Example
    -------
    >>> marked = parse_markup(
    ...     "<happy>We won!</happy> <sad intensity=0.4>But he left.</>",
    ...     ["neutral", "happy", "sad"],
    ... )
    >>> marked.text
    'We won! But he left.'
    >>> marked.words[4]
    MarkedWord(word='left', probs=[0.0, 0.0, 1.0], intensity=0.4, start=15,
               end=19, axes={})
    >>> parse_markup("<pace=0.7>We</> won", ["sad"], axes=["pace"]).words[0]
    MarkedWord(word='We', probs=[0.0], intensity=None, start=0, end=2,
               axes={'pace': 0.7})
    """
    outside = _probs_outside(emotions, unmarked)
    _refuse_brackets(text, emotions)
    _refuse_unknown_tags(text, tags)
    clean, marks, sources, pauses = _strip_marks(text, emotions, tags, axes)
    words = split_words(blank_tags(clean, tags))
    if not words:
        raise MarkupError(
            "the text has no word to speak. Give at least one word.", 0
        )
    if max_words is not None and len(words) > max_words:
        raise MarkupError(
            f"the text has {len(words)} words, more than the {max_words} of "
            "one utterance. Split it into sentences and give them one by one.",
            sources[words[max_words].start],
        )
    marked = []
    for word in words:
        mark = marks[word.start]
        if any(other is not mark for other in marks[word.start : word.end]):
            raise MarkupError(
                f"a mark cuts the word {word.text!r} in two. Put marks "
                "around whole words.",
                sources[word.start],
            )
        probs = mark.probs if mark else None
        marked.append(
            MarkedWord(
                word.text,
                list(outside if probs is None else probs),
                mark.intensity if mark else None,
                word.start,
                word.end,
                dict(mark.axes) if mark else {},
            )
        )
    _refuse_marks_without_words(marks, words)
    breaks = _place_breaks(pauses, words)
    return MarkedText(clean, marked, list(emotions), breaks)


@dataclass(frozen=True)
class _Pause:
    """A break, its place in the clean text and in the marked one."""

    seconds: float
    place: int
    position: int


def _place_breaks(pauses: Sequence[_Pause], words: Sequence) -> list[Break]:
    """Find the word that each break comes before; refuse a cut word."""
    breaks, index = [], 0
    for pause in pauses:
        while index < len(words) and words[index].end <= pause.place:
            index += 1
        if index < len(words) and words[index].start < pause.place:
            raise MarkupError(
                f"a break cuts the word {words[index].text!r} in two. Put a "
                "space before or behind it.",
                pause.position,
            )
        breaks.append(Break(index, pause.seconds))
    return breaks


def _refuse_brackets(text: str, emotions: Sequence[str]) -> None:
    """Refuse marks in square brackets, which would be left unspoken."""
    names = "|".join(map(re.escape, emotions))
    bracket = re.search(rf"\[/?({names})\b[^\]]*\]", text, re.IGNORECASE)
    if bracket is not None:
        name = bracket[1]
        raise MarkupError(
            f"{bracket[0]} is not a mark. Marks are written with angle "
            f"brackets: <{name}>...</{name}>.",
            bracket.start(),
        )


def _refuse_unknown_tags(text: str, tags: Sequence[str]) -> None:
    """Refuse what looks like a tag but is none of the model's."""
    if not tags:
        return
    for tag in re.finditer(r"\[[\w-]+\]", text):
        if tag[0] not in tags:
            close = difflib.get_close_matches(tag[0], tags, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise MarkupError(
                f"the tag {tag[0]} is not known: {hint}This model has "
                f"{', '.join(tags)}.",
                tag.start(),
            )


def _refuse_marks_without_words(
    marks: "Sequence[_Mark | None]", words: Sequence
) -> None:
    """Refuse marks around nothing but spaces and punctuation."""
    used = {id(marks[word.start]) for word in words}
    for mark in marks:
        if mark is not None and id(mark) not in used:
            raise _no_text(mark)


def write_markup(
    text: str, labels: Sequence[WordLabel], breaks: Sequence[Break] = ()
) -> str:
    """Write words as marks, the inverse of :func:`parse_markup`.

    Arguments
    ---------
    text : str
        Text without marks.
    labels : list of WordLabel
        Emotion or mixture, intensity and asked prosody of each word of
        `text`. A word without any stays outside of marks.
    breaks : list of Break
        Silence between the words.

    Returns
    -------
    str
        Marked text. Neighbouring words with the same emotion, intensity and
        prosody share a mark, which includes the punctuation next to them.

    Raises
    ------
    ValueError
        If there is not one label for each word, or a break is not between
        the words or not of 0 to 10 s.

    Example
    -------
    >>> labels = [
    ...     WordLabel("We", 0, 1, "happy", intensity=0.4),
    ...     WordLabel("won", 1, 2, "happy", intensity=0.4),
    ...     WordLabel("it", 2, 3, "sad", {"sad": 0.75, "happy": 0.25}),
    ... ]
    >>> write_markup("We won & it!", labels)
    '<happy intensity=0.4>We won</> &amp; <sad=0.75 happy=0.25>it!</>'
    >>> write_markup("We won it!", labels, [Break(1, 0.3)])[:45]
    '<happy intensity=0.4>We <break time=0.3s/>won'
    >>> write_markup("We", [WordLabel("We", 0, 1, axes={"pitch": 2.0})])
    '<pitch=+2st>We</>'
    """
    text = f" {text} "  # so that every word has a space somewhere before it
    words = split_words(text)
    if len(words) != len(labels):
        raise ValueError(
            f"{len(labels)} labels cannot mark the {len(words)} words of "
            f"{text.strip()!r}: give one label for each word."
        )
    write = _BreakWriter(text, words, breaks)
    runs: list[tuple[str, int, int]] = []
    for word, label in zip(words, labels):
        opening, start = _write_opening(label), word.start
        if runs and runs[-1][0] == opening:
            start = runs.pop()[1]
        runs.append((opening, start, word.end))
    marked, done = "", 1
    for (opening, start, end), (_, following, _) in zip(
        runs, [*runs[1:], ("", len(text), 0)]
    ):
        # Punctuation that touches the run belongs into its mark, unless it
        # joins two words, as a hyphen does.
        start -= len(_split_at_last_space(text[done - 1 : start])[1])
        end += _length_before_space(text[end:following])
        body = write(start, end)
        if opening:
            body = f"<{opening}>{body}</>"
        marked += write(done, start) + body
        done = end
    return marked + write(done, len(text))


class _BreakWriter:
    """Writes parts of a text with the breaks inside.

    The text has a space more at both ends, which are left out.
    """

    def __init__(
        self, text: str, words: Sequence, breaks: Sequence[Break]
    ) -> None:
        self._text = text
        self._marks: dict[int, str] = {}
        edges = [0, *(word.end for word in words)]
        for pause in breaks:
            inside = 0 <= pause.word <= len(words)
            if not inside or not 0 <= pause.seconds <= MAX_BREAK:
                raise ValueError(
                    f"{pause} cannot be written: give a word from 0 to "
                    f"{len(words)} and 0 to {MAX_BREAK:g} seconds."
                )
            place = len(text) - 1
            if pause.word < len(words):
                # Opening punctuation belongs to the word behind the break.
                start = words[pause.word].start
                gap = text[edges[pause.word] : start]
                place = start - len(_split_at_last_space(gap)[1])
            mark = f"<break time={_write_number(pause.seconds)}s/>"
            self._marks[place] = self._marks.get(place, "") + mark

    def __call__(self, start: int, end: int) -> str:
        """Write the characters from start to end, and the breaks there."""
        end = min(end, len(self._text) - 1)
        last = end == len(self._text) - 1
        out, done = "", start
        for place in sorted(self._marks):
            if start <= place < end + last:
                out += escape(self._text[done:place], quote=False)
                out += self._marks.pop(place)
                done = place
        return out + escape(self._text[done:end], quote=False)


def _split_at_last_space(gap: str) -> tuple[str, str]:
    """Split behind the last space; all is the first part if there is none."""
    behind = re.search(r"\s(\S*)\Z", gap)
    place = behind.start(1) if behind else len(gap)
    return gap[:place], gap[place:]


def _length_before_space(gap: str) -> int:
    """Count characters before the first space, 0 if there is none."""
    space = re.search(r"\s", gap)
    return space.start() if space else 0


def _write_opening(label: WordLabel) -> str:
    """Write the text between ``<`` and ``>``; empty if unlabelled."""
    weights = {name: p for name, p in (label.probs or {}).items() if p}
    if len(weights) > 1:
        opening = " ".join(
            f"{name}={_write_number(p)}" for name, p in weights.items()
        )
    else:
        opening = next(iter(weights), None) or label.emotion
    parts = [opening] if opening else []
    if opening and label.intensity is not None:
        parts.append(f"intensity={_write_number(label.intensity)}")
    return " ".join([*parts, *_write_axes(label.axes or {})])


def _write_axes(axes: Mapping[str, float]) -> list[str]:
    """Write the prosody of a word as attributes of a mark."""
    if dict(axes) == dict(STRESS):
        return ["stress"]
    attributes = []
    for name, axis in AXES.items():
        if (value := axes.get(name)) is not None:
            plus = "" if axis.is_factor or value <= 0 else "+"
            unit = "" if axis.is_factor else axis.unit
            attributes.append(f"{name}={plus}{_write_number(value)}{unit}")
    return attributes


def _write_number(value: float) -> str:
    """Write a number with the fewest digits that preserve it."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _probs_outside(
    emotions: Sequence[str], unmarked: str | Mapping[str, float]
) -> tuple[float, ...]:
    """Return the weights of a word outside of marks."""
    if unmarked == "unlabelled":
        return (0.0,) * len(emotions)
    weights = {unmarked: 1.0} if isinstance(unmarked, str) else unmarked
    weights = {name.lower(): weight for name, weight in weights.items()}
    lowered = [emotion.lower() for emotion in emotions]
    total = sum(weights.values())
    if (
        not weights.keys() <= set(lowered)
        or min(weights.values(), default=-1) < 0
        or not abs(total - 1) <= SUM_TOLERANCE
    ):
        raise ValueError(
            f"Words outside of marks cannot be {unmarked!r}: choose "
            f"'unlabelled', one of {', '.join(emotions)}, or a mixture of "
            "them whose weights sum to 1."
        )
    return tuple(weights.get(emotion, 0.0) / total for emotion in lowered)


def _strip_marks(
    text: str,
    emotions: Sequence[str],
    tags: Sequence[str],
    axes: Sequence[str],
) -> tuple[str, list[_Mark | None], list[int], list[_Pause]]:
    """Remove the marks from a text.

    Return the clean text, for each of its characters the mark around it and
    its position in the marked text, and the breaks.
    """
    clean: list[str] = []
    marks: list[_Mark | None] = []
    sources: list[int] = []
    pauses: list[_Pause] = []
    mark, position = None, 0
    while position < len(text):
        piece = _PIECE.match(text, position).group()
        tag = next((t for t in tags if text.startswith(t, position)), None)
        if tag is not None:
            clean += tag
            marks += [mark] * len(tag)
            sources += range(position, position + len(tag))
            position += len(tag)
            continue
        if piece == "<":
            end = _end_of_mark(text, position)
            body = text[position + 1 : end]
            if body.startswith("/"):
                _check_closing(mark, body[1:].strip(), position, marks)
                mark = None
            elif _BREAK.match(body):
                seconds = _read_break(body, position)
                pauses.append(_Pause(seconds, len(clean), position))
            else:
                if mark is not None:
                    raise MarkupError(
                        f"<{body}> opens inside of <{mark.name}> (character "
                        f"{mark.position}). Close that one first; for two "
                        "emotions at once write a mixture such as "
                        "<happy=0.7 sad=0.3>.",
                        position,
                    )
                mark = _read_mark(body, position, emotions, tags, axes)
            position = end + 1
            continue
        # Spaces at the start, and behind other spaces, are left out.
        if not piece.isspace() or (clean and clean[-1] != " "):
            clean.append(
                " " if piece.isspace() else _ENTITIES.get(piece, piece)
            )
            marks.append(mark)
            sources.append(position)
        position += len(piece)
    if mark is not None:
        raise MarkupError(
            f"<{mark.name}> is not closed. Write </{mark.name}> or </> behind "
            "its last word.",
            mark.position,
        )
    return "".join(clean).rstrip(), marks, sources, pauses


def _read_break(body: str, position: int) -> float:
    """Parse the text between the ``<`` and ``>`` of a break, in seconds."""
    match = _BREAK_TIME.fullmatch(body.strip())
    seconds = None
    if match is not None:
        scale = 1000 if match[3].lower() == "ms" else 1
        seconds = float(match[2]) / scale
    if seconds is None or not 0 <= seconds <= MAX_BREAK:
        raise MarkupError(
            f"<{body}> is not a break of 0 to {MAX_BREAK:g} seconds. Write "
            'for example <break time="300ms"/> or <break time=0.3s/>.',
            position,
        )
    return seconds


def _end_of_mark(text: str, position: int) -> int:
    """Find the ``>`` of the mark that begins at `position`."""
    end = text.find(">", position)
    following = text.find("<", position + 1)
    if end < 0 or 0 <= following < end:
        raise MarkupError(
            "'<' begins a mark that has no '>'. Complete the mark, or write "
            "&lt; for a plain '<'.",
            position,
        )
    return end


def _check_closing(
    mark: _Mark | None,
    name: str,
    position: int,
    marks: list[_Mark | None],
) -> None:
    """Raise MarkupError if a closing mark does not fit the open one."""
    if _BREAK.fullmatch(name):
        raise MarkupError(
            f"</{name}> closes nothing: a break has no end. Write it as one "
            "mark, <break time=0.3s/>.",
            position,
        )
    if mark is None:
        raise MarkupError(
            f"</{name}> closes a mark that was never opened. Remove it, or "
            f"write <{name or 'happy'}> before the words it is for.",
            position,
        )
    if name and name.lower() != mark.name:
        raise MarkupError(
            f"</{name}> closes <{mark.name}> (character {mark.position}). "
            f"Write </{mark.name}> or </>.",
            position,
        )
    if not marks or marks[-1] is not mark:
        raise _no_text(mark)


def _no_text(mark: _Mark) -> MarkupError:
    """Return the error for a mark without words."""
    return MarkupError(
        f"<{mark.name}> has no text. Put it around at least one word, or "
        "remove it.",
        mark.position,
    )


def _read_mark(
    body: str,
    position: int,
    emotions: Sequence[str],
    tags: Sequence[str],
    axes: Sequence[str],
) -> _Mark:
    """Parse the text between ``<`` and ``>``."""
    lowered = [emotion.lower() for emotion in emotions]
    weights: dict[str, float | None] = {}
    rest = _ATTRIBUTE.sub("", body).strip()
    attributes = _ATTRIBUTE.findall(body)
    if rest or not attributes:
        raise MarkupError(
            f"<{body}> is not a mark. Write an emotion such as <{emotions[0]}>"
            ", or &lt; for a plain '<'.",
            position,
        )
    given: dict[str, float] = {}  # intensity and axes
    for name, value in attributes:
        name = name.lower()
        is_emotion = name in lowered and name != "intensity"
        if not is_emotion and name not in ("intensity", "stress", *AXES):
            plain = not body[:1].isalpha()  # as in "3 < 4, but 5 > 4"
            raise _unknown_name(name, emotions, tags, axes, position, plain)
        if is_emotion:
            if name in weights:
                raise MarkupError(
                    f"<{body}> names {name} twice. Name each emotion once.",
                    position,
                )
            weights[name] = (
                _read_number(name, value, position) if value else None
            )
            continue
        if name in given:
            raise MarkupError(
                f"<{body}> gives the {name} twice. Give it once.", position
            )
        if name == "intensity":
            given[name] = _read_number(name, value, position)
        else:
            given[name] = _read_axis(name, value, body, axes, position)
    intensity = given.pop("intensity", None)
    if "stress" in given:
        del given["stress"]
        stress = {name: STRESS[name] for name in axes if name in STRESS}
        given = {**stress, **given}
    # In the order of the axes, so that what is the same is written the same.
    given = {name: given[name] for name in AXES if name in given}
    probs = None
    if weights or intensity is not None:
        probs = _mixture(weights, body, lowered, position)
    first = next(iter(weights), attributes[0][0].lower())
    return _Mark(probs, intensity, first, position, given)


def _read_axis(
    name: str, value: str, body: str, axes: Sequence[str], position: int
) -> float:
    """Parse the value of an axis; 1 for stress, which has none."""
    if name not in axes and (name != "stress" or not axes):
        own = f"It changes {' and '.join(axes)} only" if axes else "It has none"
        raise MarkupError(
            f"<{body}> asks for {name}, an axis of prosody that this model "
            f"lacks. {own}: leave it out, or take a model that was trained "
            "with axes.",
            position,
        )
    if name == "stress":
        if value:
            raise MarkupError(
                f"<{body}> gives stress a value, but it has none. Write "
                "<stress>, or pitch, pace and level.",
                position,
            )
        return 1.0
    axis = AXES[name]
    plain = value.strip("\"'").replace("\u2212", "-")
    number = re.fullmatch(
        rf"({_NUMBER})\s*({axis.unit})?", plain, re.IGNORECASE
    )
    if number is None or not axis.low <= float(number[1]) <= axis.high:
        example = "0.8" if axis.is_factor else f"+2{axis.unit}"
        what = "a factor" if axis.is_factor else f"a change in {axis.unit}"
        raise MarkupError(
            f"{name}={plain} is not {what} from {axis.low:g} to "
            f"{axis.high:g}. Write for example {name}={example}.",
            position,
        )
    return float(number[1])


def _mixture(
    weights: dict[str, float | None],
    body: str,
    emotions: Sequence[str],
    position: int,
) -> tuple[float, ...]:
    """Compute the weights of all emotions from those of a mark."""
    if not weights:
        raise MarkupError(
            f"<{body}> names no emotion. Write for example <{emotions[0]} "
            f"{body.strip()}>.",
            position,
        )
    if len(weights) == 1 and None in weights.values():
        return tuple(float(emotion in weights) for emotion in emotions)
    if None in weights.values():
        raise MarkupError(
            f"<{body}> names several emotions. Give each its weight, for "
            "example <happy=0.7 sad=0.3>.",
            position,
        )
    total = sum(weights.values())
    if abs(total - 1) > SUM_TOLERANCE:
        first = next(iter(weights))
        raise MarkupError(
            f"the weights of <{body}> sum to {total:g}, not to 1. Change "
            f"them; how strongly is said by <{first} intensity=0.5>.",
            position,
        )
    return tuple(weights.get(emotion, 0.0) / total for emotion in emotions)


def _read_number(name: str, value: str, position: int) -> float:
    """Parse a number from 0 to 1."""
    plain = value.strip("\"'")
    if not re.fullmatch(_NUMBER, plain) or not 0 <= float(plain) <= 1:
        raise MarkupError(
            f"{name}={plain} is not a number from 0 to 1. Write for example "
            f"{name}=0.5.",
            position,
        )
    return float(plain)


def _unknown_name(
    name: str,
    emotions: Sequence[str],
    tags: Sequence[str],
    axes: Sequence[str],
    position: int,
    plain: bool,
) -> MarkupError:
    """Build the error for a name outside of the taxonomy and the axes."""
    in_angles = [tag[1:-1] for tag in tags if re.fullmatch("<[^/]+>", tag)]
    known = [*emotions, *in_angles]
    own = [*axes, "stress"] if axes else []
    close = difflib.get_close_matches(name, [*known, *own], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    what = "emotion or axis" if axes else "emotion"
    return MarkupError(
        f"the {what} {name!r} is not known: {hint}This model has "
        f"{', '.join([*known, *own])}."
        + (" Write &lt; for a plain '<'." if plain else ""),
        position,
    )
