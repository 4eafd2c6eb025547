"""Voices that follow the emotions of the words within an utterance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from speechbrain_emofilm.dataio.alignments import Word

import torch

#: Mel frames (of 20 ms) over which one voice is faded into the next.
FADE_FRAMES = 6


class Span(NamedTuple):
    """Part of an utterance that one voice speaks, up to the next span.

    Arguments
    ---------
    voice : int
        Index of the voice.
    start : int
        First mel frame.
    """

    voice: int
    start: int


def word_voices(
    emotions: torch.Tensor,
    intensity: torch.Tensor,
    names: Sequence[str],
    voices: Mapping[str, str],
) -> list[str]:
    """Choose the voice of each word by its emotion.

    A mixture has the voice of its strongest emotion.

    Arguments
    ---------
    emotions : torch.Tensor
        Weights of the emotions of each word (W, K); zeros for an unlabelled
        word.
    intensity : torch.Tensor
        Intensity of each word (W,); a word of intensity 0 counts as
        unlabelled.
    names : list of str
        Names of the K emotions.
    voices : dict
        Emotion to the name of its voice. ``neutral`` is needed: it is the
        voice of unlabelled words and of emotions without a voice.

    Returns
    -------
    list of str
        Name of the voice of each word.

    Example
    -------
    >>> word_voices(
    ...     torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.1, 0.3, 0.6]]),
    ...     torch.tensor([0.8, 0.0, 1.0]),
    ...     ["neutral", "happy", "sad"],
    ...     {"neutral": "0011/neutral", "happy": "0011/happy"},
    ... )
    ['0011/happy', '0011/neutral', '0011/neutral']
    """
    labelled = emotions.any(1) & (intensity > 0)
    strongest = emotions.argmax(1).tolist()
    return [
        voices.get(names[index] if known else "neutral", voices["neutral"])
        for index, known in zip(strongest, labelled.tolist())
    ]


def voice_spans(
    words: Sequence[Word],
    voices: Sequence[int],
    duration: float,
    n_frames: int,
) -> list[Span]:
    """Find the frames at which the voice changes.

    It changes in the middle of the pause between two words.

    Arguments
    ---------
    words : list of Word
        Words with their times.
    voices : list of int
        Index of the voice of each word.
    duration : float
        Duration of the utterance, in seconds.
    n_frames : int
        Number of its mel frames.

    Returns
    -------
    list of Span
        Spans in order; the first starts at frame 0.

    Example
    -------
    >>> words = [
    ...     Word("We", 0.1, 0.3, 0.0),
    ...     Word("won", 0.3, 0.5, 0.0),
    ...     Word("today", 0.7, 1.0, 0.0),
    ... ]
    >>> voice_spans(words, [1, 1, 0], duration=1.0, n_frames=50)
    [Span(voice=1, start=0), Span(voice=0, start=30)]
    """
    spans = [Span(voices[0], 0)]
    for last, word, voice in zip(words, words[1:], voices[1:]):
        if voice != spans[-1].voice:
            middle = (last.end + word.start) / 2
            frame = round(middle / duration * n_frames)
            # An aligner's times may lie beyond the end, or overlap.
            frame = min(max(frame, spans[-1].start), n_frames)
            spans.append(Span(voice, frame))
    return spans


def blend_mels(
    mels: torch.Tensor, spans: Sequence[Span], fade_frames: int = FADE_FRAMES
) -> torch.Tensor:
    """Join the spans of several voices that speak the same utterance.

    Arguments
    ---------
    mels : torch.Tensor
        Log-mel spectrogram of the whole utterance in each voice, (V, N, mels).
    spans : list of Span
        Spans in order; the first starts at frame 0.
    fade_frames : int
        Number of frames around each change over which the voices are faded
        linearly; 0 changes the voice at once.

    Returns
    -------
    torch.Tensor
        Log-mel spectrogram (N, mels). Outside of the fades, it equals that of
        the span's voice.

    Example
    -------
    >>> mels = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 8, 80)
    >>> blended = blend_mels(mels, [Span(0, 0), Span(1, 4)], fade_frames=4)
    >>> blended[:, 0].tolist()
    [0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0]
    """
    n_voices, n_frames, _ = mels.shape
    centers = torch.arange(n_frames, device=mels.device) + 0.5
    # Share of all spans from each on; a span ends as the next one begins.
    begun = [torch.ones_like(centers)]
    for span in spans[1:]:
        begun.append(((centers - span.start) / fade_frames + 0.5).clamp(0, 1))
    begun.append(torch.zeros_like(centers))
    weights = torch.zeros(n_voices, n_frames, device=mels.device)
    for span, own, following in zip(spans, begun, begun[1:]):
        weights[span.voice] += own - following
    return (weights[..., None] * mels).sum(0)
