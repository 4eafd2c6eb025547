"""How long 1,000 pairs of 5 s are warped, beside the loops of librosa.

Pairs of random features, 50 frames a second. Prints JSON: seconds of this
package's batches for both distances, ``seconds_of_librosa`` for as many pairs
(measured on fewer, distances included), and the largest difference between
the two.

    python benchmarks/dtw.py
"""

import argparse
import json
import time

from speechbrain_emofilm.metrics.dtw import DISTANCES, dtw

import torch
from scipy.spatial.distance import cdist

FRAME_RATE = 50


def warp_batches(predict, target, distance, batch_size):
    """Warps all pairs, some at a time.

    Arguments
    ---------
    predict : torch.Tensor
        Features (N, F, D).
    target : torch.Tensor
        Features (N, F, D).
    distance : str
        Of two frames.
    batch_size : int
        Pairs at a time.

    Returns
    -------
    torch.Tensor
        Costs (N,).
    """
    pairs = zip(predict.split(batch_size), target.split(batch_size))
    return torch.cat([dtw(a, b, distance=distance).cost for a, b in pairs])


def main() -> None:
    """Prints the times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n_pairs", type=int, default=1000)
    parser.add_argument("--n_librosa", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batch_size", type=int, default=50)
    args = parser.parse_args()
    from librosa.sequence import dtw as librosa_dtw

    generator = torch.Generator().manual_seed(0)
    size = (args.n_pairs, int(args.seconds * FRAME_RATE), args.dim)
    predict = torch.randn(size, generator=generator)
    target = torch.randn(size, generator=generator)
    librosa_dtw(C=cdist(predict[0, :5], target[0, :5]))  # compiles
    result = {"benchmark": "dtw", "pairs": args.n_pairs, "frames": size[1]}
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
    print(json.dumps(result))


if __name__ == "__main__":
    main()
