#!/usr/bin/env python3
"""Measure how well speech has the emotions that were asked for.

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD

Needs the manifests, speech tokens and trained model of train.py. It compares
these systems on held-out sentences:

* `original`: the corpus's own speech;
* `copy_synthesis`: speech decoded from its speech tokens, the ceiling;
* `backbone`: the language model before training, the floor;
* `efilm`: the trained model, asked for the emotions of the corpus;
* `per_span`: the same with a voice that follows the emotion within the
  sentence, where the model has voices for each emotion (`0011/happy`).

`compared_models` adds more trained models, such as those trained on other word
labels:

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
    --compared_models "{efilm_sentence: results/sentence/1986}"

Where the corpus tells the emotion of each word and the change of prosody that
was asked of it (`truth_file`, `asked_file`), as MiniESD does, control of single
words is measured. A corpus such as ESD tells neither:

> python evaluate.py hparams/evaluate_cosyvoice2.yaml \
    --data_folder /path/to/ESD \
    --model_folder results/emotional_tts/cosyvoice2/1986

Then every word is asked for the emotion of its sentence, or for that of a
`label_file`; `max_utterances` shortens a trial. Scores that need the truth are
left out, and the entry `left_out` of the summary says why. With `references`,
every system speaks with each kind of reference recordings.

The hparam `scores` chooses scores against the speaker's own reading of each
sentence in the emotion asked for; `speechbrain_emofilm/evaluation/scores.py`
explains them:

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
    --scores "[emo_sim, dtw, wer, mos, transitions, leakage]"

Their table has two more rows: the speaker's own neutral reading in place of
each emotional one, natural (`neutral_reading`) and decoded from its speech
tokens (`neutral_copy`). What these reach is not emotion.

It writes `summary.json`; the table `scores.md` and `scores.csv`; with `scores`,
`table.md`, in the form in which papers compare systems; `utterances.csv`,
`words.csv` and the page `report.html`, along with the speech. An utterance
whose words cannot be found in the sound counts as a failure in every score
of words. The same command repeats only what has changed.
"""

import random
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    check_words,
    read_word_labels,
    sentence_labels,
)
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.evaluation.diagnosis import f0_scores, name_failures
from speechbrain_emofilm.evaluation.judge import (
    WordEmotionJudge,
    choose_training,
    features_only,
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
    WORD_SCORES,
    check_names,
    score_systems,
    system_table,
)
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    counterpart,
    make_systems,
    split_kind,
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
from speechbrain_emofilm.utils.files import (
    atomic_path,
    read_json,
    write_json,
)

import numpy as np
import speechbrain as sb
from esd_prepare import sentence_key
from evaluation_report import name_systems, write_evaluation_report
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Dimensions of the asked changes in `asked_file`, each with a correlation.
DIMENSIONS = ("f0", "energy", "duration")
#: Scores that need the truth of the words; the first is by their prosody.
CONTROL_SCORES = (
    "word_emotion_accuracy_by_prosody", "within_utterance_correlation",
    "transitions_as_asked", "f0_spread", "f0_distance",
)  # fmt: skip


# --- The utterances -------------------------------------------------------


def knows_words(hparams):
    """Tell whether the corpus has the truth and the asked change of words."""
    return bool(hparams.get("truth_file") and hparams.get("asked_file"))


def load_utterances(manifests, hparams, learned=True):
    """Read manifests into Utterances by id, with the labels of their words.

    These are of `truth_file`, of `label_file` unless `learned` is false, or
    the emotion of the sentence, then without times; sentences that cannot be
    labelled are left out. Changes asked of words are of `asked_file`.
    """
    truth, asked = hparams.get("truth_file"), hparams.get("asked_file")
    label_file = truth or (hparams.get("label_file") if learned else None)
    labels = label_file and read_word_labels(label_file, hparams["emotions"])
    asked = asked and read_json(asked)
    utterances, unlabelled = {}, []
    for manifest in manifests:
        items = load_data_json(manifest, {"data_root": hparams["data_folder"]})
        for name, item in items.items():
            for file, content in (
                (truth, labels if truth else None),
                (hparams.get("asked_file"), asked),
            ):
                if content is not None and name not in content:
                    raise ValueError(
                        f"{file} has nothing about {name} of "
                        f"{manifest}: make the corpus and its manifests again."
                    )
            words = [word.text for word in split_words(item["text"])]
            if labels is not None and name in labels:
                own = labels[name]
                check_words(own, words, f"{name} in {label_file}")
            elif labels is None and item["emotion"] is not None:
                own = sentence_labels(
                    [Word(word, 0.0, 0.0) for word in words], item["emotion"]
                )
            else:
                unlabelled.append(name)
                continue
            utterances[name] = Utterance(
                name,
                item["wav"],
                item["speaker"],
                item["text"],
                item["emotion"],
                own,
                asked[name] if asked else (),
            )
    if unlabelled:
        logger.warning(
            f"{len(unlabelled)} utterances have no emotion to ask for, "
            f"neither of the sentence nor in {label_file or 'a label_file'}, "
            f"and are left out; the first is {unlabelled[0]}."
        )
    return utterances


