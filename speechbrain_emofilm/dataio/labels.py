"""Word labels: the emotion and its intensity of every word of a corpus.

A labels file is JSON by utterance id::

    {"0011_000351": {
        "words": [{"word": "We", "start": 0.11, "end": 0.32,
                   "emotion": "happy", "probs": {"happy": 0.8, "sad": 0.2},
                   "intensity": 0.6, "confidence": 0.9,
                   "axes": {"pitch": 2.0}}, ...],
        "source": {"labeler": "..."}}, ...}

``probs``, ``intensity``, ``confidence`` and ``axes`` (asked prosody, see
:mod:`speechbrain_emofilm.processing.prosody_axes`) may be left out. A word
without an ``emotion`` (or with ``null``) is unlabelled. The same labels,
without probabilities and axes, are written as TextGrid tiers ``words``,
``emotion`` and ``intensity``, to be opened and corrected in Praat.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.alignments import (
    OVERLAP_TOLERANCE,
    SILENCES,
    Word,
    read_tiers,
    write_tiers,
)
from speechbrain_emofilm.dataio.text import same_word
from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.utils.files import read_json, write_json

import torch

_FIELDS = (
    "word",
    "start",
    "end",
    "emotion",
    "probs",
    "intensity",
    "confidence",
    "axes",
)


@dataclass(frozen=True)
class WordLabel:
    """A word with its times and emotion.

    Arguments
    ---------
    word : str
        The word.
    start, end : float
        Start and end of the word, in seconds.
    emotion : str or None
        The most likely emotion, None for an unlabelled word.
    probs : dict or None
        Emotion to probability; they sum to 1.
    intensity : float or None
        0 to 1.
    confidence : float or None
        Confidence of the labeler, 0 to 1.
    axes : dict or None
        Axis of prosody to the value asked of the word, in natural units.
    """

    word: str
    start: float
    end: float
    emotion: str | None = None
    probs: Mapping[str, float] | None = None
    intensity: float | None = None
    confidence: float | None = None
    axes: Mapping[str, float] | None = None


@dataclass(frozen=True)
class UtteranceLabels:
    """Labels of all words of an utterance.

    Arguments
    ---------
    words : list of WordLabel
        In order of time.
    source : dict
        Origin of the labels.
    """

    words: list[WordLabel]
    source: dict = field(default_factory=dict)

    def alignment(self) -> list[Word]:
        """Return the words and their times, without the emotions."""
        return [Word(w.word, w.start, w.end) for w in self.words]

    def corrected(
        self, correction: "UtteranceLabels", utterance: str
    ) -> "UtteranceLabels":
        """Apply labels corrected in Praat, whose TextGrids hold less.

        Arguments
        ---------
        correction : UtteranceLabels
            Labels of the same words.
        utterance : str
            The utterance id, for the message.

        Returns
        -------
        UtteranceLabels
            The correction; words with the same emotion and intensity as
            before keep their probabilities and confidence.

        Raises
        ------
        ValueError
            If the words differ.

        Example
        -------
        >>> old = UtteranceLabels(
        ...     [WordLabel("We", 0.1, 0.4, "sad", {"sad": 1.0}, 0.5, 0.9)]
        ... )
        >>> new = UtteranceLabels([WordLabel("We", 0.1, 0.4, "happy")])
        >>> old.corrected(new, "a") == new, old.corrected(old, "a") == old
        (True, True)
        """
        check_words(correction, [word.word for word in self.words], utterance)
        words = []
        for old, new in zip(self.words, correction.words):
            if new.emotion == old.emotion and _same(
                new.intensity, old.intensity
            ):
                new = replace(old, start=new.start, end=new.end)
            words.append(new)
        if words == self.words:
            return self
        return UtteranceLabels(words, {**self.source, **correction.source})


def read_word_labels(
    path: str | Path, emotions: Sequence[str]
) -> dict[str, UtteranceLabels]:
    """Read and check a labels file.

    Arguments
    ---------
    path : str or Path
        A JSON file.
    emotions : list of str
        The taxonomy; a label outside of it is an error.

    Returns
    -------
    dict
        Utterance id to its labels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a label is invalid: the message names the file, the utterance, the
        word and the correction.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.json"
    >>> labels = UtteranceLabels([WordLabel("We", 0.1, 0.4, "happy")])
    >>> write_word_labels(path, {"0011_000351": labels}, ["happy", "sad"])
    >>> read_word_labels(path, ["happy", "sad"])["0011_000351"] == labels
    True
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} does not hold word labels: it must be an object with "
            "an entry for each utterance id."
        )
    labels = {}
    for utterance, entry in content.items():
        place = f"{path}, utterance {utterance}"
        labels[utterance] = _parse_utterance(entry, place)
        check_labels(labels[utterance], emotions, place)
    return labels


