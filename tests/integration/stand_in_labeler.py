"""Stand-ins that hear how loud speech is, for tests of evaluate_segments.py."""

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import load_audio
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel

SAMPLE_RATE = 16000
LOUD = 0.2


class LoudnessLabeler:
    """Loud words are happy, others neutral."""

    emotions = ["neutral", "happy", "sad"]

    def __init__(self):
        self.calls = []

    def label_file(self, path, text, language, words, statistics=None):
        wav = load_audio(path, SAMPLE_RATE)
        self.calls.append((text, language, len(words), statistics))
        labels = []
        for word in words:
            piece = wav[
                round(word.start * SAMPLE_RATE) : round(word.end * SAMPLE_RATE)
            ]
            loud = float(piece.abs().mean()) > LOUD
            emotion = "happy" if loud else "neutral"
            labels.append(WordLabel(word.text, word.start, word.end, emotion))
        return UtteranceLabels(labels)

    def speaker_statistics(self, paths):
        return [path.name for path in paths]


class EvenAligner:
    """Every word takes as long as the others."""

    def align(self, wav, sample_rate, text, language="en"):
        words = text.split()
        if "unalignable" in words:
            raise ValueError("unalignable: leave it out.")
        step = len(wav) / sample_rate / len(words)
        return [
            Word(word, step * index, step * (index + 1))
            for index, word in enumerate(words)
        ]


class FourWords:
    """A recogniser that understands the same four words everywhere."""

    def transcribe(self, wavs, sample_rate):
        assert sample_rate == SAMPLE_RATE
        return ["one two three four"] * len(wavs)


class Deaf:
    """A recogniser that understands nothing."""

    def transcribe(self, wavs, sample_rate):
        return [""] * len(wavs)
