"""Dynamic time warping between synthesised and reference speech.

All pairs of a batch are warped at once: the cells of an anti-diagonal depend
on the two before it only, so that one step serves the whole diagonal of every
pair. The classic steps are taken, each with weight 1, as ``dtw-python``'s
``symmetric1`` and ``librosa.sequence.dtw`` do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechbrain_emofilm.metrics.emotion_similarity import check_pairs
from speechbrain_emofilm.metrics.row_stats import RowStats
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
        Number of its cells (B,).
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
    """Warps pairs of utterances.

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
        Of two frames: "cosine" (1 - cosine) or "euclidean".

    Returns
    -------
    DTWOutput
        In float64; a path over features that are not finite costs NaN or
        infinity.

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
    """Number of frames of each utterance (B,)."""
    size = features.shape[1]
    if lens is None:
        lens = torch.ones(len(features), device=features.device)
    return torch.round(lens.float() * size).long()


def _distances(a, b, distance):
    """Distances of all frames of each pair (B, F, G), in float64."""
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
    # Rounding leaves something where the frames are equal; its root shows.
    return torch.where(square < 1e-13 * scale, 0.0, square).sqrt()


def _skew(distances):
    """Shifts row i by i, so that column k holds the cells of diagonal k."""
    batch, n, m = distances.shape
    padded = F.pad(distances, (0, n), value=torch.inf)
    return padded.flatten(1)[:, : n * (n + m - 1)].view(batch, n, n + m - 1)


class DynamicTimeWarping(RowStats):
    """DTW between synthesised and reference features, raw and normalised.

    Raw costs grow with the utterance's length and the feature's scale; the
    normalised ones are means along the path.

    Arguments
    ---------
    distances : sequence of str
        Of :data:`DISTANCES`.
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

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
        n_samples: int = 1000,
        seed: int = 0,
    ):
        super().__init__(n_samples, seed)
        self.distances = list(distances)

    def append(
        self,
        ids: Sequence[str],
        predict: torch.Tensor,
        target: torch.Tensor,
        predict_lens: torch.Tensor | None = None,
        target_lens: torch.Tensor | None = None,
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

        Raises
        ------
        ValueError
            If the numbers of ids, utterances or feature dimensions differ.
        """
        check_pairs(ids, predict, target)
        outputs = {
            name: dtw(predict, target, predict_lens, target_lens, name)
            for name in self.distances
        }
        for index, utterance in enumerate(ids):
            row = {}
            for name, output in outputs.items():
                row[f"dtw_{name}"] = float(output.cost[index])
                row[f"dtw_{name}_normalized"] = float(output.normalized[index])
            if np.isfinite(list(row.values())).all():
                self.add_row(utterance, **row)
            else:
                self.add_failure(utterance, "features not finite")

    def figures(self) -> dict:
        """Mean costs.

        Returns
        -------
        dict
            For each distance ``dtw`` and ``normalized`` with their bounds
            (``low``, ``high``; ``normalized_low``, ``normalized_high``).
        """
        figures = {}
        for name in self.distances:
            raw = self.mean(f"dtw_{name}")
            normalized = self.mean(f"dtw_{name}_normalized")
            figures[name] = {
                "dtw": raw[f"dtw_{name}"],
                "low": raw["low"],
                "high": raw["high"],
                "normalized": normalized[f"dtw_{name}_normalized"],
                "normalized_low": normalized["low"],
                "normalized_high": normalized["high"],
            }
        return figures


def contours(
    track: ProsodyTrack, frame_rate: int = 50
) -> dict[str, torch.Tensor]:
    """F0 and energy of an utterance, to be warped.

    Arguments
    ---------
    track : ProsodyTrack
        From :func:`~speechbrain_emofilm.processing.prosody.prosody_track`.
    frame_rate : int
        Frames per second, of which 200 are a multiple.

    Returns
    -------
    dict
        ``f0`` (1, T, 1) in semitones above 1 Hz, joined by straight lines
        where unvoiced, and ``energy`` (1, T, 1) in dB. Without any voice
        ``f0`` is not a number.

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
