#!/usr/bin/env python3
"""Speak a long text in one call, and its sentences one by one.

> python benchmarks/long_text.py --words 1000

Prints the word error rate of both (Whisper tiny.en on the sound of each
sentence, cut at the word times of the long speech), the duration of the speech
and the peak memory beside that of one sentence. Each is made in a process of
its own.
"""

import json
import subprocess
import sys
from pathlib import Path

from speechbrain_emofilm.cli import find_model
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.integrations.whisper import FasterWhisperASR
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate

from common.reporting import make_parser, peak_bytes, print_result

sys.path.append(str(Path(__file__).parents[1] / "recipes" / "MiniESD"))

from sentences import EVALUATION, TEST  # noqa: E402

#: Ways to speak; "history" is one call in which each piece continues the last.
WAYS = ("one sentence", "sentence by sentence", "one call", "history")


def sentences_of(n_words):
    """Return sentences of at least `n_words` words together."""
    found, count = [], 0
    while count < n_words:
        sentence = (EVALUATION + TEST)[len(found) % len(EVALUATION + TEST)]
        found.append(sentence)
        count += len(split_words(sentence))
    return found


def speak(synthesizer, way, sentences):
    """Speak in one of `WAYS`; return waves, their texts and the rate."""
    if way == "one sentence":
        sentences = sentences[:1]
    if way in ("one sentence", "sentence by sentence"):
        results = [synthesizer.synthesize(sentence) for sentence in sentences]
        waves = [result.wav for result in results]
        return waves, sentences, results[0].sample_rate
    result = synthesizer.synthesize(
        " ".join(sentences), history=way == "history"
    )
    # Cut in the middle of the pauses between sentences, by the word times.
    ends, cuts = 0, [0.0]
    for sentence in sentences[:-1]:
        ends += len(split_words(sentence))
        cuts.append((result.words[ends - 1].end + result.words[ends].start) / 2)
    samples = [round(cut * result.sample_rate) for cut in cuts]
    samples.append(len(result.wav))
    waves = [result.wav[a:b] for a, b in zip(samples, samples[1:])]
    return waves, sentences, result.sample_rate


def measure(way, n_words):
    """Speak, take the peak memory, then recognise the words."""
    synthesizer = EmoFiLMSynthesizer.from_hparams(find_model())
    waves, texts, rate = speak(synthesizer, way, sentences_of(n_words))
    peak = peak_bytes()
    scores = {
        "seconds": round(sum(map(len, waves)) / rate, 1),
        "peak_mb": round(peak / 2**20),
    }
    if way != "one sentence":
        wer = WordErrorRate()
        wer.append(
            list(map(str, range(len(texts)))),
            FasterWhisperASR().transcribe(waves, rate),
            texts,
        )
        scores["wer"] = round(wer.summarize()["wer"], 4)
    return scores


def main():
    """Run the command."""
    parser = make_parser(__doc__, words=(1000, "number of words of the text"))
    parser.add_argument("--way", choices=WAYS, help="measure this one only")
    options = parser.parse_args()
    if options.way:
        scores = measure(options.way, options.words)
        print_result("long_text", way=options.way, **scores)
        return
    for way in WAYS:
        command = [sys.executable, __file__, f"--words={options.words}"]
        output = subprocess.run(
            [*command, "--way", way], check=True, capture_output=True, text=True
        ).stdout
        print_result(**json.loads(output.splitlines()[-1]))


if __name__ == "__main__":
    main()
