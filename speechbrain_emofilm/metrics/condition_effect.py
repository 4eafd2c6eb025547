"""What the words' emotions do to the speech that a model predicts.

True speech is read along (teacher forcing), so that nothing has to be spoken.
Each word's speech tokens are predicted with the word's own emotion and with
that of another word:

* the emotions have an effect if the two predictions differ;
* they are understood if the true speech is likelier with the own emotions;
* the labels switch where the speech does if this holds for the words beside
  a switch as it does for the others.
"""

from collections.abc import Sequence

from speechbrain_emofilm.lobes.conditioned_lm import EmotionConditionedLM
from speechbrain_emofilm.lobes.efilm import is_labelled
from speechbrain_emofilm.metrics.bootstrap import share
from speechbrain_emofilm.metrics.row_stats import RowStats
from speechbrain_emofilm.processing.pooling import spread

import torch
import torch.nn.functional as F


class ConditionEffect(RowStats):
    """Compares predictions with the words' own and with others' emotions.

    All figures are in nats per speech token.

    Arguments
    ---------
    n_samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> from speechbrain_emofilm.lobes.efilm import EFiLM, EmotionEncoder, FiLM
    >>> qwen2 = dict(
    ...     vocab_size=40,
    ...     hidden_size=16,
    ...     intermediate_size=32,
    ...     num_hidden_layers=1,
    ...     num_attention_heads=2,
    ...     num_key_value_heads=1,
    ... )
    >>> model = EmotionConditionedLM(
    ...     CosyVoice2LM(qwen2, speech_token_size=27),
    ...     EFiLM(EmotionEncoder(5, dim=8), FiLM(8, 16)),
    ... )
    >>> effect = ConditionEffect()
    >>> effect.append(
    ...     ["a", "b"],
    ...     model.eval(),
    ...     text_tokens=torch.randint(40, (2, 6)),
    ...     text_lens=torch.tensor([1.0, 0.5]),
    ...     word_of_token=torch.arange(6).div(2).long().repeat(2, 1),
    ...     speech_tokens=torch.randint(27, (2, 4)),
    ...     speech_lens=torch.tensor([1.0, 0.75]),
    ...     word_of_speech=torch.tensor([[0, 1, 2, -1], [0, 0, 0, 0]]),
    ...     word_emotions=torch.eye(5)[torch.tensor([[0, 1, 2], [4, 4, 4]])],
    ...     word_intensity=torch.ones(2, 3),
    ... )
    >>> effect.values()["condition_effect"]  # it is not trained
    0.0
    """

    def append(
        self,
        ids: Sequence[str],
        model: EmotionConditionedLM,
        text_tokens: torch.Tensor,
        text_lens: torch.Tensor,
        word_of_token: torch.Tensor,
        speech_tokens: torch.Tensor,
        speech_lens: torch.Tensor,
        word_of_speech: torch.Tensor,
        word_emotions: torch.Tensor,
        word_intensity: torch.Tensor,
    ) -> None:
        """Adds a batch.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        model : EmotionConditionedLM
            In evaluation mode.
        text_tokens : torch.Tensor
            Shape (B, T).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        word_of_token : torch.Tensor
            Index of each text token's word, -1 for none, long, shape (B, T).
        speech_tokens : torch.Tensor
            Shape (B, S).
        speech_lens : torch.Tensor
            Relative lengths of the speech, shape (B,).
        word_of_speech : torch.Tensor
            Index of each speech token's word, -1 in silence, long, shape
            (B, S).
        word_emotions : torch.Tensor
            Distributions over the emotions, all zeros for unlabelled words,
            shape (B, W, K).
        word_intensity : torch.Tensor
            0 to 1, shape (B, W).
        """

        def predict(emotions, intensity):
            text = model.condition(
                text_tokens, text_lens, word_of_token, emotions, intensity
            )
            return model.llm(
                text.text_embeddings, text_lens, speech_tokens, speech_lens
            )

        with torch.no_grad():
            speech = predict(word_emotions, word_intensity)
            own = speech.logits.float().log_softmax(-1)
            others = other_emotions(word_emotions, word_intensity)
            changed = is_labelled(word_emotions) & (
                others[0].argmax(-1) != word_emotions.argmax(-1)
            )
            other = own
            if changed.any():
                other = predict(*others).logits.float().log_softmax(-1)
        self._add_rows(
            ids, speech, own, other, word_of_speech, word_emotions, changed
        )

    def _add_rows(
        self, ids, speech, own, other, word_of_speech, word_emotions, changed
    ):
        """Sums over the positions of each utterance, and their numbers.

        ``own`` and ``other`` are log probabilities (N, V), ``changed`` tells
        the words (B, W) whose emotion differs between them.
        """
        # Positions are those of the logits, item after item; the last of an
        # item, its end, belongs to no word.
        supervised = speech.supervised
        word_of_position = F.pad(
            word_of_speech.masked_fill(~supervised[:, 1:], -1), (0, 1), value=-1
        )
        changed, beside = (
            spread(of_words, word_of_position)[supervised]
            for of_words in (changed, beside_switch(word_emotions))
        )
        item = torch.arange(len(supervised), device=supervised.device)
        item = item[:, None].expand_as(supervised)[supervised]
        loss, other_loss = (
            F.nll_loss(scores, speech.targets, reduction="none")
            for scores in (own, other)
        )
        effect = F.kl_div(other, own, reduction="none", log_target=True).sum(-1)
        gain = other_loss - loss
        columns = {}
        for name, values, where in (
            ("speech_loss", loss, torch.ones_like(changed)),
            ("condition_effect", effect, changed),
            ("emotion_gain", gain, changed),
            ("inside_gain", gain, changed & ~beside),
            ("switch_gain", gain, changed & beside),
        ):
            columns[name] = _sums(values * where, item, len(ids))
            columns[f"{name}_n"] = _sums(where, item, len(ids))
        for index, utterance in enumerate(ids):
            self.add_row(utterance, **{k: v[index] for k, v in columns.items()})

    def figures(self) -> dict:
        """Means over the speech tokens.

        Returns
        -------
        dict
            Each with its bounds ``low`` and ``high``, or None where there
            is no such token: ``speech_loss``, with the own emotions;
            ``condition_effect``, the divergence of the prediction with
            another emotion from that with the own; ``emotion_gain``, how
            much likelier the own emotion makes the true speech;
            ``switch_gain``, the same for words beside a word of another
            emotion, and ``inside_gain``, for all the others.
        """
        names = [n for n in self.rows[0] if n != "id" and not n.endswith("_n")]
        return {name: self._mean_over_tokens(name) for name in names}

    def values(self) -> dict[str, float]:
        """Figures without their bounds.

        Returns
        -------
        dict
            Without those that are None.
        """
        return {
            name: figure[name]
            for name, figure in self.figures().items()
            if figure[name] is not None
        }

    def _mean_over_tokens(self, name):
        sums = [
            [row[name], row[f"{name}_n"]]
            for row in self.rows
            if row[f"{name}_n"]
        ]
        return self.estimate(name, share, sums)


