"""Whether CosyVoice2-0.5B fits a small machine: load, train, speak.

Random weights in the original's file format (2.0 GB) are loaded back as a
released ``llm.pt`` is, one E-FiLM training step is made with a batch of four,
and three seconds of speech are synthesised with flow and vocoder of the true
sizes.

Prints JSON: seconds and the peak of the process's memory after each stage,
in GB; ``load_ratio`` is the peak of loading, with every weight read once,
relative to the file.

    python benchmarks/true_size.py
"""

import argparse
import json
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
from common.random_cosyvoice2 import (
    peak_bytes,
    qwen2,
    resident_bytes,
    write_llm,
)

GB = 1e9
SECONDS_SPOKEN = 3
TOKENS_PER_SECOND = 25


def train_once(model: EmotionConditionedLM) -> None:
    """One optimiser step on a batch of four."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    out = model.train()(esd_like_batch(batch_size=4))
    (out.speech_loss + 0.1 * out.emotion_loss).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def speak(lm: CosyVoice2LM, token_to_wav: TokenToWav) -> torch.Tensor:
    """Three seconds of (random) speech."""
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
    """Prints seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=24, help="of the trunk")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # speech is cut on purpose
    seconds, peaks = {}, {}

    def stage(name: str, run: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = run()
        seconds[name] = round(time.perf_counter() - start, 2)
        peaks[name] = round(peak_bytes() / GB, 2)
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llm.pt"
        # In a process of its own, so that it leaves no trace in the memory.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_llm, args=(path, 0, args.layers)
        )
        writer.start()
        writer.join()
        before = resident_bytes()

        def load() -> CosyVoice2LM:
            lm = load_llm(path, qwen2(args.layers))
            for parameter in lm.parameters():
                parameter.detach().sum()  # brings it into memory
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
    result = {
        "benchmark": "true_size",
        "threads": args.threads,
        "seconds": seconds,
        "seconds_spoken": round(len(wav) / token_to_wav.sample_rate, 2),
        "peak_gb": peaks,
        "load_ratio": round(load_ratio, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
