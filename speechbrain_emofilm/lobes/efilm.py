"""E-FiLM: text embeddings modulated by the style of each word.

An encoder maps the emotion of a word (a class or a mixture of classes, with a
continuous intensity), and its pitch, pace and level if the model has such
axes, to a vector e, every text token of the word gets that
vector, and a fusion modulates the token's embedding h. In the paper
(https://arxiv.org/abs/2509.20378, E-FiLM) the fusion is feature-wise linear
modulation, h' = gamma(e) * h + beta(e), in front of a frozen language model.

The implementation avoids three known failures of this design:

1. A classifier that reads the emotion from h' (the paper's emotion loss, as
   the authors released it) is a shortcut: FiLM writes the label, the
   classifier reads it back, and the speech does not change. By default
   ``WordEmotionLoss`` reads the language model's states at the speech tokens
   of each word instead.
2. If gamma - 1 and beta have zero weights at the start, the encoder has zero
   gradient. Here the encoder's last layer starts at zero and the fusion's
   weights at random (the asymmetry of LoRA): e = 0, so h' = h at the start,
   yet the encoder learns from the first step, and the fusion from the second.
3. Emotion embeddings drawn from N(0, 1) mask the text. Here the modulation
   grows from zero, can be bounded, has the text's scale as its unit, and
   ``EFiLM`` reports its size relative to the text.

A fusion maps text embeddings (B, T, C) and emotions (B, T, E) to (B, T, C).
All fusions are bias-free in e: a token of a word without emotion and asked
prosody, e = 0, keeps its embedding exactly, however long the fusion is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    Embeddings,
    ModulatedEmbeddings,
)
from speechbrain_emofilm.processing.pooling import spread
from speechbrain_emofilm.processing.prosody_axes import AXES, check_axes

import torch
import torch.nn.functional as F
from torch import nn

POSITIONS = ("speech", "input")


@dataclass
class EFiLMOutput:
    """Result of ``EFiLM``.

    Arguments
    ---------
    text_embeddings : torch.Tensor | ModulatedEmbeddings
        Modulated text embeddings h', shape (B, T, C), or embeddings that are
        modulated inside the language model.
    modulation_ratio : torch.Tensor
        Mean of ||h' - h|| / ||h|| over the tokens of words with an emotion or
        asked prosody, without gradient, 0-d; 0 where there is no such word.
        For modulations inside the language model, h is the text embedding
        once for each of them, side by side, in place of the states, which it
        would have to compute.
    """

    text_embeddings: Embeddings
    modulation_ratio: torch.Tensor


@dataclass
class WordEmotionLossOutput:
    """Result of ``WordEmotionLoss``.

    Arguments
    ---------
    loss : torch.Tensor
        Mean cross-entropy over the labelled positions, 0-d; 0 where nothing
        is labelled.
    accuracy : torch.Tensor
        Share of these positions whose most likely emotion is found, 0-d.
    n_labelled : torch.Tensor
        Number of labelled positions, 0-d.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    n_labelled: torch.Tensor


def is_labelled(word_emotions: torch.Tensor) -> torch.Tensor:
    """Tell which words have an emotion, bool (...).

    Arguments
    ---------
    word_emotions : torch.Tensor
        Distributions over K emotions, all zeros for unlabelled words, shape
        (..., K).

    Example
    -------
    >>> is_labelled(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([ True, False])
    """
    return word_emotions.sum(-1) > 0


