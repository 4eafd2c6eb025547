"""Word and character error rates, repeats and truncations of speech."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from speechbrain_emofilm.dataio.text import language_of, split_words
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.row_stats import SummaryFiles

import numpy as np
from speechbrain.utils.metric_stats import ErrorRateStats


@lru_cache(maxsize=1)
def _whisper_normalizer():
    from transformers.models.whisper.english_normalizer import (
        EnglishTextNormalizer,
    )

    return EnglishTextNormalizer({})


def normalize_english(text: str) -> list[str]:
    """Split a text into words, normalised as Whisper does.

    Case, punctuation and hesitations are dropped, contractions expanded and
    numbers written in digits, so that "fifty" equals "50".

    Arguments
    ---------
    text : str
        English text.

    Example
    -------
    >>> normalize_english("She's sold FIFTY bonds!")
    ['she', 'is', 'sold', '50', 'bonds']
    """
    words = _whisper_normalizer()(text).split()
    return [word for word in words if any(map(str.isalnum, word))]


def normalize_mandarin(text: str) -> list[str]:
    """Split a text into Chinese characters, without punctuation.

    Words in Latin letters and numbers in digits stay whole, in lower case.

    Arguments
    ---------
    text : str
        Mandarin text, in the same script (simplified or traditional) as the
        one that it is compared with.

    Example
    -------
    >>> normalize_mandarin("我们赢了，OK！")
    ['我', '们', '赢', '了', 'ok']
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return [word.text for word in split_words(text)]


def rate_of_language(summary: Mapping, language: str) -> Mapping | None:
    """Take the error rate of one language from a summary.

    Arguments
    ---------
    summary : mapping
        Result of :meth:`WordErrorRate.summarize`.
    language : str
        ``"en"`` for the word error rate, under ``wer``, or ``"zh"`` for the
        character error rate, under ``cer``.

    Returns
    -------
    mapping or None
        The rate with its bounds ``low`` and ``high``; None if no utterance
        was in that language.

    Example
    -------
    >>> wer = WordErrorRate()
    >>> wer.append(["a", "b"], ["we", "我们"], ["we won", "我们"])
    >>> summary = wer.summarize()
    >>> rate_of_language(summary, "en")["wer"]
    0.5
    >>> rate_of_language(summary, "zh")["cer"]
    0.0
    """
    if "languages" in summary:
        return summary["languages"].get(language)
    return summary if language == "en" else None


def repeated_words(words: Sequence[str], longest: int = 4) -> int:
    """Count the words of immediate repeats.

    Arguments
    ---------
    words : sequence of str
        Words in order.
    longest : int
        Maximum number of words in a repeat.

    Example
    -------
    >>> repeated_words("we won we won the the game".split())
    3
    """
    count, place = 0, 1
    while place < len(words):
        for n in range(min(longest, place), 0, -1):
            if words[place : place + n] == words[place - n : place]:
                count += n
                place += n
                break
        else:
            place += 1
    return count


def missing_at_end(alignment: Sequence[tuple]) -> int:
    """Count the words that are missing at the end.

    Arguments
    ---------
    alignment : sequence of tuple
        Operations and positions, from SpeechBrain's edit distance.

    Example
    -------
    >>> missing_at_end([("=", 0, 0), ("D", 1, None), ("D", 2, None)])
    2
    """
    count = 0
    for operation, *_ in reversed(alignment):
        if operation != "D":
            break
        count += 1
    return count


