"""Dynamic time warping between synthesised and reference speech.

All pairs of a batch are warped at once: the cells of an anti-diagonal depend
only on the two before it, so that each step computes a whole diagonal of every
pair. The three classic steps have weight 1, as in ``dtw-python``'s
``symmetric1`` and ``librosa.sequence.dtw``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechbrain_emofilm.metrics.emotion_similarity import FeaturePairStats
from speechbrain_emofilm.processing.prosody import FRAME_RATE, ProsodyTrack

import numpy as np
import torch
from torch.nn import functional as F

DISTANCES = ("cosine", "euclidean")


@dataclass(frozen=True)
class DTWOutput:
    """Best paths of a batch.

    Arguments
    ---------
    cost : torch.Tensor
        Sum of the distances along the path (B,).
    path_length : torch.Tensor
        Number of cells of the path (B,).
    """

    cost: torch.Tensor
    path_length: torch.Tensor

    @property
    def normalized(self) -> torch.Tensor:
        """Mean distance along the path (B,)."""
        return self.cost / self.path_length


def dtw(
    predict: torch.Tensor,
    target: torch.Tensor,
    predict_lens: torch.Tensor | None = None,
    target_lens: torch.Tensor | None = None,
    distance: str = "cosine",
) -> DTWOutput:
    """Warp pairs of utterances.

    Arguments
    ---------
    predict : torch.Tensor
        Features (B, F, D).
    target : torch.Tensor
        Features (B, G, D).
    predict_lens : torch.Tensor, optional
        Relative lengths (B,).
    target_lens : torch.Tensor, optional
        Relative lengths (B,).
    distance : str
        Distance of two frames, "cosine" (1 - cosine) or "euclidean".

    Returns
    -------
    DTWOutput
        Paths in float64; the cost is NaN or infinity if features are not
        finite.

    Raises
    ------
    ValueError
        If the distance is unknown or an utterance has no frame.

    Example
    -------
    >>> a = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> b = torch.tensor([[[0.0], [2.0]]])
    >>> out = dtw(a, b, distance="euclidean")
    >>> out.cost, out.path_length
    (tensor([1.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    n = _frames(predict, predict_lens)
    m = _frames(target, target_lens)
    if min(int(n.min()), int(m.min())) < 1:
        raise ValueError("An utterance has no frame: leave it out.")
    skewed = _skew(_distances(predict, target, distance))
    n_rows = predict.shape[1]
    infinite = skewed.new_full((len(n), n_rows + 1), torch.inf)
    # Row i + 1 holds frame i of `predict`; row 0 is the border.
    before, cost = infinite, infinite.clone()
    cost[:, 1] = skewed[:, 0, 0]
    steps_before, steps = infinite.clone(), infinite.clone()
    steps[:, 1] = 1.0
    last = n + m - 2  # diagonal of each pair's last cell
    end = torch.zeros(len(n), dtype=skewed.dtype, device=skewed.device)
    path_length = end.clone()
    for diagonal in range(int(last.max()) + 1):
        if diagonal:
            # From (i-1, j-1), (i-1, j) and (i, j-1); the first wins a tie.
            costs = torch.stack([before[:, :-1], cost[:, :-1], cost[:, 1:]])
            taken = torch.stack(
                [steps_before[:, :-1], steps[:, :-1], steps[:, 1:]]
            )
            best, which = costs.min(0)
            before, steps_before = cost, steps
            cost, steps = infinite.clone(), infinite.clone()
            cost[:, 1:] = best + skewed[:, :, diagonal]
            steps[:, 1:] = taken.gather(0, which[None])[0] + 1
        done = last == diagonal
        end = torch.where(done, cost.gather(1, n[:, None])[:, 0], end)
        path_length = torch.where(
            done, steps.gather(1, n[:, None])[:, 0], path_length
        )
    return DTWOutput(end, path_length)


def _frames(features, lens):
    """Count the frames of each utterance (B,)."""
    size = features.shape[1]
    if lens is None:
        lens = torch.ones(len(features), device=features.device)
    return torch.round(lens.float() * size).long()


def _distances(a, b, distance):
    """Compute the distances of all frames (B, F, G), in float64."""
    a, b = a.detach().double(), b.detach().double()
    if distance == "cosine":
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        return (1 - a @ b.mT).clamp(min=0.0)
    if distance != "euclidean":
        raise ValueError(
            f"Unknown distance {distance!r}: choose one of "
            f"{', '.join(DISTANCES)}."
        )
    scale = a.square().sum(-1).unsqueeze(2) + b.square().sum(-1).unsqueeze(1)
    square = scale - 2 * a @ b.mT
    # The root would amplify the rounding error of equal frames.
    return torch.where(square < 1e-13 * scale, 0.0, square).sqrt()


def _skew(distances):
    """Shift row i by i, so that column k holds the cells of diagonal k."""
    batch, n, m = distances.shape
    padded = F.pad(distances, (0, n), value=torch.inf)
    return padded.flatten(1)[:, : n * (n + m - 1)].view(batch, n, n + m - 1)


class DynamicTimeWarping(FeaturePairStats):
    """DTW between synthesised and reference features, raw and normalised.

    Raw costs grow with the utterance's length and the feature's scale;
    normalised costs are means along the path.

    Arguments
    ---------
    distances : sequence of str
        Some of :data:`DISTANCES`.
    **bootstrap
        ``n_samples`` and ``seed``, see :class:`RowStats`.

    Example
    -------
    >>> warping = DynamicTimeWarping()
    >>> features = torch.rand(2, 10, 4)
    >>> warping.append(["a", "b"], features, features)
    >>> round(warping.summarize()["euclidean"]["dtw"], 6)
    0.0
    """

    def __init__(
        self,
        distances: Sequence[str] = DISTANCES,
        **bootstrap: int,
    ):
        super().__init__(**bootstrap)
        self.distances = list(distances)

    def _compare(self, predict, target, predict_lens, target_lens):
        outputs = {
            name: dtw(predict, target, predict_lens, target_lens, name)
            for name in self.distances
        }
        for index in range(len(predict)):
            row = {}
            for name, output in outputs.items():
                row[f"dtw_{name}"] = float(output.cost[index])
                row[f"dtw_{name}_normalized"] = float(output.normalized[index])
            finite = np.isfinite(list(row.values())).all()
            yield row if finite else "features not finite"

    def results(self) -> dict:
        """Compute the mean costs.

        Returns
        -------
        dict
            For each distance ``dtw`` and ``normalized`` with their bounds
            (``low``, ``high``; ``normalized_low``, ``normalized_high``).
        """
        results = {}
        for name in self.distances:
            raw = self.mean(f"dtw_{name}")
            normalized = self.mean(f"dtw_{name}_normalized")
            results[name] = {
                "dtw": raw[f"dtw_{name}"],
                "low": raw["low"],
                "high": raw["high"],
                "normalized": normalized[f"dtw_{name}_normalized"],
                "normalized_low": normalized["low"],
                "normalized_high": normalized["high"],
            }
        return results


def contours(
    track: ProsodyTrack, frame_rate: int = 50
) -> dict[str, torch.Tensor]:
    """Extract the F0 and energy contours of an utterance for DTW.

    Arguments
    ---------
    track : ProsodyTrack
        Prosody, from
        :func:`~speechbrain_emofilm.processing.prosody.prosody_track`.
    frame_rate : int
        Frames per second, a divisor of 200.

    Returns
    -------
    dict
        ``f0`` (1, T, 1) in semitones above 1 Hz, interpolated linearly where
        unvoiced (NaN for an unvoiced utterance), and ``energy`` (1, T, 1) in
        dB.

    Example
    -------
    >>> from speechbrain_emofilm.processing.prosody import prosody_track
    >>> time = np.arange(12000) / 24000
    >>> track = prosody_track(0.1 * np.sin(2 * np.pi * 200 * time), 24000)
    >>> contours(track)["energy"].shape
    torch.Size([1, 26, 1])
    """
    step = FRAME_RATE // frame_rate
    voiced = np.flatnonzero(np.isfinite(track.log_f0))
    f0 = np.full(len(track), np.nan)
    if len(voiced):
        f0 = np.interp(np.arange(len(track)), voiced, track.log_f0[voiced])
    semitones = 12 / np.log(2) * f0
    return {
        name: torch.from_numpy(np.ascontiguousarray(values[::step]))[
            None, :, None
        ]
        for name, values in (("f0", semitones), ("energy", track.energy))
    }
