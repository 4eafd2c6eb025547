#!/usr/bin/env python3
"""Recipe for training E-FiLM: word-level emotion for a frozen speech LLM.

An emotion encoder and a fusion layer (FiLM by default) modulate the text
embeddings of a frozen CosyVoice2 language model, so that each word is spoken
with the emotion it is given (https://arxiv.org/abs/2509.20378). Only they,
the speech head and the auxiliary emotion classifier are trained, unless
`backbone_training` opens more.

To run this recipe, make the speech tokens once, then train:
> python extract_speech_tokens.py hparams/mini.yaml --data_folder /path/to/ESD
> python train.py hparams/mini.yaml --data_folder /path/to/ESD

With two processes on CPU (on GPUs, leave the last option out):
> torchrun --nproc_per_node=2 train.py hparams/mini.yaml \
    --data_folder /path/to/ESD --distributed_backend=gloo

The same command resumes an interrupted training, also within an epoch, and
ends with the same parameters as an uninterrupted one.
"""

import functools
import shutil
import sys
from collections import Counter
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import (
    find_textgrid,
    read_alignment,
    word_of_speech,
)
from speechbrain_emofilm.dataio.labels import (
    check_labels,
    check_words,
    read_word_labels,
    sentence_labels,
    words_to_tensors,
)
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.lobes.conditioned_lm import ConditionedLMInputs
from speechbrain_emofilm.metrics.condition_effect import (
    ConditionEffect,
    beside_switch,
)
from speechbrain_emofilm.metrics.diagnosis import signatures
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.files import atomic_path, file_fingerprint
from speechbrain_emofilm.utils.hparams import check_length, check_overrides

import numpy as np
import speechbrain as sb
import torch
import yaml
from esd_prepare import prepare_esd
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataio import load_data_json
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    FilteredSortedDynamicItemDataset,
)
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from transitions_prepare import prepare_transitions

logger = get_logger(__name__)