class WordErrorRate(SummaryFiles):
    """Word error rate with its parts and interval, repeats and truncations.

    The rate is not capped: a recogniser can insert more words than were
    spoken. If nothing is recognised, every word counts as deleted. Repeats and
    truncations, to which speech language models are prone, are counted in
    words and utterances.

    A reference with Chinese characters is Mandarin. Its characters count as
    words, so that its rate is the character error rate.

    Arguments
    ---------
    normalize : callable
        Function from a text to a list of words, applied to both sides.
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.
    normalize_chinese : callable
        Function like `normalize`, for Mandarin references and what was
        recognised of them.

    Example
    -------
    >>> wer = WordErrorRate()
    >>> wer.append(["a", "b"], ["Two fish swam", ""], ["Two fish.", "We won."])
    >>> summary = wer.summarize()
    >>> summary["wer"], summary["insertions"], summary["deletions"]
    (0.75, 0.25, 0.5)
    """

    def __init__(
        self,
        normalize: Callable[[str], Sequence[str]] = normalize_english,
        n_samples: int = 1000,
        seed: int = 0,
        normalize_chinese: Callable[[str], Sequence[str]] = normalize_mandarin,
    ):
        self.normalizers = {"en": normalize, "zh": normalize_chinese}
        self.bootstrap = {"n_samples": n_samples, "seed": seed}
        self.stats = ErrorRateStats()
        self.character_stats = ErrorRateStats()
        self.rows = []
        self._languages: list[str] = []

    def append(
        self,
        ids: Sequence[str],
        recognised: Sequence[str],
        references: Sequence[str],
    ) -> None:
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        recognised : sequence of str
            Recognised texts.
        references : sequence of str
            Texts that were to be spoken.

        Raises
        ------
        ValueError
            If a reference has no word, a recognised text is None for lack of
            a recogniser, or the numbers of texts differ.
        """
        if not len(ids) == len(recognised) == len(references):
            raise ValueError(
                f"{len(ids)} ids, {len(recognised)} recognised texts and "
                f"{len(references)} references: give one of each."
            )
        languages = [language_of(text) for text in references]
        words, hypotheses = (
            [
                list(self.normalizers[language](text or ""))
                for language, text in zip(languages, texts)
            ]
            for texts in (references, recognised)
        )
        for utterance, reference, text in zip(ids, words, recognised):
            if text is None:
                raise ValueError(
                    f"Utterance {utterance} was not recognised: the word "
                    "error rate needs a recogniser; name one as `asr`."
                )
            if not reference:
                raise ValueError(
                    f"Utterance {utterance} has no word in its reference: "
                    "leave it out."
                )
        self._languages += languages
        self.stats.append(list(ids), hypotheses, words)
        # Spaces count as characters of English; Mandarin has none.
        spaces = ["" if language == "zh" else " " for language in languages]
        self.character_stats.append(
            list(ids),
            [list(s.join(heard)) for s, heard in zip(spaces, hypotheses)],
            [list(s.join(said)) for s, said in zip(spaces, words)],
        )
        done = len(self.rows)
        for score, characters in zip(
            self.stats.scores[done:], self.character_stats.scores[done:]
        ):
            hypothesis = score["hyp_tokens"]
            reference = score["ref_tokens"]
            repeated = repeated_words(hypothesis) - repeated_words(reference)
            self.rows.append(
                {
                    "id": score["key"],
                    "wer": score["num_edits"] / score["num_ref_tokens"],
                    "cer": characters["num_edits"]
                    / characters["num_ref_tokens"],
                    "words": score["num_ref_tokens"],
                    "insertions": score["insertions"],
                    "deletions": score["deletions"],
                    "substitutions": score["substitutions"],
                    "repeated_words": max(0, repeated),
                    "words_missing_at_end": missing_at_end(score["alignment"]),
                }
            )

    def above(self, other: "WordErrorRate") -> dict[str, float]:
        """Compute how far the rate is above another system's.

        Utterances are resampled in pairs, since the difficulty of a sentence
        is no difference between systems.

        Arguments
        ---------
        other : WordErrorRate
            Rate of the other system, of the same utterances.

        Returns
        -------
        dict
            ``difference``, below 0 if the other system has more errors, with
            the bounds ``low`` and ``high`` of its 95 % interval.

        Raises
        ------
        ValueError
            If the utterances differ, or there is none.

        Example
        -------
        >>> ours, theirs = WordErrorRate(), WordErrorRate()
        >>> ours.append(["a", "b"], ["two fish", "we"], ["two fish", "we won"])
        >>> theirs.append(["b", "a"], ["we won", "two"], ["we won", "two fish"])
        >>> ours.above(theirs)
        {'difference': 0.0, 'low': -0.5, 'high': 0.5}
        """
        theirs = {s["key"]: s["num_edits"] for s in other.stats.scores}
        ours = {s["key"]: s["num_edits"] for s in self.stats.scores}
        if ours.keys() != theirs.keys():
            raise ValueError(
                f"{len(ours.keys() ^ theirs.keys())} utterances were measured "
                "of one system only: compare systems on the same ones."
            )
        sums = [
            [s["num_edits"] - theirs[s["key"]], s["num_ref_tokens"]]
            for s in self.stats.scores
        ]
        return estimate("difference", share, np.array(sums), **self.bootstrap)

    def summarize(self, field: str | None = None):
        """Summarize the utterances so far, as fractions of their words.

        Arguments
        ---------
        field : str, optional
            Entry to return; by default all.

        Returns
        -------
        dict or object
            ``wer`` with the bounds ``low`` and ``high`` of its 95 %
            interval; ``insertions``, ``deletions`` and ``substitutions``,
            which add up to it; ``cer``, the character error rate; ``repeats``
            and ``truncations``: the numbers of ``words`` repeated or missing
            at the end, and of ``utterances`` with any; the numbers of
            ``words`` and ``utterances``. If any is in Mandarin, its
            characters count as words, and ``languages`` holds the rates of
            each: ``en`` with ``wer``, its bounds and the numbers of ``words``
            and ``utterances``; ``zh`` with ``cer`` and the number of
            ``characters`` instead.

        Raises
        ------
        ValueError
            If no utterance was added.
        """
        scores = self.stats.scores
        if not scores:
            raise ValueError("No utterance was measured: append some first.")
        edits, characters = (
            np.array([[s["num_edits"], s["num_ref_tokens"]] for s in stats])
            for stats in (scores, self.character_stats.scores)
        )
        words = int(edits[:, 1].sum())
        parts = {
            name: sum(score[name] for score in scores) / words
            for name in ("insertions", "deletions", "substitutions")
        }
        rows = self.rows
        summary = {
            **estimate("wer", share, edits, **self.bootstrap),
            **parts,
            "cer": estimate("cer", share, characters, **self.bootstrap),
            "repeats": _occurrences(rows, "repeated_words"),
            "truncations": _occurrences(rows, "words_missing_at_end"),
            "words": words,
            "utterances": len(scores),
        }
        if "zh" in self._languages:
            summary["languages"] = self._rates_of_languages(edits)
        return summary if field is None else summary[field]

    def _rates_of_languages(self, edits: np.ndarray) -> dict[str, dict]:
        """Estimate the rate of each language from all edits (N, 2)."""
        rates = {}
        for language, rate, unit in (
            ("en", "wer", "words"),
            ("zh", "cer", "characters"),
        ):
            own = edits[np.array(self._languages) == language]
            if len(own):
                rates[language] = {
                    **estimate(rate, share, own, **self.bootstrap),
                    unit: int(own[:, 1].sum()),
                    "utterances": len(own),
                }
        return rates


def _occurrences(rows: Sequence[dict], column: str) -> dict[str, int]:
    """Count the words of a column, and the utterances with any."""
    counts = [row[column] for row in rows]
    return {"words": sum(counts), "utterances": sum(c > 0 for c in counts)}
