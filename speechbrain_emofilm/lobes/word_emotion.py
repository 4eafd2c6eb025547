"""Word emotion recognition: a light transformer over an utterance's words.

The features of each word, pooled over its frames, are projected and pass
through a small transformer; one head predicts the word's emotion, another its
intensity or other attributes (https://arxiv.org/abs/2509.20378).

Corpora label the emotion of a sentence, not of its words. Three losses with
the same interface learn from such labels:

* ``BroadcastLoss`` gives each word the sentence's emotion, as the paper does.
  The neutral words of an emotional sentence thus have a wrong target.
* ``MultipleInstanceLoss`` treats the sentence as a bag of words, of which
  some carry its emotion and the others are background (neutral).
* ``WordLoss`` is given the true emotion of each word: the upper bound.

A transformer that has only seen sentences of one emotion learns to spread it
over all of their words. ``splice_bags`` makes training sequences of two
pieces, each of which keeps the emotion of the sentence it was cut from, so
that the context stays useful although emotions may change.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models.transformer.Transformer import (
    PositionalEncoding,
    TransformerEncoder,
)
from torch import nn
from torch.nn.utils.rnn import pad_sequence

#: Added to probabilities before their logarithm is taken.
_TINY = 1e-6


@dataclass
class WordEmotionOutput:
    """Result of ``WordEmotionTransformer``.

    Arguments
    ---------
    logits : torch.Tensor
        Logits of each word's emotion, shape (B, W, K).
    attributes : torch.Tensor
        Attributes of each word, 0 to 1, shape (B, W, R).
    attention : torch.Tensor
        Logits of each word's weight in its sentence, shape (B, W).
    """

    logits: torch.Tensor
    attributes: torch.Tensor
    attention: torch.Tensor


@dataclass
class WordTargets:
    """Training targets of words, each of which belongs to a bag (sentence).

    Arguments
    ---------
    emotions : torch.Tensor
        Emotion of the bag, or of the word for ``WordLoss``; -1 if unknown;
        long, shape (B, W).
    attributes : torch.Tensor
        Attributes likewise, 0 to 1, NaN if unknown, shape (B, W, R).
    bags : torch.Tensor
        The bag, from 0 in each item of the batch; -1 in padding; long,
        shape (B, W).
    """

    emotions: torch.Tensor
    attributes: torch.Tensor
    bags: torch.Tensor


class WordEmotionTransformer(nn.Module):
    """Model of the emotion and attributes of each word, given its features.

    Arguments
    ---------
    input_dim : int
        Size D of a word's features.
    n_emotions : int
        Number K of emotions in the taxonomy.
    n_attributes : int
        Number R of attributes: 1 for the intensity, 3 for valence, arousal
        and dominance.
    d_model : int
        Width of the transformer.
    nhead : int
        Number of attention heads.
    num_layers : int
        Number of transformer layers.
    d_ffn : int
        Width of the feed-forward layers.
    dropout : float
        Dropout of the projection and the transformer.
    context : Optional[int]
        How many words to either side a layer may attend to; all if None.
    group_dims : Optional[list of int]
        Sizes of the groups of features, in their order, for instance of a
        speech model's frames, of prosody and of timing. Each is scaled by
        the inverse root of its size, so that a wide group does not dominate a
        narrow one. One group of all if None.

    Raises
    ------
    ValueError
        If there are fewer than two emotions or no attribute, or the groups
        do not make up the features.

    Example
    -------
    >>> model = WordEmotionTransformer(input_dim=8, n_emotions=5)
    >>> output = model(torch.randn(2, 6, 8), torch.tensor([1.0, 0.5]))
    >>> output.logits.shape, output.attributes.shape, output.attention.shape
    (torch.Size([2, 6, 5]), torch.Size([2, 6, 1]), torch.Size([2, 6]))
    """

    def __init__(
        self,
        input_dim: int,
        n_emotions: int,
        n_attributes: int = 1,
        d_model: int = 64,
        nhead: int = 4,
        num_layers: int = 2,
        d_ffn: int = 256,
        dropout: float = 0.2,
        context: int | None = None,
        group_dims: list | None = None,
    ):
        super().__init__()
        group_dims = group_dims or [input_dim]
        if sum(group_dims) != input_dim or min(group_dims) < 1:
            raise ValueError(
                f"group_dims {group_dims} sum to {sum(group_dims)}, and "
                f"input_dim is {input_dim}: give the sizes of all groups."
            )
        if n_emotions < 2 or n_attributes < 1:
            raise ValueError(
                f"{n_emotions} emotions and {n_attributes} attributes: give "
                "at least 2 emotions and 1 attribute."
            )
        self.nhead = nhead
        self.context = context
        mean_dim = input_dim / len(group_dims)
        scale = torch.cat(
            [torch.full((dim,), (mean_dim / dim) ** 0.5) for dim in group_dims]
        )
        self.register_buffer("scale", scale, persistent=False)
        self.projection = nn.Linear(input_dim, d_model)
        self.positions = PositionalEncoding(d_model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = TransformerEncoder(
            num_layers,
            nhead,
            d_ffn,
            d_model=d_model,
            dropout=dropout,
            normalize_before=True,
        )
        self.emotion_head = nn.Linear(d_model, n_emotions)
        self.attribute_head = nn.Linear(d_model, n_attributes)
        self.attention_head = nn.Linear(d_model, 1)

    def forward(
        self, features: torch.Tensor, lens: torch.Tensor | None = None
    ) -> WordEmotionOutput:
        """Predict the emotion of each word.

        Arguments
        ---------
        features : torch.Tensor
            Features of the words, shape (B, W, D).
        lens : Optional[torch.Tensor]
            Relative lengths, shape (B,); all full if None.

        Returns
        -------
        WordEmotionOutput
            Predictions; those in the padding are meaningless.
        """
        words = word_mask(features, lens)
        # Padding may hold NaN or infinity, which times zero is not zero.
        features = features.masked_fill(~words.unsqueeze(-1), 0.0)
        hidden = self.projection(features * self.scale)
        hidden = self.dropout(hidden + self.positions(hidden))
        hidden, _ = self.encoder(hidden, src_mask=self._blocked(words))
        return WordEmotionOutput(
            self.emotion_head(hidden),
            self.attribute_head(hidden).sigmoid(),
            self.attention_head(hidden).squeeze(-1),
        )

    def _blocked(self, words):
        """Build the attention mask (B * heads, W, W), True where blocked.

        This is not a key padding mask: with a narrow context a padded
        position could then attend to nothing, which gives NaN. Here every
        position attends to itself.
        """
        index = torch.arange(words.shape[1], device=words.device)
        distance = (index - index.unsqueeze(-1)).abs()
        blocked = ~words.unsqueeze(1).expand(-1, words.shape[1], -1)
        if self.context is not None:
            blocked = blocked | (distance > self.context)
        blocked = blocked & (distance > 0)
        return blocked.repeat_interleave(self.nhead, dim=0)


class _LabelLoss(nn.Module):
    """Base class of the losses; arguments as in ``BroadcastLoss``."""

    def __init__(
        self,
        class_weights: list | None = None,
        label_smoothing: float = 0.1,
        attribute_weight: float = 1.0,
    ):
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.label_smoothing = label_smoothing
        self.attribute_weight = attribute_weight


class BroadcastLoss(_LabelLoss):
    """Loss with the emotion and attributes of the sentence for each word.

    Arguments
    ---------
    class_weights : Optional[list of float]
        Weight of each emotion; all 1 if None.
    label_smoothing : float
        Share of the target that is spread over all emotions, 0 to 1.
    attribute_weight : float
        Weight of the attributes' mean squared error.

    Example
    -------
    >>> output = WordEmotionOutput(
    ...     torch.zeros(1, 2, 4), torch.zeros(1, 2, 1), torch.zeros(1, 2)
    ... )
    >>> targets = WordTargets(
    ...     torch.tensor([[3, -1]]), torch.ones(1, 2, 1), torch.tensor([[0, 0]])
    ... )
    >>> BroadcastLoss()(output, targets)  # log(4) + 1
    tensor(2.3863)
    """

    def forward(
        self, output: WordEmotionOutput, targets: WordTargets
    ) -> torch.Tensor:
        """Compute the loss, a scalar; 0 without any known target."""
        known = (targets.bags >= 0) & (targets.emotions >= 0)
        losses = F.cross_entropy(
            output.logits[known],
            targets.emotions[known],
            self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        weights = self._weights(targets.emotions[known])
        loss = losses.sum() / weights.sum().clamp(min=_TINY)
        rated = targets.attributes.isfinite() & (targets.bags >= 0)[..., None]
        errors = (output.attributes[rated] - targets.attributes[rated]) ** 2
        return loss + self.attribute_weight * errors.sum() / max(len(errors), 1)

    def _weights(self, emotions):
        if self.class_weights is None:
            return torch.ones_like(emotions, dtype=torch.float)
        return self.class_weights[emotions]


class WordLoss(BroadcastLoss):
    """Loss with the true emotion of each word, where it is known.

    It is computed like ``BroadcastLoss``, with targets of words instead of
    sentences.
    """


class MultipleInstanceLoss(_LabelLoss):
    """Multiple-instance loss: sentence labels supervise word predictions.

    A sentence of emotion y is a bag of words. The loss has two terms:

    1. The word predictions, averaged with learned attention, should give y.
       Attention moves to the words that carry the emotion.
    2. Each word should carry either y or the background b (neutral).
       This is the likelihood of a mixture,
       (1 - share) p(y) + share p(b), whose gradient divides a word's target
       between y and b in proportion to the model's prediction, as in
       expectation-maximisation. Words of a neutral sentence are certainly
       background (negative bags) and teach the model what background is.

    Attributes are averaged with the same attention, detached, and compared
    with those of the sentence.

    Arguments
    ---------
    background : Optional[int]
        Index of the background emotion. If None, each word is expected to
        carry its sentence's emotion.
    background_share : float
        Expected share of background words in an emotional sentence, 0 to 1.
    attention_weight : float
        Weight of the loss of the attention-weighted average.
    mixture_weight : float
        Weight of the mixture loss of each word.
    class_weights, label_smoothing, attribute_weight
        As in ``BroadcastLoss``.

    Raises
    ------
    ValueError
        If the share is below 0, or not below 1.

    Example
    -------
    >>> logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    >>> output = WordEmotionOutput(
    ...     logits, torch.ones(1, 2, 1), torch.tensor([[-9.0, 9.0]])
    ... )
    >>> targets = WordTargets(
    ...     torch.ones(1, 2, dtype=torch.long),
    ...     torch.full((1, 2, 1), torch.nan),
    ...     torch.zeros(1, 2, dtype=torch.long),
    ... )
    >>> loss = MultipleInstanceLoss(background=0, label_smoothing=0.0)
    >>> broadcast = BroadcastLoss(label_smoothing=0.0)
    >>> bool(loss(output, targets) < broadcast(output, targets))
    True
    """

    def __init__(
        self,
        background: int | None = 0,
        background_share: float = 0.25,
        attention_weight: float = 1.0,
        mixture_weight: float = 1.0,
        class_weights: list | None = None,
        label_smoothing: float = 0.1,
        attribute_weight: float = 1.0,
    ):
        super().__init__(class_weights, label_smoothing, attribute_weight)
        if not 0 <= background_share < 1:
            raise ValueError(
                f"background_share is {background_share}: give a share of at "
                "least 0 and below 1."
            )
        self.background = background
        self.background_share = background_share
        self.attention_weight = attention_weight
        self.mixture_weight = mixture_weight

    def forward(
        self, output: WordEmotionOutput, targets: WordTargets
    ) -> torch.Tensor:
        """Compute the loss, a scalar; 0 without any known target."""
        known = (targets.bags >= 0) & (targets.emotions >= 0)
        emotions = targets.emotions.clamp(min=0)
        weights = known.float()
        if self.class_weights is not None:
            weights = weights * self.class_weights[emotions]
        log_probs = output.logits.log_softmax(-1)
        probs = log_probs.exp()
        found = probs.gather(-1, emotions.unsqueeze(-1)).squeeze(-1)

        word_losses = -(self._mixture(probs, found, emotions) + _TINY).log()
        spread = -log_probs.mean(-1)
        word_losses = torch.lerp(word_losses, spread, self.label_smoothing)
        mixture_loss = _mean([weights * word_losses], [weights])
        bags = [
            known & (targets.bags == bag)
            for bag in range(max(int(targets.bags.max()), 0) + 1)
        ]
        return (
            self.mixture_weight * mixture_loss
            + self.attention_weight
            * self._attention_loss(output.attention, bags, found, weights)
            + self.attribute_weight
            * self._attribute_loss(output, targets.attributes, bags)
        )

    def _mixture(self, probs, found, emotions):
        """Compute the likelihood of each word in its sentence, (B, W)."""
        if self.background is None:
            return found
        share = self.background_share
        mixture = (1 - share) * found + share * probs[..., self.background]
        return torch.where(emotions == self.background, found, mixture)

    @staticmethod
    def _attention_loss(attention, bags, found, weights):
        """Compute the NLL of the bag's emotion under pooled attention."""
        losses, shares = [], []
        for inside in bags:
            attended = bag_attention(attention, inside)
            shares.append((attended * weights).sum(1))
            average = (attended * found).sum(1)
            losses.append(-shares[-1] * (average + _TINY).log())
        return _mean(losses, shares)

    @staticmethod
    def _attribute_loss(output, attributes, bags):
        """Compute the squared error of a bag's mean attributes, a scalar."""
        errors, counts = [], []
        for inside in bags:
            attended = bag_attention(output.attention.detach(), inside)
            found = (attended.unsqueeze(-1) * output.attributes).sum(1)
            # All words of a bag share the same attributes.
            first = inside.float().argmax(1)
            wanted = attributes[torch.arange(len(first)), first]
            rated = wanted.isfinite() & inside.any(1, keepdim=True)
            # Indexed first, so that the NaN of unknown ones has no gradient.
            errors.append((found[rated] - wanted[rated]) ** 2)
            counts.append(rated)
        return _mean(errors, counts)


