#!/usr/bin/env python3
"""Train a recogniser of phonemes on the MiniESD pretraining corpus.

python train_recognizer.py hparams/train_recognizer.yaml --data_folder CORPUS

It listens to what train.py synthesises and is no part of the backbone. Writes
``recognizer.safetensors`` to the output folder.
"""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: torchaudio on CPU

import speechbrain as sb
import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_brain import PretrainingBrain, fit, save_weights  # noqa: E402
from pretraining_data import PretrainingCorpus, SpeechSegments  # noqa: E402


class RecognizerBrain(PretrainingBrain):
    """Cross-entropy of the phoneme of each frame."""

    def compute_forward(self, batch, stage):
        """Recognise; in training, at levels that say nothing."""
        wav = batch["wav"]
        if stage == sb.Stage.TRAIN:
            decibels = self.hparams.level_range * (
                torch.rand(len(wav), 1) - 0.5
            )
            wav = wav * (10 ** (decibels / 20)).to(wav)
        return self.modules.recognizer(wav)[0]

    def compute_losses(self, predictions, batch, stage):
        """Loss and accuracy."""
        phonemes = batch["phonemes"]
        hits = predictions.argmax(-1) == phonemes
        return {
            "loss": F.cross_entropy(predictions.transpose(1, 2), phonemes),
            "accuracy": hits.float().mean(),
        }


def main():
    """Command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    corpus = PretrainingCorpus(hparams["data_folder"])
    size, batch_size = hparams["segment_tokens"], hparams["batch_size"]
    n_items = hparams["steps_per_epoch"] * batch_size
    train = SpeechSegments(corpus, corpus.train, n_items, size)
    valid = SpeechSegments(corpus, corpus.valid, 4 * batch_size, size, True)
    fit(RecognizerBrain, hparams, run_opts, train, valid)
    path = Path(hparams["output_folder"]) / "recognizer.safetensors"
    save_weights(hparams["recognizer"].state_dict(), path)


if __name__ == "__main__":
    main()
