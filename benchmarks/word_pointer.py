"""What a word pointer is worth: word times, lost words, cost.

On held-out test utterances of MiniESD, after ``make demo``:

* ``natural``: word boundaries found in the corpus's own speech tokens against
  the true ones, in ms: ``whole`` utterances, ``causal`` (each token judged by
  the state before it, each word's start as soon as it is reached) and
  ``stream`` (as ``EmoFiLMSynthesizer.stream`` tells them, chunk by chunk).
  Beside it stands the aligner on the corpus's own sound.
* ``generated``: the pointer against the aligner on synthesized speech, in ms.
* ``lost_words``: precision and recall of "this word was lost or cut" against
  a recogniser, which is itself wrong in places (see ``natural`` of ``wer``).
* ``cost``: time of the pointer relative to that of the decoding.
* ``candidates``: word error rate and lost words with 1, 2 and 4 readings, the
  rate's difference to 1, and the time of the synthesis relative to it.

Prints JSON.

    python benchmarks/word_pointer.py results/demo
"""

import time
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    read_word_labels,
    words_to_tensors,
)
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.inference.streaming import CHUNK_TOKENS
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
    PocketsphinxAligner,
)
from speechbrain_emofilm.integrations.whisper import FasterWhisperASR
from speechbrain_emofilm.lobes.conditioned_lm import ConditionedLMInputs
from speechbrain_emofilm.lobes.word_pointer import monotonic_path
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate
from speechbrain_emofilm.metrics.word_boundaries import (
    boundary_errors,
    summarize_errors,
)
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import file_fingerprint, read_json

import numpy as np
import soundfile
import torch
from common.reporting import make_parser, print_result

MINI = "speechbrain_emofilm/assets/mini"
SECONDS_PER_TOKEN = 0.04


def rounded(scores: dict) -> dict:
    """Round the numbers of a result."""
    return {
        key: rounded(value) if isinstance(value, dict) else round(value, 4)
        for key, value in scores.items()
    }


def in_ms(errors: list[float]) -> dict:
    """Summarize errors in milliseconds."""
    return rounded({k: 1000 * v for k, v in summarize_errors(errors).items()})


