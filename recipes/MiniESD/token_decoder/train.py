#!/usr/bin/env python3
"""Train the mini token decoder: speech tokens and speaker to log-mel.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). Writes
``token_decoder.safetensors`` and ``speakers.safetensors`` (one vector for
each speaker) to the output folder, and ``decoded_mel.npy`` to the corpus.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import speechbrain as sb
import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_brain import PretrainingBrain, fit, save_weights  # noqa: E402
from pretraining_data import (  # noqa: E402
    PretrainingCorpus,
    TokenSegments,
)


class DecoderBrain(PretrainingBrain):
    """L1 error of the log-mel and of its changes."""

    def compute_forward(self, batch, stage):
        """Decode."""
        return self.modules.decoder(batch["tokens"], batch["x_vector"])

    def compute_losses(self, predictions, batch, stage):
        """Both errors as a dictionary."""
        scale = self.hparams.decoder.mel_std
        mel = batch["mel"]
        losses = {
            "mel": F.l1_loss(predictions, mel) / scale,
            "delta": F.l1_loss(predictions.diff(dim=1), mel.diff(dim=1))
            / scale,
        }
        losses["loss"] = (
            losses["mel"] + self.hparams.delta_weight * losses["delta"]
        )
        return losses


def init_from_tokenizer(decoder, folder, corpus):
    """Start from the decoder that was trained with the tokenizer.

    That one knows its speakers by number and normalises every mel channel on
    its own; both are folded into this decoder's linear layers.
    """
    checkpoint = sorted(Path(folder).glob("CKPT*"))[-1]
    state = torch.load(checkpoint / "decoder.ckpt", weights_only=True)
    rows = state.pop("speaker.weight")
    vectors = corpus.x_vectors()
    vectors = torch.stack([vectors[name] for name in corpus.speakers])
    vectors = F.normalize(vectors, dim=1)
    state["speaker.weight"] = (torch.linalg.pinv(vectors) @ rows).T
    state["speaker.bias"] = torch.zeros(rows.shape[1])
    scale = corpus.normalisation()
    last = "at_50.3."
    std = scale["std"] / decoder.mel_std
    shift = (scale["mean"] - decoder.mel_mean) / decoder.mel_std
    state[last + "weight"] = state[last + "weight"] * std[:, None]
    state[last + "bias"] = state[last + "bias"] * std + shift
    decoder.load_state_dict(state)


def decode_corpus(decoder, corpus):
    """Write the decoder's mel of every utterance, for the vocoder to learn
    what it will be given.
    """
    decoder.eval()
    tokens = TokenSegments(corpus, corpus.train, 1, 2)
    vectors = tokens.x_vectors
    size = (int(tokens.edges[-1]) * 2, 80)
    with atomic_path(corpus.folder / "decoded_mel.npy") as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float16, size)
        for index in tqdm(range(len(corpus.rows)), desc="Decoding"):
            first, last = tokens.edges[index : index + 2]
            item = torch.from_numpy(tokens.tokens[first:last].astype(np.int64))[
                None
            ]
            vector = vectors[corpus.speaker(index)][None]
            with torch.no_grad():
                out[2 * first : 2 * last] = decoder(item, vector)[0].numpy()
        out.flush()


def main():
    """Command line."""
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides)
    sb.create_experiment_directory(
        hparams["output_folder"], hparams_file, overrides
    )
    corpus = PretrainingCorpus(hparams["data_folder"])
    if hparams["init_from"]:
        init_from_tokenizer(hparams["decoder"], hparams["init_from"], corpus)
    size, batch_size = hparams["segment_tokens"], hparams["batch_size"]
    n_items = hparams["steps_per_epoch"] * batch_size
    train = TokenSegments(corpus, corpus.train, n_items, size)
    valid = TokenSegments(corpus, corpus.valid, 4 * batch_size, size, True)
    fit(DecoderBrain, hparams, run_opts, train, valid)
    folder = Path(hparams["output_folder"])
    state = hparams["decoder"].state_dict()
    save_weights(state, folder / "token_decoder.safetensors")
    save_weights(corpus.x_vectors(), folder / "speakers.safetensors")
    decode_corpus(hparams["decoder"].cpu(), corpus)


if __name__ == "__main__":
    main()
