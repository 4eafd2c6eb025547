"""Suggestion of emotion marks for a plain text.

A suggester cuts a text into clauses and gives each an emotion of the model's
taxonomy, or none. The words that the user has marked keep their marks. A model
names its suggester in one line of ``synthesizer.yaml``::

    suggester: !new:speechbrain_emofilm.inference.suggester.LexiconSuggester

Without that line it is the :class:`LexiconSuggester`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.dataio.markup import (
    Break,
    MarkedText,
    parse_markup,
    write_markup,
)
from speechbrain_emofilm.dataio.text import (
    blank_tags,
    language_of,
    split_words,
)
from speechbrain_emofilm.utils.hparams import load_some_hparams

#: Words by which the lexicon's positive or negative is told apart; ``*``
#: stands for any ending. Fear is listed so that it is not taken for sadness: a
#: taxonomy without it leaves such clauses unmarked.
WORDS: dict[str, tuple[str, ...]] = {
    "angry": (
        "anger*", "angr*", "annoy*", "damn*", "despis*", "disgust*", "enrag*",
        "furious*", "fury", "hate", "hated", "hates", "hatred", "hostil*",
        "how dare", "idiot*", "infuriat*", "insult*", "irritat*", "livid",
        "mad", "outrag*", "rage", "raging", "resent*", "shut up", "stupid*",
        "unfair*",
    ),
    "surprise": (
        "amaz*", "astonish*", "astound*", "can't believe", "gosh",
        "incredibl*", "oh my", "out of nowhere", "shock*", "startl*",
        "stunned", "stunning", "sudden*", "surpris*", "unbelievabl*",
        "unexpected*", "whoa", "wow",
    ),
    "fear": (
        "afraid", "alarm*", "anxi*", "dread*", "fear*", "fright*", "nervous*",
        "panic*", "scare", "scared", "scary", "terrif*", "terror*", "worr*",
    ),
}  # fmt: skip
#: Emotions of the classifiers that :class:`TransformersSuggester` knows by
#: default, as those of the package.
LABELS: dict[str, str] = {
    "anger": "angry",
    "annoyance": "angry",
    "joy": "happy",
    "amusement": "happy",
    "excitement": "happy",
    "happiness": "happy",
    "sadness": "sad",
    "grief": "sad",
    "disappointment": "sad",
    "remorse": "sad",
    "surprised": "surprise",
}
# A clause ends with a sentence, at a dash, or before a conjunction.
_CLAUSE_END = re.compile(
    r"""(?<=[.!?…;:])(?<!\b[DM]r\.)(?<!\bMrs\.)["'”’)\]]*\s+"""
    r"""|\s+[-–—]+\s+|\s*—\s*"""
    r"""|,\s+(?=(?:and|because|so|then|yet)\b)"""
    r"""|,?\s+(?=(?:but|although|though|however|whereas)\b)""",
    re.IGNORECASE,
)
# VADER weighs what follows a "but" more: the clause has no other half here.
_CONJUNCTION = re.compile(
    r"\W*(?:and|because|but|although|though|however|so|then|whereas|yet)\b,?",
    re.IGNORECASE,
)
#: Number of words before a word in which a negation is looked for, as VADER.
_REACH = 3


