"""Diagnosis of a running training: names the failures a validation shows."""

from speechbrain_emofilm.metrics.condition_effect import (
    ConditionEffect,
    beside_switch,
)
from speechbrain_emofilm.metrics.failure_modes import signatures

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset


class TrainingDiagnosis:
    """Measure the effect of the words' emotions on a few utterances."""

    def __init__(self, batches, model_inputs):
        self.batches = batches
        self.model_inputs = model_inputs
        self.floor = None

    def measure(self, brain, labelled=True):
        """Score the effect of the words' emotions, or of none, on speech."""
        brain.modules.eval()
        model = brain.modules.emofilm
        model = getattr(model, "module", model)  # inside DDP
        effect = ConditionEffect()
        # The random numbers of the training must not change.
        with torch.random.fork_rng(devices=[]), brain.evaluation_ctx:
            for batch in self.batches:
                inputs = self.model_inputs(batch.to(brain.device))
                inputs = inputs._replace(
                    word_emotions=inputs.word_emotions * labelled
                )
                effect.append(batch.id, model, inputs)
        return effect.values()

    def measure_floor(self, brain):
        """Score the frozen backbone before its training begins."""
        floor = self.measure(brain, labelled=False)
        self.floor = {"speech_loss": floor["speech_loss"]}

    def log(self, brain, epoch, modulation_ratio=None):
        """Log the failures that the validation of an epoch shows."""
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
    """Choose at most `n` validation utterances for diagnosis, in batches.

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
    """Choose at most `n` items from all parts of a list."""
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]
