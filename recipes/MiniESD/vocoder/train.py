#!/usr/bin/env python3
"""Train a mini vocoder on the MiniESD pretraining corpus.

python train.py hparams/train_hift.yaml --data_folder CORPUS
python train.py hparams/train_harmonic_noise.yaml --data_folder CORPUS

The vocoder decodes random segments of true mel spectrograms. Some of them get
noise, since predicted mels have errors. Its source gets the true F0, which its
F0 predictor learns at the same time. From step ``adversarial_start`` on, an
adversarial loss is added.

An interrupted training is resumed from its last epoch. Writes
``vocoder.safetensors`` (float16) to the output folder.
"""

import functools
import sys
from pathlib import Path

from speechbrain_emofilm.utils.assets import load_safetensors

import speechbrain as sb
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import RandomSegments  # noqa: E402


class WavSegments(RandomSegments):
    """Segments with mel, F0 and waveform; some mels are the token decoder's."""

    frames_per_position = 1

    def __init__(self, *args, decoded_share=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.decoded_share = decoded_share

    def segment(self, index, first, generator):
        """Return mel, F0 and waveform."""
        frames = slice(first, first + self.size)
        decoded = torch.rand((), generator=generator) < self.decoded_share
        mel = self.corpus.decoded_mel if decoded else self.corpus.mel
        wav = self.corpus.wav(index, first, self.size)
        return {
            "mel": torch.from_numpy(mel(index)[frames]),
            "f0": torch.from_numpy(self.corpus.f0(index)[frames]),
            "wav": torch.from_numpy(wav),
        }


class VocoderBrain(pretraining.PretrainingBrain):
    """Train a vocoder, optionally with a discriminator."""

    def init_optimizers(self):
        """Create one optimizer each for vocoder and discriminator."""
        self.optimizer = self.opt_class(self.modules.vocoder.parameters())
        self.discriminator_optimizer = self.hparams.discriminator_opt_class(
            self.modules.discriminator.parameters()
        )
        self.optimizers_dict = {
            "vocoder": self.optimizer,
            "discriminator": self.discriminator_optimizer,
        }
        if self.checkpointer is not None:
            for name, optimizer in self.optimizers_dict.items():
                self.checkpointer.add_recoverable(f"opt_{name}", optimizer)

    @property
    def adversarial(self):
        """Whether adversarial training has started."""
        start = self.hparams.adversarial_start
        return start is not None and self.optimizer_step >= start

    def compute_forward(self, batch, stage):
        """Decode with the true F0, in training from noisy mels."""
        mel, f0 = batch["mel"], batch["f0"]
        if stage == sb.Stage.TRAIN:
            mel = self.add_noise(mel)
        vocoder = self.modules.vocoder
        seed = None if stage == sb.Stage.TRAIN else 0
        wav = vocoder.decode(mel, vocoder.source(f0, seed=seed))
        return wav, vocoder.f0_loss(mel, f0)

    def add_noise(self, mel):
        """Add noise of random strength to a share of the items."""
        shape = (len(mel), 1, 1)
        noisy = torch.rand(shape) < self.hparams.mel_noise_share
        strength = self.hparams.mel_noise * torch.rand(shape) * noisy
        return mel + strength.to(mel) * torch.randn_like(mel)

    def compute_losses(self, predictions, batch, stage):
        """Compute STFT and F0 loss and, once started, adversarial losses."""
        wav, f0_loss = predictions
        losses = {"stft": self.hparams.stft_loss(wav, batch["wav"])}
        losses["f0"] = f0_loss
        losses["loss"] = losses["stft"] + self.hparams.f0_weight * f0_loss
        if stage == sb.Stage.TRAIN and self.adversarial:
            losses["discriminator"] = self.train_discriminator(wav, batch)
            losses["adversarial"] = self.adversarial_loss(wav, batch)
            losses["loss"] = losses["loss"] + losses["adversarial"]
        return losses

    def train_discriminator(self, wav, batch):
        """Make one step of the discriminator; return its loss."""
        discriminator = self.modules.discriminator
        scores_real, _ = discriminator(batch["wav"].unsqueeze(1))
        scores_fake, _ = discriminator(wav.detach().unsqueeze(1))
        loss = self.hparams.discriminator_loss(scores_fake, scores_real)
        self.discriminator_optimizer.zero_grad()
        loss["D_loss"].backward()
        self.discriminator_optimizer.step()
        return loss["D_loss"].detach()

    def adversarial_loss(self, wav, batch):
        """Compute the generator's adversarial loss."""
        discriminator = self.modules.discriminator
        with torch.no_grad():
            _, features_real = discriminator(batch["wav"].unsqueeze(1))
        scores_fake, features_fake = discriminator(wav.unsqueeze(1))
        return self.hparams.generator_loss(
            sb.Stage.TRAIN,
            scores_fake=scores_fake,
            feats_fake=features_fake,
            feats_real=features_real,
        )["G_adv_loss"]


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    kind = functools.partial(
        WavSegments, decoded_share=hparams["decoded_share"]
    )
    segments = pretraining.draw_segments(
        kind, corpus, hparams, hparams["segment_frames"], n_valid=64
    )
    if hparams["init_from"]:
        load_safetensors(module=hparams["vocoder"], path=hparams["init_from"])
    pretraining.fit(VocoderBrain, hparams, run_opts, *segments)
    path = Path(hparams["output_folder"]) / "vocoder.safetensors"
    pretraining.save_weights(hparams["vocoder"].state_dict(), path)


if __name__ == "__main__":
    main()