class Suggester:
    """Base class: gives the clauses of a text emotions.

    A subclass defines :meth:`judge`.

    Example
    -------
    >>> class Loud(Suggester):
    ...     proposes = ("angry",)
    ...     def judge(self, clauses):
    ...         return [
    ...             ("angry", 0.8) if clause.endswith("!") else (None, 0.0)
    ...             for clause in clauses
    ...         ]
    >>> marked = Loud().suggest("You! But I stay.", ["neutral", "angry"])
    >>> write_marks(marked)
    '<angry intensity=0.8>You!</> But I stay.'
    """

    #: Emotions that it can find.
    proposes: Sequence[str] = ()

    def judge(self, clauses: Sequence[str]) -> list[tuple[str | None, float]]:
        """Find the emotion of each clause and its strength.

        Arguments
        ---------
        clauses : list of str
            Clauses without marks.

        Returns
        -------
        list of (str or None, float)
            Name of the emotion, None for a clause that shows none, and the
            intensity from 0 to 1.
        """
        raise NotImplementedError

    def suggest(
        self,
        text: str,
        emotions: Sequence[str],
        tags: Sequence[str] = (),
        axes: Sequence[str] = (),
    ) -> MarkedText:
        """Give the unmarked words of a text emotions.

        Arguments
        ---------
        text : str
            Text, which may hold marks already.
        emotions : list of str
            The model's taxonomy.
        tags : list of str
            Tags of the model, such as ``"[laughter]"``.
        axes : list of str
            The model's axes of prosody, for the marks of the text.

        Returns
        -------
        MarkedText
            The text; words of clauses without an emotion stay unmarked.

        Raises
        ------
        MarkupError
            If the marks are wrong, or the text has no word.
        ValueError
            If the model has none of the emotions that the suggester finds,
            or the suggester does not know the language.
        """
        places = {name.lower(): i for i, name in enumerate(emotions)}
        if not places.keys() & {name.lower() for name in self.proposes}:
            raise ValueError(
                f"{type(self).__name__} finds {', '.join(self.proposes)}, but "
                f"the model has {', '.join(emotions)}: name another suggester "
                "in its hparams, or map its labels to these emotions."
            )
        marked = parse_markup(
            text, emotions, max_words=None, tags=tags, axes=axes
        )
        plain = blank_tags(marked.text, tags)
        spans = _clauses(plain)
        found = self.judge([plain[start:end].strip() for start, end in spans])
        words = []
        for word in marked.words:
            index = next(i for i, s in enumerate(spans) if word.start < s[1])
            emotion, strength = found[index]
            place = places.get((emotion or "").lower())
            if place is not None and not any(word.probs):
                # One digit: more would pretend to a knowledge it has not.
                word = replace(
                    word,
                    probs=[float(i == place) for i in range(len(emotions))],
                    intensity=min(max(round(strength, 1), 0.1), 1.0),
                )
            words.append(word)
        return replace(marked, words=words)


class LexiconSuggester(Suggester):
    """Suggester for English by the lexicon and rules of VADER.

    VADER (package ``nltk-vader-sentiment``, no download) tells how positive
    or negative a clause is; it knows negations ("not happy") and boosters
    ("very"). `words` tell which emotion it is:

    * a clause with such a word, not negated, has that emotion;
    * else a positive clause is `positive`, a negative one `negative`;
    * a clause that only denies something bad ("not bad") has none.

    The intensity is the amount of VADER's compound score, at least 0.5 where
    a word of `words` stands.

    Arguments
    ---------
    threshold : float
        Least amount of the compound score that counts, 0 to 1.
    positive : str
        Emotion of positive clauses.
    negative : str
        Emotion of negative clauses.
    words : dict, optional
        Emotion to its words or phrases, in lower case, where ``*`` stands for
        any ending; :data:`WORDS` if None.

    Raises
    ------
    ImportError
        If the package is missing.

    Example
    -------
    >>> suggester = LexiconSuggester()
    >>> suggester.judge(["We won!", "I am not happy.", "How dare you!"])
    [('happy', 0.6114...), ('sad', 0.4585...), ('angry', 0.5)]
    """

    def __init__(
        self,
        threshold: float = 0.2,
        positive: str = "happy",
        negative: str = "sad",
        words: Mapping[str, Sequence[str]] | None = None,
    ):
        try:
            import vader
        except ImportError as error:
            raise ImportError(
                "Suggestions by the lexicon need the package "
                "nltk-vader-sentiment: pip install "
                "'speechbrain-emofilm[suggest]'."
            ) from error
        self._analyzer = vader.SentimentIntensityAnalyzer()
        self._negated = vader.negated
        self.threshold = threshold
        self.positive, self.negative = positive, negative
        self._patterns = {
            emotion: _pattern(listed)
            for emotion, listed in (WORDS if words is None else words).items()
        }
        self.proposes = tuple(
            dict.fromkeys([positive, negative, *self._patterns])
        )

    def judge(self, clauses: Sequence[str]) -> list[tuple[str | None, float]]:
        """Find the emotion of each clause, see :meth:`Suggester.judge`.

        Raises
        ------
        ValueError
            If a clause is Chinese.
        """
        return [self._judge(clause) for clause in clauses]

    def _judge(self, clause: str) -> tuple[str | None, float]:
        if language_of(clause) != "en":
            raise ValueError(
                f"The lexicon knows English only, but the text has "
                f"{clause[:40]!r}: mark it yourself, or name a "
                "TransformersSuggester of that language in the hparams."
            )
        clause = clause.replace("’", "'")
        conjunction = _CONJUNCTION.match(clause)
        clause = clause[conjunction.end() if conjunction else 0 :]
        lowered = clause.lower()
        score = self._analyzer.polarity_scores(clause)["compound"]
        hits = {
            emotion: sum(
                not self._negated(_before(lowered, match.start()))
                for match in pattern.finditer(lowered)
            )
            for emotion, pattern in self._patterns.items()
        }
        emotion = max(hits, key=hits.__getitem__, default=None)
        if emotion is not None and hits[emotion]:
            return emotion, max(abs(score), 0.5)
        if abs(score) < self.threshold:
            return None, 0.0
        if score < 0:
            return self.negative, -score
        words = [word.text for word in split_words(lowered)]
        lexicon = self._analyzer.lexicon
        if self._negated(words) and not any(
            lexicon.get(word, 0) > 0 for word in words
        ):
            return None, 0.0
        return self.positive, score