def other_emotions(
    word_emotions: torch.Tensor, word_intensity: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exchanges the labels of words among each other, nothing at random.

    No word keeps its emotion unless more than half of them have it.

    Arguments
    ---------
    word_emotions : torch.Tensor
        Distributions over the emotions, all zeros for unlabelled words,
        shape (B, W, K).
    word_intensity : torch.Tensor
        0 to 1, shape (B, W).

    Returns
    -------
    emotions : torch.Tensor
        Shape (B, W, K); unlabelled words remain so.
    intensity : torch.Tensor
        Shape (B, W), each word's with its emotion.

    Example
    -------
    >>> emotions = torch.eye(3)[torch.tensor([[0, 1, 1, 2]])]
    >>> others, _ = other_emotions(emotions, torch.ones(1, 4))
    >>> others.argmax(-1)
    tensor([[1, 2, 0, 1]])
    """
    labelled = is_labelled(word_emotions)
    # In the order of the emotions, half of the words further is another one.
    order = word_emotions.argmax(-1)[labelled].argsort(stable=True)
    source = torch.empty_like(order)
    source[order] = order.roll(len(order) // 2)
    others = []
    for values in (word_emotions, word_intensity):
        values = values.clone()
        values[labelled] = values[labelled][source]
        others.append(values)
    return tuple(others)


def beside_switch(word_emotions: torch.Tensor) -> torch.Tensor:
    """Which words have a neighbour of another emotion.

    Arguments
    ---------
    word_emotions : torch.Tensor
        Distributions over the emotions, all zeros for unlabelled words,
        shape (B, W, K).

    Returns
    -------
    torch.Tensor
        Bool, shape (B, W).

    Example
    -------
    >>> beside_switch(torch.eye(3)[torch.tensor([[0, 0, 1, 1]])])
    tensor([[False,  True,  True, False]])
    """
    labelled = is_labelled(word_emotions)
    emotion = word_emotions.argmax(-1)
    switch = emotion[:, 1:] != emotion[:, :-1]
    switch = switch & labelled[:, 1:] & labelled[:, :-1]
    return F.pad(switch, (1, 0)) | F.pad(switch, (0, 1))


def _sums(values, item, n_items):
    """Sum of the values of each item, as numbers."""
    sums = torch.zeros(n_items, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, item, values.double()).tolist()
