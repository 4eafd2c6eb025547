"""Effect of the words' emotions on the speech that a model predicts.

The predictions are teacher-forced, so that nothing has to be synthesised. Each
word's speech tokens are predicted twice, with the word's own emotion and with
the emotion of another word:

* the emotions have an effect if the two predictions differ;
* the model understands the emotions if the true speech is more likely given
  the own emotions;
* the labels change where the speech changes if this holds next to a change of
  emotion as well as elsewhere.
"""

from collections.abc import Sequence

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.efilm import is_labelled
from speechbrain_emofilm.metrics.bootstrap import share
from speechbrain_emofilm.metrics.row_stats import RowStats
from speechbrain_emofilm.processing.pooling import spread

import torch
import torch.nn.functional as F


class ConditionEffect(RowStats):
    """Compare predictions given the words' own and other words' emotions.

    All scores are in nats per speech token.

    Example
    -------
    >>> effect = ConditionEffect()
    >>> effect.add_row("a", speech_loss=6.0, speech_loss_n=2.0)
    >>> effect.add_row("b", speech_loss=2.0, speech_loss_n=2.0)
    >>> effect.values()
    {'speech_loss': 2.0}
    """

    def append(
        self,
        ids: Sequence[str],
        model: EmotionConditionedLM,
        inputs: ConditionedLMInputs,
    ) -> None:
        """Add a batch of utterances.

        Arguments
        ---------
        ids : sequence of str
            Utterance ids.
        model : EmotionConditionedLM
            Model in evaluation mode.
        inputs : ConditionedLMInputs
            The batch.
        """

        def predict(emotions, intensity):
            text = model.condition(
                inputs.text_tokens,
                inputs.text_lens,
                inputs.word_of_token,
                emotions,
                intensity,
            )
            return model.llm(
                text.text_embeddings,
                inputs.text_lens,
                inputs.speech_tokens,
                inputs.speech_lens,
            )

        emotions, intensity = inputs.word_emotions, inputs.word_intensity
        with torch.no_grad():
            speech = predict(emotions, intensity)
            own = speech.logits.float().log_softmax(-1)
            others = other_emotions(emotions, intensity)
            changed = is_labelled(emotions) & (
                others[0].argmax(-1) != emotions.argmax(-1)
            )
            other = own
            if changed.any():
                other = predict(*others).logits.float().log_softmax(-1)
        self._add_rows(
            ids, speech, own, other, inputs.word_of_speech, emotions, changed
        )

    def _add_rows(
        self, ids, speech, own, other, word_of_speech, word_emotions, changed
    ):
        """Add each utterance's sums of the scores and numbers of positions.

        ``own`` and ``other`` are log probabilities (N, V); ``changed`` marks
        the words (B, W) whose emotion differs between the two.
        """
        # The positions are those of the logits, item after item. The last
        # position of an item, the end, belongs to no word.
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

    def results(self) -> dict:
        """Compute the means over the speech tokens.

        Returns
        -------
        dict
            Scores with their bounds ``low`` and ``high``, or None if there is
            no such token: ``speech_loss``, given the own emotions;
            ``condition_effect``, the Kullback-Leibler divergence between the
            predictions given the own and another emotion; ``emotion_gain``,
            the gain in log-likelihood of the true speech given the own
            emotion; ``switch_gain``, this gain for words next to a word of
            another emotion; ``inside_gain``, this gain for all other words.
        """
        names = [n for n in self.rows[0] if n != "id" and not n.endswith("_n")]
        return {name: self._mean_over_tokens(name) for name in names}

    def values(self) -> dict[str, float]:
        """Compute the scores without their bounds.

        Returns
        -------
        dict
            Scores by name; those that are None are left out.
        """
        return {
            name: estimate[name]
            for name, estimate in self.results().items()
            if estimate[name] is not None
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
    """Exchange the labels of the words deterministically.

    No word keeps its emotion unless more than half of the words share it.

    Arguments
    ---------
    word_emotions : torch.Tensor
        Weights of the emotions (B, W, K), all 0 for unlabelled words.
    word_intensity : torch.Tensor
        Intensities (B, W), 0 to 1.

    Returns
    -------
    emotions : torch.Tensor
        Weights (B, W, K); unlabelled words remain so.
    intensity : torch.Tensor
        Intensities (B, W), exchanged along with the emotions.

    Example
    -------
    >>> emotions = torch.eye(3)[torch.tensor([[0, 1, 1, 2]])]
    >>> others, _ = other_emotions(emotions, torch.ones(1, 4))
    >>> others.argmax(-1)
    tensor([[1, 2, 0, 1]])
    """
    labelled = is_labelled(word_emotions)
    # Sorted by emotion, the word half of the list further has another emotion.
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
    """Mark the words that have a neighbour with another emotion.

    Arguments
    ---------
    word_emotions : torch.Tensor
        Weights of the emotions (B, W, K), all 0 for unlabelled words.

    Returns
    -------
    torch.Tensor
        Bool (B, W).

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
    """Sum the values of each item; returns a list of floats."""
    sums = torch.zeros(n_items, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, item, values.double()).tolist()
