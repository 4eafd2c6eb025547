#!/usr/bin/env python3
"""Measure whether each word is spoken with the emotion it was given.

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD

Needs the manifests, speech tokens and trained model of train.py. It compares
these systems on held-out sentences:

* `original`: the corpus's own speech;
* `copy_synthesis`: speech decoded from its speech tokens, the ceiling;
* `backbone`: the language model before training, the floor;
* `efilm`: the trained model, asked for the corpus's own word emotions;
* `per_span`: the same with a voice that follows the emotion within the
  sentence, where the model has voices for each emotion (`0011/happy`).

`compared_models` adds more trained models, such as those trained on other word
labels:

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
    --compared_models "{efilm_sentence: results/sentence/1986}"

It writes `summary.json`, the table `scores.md` and `scores.csv`,
`utterances.csv`, `words.csv` and the page `report.html`, along with the speech.
An utterance whose words cannot be found in the sound counts as a failure in
every score. The same command repeats only what has changed.

The hparam `scores` adds scores against the speaker's own reading of each
sentence; `speechbrain_emofilm/evaluation/scores.py` explains them:

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
    --scores "[emo_sim, dtw, wer, mos, transitions, leakage]"
"""

import random
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.labels import (
    check_words,
    read_word_labels,
)
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.evaluation.diagnosis import f0_scores, name_failures
from speechbrain_emofilm.evaluation.judge import (
    WordEmotionJudge,
    choose_training,
    measure_natural_readings,
    train_judge,
)
from speechbrain_emofilm.evaluation.measuring import (
    MeasuringPool,
    Reading,
    make_tool,
)
from speechbrain_emofilm.evaluation.scores import (
    FEATURE_SCORES,
    check_names,
    score_systems,
)
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    make_systems,
    synthesise,
)
from speechbrain_emofilm.metrics.bootstrap import estimate, share
from speechbrain_emofilm.metrics.control import (
    WordEmotionAccuracy,
    WordEmotionClassifier,
    WordProsodyControl,
)
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import speechbrain as sb
from evaluation_report import write_evaluation_report
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import infer_device

#: Dimensions of the asked changes in `asked_file`, each with a correlation.
DIMENSIONS = ("f0", "energy", "duration")


# --- The utterances -------------------------------------------------------


def load_utterances(manifests, hparams):
    """Read manifests into Utterances by id, with their word labels and asked
    changes.
    """
    labels = read_word_labels(hparams["truth_file"], hparams["emotions"])
    asked = read_json(hparams["asked_file"])
    utterances = {}
    for manifest in manifests:
        items = load_data_json(manifest, {"data_root": hparams["data_folder"]})
        for name, item in items.items():
            for file, content in (
                ("truth_file", labels),
                ("asked_file", asked),
            ):
                if name not in content:
                    raise ValueError(
                        f"{hparams[file]} has nothing about {name} of "
                        f"{manifest}: make the corpus and its manifests again."
                    )
            words = [word.text for word in split_words(item["text"])]
            place = f"{name} in {hparams['truth_file']}"
            check_words(labels[name], words, place)
            utterances[name] = Utterance(
                name,
                item["wav"],
                item["speaker"],
                item["text"],
                item["emotion"],
                labels[name],
                asked[name],
            )
    return utterances


def neutral_readings(utterances, emotion):
    """Find the neutral readings: (speaker, text) to Utterance."""
    return {
        (u.speaker, u.text): u
        for u in utterances.values()
        if u.emotion == emotion
    }


def choose_mixed(utterances, neutral, n):
    """Choose at most n sentences whose emotion changes, the speakers taking
    turns.
    """
    by_text = {}
    for u in utterances.values():
        if u.emotion is None:
            readings = by_text.setdefault(u.text, {})
            if (u.speaker, u.text) in neutral:
                readings[u.speaker] = u
    speakers = sorted({speaker for speaker, _ in neutral})
    read = [readings for readings in by_text.values() if readings]
    chosen = []
    for first in range(len(speakers)):
        for index, readings in enumerate(read, first):
            turn = index % len(speakers)
            order = speakers[turn:] + speakers[:turn]
            speaker = next((s for s in order if s in readings), None)
            if speaker is not None:
                chosen.append(readings.pop(speaker))
    return chosen[:n]


