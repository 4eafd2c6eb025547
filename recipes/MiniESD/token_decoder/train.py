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
import torch
import torch.nn.functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import TokenSegments  # noqa: E402


class DecoderBrain(pretraining.PretrainingBrain):
    """Train with the L1 error of the log-mel and of its differences."""

    def compute_forward(self, batch, stage):
        """Decode."""
        return self.modules.decoder(batch["tokens"], batch["x_vector"])

    def compute_losses(self, predictions, batch, stage):
        """Compute both errors."""
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
    """Initialise from the decoder that was trained with the tokenizer.

    That decoder has a speaker embedding and normalises each mel channel
    separately; both are folded into this decoder's linear layers.
    """
    checkpoint = sorted(Path(folder).glob("CKPT*"))[-1]
    path = checkpoint / "decoder.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=True)
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
    """Write the predicted mel of every utterance for the vocoder's training."""
    decoder.eval()
    vectors = list(corpus.x_vectors().values())
    indices = range(len(corpus.rows))
    size = (sum(map(corpus.n_frames, indices)), 80)
    with atomic_path(corpus.folder / "decoded_mel.npy") as temporary:
        out = np.lib.format.open_memmap(temporary, "w+", np.float16, size)
        first = 0
        for index in tqdm(indices, desc="Decoding"):
            tokens = torch.from_numpy(corpus.tokens(index))[None]
            with torch.no_grad():
                mel = decoder(tokens, vectors[corpus.speaker(index)][None])[0]
            out[first : first + len(mel)] = mel.numpy()
            first += len(mel)
        out.flush()


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    if hparams["init_from"]:
        init_from_tokenizer(hparams["decoder"], hparams["init_from"], corpus)
    segments = pretraining.draw_segments(
        TokenSegments, corpus, hparams, hparams["segment_tokens"]
    )
    pretraining.fit(DecoderBrain, hparams, run_opts, *segments)
    folder = Path(hparams["output_folder"])
    state = hparams["decoder"].state_dict()
    pretraining.save_weights(state, folder / "token_decoder.safetensors")
    pretraining.save_weights(
        corpus.x_vectors(), folder / "speakers.safetensors"
    )
    decode_corpus(hparams["decoder"].cpu(), corpus)


if __name__ == "__main__":
    main()
