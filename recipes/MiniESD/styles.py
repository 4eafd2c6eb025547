"""Rule-based prosodic styles of the MiniESD corpora; not acted emotion."""

import random

from speechbrain_emofilm.integrations.hibari import Cues

from voice import PseudoSpeaker, WordProsody

EMOTIONS = ("neutral", "angry", "happy", "sad", "surprise")

#: Style of each emotion at intensity 1, which scales every field: pitch, slope,
#: duration, gain, breath, tilt.
EMOTION_PROSODY: dict[str, WordProsody] = {
    "neutral": WordProsody(),
    "angry": WordProsody(0.05, -0.25, -0.10, 7.0, -0.3, 5.0),
    "happy": WordProsody(0.34, 0.05, -0.05, 3.0, 0.0, 2.0),
    "sad": WordProsody(-0.26, -0.10, 0.46, -7.0, 0.4, -5.0),
    "surprise": WordProsody(0.24, 0.60, 0.30, 1.0, 0.1, 0.0),
}

#: The same emotions as another actor speaks them, for cross-corpus tests: hot
#: anger, lively happiness, breathy sadness, high surprise.
SECOND_EMOTION_PROSODY: dict[str, WordProsody] = {
    "neutral": WordProsody(),
    "angry": WordProsody(0.18, -0.10, -0.12, 5.5, -0.2, 6.0),
    "happy": WordProsody(0.26, 0.15, -0.10, 2.0, 0.0, 1.0),
    "sad": WordProsody(-0.18, -0.18, 0.32, -5.0, 0.6, -4.0),
    "surprise": WordProsody(0.36, 0.42, 0.14, 2.0, 0.2, 0.0),
}
ACTORS = {"first": EMOTION_PROSODY, "second": SECOND_EMOTION_PROSODY}

SPEAKERS: dict[str, PseudoSpeaker] = {
    "0011": PseudoSpeaker(),
    "0012": PseudoSpeaker(warp=0.88, pitch=0.80, pace=0.97),
    "0013": PseudoSpeaker(warp=1.10, pitch=1.02, pace=1.04),
    "0014": PseudoSpeaker(warp=0.94, pitch=0.92, pace=1.0),
}

#: Range of free prosody (pretraining corpus) along each axis. It covers the
#: style of every emotion.
FREE_RANGE = {
    "pitch": (-0.36, 0.44),
    "slope": (-0.45, 0.65),
    "duration": (-0.45, 0.50),
    "gain": (-8.5, 8.0),
}
#: Axis that each written cue describes.
CUE_AXIS = {
    "loudness": "gain",
    "pitch": "pitch",
    "tempo": "duration",
    "contour": "slope",
}
#: A cue is written where the change exceeds this share of the axis's range.
CUE_THRESHOLD = 0.35
_INSTRUCTION = {
    ("gain", 1): "loud",
    ("gain", -1): "soft",
    ("pitch", 1): "high",
    ("pitch", -1): "low",
    ("duration", 1): "slow",
    ("duration", -1): "fast",
    ("slope", 1): "rising",
    ("slope", -1): "falling",
}


def emotion_prosody(
    emotion: str, intensity: float, actor: str = "first"
) -> WordProsody:
    """Return an actor's prosody for an emotion of an intensity from 0 to 1."""
    return ACTORS[actor][emotion].scaled(intensity)


def asked_change(prosody: WordProsody) -> dict[str, float]:
    """Return the measurable changes: mean log F0, dB and log duration."""
    return {
        "f0": round(prosody.pitch, 4),
        "energy": round(prosody.gain, 3),
        "duration": round(prosody.duration, 4),
    }


def draw_sentence_words(
    rng: random.Random, emotion: str, n_words: int, neutral_share: float = 0.2
) -> list[tuple[str, float]]:
    """Draw (emotion, intensity) of each word of a sentence of one emotion.

    As in real speech, words carry the emotion to different degrees and a share
    of them is neutral; at least one word carries the emotion.

    Example
    -------
    >>> words = draw_sentence_words(random.Random(0), "sad", 5)
    >>> any(emotion == "sad" for emotion, _ in words)
    True
    """
    if emotion == "neutral":
        return [("neutral", 0.0)] * n_words
    carries = [rng.random() >= neutral_share for _ in range(n_words)]
    carries[rng.randrange(n_words)] = True
    return [
        (emotion, round(rng.uniform(0.5, 1.0), 2))
        if carry
        else ("neutral", 0.0)
        for carry in carries
    ]


def draw_transition_words(
    rng: random.Random, n_words: int
) -> list[tuple[str, float]]:
    """Draw (emotion, intensity) of each word where the emotion switches.

    There is one switch, or two in a quarter of the sentences with at least
    seven words; each part has at least two words if the sentence allows.

    Example
    -------
    >>> words = draw_transition_words(random.Random(0), 6)
    >>> len({emotion for emotion, _ in words})
    2
    """
    n_parts = 3 if n_words >= 7 and rng.random() < 0.25 else 2
    emotions = rng.sample(EMOTIONS, n_parts)
    margin = 2 if n_words >= 2 * n_parts else 1
    while True:
        cuts = sorted(rng.sample(range(1, n_words), n_parts - 1))
        edges = [0, *cuts, n_words]
        if min(b - a for a, b in zip(edges, edges[1:])) >= margin:
            break
    out = []
    for emotion, first, last in zip(emotions, edges, edges[1:]):
        level = rng.uniform(0.65, 1.0)
        for _ in range(first, last):
            intensity = min(1.0, max(0.5, level + rng.uniform(-0.1, 0.1)))
            out.append(
                (emotion, 0.0 if emotion == "neutral" else round(intensity, 2))
            )
    return out


def draw_free_prosody(rng: random.Random, strength: float = 1.0) -> WordProsody:
    """Draw each axis independently, scaled by `strength`.

    As in human voices, loud speech is slightly brighter and soft speech
    breathier; otherwise, tilt and breath are free.
    """
    values = {}
    for axis, (low, high) in FREE_RANGE.items():
        values[axis] = 0.0 if rng.random() < 0.35 else rng.uniform(low, high)
    loud = values["gain"] / 7.0
    prosody = WordProsody(
        breath=max(0.0, -0.7 * loud) + rng.uniform(-0.2, 0.2),
        tilt=6.0 * loud + rng.uniform(-1.5, 1.5),
        **values,
    )
    return prosody.scaled(strength)


def levels(prosody: WordProsody) -> dict[str, int]:
    """Quantise each axis of :data:`FREE_RANGE` to -1, 0 or 1."""
    out = {}
    for axis, (low, high) in FREE_RANGE.items():
        share = getattr(prosody, axis)
        share = share / high if share > 0 else -share / low
        out[axis] = (share > CUE_THRESHOLD) - (share < -CUE_THRESHOLD)
    return out


def cues_of(prosody: WordProsody) -> Cues:
    """Return the cues by which a text would express the prosody."""
    level = levels(prosody)
    return Cues(**{cue: level[axis] for cue, axis in CUE_AXIS.items()})


def instruction_of(prosody: WordProsody) -> str:
    """Return the instruction that would ask for the prosody."""
    level = levels(prosody)
    words = [_INSTRUCTION[axis, sign] for axis, sign in level.items() if sign]
    return " ".join(words or ["plain"]) + "<|endofprompt|>"