class EmotionEncoder(nn.Module):
    """Map the emotion and the intensity of a word to a vector.

    A two-layer perceptron reads the class distribution p and, besides, p
    scaled by the intensity, because an emotion of intensity 0 differs from no
    label. The last layer starts at zero (points 2 and 3 of the module's
    documentation). Unlabelled words are mapped to exactly 0.

    Arguments
    ---------
    n_emotions : int
        Number K of emotions in the taxonomy.
    dim : int
        Size E of the vector.
    hidden : int
        Size of the hidden layer.

    Example
    -------
    >>> encoder = EmotionEncoder(n_emotions=5, dim=8)
    >>> word_emotions = torch.eye(5)[torch.tensor([[1, 4, 0]])]
    >>> encoder(word_emotions, torch.tensor([[1.0, 0.3, 0.0]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, n_emotions: int, dim: int = 64, hidden: int = 64):
        super().__init__()
        self.n_emotions = n_emotions
        self.input_layer = nn.Linear(2 * n_emotions, hidden)
        self.output_layer = nn.Linear(hidden, dim)
        nn.init.zeros_(self.output_layer.weight)
        nn.init.zeros_(self.output_layer.bias)

    def forward(
        self, word_emotions: torch.Tensor, word_intensity: torch.Tensor
    ) -> torch.Tensor:
        """Encode words as vectors (B, W, E); arguments as in ``EFiLM``."""
        hidden = self._hidden(word_emotions, word_intensity)
        return self._encode(hidden, is_labelled(word_emotions))

    def _hidden(
        self, word_emotions: torch.Tensor, word_intensity: torch.Tensor
    ) -> torch.Tensor:
        """Read emotions and intensities into the hidden layer (B, W, H)."""
        scaled = word_emotions * word_intensity.unsqueeze(-1)
        return self.input_layer(torch.cat([word_emotions, scaled], -1))

    def _encode(
        self, hidden: torch.Tensor, has_style: torch.Tensor
    ) -> torch.Tensor:
        """Turn hidden layers into vectors, 0 where ``has_style`` is False."""
        style = self.output_layer(F.gelu(hidden))
        return style.masked_fill(~has_style.unsqueeze(-1), 0.0)


class WordStyleEncoder(EmotionEncoder):
    """Map the emotion, its intensity and the prosody of a word to a vector.

    Each axis of prosody is read as its value in units of the axis's ``scale``
    and a mask bit that tells whether it is asked for. They enter the hidden
    layer of the ``EmotionEncoder``, whose result is unchanged for words
    without any. For training, :meth:`drop` drops the axes of random words, so
    that each can be asked for alone, with others, or not at all; and the
    emotion of random utterances whose axes are known, so that the axes say
    alone how a word sounds. A word without emotion and axes is mapped to
    exactly 0.

    Parameters of an ``EmotionEncoder`` can be loaded; the axes then begin
    without effect.

    Arguments
    ---------
    n_emotions : int
        Number K of emotions in the taxonomy.
    dim : int
        Size E of the vector.
    hidden : int
        Size of the hidden layer.
    axes : list of str
        Names of the A axes, some of
        :data:`~speechbrain_emofilm.processing.prosody_axes.AXES`. Without
        any, it is an ``EmotionEncoder``, random numbers included.
    axis_dropout : float
        Share of the words for which each axis is dropped, independently of
        the others.
    all_axes_dropout : float
        Share of the utterances without any axis: emotions alone.
    emotion_dropout : float
        Share of the utterances whose emotions are dropped where a word keeps
        an axis: prosody alone.
    intensity_dropout : float
        Share of the utterances in which words that keep an axis are given the
        intensity 1, so that the axes tell how strongly.

    Raises
    ------
    ValueError
        If an axis is unknown, or a share is not within 0 to 1.

    Example
    -------
    >>> encoder = WordStyleEncoder(5, dim=8, axes=["pitch", "pace"])
    >>> emotions = torch.eye(5)[torch.tensor([[1, 4]])]
    >>> nothing = torch.full((1, 2, 2), torch.nan)
    >>> encoder(emotions, torch.ones(1, 2), nothing).shape
    torch.Size([1, 2, 8])
    """

    def __init__(
        self,
        n_emotions: int,
        dim: int = 64,
        hidden: int = 64,
        axes: Sequence[str] = (),
        axis_dropout: float = 0.3,
        all_axes_dropout: float = 0.2,
        emotion_dropout: float = 0.2,
        intensity_dropout: float = 0.5,
    ):
        super().__init__(n_emotions, dim, hidden)
        self.axes = check_axes(axes)
        self.shares = {
            "axis_dropout": axis_dropout,
            "all_axes_dropout": all_axes_dropout,
            "emotion_dropout": emotion_dropout,
            "intensity_dropout": intensity_dropout,
        }
        for name, share in self.shares.items():
            if not 0 <= share <= 1:
                raise ValueError(
                    f"WordStyleEncoder: {name} is {share}; give a share from 0 "
                    "to 1."
                )
        if self.axes:
            self.axis_layer = nn.Linear(2 * len(axes), hidden, bias=False)
            scale = torch.tensor([AXES[name].scale for name in self.axes])
            self.register_buffer("axis_scale", scale, persistent=False)

    def forward(
        self,
        word_emotions: torch.Tensor,
        word_intensity: torch.Tensor,
        word_axes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Encode words as vectors (B, W, E); arguments as in ``EFiLM``."""
        if not self.axes or word_axes is None:
            return super().forward(word_emotions, word_intensity)
        asked = ~word_axes.isnan()
        values = torch.nan_to_num(word_axes) / self.axis_scale
        prosody = torch.cat([values, asked.to(values)], -1)
        hidden = self._hidden(word_emotions, word_intensity)
        hidden = hidden + self.axis_layer(prosody.to(hidden))
        return self._encode(hidden, is_labelled(word_emotions) | asked.any(-1))

    def drop(
        self,
        word_emotions: torch.Tensor,
        word_intensity: torch.Tensor,
        word_axes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Drop axes, emotions and intensities of training utterances.

        The emotion loss is to see what is left of the emotions too: else its
        classifier would have to guess an emotion from the axes.

        Arguments
        ---------
        word_emotions, word_intensity, word_axes
            As in ``EFiLM``.

        Returns
        -------
        tuple of torch.Tensor
            The same three, with random ones dropped.
        """

        def drawn(name: str, *shape: int) -> torch.Tensor:
            coins = torch.rand(shape, device=word_axes.device)
            return coins < self.shares[name]

        if not self.axes:
            return word_emotions, word_intensity, word_axes
        n = len(word_axes)
        dropped = drawn("axis_dropout", *word_axes.shape)
        dropped = dropped | drawn("all_axes_dropout", n, 1, 1)
        word_axes = word_axes.masked_fill(dropped, torch.nan)
        kept = ~word_axes.isnan().all(-1)
        without = kept & drawn("emotion_dropout", n, 1)
        full = kept & drawn("intensity_dropout", n, 1) & (word_intensity > 0)
        return (
            word_emotions.masked_fill(without.unsqueeze(-1), 0.0),
            word_intensity.masked_fill(full, 1.0),
            word_axes,
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Load parameters; those of an ``EmotionEncoder`` lack the axes."""
        key = f"{prefix}axis_layer.weight"
        if (
            self.axes
            and key not in state_dict
            and f"{prefix}input_layer.weight" in state_dict
        ):
            state_dict[key] = torch.zeros_like(self.axis_layer.weight)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FiLM(nn.Module):
    """Feature-wise linear modulation, h' = gamma(e) * h + beta(e).

    gamma = 1 + W_gamma e and beta = text_scale * W_beta e (the paper's
    modulation; Perez et al., FiLM, 2018), optionally with soft bounds.

    Arguments
    ---------
    emotion_dim : int
        Size E of an emotion vector.
    text_dim : int
        Size C of a text embedding.
    bound : Optional[float]
        Bound b of ``|gamma - 1|`` and ``|beta| / text_scale``, imposed by
        b tanh(x / b); none if None.
    text_scale : float
        Unit of beta: the root mean square of the text embeddings' elements
        (about 0.03 in CosyVoice2).

    Raises
    ------
    ValueError
        If the bound is not above 0.

    Example
    -------
    >>> film = FiLM(emotion_dim=8, text_dim=16, bound=0.5)
    >>> text = torch.randn(2, 5, 16)
    >>> film(text, torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 16])
    >>> torch.equal(film(text, torch.zeros(2, 5, 8)), text)
    True
    """

    def __init__(
        self,
        emotion_dim: int,
        text_dim: int,
        bound: float | None = None,
        text_scale: float = 1.0,
    ):
        super().__init__()
        if bound is not None and bound <= 0:
            raise ValueError(
                f"FiLM: bound is {bound}; give a number above 0, or null for "
                "no bound."
            )
        self.bound = bound
        self.text_scale = text_scale
        self.gamma = nn.Linear(emotion_dim, text_dim, bias=False)
        self.beta = nn.Linear(emotion_dim, text_dim, bias=False)

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> torch.Tensor:
        """Modulate text embeddings (B, T, C) by emotions (B, T, E)."""
        scale, shift = self.scale_and_shift(emotion)
        return (1 + scale) * text_embeddings + shift

    def scale_and_shift(
        self, emotion: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute gamma - 1 and beta, two (B, T, C), of emotions (B, T, E)."""
        scale = self._bounded(self.gamma(emotion))
        return scale, self.text_scale * self._bounded(self.beta(emotion))

    def _bounded(self, x: torch.Tensor) -> torch.Tensor:
        if self.bound is None:
            return x
        return self.bound * torch.tanh(x / self.bound)


class AdditiveFusion(nn.Module):
    """Add the projected emotion, h' = h + text_scale * W e.

    The paper's baseline "addition": every token of a word moves in the same
    direction, whatever it says.

    Arguments
    ---------
    emotion_dim, text_dim, text_scale
        As in ``FiLM``; ``text_scale`` is the unit of the added vector.

    Example
    -------
    >>> fusion = AdditiveFusion(emotion_dim=8, text_dim=16)
    >>> fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self, emotion_dim: int, text_dim: int, text_scale: float = 1.0
    ):
        super().__init__()
        self.text_scale = text_scale
        self.shift = nn.Linear(emotion_dim, text_dim, bias=False)

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> torch.Tensor:
        """Add projected emotions (B, T, E) to text embeddings (B, T, C)."""
        return text_embeddings + self.text_scale * self.shift(emotion)


class ConcatenationFusion(nn.Module):
    """Perceptron on the concatenation of text embedding and emotion.

    h' = h + text_scale * (g(h, e) - g(h, 0)), where g has one hidden layer
    that reads [h / text_scale, e]; a single linear layer would be equivalent
    to ``AdditiveFusion``. Subtracting the perceptron's output without emotion
    makes the fusion the identity for e = 0.

    Arguments
    ---------
    emotion_dim, text_dim, text_scale
        As in ``FiLM``.
    hidden : int
        Size of the hidden layer.

    Example
    -------
    >>> fusion = ConcatenationFusion(emotion_dim=8, text_dim=16)
    >>> fusion(torch.randn(2, 5, 16), torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        emotion_dim: int,
        text_dim: int,
        hidden: int = 128,
        text_scale: float = 1.0,
    ):
        super().__init__()
        self.text_scale = text_scale
        # The matrix on [h, e] as two parts, so that e = 0 adds exactly 0.
        self.text_layer = nn.Linear(text_dim, hidden)
        self.emotion_layer = nn.Linear(emotion_dim, hidden, bias=False)
        self.output_layer = nn.Linear(hidden, text_dim, bias=False)

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> torch.Tensor:
        """Modulate text embeddings (B, T, C) by emotions (B, T, E)."""
        text = self.text_layer(text_embeddings / self.text_scale)
        change = F.gelu(text + self.emotion_layer(emotion)) - F.gelu(text)
        return text_embeddings + self.text_scale * self.output_layer(change)


class NoFusion(nn.Module):
    """Identity on the text embeddings: the ablation without emotion.

    Arguments
    ---------
    *args, **kwargs
        Ignored, so that it can replace any other fusion.

    Example
    -------
    >>> fusion = NoFusion(emotion_dim=8, text_dim=16)
    >>> text = torch.randn(2, 5, 16)
    >>> torch.equal(fusion(text, torch.randn(2, 5, 8)), text)
    True
    """

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(
        self, text_embeddings: torch.Tensor, emotion: torch.Tensor
    ) -> torch.Tensor:
        """Return the text embeddings (B, T, C)."""
        # The encoder stays in the graph, with zero gradients: otherwise
        # DistributedDataParallel would wait for its unused parameters.
        return text_embeddings + 0.0 * emotion.sum(-1, keepdim=True)


class EFiLM(nn.Module):
    """Modulate the text tokens of each word by the word's style.

    Arguments
    ---------
    encoder : nn.Module
        Maps word emotions (B, W, K) and intensities (B, W), and asked prosody
        (B, W, A) if there is any, to (B, W, E), 0 for unlabelled words; see
        ``WordStyleEncoder``.
    fusion : nn.Module
        Maps text embeddings (B, T, C) and emotions (B, T, E) to (B, T, C);
        see ``FiLM``, and :mod:`~speechbrain_emofilm.lobes.deep_fusion` for
        those that act inside the language model. One with a method
        ``make_encoder(encoder)`` gets another encoder in place of this one.

    Example
    -------
    >>> efilm = EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16))
    >>> text = torch.randn(1, 4, 16)
    >>> word_of_token = torch.tensor([[0, 0, -1, 1]])
    >>> word_emotions = torch.eye(5)[torch.tensor([[1, 4]])]
    >>> word_intensity = torch.tensor([[1.0, 0.3]])
    >>> out = efilm(text, word_of_token, word_emotions, word_intensity)
    >>> torch.equal(out.text_embeddings, text), float(out.modulation_ratio)
    (True, 0.0)
    """

    def __init__(self, encoder: nn.Module, fusion: nn.Module):
        super().__init__()
        if hasattr(fusion, "make_encoder"):
            encoder = fusion.make_encoder(encoder)
        self.encoder = encoder
        self.fusion = fusion

    def forward(
        self,
        text_embeddings: torch.Tensor,
        word_of_token: torch.Tensor,
        word_emotions: torch.Tensor,
        word_intensity: torch.Tensor,
        word_axes: torch.Tensor | None = None,
    ) -> EFiLMOutput:
        """Modulate text embeddings.

        Arguments
        ---------
        text_embeddings : torch.Tensor
            Shape (B, T, C).
        word_of_token : torch.Tensor
            Index of each token's word, -1 for none (and in padding), long,
            shape (B, T).
        word_emotions : torch.Tensor
            Distributions over the emotions, all zeros for unlabelled words,
            shape (B, W, K).
        word_intensity : torch.Tensor
            Intensity of each word's emotion, 0 to 1, shape (B, W).
        word_axes : torch.Tensor, optional
            Asked prosody of each word, NaN where nothing is asked, shape
            (B, W, A), see
            :func:`~speechbrain_emofilm.processing.prosody_axes.axes_tensor`.
        """
        labelled = is_labelled(word_emotions)
        if word_axes is None:  # an encoder of the user's own need not know it
            emotion = self.encoder(word_emotions, word_intensity)
        else:
            emotion = self.encoder(word_emotions, word_intensity, word_axes)
            labelled = labelled | ~word_axes.isnan().all(-1)
        modulated = self.fusion(text_embeddings, spread(emotion, word_of_token))
        labelled = spread(labelled, word_of_token)
        return EFiLMOutput(
            text_embeddings=modulated,
            modulation_ratio=_modulation_ratio(
                text_embeddings, modulated, labelled
            ),
        )


@torch.no_grad()
def _modulation_ratio(
    text: torch.Tensor, modulated: Embeddings, labelled: torch.Tensor
) -> torch.Tensor:
    """Average ||h' - h|| / ||h|| over the tokens ``labelled`` (B, T)."""
    if isinstance(modulated, ModulatedEmbeddings):
        text, modulated = modulated.side_by_side()
    text, modulated = text.float(), modulated.float()
    norm = text.norm(dim=-1).clamp(min=torch.finfo(text.dtype).tiny)
    ratio = (modulated - text).norm(dim=-1) / norm
    return (ratio * labelled).sum() / labelled.sum().clamp(min=1)


