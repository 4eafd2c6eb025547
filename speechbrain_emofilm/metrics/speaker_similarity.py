"""Similarity of the voice to the target speaker."""

from collections.abc import Sequence

from speechbrain_emofilm.metrics.emotion_similarity import unusable
from speechbrain_emofilm.metrics.row_stats import RowStats

import torch


class SpeakerSimilarity(RowStats):
    """Cosine similarity of synthesised speech to its speaker.

    The vectors come from a speaker encoder with ``embed(wavs) -> (B, D)``,
    such as :class:`~speechbrain_emofilm.integrations.resemblyzer.Resemblyzer`.

    Example
    -------
    >>> similarity = SpeakerSimilarity()
    >>> similarity.append(["a", "b"], torch.eye(2), torch.ones(2, 2))
    >>> round(similarity.summarize()["speaker_similarity"], 3)
    0.707
    """

    def append(
        self, ids: Sequence[str], predict: torch.Tensor, target: torch.Tensor
    ) -> None:
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        predict : torch.Tensor
            Speaker vectors of synthesised speech (B, D).
        target : torch.Tensor
            Speaker vectors of the target speakers (B, D).

        Raises
        ------
        ValueError
            If the numbers of ids or the shapes differ.
        """
        if len(ids) != len(predict) or predict.shape != target.shape:
            raise ValueError(
                f"{len(ids)} ids, speaker vectors {tuple(predict.shape)} and "
                f"{tuple(target.shape)}: give one of each for every id."
            )
        for utterance, a, b in zip(ids, predict.double(), target.double()):
            reason = unusable(a) or unusable(b)
            if reason:
                self.add_failure(utterance, f"speaker vector {reason}")
                continue
            cosine = float(torch.cosine_similarity(a, b, dim=0))
            self.add_row(utterance, speaker_similarity=cosine)

    def results(self) -> dict:
        """Compute the mean similarity with its interval.

        Returns
        -------
        dict
            ``speaker_similarity``, ``low`` and ``high``.
        """
        return self.mean("speaker_similarity")