class TransformersSuggester(Suggester):
    """Suggester by a text classifier of the library ``transformers``.

    It knows the languages of the classifier, which is loaded on first use.

    Arguments
    ---------
    model : str
        Folder of the classifier, or its name on the Hugging Face Hub.
    labels : dict, optional
        The classifier's labels (lower case) to emotions; what is missing
        counts as no emotion. If None, :data:`LABELS` and the emotions' own
        names.
    threshold : float
        Least probability of an emotion that counts, 0 to 1.
    device : str
        Where it computes, such as ``"cpu"`` or ``"cuda"``.

    Example
    -------
    >>> suggester = TransformersSuggester(
    ...     "path/to/classifier", {"joy": "happy", "anger": "angry"}
    ... )
    >>> suggester.proposes
    ('happy', 'angry')
    """

    def __init__(
        self,
        model: str,
        labels: Mapping[str, str] | None = None,
        threshold: float = 0.5,
        device: str = "cpu",
    ):
        self.model, self.threshold, self.device = str(model), threshold, device
        if labels is None:
            own = {name: name for name in LABELS.values()}
            labels = {**LABELS, **own}
        self.labels = {key.lower(): name for key, name in labels.items()}
        self.proposes = tuple(dict.fromkeys(self.labels.values()))
        self._classifier: Callable | None = None

    def judge(self, clauses: Sequence[str]) -> list[tuple[str | None, float]]:
        """Find the emotion of each clause, see :meth:`Suggester.judge`.

        Raises
        ------
        ValueError
            If the model is no text classifier, or has none of the labels.
        """
        if self._classifier is None:
            self._classifier = self._load()
        judged = []
        for scores in self._classifier(
            list(clauses), top_k=None, truncation=True
        ):
            shares: dict[str | None, float] = {}
            for item in scores:
                name = self.labels.get(item["label"].lower())
                shares[name] = shares.get(name, 0.0) + item["score"]
            emotions = [name for name in shares if name is not None]
            best = max(emotions, key=shares.__getitem__)
            sure = shares[best] >= self.threshold
            judged.append((best if sure else None, shares[best]))
        return judged

    def _load(self) -> Callable:
        from transformers import pipeline

        try:
            classifier = pipeline(
                "text-classification", model=self.model, device=self.device
            )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.model} is not a text classifier of transformers "
                f"({str(error).splitlines()[0][:200]}): give the folder of one "
                "or its name on the Hub as the suggester's model."
            ) from error
        known = [str(v) for v in classifier.model.config.id2label.values()]
        if not self.labels.keys() & {label.lower() for label in known}:
            raise ValueError(
                f"{self.model} has the labels {', '.join(known[:20])}, none of "
                "which is mapped to an emotion: give the suggester `labels`."
            )
        return classifier


def make_suggest(synthesizer: Any) -> Callable[[str], MarkedText]:
    """Make the function that suggests marks for a model's texts.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model: its hparams may name a ``suggester``.

    Returns
    -------
    callable
        ``suggest(text) -> MarkedText``, see :meth:`Suggester.suggest`.

    Raises
    ------
    ImportError
        If the default suggester's package is missing.
    """
    suggester = getattr(synthesizer.hparams, "suggester", None)
    axes = getattr(synthesizer, "axes", ())
    suggest = partial(
        (suggester or LexiconSuggester()).suggest,
        emotions=list(synthesizer.emotions),
        tags=list(synthesizer.tags),
    )
    # A user's own suggester need not know axes.
    return partial(suggest, axes=list(axes)) if axes else suggest


def suggest_marks(text: str, hparams_file: str | Path) -> str:
    """Suggest marks for a text without loading the model itself.

    Arguments
    ---------
    text : str
        Text, which may hold marks already.
    hparams_file : str or Path
        The model's ``synthesizer.yaml``: its emotions, tags and suggester
        count.

    Returns
    -------
    str
        Marked text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the suggester's package is missing.
    ValueError
        If the file does not describe a model, or as
        :meth:`Suggester.suggest`.

    Example
    -------
    >>> path = getfixture("tmp_path") / "synthesizer.yaml"
    >>> _ = path.write_text("emotions: [neutral, happy]")
    >>> suggest_marks("We won! But he left.", path)
    '<happy intensity=0.6>We won!</> But he left.'
    """
    hparams = load_some_hparams(
        hparams_file, ("emotions", "suggester", "text_frontend", "axes")
    )
    tags = list(getattr(hparams.get("text_frontend"), "tags", ()))
    suggester = hparams.get("suggester") or LexiconSuggester()
    axes = hparams.get("axes") or ()
    suggest = (
        partial(suggester.suggest, axes=axes) if axes else suggester.suggest
    )
    marked = suggest(text, hparams["emotions"], tags)
    return write_marks(marked, tags)


