#!/usr/bin/env python3
"""Measure whether words change along an axis of prosody as they are asked to.

> python evaluate_axes.py hparams/evaluate_mini.yaml \
    --data_folder /path/to/MiniESD \
    --model_folder results/emotional_tts/mini/1986

The model must have been trained with `axes`. Held-out sentences are spoken
without any axis asked for, and with one axis (pitch, pace or level), of which
every word gets another value, drawn from `--steps`, or none. The emotion of all
words is the same in both: none, or each of `--emotions`. What is measured of a
word is the difference between the two readings, averaged over the seeds; with
the same seed, the model still draws other speech tokens, and that chance is in
the scores.

It writes to `<output_folder>/axes`:

* `summary.json`: for each emotion, and for all together, the correlation of
  the asked and the measured change of each axis, with its 95 % interval over
  the sentences, and the cross-talk: how far each axis moves when one is asked
  to move by its scale, in units of its own scale (1 on the diagonal is exactly
  as asked, 0 beside it is no cross-talk); and the accuracy of the emotions, as
  a judge of natural words' prosody recognises them, when one axis is asked
  against what the emotion does to it;
* `words.csv`, `axes.png`, and the speech.

Readings whose words cannot be found are counted, and their sentence is left
out for that axis and emotion.
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.evaluation.measuring import MeasuringPool
from speechbrain_emofilm.evaluation.systems import (
    Utterance,
    spoken_system,
    synthesise,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.metrics.bootstrap import correlation, estimate
from speechbrain_emofilm.metrics.control import WordEmotionAccuracy
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.processing.prosody import PROSODY_CHANGES
from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.utils.files import atomic_path, write_json

import numpy as np
from evaluate import (
    as_reading,
    choose_for_classifier,
    load_utterances,
    neutral_readings,
    train_classifier,
)
from evaluate_mixtures import choose_sentences, parse_with_hparams

#: No axis asked for, as a name beside those of the axes.
NOTHING = "nothing"
#: Columns of a measured change, and factors that make steps of an axis of
#: them: semitones, octaves of the pace, dB.
MEASURED = {
    "pitch": ("f0", 12 / np.log(2)),
    "pace": ("duration", -1 / np.log(2)),
    "level": ("energy", 1.0),
}


@dataclass(frozen=True)
class Request:
    """A sentence, the emotion of its words, and what is asked of an axis.

    `steps` holds, for each word, the asked change in steps that add up, or
    None. `kind` is "steps", or "against" for a request against the emotion.
    """

    neutral: Utterance
    emotion: str | None
    axis: str
    steps: Sequence[float | None]
    kind: str = "steps"

    @property
    def key(self) -> tuple:
        """What distinguishes it from all others."""
        return self.neutral.id, self.emotion, self.axis, self.kind

    @property
    def utterance(self) -> Utterance:
        """Utterance to speak, with its own id and labels."""
        words = [
            replace(
                word,
                emotion=self.emotion,
                probs=None,
                intensity=None,
                axes=None
                if step is None
                else {self.axis: round(AXES[self.axis].from_steps(step), 4)},
            )
            for word, step in zip(self.neutral.labels.words, self.steps)
        ]
        name = "_".join(map(str, self.key)).replace("None", "unlabelled")
        return replace(self.neutral, id=name, labels=UtteranceLabels(words))


def draw_steps(
    key: str, n_words: int, axis: str, shares: Sequence[float]
) -> list[float | None]:
    """Draw the asked steps of the words of a sentence, always the same.

    `shares` are multiples of the axis's scale. All occur about equally often,
    and so does no request.
    """
    rng = random.Random(key)
    values: list[float | None] = [share * AXES[axis].scale for share in shares]
    values.append(None)
    drawn: list[float | None] = []
    while len(drawn) < n_words:
        drawn += rng.sample(values, len(values))
    return drawn[:n_words]


def list_requests(
    sentences: Sequence[Utterance],
    emotions: Sequence[str | None],
    axes: Sequence[str],
    shares: Sequence[float],
) -> list[Request]:
    """List every sentence with every emotion, without and with each axis."""
    requests = []
    for neutral in sentences:
        n_words = len(neutral.labels.words)
        for emotion in emotions:
            requests.append(
                Request(neutral, emotion, NOTHING, [None] * n_words)
            )
            for axis in axes:
                key = f"{neutral.text} {emotion} {axis}"
                steps = draw_steps(key, n_words, axis, shares)
                requests.append(Request(neutral, emotion, axis, steps))
    return requests


def list_against(
    sentences: Sequence[Utterance],
    emotions: Sequence[str],
    axes: Sequence[str],
    natural: Mapping[str, np.ndarray],
) -> list[Request]:
    """List requests of each axis against what each emotion does to it.

    `natural` holds the mean change of each axis (A,), in steps, of the natural
    words of an emotion. All words are asked for a change by the axis's scale
    in the opposite direction.
    """
    return [
        Request(
            neutral,
            emotion,
            axis,
            [-np.sign(natural[emotion][index]) * AXES[axis].scale]
            * len(neutral.labels.words),
            "against",
        )
        for neutral in sentences
        for emotion in emotions
        for index, axis in enumerate(axes)
    ]


def in_steps(change: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """Convert changes (W, 6) to steps of the axes (W, A)."""
    columns = []
    for axis in axes:
        name, factor = MEASURED[axis]
        columns.append(change[:, PROSODY_CHANGES.index(name)] * factor)
    return np.stack(columns, 1)


def mean_changes(
    requests: Sequence[Request], measured: Sequence[Mapping]
) -> dict[tuple, np.ndarray]:
    """Average the changes (W, 6) of each request over the seeds.

    `measured` holds, for each seed, utterance id to measurement. A request
    with a reading that was not aligned is left out.
    """
    found = {}
    for request in requests:
        changes = [m[request.utterance.id].change for m in measured]
        if None not in changes:
            found[request.key] = np.mean(changes, 0)
    return found


def compare(
    requests: Sequence[Request],
    changes: Mapping[tuple, np.ndarray],
    axes: Sequence[str],
) -> list[dict]:
    """List the asked and the measured steps of all words."""
    rows = []
    for request in requests:
        if request.axis == NOTHING or request.kind != "steps":
            continue
        name, emotion, _, kind = request.key
        without = changes.get((name, emotion, NOTHING, kind))
        change = changes.get(request.key)
        if without is None or change is None:
            continue
        moved = in_steps(change - without, axes)
        rows += [
            {
                "sentence": name,
                "emotion": emotion or "none",
                "axis": request.axis,
                "word": word.word,
                "asked": step,
                **dict(zip(axes, values.round(4).tolist())),
            }
            for word, step, values in zip(
                request.neutral.labels.words, request.steps, moved
            )
        ]
    return rows


def score(rows: Sequence[Mapping], axes: Sequence[str]) -> dict:
    """Compute correlation and cross-talk of each asked axis over words."""
    scores = {}
    for axis in axes:
        own = [r for r in rows if r["axis"] == axis and r["asked"] is not None]
        if not own:
            continue
        asked = within_emotions(own, "asked")
        moved = {name: within_emotions(own, name) for name in axes}
        sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
        for row, a, b in zip(own, asked, moved[axis]):
            sums[row["sentence"]] += [a * a, a * b, b * b]
        slopes = {
            name: float(asked @ moved[name] / (asked @ asked))
            * AXES[axis].scale
            / AXES[name].scale
            for name in axes
        }
        scores[axis] = {
            **estimate(
                "correlation", correlation, np.array(list(sums.values()))
            ),
            "cross_talk": slopes,
            "words": len(own),
        }
    return scores


def within_emotions(rows: Sequence[Mapping], column: str) -> np.ndarray:
    """Return a column (N,) without the mean of each emotion.

    An axis is asked for relative to the neutral reading: where an emotion
    lowers the pitch, no change of the pitch is a rise.
    """
    values = np.array([row[column] for row in rows])
    emotions = np.array([row["emotion"] for row in rows])
    for emotion in set(emotions):
        values[emotions == emotion] -= values[emotions == emotion].mean()
    return values


def judge_emotions(
    requests: Sequence[Request],
    measured: Sequence[Mapping],
    classifier,
    emotions: Sequence[str],
) -> dict:
    """Compute how often a judge recognises the emotions, by what was asked."""
    accuracies: dict[str, WordEmotionAccuracy] = {}
    for request in requests:
        against = request.kind == "against"
        if request.emotion is None or not (against or request.axis == NOTHING):
            continue
        name = f"against {request.axis}" if against else NOTHING
        accuracy = accuracies.setdefault(name, WordEmotionAccuracy(emotions))
        asked = [request.emotion] * len(request.steps)
        for seed, of_seed in enumerate(measured):
            change = of_seed[request.utterance.id].change
            accuracy.append(
                f"{request.utterance.id}_{seed}",
                asked,
                None
                if change is None
                else classifier.predict(np.array(change)),
            )
    return {name: own.summarize() for name, own in accuracies.items()}


def natural_means(
    hparams: Mapping, pool: MeasuringPool, axes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Measure what each emotion does to the axes in natural training words."""
    utterances = load_utterances(hparams["train_manifests"], hparams)
    neutral = neutral_readings(utterances, hparams["baseline_emotion"])
    # Those that the judge learns from, which are measured anyway.
    chosen = choose_for_classifier(
        utterances,
        neutral,
        hparams["n_classifier"],
        hparams["baseline_emotion"],
    )
    chosen.sort(key=lambda u: (u.speaker, u.text))  # to share the baselines
    measured = pool.measure(
        {u.id: as_reading(u, u.wav, neutral, ("change",)) for u in chosen},
        Path(hparams["reference_folder"]) / "classifier" / "measurements",
        "Measuring, natural training words",
    )
    by_emotion = defaultdict(list)
    for u in chosen:
        for word, change in zip(u.labels.words, measured[u.id].change or ()):
            by_emotion[word.emotion].append(change)
    return {
        emotion: in_steps(np.array(changes), axes).mean(0)
        for emotion, changes in by_emotion.items()
    }


