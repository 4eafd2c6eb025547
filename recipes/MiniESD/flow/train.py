#!/usr/bin/env python3
"""Train the mini flow-matching model: speech tokens and speaker to log-mel.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). Beside
the flow's own loss, the encoder's mean is pulled to the mel (the prior loss
of Grad-TTS), without which a model this small needs many times the steps.

Writes ``flow.safetensors`` and ``speakers.safetensors`` (one vector for each
speaker) to the output folder.

Authors
 * speechbrain-emofilm contributors, 2026
"""

import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: torchaudio on CPU

import numpy as np
import speechbrain as sb
import torch
import torch.nn.functional as F
from hyperpyyaml import load_hyperpyyaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_brain import PretrainingBrain, save_weights  # noqa: E402
from pretraining_data import PretrainingCorpus  # noqa: E402


class TokenSegments(torch.utils.data.Dataset):
    """Random segments of tokens, mel and speaker, drawn anew each time."""

    def __init__(self, corpus, indices, n_items, n_tokens):
        self.corpus, self.n_items, self.n_tokens = corpus, n_items, n_tokens
        self.indices = corpus.with_length(indices, 2 * n_tokens)
        self.tokens = np.load(corpus.folder / "tokens.npy", mmap_mode="r")
        self.edges = np.cumsum(
            [0] + [corpus.n_frames(i) // 2 for i in range(len(corpus.rows))]
        )
        x_vectors = corpus.x_vectors()
        self.x_vectors = [x_vectors[name] for name in corpus.speakers]

    def __len__(self):
        return self.n_items

    def __getitem__(self, _):
        draw = torch.randint(0, 2**31 - 1, (2,)).tolist()
        index = self.indices[draw[0] % len(self.indices)]
        first = draw[1] % (self.corpus.n_frames(index) // 2 - self.n_tokens + 1)
        at = self.edges[index] + first
        tokens = self.tokens[at : at + self.n_tokens].astype(np.int64)
        mel = self.corpus.mel(index)[2 * first : 2 * (first + self.n_tokens)]
        return {
            "tokens": torch.from_numpy(tokens),
            "mel": torch.from_numpy(mel),
            "x_vector": self.x_vectors[self.corpus.speaker(index)],
        }


class FlowBrain(PretrainingBrain):
    """The flow's loss and the prior loss."""

    def compute_forward(self, batch, stage):
        """Encode the tokens."""
        flow = self.modules.flow
        n_tokens = torch.full((len(batch["tokens"]),), batch["tokens"].shape[1])
        return flow.encode(batch["tokens"], n_tokens)

    def compute_losses(self, predictions, batch, stage):
        """Both losses as a dictionary."""
        mu, n_frames = predictions
        flow = self.modules.flow
        mel = (batch["mel"] - flow.mel_mean) / flow.mel_std
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
    valid = TokenSegments(corpus, corpus.valid, 4 * hparams["batch_size"], size)
    brain = FlowBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={**run_opts, "max_grad_norm": hparams["max_grad_norm"]},
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        train,
        valid,
        train_loader_kwargs={"batch_size": hparams["batch_size"]},
        valid_loader_kwargs={"batch_size": hparams["batch_size"]},
    )
    folder = Path(hparams["output_folder"])
    save_weights(hparams["flow"].state_dict(), folder / "flow.safetensors")
    save_weights(corpus.x_vectors(), folder / "speakers.safetensors")


if __name__ == "__main__":
    main()
