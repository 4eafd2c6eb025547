#!/usr/bin/env python3
"""Train the listener: speech tokens to phonemes, without the text.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). The
synthesizer asks the listener which of several readings says its text best.

Writes ``token_listener.safetensors`` (float16) to the output folder.
"""

import sys
from pathlib import Path

import torch

RECIPES = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(RECIPES), str(RECIPES / "llm")]
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import LengthBatches, collate, text_units  # noqa: E402


class HeardUtterances(torch.utils.data.Dataset):
    """Utterances: speech tokens and the phonemes that they say."""

    def __init__(self, corpus, frontend, units, indices):
        self.items = []
        for index in indices:
            heard = [p for p in frontend.phonemes(units[index]) if p >= 0]
            if heard:
                speech = torch.from_numpy(corpus.tokens(index))
                self.items.append(
                    {"heard": torch.tensor(heard), "speech": speech}
                )
        self.lengths = [len(item["speech"]) for item in self.items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


class ListenerBrain(pretraining.PretrainingBrain):
    """Train with CTC."""

    def compute_forward(self, batch, stage):
        """Compute the loss per phoneme."""
        return self.modules.listener.loss(
            batch["speech"],
            batch["speech_lens"],
            batch["heard"],
            batch["heard_lens"],
        )

    def compute_losses(self, predictions, batch, stage):
        """Name the loss."""
        return {"loss": predictions}


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    units = text_units(corpus, hparams["frontend"])
    train, valid = (
        HeardUtterances(corpus, hparams["frontend"], units, indices)
        for indices in (corpus.train, corpus.valid)
    )
    batches = LengthBatches(
        train.lengths, hparams["batch_size"], hparams["steps_per_epoch"]
    )
    pretraining.fit(
        ListenerBrain,
        hparams,
        run_opts,
        train,
        valid,
        train_loader_kwargs={"batch_sampler": batches, "collate_fn": collate},
        valid_loader_kwargs={"batch_size": 32, "collate_fn": collate},
    )
    path = Path(hparams["output_folder"]) / "token_listener.safetensors"
    pretraining.save_weights(hparams["listener"].state_dict(), path)


if __name__ == "__main__":
    main()
