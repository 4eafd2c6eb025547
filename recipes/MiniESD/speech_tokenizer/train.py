#!/usr/bin/env python3
"""Train the mini speech tokenizer, then tokenise the pretraining corpus.

python train.py hparams/train.yaml --data_folder CORPUS

Heads that are used in training only predict the phoneme, voicing, F0 relative
to the speaker and level of each quantised token, and a decoder predicts the
mel spectrogram from tokens and speaker. No emotion labels are used.

Writes ``speech_tokenizer.safetensors`` (inference part, float16) to the
output folder and ``tokens.npy`` (int16, all utterances in order) to the
corpus.
"""

import logging
import sys
from pathlib import Path

from speechbrain_emofilm.lobes.mini.speech_tokenizer import pool_prosody
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import RandomSegments  # noqa: E402

logger = logging.getLogger(__name__)


class Segments(RandomSegments):
    """Segments with mel, phonemes, relative F0 and speaker."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._cache = {}

    def segment(self, index, first, generator):
        """Return mel, phonemes, relative F0 and speaker."""
        frames = slice(2 * first, 2 * (first + self.size))
        if index not in self._cache:
            self._cache[index] = (
                self.corpus.frame_phonemes(index),
                self.corpus.relative_log_f0(index).astype(np.float32),
            )
        phonemes, f0 = self._cache[index]
        return {
            "mel": torch.from_numpy(self.corpus.mel(index)[frames]),
            "phonemes": torch.from_numpy(phonemes[frames]),
            "f0": torch.from_numpy(f0[frames]),
            "speaker": self.corpus.speaker(index),
        }


class TokenizerBrain(pretraining.PretrainingBrain):
    """Train the tokenizer and a direct decoder together."""

    def compute_forward(self, batch, stage):
        """Quantise and decode."""
        out = self.modules.tokenizer(batch["mel"])
        return out, self.modules.decoder(out.codes, batch["speaker"])

    def compute_losses(self, predictions, batch, stage):
        """Compute losses of mel, phonemes, F0, voicing and level."""
        out, decoded = predictions
        tokenizer = self.modules.tokenizer
        mel = (batch["mel"] - tokenizer.mean) / tokenizer.std
        f0, voiced, level = pool_prosody(batch["f0"], mel.mean(-1))
        error = F.l1_loss(decoded, mel) + 0.5 * F.mse_loss(decoded, mel)
        delta = F.l1_loss(decoded.diff(dim=1), mel.diff(dim=1))
        f0_error = (out.prosody[..., 0] - 3 * f0).abs() * voiced
        losses = {
            "mel": error,
            "delta": delta,
            "phoneme": F.cross_entropy(
                out.phonemes.flatten(0, 1), batch["phonemes"].flatten()
            ),
            "f0": f0_error.sum() / voiced.sum().clamp(min=1) / 3,
            "voicing": F.binary_cross_entropy_with_logits(
                out.prosody[..., 1], voiced
            ),
            "level": F.l1_loss(out.prosody[..., 2], level),
        }
        hparams = self.hparams
        losses["loss"] = (
            losses["mel"]
            + hparams.delta_weight * losses["delta"]
            + hparams.phoneme_weight * losses["phoneme"]
            + hparams.f0_weight * 3 * losses["f0"]
            + hparams.voicing_weight * losses["voicing"]
            + hparams.level_weight * losses["level"]
        )
        hits = out.phonemes.argmax(-1) == batch["phonemes"]
        losses["phoneme_accuracy"] = hits.float().mean()
        return losses


def tokenise_corpus(tokenizer, corpus):
    """Write the tokens of every utterance to the corpus folder."""
    tokenizer.eval()
    tokens = [
        tokenizer.tokenize_mel(torch.from_numpy(corpus.mel(index))[None])[0]
        for index in tqdm(range(len(corpus.rows)))
    ]
    tokens = torch.cat(tokens).numpy().astype(np.int16)
    with atomic_path(corpus.folder / "tokens.npy") as temporary:
        np.save(temporary, tokens)
    counts = np.bincount(tokens, minlength=6561)
    share = counts[counts > 0] / counts.sum()
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    logger.info(
        "%d tokens, %d codes used, perplexity %.0f",
        len(tokens),
        (counts > 0).sum(),
        perplexity,
    )


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    if hparams["n_speakers"] < len(corpus.speakers):
        raise ValueError(
            f"{corpus.folder} has {len(corpus.speakers)} speakers: set "
            f"n_speakers to that number (it is {hparams['n_speakers']})."
        )
    hparams["tokenizer"].load_state_dict(corpus.normalisation(), strict=False)
    segments = pretraining.draw_segments(
        Segments, corpus, hparams, hparams["segment_tokens"]
    )
    pretraining.fit(TokenizerBrain, hparams, run_opts, *segments)
    state = hparams["tokenizer"].state_dict()
    inference = {k: v for k, v in state.items() if not k.startswith("heads")}
    path = Path(hparams["output_folder"]) / "speech_tokenizer.safetensors"
    pretraining.save_weights(inference, path)
    tokenise_corpus(hparams["tokenizer"].cpu(), corpus)


if __name__ == "__main__":
    main()