class WordEmotionLoss(nn.Module):
    """Cross-entropy of word emotions classified from states, step by step.

    A linear classifier predicts the emotion of the word at each position. By
    default, at ``"speech"`` positions, it reads the language model's states
    that predict the word's speech tokens, so that the emotion has to reach the
    speech. At ``"input"`` it reads the modulated text embeddings, as the
    paper's authors do; FiLM satisfies that without any effect on the speech
    (point 1 of the module's documentation), so it is only useful as a
    baseline. Neither accuracy tells how well listeners hear the emotion.

    Arguments
    ---------
    n_emotions : int
        Number K of emotions in the taxonomy.
    dim : int
        Size C of a state.
    position : str
        States that ``EmotionConditionedLM`` passes: "speech" or "input".
    label_smoothing : float
        Share of the target that is spread evenly over the emotions.

    Raises
    ------
    ValueError
        If the position is unknown.

    Example
    -------
    >>> emotion_loss = WordEmotionLoss(n_emotions=5, dim=16)
    >>> states = torch.randn(1, 4, 16)
    >>> word_of_position = torch.tensor([[0, 0, -1, 1]])
    >>> word_emotions = torch.eye(5)[torch.tensor([[1, 4]])]
    >>> out = emotion_loss(states, word_of_position, word_emotions)
    >>> out.loss.shape, int(out.n_labelled)
    (torch.Size([]), 3)
    """

    def __init__(
        self,
        n_emotions: int,
        dim: int,
        position: str = "speech",
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(
                f"WordEmotionLoss: position is '{position}'; choose one of "
                f"{', '.join(POSITIONS)}."
            )
        self.position = position
        self.label_smoothing = label_smoothing
        self.classifier = nn.Linear(dim, n_emotions)

    def forward(
        self,
        states: torch.Tensor,
        word_of_position: torch.Tensor,
        word_emotions: torch.Tensor,
    ) -> WordEmotionLossOutput:
        """Compute the loss over all positions of labelled words.

        Arguments
        ---------
        states : torch.Tensor
            Inputs of the classifier, shape (B, N, C).
        word_of_position : torch.Tensor
            Index of each position's word, -1 for none (and in padding),
            long, shape (B, N).
        word_emotions : torch.Tensor
            Soft targets: distributions over the emotions, all zeros for
            unlabelled words, shape (B, W, K).
        """
        targets = spread(word_emotions, word_of_position)
        labelled = is_labelled(targets)
        targets = targets[labelled].float()
        logits = self.classifier(states[labelled]).float()
        n_labelled = labelled.sum()
        # An empty sum is 0 and has a graph; an empty mean is NaN.
        loss = F.cross_entropy(
            logits,
            targets,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        correct = (logits.argmax(-1) == targets.argmax(-1)).sum()
        return WordEmotionLossOutput(
            loss=loss / n_labelled.clamp(min=1),
            accuracy=correct / n_labelled.clamp(min=1),
            n_labelled=n_labelled,
        )
