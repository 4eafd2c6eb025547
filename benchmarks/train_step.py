"""Speed and memory of training E-FiLM through the frozen 0.5B model.

Forward and backward pass of ``EmotionConditionedLM`` (no padding in the linear
layers, speech logits at supervised positions only, no text head), compared
with the original implementation (padded batch, attention mask, the text head
of 151,936 words and the speech head at all positions), on batches with the
lengths of ESD's English part. Weights and loss are the same; each runs in its
own process. Larger batches give the original more padding: the default is 16
utterances; ``cosyvoice2_robust.yaml`` uses batches of 160 s, the paper 4
utterances.

Prints JSON: text and speech tokens per second, without padding, and the peak
memory of the process, including the weights that have been read. This package
is better if ``ratio.speed`` is above 1 and ``ratio.memory`` below 1.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --batch_size 4 --steps 4
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)

import torch
import torch.nn.functional as F
from common.esd_like import esd_like_batch, make_emofilm
from common.random_cosyvoice2 import qwen2, write_llm
from common.reporting import make_parser, peak_bytes, print_result
from torch.nn.utils.rnn import pad_sequence

IGNORE = -1


def our_loss(
    model: EmotionConditionedLM, batch: ConditionedLMInputs
) -> torch.Tensor:
    """Compute the speech loss with ``EmotionConditionedLM``."""
    return model(batch).speech_loss


def original_loss(
    model: EmotionConditionedLM, batch: ConditionedLMInputs
) -> torch.Tensor:
    """Compute the same loss as the original does."""
    lm = model.llm
    text = model.condition(
        batch.text_tokens,
        batch.text_lens,
        batch.word_of_token,
        batch.word_emotions,
        batch.word_intensity,
    ).text_embeddings
    speech = lm.speech_embedding(batch.speech_tokens)
    sos, task = lm.llm_embedding.weight[:, None]
    sequences, targets = [], []
    for item, (n_text, n_speech) in enumerate(zip(*n_tokens(batch))):
        sequences.append(
            torch.cat([sos, text[item, :n_text], task, speech[item, :n_speech]])
        )
        ignored = torch.full([1 + n_text], IGNORE)
        tokens = batch.speech_tokens[item, :n_speech]
        targets.append(torch.cat([ignored, tokens, torch.tensor([lm.end_id])]))
    lens = torch.tensor([len(sequence) for sequence in sequences])
    padded = pad_sequence(sequences, batch_first=True)
    mask = (torch.arange(padded.shape[1]) < lens[:, None]).long()
    hidden = lm.llm(
        inputs_embeds=padded, attention_mask=mask, use_cache=False
    ).last_hidden_state
    F.linear(hidden, lm.llm.embed_tokens.weight)  # the text head
    return F.cross_entropy(
        lm.llm_decoder(hidden).transpose(1, 2),
        pad_sequence(targets, batch_first=True, padding_value=IGNORE),
        ignore_index=IGNORE,
    )


def n_tokens(batch: ConditionedLMInputs) -> tuple:
    """Return two lists: numbers of text and of speech tokens of each item."""
    return tuple(
        torch.round(lens * tokens.shape[1]).long().tolist()
        for lens, tokens in (
            (batch.text_lens, batch.text_tokens),
            (batch.speech_lens, batch.speech_tokens),
        )
    )


LOSSES = {"ours": our_loss, "original": original_loss}


def measure(path: str, which: str, args: argparse.Namespace) -> dict:
    """Measure speed, memory and loss of one implementation."""
    torch.set_num_threads(args.threads)
    lm = load_llm(path, qwen2(args.layers))
    model = make_emofilm(lm).eval()  # no dropout of labels
    losses, seconds, n_positions = [], [], 0
    for step in range(args.steps + 1):
        batch = esd_like_batch(args.batch_size, seed=step)
        start = time.perf_counter()
        loss = LOSSES[which](model, batch)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        n_positions += sum(map(sum, n_tokens(batch))) if step else 0
    return {
        "loss": losses,
        "tokens_per_second": n_positions / sum(seconds[1:]),  # warm
        "peak_gb": peak_bytes() / 1e9,
    }


def main() -> None:
    """Measure and print the comparison."""
    args = make_parser(
        __doc__, threads=2, batch_size=16, steps=2, layers=(24, "of the trunk")
    ).parse_args()
    spawn = multiprocessing.get_context("spawn")
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "llm.pt")
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            pool.apply(write_llm, (path, 0, args.layers))
            for which in LOSSES:
                measured[which] = pool.apply(measure, (path, which, args))
    ours, original = measured["ours"], measured["original"]
    difference = max(abs(a - b) for a, b in zip(ours["loss"], original["loss"]))
    print_result(
        "train_step",
        threads=args.threads,
        batch_size=args.batch_size,
        loss_difference=difference,
        **{
            which: {k: round(v, 2) for k, v in values.items() if k != "loss"}
            for which, values in measured.items()
        },
        ratio={
            key: round(ours[name] / original[name], 3)
            for key, name in (
                ("speed", "tokens_per_second"),
                ("memory", "peak_gb"),
            )
        },
    )


if __name__ == "__main__":
    main()
