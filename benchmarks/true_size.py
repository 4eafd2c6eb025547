"""Time and memory of CosyVoice2-0.5B on a small machine: load, train, speak.

Loads random weights in the original's file format (2.0 GB) like a released
``llm.pt``, makes one E-FiLM training step with a batch of four, and synthesises
three seconds of speech with flow and vocoder of the original sizes.

Prints JSON: seconds of each stage and the peak memory of the process after it,
in GB; ``load_ratio`` is the peak memory of loading, with every weight read
once, relative to the size of the file.

    python benchmarks/true_size.py
"""

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.conditioned_lm import EmotionConditionedLM
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch
from common.esd_like import esd_like_batch, make_emofilm
from common.random_cosyvoice2 import qwen2, write_llm
from common.reporting import (
    make_parser,
    peak_bytes,
    print_result,
    resident_bytes,
)

GB = 1e9
SECONDS_SPOKEN = 3
TOKENS_PER_SECOND = 25


def train_once(model: EmotionConditionedLM) -> None:
    """Make one optimizer step on a batch of four."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    out = model.train()(esd_like_batch(batch_size=4))
    (out.speech_loss + 0.1 * out.emotion_loss).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def speak(lm: CosyVoice2LM, token_to_wav: TokenToWav) -> torch.Tensor:
    """Synthesise three seconds of (random) speech."""
    n_tokens = SECONDS_SPOKEN * TOKENS_PER_SECOND
    tokens = lm.generate(
        lm.embed_text(torch.arange(n_tokens // 5).unsqueeze(0)),
        torch.ones(1),
        min_ratio=5.0,
        max_ratio=5.0,
    )
    (wav,) = token_to_wav(tokens)
    return wav


def main() -> None:
    """Measure and print seconds and memory."""
    args = make_parser(
        __doc__, threads=2, layers=(24, "of the trunk")
    ).parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # speech is truncated on purpose
    seconds, peaks = {}, {}

    def stage(name: str, run: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = run()
        seconds[name] = round(time.perf_counter() - start, 2)
        peaks[name] = round(peak_bytes() / GB, 2)
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llm.pt"
        # A separate process, so that it does not count as peak memory.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_llm, args=(path, 0, args.layers)
        )
        writer.start()
        writer.join()
        before = resident_bytes()

        def load() -> CosyVoice2LM:
            lm = load_llm(path, qwen2(args.layers))
            for parameter in lm.parameters():
                parameter.detach().sum()  # reads it into memory
            return lm

        lm = stage("load", load)
        load_ratio = (peak_bytes() - before) / path.stat().st_size
        stage("train_step", lambda: train_once(make_emofilm(lm)))
        token_to_wav = TokenToWav(
            CosyVoice2Flow().eval(),
            HiFTGenerator().eval(),
            {"random": torch.randn(192)},
        )
        wav = stage("synthesis", lambda: speak(lm, token_to_wav))
    print_result(
        "true_size",
        threads=args.threads,
        seconds=seconds,
        seconds_spoken=round(len(wav) / token_to_wav.sample_rate, 2),
        peak_gb=peaks,
        load_ratio=round(load_ratio, 3),
    )


if __name__ == "__main__":
    main()