def choose_single(utterances, neutral, n, baseline_emotion):
    """Choose at most n sentences of one emotion; speakers and emotions take
    turns.
    """
    groups = {}
    for u in utterances.values():
        # A neutral reading would be compared with itself.
        if u.emotion in (None, baseline_emotion):
            continue
        if (u.speaker, u.text) in neutral:
            groups.setdefault((u.speaker, u.emotion), []).append(u)
    chosen = []
    groups = [groups[key] for key in sorted(groups)]
    while groups and len(chosen) < n:
        turn, index = divmod(len(chosen), len(groups))
        group = groups[index]
        # Each group goes on at another sentence.
        chosen.append(group[(len(chosen) + turn) % len(group)])
    return list({u.id: u for u in chosen}.values())


def choose_for_classifier(utterances, neutral, n, baseline_emotion):
    """Choose at most n natural utterances at random, always the same."""
    usable = [
        u
        for u in utterances.values()
        if u.emotion != baseline_emotion and (u.speaker, u.text) in neutral
    ]
    return random.Random(0).sample(usable, min(n, len(usable)))


def systems_from_hparams(hparams, device):
    """Make the systems that the hparams describe."""
    names = set(signature(make_systems).parameters) - {"device"}
    return make_systems(**{n: hparams[n] for n in names}, device=device)


# --- Scores ---------------------------------------------------------------


def measuring_tools(hparams):
    """Select the measuring tools that the hparams ask for."""
    scores = set(hparams["scores"])
    wanted = {
        "aligner": True,
        "asr": True,
        "mos": hparams["predict_mos"] or "mos" in scores,
        "emotion_features": scores & set(FEATURE_SCORES),
        "speaker_encoder": "speaker_similarity" in scores,
    }
    return {name: hparams[name] for name, needed in wanted.items() if needed}


def as_reading(utterance, wav, neutral, only=()):
    """Build the request to measure an utterance against its neutral reading."""
    baseline = neutral[utterance.speaker, utterance.text]
    return Reading(
        wav,
        utterance.text,
        baseline.wav,
        tuple(baseline.labels.alignment()),
        only,
    )


def train_classifier(pool, hparams):
    """Train the classifier of word prosody on natural training sentences."""
    emotion = hparams["baseline_emotion"]
    utterances = load_utterances(hparams["train_manifests"], hparams)
    neutral = neutral_readings(utterances, emotion)
    chosen = choose_for_classifier(
        utterances, neutral, hparams["n_classifier"], emotion
    )
    chosen.sort(key=lambda u: (u.speaker, u.text))  # to share the baselines
    folder = Path(hparams["reference_folder"]) / "classifier"
    measured = pool.measure(
        {u.id: as_reading(u, u.wav, neutral, ("change",)) for u in chosen},
        folder / "measurements",
        "Measuring, natural training words",
    )
    changes, emotions = [], []
    for u in chosen:
        if measured[u.id].change is not None:
            changes += measured[u.id].change
            emotions += [word.emotion for word in u.labels.words]
    if not changes:
        raise ValueError(
            f"{hparams['train_manifests'][0]}: the words of none of "
            f"{len(chosen)} utterances could be found, so that no classifier "
            "can be trained; check the corpus."
        )
    classifier = WordEmotionClassifier.fit(np.array(changes), emotions)
    classifier.save(folder / "word_emotion_classifier.safetensors")
    return classifier


def word_errors(utterances, measured):
    """Compute the word error rate of one system."""
    wer = WordErrorRate()
    wer.append(
        [u.id for u in utterances],
        [measured[u.id].recognised for u in utterances],
        [u.text for u in utterances],
    )
    return wer


