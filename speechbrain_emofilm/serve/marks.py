"""Marked text as a list of words with their emotions, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.dataio.markup import (
    MAX_BREAK,
    Break,
    MarkedText,
    parse_markup,
)
from speechbrain_emofilm.dataio.text import blank_tags, split_words
from speechbrain_emofilm.inference.suggester import write_labels
from speechbrain_emofilm.processing.prosody_axes import AXES

#: Greatest number of words of a request; pieces of it are spoken one by one.
MAX_WORDS = 2000


def words_of(marked: MarkedText) -> list[dict[str, Any]]:
    """List the words of a marked text.

    Arguments
    ---------
    marked : MarkedText
        The text.

    Returns
    -------
    list of dict
        "text", "before", "after", "emotion" (dict of weights, or None) and
        "intensity" of each word, and its values on the axes. The plain text
        is that of all words joined. A word behind a silence that the text
        asks for has "break_before", the last word before one "break_after",
        in seconds.

    Example
    -------
    >>> words = words_of(parse_markup("“<happy>We</> won!", ["happy"]))
    >>> words[0]["before"], words[0]["emotion"], words[1]["after"]
    ('“', {'happy': 1.0}, '!')
    """
    words: list[dict[str, Any]] = []
    for index, word in enumerate(marked.words):
        following = marked.words[index + 1 : index + 2]
        end = following[0].start if following else len(marked.text)
        emotion = {
            name: weight
            for name, weight in zip(marked.emotions, word.probs)
            if weight
        }
        words.append(
            {
                "text": marked.text[word.start : word.end],
                "before": "" if index else marked.text[: word.start],
                "after": marked.text[word.end : end],
                "emotion": emotion or None,
                "intensity": word.intensity,
                **{axis: word.axes.get(axis) for axis in AXES},
            }
        )
    for pause in marked.breaks:
        name, index = "break_before", pause.word
        if index == len(words):
            name, index = "break_after", -1
        words[index][name] = words[index].get(name, 0.0) + pause.seconds
    return words


def marks_of(
    words: Sequence[Mapping[str, Any]],
    emotions: Sequence[str],
    tags: Sequence[str] = (),
    axes: Sequence[str] = (),
) -> str:
    """Write words as marked text, the inverse of :func:`words_of`.

    Arguments
    ---------
    words : list of dict
        As :func:`words_of` returns them.
    emotions : list of str
        The model's emotions.
    tags : list of str
        The model's tags, which may stand between words.
    axes : list of str
        The model's axes of prosody.

    Returns
    -------
    str
        Marked text.

    Raises
    ------
    ValueError
        If a word is not one word, an emotion is unknown, or a value is out
        of range or of an axis that the model lacks.

    Example
    -------
    >>> marks_of(
    ...     [
    ...         {"text": "We", "after": " ", "emotion": {"happy": 1.0}},
    ...         {"text": "won", "after": "!", "emotion": None},
    ...     ],
    ...     ["happy"],
    ... )
    '<happy>We</> won!'
    """
    text, places = "", []
    for word in words:
        text += word.get("before") or ""
        places.append((len(text), len(text) + len(word["text"])))
        text += word["text"] + (word.get("after") or "")
    found = split_words(blank_tags(text, tags))
    if [(one.start, one.end) for one in found] != places:
        index = next(
            (
                index
                for index, place in enumerate(places)
                if index >= len(found)
                or (found[index].start, found[index].end) != place
            ),
            len(places) - 1,
        )
        raise ValueError(
            f"Word {index} ({words[index]['text'] if words else ''!r}) is not "
            "exactly one word between others: give one item for each word, "
            "and spaces and punctuation in before and after."
        )
    labels = [_label(index, word, axes) for index, word in enumerate(words)]
    marks = write_labels(text, places, labels, tags, _breaks(words))
    parse_markup(marks, emotions, max_words=MAX_WORDS, tags=tags, axes=axes)
    return marks


def _breaks(words: Sequence[Mapping[str, Any]]) -> list[Break]:
    """List the breaks before and behind words; long ones are several."""
    breaks = []
    for index, word in enumerate(words):
        places = {"break_before": index, "break_after": index + 1}
        for name, place in places.items():
            left = word.get(name)
            if left is None:
                continue
            if name == "break_after" and place < len(words):
                raise ValueError(
                    f"Word {index} ({word['text']!r}) has a break_after: only "
                    "the last word has one, others give the break_before of "
                    "the next word."
                )
            while left > MAX_BREAK:
                breaks.append(Break(place, MAX_BREAK))
                left -= MAX_BREAK
            breaks.append(Break(place, left))
    return breaks


def _label(
    index: int, word: Mapping[str, Any], axes: Sequence[str]
) -> WordLabel:
    """Return the label of a word; refuse values that nothing expresses."""
    asked = {name: word[name] for name in AXES if word.get(name) is not None}
    for name, value in asked.items():
        axis = AXES[name]
        if name not in axes:
            raise ValueError(
                f"Word {index} ({word['text']!r}) has a {name}, which this "
                "model cannot change: leave it out."
            )
        if not axis.low <= value <= axis.high:
            raise ValueError(
                f"Word {index} ({word['text']!r}) has the {name} {value:g}: "
                f"give a number from {axis.low:g} to {axis.high:g}."
            )
    weights = {
        name: weight
        for name, weight in (word.get("emotion") or {}).items()
        if weight
    }
    if not weights:
        return WordLabel(word["text"], 0, 1, axes=asked or None)
    if len(weights) == 1 and abs(sum(weights.values()) - 1) > 0.02:
        (name,) = weights
        raise ValueError(
            f"Word {index} ({word['text']!r}) has {name} with the weight "
            f"{weights[name]:g}: weights sum to 1; give how strongly as the "
            "intensity."
        )
    return WordLabel(
        word["text"],
        0,
        1,
        max(weights, key=weights.__getitem__),
        weights,
        word.get("intensity"),
        axes=asked or None,
    )
