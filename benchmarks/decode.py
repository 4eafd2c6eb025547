"""Milliseconds per speech token of the 0.5B language model on a CPU.

``CosyVoice2LM.generate`` at batch sizes 1, 8 and 32, in fp32, bf16 and int8,
compared with a plain loop that works like the original: one utterance at a
time, the unused text head of 151,936 words computed at each step, nucleus and
repetitions searched in Python. Weights and sampling are the same. The
original's own code takes 93 to 97 ms per token on two cores.

Prints JSON; ``ratio`` is the speed relative to the plain loop.

    python benchmarks/decode.py
"""

import logging
import statistics
import tempfile
import time
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.precision import (
    PRECISIONS,
    set_weight_precision,
)
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    RepetitionAwareSampler,
)

import torch
import torch.nn.functional as F
from common.random_cosyvoice2 import SPEECH_VOCABULARY, qwen2, write_llm
from common.reporting import make_parser, print_result

N_TEXT, N_PROMPT = 20, 75  # tokens read before the first new token
END = SPEECH_VOCABULARY


class TimedSampler:
    """Repetition-aware sampling that records the time of each call."""

    def __init__(self):
        self.sampler = RepetitionAwareSampler()
        self.times = []

    def __call__(self, *args):
        """Draw tokens."""
        self.times.append(time.perf_counter())
        return self.sampler(*args)


def step_ms(times: list) -> float:
    """Return the median time of a step."""
    steps = [after - before for before, after in zip(times, times[1:])]
    return 1000 * statistics.median(steps)


def draw_as_original(log_probs: torch.Tensor, spoken: list) -> int:
    """Draw one token with repetition-aware sampling, as the original does."""
    probs, ids = log_probs.softmax(0).sort(descending=True, stable=True)
    kept, kept_ids, total = [], [], 0.0
    for prob, index in zip(probs, ids):
        if total >= 0.8 or len(kept) >= 25:
            break
        total += prob
        kept.append(prob)
        kept_ids.append(index)
    token = kept_ids[torch.stack(kept).multinomial(1)].item()
    if spoken[-10:].count(token) >= 1:
        log_probs[token] = -torch.inf
        token = log_probs.softmax(0).multinomial(1).item()
    return token


@torch.no_grad()
def time_original(lm: CosyVoice2LM, n_steps: int) -> float:
    """Measure milliseconds per token of the plain loop."""
    task = lm.llm_embedding.weight[1:].unsqueeze(0)
    text = lm.embed_text(torch.arange(N_TEXT + 1).unsqueeze(0))
    prompt = lm.speech_embedding(torch.arange(N_PROMPT).unsqueeze(0))
    unread, cache = torch.cat([text, task, prompt], 1), None
    spoken, times = [], []
    for _ in range(n_steps):
        output = lm.llm(
            inputs_embeds=unread, past_key_values=cache, use_cache=True
        )
        cache, hidden = output.past_key_values, output.last_hidden_state
        F.linear(hidden, lm.llm.embed_tokens.weight)  # the text head
        log_probs = lm.llm_decoder(hidden[:, -1]).log_softmax(-1)[0]
        log_probs[END:] = -torch.inf
        times.append(time.perf_counter())
        spoken.append(draw_as_original(log_probs, spoken))
        unread = lm.speech_embedding(torch.tensor([[spoken[-1]]]))
    return step_ms(times)


def time_ours(lm: CosyVoice2LM, batch_size: int, n_steps: int) -> float:
    """Measure milliseconds per token of ``generate``."""
    sampler = TimedSampler()
    text = torch.arange(N_TEXT).repeat(batch_size, 1)
    # Texts differ in length, so that the batch is padded as usual.
    lens = 1 - torch.arange(batch_size) % 4 * 0.2
    lm.generate(
        lm.embed_text(text),
        lens,
        torch.arange(N_PROMPT).repeat(batch_size, 1),
        torch.ones(batch_size),
        sampler=sampler,
        n_target_text=[n_steps] * batch_size,
        min_ratio=1.0,
        max_ratio=1.0,
        seeds=range(batch_size),
    )
    return step_ms(sampler.times) / batch_size


def main() -> None:
    """Measure and print the times."""
    parser = make_parser(
        __doc__,
        threads=2,
        steps=(24, "tokens at batch size 1; fewer at larger ones"),
        layers=(24, "of the trunk"),
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS
    )
    parser.add_argument(
        "--batch_sizes", nargs="+", type=int, default=[1, 8, 32]
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # speech is truncated on purpose
    ms = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llm.pt"
        write_llm(path, n_layers=args.layers)
        for precision in args.precisions:
            lm = load_llm(path, qwen2(args.layers))
            if not ms:
                original = time_original(lm, args.steps)
            set_weight_precision(lm, precision)
            for size in args.batch_sizes:
                n_steps = max(4, args.steps // size**0.5)
                ms[f"{precision}_b{size}"] = time_ours(lm, size, int(n_steps))
    print_result(
        "decode",
        threads=args.threads,
        cpu=torch.backends.cpu.get_cpu_capability(),
        original_ms_per_token=round(original, 2),
        ms_per_token={name: round(value, 2) for name, value in ms.items()},
        ratio={name: round(original / value, 2) for name, value in ms.items()},
    )


if __name__ == "__main__":
    main()
