"""Fusions that act inside the language model, at the text of each word.

A fusion of :mod:`~speechbrain_emofilm.lobes.efilm` changes what the frozen
language model reads. Those here change what it makes of it: the hidden states
of a word's text positions, where they enter certain layers. Speech positions
are never modulated, so the emotion reaches the speech through attention, and
generating a token costs nothing more.

Either maps text embeddings (B, T, C) and emotions (B, T, E) to
:class:`~speechbrain_emofilm.lobes.cosyvoice2.modulation.ModulatedEmbeddings`,
which ``CosyVoice2LM`` takes in place of embeddings. The states of words
without emotion are untouched to the bit, and so are texts without any.
"""

from collections.abc import Sequence

from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    Embeddings,
    ModulatedEmbeddings,
    Modulation,
)
from speechbrain_emofilm.lobes.efilm import FiLM

import torch
from torch import nn


class DeepFiLM(nn.Module):
    """FiLM of the hidden states that enter several layers.

    Each depth has its own gamma = 1 + W_gamma e and beta = rms(h) * W_beta e,
    optionally with soft bounds, see :class:`FiLM`. All start as the identity,
    since e starts at 0.

    Arguments
    ---------
    emotion_dim : int
        Size E of an emotion vector.
    text_dim : int
        Size C of a hidden state.
    depths : Sequence[float]
        Depths from 0 (the text embeddings) to below 1: k / n means the states
        that enter layer k of n, counted from 0.
    bound : Optional[float]
        Bound of ``|gamma - 1|`` and ``|beta| / rms(h)``; none if None.
    text_scale : float
        Not used: the unit of beta is each state's own root mean square.

    Raises
    ------
    ValueError
        If a depth is not from 0 to below 1 or comes twice, or the bound is
        not above 0.

    Example
    -------
    >>> fusion = DeepFiLM(emotion_dim=8, text_dim=16, depths=[0, 0.5])
    >>> text = fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 8))
    >>> text.shape, sorted(text.by_layer(4))
    (torch.Size([2, 5, 16]), [0, 2])
    """

    def __init__(
        self,
        emotion_dim: int,
        text_dim: int,
        depths: Sequence[float] = (0, 0.25, 0.5, 0.75),
        bound: float | None = None,
        text_scale: float = 1.0,
    ):
        super().__init__()
        self.depths = _check_depths(depths, "DeepFiLM")
        self.films = nn.ModuleList(
            FiLM(emotion_dim, text_dim, bound) for _ in self.depths
        )

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> Embeddings:
        """Modulate the states of a text (B, T, C) by emotions (B, T, E)."""
        if _nothing_to_do(emotion):
            return text_embeddings
        return ModulatedEmbeddings(
            text_embeddings,
            {
                depth: Modulation(*film.scale_and_shift(emotion))
                for depth, film in zip(self.depths, self.films)
            },
        )


class EmotionVectors(nn.Module):
    """Look up a vector for each emotion, as long as the emotion is intense.

    The encoder of :class:`SteeringFusion`: e = gain * alpha * sum_k p_k v_k,
    with the intensity alpha and the distribution p over the emotions. Vectors
    start at zero and learn from the first step, as e is linear in them.

    An emotion of intensity 0, which neutral always has, equals no label. An
    offset tells them apart: a second vector u_k, whatever the intensity,
    e = gain * sum_k p_k (alpha v_k + u_k).

    Arguments
    ---------
    n_emotions : int
        Number K of emotions in the taxonomy.
    dim : int
        Size C of a vector.
    gain : float
        Unit of the vectors. Adam moves each element by about the learning
        rate in a step, so a larger gain learns faster.
    offset : bool
        Whether each emotion also has a vector that does not depend on the
        intensity.

    Example
    -------
    >>> encoder = EmotionVectors(n_emotions=2, dim=1)
    >>> torch.nn.init.constant_(encoder.vectors, 4.0)
    Parameter containing:
    tensor([[4.],
            [4.]], requires_grad=True)
    >>> encoder(torch.eye(2)[None], torch.tensor([[0.5, 0.0]])).tolist()
    [[[2.0], [0.0]]]
    """

    def __init__(
        self,
        n_emotions: int,
        dim: int,
        gain: float = 1.0,
        offset: bool = False,
    ):
        super().__init__()
        self.n_emotions = n_emotions
        self.gain = gain
        self.vectors = nn.Parameter(torch.zeros(n_emotions, dim))
        self.offsets = None
        if offset:
            self.offsets = nn.Parameter(torch.zeros(n_emotions, dim))

    def forward(
        self, word_emotions: torch.Tensor, word_intensity: torch.Tensor
    ) -> torch.Tensor:
        """Encode words as vectors (B, W, C); arguments as in ``EFiLM``."""
        weights = word_emotions * word_intensity.unsqueeze(-1)
        vectors = weights @ self.vectors
        if self.offsets is not None:
            vectors = vectors + word_emotions @ self.offsets
        return self.gain * vectors


