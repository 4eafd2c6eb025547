#!/usr/bin/env python3
"""Measures speech whose emotion changes within the utterance.

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
      --systems "{copy_synthesis: results/emosplice/copy_synthesis, \
                  backbone: results/emosplice/backbone, \
                  efilm: results/emosplice/efilm}"

A system is a folder of `<id>.wav`, one for each item of the set; synthesise.py
makes them of a trained model. The set itself is measured first, as the system
`reference`. Every system gets every metric, beside the topline (the reference
re-synthesised through the speech tokens) and the floor (the backbone as it
was before training):

* against the reference: Emo SIM, DTW of the emotion features and of the F0
  and energy contours, speaker similarity;
* against the corpus's readings of the same sentence in each emotion: is the
  item, and is each word, nearest to the emotion that was asked;
* by a classifier of words that has heard natural training speech only:
  accuracy, transitions and their boundary error, leakage, and whether more
  intensity sounds like more;
* by itself: word errors, predicted naturalness, prosody.

It writes `summary.json`, `utterances.csv`, `words.csv`, `transitions.csv` and
`intensities.csv` into `output_folder`. What could not be measured is counted
in each figure. The same command measures only what has changed.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_word_labels,
)
from speechbrain_emofilm.metrics.control import WordEmotionAccuracy
from speechbrain_emofilm.metrics.dtw import DynamicTimeWarping, contours
from speechbrain_emofilm.metrics.emotion_similarity import (
    EmotionDiscrimination,
    EmotionSimilarity,
)
from speechbrain_emofilm.metrics.failure_modes import diagnose, untested
from speechbrain_emofilm.metrics.intelligibility import WordErrorRate
from speechbrain_emofilm.metrics.monotonicity import IntensityMonotonicity
from speechbrain_emofilm.metrics.naturalness import PredictedMOS
from speechbrain_emofilm.metrics.prosody_statistics import ProsodyStatistics
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.metrics.speaker_similarity import SpeakerSimilarity
from speechbrain_emofilm.metrics.transitions import (
    EmotionLeakage,
    EmotionTransitions,
)
from speechbrain_emofilm.utils.files import write_json

import speechbrain as sb
from esd_prepare import sentence_key
from hyperpyyaml import load_hyperpyyaml
from measuring import Recorded, check_recordings
from natural_speech import measured_readings, natural_speech
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import run_on_main

REFERENCE = "reference"


@dataclass(frozen=True)
class Item:
    """An item of the set.

    Arguments
    ---------
    wav : str
        The reference.
    text : str
        What is said.
    speaker : str
        Who speaks.
    labels : UtteranceLabels
        What is asked of each word, at its time in the reference.
    """

    wav: str
    text: str
    speaker: str
    labels: UtteranceLabels

    @property
    def asked(self):
        """The emotion of each word."""
        return [word.emotion for word in self.labels.words]

    @property
    def sentence(self):
        """By which readings of the same sentence are found."""
        return self.speaker, sentence_key(self.text)


def load_items(hparams):
    """Reads the set.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    dict
        Id to Item.

    Raises
    ------
    ValueError
        If the set is empty or an item has no labels.
    """
    labels = read_word_labels(hparams["word_labels"], hparams["emotions"])
    items = {}
    for manifest in hparams["manifests"]:
        entries = load_data_json(manifest, {"data_root": hparams["set_folder"]})
        for name, entry in entries.items():
            if name not in labels:
                raise ValueError(
                    f"{hparams['word_labels']} has nothing about {name} of "
                    f"{manifest}: prepare the set again."
                )
            items[name] = Item(
                entry["wav"], entry["text"], entry["speaker"], labels[name]
            )
    if not items:
        raise ValueError(f"{hparams['manifests']}: the set has no item.")
    return items


# --- The measures of one system -------------------------------------------


class Evaluation:
    """All metrics of one system.

    Arguments
    ---------
    items : dict
        Id to Item.
    references : dict
        Item id to the Measures of its reference.
    readings : dict
        From `measured_readings`.
    listener : Listener
        What was learnt from natural speech.
    """

    def __init__(self, items, references, readings, listener):
        self.items = items
        self.references = references
        self.readings = readings
        self.listener = listener
        # What no tool measures has no figure, rather than one of nothing.
        found = references.values()
        self.unmeasured = {
            name
            for name, field in (
                ("wer", "recognised"),
                ("mos", "mos"),
                ("speaker_similarity", "speaker"),
            )
            if all(getattr(measures, field) is None for measures in found)
        }
        extractor, emotions = listener.extractor, listener.emotions
        self.metrics = {
            "emo_sim": EmotionSimilarity(),
            "utterance_discrimination": EmotionDiscrimination(),
            "word_discrimination": EmotionDiscrimination(),
            "dtw": DynamicTimeWarping(),
            "f0_dtw": DynamicTimeWarping(["euclidean"]),
            "energy_dtw": DynamicTimeWarping(["euclidean"]),
            "word_emotion_accuracy": WordEmotionAccuracy(emotions),
            "transitions": EmotionTransitions(
                emotions, extractor.frame_rate, extractor.frame_offset
            ),
            "leakage": EmotionLeakage(emotions),
            "speaker_similarity": SpeakerSimilarity(),
            "mos": PredictedMOS(),
            "prosody": ProsodyStatistics(),
            "wer": WordErrorRate(),
        }
        self.word_rows = []

    def add(self, name, measures):
        """Adds one item as the system spoke it.

        Arguments
        ---------
        name : str
            Its id.
        measures : Measures
            Of the system's speech.
        """
        reference = self.references[name]
        n_words = len(self.items[name].labels.words)
        if measures.words is not None and len(measures.words) != n_words:
            measures = replace(measures, words=None)
        reason = measures.failure or (
            reference.failure and f"reference: {reference.failure}"
        )
        if reason:
            self._add_failure(name, reason)
        else:
            self._against_reference(name, measures, reference)
            self._against_readings(name, measures)
        self._words(name, measures)
        self._alone(name, measures)

    def _add_failure(self, name, reason):
        """Counts an item that cannot be compared."""
        for key in (
            "emo_sim", "utterance_discrimination", "dtw", "f0_dtw",
            "energy_dtw", "prosody",
        ):  # fmt: skip
            self.metrics[key].add_failure(name, reason)
        for index in range(len(self.items[name].labels.words)):
            self.metrics["word_discrimination"].add_failure(
                f"{name}/{index}", reason
            )

    def _scaled(self, name, measures):
        speaker = self.items[name].speaker
        return self.listener.scaled(measures.features, speaker)

    def _against_reference(self, name, measures, reference):
        frames = self._scaled(name, measures)[None]
        target = self._scaled(name, reference)[None]
        emotions = self.items[name].asked
        pair = " to ".join(dict.fromkeys(filter(None, emotions)))
        self.metrics["emo_sim"].append(
            [name], frames, target, emotions=[pair or "none"]
        )
        self.metrics["dtw"].append([name], frames, target)
        ours, theirs = contours(measures.track()), contours(reference.track())
        for key in ("f0", "energy"):
            self.metrics[f"{key}_dtw"].append([name], ours[key], theirs[key])
        self.metrics["prosody"].append(
            name, measures.track(), reference.track()
        )

    def _against_readings(self, name, measures):
        """Which reading of the sentence the item, and each word, is like."""
        item = self.items[name]
        frames = self._scaled(name, measures)
        readings = self.readings.get(item.sentence, {})
        candidates = {
            emotion: frames.mean(0)
            for emotion, (frames, _, _) in readings.items()
        }
        target = self._scaled(name, self.references[name]).mean(0)
        self.metrics["utterance_discrimination"].append(
            [name], frames[None], [{**candidates, "asked": target}], ["asked"]
        )
        ids = [f"{name}/{index}" for index in range(len(item.asked))]
        if measures.words is None:
            for word in ids:
                self.metrics["word_discrimination"].add_failure(
                    word, "not aligned"
                )
            return
        vectors = self.listener.words(frames, measures.words)
        by_word = [
            {
                emotion: words[index]
                for emotion, (_, words, carried) in readings.items()
                if carried[index] == emotion
            }
            for index in range(len(ids))
        ]
        for word, vector, others, asked in zip(
            ids, vectors, by_word, item.asked
        ):
            if asked is not None:
                self.metrics["word_discrimination"].append(
                    [word], vector[None, None], [others], [asked]
                )

    def _words(self, name, measures):
        """What the classifier hears."""
        item, listener = self.items[name], self.listener
        labelled = [index for index, e in enumerate(item.asked) if e]
        asked = [item.asked[index] for index in labelled]
        heard = posteriors = frames = None
        words = item.labels.words
        if measures.words is not None and not measures.failure:
            scaled = self._scaled(name, measures)
            frames = listener.frame_posteriors(scaled)
            posteriors = listener.posteriors(
                listener.words(scaled, measures.words)
            )
            best = posteriors.argmax(1)
            heard = [listener.emotions[best[index]] for index in labelled]
            words = [
                WordLabel(label.word, word.start, word.end, label.emotion)
                for label, word in zip(item.labels.words, measures.words)
            ]
        self.metrics["word_emotion_accuracy"].append(name, asked, heard)
        self.metrics["transitions"].append(name, words, frames, posteriors)
        self.metrics["leakage"].append(name, item.asked, posteriors)
        for place, index in enumerate(labelled):
            word = item.labels.words[index]
            self.word_rows.append(
                {
                    "id": name,
                    "index": index,
                    "word": word.word,
                    "asked": word.emotion,
                    "intensity": word.intensity,
                    "heard": heard[place] if heard else "",
                    **_probability_columns(listener, posteriors, index),
                }
            )

    def _alone(self, name, measures):
        """What needs no emotion."""
        reference = self.references[name]
        if "wer" not in self.unmeasured:
            recognised = measures.recognised or ""  # silence says nothing
            self.metrics["wer"].append(
                [name], [recognised], [self.items[name].text]
            )
        self.metrics["mos"].append([name], [measures.mos])
        similarity = self.metrics["speaker_similarity"]
        if measures.speaker is None or reference.speaker is None:
            reason = measures.failure or "no speaker vector"
            similarity.add_failure(name, reason)
        else:
            similarity.append(
                [name], measures.speaker[None], reference.speaker[None]
            )

    def summarize(self):
        """Figures of all metrics.

        Returns
        -------
        dict
            Metric to its summary; None for one without any recogniser,
            predictor or encoder.
        """
        return {
            name: None if name in self.unmeasured else metric.summarize()
            for name, metric in self.metrics.items()
        }

    def all_word_rows(self):
        """One row for each labelled word.

        Returns
        -------
        list of dict
            What the classifier heard, and which reading it is nearest to.
        """
        nearest = {
            row["id"]: {
                "nearest": row.get("nearest", ""),
                "margin": row.get("margin", ""),
            }
            for row in self.metrics["word_discrimination"].rows
        }
        return [
            {**row, **nearest.get(f"{row['id']}/{row['index']}", {})}
            for row in self.word_rows
        ]

    def utterance_rows(self):
        """One row for each item with every metric's columns."""
        rows = {
            name: {"id": name, "asked": " ".join(map(str, item.asked))}
            for name, item in self.items.items()
        }
        for key, metric in self.metrics.items():
            # word_discrimination has rows for words.
            if key == "word_discrimination" or key in self.unmeasured:
                continue
            for row in metric.rows:
                rows[row["id"]].update(
                    {f"{key}.{k}": v for k, v in row.items() if k != "id"}
                )
        return list(rows.values())


