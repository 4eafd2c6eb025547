#!/usr/bin/env python3
"""Recipe for training E-FiLM on pairs of readings, by DPO.

It continues a finished training of train.py: of two readings of a sentence in
the same asked emotions, the preferred one is made more probable than the
other (https://arxiv.org/abs/2305.18290). Emotion encoder, fusion and speech
head are trained; the reference is the model as train.py left it. `source`
says where the pairs come from:

* `sampled`: readings of the model itself, which sample_pairs.py has ranked;
* `parallel`: the corpus's own recordings, that in the asked emotion against
  one of the same sentence by the same speaker in another emotion;
* `both`.

> python sample_pairs.py hparams/prefer_mini.yaml --data_folder /path/to/ESD
> python prefer.py hparams/prefer_mini.yaml --data_folder /path/to/ESD
> python evaluate_preference.py hparams/prefer_mini.yaml \
    --data_folder /path/to/ESD

Pairs of recordings alone need no sampling:
> python prefer.py hparams/prefer_mini.yaml --data_folder /path/to/ESD \
    --source parallel

The same command resumes an interrupted training. The output folder holds a
synthesizer, as that of train.py does.
"""

import hashlib
import math
import random
import sys
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.core import ResumableBrain
from speechbrain_emofilm.dataio.prompts import Prompt
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    choose_voice,
    fingerprint,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.preference import SpeechScorer
from speechbrain_emofilm.utils.distributed import (
    ddp_leave_group,
    process_device,
)
from speechbrain_emofilm.utils.files import (
    copy_file,
    read_json,
    write_json,
)
from speechbrain_emofilm.utils.hparams import check_overrides

import speechbrain as sb
import torch
from esd_corpus import prepare_corpus
from esd_prepare import sentence_key
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from train import MODEL_ITEMS, dataio_prepare, loader_options, model_inputs

logger = get_logger(__name__)

SOURCES = ("sampled", "parallel", "both")


class PreferenceBrain(ResumableBrain):
    """Trains E-FiLM and the speech head to prefer the chosen readings."""

    best_key = "guarded_loss"

    def compute_forward(self, batch, stage):
        """Score the chosen readings, then the rejected ones."""
        batch = batch.to(self.device)
        inputs = model_inputs(batch)
        if any(prompt is not None for prompt in batch.prompt):
            inputs = inputs.behind(batch.prompt)
        return self.modules.scorer(inputs).halves()

    def compute_objectives(self, predictions, batch, stage):
        """Add the likelihood of the chosen readings to the DPO loss."""
        references = batch.reference.data.squeeze(1).chunk(2)
        out = self.hparams.preference_loss(*predictions, *references)
        if stage != sb.Stage.TRAIN:
            pairs, tokens = out.n_pairs, out.n_speech
            self.accumulate_stats(
                {
                    "preference_loss": (out.preference_loss, pairs),
                    "accuracy": (out.accuracy, pairs),
                    "margin": (out.margin, pairs),
                    "chosen_reward": (out.chosen_reward, pairs),
                    "speech_loss": (out.speech_loss, tokens),
                    "reference_speech_loss": (
                        out.reference_speech_loss,
                        tokens,
                    ),
                }
            )
        scale = self.share_of_all_processes(
            torch.stack([out.n_pairs, out.n_speech]), stage
        )
        return (
            scale[0] * out.preference_loss
            + self.hparams.sft_weight * scale[1] * out.speech_loss
        )

    def init_optimizers(self):
        """Make one optimizer each for the conditioner and the head."""
        model = self.modules.scorer
        model = getattr(model, "module", model).emofilm  # inside DDP
        self.optimizers_dict = {
            "conditioner": self.hparams.opt_class(model.efilm.parameters()),
            "head": self.hparams.head_opt_class(
                model.llm.llm_decoder.parameters()
            ),
        }
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"optimizer_{name}", optimizer)

    def on_validated(self, epoch, stats):
        """Guard against lost words: they first show as less probable speech.

        An epoch whose chosen readings have become less probable than allowed
        is never exported.
        """
        rise = stats["speech_loss"] - stats["reference_speech_loss"]
        lost = rise > self.hparams.max_speech_loss_rise
        stats["guarded_loss"] = math.inf if lost else stats["preference_loss"]
        if lost:
            logger.warning(
                f"Epoch {epoch}: the chosen readings' loss has risen by "
                f"{rise:.3f} per token, so that words may be lost; it will not "
                "be exported. Lower lr, or raise sft_weight or beta."
            )
        self.hparams.epoch_counter.update_metric(stats["guarded_loss"])


