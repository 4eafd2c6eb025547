"""Cost of streamed speech against its position, at CosyVoice2-0.5B's size.

Language model, flow and vocoder of the original sizes with random weights make
speech second by second (25 tokens). Beside it stands the original's way, in
which the flow reads all tokens so far again for every chunk, at the fifth and
the last chunk. With --mini, the shipped mini model speaks a text instead.

Prints JSON: seconds until the first chunk, seconds of each chunk for the
language model and for the sound, and ``last_to_fifth``, the cost of the last
chunk relative to that of the fifth.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --mini 1
"""

import logging
import tempfile
import time
from pathlib import Path

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import load_llm
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.precision import set_weight_precision

import torch
from common.random_cosyvoice2 import qwen2, write_llm
from common.reporting import make_parser, print_result

CHUNK = 25  # tokens, one second
FIFTH = 5
TEXT = (
    "<happy>We won the game!</happy> <sad>But he left early.</sad> Nobody "
    "knew the answer to that question, which was strange."
)


def seconds(run) -> tuple[float, object]:
    """Return the time of a call and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def speak_mini() -> None:
    """Stream a text with the mini model, after a first one to warm up."""
    speaker = EmoFiLMSynthesizer.from_hparams("speechbrain_emofilm/assets/mini")
    list(speaker.stream("We won."))
    start = time.perf_counter()
    times, n_samples = [], 0
    for chunk in speaker.stream(TEXT):
        times.append(time.perf_counter() - start)
        n_samples += len(chunk.wav)
    whole, _ = seconds(lambda: speaker.synthesize(TEXT))
    print_result(
        "streaming_mini",
        first_chunk=round(times[0], 3),
        all_chunks=round(times[-1], 3),
        synthesize=round(whole, 3),
        seconds_spoken=round(n_samples / chunk.sample_rate, 2),
    )


def speak_large(n_chunks: int, layers: int) -> None:
    """Stream random speech at true size; compare with the original's way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "llm.pt"
        write_llm(path, 0, layers)
        lm = load_llm(path, qwen2(layers))
    set_weight_precision(lm, "int8")
    token_to_wav = TokenToWav(
        CosyVoice2Flow().eval(),
        HiFTGenerator().eval(),
        {"random": torch.randn(192)},
    )
    n_tokens = CHUNK * n_chunks
    text = lm.embed_text(torch.arange(n_tokens // 5).unsqueeze(0))
    drawn = lm.generate_tokens(text, min_ratio=5.0, max_ratio=5.0)
    stream = token_to_wav.stream()
    tokens: list[int] = []

    def draw(n: int) -> list[int]:
        return [token for _, token in zip(range(n), drawn)]

    lm_times, sound_times = [], []
    # The flow looks three tokens ahead.
    for index in range(n_chunks):
        wanted = CHUNK + 3 if index == 0 else CHUNK
        time_lm, new = seconds(lambda n=wanted: draw(n))
        tokens += new
        time_sound, _ = seconds(lambda new=new: stream.push(torch.tensor(new)))
        lm_times.append(round(time_lm, 2))
        sound_times.append(round(time_sound, 2))
    flow, speaker = token_to_wav.mel_decoder, token_to_wav.xvectors

    def again(n_chunks: int) -> float:
        prefix = torch.tensor([tokens[: n_chunks * CHUNK]])
        time_again, _ = seconds(
            lambda: flow.inference(
                prefix, torch.ones(1), speaker, streaming=True
            )
        )
        return round(time_again, 2)

    totals = [lm + sound for lm, sound in zip(lm_times, sound_times)]
    last = n_chunks - 1
    print_result(
        "streaming",
        threads=torch.get_num_threads(),
        first_chunk=round(totals[0], 2),
        language_model=lm_times,
        sound=sound_times,
        last_to_fifth=round(totals[last - 1] / totals[FIFTH - 1], 3),
        sound_last_to_fifth=round(
            sound_times[last - 1] / sound_times[FIFTH - 1], 3
        ),
        prefix_again={FIFTH: again(FIFTH), n_chunks: again(n_chunks)},
    )


def main() -> None:
    """Measure and print."""
    args = make_parser(
        __doc__,
        threads=2,
        chunks=(12, "of one second"),
        layers=(24, "of the language model"),
        mini=(0, "1: the shipped mini model"),
    ).parse_args()
    logging.disable(logging.WARNING)  # speech is truncated on purpose
    if args.mini:
        speak_mini()
        return
    torch.set_num_threads(args.threads)
    with torch.no_grad():
        speak_large(args.chunks, args.layers)


if __name__ == "__main__":
    main()