def _probability_columns(listener, posteriors, index):
    """Columns of words.csv."""
    if posteriors is None:
        return {}
    return {
        f"p_{emotion}": round(float(p), 4)
        for emotion, p in zip(listener.emotions, posteriors[index])
    }


def find_systems(hparams, items):
    """The recordings to measure.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    items : dict
        Id to Item.

    Returns
    -------
    dict
        System to item id to file; first the set itself.

    Raises
    ------
    FileNotFoundError
        If a system lacks an item.
    ValueError
        If a system has the name of the set.
    """
    if REFERENCE in hparams["systems"]:
        raise ValueError(
            f"systems: {REFERENCE!r} is the set itself, which is measured "
            "anyway; call that system otherwise."
        )
    files = {REFERENCE: {name: item.wav for name, item in items.items()}}
    for system, folder in hparams["systems"].items():
        files[system] = {name: f"{folder}/{name}.wav" for name in items}
    for system, wavs in files.items():
        check_recordings(wavs.values(), f"System {system}")
    return files


def find_intensities(folders, items):
    """The recordings at rising intensities.

    Arguments
    ---------
    folders : dict
        Intensity to the folder of `<id>.wav`, whole sentences in one emotion.
    items : dict
        Id to Item.

    Returns
    -------
    dict
        Intensity, rising, to item id to Recorded.

    Raises
    ------
    FileNotFoundError
        If an intensity lacks a recording that the lowest one has.
    ValueError
        If there is no recording at all.
    """
    if not folders:
        return {}
    lowest = Path(folders[min(folders)])
    names = sorted(path.stem for path in lowest.glob("*.wav"))
    names = [name for name in names if name in items]
    if not names:
        raise ValueError(
            f"{lowest} has no wav of an item of the set: speak the set again, "
            "or leave intensity_folders out."
        )
    found = {
        intensity: {
            name: Recorded(
                str(Path(folders[intensity]) / f"{name}.wav"), items[name].text
            )
            for name in names
        }
        for intensity in sorted(folders)
    }
    for intensity, recordings in found.items():
        wavs = [recording.wav for recording in recordings.values()]
        check_recordings(wavs, f"Intensity {intensity:g}")
    return found


