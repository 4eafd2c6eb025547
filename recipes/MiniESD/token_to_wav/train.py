#!/usr/bin/env python3
r"""Train the mini token decoder and vocoder jointly, on the waveform.

python train.py hparams/train.yaml --data_folder CORPUS \
    --token_decoder_file ... --vocoder_file ... --recognizer_file ...

Both have been trained separately before (recipes/MiniESD/token_decoder and
vocoder). Here the losses compare the waveform's spectra and the output of a
frozen phoneme recogniser (train_recognizer.py) with those of the recording.
The mel between the two is still kept near the true one.

An interrupted training is resumed from its last epoch. Writes
``token_decoder.safetensors`` and ``vocoder.safetensors``.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.utils.assets import load_safetensors

import speechbrain as sb
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import SpeechSegments  # noqa: E402


class TokenToWavBrain(pretraining.PretrainingBrain):
    """Synthesise from tokens; the source gets the true F0."""

    def compute_forward(self, batch, stage):
        """Return mel and waveform of the tokens, and the F0 loss."""
        mel = self.modules.token_decoder(batch["tokens"], batch["x_vector"])
        vocoder = self.modules.vocoder
        seed = None if stage == sb.Stage.TRAIN else 0
        wav = vocoder.decode(mel, vocoder.source(batch["f0"], seed=seed))
        return mel, wav, vocoder.f0_loss(mel, batch["f0"])

    def compute_losses(self, predictions, batch, stage):
        """Compute the losses of waveform, F0 and mel."""
        mel, wav, f0_loss = predictions
        target, scale = batch["mel"], self.modules.token_decoder.mel_std
        heard = self.modules.phonetic_loss(wav, batch["wav"], batch["phonemes"])
        losses = {
            "stft": self.hparams.stft_loss(wav, batch["wav"]),
            "f0": f0_loss,
            "mel": F.l1_loss(mel, target) / scale,
            "delta": F.l1_loss(mel.diff(dim=1), target.diff(dim=1)) / scale,
            "feature": heard.features,
            "phoneme": heard.phonemes,
        }
        weights = self.hparams.loss_weights
        losses["loss"] = sum(weights[name] * losses[name] for name in weights)
        losses["phoneme_accuracy"] = heard.accuracy
        return losses


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    load_safetensors(hparams["token_decoder"], hparams["token_decoder_file"])
    load_safetensors(hparams["vocoder"], hparams["vocoder_file"])
    load_safetensors(hparams["recognizer"], hparams["recognizer_file"])
    segments = pretraining.draw_segments(
        SpeechSegments,
        corpus,
        hparams,
        hparams["segment_tokens"],
        n_valid=8 * hparams["batch_size"],
    )
    pretraining.fit(TokenToWavBrain, hparams, run_opts, *segments)
    folder = Path(hparams["output_folder"])
    for name in ("token_decoder", "vocoder"):
        pretraining.save_weights(
            hparams[name].state_dict(), folder / f"{name}.safetensors"
        )


if __name__ == "__main__":
    main()
