#!/usr/bin/env python3
"""Recipe for training a word-emotion labeler from sentence labels.

The frames of each word (emotion features, alignment) are averaged, a light
transformer reads the words of an utterance, and its heads predict the emotion
and intensity of each word (https://arxiv.org/abs/2509.20378). Known is the
emotion of the sentence; `supervision` chooses how it is used:

    multiple_instance  the words' predictions explain the sentence (default)
    broadcast          each word has the sentence's emotion, as in the paper
    words              the true emotion of each word, an upper bound

To run this recipe, align the corpus and extract its emotion features, then
train:
> python align.py hparams/align.yaml --data_folder CORPUS
> python extract_features.py hparams/extract_features.yaml --data_folder CORPUS
> python train.py hparams/train_mini.yaml --data_folder CORPUS

label.py and `WordEmotionLabeler` load the output folder (or `labeler_folder`,
if that is another one).
"""

import functools
import itertools
import sys
from pathlib import Path

from speechbrain_emofilm.core import ResumableBrain, train_and_export
from speechbrain_emofilm.dataio.feature_cache import (
    EmotionFeatureCache,
    extractor_identity,
)
from speechbrain_emofilm.dataio.labels import (
    check_words,
    read_word_labels,
    sentence_labels,
    words_to_tensors,
)
from speechbrain_emofilm.dataio.word_features import (
    aligned_words,
    word_features,
)
from speechbrain_emofilm.lobes.efilm import is_labelled
from speechbrain_emofilm.lobes.word_emotion import (
    WordTargets,
    bag_attention,
    splice_bags,
    word_mask,
)
from speechbrain_emofilm.utils.distributed import ddp_leave_group
from speechbrain_emofilm.utils.hparams import check_length
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import run_on_main
from tqdm import tqdm


class WordEmotionBrain(ResumableBrain):
    """Trains the `WordEmotionTransformer`."""

    best_key = "loss"

    def compute_forward(self, batch, stage):
        """Predict the words' emotions; in training, of spliced utterances."""
        batch = batch.to(self.device)
        features, lens = batch.features
        words = word_mask(features, lens)
        targets = WordTargets(
            batch.emotions.data,
            batch.attributes.data,
            torch.where(words, 0, -1),
        )
        share = self.hparams.splice_shares[self.hparams.supervision]
        if stage == sb.Stage.TRAIN and share > 0:
            features, lens, targets = splice_bags(
                features, lens, targets, share
            )
        return self.modules.word_emotion(features, lens), targets

    def compute_objectives(self, predictions, batch, stage):
        """Compute the loss of the chosen supervision."""
        output, targets = predictions
        if stage != sb.Stage.TRAIN:
            self.count(output, targets)
        return self.hparams.losses[self.hparams.supervision](output, targets)

    def count(self, output, targets):
        """Count the words and sentences with correctly predicted emotion."""
        probs = output.logits.softmax(-1)
        words = targets.bags >= 0
        right = (probs.argmax(-1) == targets.emotions)[words]
        accuracies = {"target_accuracy": right}
        if self.hparams.supervision != "words":
            attention = bag_attention(output.attention, words)
            found = (attention.unsqueeze(-1) * probs).sum(1).argmax(-1)
            accuracies["sentence_accuracy"] = found == targets.emotions[:, 0]
        self.accumulate_stats(
            {
                name: (right.double().mean(), len(right))
                for name, right in accuracies.items()
                if len(right)
            }
        )

    def random_seed(self, epoch, step):
        """Choose one seed for each epoch."""
        return self.hparams.seed + epoch if step == 0 else None

    def on_validated(self, epoch, stats):
        """Set the learning rate of the next epoch."""
        _, rate = self.hparams.lr_annealing(epoch)
        sb.nnet.schedulers.update_learning_rate(self.optimizer, rate)


class Corpus:
    """Items, features and labels of one corpus.

    Arguments
    ---------
    options : dict
        One item of the hparams' `corpora`.
    hparams : dict
        Hyperparameters of the recipe.
    """

    def __init__(self, options, hparams):
        self.options = options
        self.hparams = hparams
        self.emotions = hparams["emotions"]
        self.items = {
            split: load_data_json(
                manifest, {"data_root": options["data_folder"]}
            )
            for split, manifest in options["manifests"].items()
        }
        speakers = {
            utterance: item["speaker"]
            for items in self.items.values()
            for utterance, item in items.items()
        }
        self.cache = EmotionFeatureCache(
            options["feature_cache"],
            extractor_identity(hparams["emotion_features"]),
            speakers,
        )
        self.truth = None
        if hparams["supervision"] == "words":
            self.truth = read_word_labels(options["truth_file"], self.emotions)

    def example(self, utterance, item):
        """Build the model's input and its targets for an utterance.

        Returns
        -------
        features : torch.Tensor
            (W, D)
        emotions : torch.Tensor
            (W,): indices, -1 for unlabelled words.
        attributes : torch.Tensor
            (W, R): NaN where unknown.
        """
        words = aligned_words(self.options["alignment_folder"], utterance, item)
        features = word_features(
            self.cache[utterance],
            words,
            self.cache.frame_rate,
            self.cache.frame_offset,
            self.hparams["word_timing"],
        )
        labels = self.labels(utterance, item, words)
        distribution, intensity = words_to_tensors(labels, self.emotions)
        columns = []
        for name in self.hparams["attributes"]:
            rating = item.get(name)
            if rating is not None:
                columns.append(torch.full_like(intensity, rating))
            elif name == "intensity":
                # Intensity of a sentence: 0 if neutral, else 1.
                columns.append(intensity)
            else:
                columns.append(torch.full_like(intensity, torch.nan))
        emotions = distribution.argmax(-1)
        emotions[~is_labelled(distribution)] = -1
        return features, emotions, torch.stack(columns, -1)

    def labels(self, utterance, item, words):
        """Return the labels of an utterance's words, by the supervision."""
        if self.truth is None:
            return sentence_labels(words, item["emotion"])
        if utterance not in self.truth:
            raise ValueError(
                f"{self.options['truth_file']} has no words of it: use "
                "another supervision."
            )
        labels = self.truth[utterance]
        check_words(labels, [word.text for word in words], utterance)
        return labels


