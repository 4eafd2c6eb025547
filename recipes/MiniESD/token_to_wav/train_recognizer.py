#!/usr/bin/env python3
"""Train a phoneme recogniser on the MiniESD pretraining corpus.

python train_recognizer.py hparams/train_recognizer.yaml --data_folder CORPUS

train.py uses it as a loss on synthesised speech; it is not part of the
backbone. Writes ``recognizer.safetensors`` to the output folder.
"""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: torchaudio on CPU

import speechbrain as sb
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import SpeechSegments  # noqa: E402


class RecognizerBrain(pretraining.PretrainingBrain):
    """Train with the cross-entropy of each frame's phoneme."""

    def compute_forward(self, batch, stage):
        """Recognise phonemes, in training at random levels."""
        wav = batch["wav"]
        if stage == sb.Stage.TRAIN:
            decibels = self.hparams.level_range * (
                torch.rand(len(wav), 1) - 0.5
            )
            wav = wav * (10 ** (decibels / 20)).to(wav)
        return self.modules.recognizer(wav)[0]

    def compute_losses(self, predictions, batch, stage):
        """Compute loss and accuracy."""
        phonemes = batch["phonemes"]
        hits = predictions.argmax(-1) == phonemes
        return {
            "loss": F.cross_entropy(predictions.transpose(1, 2), phonemes),
            "accuracy": hits.float().mean(),
        }


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    segments = pretraining.draw_segments(
        SpeechSegments, corpus, hparams, hparams["segment_tokens"]
    )
    pretraining.fit(RecognizerBrain, hparams, run_opts, *segments)
    path = Path(hparams["output_folder"]) / "recognizer.safetensors"
    pretraining.save_weights(hparams["recognizer"].state_dict(), path)


if __name__ == "__main__":
    main()
