#!/usr/bin/env python3
"""Train the mini flow-matching model: speech tokens and speaker to log-mel.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). Beside
the flow's own loss, the encoder's mean is pulled to the mel (the prior loss
of Grad-TTS), without which a model this small needs many times the steps.

Interrupted training goes on from the last epoch when it is started again.
Writes ``flow.safetensors`` (moving average of the weights, float16) and
``speakers.safetensors`` (one vector for each speaker) to the output folder.
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
from pretraining_data import (  # noqa: E402
    PretrainingCorpus,
    TokenSegments,
)


class FlowBrain(PretrainingBrain):
    """The flow's loss and the prior loss; validates the averaged weights."""

    def on_fit_start(self):
        """Put the averaged weights beside the others."""
        super().on_fit_start()
        self.hparams.average.to(self.device)

    def flow(self, stage):
        """The weights that train, or their average."""
        if stage == sb.Stage.TRAIN:
            return self.modules.flow
        return self.hparams.average.module.eval()

    def compute_forward(self, batch, stage):
        """Encode the tokens."""
        tokens = batch["tokens"]
        n_tokens = tokens.new_full((len(tokens),), tokens.shape[1])
        return self.flow(stage).encode(tokens, n_tokens)

    def compute_losses(self, predictions, batch, stage):
        """Both losses as a dictionary."""
        mu, n_frames = predictions
        flow = self.flow(stage)
        mel = batch["mel"]
        mel = (mel - flow.mel_mean) / flow.mel_std
        generator = None
        if stage != sb.Stage.TRAIN:
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
        """Average the weights after each step of the optimizer."""
        if should_step:
            self.hparams.average.update_parameters(self.modules.flow)


def main():
    """Command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    corpus = PretrainingCorpus(hparams["data_folder"])
    n_items = hparams["steps_per_epoch"] * hparams["batch_size"]
    size = hparams["segment_tokens"]
    train = TokenSegments(corpus, corpus.train, n_items, size)
    valid = TokenSegments(
        corpus, corpus.valid, 4 * hparams["batch_size"], size, fixed=True
    )
    fit(FlowBrain, hparams, run_opts, train, valid)
    folder = Path(hparams["output_folder"])
    average = hparams["average"].module.state_dict()
    save_weights(average, folder / "flow.safetensors")
    save_weights(corpus.x_vectors(), folder / "speakers.safetensors")


if __name__ == "__main__":
    main()