def dataio_prepare(hparams):
    """Make the datasets of the splits, and check every item.

    The items hold features (W, D), emotions (W,) and attributes (W, R).
    """
    corpora = [Corpus(options, hparams) for options in hparams["corpora"]]
    set_normalization(hparams["frame_normalization"], corpora[0])

    # The features of all words fit into memory; the frames that they average
    # would need some thirty times as much.
    @functools.cache
    def example(number, split, utterance):
        corpus = corpora[number]
        return corpus.example(utterance, corpus.items[split][utterance])

    @takes("id", "corpus", "split")
    @provides("features", "emotions", "attributes")
    def word_pipeline(utterance, number, split):
        yield from example(number, split, utterance)

    datasets = {}
    for split, items in usable_items(corpora, example, hparams).items():
        datasets[split] = DynamicItemDataset(items, [word_pipeline])
        datasets[split].set_output_keys(
            ["id", "features", "emotions", "attributes"]
        )
    return datasets


def usable_items(corpora, example, hparams):
    """Try every utterance, so that no bad one stops a running training.

    Arguments
    ---------
    corpora : list of Corpus
        The data.
    example : callable
        Maps (number of the corpus, split, utterance id) to the model's input;
        raises an error if the utterance cannot be used.
    hparams : dict
        Hyperparameters of the recipe.

    Returns
    -------
    dict
        Split to utterance id to a dict of the corpus's number and the split.
    """
    items = {"train": {}, "valid": {}, "test": {}}
    skipped, n_items = {}, 0
    for (number, corpus), split in itertools.product(enumerate(corpora), items):
        check_emotions(corpus, split)
        n_items += len(corpus.items[split])
        for utterance in tqdm(corpus.items[split], desc=f"Checking {split}"):
            try:
                example(number, split, utterance)
            except (ValueError, FileNotFoundError) as error:
                skipped[utterance] = str(error)
            else:
                items[split][utterance] = {"corpus": number, "split": split}
    listing = Path(hparams["output_folder"]) / "skipped.json"
    run_on_main(
        report_skipped,
        args=[skipped, n_items, hparams["max_bad_share"], listing],
    )
    for split, kept in items.items():
        if not kept:
            raise ValueError(
                f"The split {split!r} has no utterance to use: check the "
                "corpora and the options of their preparation."
            )
    return items


def set_normalization(normalization, corpus):
    """Store the statistics of the training speech for unknown speakers.

    Nothing is changed where features are not normalised per speaker. `corpus`
    should be the one most similar to the speech to be labelled.
    """
    if not corpus.cache.identity["speaker_normalization"]:
        return
    everyone = dict.fromkeys(corpus.items["train"], "everyone")
    statistics = corpus.cache.speaker_statistics(everyone)
    corpus.cache.close()
    normalization.set(*statistics["everyone"])


def check_emotions(corpus, split):
    """Raise ValueError for emotions outside of the taxonomy."""
    for utterance, item in corpus.items[split].items():
        if item["emotion"] not in corpus.emotions:
            raise ValueError(
                f"{corpus.options['manifests'][split]}, utterance "
                f"{utterance}: its emotion is {item['emotion']!r}, and the "
                f"taxonomy is {', '.join(corpus.emotions)}. Add it to "
                "`emotions`, or prepare the corpus without it."
            )


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    if hparams["supervision"] not in hparams["losses"]:
        raise ValueError(
            f"supervision is {hparams['supervision']!r}: set it to "
            f"{', '.join(hparams['losses'])}."
        )
    for items in ("emotions", "attributes"):
        check_length(hparams, hparams_file, f"n_{items}", items)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Data
    if not hparams["skip_prep"]:
        for prepare in hparams["preparations"]:
            run_on_main(prepare)
    datasets = dataio_prepare(hparams)

    # Training
    brain = WordEmotionBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    train_and_export(
        brain,
        datasets,
        {
            "train": hparams["train_dataloader_opts"],
            "valid": hparams["valid_dataloader_opts"],
            "test": hparams["valid_dataloader_opts"],
        },
        names=["word_emotion", "frame_normalization"],
        folder=hparams["labeler_folder"],
        hparams_file=hparams_file,
        overrides=overrides,
        part="labeler",
    )
    ddp_leave_group()