def write_word_labels(
    path: str | Path,
    labels: Mapping[str, UtteranceLabels],
    emotions: Sequence[str],
) -> None:
    """Check labels and write them as one JSON file.

    Arguments
    ---------
    path : str or Path
        The file to write.
    labels : dict
        Utterance id to its labels.
    emotions : list of str
        The taxonomy.

    Raises
    ------
    ValueError
        If a label is invalid; nothing is written.
    """
    content = {}
    for utterance, entry in labels.items():
        check_labels(entry, emotions, f"Utterance {utterance}")
        content[utterance] = {
            "words": [
                {
                    name: value
                    for name, value in asdict(word).items()
                    if value is not None
                }
                for word in entry.words
            ],
            "source": entry.source,
        }
    write_json(path, content)


def read_label_textgrid(
    path: str | Path, emotions: Sequence[str]
) -> UtteranceLabels:
    """Read the tiers ``words``, ``emotion`` and ``intensity``.

    Arguments
    ---------
    path : str or Path
        A TextGrid written by :func:`write_label_textgrid`, which may have
        been corrected in Praat.
    emotions : list of str
        The taxonomy.

    Returns
    -------
    UtteranceLabels
        Each word with the label of the interval around its middle.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If there is no tier ``words`` or ``emotion``, or a label is wrong.
    """
    tiers = read_tiers(path)
    for name in ("words", "emotion"):
        if name not in tiers:
            raise ValueError(
                f"{path} has no tier {name!r} (it has {', '.join(tiers)}): "
                "word labels need the tiers words and emotion."
            )
    words = []
    for start, end, word in tiers["words"]:
        if word.strip().lower() in SILENCES:
            continue
        middle = (start + end) / 2
        intensity = _label_at(tiers.get("intensity", []), middle)
        words.append(
            WordLabel(
                word,
                start,
                end,
                _label_at(tiers["emotion"], middle),
                intensity=_number(
                    intensity, f"{path}, word {len(words)} ({word!r})"
                ),
            )
        )
    labels = UtteranceLabels(words, {"textgrid": Path(path).name})
    check_labels(labels, emotions, str(path))
    return labels


def write_label_textgrid(
    path: str | Path, labels: UtteranceLabels, duration: float
) -> None:
    """Write labels as TextGrid tiers, to be opened in Praat.

    Arguments
    ---------
    path : str or Path
        File to write; its folder is created.
    labels : UtteranceLabels
        Labels of one utterance.
    duration : float
        Duration of the utterance, in seconds.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.TextGrid"
    >>> labels = UtteranceLabels([WordLabel("We", 0.1, 0.4, "happy")])
    >>> write_label_textgrid(path, labels, duration=1.0)
    >>> read_label_textgrid(path, ["happy"]).words == labels.words
    True
    """
    tiers: dict[str, list[tuple[float, float, str]]] = {
        name: [] for name in ("words", "emotion", "intensity")
    }
    for word in labels.words:
        tiers["words"].append((word.start, word.end, word.word))
        if word.emotion is not None:
            tiers["emotion"].append((word.start, word.end, word.emotion))
        if word.intensity is not None:
            level = f"{word.intensity:.6g}"
            tiers["intensity"].append((word.start, word.end, level))
    write_tiers(path, tiers, duration)