# --- Pairs ----------------------------------------------------------------


def parallel_pairs(items, n_rejected):
    """Pair recordings with others of the sentence in another emotion.

    `items` maps utterance ids to speaker, text and emotion; None is an
    emotion that switches within the sentence, which is a good example of no
    other. Returns pair id to utterance, chosen and rejected, the latter two
    names of speech tokens.
    """
    readings = {}
    for name, item in sorted(items.items()):
        place = item["speaker"], sentence_key(item["text"])
        readings.setdefault(place, []).append((name, item["emotion"]))
    pairs = {}
    for own in readings.values():
        for index, (name, emotion) in enumerate(own):
            others = [
                other
                for other, heard in own[index + 1 :] + own[:index]
                if heard is not None and heard != emotion
            ]
            # Each emotion is rejected as often as any other.
            for rejected in others[:n_rejected]:
                pairs[f"{name}<{rejected}"] = {
                    "utterance": name,
                    "chosen": name,
                    "rejected": rejected,
                }
    return pairs


def sampled_pairs(path, model_version):
    """Read the pairs of sample_pairs.py and the tokens of its readings."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: make it with sample_pairs.py, or set "
            "source to parallel."
        )
    content = read_json(path)
    if content["model"] != model_version:
        raise ValueError(
            f"{path} holds readings of another model: run sample_pairs.py "
            "again for this model_folder."
        )
    tokens = read_speech_tokens(
        Path(path).parent / content["speech_tokens"]
    ).tokens
    return content["pairs"], tokens


def split_pairs(pairs, items, valid_share, seed):
    """Hold out the pairs of some sentences for validation."""
    texts = {n: sentence_key(items[p["utterance"]]["text"]) for n, p in pairs}
    sentences = sorted(set(texts.values()))
    random.Random(seed).shuffle(sentences)
    n_held_out = max(1, round(valid_share * len(sentences)))
    held_out = set(sentences[:n_held_out])
    train = {n: p for n, p in pairs if texts[n] not in held_out}
    return train, {n: p for n, p in pairs if texts[n] in held_out}


def collect_pairs(hparams, datasets, model_version):
    """Collect the pairs of the splits, and the speech tokens they name."""
    source = hparams["source"]
    if source not in SOURCES:
        raise ValueError(
            f"source is {source!r}: set it to {', '.join(SOURCES)}."
        )
    tokens = dict(read_speech_tokens(hparams["speech_tokens"]).tokens)
    pairs = {"train": {}, "valid": {}}
    if source != "sampled":
        for split, found in pairs.items():
            found.update(
                parallel_pairs(
                    datasets[split].data, hparams["n_parallel_rejected"]
                )
            )
    if source != "parallel":
        sampled, readings = sampled_pairs(hparams["pairs_file"], model_version)
        train = datasets["train"].data
        usable = [(n, p) for n, p in sampled.items() if p["utterance"] in train]
        tokens.update(readings)
        splits = split_pairs(
            usable, train, hparams["valid_share"], hparams["seed"]
        )
        for found, more in zip(pairs.values(), splits):
            found.update(more)
    for split, found in pairs.items():
        if not found:
            raise ValueError(
                f"There is no pair for {split}: with source {source}, a "
                "sentence needs readings of different emotions, or of "
                "different scores."
            )
    return pairs, tokens


def pair_datasets(hparams, datasets, pairs, tokens, prompt_of):
    """Make the datasets of pairs: two items of train.py's for each pair."""
    made = {}
    for split, found in pairs.items():
        # Sampled validation pairs are of training utterances.
        places = {
            name: (dataset, index)
            for dataset in (datasets["valid"], datasets["train"])
            for index, name in enumerate(dataset.data_ids)
        }

        @takes("utterance", "chosen", "rejected")
        @provides("chosen_item", "rejected_item")
        def pair_pipeline(utterance, chosen, rejected, places=places):
            dataset, index = places[utterance]
            item = dict(dataset[index])
            emotion = dataset.data[utterance]["emotion"]
            item["prompt"] = prompt_of(utterance, item["speaker"], emotion)
            item.pop("text"), item.pop("speaker")
            for name in (chosen, rejected):
                speech = tokens[name]
                yield {
                    **item,
                    "speech_tokens": speech,
                    # The emotion loss is not used here.
                    "word_of_speech": torch.full_like(speech, -1),
                }

        entries = {}
        for name, pair in found.items():
            length = len(tokens[pair["chosen"]]) + len(tokens[pair["rejected"]])
            duration = length / hparams["speech_token_rate"]
            entries[name] = {**pair, "duration": duration}
        made[split] = DynamicItemDataset(
            entries, [pair_pipeline], ["id", "chosen_item", "rejected_item"]
        )
    return made