def draw_picture(
    path: Path, rows: Sequence[Mapping], scores: Mapping, axes: Sequence[str]
) -> None:
    """Draw asked and measured changes, and the cross-talk."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(
        1, len(axes) + 1, figsize=(4 * (len(axes) + 1), 3.6)
    )
    units = {"pitch": "semitones", "pace": "octaves", "level": "dB"}
    for axis, plot in zip(axes, plots):
        own = [r for r in rows if r["axis"] == axis and r["asked"] is not None]
        for emotion in dict.fromkeys(row["emotion"] for row in own):
            values = defaultdict(list)
            for row in own:
                if row["emotion"] == emotion:
                    values[row["asked"]].append(row[axis])
            asked = sorted(values)
            plot.errorbar(
                asked,
                [np.mean(values[a]) for a in asked],
                [np.std(values[a]) / len(values[a]) ** 0.5 for a in asked],
                marker="o",
                capsize=2,
                label=emotion,
            )
        ends = [min(r["asked"] for r in own), max(r["asked"] for r in own)]
        plot.plot(ends, ends, color="grey", linestyle=":", label="as asked")
        plot.set_title(f"{axis}, correlation {scores[axis]['correlation']:.2f}")
        plot.set_xlabel(f"asked change, {units[axis]}")
        plot.set_ylabel("measured change")
        plot.legend(fontsize=7)
    matrix = [[scores[a]["cross_talk"][b] for b in axes] for a in axes]
    plots[-1].imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            plots[-1].text(
                column, row, f"{value:.2f}", ha="center", va="center"
            )
    plots[-1].set_xticks(range(len(axes)), axes)
    plots[-1].set_yticks(range(len(axes)), axes)
    plots[-1].set_xlabel("measured")
    plots[-1].set_ylabel("asked")
    plots[-1].set_title("cross-talk")
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)


def read_options(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict]:
    """Read the command line: options of this script, and hparams."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False
    )
    add = parser.add_argument
    add("--n_sentences", type=int, default=12, help="of each emotion")
    add(
        "--emotions",
        nargs="*",
        default=["neutral", "happy", "sad"],
        help="of the words, besides none",
    )
    add(
        "--steps",
        nargs="+",
        type=float,
        default=[-1.0, -0.5, 0.0, 0.5, 1.0],
        help="asked changes, as multiples of each axis's scale",
    )
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of readings")
    return parse_with_hparams(parser, arguments)