def place_of(utterance):
    """Name the speaker and the sentence, whose case and punctuation may differ
    between readings.
    """
    return utterance.speaker, sentence_key(utterance.text)


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


def choose_sentences(utterances, n):
    """Choose at most n utterances; emotions, speakers and sentences take
    turns.
    """
    groups = {}
    for u in utterances:
        groups.setdefault((u.emotion, u.speaker), []).append(u)
    rotated = []
    for index, group in enumerate(groups.values()):
        # Each group begins at another sentence.
        start = index * len(group) // len(groups)
        rotated += group[start:] + group[:start]
    return choose_training(rotated, n)


def choose_for_classifier(utterances, neutral, n, baseline_emotion):
    """Choose at most n natural utterances at random, always the same."""
    usable = [
        u
        for u in utterances.values()
        if u.emotion != baseline_emotion and (u.speaker, u.text) in neutral
    ]
    return random.Random(0).sample(usable, min(n, len(usable)))


def choose_utterances(utterances, neutral, hparams):
    """Choose the utterances to speak.

    With the truth of the words: sentences whose emotion changes, and some of
    one emotion. Without it: all, or `max_utterances`, the emotions and
    speakers taking turns.
    """
    most = hparams.get("max_utterances")
    if not knows_words(hparams):
        chosen = choose_sentences(utterances.values(), most or len(utterances))
    else:
        emotion = hparams["baseline_emotion"]
        chosen = choose_mixed(utterances, neutral, hparams["n_mixed"])
        chosen += choose_single(
            utterances, neutral, hparams["n_single"], emotion
        )
        chosen = chosen[:most]
    if not chosen:
        raise ValueError(
            f"{', '.join(map(str, hparams['test_manifests']))} have no "
            "sentence to speak. With truth_file and asked_file, a sentence "
            f"needs a {hparams['baseline_emotion']} reading by the same "
            "speaker: check the manifests and the numbers of utterances."
        )
    return chosen


def systems_from_hparams(hparams, device):
    """Make the systems that the hparams describe."""
    options = signature(make_systems).parameters.values()
    chosen = {
        option.name: hparams[option.name]
        for option in options
        if option.name != "device"
        # Some hparams have no references.
        and (option.default is option.empty or option.name in hparams)
    }
    return make_systems(**chosen, device=device)


# --- Scores ---------------------------------------------------------------


def measuring_tools(hparams):
    """Select the measuring tools that the hparams ask for."""
    scores = set(hparams["scores"])
    wanted = {
        "aligner": knows_words(hparams) or scores & set(WORD_SCORES),
        "asr": True,
        "mos": hparams["predict_mos"] or "mos" in scores,
        "emotion_features": scores & set(FEATURE_SCORES),
        "speaker_encoder": "speaker_similarity" in scores,
    }
    return {name: hparams[name] for name, needed in wanted.items() if needed}


def as_reading(utterance, wav, neutral=None, only=()):
    """Build the request to measure an utterance, with `neutral` readings
    against its own.
    """
    if neutral is None:
        return Reading(wav, utterance.text, only=only)
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


def mean_mos(measured):
    """Average the predicted MOS of one system; nothing without one."""
    scores = np.array(
        [[m.mos, 1] for m in measured.values() if m.mos is not None]
    )
    return {"mos": estimate("mos", share, scores)} if len(scores) else {}


def summarise_sentences(utterances, measured, hparams):
    """Compute the scores of one system that need no truth of the words."""
    missing = [n for n in ("truth_file", "asked_file") if not hparams.get(n)]
    reason = f"no {' and no '.join(missing)}"
    if not missing:
        reason = "no sentence whose emotion changes"
    lost = [u.id for u in utterances if measured[u.id].words is None]
    aligned = "aligner" in measuring_tools(hparams)
    return {
        "wer": word_errors(utterances, measured).summarize(),
        **mean_mos(measured),
        **({"not_aligned": lost} if aligned else {}),
        "left_out": dict.fromkeys(CONTROL_SCORES, reason),
    }