def write_marks(marked: MarkedText, tags: Sequence[str] = ()) -> str:
    """Write a marked text as a text with marks.

    Arguments
    ---------
    marked : MarkedText
        Text, words with their emotions, and breaks.
    tags : list of str
        Tags of the model, which may stand between words.

    Returns
    -------
    str
        Text that :func:`~speechbrain_emofilm.dataio.markup.parse_markup`
        reads as the same.

    Example
    -------
    >>> text = "<happy>We [laughter] won</> <break time=0.3s/>it &lt;3!"
    >>> write_marks(parse_markup(text, ["happy"], tags=["[laughter]"]),
    ...             ["[laughter]"])
    '<happy>We [laughter] won</> <break time=0.3s/>it &lt;3!'
    """
    labels = []
    for word in marked.words:
        weights = {
            name: weight
            for name, weight in zip(marked.emotions, word.probs)
            if weight
        }
        strongest = max(weights, key=weights.__getitem__, default=None)
        labels.append(
            WordLabel(
                word.word,
                0,
                1,
                strongest,
                weights,
                word.intensity,
                axes=word.axes,
            )
        )
    places = [(word.start, word.end) for word in marked.words]
    return write_labels(marked.text, places, labels, tags, marked.breaks)


def write_labels(
    text: str,
    places: Sequence[tuple[int, int]],
    labels: Sequence[WordLabel],
    tags: Sequence[str] = (),
    breaks: Sequence[Break] = (),
) -> str:
    """Write word emotions as marks around words and tags.

    Arguments
    ---------
    text : str
        Text without marks.
    places : list of (int, int)
        Start and end in `text` of each word outside of tags.
    labels : list of WordLabel
        Emotion or mixture, and intensity, of each of these words.
    tags : list of str
        Tags of the model.
    breaks : list of Break
        Silence between these words.

    Returns
    -------
    str
        Marked text, see
        :func:`~speechbrain_emofilm.dataio.markup.write_markup`.

    Example
    -------
    >>> labels = [WordLabel("We", 0, 1, "happy"), WordLabel("won", 0, 1)]
    >>> write_labels("We won", [(0, 2), (3, 6)], labels)
    '<happy>We</> won'
    """
    # The writer counts words inside of tags too: such a word has the label of
    # its neighbours, so that it does not split their mark.
    known = set(places)
    following = iter(labels)
    last, coming = None, next(following, None)
    written: list[WordLabel] = []
    numbers = []  # of each word among those written
    for one in split_words(text):
        if (one.start, one.end) in known:
            last, coming = coming, next(following, None)
            numbers.append(len(written))
            written.append(last)
        elif last and coming and _alike(last, coming):
            written.append(last)
        else:
            written.append(WordLabel(one.text, 0, 1))
    numbers.append(len(written))
    moved = [replace(pause, word=numbers[pause.word]) for pause in breaks]
    marks = write_markup(text, written, moved)
    for tag in tags:
        marks = marks.replace(escape(tag, quote=False), tag)
    return marks


def _alike(one: WordLabel, other: WordLabel) -> bool:
    return (one.probs, one.intensity, one.axes or {}) == (
        other.probs,
        other.intensity,
        other.axes or {},
    )


def _clauses(text: str) -> list[tuple[int, int]]:
    """Find start and end of each clause of a text."""
    ends = [match.end() for match in _CLAUSE_END.finditer(text)]
    starts = [0, *(end for end in ends if end < len(text))]
    return list(zip(starts, [*starts[1:], len(text)]))


def _pattern(words: Sequence[str]) -> re.Pattern:
    """Compile words and phrases, in which ``*`` is any ending."""
    found = (re.escape(word).replace(r"\*", r"\w*") for word in words)
    return re.compile(rf"\b(?:{'|'.join(found)})(?!\w)")


def _before(text: str, position: int) -> list[str]:
    """List the words that may negate the one at a position."""
    phrase = re.split(r"[,;]", text[:position])[-1]
    return [word.text for word in split_words(phrase)][-_REACH:]
