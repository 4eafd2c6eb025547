"""A corpus in ESD's layout that buzzes where ESD speaks.

    python benchmarks/common/fake_esd.py CORPUS ALIGNMENTS LABELS REFERENCE

writes the corpus, TextGrids of its words as an aligner writes them, word labels
as label.py writes them, and a longer recording of another voice. Vowels are
pulses in three formants, consonants noise; emotions change pitch and tempo.
"""

import argparse
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word, write_alignment
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    write_word_labels,
)
from speechbrain_emofilm.dataio.text import split_words

import numpy as np
import soundfile
from scipy.signal import lfilter

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.sentences import SENTENCES  # noqa: E402

SAMPLE_RATE = 16000
SENTENCES_OF_ESD = 350  # of each speaker and emotion
#: Emotion to its name in Mandarin transcripts, in the order of the numbers.
EMOTIONS = {
    "Neutral": "中立",
    "Angry": "生气",
    "Happy": "快乐",
    "Sad": "伤心",
    "Surprise": "惊喜",
}
#: Pitch and tempo relative to neutral speech.
STYLES = {
    "Neutral": (1.0, 1.0),
    "Angry": (1.2, 1.15),
    "Happy": (1.35, 1.1),
    "Sad": (0.85, 0.85),
    "Surprise": (1.5, 1.0),
}
#: Speaker to Hz: two English ones and a Mandarin one.
SPEAKERS = {"0011": 110, "0012": 200, "0001": 210}
#: Those that train_mini.yaml of the labelling holds out.
HELD_OUT_SPEAKERS = {"0013": 125, "0014": 185}
MARGIN = 0.25  # s of silence at either end
NOISE = 0.001  # of the room
FORMANTS = ((700, 1200, 2600), (300, 2200, 2900), (350, 900, 2400))
BANDWIDTHS = (80, 100, 140)


def buzz(seconds: float, hertz: float, generator) -> np.ndarray:
    """Make a word: each syllable is a noise and a vowel."""
    n_syllables = max(1, round(seconds / 0.2))
    size = round(seconds * SAMPLE_RATE / n_syllables)
    parts = []
    for _ in range(n_syllables):
        n_noise = size // 4
        noise = lfilter([1, -0.9], [1], generator.standard_normal(n_noise))
        glide = np.linspace(1.05, 0.95, size - n_noise)
        phase = np.cumsum(hertz * glide / SAMPLE_RATE)
        vowel = np.diff(np.floor(phase), prepend=0)
        for formant, width in zip(
            FORMANTS[generator.integers(len(FORMANTS))], BANDWIDTHS
        ):
            radius = np.exp(-np.pi * width / SAMPLE_RATE)
            angle = 2 * np.pi * formant / SAMPLE_RATE
            poles = [1, -2 * radius * np.cos(angle), radius**2]
            vowel = lfilter([1 - radius], poles, vowel)
        vowel *= 0.3 / max(np.abs(vowel).max(), 1e-9)
        parts += [0.03 * noise, vowel * np.hanning(len(vowel)) ** 0.3]
    return np.concatenate(parts)


def speak(
    text: str, hertz: float, tempo: float, generator
) -> tuple[np.ndarray, list[Word]]:
    """Make an utterance and the times of its words."""
    silence = np.zeros(round(MARGIN * SAMPLE_RATE))
    parts, words, start = [silence], [], len(silence)
    for word in split_words(text):
        letters = min(len(word.text), 9)
        sound = buzz((0.14 + 0.035 * letters) / tempo, hertz, generator)
        end = start + len(sound)
        words.append(
            Word(
                word.text,
                round(start / SAMPLE_RATE, 3),
                round(end / SAMPLE_RATE, 3),
            )
        )
        parts.append(sound)
        start = end
    wav = np.concatenate([*parts, silence])
    return wav + NOISE * generator.standard_normal(len(wav)), words


def label(words: list[Word], emotion: str, generator) -> UtteranceLabels:
    """Label words as label.py does: some carry the emotion, others none."""
    labels = []
    for word in words:
        share = round(float(generator.uniform(0.1, 0.9)), 3)
        probs = {name.lower(): 0.0 for name in EMOTIONS}
        probs[emotion] += share
        probs["neutral"] += round(1 - share, 3)
        labels.append(
            WordLabel(
                word.text,
                word.start,
                word.end,
                max(probs, key=probs.get),
                probs,
                intensity=share,
                confidence=0.5,
            )
        )
    return UtteranceLabels(labels, {"labeler": "benchmark"})


def write_corpus(
    folder: Path,
    alignments: Path,
    n_sentences: int,
    speakers: dict[str, int] = SPEAKERS,
) -> dict[str, UtteranceLabels]:
    """Write wavs, transcripts and TextGrids; return labels of the words."""
    labels = {}
    for speaker, hertz in speakers.items():
        generator = np.random.default_rng(int(speaker))
        language = "en" if int(speaker) > 10 else "zh"
        lines = []
        for block, (emotion, chinese) in enumerate(EMOTIONS.items()):
            place = folder / speaker / emotion
            place.mkdir(parents=True)
            pitch, tempo = STYLES[emotion]
            spelled = emotion if language == "en" else chinese
            for index, text in enumerate(SENTENCES[language][:n_sentences]):
                number = block * SENTENCES_OF_ESD + index + 1
                utterance = f"{speaker}_{number:06d}"
                wav, words = speak(text, hertz * pitch, tempo, generator)
                path = place / f"{utterance}.wav"
                soundfile.write(path, wav, SAMPLE_RATE, subtype="PCM_16")
                lines.append(f"{utterance}\t{text}\t{spelled}\n")
                write_alignment(
                    alignments / speaker / f"{utterance}.TextGrid",
                    words,
                    len(wav) / SAMPLE_RATE,
                )
                labels[utterance] = label(words, emotion.lower(), generator)
        transcript = folder / speaker / f"{speaker}.txt"
        transcript.write_text("".join(lines), encoding="utf-8")
    return labels


def write_reference(path: Path) -> None:
    """Write a recording of some seconds of another voice."""
    generator = np.random.default_rng(0)
    wav, _ = speak(" ".join(SENTENCES["en"][:2]), 150, 1.0, generator)
    soundfile.write(path, wav, SAMPLE_RATE, subtype="PCM_16")


def main() -> None:
    """Write all of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name in ("corpus", "alignments", "labels", "reference"):
        parser.add_argument(name, type=Path)
    parser.add_argument(
        "--sentences", type=int, default=4, help="of each speaker and emotion"
    )
    parser.add_argument(
        "--held_out", action="store_true", help="also write 0013 and 0014"
    )
    args = parser.parse_args()
    speakers = {**SPEAKERS, **(HELD_OUT_SPEAKERS if args.held_out else {})}
    labels = write_corpus(
        args.corpus, args.alignments, args.sentences, speakers
    )
    emotions = [emotion.lower() for emotion in EMOTIONS]
    args.labels.parent.mkdir(parents=True, exist_ok=True)
    write_word_labels(args.labels, labels, emotions)
    write_reference(args.reference)


if __name__ == "__main__":
    main()
