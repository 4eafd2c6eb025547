"""Similarity of emotion features: Emo SIM and emotion discrimination.

Emo SIM is the cosine of two utterances' mean frame features, times 100. It
rewards the right words in the right voice whatever the emotion: a neutral
reading scores above 90 against another emotion. It is therefore reported for
each emotion, alongside discrimination: whether speech is nearer to the asked
emotion than to the other emotions of the same sentence and speaker.
"""

from collections.abc import Mapping, Sequence

from speechbrain_emofilm.metrics.bootstrap import share
from speechbrain_emofilm.metrics.row_stats import RowStats

import torch
from speechbrain.dataio.dataio import length_to_mask


def mean_frame_features(
    features: torch.Tensor, lens: torch.Tensor | None = None
) -> torch.Tensor:
    """Average the frames of each utterance.

    Arguments
    ---------
    features : torch.Tensor
        Frames (B, F, D).
    lens : torch.Tensor, optional
        Relative lengths (B,); all full by default.

    Returns
    -------
    torch.Tensor
        Means (B, D), float64; NaN for an utterance without frames.

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
    # The padding may hold NaN or infinity, which times 0 is not 0.
    return features.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)


def unusable(vector: torch.Tensor) -> str | None:
    """Tell why a mean feature cannot be compared; None if it can.

    Arguments
    ---------
    vector : torch.Tensor
        Mean feature (D,).

    Example
    -------
    >>> unusable(torch.zeros(2)), unusable(torch.ones(2))
    ('silent', None)
    """
    if not torch.isfinite(vector).all():
        return "not finite"
    return None if vector.any() else "silent"


class FeaturePairStats(RowStats):
    """Base class of metrics that compare speech with a reference.

    A subclass implements ``_compare(predict, target, predict_lens,
    target_lens)``, which yields for each utterance the columns of its row, or
    the reason why there are none.
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
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        predict : torch.Tensor
            Frame features of synthesised speech (B, F, D).
        target : torch.Tensor
            Frame features of the reference (B, G, D).
        predict_lens : torch.Tensor, optional
            Relative lengths (B,).
        target_lens : torch.Tensor, optional
            Relative lengths (B,).
        emotions : sequence of str, optional
            Asked emotion of each utterance, kept in its row.

        Raises
        ------
        ValueError
            If the numbers of ids, utterances or feature dimensions differ.
        """
        columns = [{"emotion": emotion} for emotion in emotions or ()]
        if emotions is None:
            columns = [{} for _ in ids]
        sizes = {len(ids), len(predict), len(target), len(columns)}
        if len(sizes) != 1 or predict.shape[2:] != target.shape[2:]:
            raise ValueError(
                f"{len(ids)} ids, features {tuple(predict.shape)} and "
                f"references {tuple(target.shape)}: give one of each for "
                "every id, with the same features."
            )
        found = self._compare(predict, target, predict_lens, target_lens)
        for utterance, known, row in zip(ids, columns, found):
            if isinstance(row, str):
                self.add_failure(utterance, row, **known)
            else:
                self.add_row(utterance, **known, **row)


class EmotionSimilarity(FeaturePairStats):
    """Emo SIM: cosine of mean frame features, times 100.

    Example
    -------
    >>> similarity = EmotionSimilarity()
    >>> features = torch.rand(2, 10, 4)
    >>> similarity.append(["a", "b"], features, features, emotions=["sad"] * 2)
    >>> summary = similarity.summarize()
    >>> round(summary["emo_sim"], 6), summary["by_emotion"]["sad"]["measured"]
    (100.0, 2)
    """

    def _compare(self, predict, target, predict_lens, target_lens):
        predict = mean_frame_features(predict, predict_lens)
        target = mean_frame_features(target, target_lens)
        for a, b in zip(predict, target):
            reasons = {"speech": unusable(a), "reference": unusable(b)}
            bad = [f"{name} {why}" for name, why in reasons.items() if why]
            cosine = float(torch.cosine_similarity(a, b, dim=0))
            yield ", ".join(bad) or {"emo_sim": 100 * cosine}

    def results(self) -> dict:
        """Compute Emo SIM of all utterances and of each emotion.

        Returns
        -------
        dict
            ``emo_sim`` with ``low`` and ``high``; ``by_emotion``: the same
            for each emotion, with the number of utterances ``measured``.
        """
        groups: dict[str, list[dict]] = {}
        for row in self.measured_rows():
            groups.setdefault(row.get("emotion", ""), []).append(row)
        return {
            **self.mean("emo_sim"),
            "by_emotion": {
                emotion: {**self.mean("emo_sim", rows), "measured": len(rows)}
                for emotion, rows in sorted(groups.items())
                if emotion
            },
        }


class EmotionDiscrimination(RowStats):
    """Check that speech is nearest to the asked emotion of its sentence.

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
        """Add utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        predict : torch.Tensor
            Frame features of synthesised speech (B, F, D).
        candidates : sequence of dict
            For each utterance, emotion to mean frame feature (D,) of the
            same sentence by the same speaker.
        asked : sequence of str
            Emotion of the candidate that should be nearest.
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
        """Add one utterance by its mean feature."""
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
        rival = max(similarity, key=similarity.__getitem__)
        margin = right - similarity[rival]
        self.add_row(
            utterance,
            emotion=asked,
            nearest=asked if margin > 0 else rival,
            accuracy=float(margin > 0),
            margin=margin,
            chance=1 / len(references),
        )

    def results(self) -> dict:
        """Compute accuracy and margin; failures count as wrong.

        Returns
        -------
        dict
            ``accuracy`` with ``low`` and ``high``, over all utterances;
            ``margin``, Emo SIM to the asked emotion minus that to the
            nearest other one; ``chance``, the accuracy of random choices;
            ``nearest``: asked emotion to counts of the nearest emotion.
        """
        rows = self.measured_rows()
        hits = [[row.get("accuracy", 0.0), 1.0] for row in self.rows]
        nearest: dict = {}
        for row in rows:
            counts = nearest.setdefault(row["emotion"], {})
            counts[row["nearest"]] = counts.get(row["nearest"], 0) + 1
        return {
            **self.estimate("accuracy", share, hits),
            "margin": self.mean("margin"),
            "chance": self.mean("chance")["chance"],
            "nearest": nearest,
        }
