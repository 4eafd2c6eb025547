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
import sys
from pathlib import Path

from speechbrain_emofilm.core import ResumableBrain, train_and_export
from speechbrain_emofilm.dataio.alignments import (
    find_textgrid,
    match_words,
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
from speechbrain_emofilm.dataio.prompts import Prompt, PromptPool
from speechbrain_emofilm.dataio.speech_tokens import read_speech_tokens
from speechbrain_emofilm.dataio.word_prosody import read_word_prosody
from speechbrain_emofilm.lobes.conditioned_lm import ConditionedLMInputs
from speechbrain_emofilm.processing.prosody_axes import axes_tensor
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.files import file_fingerprint, read_json
from speechbrain_emofilm.utils.hparams import check_length, check_overrides
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from esd_corpus import corpus_manifests, prepare_corpus, read_manifests
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from tqdm import tqdm
from training_diagnosis import TrainingDiagnosis, choose_diagnosed

logger = get_logger(__name__)

MODEL_ITEMS = [
    "text_tokens",
    "word_of_token",
    "speech_tokens",
    "word_of_speech",
    "word_emotions",
    "word_intensity",
]
PROMPT_ITEMS = ["text", "text_tokens", "speech_tokens"]


class EmoFiLMBrain(ResumableBrain):
    """Trains what `EmotionConditionedLM` leaves trainable.

    The word pointer only watches: it reads states without gradients and has
    its own random numbers and optimizer, so that the rest is trained as
    without it.
    """

    best_key = "speech_loss"
    #: Names the failures that a validation shows.
    diagnosis = None
    #: Training utterances that others are trained behind.
    prompts = None

    def compute_forward(self, batch, stage):
        """Modulate the text and predict the speech tokens."""
        inputs = model_inputs(batch.to(self.device))
        if stage == sb.Stage.TRAIN and self.prompts is not None:
            prompts = self.prompts.choose(batch.speaker, batch.text)
            inputs = inputs.behind(prompts)
        return self.modules.emofilm(inputs)

    def compute_objectives(self, predictions, batch, stage):
        """Add the emotion loss and the word pointer's to that of speech."""
        counts = torch.stack(
            [
                predictions.n_speech,
                predictions.n_emotion,
                predictions.n_pointer,
            ]
        )
        if stage != sb.Stage.TRAIN:
            self.accumulate_stats(
                {
                    "speech_loss": (predictions.speech_loss, counts[0]),
                    "speech_accuracy": (predictions.speech_accuracy, counts[0]),
                    "emotion_loss": (predictions.emotion_loss, counts[1]),
                    "emotion_accuracy": (
                        predictions.emotion_accuracy,
                        counts[1],
                    ),
                    "modulation_ratio": (
                        predictions.modulation_ratio,
                        counts[1],
                    ),
                    "pointer_accuracy": (
                        predictions.pointer_accuracy,
                        counts[2],
                    ),
                }
            )
        scale = self.share_of_all_processes(counts, stage)
        return (
            scale[0] * predictions.speech_loss
            + self.hparams.emotion_loss_weight
            * scale[1]
            * predictions.emotion_loss
            + self.hparams.word_pointer_weight
            * scale[2]
            * predictions.pointer_loss
        )

    def init_optimizers(self):
        """Make one optimizer each for conditioner, head, backbone, pointer.

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
        pointer = model.word_pointer
        others = [model.llm] if pointer is None else [model.llm, pointer]
        in_others = {id(p) for module in others for p in module.parameters()}
        conditioner = [
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and id(parameter) not in in_others
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
        if pointer is not None:
            optimizer = self.hparams.pointer_opt_class(pointer.parameters())
            self.optimizers_dict["word_pointer"] = optimizer
            self.checkpointer.add_recoverable(
                "word_pointer", pointer, optional_load=True
            )
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(
                f"optimizer_{name}",
                optimizer,
                # Checkpoints of trainings without a pointer still load.
                optional_load=name == "word_pointer",
            )

    def on_fit_start(self):
        """Diagnose the frozen backbone as a baseline; then resume."""
        if self.diagnosis is not None:
            self.diagnosis.measure_floor(self)
        super().on_fit_start()

    def on_validated(self, epoch, stats):
        """Diagnose the epoch, and count epochs without improvement."""
        if self.diagnosis is not None:
            known = self.counts["modulation_ratio"] > 0
            ratio = stats["modulation_ratio"] if known else None
            self.diagnosis.log(self, epoch, ratio)
        self.hparams.epoch_counter.update_metric(stats["speech_loss"])


def model_inputs(batch):
    """Build the model's inputs from a batch."""
    axes = getattr(batch, "word_axes", None)
    frames = getattr(batch, "word_of_frame", None)
    return ConditionedLMInputs(
        text_tokens=batch.text_tokens.data,
        text_lens=batch.text_tokens.lengths,
        word_of_token=batch.word_of_token.data,
        speech_tokens=batch.speech_tokens.data,
        speech_lens=batch.speech_tokens.lengths,
        word_of_speech=batch.word_of_speech.data,
        word_emotions=batch.word_emotions.data,
        word_intensity=batch.word_intensity.data,
        word_axes=None if axes is None else axes.data,
        word_of_frame=None if frames is None else frames.data,
    )


def dataio_prepare(hparams):
    """Make the datasets of the splits, without unusable utterances.

    The items hold text_tokens (T,), word_of_token (T,), speech_tokens (S,),
    word_of_speech (S,), word_emotions (W, K) and word_intensity (W,), and
    with `axes` also word_axes (W, A). For a word pointer they also hold
    word_of_frame (S * R,), the word of each of the R parts of a token, and
    can hold word_times (W, 2).
    """
    emotions = hparams["emotions"]
    tokens_file = hparams["speech_tokens"]
    cache = read_speech_tokens(
        tokens_file,
        file_fingerprint(find_file(hparams["speech_tokenizer_file"])),
    )
    check_speech_tokens(
        cache, hparams["emofilm"].llm.speech_token_size, tokens_file
    )
    labels_of = label_reader(hparams)
    axes = hparams.get("axes", [])
    prosody = read_word_prosody(hparams["prosody_file"]) if axes else {}
    model_items = list(MODEL_ITEMS)
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
        seconds = len(speech_tokens) / hparams["speech_token_rate"]
        if abs(seconds - duration) > 0.2:
            raise ValueError(
                f"{tokens_file} has {seconds:.2f} s of speech tokens for "
                f"its {duration:.2f} s: run extract_speech_tokens.py again."
            )
        return speech_tokens

    # 3. Emotion of each word, and the word spoken at each speech token.
    @takes("id", "speaker", "emotion", "text", "units", "speech_tokens")
    @provides("word_emotions", "word_intensity", "word_of_speech")
    def word_pipeline(utterance, speaker, emotion, text, units, speech_tokens):
        labels, place = labels_of(utterance, speaker, emotion, text)
        check_labels(labels, emotions, str(place))
        check_words(labels, units.words, f"{utterance} in {place}")
        word_emotions, word_intensity = words_to_tensors(labels, emotions)
        yield word_emotions
        yield word_intensity
        yield word_of_speech(
            labels.alignment(), len(speech_tokens), hparams["speech_token_rate"]
        )

    # 4. Prosody of each word, as far as it is known, for a model with axes.
    @takes("id", "units")
    @provides("word_axes")
    def axes_pipeline(utterance, units):
        own = prosody.get(utterance)
        words = [None] * len(units.words) if own is None else own.words
        if len(words) != len(units.words):
            raise ValueError(
                f"{hparams['prosody_file']} has {len(words)} words of it, but "
                f"its text {len(units.words)}: run measure_prosody.py again."
            )
        return axes_tensor(words, axes)

    # 5. The word spoken, more finely than by token, for the word pointer.
    @takes("id", "speaker", "emotion", "text", "speech_tokens")
    @provides("word_times", "word_of_frame")
    def pointer_pipeline(utterance, speaker, emotion, text, speech_tokens):
        words = labels_of(utterance, speaker, emotion, text)[0].alignment()
        yield torch.tensor([[word.start, word.end] for word in words])
        parts = hparams["emofilm"].word_pointer.resolution
        yield word_of_speech(
            words,
            parts * len(speech_tokens),
            parts * hparams["speech_token_rate"],
        )

    pipelines = [text_pipeline, speech_pipeline, word_pipeline]
    if axes:
        pipelines.append(axes_pipeline)
        model_items.append("word_axes")
    if hparams["emofilm"].word_pointer is not None:
        pipelines.append(pointer_pipeline)
        model_items.append("word_of_frame")
    items = {
        split: read_items(hparams, split, cache.skipped)
        for split in ("train", "valid", "test")
    }
    # One process looks for unusable items; the others read what it found.
    listing = Path(hparams["output_folder"]) / "skipped.json"
    run_on_main(
        list_unusable,
        args=[items, pipelines, model_items, hparams["max_bad_share"], listing],
    )
    skipped = read_json(listing)
    datasets = {}
    for split in items:
        kept = {u: i for u, i in items[split].items() if u not in skipped}
        if not kept:
            raise ValueError(
                f"{' and '.join(corpus_manifests(hparams, [split]))} have no "
                "utterance to use: check the corpus and the options of its "
                "preparation."
            )
        datasets[split] = DynamicItemDataset(kept, pipelines)
        datasets[split].set_output_keys(["id", "speaker", "text", *model_items])
    return datasets


def prompt_pool(dataset, hparams):
    """Collect the utterances that prompt others; None if none is wanted."""
    if not hparams["prompt_share"]:
        return None
    prompts = {}
    keys = ["speaker", "duration", *PROMPT_ITEMS]
    with dataset.output_keys_as(keys):
        for item in tqdm(dataset, desc="Collecting prompts"):
            if item["duration"] <= hparams["max_prompt_duration"]:
                prompt = Prompt(*(item[key] for key in PROMPT_ITEMS))
                prompts.setdefault(item["speaker"], []).append(prompt)
    return PromptPool(prompts, hparams["prompt_share"])


def read_items(hparams, split, without_tokens):
    """Read a split's manifests, except what the extraction skipped."""
    items = read_manifests(
        corpus_manifests(hparams, [split]), hparams["data_folder"]
    )
    kept = {u: item for u, item in items.items() if u not in without_tokens}
    if len(kept) < len(items):
        logger.warning(
            f"{split}: {len(items) - len(kept)} of {len(items)} utterances "
            f"left out, as {hparams['speech_tokens']} skipped them."
        )
    return kept


def list_unusable(items, pipelines, model_items, max_bad_share, listing):
    """Try every item, so that no bad one stops a running training."""
    skipped = {}
    for split, entries in items.items():
        if not entries:
            continue
        dataset = DynamicItemDataset(entries, pipelines, model_items)
        for index, utterance in enumerate(
            tqdm(dataset.data_ids, desc=f"Checking {split}")
        ):
            try:
                dataset[index]
            except (ValueError, FileNotFoundError) as error:
                skipped[utterance] = str(error)
                # A failed pipeline would continue where it stopped.
                for pipeline in pipelines:
                    pipeline.reset()
    report_skipped(
        skipped, sum(map(len, items.values())), max_bad_share, listing
    )


def check_speech_tokens(cache, n_tokens, path):
    """Raise ValueError for speech tokens of another tokenizer."""
    for utterance, tokens in cache.tokens.items():
        outside = tokens[(tokens < 0) | (tokens >= n_tokens)]
        if len(outside):
            raise ValueError(
                f"{path} has the speech token {int(outside[0])} of "
                f"{utterance}, but the language model's are 0 to "
                f"{n_tokens - 1}: delete the file and run "
                "extract_speech_tokens.py again."
            )


def label_reader(hparams):
    """Return a function that finds an utterance's word labels.

    It maps (utterance, speaker, emotion, text) to the labels and their file.
    """
    source = hparams["label_source"]
    files = {"truth": "truth_file", "labels": "label_file"}
    if source == "sentence":

        def labels_of(utterance, speaker, emotion, text):
            path = find_textgrid(
                hparams["alignment_folder"], utterance, speaker
            )
            # An aligner of Mandarin writes several characters in an interval.
            words = match_words(read_alignment(path), text, path)
            return sentence_labels(words, emotion), path

    elif source in files:
        path = hparams[files[source]]
        labels = read_word_labels(path, hparams["emotions"])

        def labels_of(utterance, speaker, emotion, text):
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
    varied_file = hparams.get("varied_labels")
    if not hparams.get("axes") or not Path(varied_file).is_file():
        return labels_of
    varied = read_word_labels(varied_file, hparams["emotions"])

    def labels_of_all(utterance, *about):
        if utterance in varied:
            return varied[utterance], varied_file
        return labels_of(utterance, *about)

    return labels_of_all


def loader_options(hparams, train_data):
    """Return options of the training loader, with dynamic batching if asked."""
    options = dict(hparams["train_dataloader_opts"])
    if hparams["dynamic_batching"]:
        del options["batch_size"], options["shuffle"]
        options["batch_sampler"] = DynamicBatchSampler(
            train_data, **hparams["dynamic_batch_sampler"]
        )
    return options


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
    run_on_main(prepare_corpus, args=[hparams])
    datasets = dataio_prepare(hparams)

    # Training
    brain = EmoFiLMBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.prompts = prompt_pool(datasets["train"], hparams)
    diagnosed = choose_diagnosed(
        datasets["valid"],
        hparams["diagnosis_utterances"],
        hparams["batch_size"],
    )
    if diagnosed:
        brain.diagnosis = TrainingDiagnosis(diagnosed, model_inputs)
    train_and_export(
        brain,
        datasets,
        {
            "train": loader_options(hparams, datasets["train"]),
            "valid": hparams["valid_dataloader_opts"],
            "test": hparams["test_dataloader_opts"],
        },
        names=["efilm", "llm_decoder", "open_backbone", "word_pointer"],
        folder=hparams["output_folder"],
        hparams_file=hparams_file,
        overrides=overrides,
        part="synthesizer",
    )
    ddp_leave_group()