def measure_intensities(recordings, items, measurer, listener, emotion_of):
    """Whether more intensity sounds like more.

    Arguments
    ---------
    recordings : dict
        From `find_intensities`.
    items : dict
        Id to Item.
    measurer : Measurer
        What measures.
    listener : Listener
        Whose classifier hears the emotion.
    emotion_of : callable
        Gives the emotion in which an item's sentence is spoken there.

    Returns
    -------
    IntensityMonotonicity
        Scored by the mean probability of the emotion.
    """
    monotonicity = IntensityMonotonicity(list(recordings))
    scores = {}
    for intensity, spoken in recordings.items():
        measured = measurer.measure_all(
            spoken, f"Measuring, intensity {intensity:g}"
        )
        for name, m in measured.items():
            score = float("nan")
            if m.words is not None and not m.failure:
                frames = listener.scaled(m.features, items[name].speaker)
                vectors = listener.words(frames, m.words)
                column = listener.emotions.index(emotion_of(items[name]))
                score = float(listener.posteriors(vectors)[:, column].mean())
            scores.setdefault(name, []).append(score)
    monotonicity.append(list(scores), list(scores.values()))
    return monotonicity


def spoken_emotion(item):
    """The emotion of the items that rise in intensity: the last one asked.

    Arguments
    ---------
    item : Item
        Any.
    """
    return [emotion for emotion in item.asked if emotion][-1]


