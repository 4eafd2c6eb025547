"""Similarity of emotion features: Emo SIM, and what it does not see.

Emo SIM is the cosine of two utterances' mean frame features, times 100. It
rewards the right words in the right voice, whatever the emotion: a neutral
reading scores above 90 beside another emotion. So it is reported for each
emotion, beside discrimination: whether speech lies nearer to the asked
emotion than to the other emotions of the same sentence and speaker.
"""

from collections.abc import Mapping, Sequence

from speechbrain_emofilm.metrics.row_stats import RowStats

import torch
from speechbrain.dataio.dataio import length_to_mask


def mean_frame_features(
    features: torch.Tensor, lens: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of each utterance's frames.

    Arguments
    ---------
    features : torch.Tensor
        Frames (B, F, D).
    lens : torch.Tensor, optional
        Relative lengths (B,); all full by default.

    Returns
    -------
    torch.Tensor
        (B, D), float64; not a number where an utterance has no frame.

    Example
    -------
    >>> features = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mean_frame_features(features, torch.tensor([2 / 3]))
    tensor([[2.]], dtype=torch.float64)
    """
    features = features.detach().double().cpu()
    n_frames = features.shape[1]
    if lens is None:
        return features.mean(1)
    frames = torch.round(lens.detach().float().cpu() * n_frames)
    mask = length_to_mask(frames, max_len=n_frames).bool().unsqueeze(-1)
    # Zero times what stands in the padding need not be zero.
    return features.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)


def unusable(vector: torch.Tensor) -> str | None:
    """Why a mean feature cannot be compared; None if it can.

    Arguments
    ---------
    vector : torch.Tensor
        (D,).
    """
    if not torch.isfinite(vector).all():
        return "not finite"
    return None if vector.any() else "silent"


class EmotionSimilarity(RowStats):
    """Emo SIM: cosine of mean frame features, times 100.

    Arguments
    ---------
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Example
    -------
    >>> similarity = EmotionSimilarity()
    >>> features = torch.rand(2, 10, 4)
    >>> similarity.append(["a", "b"], features, features, emotions=["sad"] * 2)
    >>> summary = similarity.summarize()
    >>> round(summary["emo_sim"], 6), summary["by_emotion"]["sad"]["measured"]
    (100.0, 2)
    """

    def append(
        self,
        ids: Sequence[str],
        predict: torch.Tensor,
        target: torch.Tensor,
        predict_lens: torch.Tensor | None = None,
        target_lens: torch.Tensor | None = None,
        emotions: Sequence[str] | None = None,
    ) -> None:
        """Adds utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        predict : torch.Tensor
            Frame features of synthesised speech (B, F, D).
        target : torch.Tensor
            Those of the reference (B, G, D).
        predict_lens : torch.Tensor, optional
            Relative lengths (B,).
        target_lens : torch.Tensor, optional
            Relative lengths (B,).
        emotions : sequence of str, optional
            The asked emotion of each, for the breakdown.

        Raises
        ------
        ValueError
            If the numbers of ids, utterances or feature dimensions differ.
        """
        check_pairs(ids, predict, target, emotions)
        predict = mean_frame_features(predict, predict_lens)
        target = mean_frame_features(target, target_lens)
        emotions = emotions or [""] * len(ids)
        for utterance, a, b, emotion in zip(ids, predict, target, emotions):
            reasons = {"speech": unusable(a), "reference": unusable(b)}
            bad = [f"{name} {why}" for name, why in reasons.items() if why]
            if bad:
                self.add_failure(utterance, ", ".join(bad), emotion=emotion)
                continue
            cosine = float(torch.cosine_similarity(a, b, dim=0))
            self.add_row(utterance, emotion=emotion, emo_sim=100 * cosine)

    def figures(self) -> dict:
        """Emo SIM of all, and of each emotion.

        Returns
        -------
        dict
            ``emo_sim`` with ``low`` and ``high``; ``by_emotion``: the same,
            with how many were ``measured``.
        """
        groups = {}
        for row in self.measured_rows():
            groups.setdefault(row["emotion"], []).append(row)
        return {
            **self.mean("emo_sim"),
            "by_emotion": {
                emotion: {**self.mean("emo_sim", rows), "measured": len(rows)}
                for emotion, rows in sorted(groups.items())
                if emotion
            },
        }


class EmotionDiscrimination(RowStats):
    """Is speech nearest to the asked emotion among those of its sentence?

    Arguments
    ---------
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Example
    -------
    >>> discrimination = EmotionDiscrimination()
    >>> candidates = {"sad": torch.eye(2)[0], "happy": torch.eye(2)[1]}
    >>> predict = torch.tensor([[[0.9, 0.1]], [[0.8, 0.2]]])
    >>> discrimination.append(
    ...     ["a", "b"], predict, [candidates] * 2, ["sad", "happy"]
    ... )
    >>> summary = discrimination.summarize()
    >>> summary["accuracy"], summary["chance"]
    (0.5, 0.5)
    """

    def append(
        self,
        ids: Sequence[str],
        predict: torch.Tensor,
        candidates: Sequence[Mapping[str, torch.Tensor]],
        asked: Sequence[str],
        predict_lens: torch.Tensor | None = None,
    ) -> None:
        """Adds utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        predict : torch.Tensor
            Frame features of synthesised speech (B, F, D).
        candidates : sequence of dict
            For each utterance, the mean frame feature (D,) of the same
            sentence by the same speaker, by name (its emotion).
        asked : sequence of str
            The name of the candidate that each should be nearest to.
        predict_lens : torch.Tensor, optional
            Relative lengths (B,).

        Raises
        ------
        ValueError
            If there is not one of each for every id.
        """
        if not len(ids) == len(predict) == len(candidates) == len(asked):
            raise ValueError(
                f"{len(ids)} ids, {len(predict)} utterances, "
                f"{len(candidates)} sets of candidates and {len(asked)} asked "
                "emotions: give one of each."
            )
        means = mean_frame_features(predict, predict_lens)
        for utterance, mean, references, name in zip(
            ids, means, candidates, asked
        ):
            self._add(utterance, mean, references, name)

    def _add(self, utterance, mean, references, asked) -> None:
        """Adds one utterance by its mean feature."""
        references = {
            name: vector.double().cpu()
            for name, vector in references.items()
            if unusable(vector) is None
        }
        if unusable(mean):
            reason = f"speech {unusable(mean)}"
            return self.add_failure(utterance, reason, emotion=asked)
        if asked not in references or len(references) < 2:
            reason = f"no reference in {asked}, or none to tell it from"
            return self.add_failure(utterance, reason, emotion=asked)
        similarity = {
            name: 100 * float(torch.cosine_similarity(mean, vector, dim=0))
            for name, vector in references.items()
        }
        right = similarity.pop(asked)
        rival = max(similarity, key=similarity.get)
        margin = right - similarity[rival]
        self.add_row(
            utterance,
            emotion=asked,
            nearest=asked if margin > 0 else rival,
            accuracy=float(margin > 0),
            margin=margin,
            chance=1 / len(references),
        )

    def figures(self) -> dict:
        """Accuracy and margin; what is missing counts as wrong.

        Returns
        -------
        dict
            ``accuracy`` with ``low`` and ``high``, over all utterances;
            ``margin``, by which the asked emotion is nearer than the best of
            the others, in points of Emo SIM; ``chance``; ``nearest``: asked
            emotion to the counts of the nearest ones.
        """
        rows = self.measured_rows()
        hits = [[row.get("accuracy", 0.0), 1.0] for row in self.rows]
        nearest: dict = {}
        for row in rows:
            counts = nearest.setdefault(row["emotion"], {})
            counts[row["nearest"]] = counts.get(row["nearest"], 0) + 1
        return {
            **self.estimate("accuracy", _hit_rate, hits),
            "margin": self.mean("margin"),
            "chance": self.mean("chance")["chance"],
            "nearest": nearest,
        }


def _hit_rate(sums):
    return sums[..., 0] / sums[..., 1]


def check_pairs(
    ids: Sequence[str],
    predict: torch.Tensor,
    target: torch.Tensor,
    emotions: Sequence[str] | None = None,
) -> None:
    """Refuses batches that do not belong together.

    Arguments
    ---------
    ids : sequence of str
        Utterance ids.
    predict : torch.Tensor
        Features (B, F, D).
    target : torch.Tensor
        Features (B, G, D).
    emotions : sequence of str, optional
        One for each.

    Raises
    ------
    ValueError
        If the numbers of ids, utterances or feature dimensions differ.
    """
    sizes = {len(ids), len(predict), len(target)}
    if emotions is not None:
        sizes.add(len(emotions))
    if len(sizes) != 1 or predict.shape[2:] != target.shape[2:]:
        raise ValueError(
            f"{len(ids)} ids, features {tuple(predict.shape)} and references "
            f"{tuple(target.shape)}: give one of each for every id, with the "
            "same features."
        )
