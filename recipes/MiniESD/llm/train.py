#!/usr/bin/env python3
"""Pretrain the mini LLM: text units to speech tokens, no emotion labels.

python train.py hparams/train.yaml --data_folder CORPUS

The corpus must hold ``tokens.npy`` (recipes/MiniESD/speech_tokenizer). The
model learns prosody from text alone: cues in the spelling of words,
instructions and emotive words (see ``make_pretraining_corpus.py``).

Two auxiliary losses speed up the training of a small model: some heads are
guided to attend to the unit being spoken, and the phoneme of the next token is
predicted in addition to the token.

With ``bistream_share``, that share of the training utterances is laid out with
text and speech in turns, so that the model can also speak a text that is still
being written (hparams/train_bistream.yaml). Validation then tells the losses
of both layouts apart.

Writes ``llm.safetensors`` (float16) to the output folder.
"""

import logging
import sys
from pathlib import Path

from speechbrain_emofilm.utils.assets import find_file, load_safetensors

import speechbrain as sb
import torch
import torch.nn.functional as F
from speechbrain.utils.checkpoints import Checkpointer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import pretraining_brain as pretraining  # noqa: E402
from pretraining_data import LengthBatches, collate, text_units  # noqa: E402

logger = logging.getLogger(__name__)


class Utterances(torch.utils.data.Dataset):
    """Utterances: text units, speech tokens, and the unit of each token."""

    def __init__(self, corpus, units, indices, max_tokens):
        self.corpus, self.units = corpus, units
        self.indices = [
            i
            for i in indices
            if units[i] and corpus.n_frames(i) // 2 <= max_tokens
        ]
        self.items = [self._item(index) for index in self.indices]
        self.lengths = [len(item["speech"]) for item in self.items]

    def _item(self, index):
        spoken = torch.from_numpy(self.corpus.token_units(index))
        text = torch.tensor(self.units[index])
        shift = len(text) - len(self.corpus.rows[index]["units"])
        return {
            "text": text,
            "speech": torch.from_numpy(self.corpus.tokens(index)),
            "unit": torch.where(spoken >= 0, spoken + shift, -1),
            "phoneme": torch.from_numpy(self.corpus.token_phonemes(index)),
        }

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


