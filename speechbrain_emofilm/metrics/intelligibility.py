"""Word and character error rate, repeats and truncations of speech."""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.row_stats import write_csv

import numpy as np
from speechbrain.utils.metric_stats import ErrorRateStats


@lru_cache(maxsize=1)
def _whisper_normalizer():
    from transformers.models.whisper.english_normalizer import (
        EnglishTextNormalizer,
    )

    return EnglishTextNormalizer({})


def normalize_english(text: str) -> list[str]:
    """Words of a text, spelled in one way.

    Whisper's own normalisation, the field's usual one: no case, punctuation
    or hesitations, contractions expanded, and numbers in digits, so that
    "fifty" and "50" are equal.

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


def repeated_words(words: Sequence[str], longest: int = 4) -> int:
    """Counts words that say again what was said just before.

    Arguments
    ---------
    words : sequence of str
        Words in order.
    longest : int
        Words in a row that a repeat may have.

    Example
    -------
    >>> repeated_words("we won we won the the game".split())
    3
    """
    words, count, place = list(words), 0, 1
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
    """Counts the words that are missing at the end.

    Arguments
    ---------
    alignment : sequence of tuple
        SpeechBrain's, of operations and places.

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


class WordErrorRate:
    """Word error rate, with its parts and an interval; and what it hides.

    It is not capped: a recogniser that babbles can err in more words than
    were spoken, and the insertions show it. Nothing recognised counts as
    every word deleted. Repeats and truncations, which language models that
    speak are prone to, are counted in words and utterances.

    Arguments
    ---------
    normalize : callable
        Makes a list of words of a text; applied to both sides.
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

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
    ):
        self.normalize = normalize
        self.bootstrap = {"n_samples": n_samples, "seed": seed}
        self.stats = ErrorRateStats()
        self.character_stats = ErrorRateStats()

    def append(
        self,
        ids: Sequence[str],
        recognised: Sequence[str],
        references: Sequence[str],
    ) -> None:
        """Adds utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        recognised : sequence of str
            What the recogniser wrote.
        references : sequence of str
            What was to be said.

        Raises
        ------
        ValueError
            If a reference has no word, nothing was recognised because there
            was no recogniser, or the numbers of texts differ.
        """
        if not len(ids) == len(recognised) == len(references):
            raise ValueError(
                f"{len(ids)} ids, {len(recognised)} recognised texts and "
                f"{len(references)} references: give one of each."
            )
        words = [list(self.normalize(text)) for text in references]
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
        hypotheses = [list(self.normalize(text)) for text in recognised]
        self.stats.append(list(ids), hypotheses, words)
        self.character_stats.append(
            list(ids),
            [list(" ".join(hypothesis)) for hypothesis in hypotheses],
            [list(" ".join(reference)) for reference in words],
        )

    @property
    def rows(self) -> list[dict]:
        """One dict for each utterance: its errors in words."""
        rows = []
        for score, characters in zip(
            self.stats.scores, self.character_stats.scores
        ):
            hypothesis = score["hyp_tokens"]
            reference = score["ref_tokens"]
            repeated = repeated_words(hypothesis) - repeated_words(reference)
            rows.append(
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
        return rows

    def write_stats(self, filestream, verbose: bool = False) -> None:
        """Writes the summary as JSON.

        Arguments
        ---------
        filestream : file-like object
            Where to write it.
        verbose : bool
            Also print it.
        """
        text = json.dumps(self.summarize(), indent=1)
        filestream.write(text + "\n")
        if verbose:
            print(text)

    def write_rows(self, path: str | Path) -> None:
        """Writes a CSV file, one row per utterance.

        Arguments
        ---------
        path : str or Path
            The file.
        """
        write_csv(path, self.rows)

    def above(self, other: "WordErrorRate") -> dict[str, float]:
        """How much higher the rate is than another system's.

        Both have the same utterances, which are resampled in pairs: what
        makes a sentence hard is no difference between systems.

        Arguments
        ---------
        other : WordErrorRate
            Of the other system.

        Returns
        -------
        dict
            ``difference``, below 0 where the other one errs more, with the
            bounds ``low`` and ``high`` of its 95 % interval.

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

    def summarize(self) -> dict:
        """Summary of the utterances so far, as fractions of their words.

        Returns
        -------
        dict
            ``wer`` with the bounds ``low`` and ``high`` of its 95 %
            interval; ``insertions``, ``deletions`` and ``substitutions``,
            which add up to it; ``cer``, that of characters; ``repeats`` and
            ``truncations``: the numbers of ``words`` said twice or missing
            at the end, and of ``utterances`` with any; the numbers of
            ``words`` and ``utterances``.

        Raises
        ------
        ValueError
            If no utterance was added.
        """
        scores = self.stats.scores
        if not scores:
            raise ValueError("No utterance was measured: append some first.")
        edits = np.array(
            [[s["num_edits"], s["num_ref_tokens"]] for s in scores]
        )
        words = int(edits[:, 1].sum())
        parts = {
            name: sum(score[name] for score in scores) / words
            for name in ("insertions", "deletions", "substitutions")
        }
        rows = self.rows
        characters = np.array(
            [
                [s["num_edits"], s["num_ref_tokens"]]
                for s in self.character_stats.scores
            ]
        )
        return {
            **estimate("wer", share, edits, **self.bootstrap),
            **parts,
            "cer": estimate("cer", share, characters, **self.bootstrap),
            "repeats": _occurrences(rows, "repeated_words"),
            "truncations": _occurrences(rows, "words_missing_at_end"),
            "words": words,
            "utterances": len(scores),
        }


def _occurrences(rows: Sequence[dict], column: str) -> dict[str, int]:
    """How many words, in how many utterances."""
    counts = [row[column] for row in rows]
    return {"words": sum(counts), "utterances": sum(c > 0 for c in counts)}