class Corpus:
    """Test utterances of the demo with their tokens and true words."""

    def __init__(self, demo: Path, emotions: list[str], n_utterances: int):
        self.demo, self.emotions = demo, emotions
        self.truth = read_word_labels(
            demo / "MiniESD/word_labels.json", emotions
        )
        self.items = read_json(demo / "prepared/test.json")
        chosen = list(self.items)
        self.ids = chosen[:: max(1, len(chosen) // n_utterances)]
        self.ids = self.ids[:n_utterances]
        tokenizer = find_file(f"{MINI}/speech_tokenizer.safetensors")
        self.tokens = read_speech_tokens(
            demo / "prepared/speech_tokens.safetensors",
            file_fingerprint(tokenizer),
        ).tokens

    def wav(self, utterance: str) -> tuple[np.ndarray, int]:
        """Read the sound of an utterance."""
        path = self.items[utterance]["wav"]
        return soundfile.read(
            path.replace("{data_root}", str(self.demo / "MiniESD"))
        )

    def times(self, utterance: str) -> np.ndarray:
        """Return the true times of the words (W, 2)."""
        return np.array([[w.start, w.end] for w in self.truth[utterance].words])

    def marked(self, utterance: str) -> str:
        """Return the text with its emotion."""
        item = self.items[utterance]
        return f"<{item['emotion']}>{item['text']}</>"


def first_starts(
    log_probs: np.ndarray, blind: np.ndarray, resolution: int, step: int
):
    """Find each word's place when it is first reached, in frames (W, 2).

    The path is sought anew every `step` tokens; the last of them is judged as
    in `blind`, by the state before it alone. An end is that of the last path.
    """
    n_words, size = log_probs.shape[1] - 1, len(log_probs)
    found = np.full((n_words, 2), -1)
    for end in range(step * resolution, size, step * resolution):
        last = end - resolution
        head = np.concatenate([log_probs[:last], blind[last:end]])
        path = monotonic_path(head, is_whole=False)
        new = (found[:, 0] < 0) & (path[:, 0] >= 0)
        found[new, 0] = path[new, 0]
        found[path[:, 1] >= 0, 1] = path[path[:, 1] >= 0, 1]
    path = monotonic_path(log_probs)
    found[:, 0] = np.where(found[:, 0] < 0, path[:, 0], found[:, 0])
    if step > 1:  # a stream ends with the whole path
        found[:, 1] = path[:, 1]
    else:
        found[:, 1] = np.where(found[:, 1] < 0, path[:, 1], found[:, 1])
    return found


def measure_natural(synthesizer, corpus: Corpus, aligner) -> dict:
    """Compare the words found in the corpus's speech with the true ones."""
    errors: dict[str, list] = {
        name: [] for name in ("whole", "causal", "stream", "aligner")
    }
    resolution = synthesizer.pointer.resolution
    frame = SECONDS_PER_TOKEN / resolution
    one = torch.ones(1)
    for utterance in corpus.ids:
        units = synthesizer.text_frontend.encode(
            corpus.items[utterance]["text"]
        )
        emotions, intensity = words_to_tensors(
            corpus.truth[utterance], corpus.emotions
        )
        tokens = corpus.tokens[utterance][None]
        inputs = ConditionedLMInputs(
            text_tokens=torch.tensor([units.ids]),
            text_lens=one,
            word_of_token=torch.tensor([units.word_of_unit]),
            speech_tokens=tokens,
            speech_lens=one,
            word_of_speech=torch.full_like(tokens, -1),
            word_emotions=emotions[None],
            word_intensity=intensity[None],
        )
        true = corpus.times(utterance)
        seeing, blind = (
            synthesizer.mods.emofilm.point(inputs, sees)[0].numpy()
            for sees in (True, False)
        )
        paths = {
            "whole": monotonic_path(seeing),
            "causal": first_starts(blind, blind, resolution, 1),
            "stream": first_starts(seeing, blind, resolution, CHUNK_TOKENS),
        }
        for name, path in paths.items():
            errors[name] += boundary_errors(path * frame, true)
        text = " ".join(word.word for word in corpus.truth[utterance].words)
        wav, rate = corpus.wav(utterance)
        try:
            words = aligner.align(torch.tensor(wav).float(), rate, text, "en")
        except ValueError:
            continue
        times = [[word.start, word.end] for word in words]
        errors["aligner"] += boundary_errors(times, true)
    return {name: in_ms(own) for name, own in errors.items()}


def measure_generated(results, aligner) -> dict:
    """Compare the pointer with the aligner on synthesized speech."""
    errors = []
    for result in results:
        text = " ".join(word.text for word in result.words)
        try:
            words = aligner.align(result.wav, result.sample_rate, text, "en")
        except ValueError:
            continue
        errors += boundary_errors(
            [[word.start, word.end] for word in result.words],
            [[word.start, word.end] for word in words],
        )
    return in_ms(errors)


def recognise(asr, results, ids, texts) -> WordErrorRate:
    """Compute the word error rate of synthesized speech."""
    wer = WordErrorRate()
    heard = asr.transcribe([r.wav for r in results], results[0].sample_rate)
    wer.append(ids, heard, texts)
    return wer


def judge_lost_words(wer: WordErrorRate, results) -> dict:
    """Compare flagged words with those that the recogniser did not hear."""
    counts = {"deleted": np.zeros(4, int), "misheard": np.zeros(4, int)}
    for score, result in zip(wer.stats.scores, results):
        if score["num_ref_tokens"] != len(result.words):
            continue  # the recogniser writes words in another way
        flagged = {
            i
            for i, word in enumerate(result.coverage)
            if word.status in ("lost", "cut")
        }
        for name, operations in (("deleted", "D"), ("misheard", "DS")):
            gone = {i for op, i, _ in score["alignment"] if op in operations}
            counts[name] += [
                len(flagged & gone),
                len(flagged),
                len(gone),
                len(result.words),
            ]
    return {
        name: {
            "hits": int(hits),
            "flagged": int(flagged),
            "lost": int(gone),
            "words": int(words),
            "precision": round(hits / max(flagged, 1), 3),
            "recall": round(hits / max(gone, 1), 3),
        }
        for name, (hits, flagged, gone, words) in counts.items()
    }


def measure_cost(synthesizer, texts) -> dict:
    """Time the synthesis of tokens with and without the pointer, in turns."""
    pointer = synthesizer.pointer
    seconds = {"with": [], "without": []}
    plans = [synthesizer.plan(text)[0] for text in texts]
    prompt = synthesizer.prompt(synthesizer.speakers[0])
    for turn, plan in enumerate([plans[0], *plans]):
        for name, own in (("without", None), ("with", pointer)):
            synthesizer.pointer = own
            start = time.perf_counter()
            with synthesizer.inference_ctx:
                synthesizer._read([plan], [prompt], [turn], 1.0, rated=False)
            seconds[name].append(time.perf_counter() - start)
    synthesizer.pointer = pointer
    # The first turn warms up.
    with_it, without = (np.array(seconds[n][1:]) for n in ("with", "without"))
    return {
        "share_of_decoding": round(float(np.median(with_it / without)) - 1, 4)
    }


def measure_candidates(
    synthesizer, corpus: Corpus, asr, ids, guidance: float, batch_size: int
) -> tuple[dict, list, WordErrorRate]:
    """Speak with more and more candidates; return also those of one."""
    texts = [corpus.items[utterance]["text"] for utterance in ids]
    scores, first = {}, None
    for name, options in (
        ("1", {}),
        ("2", {"candidates": 2}),
        ("4", {"candidates": 4}),
        ("1, retry 3", {"retry": 3}),
    ):
        start = time.perf_counter()
        results = synthesizer.synthesize(
            [corpus.marked(utterance) for utterance in ids],
            seed=list(range(len(ids))),
            guidance=guidance,
            batch_size=batch_size,
            **options,
        )
        seconds = time.perf_counter() - start
        wer = recognise(asr, results, ids, texts)
        lost = np.array(
            [
                [
                    sum(word.status in ("lost", "cut") for word in r.coverage),
                    len(r.words),
                ]
                for r in results
            ]
        )
        if first is None:
            first = results, wer, seconds
        summary = wer.summarize()
        scores[name] = rounded(
            {
                "wer": {k: summary[k] for k in ("wer", "low", "high")},
                "wer_above_1": wer.above(first[1]),
                "lost": estimate("share", share, lost),
                "relative_time": seconds / first[2],
            }
        )
    return scores, first[0], first[1]


def main() -> None:
    """Measure and print."""
    parser = make_parser(
        __doc__,
        natural=(120, "natural utterances"),
        generated=(80, "utterances to synthesize"),
        batch_size=8,
    )
    parser.add_argument("demo", type=Path, help="output folder of make demo")
    parser.add_argument("--model", default=MINI, help="folder of the model")
    parser.add_argument("--guidance", type=float, default=1.3)
    args = parser.parse_args()
    synthesizer = EmoFiLMSynthesizer.from_hparams(args.model)
    corpus = Corpus(args.demo, synthesizer.emotions, args.natural)
    aligner = PocketsphinxAligner(
        pronounce=synthesizer.text_frontend.pronounce, strict=False
    )
    asr = FasterWhisperASR()
    natural = measure_natural(synthesizer, corpus, aligner)
    spoken = Corpus(args.demo, synthesizer.emotions, args.generated).ids
    candidates, results, wer = measure_candidates(
        synthesizer, corpus, asr, spoken, args.guidance, args.batch_size
    )
    cost = measure_cost(
        synthesizer, [corpus.marked(utterance) for utterance in spoken[:20]]
    )
    print_result(
        "word_pointer",
        natural_ms=natural,
        generated_ms=measure_generated(results, aligner),
        lost_words=judge_lost_words(wer, results),
        cost=cost,
        candidates=candidates,
    )


if __name__ == "__main__":
    main()