class LLMBrain(pretraining.PretrainingBrain):
    """Train with the speech tokens' cross-entropy and auxiliary losses."""

    def compute_forward(self, batch, stage):
        """Predict with teacher forcing; in training, from a partly corrupted
        history. Validation lays every utterance out in each way.
        """
        history, share = batch["speech"], self.hparams.bistream_share
        if stage != sb.Stage.TRAIN:
            layouts = {"": 0.0, "bistream_": 1.0} if share else {"": 0.0}
            return {
                name: self.predict(batch, history, certain)
                for name, certain in layouts.items()
            }
        replace = torch.rand(history.shape, device=history.device)
        replace = replace < self.hparams.history_corruption
        order = torch.randperm(history.numel(), device=history.device)
        shuffled = history.flatten()[order]
        history = torch.where(replace, shuffled.view_as(history), history)
        return {"": self.predict(batch, history, share)}

    def predict(self, batch, history, bistream_share):
        """Predict every speech token from the text and those before it."""
        return self.modules.llm(
            self.modules.embedding(batch["text"]),
            batch["text_lens"],
            batch["speech"],
            batch["speech_lens"],
            history=history,
            bistream_probability=bistream_share,
            output_attentions=True,
        )

    def compute_losses(self, predictions, batch, stage):
        """Compute all losses and accuracies, those of each layout by name."""
        return {
            layout + name: value
            for layout, out in predictions.items()
            for name, value in self.layout_losses(out, batch).items()
        }

    def layout_losses(self, out, batch):
        """Compute all losses and accuracies of one prediction."""
        hidden = out.hidden[out.supervised]
        unit = F.pad(batch["unit"], (0, 1), value=-1)
        phoneme = F.pad(batch["phoneme"], (0, 1), value=-1)[out.supervised]
        logits = self.modules.phoneme_head(hidden)
        losses = {
            "token": F.cross_entropy(out.logits, out.targets),
            "phoneme": F.cross_entropy(logits, phoneme, ignore_index=-1),
            "attention": self.attention_loss(out, unit),
        }
        losses["loss"] = (
            losses["token"]
            + self.hparams.phoneme_weight * losses["phoneme"]
            + self.hparams.attention_weight * losses["attention"]
        )
        known = phoneme >= 0
        hits = (logits.argmax(-1) == phoneme)[known]
        losses["phoneme_accuracy"] = hits.float().mean()
        hits = out.logits.argmax(-1) == out.targets
        losses["token_accuracy"] = hits.float().mean()
        if self.hparams.bistream_share:  # comparable between the layouts
            speech = out.targets != self.modules.llm.fill_id
            losses["speech"] = F.cross_entropy(
                out.logits[speech], out.targets[speech]
            )
        return losses

    def attention_loss(self, out, unit):
        """Compute the negative log of the guided heads' attention to the
        spoken unit and its two neighbours.
        """
        mask = out.supervised & (unit >= 0)
        n_text = out.text_positions.shape[1]
        total = 0.0
        for layer in self.hparams.guided_layers:
            heads = out.attentions[layer][:, : self.hparams.guided_heads]
            mass = 0.0
            rows = out.speech_positions[:, None, :, None]
            rows = heads.gather(
                2, rows.expand(-1, heads.shape[1], -1, heads.shape[-1])
            )
            for offset in (-1, 0, 1):
                near = (unit + offset).clamp(0, n_text - 1)
                near = out.text_positions.gather(1, near)[:, None, :, None]
                near = near.expand(-1, heads.shape[1], -1, 1)
                mass = mass + rows.gather(3, near)[..., 0]
            log_mass = torch.log(mass + 1e-4).mean(1)
            total = total - (log_mass * mask).sum() / mask.sum()
        return total / len(self.hparams.guided_layers)


def init_from(hparams, source):
    """Initialise with the weights of an earlier training: its output folder,
    or its ``llm.safetensors``, which holds no phoneme head.
    """
    llm, embedding = hparams["llm"], hparams["embedding"]
    if Path(source).suffix == ".safetensors":
        load_safetensors(llm, find_file(source))
        embedding.load_table(llm.llm.embed_tokens.weight)
        return
    parts = {name: hparams[name] for name in ("embedding", "phoneme_head")}
    Checkpointer(
        Path(source) / "save", {"llm": llm, **parts}, allow_partial_load=True
    ).recover_if_possible()


def main():
    """Train with the options of the command line."""
    hparams, run_opts, corpus = pretraining.start()
    units = text_units(corpus, hparams["frontend"])
    train, valid = (
        Utterances(corpus, units, indices, hparams["max_tokens"])
        for indices in (corpus.train, corpus.valid)
    )
    logger.info("%d utterances for training", len(train))
    if hparams["init_from"]:  # weights only: the schedule starts anew
        init_from(hparams, hparams["init_from"])
    batches = LengthBatches(
        train.lengths, hparams["batch_size"], hparams["steps_per_epoch"]
    )
    pretraining.fit(
        LLMBrain,
        hparams,
        run_opts,
        train,
        valid,
        train_loader_kwargs={"batch_sampler": batches, "collate_fn": collate},
        valid_loader_kwargs={"batch_size": 32, "collate_fn": collate},
    )
    llm = hparams["llm"]
    with torch.no_grad():
        table = hparams["embedding"].weight
        llm.llm.embed_tokens.weight.copy_(table)
    path = Path(hparams["output_folder"]) / "llm.safetensors"
    pretraining.save_weights(llm.state_dict(), path)


if __name__ == "__main__":
    main()