def words_to_tensors(
    labels: UtteranceLabels, emotions: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert labels to the model's tensors.

    Arguments
    ---------
    labels : UtteranceLabels
        Checked labels of one utterance.
    emotions : list of str
        The taxonomy, in the model's order.

    Returns
    -------
    word_emotions : torch.Tensor
        (W, K): the probabilities where there are any, else 1 for the
        emotion; all zeros for unlabelled words.
    word_intensity : torch.Tensor
        (W,): where a word has none, that of :func:`full_intensity`.

    Example
    -------
    >>> labels = UtteranceLabels(
    ...     [WordLabel("a", 0, 1, "sad", intensity=0.5), WordLabel("b", 1, 2)]
    ... )
    >>> word_emotions, word_intensity = words_to_tensors(
    ...     labels, ["neutral", "sad"]
    ... )
    >>> word_emotions.tolist(), word_intensity.tolist()
    ([[0.0, 1.0], [0.0, 0.0]], [0.5, 0.0])
    """
    word_emotions = torch.zeros(len(labels.words), len(emotions))
    for index, word in enumerate(labels.words):
        if word.emotion is None:
            continue
        probs = word.probs or {word.emotion: 1.0}
        for emotion, probability in probs.items():
            word_emotions[index, emotions.index(emotion)] = probability
    word_intensity = full_intensity(word_emotions, emotions)
    for index, word in enumerate(labels.words):
        if word.emotion is not None and word.intensity is not None:
            word_intensity[index] = word.intensity
    return word_emotions, word_intensity


def full_intensity(
    word_emotions: torch.Tensor, emotions: Sequence[str]
) -> torch.Tensor:
    """Compute the intensity of words that carry their emotion in full.

    Arguments
    ---------
    word_emotions : torch.Tensor
        (..., W, K) weights of the emotions.
    emotions : list of str
        The taxonomy, in the model's order.

    Returns
    -------
    torch.Tensor
        (..., W): 1 for an emotion, 0 for unlabelled words and for the
        neutral part of a mixture: to be neutral has no degrees.

    Example
    -------
    >>> full_intensity(torch.eye(2), ["neutral", "sad"])
    tensor([0., 1.])
    """
    counts = [emotion.lower() != "neutral" for emotion in emotions]
    return word_emotions[..., counts].sum(-1)


def sentence_labels(
    words: Sequence[Word], emotion: str, intensity: float | None = None
) -> UtteranceLabels:
    """Give the emotion of a sentence to each of its words.

    Arguments
    ---------
    words : list of Word
        The sentence's alignment.
    emotion : str
        The sentence's emotion.
    intensity : float, optional
        Intensity of every word.

    Example
    -------
    >>> labels = sentence_labels([Word("We", 0.1, 0.4)], "happy")
    >>> labels.words[0].emotion
    'happy'
    """
    return UtteranceLabels(
        [
            WordLabel(w.text, w.start, w.end, emotion, intensity=intensity)
            for w in words
        ],
        {"labeler": "sentence"},
    )


def check_words(
    labels: UtteranceLabels, text_words: Sequence[str], utterance: str
) -> None:
    """Check that the words of labels are those of the text.

    Case and punctuation do not count.

    Arguments
    ---------
    labels : UtteranceLabels
        Labels of the utterance.
    text_words : list of str
        The words of its text, from
        :func:`~speechbrain_emofilm.dataio.text.split_words` or a front end.
    utterance : str
        The utterance id, for the message.

    Raises
    ------
    ValueError
        If the words differ.

    Example
    -------
    >>> labels = UtteranceLabels([WordLabel("won", 0.1, 0.4)])
    >>> check_words(labels, ["Won!"], "0011_000351")
    """
    label_words = [word.word for word in labels.words]
    pairs = itertools.zip_longest(label_words, text_words)
    for index, (label_word, text_word) in enumerate(pairs):
        if (
            label_word is None
            or text_word is None
            or not same_word(label_word, text_word)
        ):
            raise ValueError(
                f"Utterance {utterance}: word {index} is "
                f"{_quoted(label_word)} in the word labels but "
                f"{_quoted(text_word)} in the text ({len(label_words)} and "
                f"{len(text_words)} words). Label the utterance again, or "
                "correct its transcript."
            )


def check_labels(
    labels: UtteranceLabels, emotions: Sequence[str], place: str
) -> None:
    """Check the times and values of labels.

    Arguments
    ---------
    labels : UtteranceLabels
        Labels of one utterance.
    emotions : list of str
        The taxonomy.
    place : str
        File and utterance, for the message.

    Raises
    ------
    ValueError
        If a time is out of order, an emotion is outside of the taxonomy, or
        a probability, intensity or confidence is not within 0 and 1, or an
        axis is unknown or out of its range.
    """
    previous = 0.0
    for index, word in enumerate(labels.words):
        where = f"{place}, word {index} ({word.word!r})"
        if not previous - OVERLAP_TOLERANCE <= word.start < word.end:
            raise ValueError(
                f"{where} goes from {word.start} to {word.end} s: words need "
                f"a length and must follow each other (the last one ends at "
                f"{previous} s)."
            )
        previous = word.end
        for emotion in {word.emotion, *(word.probs or ())} - {None}:
            if emotion not in emotions:
                raise ValueError(
                    f"{where} has the emotion {emotion!r}: the taxonomy is "
                    f"{', '.join(emotions)}. Correct the label, or add the "
                    "emotion to the taxonomy."
                )
        _check_shares(word, where)
        for name, value in (word.axes or {}).items():
            axis = AXES.get(name)
            if axis is None or not axis.low <= value <= axis.high:
                ranges = [
                    f"{a.name} ({a.low:g} to {a.high:g} {a.unit})"
                    for a in AXES.values()
                ]
                raise ValueError(
                    f"{where} has the axis {name!r} at {value}: known are "
                    f"{', '.join(ranges)}."
                )


def _check_shares(word: WordLabel, where: str) -> None:
    """Check that numbers are within 0 and 1, and probabilities sum to 1."""
    shares = {"intensity": word.intensity, "confidence": word.confidence}
    shares.update(
        (f"probs of {emotion}", share)
        for emotion, share in (word.probs or {}).items()
    )
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise ValueError(
                f"{where} has the {name} {share}: give a number from 0 to 1."
            )
    if word.probs:
        total = sum(word.probs.values())
        if word.emotion is None or abs(total - 1) > 0.02:
            raise ValueError(
                f"{where} has probs that sum to {total:g} and the emotion "
                f"{word.emotion!r}: give the most likely emotion, and probs "
                "that sum to 1."
            )


def _parse_utterance(entry: object, place: str) -> UtteranceLabels:
    """Parse one entry of the JSON file."""
    if not isinstance(entry, dict) or not isinstance(entry.get("words"), list):
        raise ValueError(
            f"{place} has no list 'words': write one object for each word."
        )
    words = []
    for index, item in enumerate(entry["words"]):
        where = f"{place}, word {index}"
        if not isinstance(item, dict) or not isinstance(item.get("word"), str):
            raise ValueError(
                f"{where} has no 'word': write an object with word, start, "
                "end and emotion."
            )
        where += f" ({item['word']!r})"
        unknown = sorted(set(item) - set(_FIELDS))
        if unknown:
            raise ValueError(
                f"{where} has the field {unknown[0]!r}: known are "
                f"{', '.join(_FIELDS)}."
            )
        words.append(_parse_word(item, where))
    source = entry.get("source", {})
    if not isinstance(source, dict):
        raise ValueError(
            f"{place} has the source {source!r}: write an object, or leave it "
            "out."
        )
    return UtteranceLabels(words, source)


def _parse_word(item: Mapping, where: str) -> WordLabel:
    """Parse one word's label."""
    for name in ("start", "end"):
        if item.get(name) is None:
            raise ValueError(f"{where} has no {name!r}: give it in seconds.")
    probs, emotion = item.get("probs"), item.get("emotion")
    if not isinstance(emotion, (str, type(None))) or not isinstance(
        probs, (dict, type(None))
    ):
        raise ValueError(
            f"{where} has the emotion {emotion!r} and the probs {probs!r}: "
            "give a name, and an object of names and probabilities."
        )
    if probs:
        probs = {name: _number(p, where) for name, p in probs.items()}
        if None in probs.values():
            raise ValueError(
                f"{where} has the probs {item['probs']!r}: give a number from "
                "0 to 1 for each emotion."
            )
    axes = item.get("axes")
    if not isinstance(axes, (dict, type(None))) or (
        axes and None in axes.values()
    ):
        raise ValueError(
            f"{where} has the axes {axes!r}: give an object of names and "
            "numbers."
        )
    return WordLabel(
        item["word"],
        _number(item["start"], where),
        _number(item["end"], where),
        emotion,
        probs or None,
        _number(item.get("intensity"), where),
        _number(item.get("confidence"), where),
        {name: _number(v, where) for name, v in axes.items()} if axes else None,
    )


def _number(value: Any, where: str) -> float | None:
    """Convert to a number, or None if the value is None."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{where} has {value!r} in place of a number: correct it."
        ) from None


def _label_at(
    intervals: Sequence[tuple[float, float, str]], time: float
) -> str | None:
    """Return the label of the interval at a time."""
    for start, end, label in intervals:
        if start <= time < end and label.strip():
            return label.strip()
    return None


def _same(first: float | None, second: float | None) -> bool:
    """Tell whether two numbers agree in the digits of a TextGrid."""
    if first is None or second is None:
        return first is second
    return abs(first - second) < 1e-5


def _quoted(word: str | None) -> str:
    return "missing" if word is None else repr(word)
