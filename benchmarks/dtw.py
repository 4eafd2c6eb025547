"""Seconds to warp 1,000 pairs of 5 s, compared with librosa.

Pairs of random features at 50 frames per second. Prints JSON: seconds of this
package's batches for both distances, ``seconds_of_librosa`` for the same number
of pairs (extrapolated from fewer, distances included), and the largest
difference of the costs.

    python benchmarks/dtw.py
"""

import time

from speechbrain_emofilm.metrics.dtw import DISTANCES, dtw

import torch
from common.reporting import make_parser, print_result
from scipy.spatial.distance import cdist

FRAME_RATE = 50


def warp_batches(predict, target, distance, batch_size):
    """Warp pairs of features (N, F, D) in batches; return the costs (N,)."""
    pairs = zip(predict.split(batch_size), target.split(batch_size))
    return torch.cat([dtw(a, b, distance=distance).cost for a, b in pairs])


def main() -> None:
    """Measure and print the times."""
    parser = make_parser(
        __doc__, n_pairs=1000, n_librosa=20, dim=768, batch_size=50
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    from librosa.sequence import dtw as librosa_dtw

    generator = torch.Generator().manual_seed(0)
    size = (args.n_pairs, int(args.seconds * FRAME_RATE), args.dim)
    predict = torch.randn(size, generator=generator)
    target = torch.randn(size, generator=generator)
    librosa_dtw(C=cdist(predict[0, :5], target[0, :5]))  # compiles
    result = {}
    for distance in DISTANCES:
        start = time.perf_counter()
        costs = warp_batches(predict, target, distance, args.batch_size)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        reference = [
            librosa_dtw(C=cdist(a.double(), b.double(), distance))[0][-1, -1]
            for a, b in zip(predict[: args.n_librosa], target)
        ]
        share = (time.perf_counter() - start) / args.n_librosa
        difference = costs[: args.n_librosa] - torch.tensor(reference)
        result[distance] = {
            "seconds": round(seconds, 2),
            "seconds_of_librosa": round(share * args.n_pairs, 2),
            "largest_difference": float(difference.abs().max()),
        }
    print_result("dtw", pairs=args.n_pairs, frames=size[1], **result)


if __name__ == "__main__":
    main()