def explain_gaps(entry):
    """Add the reasons why scores of a system are null to `left_out`."""
    for name, summary in entry["scores"].items():
        if summary is None:
            entry.setdefault("left_out", {})[name] = (
                "no switch of emotion to measure"
                if name in ("transitions", "leakage")
                else "no measuring tool"
            )


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
    return {
        "wer": word_errors(utterances, measured).summarize(),
        "word_emotion_accuracy": accuracy.summarize(),
        "within_utterance_correlation": {k: within[k] for k in DIMENSIONS},
        "transitions_as_asked": within["transitions_as_asked"],
        **mean_mos(measured),
        "not_aligned": [
            u.id for u in utterances if measured[u.id].change is None
        ],
    }


def write_tables(folder, utterances, measured, classifier=None):
    """Write `utterances.csv` and, with a classifier of words, `words.csv`;
    return the rows of the latter.
    """
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
                    "aligned": int((m.change or m.words) is not None),
                    "mos": "" if m.mos is None else round(m.mos, 3),
                }
            )
            if classifier is not None:
                word_rows += _word_rows(system, u, m, classifier)
    write_csv(folder / "utterances.csv", utterance_rows)
    if classifier is not None:
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


def find_times(utterances, pool, folder):
    """Give each Utterance the times of its words.

    Those that the labels lack are found in the sound; labels whose words are
    not found there are None.
    """
    untimed = [u for u in utterances if not any(w.end for w in u.labels.words)]
    measured = pool.measure(
        {u.id: as_reading(u, u.wav, only=("words",)) for u in untimed},
        folder,
        "Finding the words of natural speech",
    )
    timed = {}
    for u in untimed:
        found, labels = measured[u.id].words, None
        if found is not None and len(found) == len(u.labels.words):
            labels = UtteranceLabels(
                [
                    replace(label, start=word.start, end=word.end)
                    for label, word in zip(u.labels.words, found)
                ]
            )
        timed[u.id] = replace(u, labels=labels)
    return [timed.get(u.id, u) for u in utterances]


def hear_natural_speech(pool, chosen, utterances, hparams):
    """Train a judge, and measure the readings of the chosen sentences.

    Returns the judge, and utterance id to emotion to NaturalReading. The judge
    never learns labels of a labeler, which may have heard the same features.
    """
    folder = Path(hparams["reference_folder"]) / "natural_speech"
    training = load_utterances(hparams["train_manifests"], hparams, False)
    training = [u for u in training.values() if u.part == "single"]
    training = choose_training(training, hparams["n_classifier"])
    sentences = {place_of(u): {} for u in chosen}
    for u in utterances.values():
        if u.part == "single" and place_of(u) in sentences:
            sentences[place_of(u)][u.emotion] = u
    judge = WordEmotionJudge(
        make_tool(hparams["emotion_features"]),
        hparams["emotions"],
        hparams["window"],
    )
    if set(hparams["scores"]) & set(WORD_SCORES):
        training = [u for u in find_times(training, pool, folder) if u.labels]
        read = [
            u for by_emotion in sentences.values() for u in by_emotion.values()
        ]
        for u in find_times(read, pool, folder):
            sentences[place_of(u)][u.emotion] = u
        train_judge(judge, training, pool, folder)
    else:  # the times of the words are not needed
        measured = pool.measure(
            {u.id: features_only(u) for u in training},
            folder,
            "Measuring, natural training speech",
        )
        judge.learn_scales(
            (u.speaker, measured[u.id].features) for u in training
        )
        sentences = {
            key: {
                emotion: replace(u, labels=None) for emotion, u in own.items()
            }
            for key, own in sentences.items()
        }
    found = measure_natural_readings(sentences, judge, pool, folder)
    return judge, {u.id: found.get(place_of(u), {}) for u in chosen}


def further_scores(pool, measured, chosen, utterances, hparams):
    """Compute the scores that the hparams add: system to SystemScores.

    References are the corpus's own recordings, `measured["original"]`; a judge
    that needs natural speech learns from training sentences.
    """
    names = hparams["scores"]
    judge, readings = None, {}
    if set(names) & set(FEATURE_SCORES):
        judge, readings = hear_natural_speech(pool, chosen, utterances, hparams)
    return score_systems(
        measured.items(), names, {u.id: u for u in chosen}, judge, readings
    )


def measure_neutral(pool, chosen, neutral, hparams):
    """Measure the neutral readings of the sentences that are not neutral.

    `neutral` holds natural ones by the name of a system, and decoded ones.
    Returns the same with measurements by the utterances' ids.
    """
    emotional = [u for u in chosen if u.emotion != hparams["baseline_emotion"]]
    measured = {}
    for name, readings in neutral.items():
        by_place = {place_of(u): u for u in readings.values()}
        found = {
            u.id: by_place[place_of(u)]
            for u in emotional
            if place_of(u) in by_place
        }
        if found:
            measured[name] = pool.measure(
                {n: as_reading(u, u.wav) for n, u in found.items()},
                Path(hparams["reference_folder"]) / name / "measurements",
                f"Measuring, {name}",
            )
    return measured