class EmoFiLMBrain(sb.Brain):
    """Trains what `EmotionConditionedLM` leaves trainable."""

    #: Batches of validation utterances that failures are named by.
    diagnosed = ()

    def compute_forward(self, batch, stage):
        """Modulates the text and predicts the speech tokens.

        Arguments
        ---------
        batch : PaddedBatch
            Items of `dataio_prepare`.
        stage : sb.Stage
            The stage of the experiment.

        Returns
        -------
        ConditionedLMOutput
            Losses and statistics, each a mean over the batch.
        """
        return self.modules.emofilm(model_inputs(batch.to(self.device)))

    def compute_objectives(self, predictions, batch, stage):
        """Adds the step-wise emotion loss to the speech-token loss.

        Arguments
        ---------
        predictions : ConditionedLMOutput
            From `compute_forward`.
        batch : PaddedBatch
            The batch it came from.
        stage : sb.Stage
            The stage of the experiment.

        Returns
        -------
        torch.Tensor
            0-d loss.
        """
        if stage != sb.Stage.TRAIN:
            self.remember(predictions)
        scale = self.share_of_all_processes(predictions, stage)
        return (
            scale[0] * predictions.speech_loss
            + self.hparams.emotion_loss_weight
            * scale[1]
            * predictions.emotion_loss
        )

    def share_of_all_processes(self, predictions, stage):
        """Weights that make the mean of the processes' losses a true mean.

        DistributedDataParallel averages gradients over processes, but their
        batches hold different numbers of speech tokens.

        Arguments
        ---------
        predictions : ConditionedLMOutput
            This process's losses and the counts behind them.
        stage : sb.Stage
            The stage of the experiment.

        Returns
        -------
        torch.Tensor
            (2,): factors of the speech and of the emotion loss.
        """
        counts = torch.stack([predictions.n_speech, predictions.n_emotion])
        if stage != sb.Stage.TRAIN or not self.distributed_launch:
            return torch.ones_like(counts)
        totals = counts.float()
        torch.distributed.all_reduce(totals)
        world_size = torch.distributed.get_world_size()
        return world_size * counts / totals.clamp(min=1)

    def remember(self, predictions):
        """Sums a batch's statistics over its positions.

        Arguments
        ---------
        predictions : ConditionedLMOutput
            From `compute_forward`.
        """
        for name, count in {
            "speech_loss": predictions.n_speech,
            "speech_accuracy": predictions.n_speech,
            "emotion_loss": predictions.n_emotion,
            "emotion_accuracy": predictions.n_emotion,
            "modulation_ratio": predictions.n_emotion,
        }.items():
            self.sums[name] += float(getattr(predictions, name)) * float(count)
            self.counts[name] += float(count)

    def fit_batch(self, batch):
        """Accumulates gradients and, at the end of a group, updates.

        SpeechBrain drops the last batches of an epoch if they do not fill a
        group of `grad_accumulation_factor`; here they make a smaller one.

        Arguments
        ---------
        batch : PaddedBatch
            A training batch.

        Returns
        -------
        torch.Tensor
            0-d loss, detached.
        """
        factor = self.grad_accumulation_factor
        n_last = self.n_batches % factor
        in_last = self.step > self.n_batches - n_last
        self.at_update = self.step % factor == 0 or self.step == self.n_batches
        self.on_fit_batch_start(batch, self.at_update)
        with self.no_sync(not self.at_update):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.check_loss_isfinite(loss)
            group_size = n_last if in_last else factor
            self.scaler.scale(loss / group_size).backward()
        if self.at_update:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, self.at_update)
        return loss.detach().cpu()

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rates and the random numbers of this step.

        Both depend on nothing but the place in the training, so that a
        resumed run repeats them.

        Arguments
        ---------
        batch : PaddedBatch
            The batch about to be used.
        should_step : bool
            Whether parameters are updated after it.
        """
        place = [
            self.hparams.seed,
            self.hparams.epoch_counter.current,
            self.step,
            int(torch.distributed.get_rank()) if self.distributed_launch else 0,
        ]
        seed = np.random.SeedSequence(place).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))
        for name, optimizer in self.optimizers_dict.items():
            schedule = self.hparams.lr_schedules[name]
            self.lr[name] = schedule(optimizer, self.optimizer_step)

    def init_optimizers(self):
        """Makes one optimizer each for conditioner, head and backbone.

        Each has its own learning rate, and one parameter group because
        SpeechBrain clips the gradients of the first group only. A frozen
        backbone has none.
        """
        model = self.modules.emofilm
        model = getattr(model, "module", model)  # inside DDP
        head, backbone = [], []
        for name, parameter in model.llm.named_parameters():
            if parameter.requires_grad:
                in_head = name.startswith("llm_decoder.")
                (head if in_head else backbone).append(parameter)
        in_llm = {id(parameter) for parameter in model.llm.parameters()}
        conditioner = [
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and id(parameter) not in in_llm
        ]
        self.optimizers_dict = {
            "conditioner": self.hparams.opt_class(conditioner),
            "head": self.hparams.head_opt_class(head),
        }
        if backbone:
            optimizer = self.hparams.backbone_opt_class(backbone)
            self.optimizers_dict["backbone"] = optimizer
            self.checkpointer.add_recoverable(
                "open_backbone", self.hparams.open_backbone
            )
        self.lr = {}
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"optimizer_{name}", optimizer)

    def make_dataloader(
        self, dataset, stage, ckpt_prefix="dataloader-", **loader_kwargs
    ):
        """Makes a loader whose order depends on the epoch alone.

        Arguments
        ---------
        dataset : Dataset
            The data.
        stage : sb.Stage
            Its use.
        ckpt_prefix : str, optional
            Prefix of the loader's name in checkpoints.
        **loader_kwargs : dict
            Those of the DataLoader.
        """
        loader = super().make_dataloader(
            dataset, stage, ckpt_prefix, **loader_kwargs
        )
        if stage == sb.Stage.TRAIN:
            self.n_batches = len(loader)
            # SpeechBrain tells the epoch to its own samplers only; without
            # it, a batch sampler's order depends on the epochs before.
            if self.train_sampler is None:
                self.train_sampler = loader_kwargs.get("batch_sampler")
        return loader

    def on_fit_start(self):
        """Resumes; ends at once if the training was complete."""
        if self.diagnosed:  # what the frozen backbone predicts
            self.floor = self.measure_condition(labelled=False)
        super().on_fit_start()
        between_epochs = self.step == 0
        if self._optimizer_step_limit_exceeded and between_epochs:
            counter = self.hparams.epoch_counter
            counter.limit = counter.current

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        """Saves between updates only: accumulated gradients are not saved."""
        return self.at_update and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def on_stage_start(self, stage, epoch=None):
        """Starts the statistics anew.

        Arguments
        ---------
        stage : sb.Stage
            The stage that starts.
        epoch : int, optional
            The epoch, from 1.
        """
        self.sums, self.counts = Counter(), Counter()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs; after validation also saves a checkpoint.

        Arguments
        ---------
        stage : sb.Stage
            The stage that ended.
        stage_loss : float
            Mean loss of its batches.
        epoch : int, optional
            The epoch, from 1.
        """
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss}
            return
        stats = {"loss": stage_loss}
        for name, total in self.sums.items():
            stats[name] = total / max(self.counts[name], 1)
        if stage == sb.Stage.TEST:
            self.hparams.train_logger.log_stats(
                {"Epoch loaded": self.hparams.epoch_counter.current},
                test_stats=stats,
            )
            return
        self.log_epoch(epoch, stats)
        if self.diagnosed:
            self.log_failures(epoch, stats)
        self.hparams.epoch_counter.update_metric(stats["speech_loss"])
        self.checkpointer.save_and_keep_only(
            meta={"epoch": epoch, "speech_loss": stats["speech_loss"]},
            min_keys=["speech_loss"],
        )

    def log_epoch(self, epoch, valid_stats):
        """Writes an epoch's statistics to the log and to TensorBoard.

        Arguments
        ---------
        epoch : int
            The epoch, from 1.
        valid_stats : dict
            Statistics of the validation.
        """
        stats = {
            "stats_meta": {
                "epoch": epoch,
                "step": self.optimizer_step,
                **{f"lr_{name}": rate for name, rate in self.lr.items()},
            },
            "train_stats": self.train_stats,
            "valid_stats": valid_stats,
        }
        self.hparams.train_logger.log_stats(**stats)
        if self.hparams.use_tensorboard:
            board = self.hparams.tensorboard_train_logger
            # A resumed run goes on where the curves ended.
            board.global_step = {
                "train": dict.fromkeys(self.train_stats, epoch - 1),
                "valid": dict.fromkeys(valid_stats, epoch - 1),
                "test": {},
                "meta": epoch - 1,
            }
            board.log_stats(**stats)

    def measure_condition(self, labelled=True):
        """Measures what the words' emotions do to the predicted speech.

        Arguments
        ---------
        labelled : bool
            Whether the words have their emotions.

        Returns
        -------
        dict
            Figures of `ConditionEffect`.
        """
        self.modules.eval()
        model = self.modules.emofilm
        model = getattr(model, "module", model)  # inside DDP
        effect = ConditionEffect()
        # The training's random numbers stay what they are without this.
        with torch.random.fork_rng(devices=[]), self.evaluation_ctx:
            for batch in self.diagnosed:
                inputs = model_inputs(batch.to(self.device))
                inputs = inputs._replace(
                    word_emotions=inputs.word_emotions * labelled
                )
                effect.append(batch.id, model, inputs)
        return effect.values()

    def log_failures(self, epoch, valid_stats):
        """Names in the log what the validation shows to be wrong.

        Arguments
        ---------
        epoch : int
            The epoch, from 1.
        valid_stats : dict
            Statistics of the validation.
        """
        figures = self.measure_condition()
        if self.counts["modulation_ratio"]:
            figures["modulation_ratio"] = valid_stats["modulation_ratio"]
        floor = {"speech_loss": self.floor["speech_loss"]}
        judged = signatures(figures, floor=floor)
        found = [str(s).rstrip(".") for s in judged if s.verdict == "found"]
        untested = [s.name for s in judged if s.verdict == "untested"]
        self.hparams.train_logger.log_stats(
            {
                f"diagnosis of epoch {epoch}": "; ".join(found) or "no failure",
                "untested": " and ".join(untested) or "none",
                "frozen speech_loss": floor["speech_loss"],
            },
            valid_stats=figures,
        )