def hear_readings(readings, listener):
    """How well the classifier hears natural words, as none was spliced.

    Arguments
    ---------
    readings : dict
        From `measured_readings`.
    listener : Listener
        Whose classifier hears them.

    Returns
    -------
    WordEmotionAccuracy
        Of the words of readings in one emotion.
    """
    accuracy = WordEmotionAccuracy(listener.emotions)
    for sentence, by_emotion in readings.items():
        for emotion, (_, vectors, carried) in by_emotion.items():
            best = listener.posteriors(vectors).argmax(1)
            accuracy.append(
                " ".join([*sentence, emotion]),
                carried,
                [listener.emotions[index] for index in best],
            )
    return accuracy


# --- Diagnosis ------------------------------------------------------------


def diagnosis_figures(summary):
    """Figures of a system as `diagnose` takes them.

    Arguments
    ---------
    summary : dict
        From `Evaluation.summarize`.
    """
    transitions = summary["transitions"]
    f0 = summary["prosody"].get("f0_spread") or {}
    return {
        "wer": summary["wer"] and summary["wer"]["wer"],
        "f0_spread": f0.get("f0_spread"),
        "transition_accuracy": transitions["accuracy"],
        "word_emotion_accuracy": summary["word_emotion_accuracy"]["accuracy"],
        "boundary_error_ms": transitions["boundary_error_ms"]["mean"],
        "leakage": summary["leakage"]["leakage"],
        "dtw": summary["dtw"]["cosine"]["normalized"],
    }