def decode_neutral(systems, chosen, neutral, hparams):
    """Decode the neutral readings of sentences from their speech tokens.

    Decoding colours a voice, whatever is said: synthetic speech is compared
    with the neutral reading decoded from its tokens. Returns (speaker, text)
    to Utterance.
    """
    spoken = set(map(place_of, chosen))
    needed = [u for _, u in sorted(neutral.items()) if place_of(u) in spoken]
    copier = next(iter(systems.values()))
    copier = replace(
        copier, folder=Path(hparams["reference_folder"]) / "neutral_copy"
    )
    copies = synthesise(
        "neutral readings",
        copier,
        needed,
        hparams["batch_size"],
        hparams["sample_rate"],
    )
    return {(u.speaker, u.text): replace(u, wav=copies[u.id]) for u in needed}


def write_paper_table(folder, added, captions):
    """Write `table.md`: a row for each system, and how many it spoke."""
    summaries = {name: own.summarize() for name, own in added.items()}
    headings = name_systems(summaries, captions)
    text = system_table(summaries, headings)
    numbers = [
        f"{headings[name]}: {len(own.utterance_rows())}"
        for name, own in added.items()
    ]
    note = (
        "95 % intervals over utterances in brackets. Number of utterances: "
        f"{'; '.join(numbers)}."
    )
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(f"{text}\n\n{note}\n", encoding="utf-8")
    return text


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
    chosen = choose_utterances(utterances, neutral, hparams)

    # Systems that speak them
    systems, synthesizer = systems_from_hparams(
        hparams, run_opts.get("device") or infer_device()
    )
    work = hparams["batch_size"], hparams["sample_rate"]
    wavs = {"original": {u.id: u.wav for u in chosen}}
    for name, system in systems.items():
        wavs[name] = synthesise(name, system, chosen, *work)
    control = knows_words(hparams) and any(u.part == "mixed" for u in chosen)
    if control or hparams["scores"]:
        decoded_neutral = decode_neutral(systems, chosen, neutral, hparams)

    # Measurements and scores
    measured, scores, added, classifier = {}, {}, {}, None
    tools = measuring_tools(hparams)
    with MeasuringPool(tools, hparams["workers"]) as pool:
        if control:
            classifier = train_classifier(pool, hparams)
        for name, files in wavs.items():
            folder = Path(hparams["reference_folder"]) / name
            baselines = neutral if control else None
            if name in systems:
                folder = systems[name].folder
                baselines = decoded_neutral if control else None
            measured[name] = pool.measure(
                {u.id: as_reading(u, files[u.id], baselines) for u in chosen},
                folder / "measurements",
                f"Measuring, {name}",
            )
            scores[name] = (
                summarise(
                    chosen, measured[name], classifier, hparams["emotions"]
                )
                if control
                else summarise_sentences(chosen, measured[name], hparams)
            )

        if hparams["scores"]:
            readings = {
                "neutral_reading": neutral,
                "neutral_copy": decoded_neutral,
            }
            readings = measure_neutral(pool, chosen, readings, hparams)
            added = further_scores(
                pool, {**measured, **readings}, chosen, utterances, hparams
            )

    # Results
    for name, entry in scores.items():
        floor = measured.get(counterpart(name, "backbone"))
        if name == "original":  # any kind of voices will do
            floor = next(
                (
                    m
                    for n, m in measured.items()
                    if split_kind(n)[0] == "backbone"
                ),
                None,
            )
        if floor is not None:
            entry["wer_above_backbone"] = word_errors(
                chosen, measured[name]
            ).above(word_errors(chosen, floor))
        if control:
            entry.update(
                f0_scores(chosen, measured[name], measured["original"])
            )
        if name in added:
            entry["scores"] = added[name].summarize()
            explain_gaps(entry)
    name_failures(scores)
    word_rows = write_tables(output_folder, chosen, measured, classifier)
    if added:
        rows = [
            {"system": system, **row}
            for system, own in added.items()
            for row in own.utterance_rows()
        ]
        write_csv(output_folder / "utterance_scores.csv", rows)
        print(write_paper_table(output_folder, added, hparams["captions"]))
    report = write_evaluation_report(
        output_folder / "report.html",
        scores,
        chosen,
        wavs,
        word_rows,
        synthesizer,
        hparams,
    )
    others = {
        name: {"scores": own.summarize()}
        for name, own in added.items()
        if name not in scores
    }
    write_json(output_folder / "summary.json", {**scores, **others})
    print(f"Scores: {output_folder / 'summary.json'}\nReport: {report}")
