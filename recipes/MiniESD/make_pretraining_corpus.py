"""Create the corpus that pretrains the mini backbone, without emotion labels.

python make_pretraining_corpus.py OUTPUT_FOLDER [--n_utterances 12800]

The prosody of an utterance changes at word boundaries; pitch, contour, tempo
and loudness are drawn independently. The text describes it: most utterances
have cues in the spelling of words (``WON``, ``sooo``, ``won!``, ``[won]``; see
``HibariTextFrontend``), some an instruction before ``<|endofprompt|>``, some
emotive words that match the voice. The others have no description and weaker
prosody.

Writes ``wavs/*.wav`` (24 kHz) and ``pretraining.jsonl``: for each utterance
text, speaker, word times, times of every text unit, and F0 at 50 Hz.
"""

import argparse
import json
import multiprocessing
import random
from pathlib import Path

from speechbrain_emofilm.integrations.hibari import Cues
from speechbrain_emofilm.utils.files import atomic_path

from sentences import MOOD_WORDS, SentenceMaker, spoken_words
from styles import (
    EMOTION_PROSODY,
    SPEAKERS,
    cues_of,
    draw_free_prosody,
    instruction_of,
)
from tqdm import tqdm
from voice import WordProsody, shared_voice, write_speech

#: Share of utterances with each kind of text.
TEXT_KINDS = {"cues": 0.62, "instruction": 0.10, "emotive": 0.10, "plain": 0.18}
#: Share of spans whose cue asks for plain speech, in utterances with cues.
PLAIN_SHARE = 0.25
#: Strength of the prosody of such spans, and of utterances without cues.
PLAIN_STRENGTH = 0.15
UNCUED_STRENGTH = 0.3
#: Files that later steps write to the corpus folder.
DERIVED = ("mel.npy", "tokens.npy", "text_units.json", "decoded_mel.npy")
CHUNK = 100


def draw_spans(rng, n_words, max_spans=4):
    """Draw the first word of each span of constant prosody, and the end."""
    n_spans = min(rng.choice((1, 2, 2, 3, 3, max_spans)), n_words // 2)
    return [0, *sorted(rng.sample(range(1, n_words), n_spans - 1)), n_words]


def jitter(rng, prosody):
    """Vary the prosody of a word a little."""
    return prosody.plus(
        WordProsody(
            pitch=rng.gauss(0, 0.03),
            slope=rng.gauss(0, 0.05),
            duration=rng.gauss(0, 0.04),
            gain=rng.gauss(0, 0.6),
        )
    )


def draw_utterance(rng, make_sentence):
    """Draw the spoken words, written text and prosody of an utterance."""
    words = spoken_words(make_sentence())
    kind = rng.choices(list(TEXT_KINDS), TEXT_KINDS.values())[0]
    edges = draw_spans(rng, len(words))
    if kind == "instruction":
        edges = [0, len(words)]
    prosody, cues = [], []
    for first, last in zip(edges, edges[1:]):
        if kind == "emotive":
            mood = rng.choice(list(MOOD_WORDS))
            words[rng.randrange(first, last)] = rng.choice(
                MOOD_WORDS[mood].split()
            )
            base = EMOTION_PROSODY[mood].scaled(rng.uniform(0.6, 1.0))
        elif kind == "cues" and rng.random() < PLAIN_SHARE:
            base = draw_free_prosody(rng, PLAIN_STRENGTH)
            cues += [Cues(plain=True)] * (last - first)
        else:
            base = draw_free_prosody(
                rng, UNCUED_STRENGTH if kind == "plain" else 1.0
            )
            cues += [cues_of(base)] * (last - first)
        prosody += [jitter(rng, base) for _ in range(first, last)]
    if kind == "cues":
        text = " ".join(map(_write, words, cues))
    else:
        text = " ".join(words) + "."
    if kind == "instruction":
        text = instruction_of(base) + text
    return words, text, prosody


def _write(word, cues):
    """Write the cues of a word before the comma that may follow it."""
    return cues.write(word.rstrip(",")) + ("," if word.endswith(",") else "")


def make_chunk(arguments):
    """Create the utterances of a chunk, whose number sets the seed."""
    chunk, size, folder, seed = arguments
    rng = random.Random(seed * 100_003 + chunk)
    make_sentence = SentenceMaker(seed=rng.randrange(2**31))
    voice = shared_voice()
    rows = []
    while len(rows) < size:
        words, text, prosody = draw_utterance(rng, make_sentence)
        speaker = rng.choice(list(SPEAKERS))
        spoken = voice.speak(
            words, prosody, SPEAKERS[speaker], seed=rng.randrange(2**31)
        )
        if spoken is None or len(spoken.wav) > 10 * voice.sample_rate:
            continue
        uid = f"{speaker}_p{chunk:04d}{len(rows):03d}"
        path = Path(folder) / "wavs" / f"{uid}.wav"
        rows.append(
            {
                "id": uid,
                "wav": f"wavs/{uid}.wav",
                "duration": write_speech(path, spoken.wav),
                "speaker": speaker,
                "text": text,
                "words": [
                    [word.rstrip(","), round(a, 4), round(b, 4)]
                    for word, (a, b) in zip(words, spoken.words)
                ],
                "units": [
                    [s, round(a, 4), round(b, 4)] for s, a, b in spoken.units
                ],
                "f0": [int(round(value)) for value in spoken.f0],
            }
        )
    return rows


def main():
    """Create the corpus with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output_folder", type=Path)
    parser.add_argument("--n_utterances", type=int, default=12800)
    parser.add_argument("--seed", type=int, default=1986)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    (args.output_folder / "wavs").mkdir(parents=True, exist_ok=True)
    for name in DERIVED:  # of an earlier corpus in this folder
        (args.output_folder / name).unlink(missing_ok=True)
    jobs = [
        (
            chunk,
            min(CHUNK, args.n_utterances - first),
            args.output_folder,
            args.seed,
        )
        for chunk, first in enumerate(range(0, args.n_utterances, CHUNK))
    ]
    rows = []
    with multiprocessing.Pool(args.workers) as pool:
        for part in tqdm(pool.imap(make_chunk, jobs), total=len(jobs)):
            rows += part
    with atomic_path(args.output_folder / "pretraining.jsonl") as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    hours = sum(row["duration"] for row in rows) / 3600
    print(f"{len(rows)} utterances, {hours:.2f} h")


if __name__ == "__main__":
    main()