def collate_pairs(pairs):
    """Make one batch of the chosen items followed by the rejected ones."""
    return PaddedBatch(
        [
            pair[f"{kind}_item"]
            for kind in ("chosen", "rejected")
            for pair in pairs
        ]
    )


def prompt_finder(synthesizer, baseline_emotion):
    """Return a function that finds the prompt an utterance is spoken with.

    It maps an utterance's id, speaker and emotion to a Prompt, or None where
    the language model is not prompted.
    """
    made = {}

    def prompt_of(utterance, speaker, emotion):
        voice = choose_voice(
            Utterance(utterance, "", speaker, "", emotion),
            synthesizer.speakers,
            baseline_emotion,
        )
        if voice not in made:
            prompt = synthesizer.prompt(voice)
            made[voice] = None
            if prompt.text_ids or len(prompt.speech_tokens):
                made[voice] = Prompt(
                    "",
                    torch.tensor(prompt.text_ids, dtype=torch.long),
                    prompt.speech_tokens.cpu(),
                )
        return made[voice]

    return prompt_of


# --- Reference ------------------------------------------------------------


def item_key(item):
    """Hash all that decides the log-probability of an item."""
    digest = hashlib.sha256()
    prompt = item["prompt"]
    for name, value in [
        *((name, item[name]) for name in MODEL_ITEMS),
        ("prompt_text", prompt and prompt.text_tokens),
        ("prompt_speech", prompt and prompt.speech_tokens),
    ]:
        digest.update(name.encode())
        if value is not None:
            digest.update(str(tuple(value.shape)).encode())
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def reference_log_probs(
    scorer, datasets, path, model_version, batch_size, context
):
    """Score every reading under the reference, each only once.

    The file is of one model; what it holds already is not scored again. The
    `context` is that of the training: in another precision, the reference
    would differ from the model before its first update.
    """
    stored = read_json(path) if Path(path).is_file() else {}
    if stored.get("model") != model_version:
        stored = {"model": model_version, "log_probs": {}}
    known = stored["log_probs"]
    device = next(scorer.parameters()).device
    scorer.eval()
    pending = {}

    def score():
        batch = PaddedBatch(list(pending.values())).to(device)
        inputs = model_inputs(batch)
        if any(prompt is not None for prompt in batch.prompt):
            inputs = inputs.behind(batch.prompt)
        with torch.no_grad(), context:
            found = scorer(inputs).log_probs.double().tolist()
        known.update(zip(pending, found))
        pending.clear()

    n_known = len(known)
    for dataset in datasets.values():
        for pair in tqdm(dataset, desc="Scoring readings, reference"):
            for item in (pair["chosen_item"], pair["rejected_item"]):
                key = item_key(item)
                if key not in known:
                    pending[key] = item
            if len(pending) >= batch_size:
                score()
                if len(known) - n_known >= 1000:
                    write_json(path, stored)
                    n_known = len(known)
    if pending:
        score()
    write_json(path, stored)


