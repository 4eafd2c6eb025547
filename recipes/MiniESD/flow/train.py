#!/usr/bin/env python3
"""Train the mini flow-matching model: speech tokens and speaker to log-mel.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). In
addition to the flow's loss, the encoder's mean is pulled towards the mel (the
prior loss of Grad-TTS), without which a model this small needs many times as
many steps.

An interrupted training is resumed from its last epoch. Writes
``flow.safetensors`` (moving average of the weights, float16) and
``speakers.safetensors`` (one vector for each speaker) to the output folder.
"""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: torchaudio on CPU

import torch
import torch.nn.functional as F
from speechbrain.core import Stage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import TokenSegments  # noqa: E402


class FlowBrain(pretraining.PretrainingBrain):
    """Train with flow and prior loss; validate the averaged weights."""

    def on_fit_start(self):
        """Move the averaged weights to the device."""
        super().on_fit_start()
        self.hparams.average.to(self.device)

    def flow(self, stage):
        """Return the trained flow, or its average for validation."""
        if stage == Stage.TRAIN:
            return self.modules.flow
        return self.hparams.average.module.eval()

    def compute_forward(self, batch, stage):
        """Encode the tokens."""
        tokens = batch["tokens"]
        n_tokens = tokens.new_full((len(tokens),), tokens.shape[1])
        return self.flow(stage).encode(tokens, n_tokens)

    def compute_losses(self, predictions, batch, stage):
        """Compute flow and prior loss."""
        mu, n_frames = predictions
        flow = self.flow(stage)
        mel = batch["mel"]
        mel = (mel - flow.mel_mean) / flow.mel_std
        generator = None
        if stage != Stage.TRAIN:
            generator = torch.Generator().manual_seed(self.hparams.seed)
        draws = flow.draw(n_frames, generator)
        speaker = flow.project_speaker(batch["x_vector"])
        losses = {
            "flow": flow.decoder.loss(mel, n_frames, mu, speaker, draws),
            "prior": F.l1_loss(mu, mel),
        }
        losses["loss"] = (
            losses["flow"] + self.hparams.prior_weight * losses["prior"]
        )
        return losses

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Update the average after each step of the optimizer."""
        if should_step:
            self.hparams.average.update_parameters(self.modules.flow)


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    segments = pretraining.draw_segments(
        TokenSegments, corpus, hparams, hparams["segment_tokens"]
    )
    pretraining.fit(FlowBrain, hparams, run_opts, *segments)
    folder = Path(hparams["output_folder"])
    average = hparams["average"].module.state_dict()
    pretraining.save_weights(average, folder / "flow.safetensors")
    pretraining.save_weights(
        corpus.x_vectors(), folder / "speakers.safetensors"
    )


if __name__ == "__main__":
    main()