def summarise(utterances, measured, classifier, emotions):
    """Compute the standard scores of one system with 95 % intervals."""
    accuracy = WordEmotionAccuracy(emotions)
    control = WordProsodyControl()
    for u in utterances:
        m = measured[u.id]
        change = None if m.change is None else np.array(m.change)
        asked_emotions = [word.emotion for word in u.labels.words]
        predicted = None if change is None else classifier.predict(change)
        accuracy.append(u.id, asked_emotions, predicted)
        if u.part == "mixed":
            words = [
                {"emotion": emotion, **asked}
                for emotion, asked in zip(asked_emotions, u.asked)
            ]
            control.append(u.id, words, change)
    within = control.summarize()
    scores = np.array(
        [[m.mos, 1] for m in measured.values() if m.mos is not None]
    )
    return {
        "wer": word_errors(utterances, measured).summarize(),
        "word_emotion_accuracy": accuracy.summarize(),
        "within_utterance_correlation": {k: within[k] for k in DIMENSIONS},
        "transitions_as_asked": within["transitions_as_asked"],
        **({"mos": estimate("mos", share, scores)} if len(scores) else {}),
        "not_aligned": [
            u.id for u in utterances if measured[u.id].change is None
        ],
    }


def write_tables(folder, utterances, measured, classifier):
    """Write `utterances.csv` and `words.csv`; return the rows of the latter."""
    utterance_rows, word_rows = [], []
    for system, measurements in measured.items():
        for u in utterances:
            m = measurements[u.id]
            wer = word_errors([u], measurements)
            utterance_rows.append(
                {
                    "system": system,
                    "utterance": u.id,
                    "part": u.part,
                    "speaker": u.speaker,
                    "text": u.text,
                    "asked": u.marked_text,
                    "recognised": m.recognised,
                    "wer": round(wer.summarize()["wer"], 4),
                    "aligned": int(m.change is not None),
                    "mos": "" if m.mos is None else round(m.mos, 3),
                }
            )
            word_rows += _word_rows(system, u, m, classifier)
    write_csv(folder / "utterances.csv", utterance_rows)
    write_csv(folder / "words.csv", word_rows)
    return word_rows


def _word_rows(system, utterance, measurement, classifier):
    """Make the rows of `words.csv`; what was not measured is empty."""
    n_words = len(utterance.labels.words)
    changes = measurement.change or [[""] * len(PROSODY_CHANGES)] * n_words
    recognised = [""] * n_words
    if measurement.change is not None:
        recognised = classifier.predict(np.array(measurement.change))
    return [
        {
            "system": system,
            "utterance": utterance.id,
            "part": utterance.part,
            "index": index,
            "word": word.word,
            "emotion": word.emotion,
            "intensity": word.intensity,
            "recognised_emotion": emotion,
            **{f"asked_{k}": asked[k] for k in DIMENSIONS},
            **dict(zip(PROSODY_CHANGES, change)),
        }
        for index, (word, asked, change, emotion) in enumerate(
            zip(utterance.labels.words, utterance.asked, changes, recognised)
        )
    ]