def main(arguments: Sequence[str]) -> None:
    """Speak, measure and score."""
    options, hparams = read_options(arguments)
    folder = Path(hparams["output_folder"]) / "axes"
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        hparams["model_folder"], run_opts={"device": options.device}
    )
    axes = synthesizer.axes
    if not axes:
        raise ValueError(
            f"{hparams['model_folder']} has a model without axes: train one "
            'with --axes "[pitch, pace, level]".'
        )
    baseline = hparams["baseline_emotion"]
    utterances = load_utterances(hparams["test_manifests"], hparams)
    neutral = neutral_readings(utterances, baseline)
    sentences = choose_sentences(neutral, options.n_sentences)
    requests = list_requests(
        sentences, [None, *options.emotions], axes, options.steps
    )
    changing = [name for name in options.emotions if name != baseline]
    with MeasuringPool(
        {"aligner": hparams["aligner"]}, hparams["workers"]
    ) as pool:
        requests += list_against(
            sentences, changing, axes, natural_means(hparams, pool, axes)
        )
        measured = []
        for seed in options.seeds:
            system = spoken_system(
                folder / f"seed_{seed}", synthesizer, seed, hparams["guidance"]
            )
            wavs = synthesise(
                f"axes, seed {seed}",
                system,
                [request.utterance for request in requests],
                hparams["batch_size"],
                hparams["sample_rate"],
            )
            measured.append(
                pool.measure(
                    {
                        u.id: as_reading(u, wavs[u.id], neutral, ("change",))
                        for u in (request.utterance for request in requests)
                    },
                    folder / "measurements",
                    f"Measuring, seed {seed}",
                )
            )
        classifier = train_classifier(pool, hparams)
    changes = mean_changes(requests, measured)
    rows = compare(requests, changes, axes)
    scores = score(rows, axes)
    summary = {
        "all": scores,
        "by_emotion": {
            emotion: score([r for r in rows if r["emotion"] == emotion], axes)
            for emotion in dict.fromkeys(row["emotion"] for row in rows)
        },
        "emotion_accuracy": judge_emotions(
            requests, measured, classifier, hparams["emotions"]
        ),
        "scales": {axis: AXES[axis].scale for axis in axes},
        "seeds": options.seeds,
        "sentences": len(sentences),
        "not_aligned": [
            request.utterance.id
            for request in requests
            if request.key not in changes
        ],
    }
    write_json(folder / "summary.json", summary)
    write_csv(folder / "words.csv", rows)
    draw_picture(folder / "axes.png", rows, scores, axes)
    for axis, own in scores.items():
        slopes = ", ".join(
            f"{name} {slope:.2f}" for name, slope in own["cross_talk"].items()
        )
        print(
            f"{axis}: correlation {own['correlation']:.2f} "
            f"({own['low']:.2f} to {own['high']:.2f}); moves {slopes}"
        )
    for name, own in summary["emotion_accuracy"].items():
        print(f"emotion accuracy, {name}: {own['accuracy']:.2f}")
    print(
        f"The words of {len(summary['not_aligned'])} of {len(requests)} "
        f"requests were not found. Scores: {folder / 'summary.json'}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