def diagnoses(summaries, topline, floor):
    """Names the failures of each system but the ones compared with.

    Arguments
    ---------
    summaries : dict
        System to its summary.
    topline : str
        The system that can hardly be beaten.
    floor : str
        The system without control.

    Returns
    -------
    dict
        System to ``failures`` and ``untested``.
    """
    figures = {name: diagnosis_figures(s) for name, s in summaries.items()}
    compared = figures.get(topline), figures.get(floor)
    return {
        name: {
            "failures": [d.as_dict() for d in diagnose(own, *compared)],
            "untested": untested(own, *compared),
        }
        for name, own in figures.items()
        if name not in (REFERENCE, topline, floor)
    }


# --- All ------------------------------------------------------------------


def evaluate(hparams):
    """Measures all systems and writes the results.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.

    Returns
    -------
    dict
        What summary.json holds.
    """
    items = load_items(hparams)
    # What is missing is missed before hours of measuring.
    files = find_systems(hparams, items)
    intensities = find_intensities(hparams["intensity_folders"], items)
    measurer = hparams["measurer"]
    listener, sentences = natural_speech(
        measurer,
        hparams["data_folder"],
        hparams["alignment_folder"],
        hparams["emotions"],
        hparams["classifier_manifest"],
        hparams["reading_manifest"],
        hparams["n_classifier"],
        hparams["window"],
        hparams["corpus_word_labels"],
    )
    readings = measured_readings(
        sentences,
        {item.sentence for item in items.values()},
        measurer,
        listener,
    )
    summaries, rows = {}, {"utterances": [], "words": [], "transitions": []}
    references = None
    for system, wavs in files.items():
        measured = measurer.measure_all(
            {n: Recorded(wav, items[n].text) for n, wav in wavs.items()},
            f"Measuring, {system}",
        )
        references = references or measured
        evaluation = Evaluation(items, references, readings, listener)
        for name, measures in measured.items():
            evaluation.add(name, measures)
        summaries[system] = evaluation.summarize()
        for name, own in (
            ("utterances", evaluation.utterance_rows()),
            ("words", evaluation.all_word_rows()),
            ("transitions", evaluation.metrics["transitions"].transition_rows),
        ):
            rows[name] += [{"system": system, **row} for row in own]
    result = {
        "systems": summaries,
        "natural_words": hear_readings(readings, listener).summarize(),
    }
    if intensities:
        monotonicity = measure_intensities(
            intensities, items, measurer, listener, spoken_emotion
        )
        result["intensity_monotonicity"] = monotonicity.summarize()
        rows["intensities"] = monotonicity.rows
    result["diagnosis"] = diagnoses(
        summaries, hparams["topline"], hparams["floor"]
    )
    for name, own in rows.items():
        write_csv(Path(hparams["output_folder"]) / f"{name}.csv", own)
    write_json(Path(hparams["output_folder"]) / "summary.json", result)
    return result


def headline(result):
    """A line of figures for each system.

    Arguments
    ---------
    result : dict
        From `evaluate`.
    """
    lines = []
    for system, s in result["systems"].items():
        figures = {
            "Emo SIM": s["emo_sim"]["emo_sim"],
            "DTW": s["dtw"]["cosine"]["dtw"],
            "word accuracy": s["word_emotion_accuracy"]["accuracy"],
            "transitions": s["transitions"]["accuracy"],
            "boundary error, ms": s["transitions"]["boundary_error_ms"]["mean"],
            "WER": s["wer"] and s["wer"]["wer"],
        }
        text = ", ".join(
            f"{name} {'none' if value is None else format(value, '.3g')}"
            for name, value in figures.items()
        )
        lines.append(f"{system}: {text}")
    for system, found in result["diagnosis"].items():
        for failure in found["failures"]:
            lines.append(f"{system}: {failure['name']}, see summary.json")
    return lines


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    run_on_main(hparams["prepare"], kwargs=hparams["prepare_opts"])
    print("\n".join(headline(evaluate(hparams))))