def model_inputs(batch):
    """Build the model's inputs from a batch.

    Arguments
    ---------
    batch : PaddedBatch
        Items of `dataio_prepare`.

    Returns
    -------
    ConditionedLMInputs
        Inputs of `EmotionConditionedLM`.
    """
    return ConditionedLMInputs(
        text_tokens=batch.text_tokens.data,
        text_lens=batch.text_tokens.lengths,
        word_of_token=batch.word_of_token.data,
        speech_tokens=batch.speech_tokens.data,
        speech_lens=batch.speech_tokens.lengths,
        word_of_speech=batch.word_of_speech.data,
        word_emotions=batch.word_emotions.data,
        word_intensity=batch.word_intensity.data,
    )


def dataio_prepare(hparams):
    """Makes the datasets of the manifests, and checks every item.

    Arguments
    ---------
    hparams : dict
        The recipe's hyperparameters.

    Returns
    -------
    dict of str: DynamicItemDataset
        For "train", "valid" and "test". Items: text_tokens (T,),
        word_of_token (T,), speech_tokens (S,), word_of_speech (S,),
        word_emotions (W, K) and word_intensity (W,).
    """
    emotions = hparams["emotions"]
    tokens_file = hparams["speech_tokens"]
    cache = read_speech_tokens(
        tokens_file,
        file_fingerprint(find_file(hparams["speech_tokenizer_file"])),
    )
    n_speech_tokens = hparams["emofilm"].llm.speech_token_size
    labels_of = label_reader(hparams)
    # A corpus has the same sentence in several emotions.
    encode = functools.lru_cache(maxsize=None)(hparams["text_frontend"].encode)

    # 1. Text: tokens, and the word that each belongs to.
    @takes("text")
    @provides("units", "text_tokens", "word_of_token")
    def text_pipeline(text):
        units = encode(text)
        yield units
        yield torch.tensor(units.ids)
        yield torch.tensor(units.word_of_unit)

    # 2. Speech: cached tokens.
    @takes("id", "duration")
    @provides("speech_tokens")
    def speech_pipeline(utterance, duration):
        if utterance not in cache.tokens:
            raise ValueError(
                f"{tokens_file} has no speech tokens of it: run "
                "extract_speech_tokens.py again."
            )
        speech_tokens = cache.tokens[utterance]
        outside = (speech_tokens < 0) | (speech_tokens >= n_speech_tokens)
        if outside.any():
            raise ValueError(
                f"{tokens_file} has the speech token "
                f"{int(speech_tokens[outside][0])} of it, but the language "
                f"model's are 0 to {n_speech_tokens - 1}: delete the file and "
                "run extract_speech_tokens.py again."
            )
        seconds = len(speech_tokens) / hparams["speech_token_rate"]
        if abs(seconds - duration) > 0.2:
            raise ValueError(
                f"{tokens_file} has {seconds:.2f} s of speech tokens for "
                f"its {duration:.2f} s: run extract_speech_tokens.py again."
            )
        return speech_tokens

    # 3. Emotion of each word, and the word spoken at each speech token.
    @takes("id", "speaker", "emotion", "units", "speech_tokens")
    @provides("word_emotions", "word_intensity", "word_of_speech")
    def word_pipeline(utterance, speaker, emotion, units, speech_tokens):
        labels, place = labels_of(utterance, speaker, emotion)
        check_labels(labels, emotions, str(place))
        check_words(labels, units.words, f"{utterance} in {place}")
        word_emotions, word_intensity = words_to_tensors(labels, emotions)
        yield word_emotions
        yield word_intensity
        yield word_of_speech(
            labels.alignment(), len(speech_tokens), hparams["speech_token_rate"]
        )

    datasets = {}
    for split in ("train", "valid", "test"):
        manifests = [hparams["manifests"][split]]
        if hparams["use_transitions"]:
            manifests.append(hparams["transitions_manifests"][split])
        items = {}
        for manifest in manifests:
            items.update(
                load_data_json(manifest, {"data_root": hparams["data_folder"]})
            )
        kept = {u: item for u, item in items.items() if u not in cache.skipped}
        if not kept:
            raise ValueError(
                f"{' and '.join(manifests)} have no utterance to use: check "
                "the corpus and the options of its preparation."
            )
        if len(kept) < len(items):
            logger.warning(
                f"{split}: {len(items) - len(kept)} of {len(items)} "
                f"utterances left out, as {tokens_file} skipped them."
            )
        datasets[split] = DynamicItemDataset(
            kept, [text_pipeline, speech_pipeline, word_pipeline]
        )
        datasets[split].set_output_keys(
            [
                "id",
                "text_tokens",
                "word_of_token",
                "speech_tokens",
                "word_of_speech",
                "word_emotions",
                "word_intensity",
            ]
        )
        run_on_main(check_dataset, args=[datasets[split], manifests])
    return datasets


