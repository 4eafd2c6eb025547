"""Word error rate of recognised speech.

Authors
 * speechbrain-emofilm contributors, 2026
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

from speechbrain_emofilm.metrics.bootstrap import estimate, share

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

    Returns
    -------
    list of str

    Example
    -------
    >>> normalize_english("She's sold FIFTY bonds!")
    ['she', 'is', 'sold', '50', 'bonds']
    """
    words = _whisper_normalizer()(text).split()
    return [word for word in words if any(map(str.isalnum, word))]


class WordErrorRate:
    """Word error rate, with its parts and an interval.

    It is not capped: a recogniser that babbles can err in more words than
    were spoken, and the insertions show it. Nothing recognised counts as
    every word deleted.

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
            If a reference has no word, or the numbers of texts differ.
        """
        if not len(ids) == len(recognised) == len(references):
            raise ValueError(
                f"{len(ids)} ids, {len(recognised)} recognised texts and "
                f"{len(references)} references: give one of each."
            )
        words = [list(self.normalize(text)) for text in references]
        for utterance, reference in zip(ids, words):
            if not reference:
                raise ValueError(
                    f"Utterance {utterance} has no word in its reference: "
                    "leave it out."
                )
        hypotheses = [list(self.normalize(text)) for text in recognised]
        self.stats.append(list(ids), hypotheses, words)

    def summarize(self) -> dict:
        """Summary of the utterances so far, as fractions of their words.

        Returns
        -------
        dict
            ``wer`` with the bounds ``low`` and ``high`` of its 95 %
            interval; ``insertions``, ``deletions`` and ``substitutions``,
            which add up to it; the numbers of ``words`` and ``utterances``.

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
        return {
            **estimate("wer", share, edits, **self.bootstrap),
            **parts,
            "words": words,
            "utterances": len(scores),
        }
