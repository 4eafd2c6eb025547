"""The two judges of preference training, which must not know one another.

One hears the readings that a model is trained to prefer, the other the speech
of the trained model. A model may learn what pleases the first without sounding
more emotional; the second can only notice this if it shares neither training
speech nor features with the first.
"""

from speechbrain_emofilm.evaluation.judge import (
    WordEmotionJudge,
    features_only,
)
from speechbrain_emofilm.evaluation.measuring import Reading, make_tool
from speechbrain_emofilm.metrics.control import WordEmotionClassifier
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES

import numpy as np
import torch
from esd_prepare import sentence_key
from evaluate import find_times, load_utterances, place_of

#: Weight decay of the classifier: features have hundreds of dimensions.
ALPHA = 30.0


def judged_utterances(manifests, hparams):
    """Read natural speech with the truth of its words, or of its sentences."""
    truth = (
        hparams["truth_file"] if hparams["label_source"] == "truth" else None
    )
    options = {**hparams, "truth_file": truth, "asked_file": None}
    return load_utterances(manifests, options, learned=False)


def sentence_halves(utterances):
    """Share the sentences between the judges: reward's half, and the other.

    No sentence is in both, so that neither is any utterance.
    """
    sentences = sorted({sentence_key(u.text) for u in utterances.values()})
    rewarding = set(sentences[::2])
    halves = ({}, {})
    for name, u in utterances.items():
        halves[sentence_key(u.text) not in rewarding][name] = u
    return halves


def judge_record(features, utterances):
    """Write down what a judge has heard, and by which features."""
    return {"features": sorted(features), "utterances": sorted(utterances)}


def check_independence(reward, evaluation):
    """Raise ValueError if two judges share training speech or features."""
    for kind, remedy in (
        ("utterances", "let each learn from one of sentence_halves"),
        ("features", "set reward_features to features without prosody"),
    ):
        shared = sorted(set(reward[kind]) & set(evaluation[kind]))
        if shared:
            raise ValueError(
                f"The judge that rewards and the judge that evaluates share "
                f"{len(shared)} {kind}, such as {shared[0]}, so that the "
                f"second would confirm whatever the first has rewarded: "
                f"{remedy}."
            )


def evaluation_record(utterances):
    """Record the evaluating judge, which hears changes of prosody."""
    return judge_record(PROSODY_CHANGES, utterances)


def feature_names(extractor):
    """Name what an extractor measures."""
    # "log_f0" is the same measure as "f0".
    prosody = [
        name.removeprefix("log_")
        for name in extractor.config.get("prosody", ())
    ]
    return [extractor.model_name, *prosody]


def compared_reading(utterance, wav, neutral, only=()):
    """Build the request to measure a reading against a neutral one.

    Words of the neutral reading whose times are unknown are found in it.
    """
    baseline = neutral[utterance.speaker, utterance.text]
    words = tuple(baseline.labels.alignment())
    if not any(word.end for word in words):
        words = ()
    return Reading(wav, utterance.text, baseline.wav, words, only)


class RewardJudge:
    """Judge of a word's emotion by how its features differ from neutral ones.

    The same speaker's neutral reading of the sentence is the baseline, which
    cancels what the word's sounds contribute to its features.
    """

    def __init__(self, extractor, emotions):
        self.features = feature_names(extractor)
        self.heard = []
        self._judge = WordEmotionJudge(extractor, emotions, window=0.3)

    @property
    def emotions(self):
        """Emotions in the order of the posteriors."""
        return self._judge.emotions

    @property
    def record(self):
        """What it has heard, for `check_independence`."""
        return judge_record(self.features, self.heard)

    def learn(self, utterances, neutral, measured):
        """Learn from natural utterances and their neutral readings."""
        self.heard = sorted(measured)
        known = {**utterances, **{u.id: u for u in neutral.values()}}
        self._judge.learn_scales(
            (known[name].speaker, m.features) for name, m in measured.items()
        )
        changes, emotions = [], []
        for name, u in utterances.items():
            baseline = neutral[place_of(u)]
            change = self._change(
                u.speaker,
                (measured[name].features, u.labels.words),
                (measured[baseline.id].features, baseline.labels.words),
            )
            if change is None:
                continue
            labelled = [i for i, emotion in enumerate(u.emotions) if emotion]
            changes.append(change[labelled])
            emotions += [u.emotions[index] for index in labelled]
        missing = set(self.emotions) - set(emotions)
        if missing:
            raise ValueError(
                f"The speech that the rewarding judge learns from has no "
                f"{', '.join(sorted(missing))}: give more training speech, or "
                "shorten emotions."
            )
        self._judge.classifier = WordEmotionClassifier.fit(
            torch.cat(changes).numpy(), emotions, alpha=ALPHA
        )

    def posteriors(self, speaker, measured, neutral):
        """Compute each word's probabilities of the emotions (W, K).

        `measured` and `neutral` are Measurements of the reading and of the
        neutral one; None if the words are not found in either.
        """
        if measured.words is None or neutral.words is None:
            return None
        change = self._change(
            speaker,
            (measured.features, measured.words),
            (neutral.features, neutral.words),
        )
        return None if change is None else self._judge.posteriors(change)

    def _change(self, speaker, reading, neutral):
        """Difference of the words' mean features; None if words differ."""
        if len(reading[1]) != len(neutral[1]):
            return None
        pairs = []
        for features, words in (reading, neutral):
            if not features.numel():
                return None
            frames = self._judge.scaled(features, speaker)
            pairs.append(self._judge.words(frames, words))
        return pairs[0] - pairs[1]


def train_reward_judge(pool, half, neutral, hparams, folder):
    """Train the rewarding judge on its half of the natural speech."""
    judge = RewardJudge(
        make_tool(hparams["reward_features"]), hparams["emotions"]
    )
    baselines = {place_of(u): u for u in neutral.values()}
    usable = [
        u
        for u in half.values()
        if place_of(u) in baselines and u.emotion != hparams["baseline_emotion"]
    ]
    timed = find_times([*usable, *baselines.values()], pool, folder)
    timed = {u.id: u for u in timed if u.labels is not None}
    baselines = {
        place: timed[u.id] for place, u in baselines.items() if u.id in timed
    }
    learned = {
        u.id: timed[u.id]
        for u in usable
        if u.id in timed and place_of(u) in baselines
    }
    measured = pool.measure(
        {
            u.id: features_only(u)
            for u in [*learned.values(), *baselines.values()]
        },
        folder,
        "Measuring, natural speech for the rewarding judge",
    )
    judge.learn(learned, baselines, measured)
    return judge


def mean_probability(posteriors, emotions, asked):
    """Mean probability of the asked emotions; 0 if no word was found."""
    if posteriors is None or len(posteriors) != len(asked):
        return 0.0
    found = [
        row[emotions.index(emotion)]
        for row, emotion in zip(posteriors, asked)
        if emotion
    ]
    return float(np.mean(found)) if found else 0.0