def label_reader(hparams):
    """Makes the function that finds an utterance's word labels.

    Arguments
    ---------
    hparams : dict
        The recipe's hyperparameters.

    Returns
    -------
    callable
        (utterance, speaker, emotion) to UtteranceLabels and where they are
        written.
    """
    source = hparams["label_source"]
    files = {"truth": "truth_file", "labels": "label_file"}
    if source == "sentence":

        def labels_of(utterance, speaker, emotion):
            path = find_textgrid(
                hparams["alignment_folder"], utterance, speaker
            )
            return sentence_labels(read_alignment(path), emotion), path

    elif source in files:
        path = hparams[files[source]]
        labels = read_word_labels(path, hparams["emotions"])

        def labels_of(utterance, speaker, emotion):
            if utterance not in labels:
                raise ValueError(
                    f"{path} has no word labels of it: label it, or take it "
                    "out of the corpus."
                )
            return labels[utterance], path

    else:
        raise ValueError(
            f"label_source is {source!r}: set it to truth, labels or sentence."
        )
    return labels_of


def check_dataset(dataset, manifests):
    """Reads every item once, so that no bad one stops a running training.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The data.
    manifests : list of str
        Where it comes from, for messages.

    Raises
    ------
    ValueError
        If one is bad.
    """
    place = " and ".join(map(str, manifests))
    for index, utterance in enumerate(
        tqdm(dataset.data_ids, desc=f"Checking {Path(manifests[0]).stem}")
    ):
        try:
            dataset[index]
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"{place}, utterance {utterance}: {error}"
            ) from error