class SteeringFusion(nn.Module):
    """Add a vector per emotion to the hidden states that enter one layer.

    h' = h + rms(h) * e, where e is the vector of the word's emotion and
    intensity, see :class:`EmotionVectors`, which takes the place of the
    emotion encoder. That is activation steering, as EmoShift steers whole
    utterances, word by word.

    Arguments
    ---------
    emotion_dim : int
        Not used: a vector has the size of a hidden state.
    text_dim : int
        Size C of a hidden state.
    depth : float
        Depth from 0 (the text embeddings) to below 1: k / n means the states
        that enter layer k of n, counted from 0.
    gain, offset
        Unit of the vectors, and whether a part of them does not depend on the
        intensity, see :class:`EmotionVectors`.
    text_scale : float
        Not used: the state's own root mean square is the unit.

    Raises
    ------
    ValueError
        If the depth is not from 0 to below 1.

    Example
    -------
    >>> fusion = SteeringFusion(emotion_dim=8, text_dim=16)
    >>> text = fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 16))
    >>> text.shape, list(text.by_layer(4))
    (torch.Size([2, 5, 16]), [1])
    """

    def __init__(
        self,
        emotion_dim: int,
        text_dim: int,
        depth: float = 0.25,
        gain: float = 10.0,
        offset: bool = False,
        text_scale: float = 1.0,
    ):
        super().__init__()
        (self.depth,) = _check_depths([depth], "SteeringFusion")
        self.text_dim, self.gain, self.offset = text_dim, gain, offset

    def make_encoder(self, encoder: nn.Module) -> EmotionVectors:
        """Make the encoder that ``EFiLM`` uses instead of the given one.

        Raises
        ------
        ValueError
            If the given one has axes of prosody, which have no vectors.
        """
        axes = getattr(encoder, "axes", ())
        if axes:
            raise ValueError(
                f"SteeringFusion has no vectors for the axes {', '.join(axes)}"
                ": set axes to [], or take another fusion."
            )
        return EmotionVectors(
            encoder.n_emotions, self.text_dim, self.gain, self.offset
        )

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> Embeddings:
        """Modulate the states of a text (B, T, C) by vectors (B, T, C)."""
        if _nothing_to_do(emotion):
            return text_embeddings
        return ModulatedEmbeddings(
            text_embeddings, {self.depth: Modulation(None, emotion)}
        )


def _nothing_to_do(emotion: torch.Tensor) -> bool:
    """Tell whether a text without emotions can be read without modulation.

    Not in training, where each process needs a gradient of each parameter.
    """
    return not torch.is_grad_enabled() and not emotion.any()


def _check_depths(depths: Sequence[float], name: str) -> tuple[float, ...]:
    """Refuse depths that no layer has."""
    depths = tuple(depths)
    if not all(0 <= depth < 1 for depth in depths):
        raise ValueError(
            f"{name}: a depth of {', '.join(map(str, depths))} is not from 0 "
            "to below 1; give k / n for the states that enter layer k of n."
        )
    if len(set(depths)) < len(depths) or not depths:
        raise ValueError(
            f"{name}: depths are [{', '.join(map(str, depths))}]; give one or "
            "more, each once."
        )
    return depths
