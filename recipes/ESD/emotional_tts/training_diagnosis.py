"""Diagnosis of a running training: names what the validation shows wrong."""

from speechbrain_emofilm.metrics.condition_effect import (
    ConditionEffect,
    beside_switch,
)
from speechbrain_emofilm.metrics.failure_modes import signatures

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset


class TrainingDiagnosis:
    """Measure the effect of the words' emotions on a few utterances.

    Arguments
    ---------
    batches : list of PaddedBatch
        Validation batches used for diagnosis, see `choose_diagnosed`.
    model_inputs : callable
        Batch to `ConditionedLMInputs`.
    """

    def __init__(self, batches, model_inputs):
        self.batches = batches
        self.model_inputs = model_inputs
        self.floor = None

    def measure(self, brain, labelled=True):
        """Measure what the words' emotions do to the predicted speech.

        Arguments
        ---------
        brain : sb.Brain
            Its module `emofilm` is measured.
        labelled : bool
            Whether the words have their emotions.

        Returns
        -------
        dict
            Scores of `ConditionEffect`.
        """
        brain.modules.eval()
        model = brain.modules.emofilm
        model = getattr(model, "module", model)  # inside DDP
        effect = ConditionEffect()
        # The training's random numbers stay what they are without this.
        with torch.random.fork_rng(devices=[]), brain.evaluation_ctx:
            for batch in self.batches:
                inputs = self.model_inputs(batch.to(brain.device))
                inputs = inputs._replace(
                    word_emotions=inputs.word_emotions * labelled
                )
                effect.append(batch.id, model, inputs)
        return effect.values()

    def measure_floor(self, brain):
        """Measure what the untrained, frozen backbone predicts.

        Arguments
        ---------
        brain : sb.Brain
            A Brain whose training has not begun.
        """
        floor = self.measure(brain, labelled=False)
        self.floor = {"speech_loss": floor["speech_loss"]}

    def log(self, brain, epoch, modulation_ratio=None):
        """Name in the log what the validation shows to be wrong.

        Arguments
        ---------
        brain : sb.Brain
            A Brain that has just been validated.
        epoch : int
            The epoch, from 1.
        modulation_ratio : float, optional
            That of the whole validation, if it has labelled words.
        """
        scores = self.measure(brain)
        if modulation_ratio is not None:
            scores["modulation_ratio"] = modulation_ratio
        judged = signatures(scores, floor=self.floor)
        found = [str(s).rstrip(".") for s in judged if s.verdict == "found"]
        untested = [s.name for s in judged if s.verdict == "untested"]
        brain.hparams.train_logger.log_stats(
            {
                f"diagnosis of epoch {epoch}": "; ".join(found) or "no failure",
                "untested": " and ".join(untested) or "none",
                "frozen speech_loss": self.floor["speech_loss"],
            },
            valid_stats=scores,
        )


def choose_diagnosed(dataset, n, batch_size):
    """Choose the validation utterances used for diagnosis.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The validation data.
    n : int
        How many at most.
    batch_size : int
        How many at once.

    Returns
    -------
    list of PaddedBatch
        Utterances whose emotion switches come first; labelled ones follow.
    """
    switching, steady = [], []
    if n:
        with dataset.output_keys_as(["id", "word_emotions"]):
            for item in dataset:
                emotions = item["word_emotions"]
                if beside_switch(emotions[None]).any():
                    switching.append(item["id"])
                elif emotions.any():
                    steady.append(item["id"])
    chosen = spread_evenly(switching, n)
    chosen += spread_evenly(steady, n - len(chosen))
    items = list(FilteredSortedDynamicItemDataset(dataset, chosen))
    return [
        PaddedBatch(items[start : start + batch_size])
        for start in range(0, len(items), batch_size)
    ]


def spread_evenly(items, n):
    """Choose items from all parts of a list.

    Arguments
    ---------
    items : list
        What to choose from.
    n : int
        How many at most.
    """
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]
