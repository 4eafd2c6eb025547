#!/usr/bin/env python3
r"""Train the mini token decoder and vocoder together, by the sound they make.

python train.py hparams/train.yaml --data_folder CORPUS \
    --token_decoder_file ... --vocoder_file ... --recognizer_file ...

Both have been trained apart (recipes/MiniESD/token_decoder, vocoder): the
decoder made the mean mel of its tokens, the vocoder spoke it. Here the wave is
judged: its spectra, and what a frozen recogniser of phonemes
(train_recognizer.py) hears in it. The mel between them is still held near the
true one.

Interrupted training goes on from the last epoch when it is started again.
Writes ``token_decoder.safetensors`` and ``vocoder.safetensors``.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.utils.assets import load_safetensors

import speechbrain as sb
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_brain import PretrainingBrain, fit, save_weights  # noqa: E402
from pretraining_data import PretrainingCorpus, SpeechSegments  # noqa: E402


class TokenToWavBrain(PretrainingBrain):
    """From tokens to waves, with the true F0 behind the source."""

    def compute_forward(self, batch, stage):
        """Mel and wave of the tokens, and the error of F0."""
        mel = self.modules.token_decoder(batch["tokens"], batch["x_vector"])
        vocoder = self.modules.vocoder
        seed = None if stage == sb.Stage.TRAIN else 0
        wav = vocoder.decode(mel, vocoder.source(batch["f0"], seed=seed))
        return mel, wav, vocoder.f0_loss(mel, batch["f0"])

    def compute_losses(self, predictions, batch, stage):
        """Spectra and phonemes of the wave, F0, mel and its changes."""
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
    """Command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    corpus = PretrainingCorpus(hparams["data_folder"])
    load_safetensors(hparams["token_decoder"], hparams["token_decoder_file"])
    load_safetensors(hparams["vocoder"], hparams["vocoder_file"])
    load_safetensors(hparams["recognizer"], hparams["recognizer_file"])
    size, batch_size = hparams["segment_tokens"], hparams["batch_size"]
    n_items = hparams["steps_per_epoch"] * batch_size
    train = SpeechSegments(corpus, corpus.train, n_items, size)
    valid = SpeechSegments(corpus, corpus.valid, 8 * batch_size, size, True)
    fit(TokenToWavBrain, hparams, run_opts, train, valid)
    folder = Path(hparams["output_folder"])
    for name in ("token_decoder", "vocoder"):
        save_weights(hparams[name].state_dict(), folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