def further_scores(pool, measured, chosen, utterances, hparams):
    """Compute the scores that the hparams add: system to SystemScores.

    References are the corpus's own recordings, `measured["original"]`; a judge
    that needs natural speech learns from training sentences.
    """
    names = hparams["scores"]
    judge, readings = None, {}
    if set(names) & set(FEATURE_SCORES):
        folder = Path(hparams["reference_folder"]) / "natural_speech"
        training = load_utterances(hparams["train_manifests"], hparams)
        training = [u for u in training.values() if u.part == "single"]
        judge = WordEmotionJudge(
            make_tool(hparams["emotion_features"]),
            hparams["emotions"],
            hparams["window"],
        )
        training = choose_training(training, hparams["n_classifier"])
        train_judge(judge, training, pool, folder)
        sentences = {(u.speaker, u.text): {} for u in chosen}
        for u in utterances.values():
            if u.part == "single" and (u.speaker, u.text) in sentences:
                sentences[u.speaker, u.text][u.emotion] = u
        found = measure_natural_readings(sentences, judge, pool, folder)
        readings = {u.id: found.get((u.speaker, u.text), {}) for u in chosen}
    return score_systems(
        measured.items(), names, {u.id: u for u in chosen}, judge, readings
    )


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    output_folder = Path(hparams["output_folder"])
    check_names(hparams["scores"])

    # Held-out sentences to speak
    emotion = hparams["baseline_emotion"]
    utterances = load_utterances(hparams["test_manifests"], hparams)
    neutral = neutral_readings(utterances, emotion)
    chosen = choose_mixed(utterances, neutral, hparams["n_mixed"])
    if not chosen:
        raise ValueError(
            f"{hparams['test_manifests']} have no sentence whose emotion "
            f"switches with a {emotion} reading of the same sentence and "
            "speaker: give a corpus with a transitions part, such as MiniESD."
        )
    chosen += choose_single(utterances, neutral, hparams["n_single"], emotion)

    # Systems that speak them
    systems, synthesizer = systems_from_hparams(
        hparams, run_opts.get("device") or infer_device()
    )
    work = hparams["batch_size"], hparams["sample_rate"]
    wavs = {"original": {u.id: u.wav for u in chosen}}
    for name, system in systems.items():
        wavs[name] = synthesise(name, system, chosen, *work)
    # Decoding colours a voice, whatever is said: synthetic speech is compared
    # with the neutral reading decoded from its tokens.
    needed = sorted({(u.speaker, u.text) for u in chosen})
    needed = [neutral[key] for key in needed]
    copier = replace(
        systems["copy_synthesis"],
        folder=Path(hparams["reference_folder"]) / "neutral_copy",
    )
    copies = synthesise("neutral readings", copier, needed, *work)
    decoded_neutral = {
        (u.speaker, u.text): replace(u, wav=copies[u.id]) for u in needed
    }

    # Measurements and scores
    measured, scores, added = {}, {}, {}
    tools = measuring_tools(hparams)
    with MeasuringPool(tools, hparams["workers"]) as pool:
        classifier = train_classifier(pool, hparams)
        for name, files in wavs.items():
            folder = Path(hparams["reference_folder"]) / name
            baselines = neutral
            if name in systems:
                folder, baselines = systems[name].folder, decoded_neutral
            measured[name] = pool.measure(
                {u.id: as_reading(u, files[u.id], baselines) for u in chosen},
                folder / "measurements",
                f"Measuring, {name}",
            )
            scores[name] = summarise(
                chosen, measured[name], classifier, hparams["emotions"]
            )

        if hparams["scores"]:
            added = further_scores(pool, measured, chosen, utterances, hparams)

    # Results
    floor = word_errors(chosen, measured["backbone"])
    for name, entry in scores.items():
        entry["wer_above_backbone"] = word_errors(chosen, measured[name]).above(
            floor
        )
        entry.update(f0_scores(chosen, measured[name], measured["original"]))
        if name in added:
            entry["scores"] = added[name].summarize()
    name_failures(scores)
    word_rows = write_tables(output_folder, chosen, measured, classifier)
    if added:
        rows = [
            {"system": system, **row}
            for system, own in added.items()
            for row in own.utterance_rows()
        ]
        write_csv(output_folder / "utterance_scores.csv", rows)
    write_json(output_folder / "summary.json", scores)
    report = write_evaluation_report(
        output_folder / "report.html",
        scores,
        chosen,
        wavs,
        word_rows,
        synthesizer,
        hparams,
    )
    print(f"Scores: {output_folder / 'summary.json'}\nReport: {report}")
