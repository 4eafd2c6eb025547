"""Scores of a system's speech, chosen by name.

Speech is compared with a reference of the same utterance: an utterance of a
test set whose emotion changes within it, or the speaker's own reading of the
sentence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.evaluation.judge import (
    NaturalReading,
    WordEmotionJudge,
)
from speechbrain_emofilm.evaluation.measuring import (
    Measurement,
    MeasuringPool,
    Reading,
)
from speechbrain_emofilm.evaluation.report import (
    Estimate,
    Score,
    markdown_table,
)
from speechbrain_emofilm.evaluation.systems import Utterance
from speechbrain_emofilm.metrics.control import WordEmotionAccuracy
from speechbrain_emofilm.metrics.dtw import DynamicTimeWarping, contours
from speechbrain_emofilm.metrics.emotion_similarity import (
    EmotionDiscrimination,
    EmotionSimilarity,
)
from speechbrain_emofilm.metrics.intelligibility import (
    WordErrorRate,
    rate_of_language,
)
from speechbrain_emofilm.metrics.monotonicity import IntensityMonotonicity
from speechbrain_emofilm.metrics.naturalness import PredictedMOS
from speechbrain_emofilm.metrics.prosody_statistics import ProsodyStatistics
from speechbrain_emofilm.metrics.speaker_similarity import SpeakerSimilarity
from speechbrain_emofilm.metrics.transitions import (
    EmotionLeakage,
    EmotionTransitions,
)

#: Scores by name, with what they tell.
SCORES = {
    "emo_sim": "cosine of the mean emotion features and the reference's, "
    "times 100; higher is better",
    "utterance_discrimination": "utterances nearest to their reference "
    "among readings of the sentence in single emotions",
    "word_discrimination": "words nearest to the reading in their emotion",
    "dtw": "DTW of the emotion features to the reference's; lower is better",
    "f0_dtw": "DTW of F0 to the reference's, in semitones per step of the "
    "path; lower is better",
    "energy_dtw": "DTW of the level to the reference's, in dB per step of "
    "the path; lower is better",
    "word_emotion_accuracy": "words judged as the emotion they were given, "
    "by a classifier that has heard natural speech only",
    "transitions": "switches of emotion with the words on both sides as "
    "asked, and their distance from the word boundary",
    "leakage": "how much more of the neighbour's emotion the word next to a "
    "switch has than words further away",
    "speaker_similarity": "cosine of the speaker vector and the reference's",
    "mos": "predicted mean opinion score, 1 to 5",
    "prosody": "F0, level and duration, and their differences from the "
    "reference's",
    "wer": "words that a recogniser misunderstands; lower is better",
}
#: Scores that need emotion features, and the judge that scales them.
FEATURE_SCORES = (
    "emo_sim", "utterance_discrimination", "word_discrimination", "dtw",
    "word_emotion_accuracy", "transitions", "leakage",
)  # fmt: skip
#: Scores that need the times of the words.
WORD_SCORES = (
    "word_discrimination", "word_emotion_accuracy", "transitions", "leakage",
)  # fmt: skip
#: Columns of the papers' table: heading of a row of `score_rows`, to the
#: column's.
_COLUMNS = {
    "Emo SIM": "Emo SIM ↑",
    "DTW, cosine": "DTW ↓",
    "Word error rate": "WER ↓",
    "Speaker similarity": "SpkSIM ↑",
    "Predicted MOS": "MOS ↑",
}
#: Rows of the table: name of a score; heading; keys of the estimate, the last
#: one that of its value; names of its bounds; format; where a bar ends.
_ROWS = (
    ("emo_sim", "Emo SIM", ("emo_sim",), "", "{:.1f}", 100.0),
    ("dtw", "DTW, cosine", ("cosine", "dtw"), "", "{:.2f}", 50.0),
    (
        "utterance_discrimination",
        "Utterance nearest to its reference",
        ("accuracy",), "", "{:.1%}", 1.0,
    ),
    (
        "word_discrimination",
        "Word nearest to its emotion",
        ("accuracy",), "", "{:.1%}", 1.0,
    ),
    (
        "word_emotion_accuracy",
        "Word emotion accuracy, emotion features",
        ("accuracy",), "", "{:.1%}", 1.0,
    ),
    ("transitions", "Transitions right", ("accuracy",), "", "{:.1%}", 1.0),
    (
        "transitions",
        "Boundary error",
        ("boundary_error_ms", "mean"), "", "{:.0f} ms", 500.0,
    ),
    ("leakage", "Leakage", ("leakage",), "", "{:.3f}", 1.0),
    (
        "f0_dtw",
        "DTW, F0",
        ("euclidean", "normalized"), "normalized_", "{:.2f} st", 12.0,
    ),
    (
        "energy_dtw",
        "DTW, energy",
        ("euclidean", "normalized"), "normalized_", "{:.2f} dB", 20.0,
    ),
    (
        "prosody",
        "Spread of F0 within the utterance",
        ("f0_spread", "f0_spread"), "", "{:.2f} st", 12.0,
    ),
    ("wer", "Word error rate", ("en", "wer"), "", "{:.1%}", 1.0),
    (
        "wer",
        "Character error rate, Mandarin",
        ("zh", "cer"), "", "{:.1%}", 1.0,
    ),
    (
        "speaker_similarity",
        "Speaker similarity",
        ("speaker_similarity",), "", "{:.3f}", 1.0,
    ),
    ("mos", "Predicted MOS", ("mos",), "", "{:.2f}", 5.0),
)  # fmt: skip


class SystemScores:
    """Chosen scores of one system.

    Arguments
    ---------
    names : sequence of str
        Scores to compute, from :data:`SCORES`.
    utterances : dict
        Utterance id to Utterance. The emotions of its labels are asked of its
        words; word times are those in the reference.
    references : dict
        Utterance id to the Measurement of its reference.
    judge : WordEmotionJudge, optional
        Trained judge; needed for :data:`FEATURE_SCORES`.
    readings : dict, optional
        Utterance id to emotion to NaturalReading of the same sentence by the
        same speaker, for the two discrimination scores.

    Raises
    ------
    ValueError
        If a name is unknown, or a score needs a judge and there is none.

    Example
    -------
    >>> spoken = {"a": Utterance("a", "a.wav", "0011", "We won.")}
    >>> heard = {"a": Measurement(recognised="We won.", mos=4.0)}
    >>> scores = SystemScores(["wer", "mos"], spoken, heard)
    >>> scores.add("a", Measurement(recognised="We lost.", mos=3.0))
    >>> summary = scores.summarize()
    >>> summary["wer"]["wer"], summary["mos"]["mos"]
    (0.5, 3.0)
    """

    def __init__(
        self,
        names: Sequence[str],
        utterances: Mapping[str, Utterance],
        references: Mapping[str, Measurement],
        judge: WordEmotionJudge | None = None,
        readings: Mapping[str, Mapping[str, NaturalReading]] | None = None,
    ):
        check_names(names)
        needy = [name for name in names if name in FEATURE_SCORES]
        if needy and judge is None:
            raise ValueError(
                f"The scores {', '.join(needy)} need a judge that has heard "
                "natural speech: give one."
            )
        self.utterances = utterances
        self.references = references
        self.judge = judge
        self.readings = readings or {}
        # A measure without a tool has no score, rather than one of nothing.
        self.unmeasured = {
            name
            for name, field in (
                ("wer", "recognised"),
                ("mos", "mos"),
                ("speaker_similarity", "speaker"),
            )
            if all(getattr(m, field) is None for m in references.values())
        }
        makers = _metric_makers(judge)
        self.metrics = {
            name: makers[name]() for name in SCORES if name in names
        }
        self._word_rows: list[dict] = []
        self._added: set[str] = set()

    def add(self, name: str, measurement: Measurement) -> None:
        """Add one utterance as the system spoke it.

        Arguments
        ---------
        name : str
            Utterance id.
        measurement : Measurement
            Measurement of the system's speech.
        """
        self._added.add(name)
        reference = self.references[name]
        if measurement.failure:
            measurement = Measurement(failure=measurement.failure)
        utterance = self.utterances[name]
        if measurement.words is not None and utterance.labels is not None:
            if len(measurement.words) != len(utterance.emotions):
                measurement = replace(measurement, words=None)
        reason = measurement.failure or (
            reference.failure and f"reference: {reference.failure}"
        )
        if reason:
            self._add_failure(name, reason)
        else:
            self._compare_with_reference(name, measurement, reference)
            self._compare_with_readings(name, measurement)
        self._judge_words(name, measurement)
        self._add_the_rest(name, measurement, reference)

    def _chosen(self, *names):
        """Metrics of those names that were chosen."""
        return [self.metrics[name] for name in names if name in self.metrics]

    def _add_failure(self, name, reason):
        """Count an utterance that cannot be compared."""
        for metric in self._chosen(
            "emo_sim", "utterance_discrimination", "dtw", "f0_dtw",
            "energy_dtw", "prosody",
        ):  # fmt: skip
            metric.add_failure(name, reason)
        for metric in self._chosen("word_discrimination"):
            for index in range(len(self.utterances[name].emotions)):
                metric.add_failure(f"{name}/{index}", reason)

    def _scaled(self, name, measurement):
        """Frames in the scale of the utterance's speaker."""
        speaker = self.utterances[name].speaker
        return self.judge.scaled(measurement.features, speaker)

    def _compare_with_reference(self, name, measurement, reference):
        """Add scores against the reference."""
        if self._chosen("emo_sim", "dtw"):
            frames = self._scaled(name, measurement)[None]
            target = self._scaled(name, reference)[None]
        for metric in self._chosen("emo_sim"):
            asked = filter(None, self.utterances[name].emotions)
            course = " to ".join(dict.fromkeys(asked)) or "none"
            emotion = self.utterances[name].emotion or course
            metric.append([name], frames, target, emotions=[emotion])
        for metric in self._chosen("dtw"):
            metric.append([name], frames, target)
        ours, theirs = measurement.track(), reference.track()
        for key in ("f0", "energy"):
            for metric in self._chosen(f"{key}_dtw"):
                metric.append(
                    [name], contours(ours)[key], contours(theirs)[key]
                )
        for metric in self._chosen("prosody"):
            metric.append(name, ours, theirs)

    def _compare_with_readings(self, name, measurement):
        """Find the reading that the utterance, and each word, is nearest to."""
        utterance = self.utterances[name]
        readings = self.readings.get(name, {})
        for metric in self._chosen("utterance_discrimination"):
            candidates = {
                emotion: reading.frames.mean(0)
                for emotion, reading in readings.items()
                if emotion != utterance.emotion  # that is the reference itself
            }
            target = self._scaled(name, self.references[name]).mean(0)
            asked = utterance.emotion or "asked"
            metric.append(
                [name],
                self._scaled(name, measurement)[None],
                [{**candidates, asked: target}],
                [asked],
            )
        for metric in self._chosen("word_discrimination"):
            asked = utterance.emotions
            ids = [f"{name}/{index}" for index in range(len(asked))]
            if measurement.words is None:
                for word in ids:
                    metric.add_failure(word, "not aligned")
                continue
            vectors = self.judge.words(
                self._scaled(name, measurement), measurement.words
            )
            for index, word in enumerate(ids):
                if asked[index] is None:
                    continue
                candidates = {
                    emotion: reading.words[index]
                    for emotion, reading in readings.items()
                    # Without word times a reading has frames only; another
                    # may write its words in another way.
                    if len(reading.words) == len(asked)
                    and reading.emotions[index] == emotion
                }
                metric.append(
                    [word],
                    vectors[index][None, None],
                    [candidates],
                    [asked[index]],
                )

    def _judge_words(self, name, measurement):
        """Add scores of what the judge hears, and the rows of the words."""
        if not self._chosen("word_emotion_accuracy", "transitions", "leakage"):
            return
        judge, labels = self.judge, self.utterances[name].labels.words
        emotions = self.utterances[name].emotions
        labelled = [index for index, emotion in enumerate(emotions) if emotion]
        heard = posteriors = frames = None
        words = labels
        if measurement.words is not None:
            scaled = self._scaled(name, measurement)
            frames = judge.frame_posteriors(scaled)
            posteriors = judge.posteriors(
                judge.words(scaled, measurement.words)
            )
            best = posteriors.argmax(1)
            heard = [judge.emotions[best[index]] for index in labelled]
            words = [
                WordLabel(label.word, word.start, word.end, label.emotion)
                for label, word in zip(labels, measurement.words)
            ]
        for metric in self._chosen("word_emotion_accuracy"):
            metric.append(name, [emotions[i] for i in labelled], heard)
        for metric in self._chosen("transitions"):
            metric.append(name, words, frames, posteriors)
        for metric in self._chosen("leakage"):
            metric.append(name, emotions, posteriors)
        for place, index in enumerate(labelled):
            row = {
                "id": name,
                "index": index,
                "word": labels[index].word,
                "asked": emotions[index],
                "intensity": labels[index].intensity,
                "heard": heard[place] if heard else "",
            }
            if posteriors is not None:
                for emotion, p in zip(judge.emotions, posteriors[index]):
                    row[f"p_{emotion}"] = round(float(p), 4)
            self._word_rows.append(row)

    def _add_the_rest(self, name, measurement, reference):
        """Add word errors, predicted naturalness and the speaker."""
        for metric in self._chosen("wer"):
            if "wer" not in self.unmeasured:
                recognised = (
                    measurement.recognised or ""
                )  # silence says nothing
                text = self.utterances[name].text
                metric.append([name], [recognised], [text])
        for metric in self._chosen("mos"):
            metric.append([name], [measurement.mos])
        for metric in self._chosen("speaker_similarity"):
            ours, theirs = measurement.speaker, reference.speaker
            if ours is None or theirs is None:
                reason = measurement.failure or "no speaker vector"
                metric.add_failure(name, reason)
            else:
                metric.append([name], ours[None], theirs[None])

    def summarize(self) -> dict[str, dict | None]:
        """Summarize all scores.

        Returns
        -------
        dict
            Name of the score to its summary; None if its tool is missing, or
            no utterance has what it tests: without a switch of emotion there
            are no transitions and no leakage.
        """
        summaries: dict[str, dict | None] = {}
        for name, metric in self.metrics.items():
            summary = None
            if name not in self.unmeasured:
                summary = metric.summarize()
                if summary.get("switches") == 0 or (
                    name == "leakage" and summary["near"] is None
                ):
                    summary = None
            summaries[name] = summary
        return summaries

    def word_rows(self) -> list[dict]:
        """Return one row for each labelled word that was judged.

        Returns
        -------
        list of dict
            Judged emotion and probabilities and, with word_discrimination,
            the nearest reading.
        """
        nearest = {
            row["id"]: {
                "nearest": row.get("nearest", ""),
                "margin": row.get("margin", ""),
            }
            for metric in self._chosen("word_discrimination")
            for row in metric.rows
        }
        return [
            {**row, **nearest.get(f"{row['id']}/{row['index']}", {})}
            for row in self._word_rows
        ]

    def utterance_rows(self) -> list[dict]:
        """Return one row for each utterance, with the columns of all scores."""
        rows = {
            name: {"id": name, "asked": " ".join(map(str, u.emotions))}
            for name, u in self.utterances.items()
            if name in self._added
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

    def transition_rows(self) -> list[dict]:
        """Return one row for each switch of emotion."""
        return [
            row
            for metric in self._chosen("transitions")
            for row in metric.transition_rows
        ]


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError unless all names are those of scores.

    Arguments
    ---------
    names : iterable of str
        Names to check.

    Raises
    ------
    ValueError
        If a name is not in :data:`SCORES`.

    Example
    -------
    >>> check_names(["emo_sim", "dtw"])
    >>> check_names(["emosim"])
    Traceback (most recent call last):
    ...
    ValueError: scores: 'emosim' is unknown; choose from emo_sim, ...
    """
    for name in names:
        if name not in SCORES:
            raise ValueError(
                f"scores: {name!r} is unknown; choose from {', '.join(SCORES)}."
            )


def _metric_makers(
    judge: WordEmotionJudge | None,
) -> dict[str, Callable[[], Any]]:
    """Return a maker of each score's metric."""
    emotions = judge.emotions if judge else []
    extractor = judge.extractor if judge else None
    return {
        "emo_sim": EmotionSimilarity,
        "utterance_discrimination": EmotionDiscrimination,
        "word_discrimination": EmotionDiscrimination,
        "dtw": DynamicTimeWarping,
        "f0_dtw": partial(DynamicTimeWarping, ["euclidean"]),
        "energy_dtw": partial(DynamicTimeWarping, ["euclidean"]),
        "word_emotion_accuracy": partial(WordEmotionAccuracy, emotions),
        "transitions": lambda: EmotionTransitions(
            emotions, extractor.frame_rate, extractor.frame_offset
        ),
        "leakage": partial(EmotionLeakage, emotions),
        "speaker_similarity": SpeakerSimilarity,
        "mos": PredictedMOS,
        "prosody": ProsodyStatistics,
        "wer": WordErrorRate,
    }


def score_systems(
    measured: Iterable[tuple[str, Mapping[str, Measurement]]],
    names: Sequence[str],
    utterances: Mapping[str, Utterance],
    judge: WordEmotionJudge | None = None,
    readings: Mapping[str, Mapping[str, NaturalReading]] | None = None,
) -> dict[str, SystemScores]:
    """Compute the scores of several systems on the same utterances.

    Arguments
    ---------
    measured : iterable of (str, dict)
        Each system with its measurements, by utterance id. Those of the first
        system are the references. A generator saves memory, as only these are
        kept.
    names : sequence of str
        See :class:`SystemScores`.
    utterances : dict
        See :class:`SystemScores`.
    judge : WordEmotionJudge, optional
        See :class:`SystemScores`.
    readings : dict, optional
        See :class:`SystemScores`.

    Returns
    -------
    dict
        System to its SystemScores.
    """
    scored: dict[str, SystemScores] = {}
    references = None
    for system, measurements in measured:
        references = references or measurements
        scored[system] = SystemScores(
            names, utterances, references, judge, readings
        )
        for name, measurement in measurements.items():
            scored[system].add(name, measurement)
    return scored


def score_rows(
    summaries: Mapping[str, Mapping[str, dict | None]],
) -> list[Score]:
    """Make the rows of a table of scores.

    Arguments
    ---------
    summaries : dict
        System to the result of :meth:`SystemScores.summarize`.

    Returns
    -------
    list of Score
        Rows for the main value of each score; rows without any value are
        left out.

    Example
    -------
    >>> mos = {"mos": 3.0, "low": 2.5, "high": 3.5}
    >>> (row,) = score_rows({"efilm": {"mos": mos}, "other": {"mos": None}})
    >>> row.name, row.values
    ('Predicted MOS', {'efilm': Estimate(value=3.0, low=2.5, high=3.5)})
    """
    rows = []
    for name, heading, keys, bounds, form, highest in _ROWS:
        values = {}
        for system, summary in summaries.items():
            found = summary.get(name)
            if name == "wer" and found:
                found = {k: rate_of_language(found, k) for k in ("en", "zh")}
            for key in keys[:-1]:
                found = found and found.get(key)
            if found and found[keys[-1]] is not None:
                low, high = (found[f"{bounds}{end}"] for end in ("low", "high"))
                values[system] = Estimate(found[keys[-1]], low, high)
        if values:
            rows.append(Score(heading, SCORES[name], values, form, highest))
    return rows


def system_table(
    summaries: Mapping[str, Mapping[str, dict | None]],
    systems: Mapping[str, str],
) -> str:
    """Make the table in which papers compare systems, one in each row.

    Arguments
    ---------
    summaries : dict
        System to the result of :meth:`SystemScores.summarize`.
    systems : dict
        Name of each system to its heading, in the order of the rows.

    Returns
    -------
    str
        A Markdown table; a cell without a value is empty.

    Example
    -------
    >>> mos = {"mos": 3.0, "low": 2.5, "high": 3.5}
    >>> print(system_table({"efilm": {"mos": mos}}, {"efilm": "E-FiLM"}))
    | system | Emo SIM ↑ | DTW ↓ | WER ↓ | SpkSIM ↑ | MOS ↑ |
    |---|---|---|---|---|---|
    | E-FiLM | | | | | 3.00 [2.50, 3.50] |
    """
    rows = {row.name: row for row in score_rows(summaries)}
    cells = [["system", *_COLUMNS.values()]]
    cells += [
        [heading, *(_cell(rows.get(name), system) for name in _COLUMNS)]
        for system, heading in systems.items()
    ]
    return markdown_table(cells)


def _cell(score: Score | None, system: str) -> str:
    """Write a value with its interval; empty without a value."""
    estimate = score and score.values.get(system)
    return score.written(estimate) if score and estimate else ""


def intensity_monotonicity(
    recordings: Mapping[float, Mapping[str, str]],
    utterances: Mapping[str, Utterance],
    emotion_of: Callable[[Utterance], str],
    judge: WordEmotionJudge,
    pool: MeasuringPool,
    folder: str | Path,
) -> IntensityMonotonicity:
    """Score whether a higher intensity sounds more intense.

    Arguments
    ---------
    recordings : dict
        Intensity, rising, to utterance id to the wav file of the sentence,
        spoken in one emotion at this intensity.
    utterances : dict
        Utterance id to Utterance.
    emotion_of : callable
        Returns the emotion in which an utterance's sentence is spoken there.
    judge : WordEmotionJudge
        Trained judge.
    pool : MeasuringPool
        Pool with tools for emotion features and words.
    folder : str or Path
        Folder of the measurements.

    Returns
    -------
    IntensityMonotonicity
        Scored by the mean probability of the emotion over the words.
    """
    monotonicity = IntensityMonotonicity(list(recordings))
    scores: dict[str, list[float]] = {}
    for intensity, wavs in recordings.items():
        measured = pool.measure(
            {n: Reading(wav, utterances[n].text) for n, wav in wavs.items()},
            folder,
            f"Measuring, intensity {intensity:g}",
        )
        for name, m in measured.items():
            u, score = utterances[name], float("nan")
            if m.words is not None and not m.failure:
                frames = judge.scaled(m.features, u.speaker)
                posteriors = judge.posteriors(judge.words(frames, m.words))
                column = judge.emotions.index(emotion_of(u))
                score = float(posteriors[:, column].mean())
            scores.setdefault(name, []).append(score)
    monotonicity.append(list(scores), list(scores.values()))
    return monotonicity
