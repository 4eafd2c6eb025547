#!/usr/bin/env python3
"""Train a mini vocoder on the MiniESD pretraining corpus.

python train.py hparams/train_hift.yaml --data_folder CORPUS
python train.py hparams/train_harmonic_noise.yaml --data_folder CORPUS

The vocoder decodes random segments of true mel spectrograms, some of them
made noisy, since the flow's will not be perfect; its source gets the true F0,
while its F0 predictor learns that F0 beside it. From ``adversarial_start``
steps on, a discriminator judges the waves as well.

Interrupted training goes on from the last epoch when it is started again.
Writes ``vocoder.safetensors`` (float16) to the output folder.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.utils.assets import load_safetensors

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_brain import PretrainingBrain, fit, save_weights  # noqa: E402
from pretraining_data import PretrainingCorpus  # noqa: E402


class WavSegments(torch.utils.data.Dataset):
    """Random segments of utterances with their waves.

    Arguments
    ---------
    corpus : PretrainingCorpus
    indices : iterable of int
        The utterances to draw from.
    n_items : int
        Length of the data set: segments per epoch.
    n_frames : int
        Mel frames of a segment.
    fixed : bool
        Whether item i is always the same segment.
    decoded_share : float
        Share of the segments whose mel comes from the token decoder.
    """

    def __init__(
        self, corpus, indices, n_items, n_frames, fixed=False, decoded_share=0.0
    ):
        self.corpus = corpus
        self.indices = [i for i in indices if corpus.n_frames(i) >= n_frames]
        self.n_items, self.n_frames, self.fixed = n_items, n_frames, fixed
        self.decoded_share = decoded_share
        if not self.indices:
            raise ValueError(
                f"{corpus.folder}: no utterance has the {n_frames} frames of "
                "a training segment; make the corpus larger, or segment_frames "
                "smaller."
            )

    def __len__(self):
        return self.n_items

    def __getitem__(self, item):
        generator = torch.Generator().manual_seed(item) if self.fixed else None
        index, first = torch.randint(
            0, 2**31 - 1, (2,), generator=generator
        ).tolist()
        index = self.indices[index % len(self.indices)]
        first %= self.corpus.n_frames(index) - self.n_frames + 1
        frames = slice(first, first + self.n_frames)
        wav = self.corpus.wav(index, first, self.n_frames)
        decoded = torch.rand((), generator=generator) < self.decoded_share
        mel = self.corpus.decoded_mel if decoded else self.corpus.mel
        return {
            "mel": torch.from_numpy(mel(index)[frames]),
            "f0": torch.from_numpy(self.corpus.f0(index)[frames]),
            "wav": torch.from_numpy(wav),
        }


class VocoderBrain(PretrainingBrain):
    """Trains a vocoder and, if it is asked for, a discriminator."""

    def init_optimizers(self):
        """One optimizer for the vocoder, one for the discriminator."""
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
        """Whether the discriminator takes part by now."""
        start = self.hparams.adversarial_start
        return start is not None and self.optimizer_step >= start

    def compute_forward(self, batch, stage):
        """Decode with the true F0; in training from mels that vary."""
        mel, f0 = batch["mel"], batch["f0"]
        if stage == sb.Stage.TRAIN:
            mel = self.add_noise(mel)
        vocoder = self.modules.vocoder
        seed = None if stage == sb.Stage.TRAIN else 0
        wav = vocoder.decode(mel, vocoder.source(f0, seed=seed))
        return wav, vocoder.f0_loss(mel, f0)

    def add_noise(self, mel):
        """Adds noise of random strength to a share of the items."""
        shape = (len(mel), 1, 1)
        noisy = torch.rand(shape) < self.hparams.mel_noise_share
        strength = self.hparams.mel_noise * torch.rand(shape) * noisy
        return mel + strength.to(mel) * torch.randn_like(mel)

    def compute_losses(self, predictions, batch, stage):
        """STFT loss, F0 loss and, late in training, the adversarial one."""
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
        """One step of the discriminator; returns its loss."""
        discriminator = self.modules.discriminator
        scores_real, _ = discriminator(batch["wav"].unsqueeze(1))
        scores_fake, _ = discriminator(wav.detach().unsqueeze(1))
        loss = self.hparams.discriminator_loss(scores_fake, scores_real)
        self.discriminator_optimizer.zero_grad()
        loss["D_loss"].backward()
        self.discriminator_optimizer.step()
        return loss["D_loss"].detach()

    def adversarial_loss(self, wav, batch):
        """How well the discriminator tells the waves from natural ones."""
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
    """Command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    corpus = PretrainingCorpus(hparams["data_folder"])
    batch_size, size = hparams["batch_size"], hparams["segment_frames"]
    n_items = hparams["steps_per_epoch"] * batch_size
    share = hparams["decoded_share"]
    train = WavSegments(corpus, corpus.train, n_items, size, False, share)
    valid = WavSegments(corpus, corpus.valid, 64, size, True, share)
    if hparams["init_from"]:
        load_safetensors(module=hparams["vocoder"], path=hparams["init_from"])
    fit(VocoderBrain, hparams, run_opts, train, valid)
    path = Path(hparams["output_folder"]) / "vocoder.safetensors"
    save_weights(hparams["vocoder"].state_dict(), path)


if __name__ == "__main__":
    main()