def add_references(datasets, path):
    """Give every item of the pairs its log-probability under the reference."""
    known = read_json(path)["log_probs"]

    @takes("chosen_item", "rejected_item")
    @provides("chosen_item_referred", "rejected_item_referred")
    def reference_pipeline(*items):
        for item in items:
            reference = torch.tensor([known[item_key(item)]])
            yield {**item, "reference": reference}

    for dataset in datasets.values():
        dataset.add_dynamic_item(reference_pipeline)
        dataset.set_output_keys(
            {
                "id": "id",
                "chosen_item": "chosen_item_referred",
                "rejected_item": "rejected_item_referred",
            }
        )


# --- Model ----------------------------------------------------------------


def load_start(hparams, device):
    """Load the model that train.py left; open what E-FiLM trains of it."""
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        hparams["model_folder"], run_opts={"device": device}
    )
    emofilm = synthesizer.mods.emofilm
    emofilm.requires_grad_(False)
    emofilm.llm.freeze()
    emofilm.efilm.requires_grad_(True)
    return synthesizer


def export_synthesizer(checkpointer, min_key, model_folder, output_folder):
    """Write the start's folder anew with the best checkpoint's weights."""
    best = checkpointer.find_checkpoint(min_key=min_key)
    if best is None or not math.isfinite(best.meta[min_key]):
        raise ValueError(
            f"{checkpointer.checkpoints_dir} has no epoch in which the chosen "
            "readings stayed as probable as max_speech_loss_rise asks: lower "
            "lr, or raise sft_weight, beta or max_speech_loss_rise, and train "
            "in another output_folder."
        )
    output_folder = Path(output_folder)
    files = {path.name: path for path in Path(model_folder).glob("*.ckpt")}
    for name in ("efilm", "llm_decoder"):
        files[f"{name}.ckpt"] = best.paramfiles[name]
    files["synthesizer.yaml"] = Path(model_folder) / "synthesizer.yaml"
    for name, path in files.items():
        copy_file(path, output_folder / name)
    logger.info(f"{output_folder} holds the trained synthesizer.")


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    check_overrides(hparams, hparams_file, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Model
    synthesizer = load_start(hparams, process_device(run_opts))
    emofilm = synthesizer.mods.emofilm
    model_version = fingerprint(emofilm)
    scorer = SpeechScorer(emofilm)

    # Data
    run_on_main(prepare_corpus, args=[hparams])
    datasets = dataio_prepare(
        {
            **hparams,
            "emofilm": emofilm,
            "text_frontend": synthesizer.text_frontend,
        }
    )
    pairs, tokens = collect_pairs(hparams, datasets, model_version)
    pair_data = pair_datasets(
        hparams,
        datasets,
        pairs,
        tokens,
        prompt_finder(synthesizer, hparams["baseline_emotion"]),
    )
    # Training
    checkpointer = hparams["checkpointer"]
    checkpointer.add_recoverable("efilm", emofilm.efilm)
    checkpointer.add_recoverable("llm_decoder", emofilm.llm.llm_decoder)
    brain = PreferenceBrain(
        modules={"scorer": scorer},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=checkpointer,
    )
    run_on_main(
        reference_log_probs,
        args=[
            scorer,
            pair_data,
            hparams["reference_file"],
            f"{model_version} {hparams['precision']}",
            hparams["reference_batch_size"],
            brain.training_ctx,
        ],
    )
    add_references(pair_data, hparams["reference_file"])
    brain.fit(
        hparams["epoch_counter"],
        pair_data["train"],
        pair_data["valid"],
        train_loader_kwargs={
            **loader_options(hparams, pair_data["train"]),
            "collate_fn": collate_pairs,
        },
        valid_loader_kwargs={
            **hparams["valid_dataloader_opts"],
            "collate_fn": collate_pairs,
        },
    )
    run_on_main(
        export_synthesizer,
        args=[
            checkpointer,
            brain.best_key,
            hparams["model_folder"],
            hparams["output_folder"],
        ],
    )
    ddp_leave_group()