def choose_diagnosed(dataset, n, batch_size):
    """Chooses utterances that failures of the training are named by.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The validation data.
    n : int
        How many at most.
    batch_size : int
        How many at once.

    Returns
    -------
    list of PaddedBatch
        Utterances whose emotion switches come first; labelled ones follow.
    """
    switching, steady = [], []
    if n:
        with dataset.output_keys_as(["id", "word_emotions"]):
            for item in dataset:
                emotions = item["word_emotions"]
                if beside_switch(emotions[None]).any():
                    switching.append(item["id"])
                elif emotions.any():
                    steady.append(item["id"])
    chosen = spread_evenly(switching, n)
    chosen += spread_evenly(steady, n - len(chosen))
    items = list(FilteredSortedDynamicItemDataset(dataset, chosen))
    return [
        PaddedBatch(items[start : start + batch_size])
        for start in range(0, len(items), batch_size)
    ]


def spread_evenly(items, n):
    """Chooses from all parts of a list.

    Arguments
    ---------
    items : list
        What to choose from.
    n : int
        How many at most.
    """
    n = min(n, len(items))
    return [items[index * len(items) // n] for index in range(n)]


def loader_options(hparams, train_data):
    """Options of the training loader, with dynamic batching if asked.

    Arguments
    ---------
    hparams : dict
        The recipe's hyperparameters.
    train_data : DynamicItemDataset
        The training data.
    """
    options = dict(hparams["train_dataloader_opts"])
    if hparams["dynamic_batching"]:
        del options["batch_size"], options["shuffle"]
        options["batch_sampler"] = DynamicBatchSampler(
            train_data, **hparams["dynamic_batch_sampler"]
        )
    return options


def export_synthesizer(hparams, hparams_file, overrides):
    """Makes the output folder one that `EmoFiLMSynthesizer` loads.

    Arguments
    ---------
    hparams : dict
        The recipe's hyperparameters.
    hparams_file : str
        The file that they come from.
    overrides : str
        What the command line changed in it.
    """
    folder = Path(hparams["output_folder"])
    best = hparams["checkpointer"].find_checkpoint(min_key="speech_loss")
    for name in {"efilm", "llm_decoder", "open_backbone"} & set(
        best.paramfiles
    ):
        with atomic_path(folder / f"{name}.ckpt") as temporary:
            shutil.copyfile(best.paramfiles[name], temporary)
    with open(hparams_file, encoding="utf-8") as fin:
        document = yaml.compose(resolve_references(fin, overrides))
    parts = {key.value: value for key, value in document.value}
    with atomic_path(folder / "synthesizer.yaml") as temporary:
        # Composed and not loaded: the parts stay tags, to be made by whoever
        # loads the file.
        temporary.write_text(yaml.serialize(parts["synthesizer"]))
    logger.info(f"{folder} can be given to EmoFiLMSynthesizer.from_hparams.")


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    check_overrides(hparams, hparams_file, overrides)
    check_length(hparams, hparams_file, "n_emotions", "emotions")
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Data
    if not hparams["skip_prep"]:
        run_on_main(prepare_esd, kwargs=hparams["prepare_opts"])
        if hparams["use_transitions"]:
            run_on_main(
                prepare_transitions,
                args=[hparams["data_folder"], hparams["prepared_folder"]],
            )
    datasets = dataio_prepare(hparams)

    # Training
    if hparams["use_tensorboard"]:
        hparams["tensorboard_train_logger"] = hparams["tensorboard_logger"](
            hparams["tensorboard_folder"]
        )
    brain = EmoFiLMBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.diagnosed = choose_diagnosed(
        datasets["valid"],
        hparams["diagnosis_utterances"],
        hparams["batch_size"],
    )
    brain.fit(
        brain.hparams.epoch_counter,
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=loader_options(hparams, datasets["train"]),
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )

    # The best checkpoint: its losses, and a folder that speaks
    brain.evaluate(
        datasets["test"],
        min_key="speech_loss",
        test_loader_kwargs=dict(hparams["test_dataloader_opts"]),
    )
    run_on_main(export_synthesizer, args=[hparams, hparams_file, overrides])
    ddp_leave_group()