def _mean(sums, counts):
    """Divide the sum of all sums by that of all counts; 0 if empty."""
    total = torch.cat([item.flatten() for item in sums]).sum()
    count = torch.cat([item.flatten() for item in counts]).sum()
    return total / count.clamp(min=1 if count.dtype == torch.long else _TINY)


def word_mask(
    features: torch.Tensor, lens: torch.Tensor | None = None
) -> torch.Tensor:
    """Mark the words that are not padding.

    Arguments
    ---------
    features : torch.Tensor
        Shape (B, W, ...).
    lens : Optional[torch.Tensor]
        Relative lengths, shape (B,); all full if None.

    Returns
    -------
    mask : torch.Tensor
        Bool, shape (B, W).

    Example
    -------
    >>> word_mask(torch.zeros(2, 3, 4), torch.tensor([1.0, 0.33]))
    tensor([[ True,  True,  True],
            [ True, False, False]])
    """
    n_words = features.shape[1]
    if lens is None:
        return features.new_ones(features.shape[:2], dtype=torch.bool)
    return length_to_mask(torch.round(lens * n_words), max_len=n_words).bool()


def bag_attention(attention: torch.Tensor, inside: torch.Tensor):
    """Compute the attention weights of the words in a bag.

    Arguments
    ---------
    attention : torch.Tensor
        Logits, shape (B, W).
    inside : torch.Tensor
        Membership of the words in the bag, bool, shape (B, W).

    Returns
    -------
    shares : torch.Tensor
        Weights, shape (B, W); they sum to 1, or to 0 for an empty bag.

    Example
    -------
    >>> bag_attention(torch.zeros(1, 3), torch.tensor([[True, True, False]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    lowest = torch.finfo(attention.dtype).min
    shares = attention.masked_fill(~inside, lowest).softmax(-1)
    return shares * inside


def splice_bags(
    features: torch.Tensor,
    lens: torch.Tensor,
    targets: WordTargets,
    share: float,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, WordTargets]:
    """Splice the beginnings of some utterances with the ends of others.

    Both pieces have at least two words and remain separate bags.
    Utterances of fewer than four words are left as they are.

    Arguments
    ---------
    features : torch.Tensor
        Features of the words, shape (B, W, D).
    lens : torch.Tensor
        Relative lengths, shape (B,).
    targets : WordTargets
        Targets of whole utterances, one bag each.
    share : float
        Share of the utterances to splice, 0 to 1.
    generator : Optional[torch.Generator]
        Source of random numbers.

    Returns
    -------
    features : torch.Tensor
        Shape (B, W', D).
    lens : torch.Tensor
        Relative lengths, shape (B,).
    targets : WordTargets
        Targets, with a second bag in spliced utterances.

    Example
    -------
    >>> features = torch.arange(8.0).reshape(2, 4, 1)
    >>> targets = WordTargets(
    ...     torch.tensor([[0] * 4, [1] * 4]),
    ...     torch.full((2, 4, 1), torch.nan),
    ...     torch.zeros(2, 4, dtype=torch.long),
    ... )
    >>> _, _, spliced = splice_bags(
    ...     features, torch.ones(2), targets, share=1.0
    ... )
    >>> bool((spliced.bags == 1).any())
    True
    """

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    n_words = torch.round(lens * features.shape[1]).long().tolist()
    partners = torch.randperm(len(n_words), generator=generator).tolist()
    chosen = torch.rand(len(n_words), generator=generator) < share
    items, words, bags = [], [], []
    for item, (n, partner) in enumerate(zip(n_words, partners)):
        pieces = [(item, range(n))]
        n_other = n_words[partner]
        if chosen[item] and min(n, n_other) >= 4:
            pieces = [
                (item, range(draw(2, n - 2))),
                (partner, range(draw(2, n_other - 2), n_other)),
            ]
        items.append(torch.tensor([i for i, piece in pieces for _ in piece]))
        words.append(torch.tensor([w for _, piece in pieces for w in piece]))
        bags.append(
            torch.tensor(
                [b for b, (_, piece) in enumerate(pieces) for _ in piece]
            )
        )
    lengths = torch.tensor([len(bag) for bag in bags])
    item, word = (
        pad_sequence(index, batch_first=True) for index in (items, words)
    )
    bags = pad_sequence(bags, batch_first=True, padding_value=-1)
    spliced = WordTargets(
        targets.emotions[item, word],
        targets.attributes[item, word],
        bags.to(features.device),
    )
    lens = (lengths / lengths.max()).to(lens)
    return features[item, word], lens, spliced


class FrameNormalization(nn.Module):
    """Normalisation of frames by the statistics of the training speech.

    It serves speakers without other data; the statistics of a speaker's own
    speech are better where known.

    Arguments
    ---------
    dim : int
        Size D of a frame.

    Example
    -------
    >>> normalize = FrameNormalization(dim=4)
    >>> normalize.set(mean=torch.ones(4), std=torch.full((4,), 2.0))
    >>> normalize(torch.full((3, 4), 5.0))[0]
    tensor([2., 2., 2., 2.])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Set mean (D,) and standard deviation (D,), above 0, of frames."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalise frames (..., D)."""
        return (frames - self.mean) / self.std
