#!/usr/bin/env python3
"""Score speech whose emotion changes within the utterance.

> python evaluate.py hparams/evaluate_mini.yaml --data_folder /path/to/MiniESD \
      --systems "{copy_synthesis: results/emosplice/copy_synthesis, \
                  backbone: results/emosplice/backbone, \
                  efilm: results/emosplice/efilm}"

A system is a folder of `<id>.wav`, one for each item of the set; synthesise.py
makes them of a trained model. The set itself is scored first, as the system
`reference`. Every system gets the scores that the hparams choose; all are
explained in `speechbrain_emofilm/evaluation/scores.py`:

* against the reference: Emo SIM, DTW of the emotion features and of the F0
  and energy contours, speaker similarity, prosody;
* against the corpus's readings of the same sentence in each emotion: whether
  the item, and each word, is nearest to the emotion that was asked;
* by a classifier of words that has heard natural training speech only:
  accuracy, transitions and their boundary error, leakage, and whether a
  higher intensity sounds more intense;
* without a reference: word errors, predicted naturalness.

It writes into `output_folder`: `summary.json`, also with the scores of each
part of the set; the table `scores.md` and `scores.csv`; `table_strong.md` and
`table_mild.md`, in the form in which papers compare systems; and
`utterances.csv`, `words.csv`, `transitions.csv` and `intensities.csv`. Every
score counts the items that could not be measured. The same command measures
only what has changed.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.labels import read_word_labels
from speechbrain_emofilm.evaluation.diagnosis import diagnose_systems
from speechbrain_emofilm.evaluation.judge import (
    WordEmotionJudge,
    choose_training,
    measure_natural_readings,
    natural_word_accuracy,
    train_judge,
)
from speechbrain_emofilm.evaluation.measuring import (
    MeasuringPool,
    Reading,
    check_recordings,
    make_tool,
)
from speechbrain_emofilm.evaluation.report import write_score_table
from speechbrain_emofilm.evaluation.scores import (
    check_names,
    intensity_monotonicity,
    score_rows,
    score_systems,
    system_table,
)
from speechbrain_emofilm.evaluation.systems import Utterance
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.files import atomic_path, write_json

import speechbrain as sb
from esd_prepare import sentence_key
from hyperpyyaml import load_hyperpyyaml
from natural_speech import read_sentences
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.distributed import run_on_main

REFERENCE = "reference"


def load_parts(hparams):
    """Read which items each part of the set has: name to list of ids."""
    return {
        Path(manifest).stem: list(
            load_data_json(manifest, {"data_root": hparams["set_folder"]})
        )
        for manifest in hparams["manifests"]
    }


def load_items(hparams):
    """Read the set: id to Utterance, with word times of the reference."""
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
            items[name] = Utterance(
                name,
                entry["wav"],
                entry["speaker"],
                entry["text"],
                labels=labels[name],
            )
    if not items:
        raise ValueError(f"{hparams['manifests']}: the set has no item.")
    return items


def find_systems(hparams, items):
    """Find the recordings: system to item id to file, the set itself first."""
    if REFERENCE in hparams["systems"]:
        raise ValueError(
            f"systems: {REFERENCE!r} is the set itself, which is measured "
            "anyway; give that system another name."
        )
    files = {REFERENCE: {name: item.wav for name, item in items.items()}}
    for system, folder in hparams["systems"].items():
        files[system] = {name: f"{folder}/{name}.wav" for name in items}
    for system, wavs in files.items():
        check_recordings(wavs.values(), f"System {system}")
    return files


def find_intensities(folders, items):
    """Find whole sentences in one emotion: intensity to item id to file."""
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
            name: str(Path(folders[intensity]) / f"{name}.wav")
            for name in names
        }
        for intensity in sorted(folders)
    }
    for intensity, wavs in found.items():
        check_recordings(wavs.values(), f"Intensity {intensity:g}")
    return found


def spoken_emotion(item):
    """Return the emotion of an item's sentence at rising intensities: the last
    one.
    """
    return [emotion for emotion in item.emotions if emotion][-1]


def hear_natural_speech(pool, folder, items, hparams):
    """Train the judge, and measure the readings of the items' sentences."""
    training, sentences = (
        read_sentences(
            hparams["data_folder"],
            hparams[manifest],
            hparams["alignment_folder"],
            hparams["emotions"],
            hparams["corpus_word_labels"],
        )
        for manifest in ("classifier_manifest", "reading_manifest")
    )
    judge = WordEmotionJudge(
        make_tool(hparams["measuring_tools"]["emotion_features"]),
        hparams["emotions"],
        hparams["window"],
    )
    speech = [u for readings in training.values() for u in readings.values()]
    chosen = choose_training(speech, hparams["n_classifier"])
    train_judge(judge, chosen, pool, folder)
    wanted = {(item.speaker, sentence_key(item.text)) for item in items}
    sentences = {key: sentences[key] for key in sentences if key in wanted}
    return judge, measure_natural_readings(sentences, judge, pool, folder)


def evaluate(hparams):
    """Measure and score all systems; return the content of summary.json."""
    check_names(hparams["scores"])
    items = load_items(hparams)
    # Missing recordings are noticed before hours of measuring.
    files = find_systems(hparams, items)
    intensities = find_intensities(hparams["intensity_folders"], items)
    output = Path(hparams["output_folder"])
    measures = output / "measurements"
    tools, workers = hparams["measuring_tools"], hparams["workers"]
    rows, result = {}, {}
    with MeasuringPool(tools, workers, skip_unusable=True) as pool:
        judge, readings = hear_natural_speech(
            pool, measures, items.values(), hparams
        )
        by_item = {
            name: readings.get((item.speaker, sentence_key(item.text)), {})
            for name, item in items.items()
        }

        def score(names):
            """Score the systems on some items; what was measured is read."""
            return score_systems(
                (
                    (
                        system,
                        pool.measure(
                            {n: Reading(wavs[n], items[n].text) for n in names},
                            measures,
                            f"Measuring, {system}",
                        ),
                    )
                    for system, wavs in files.items()
                ),
                hparams["scores"],
                {name: items[name] for name in names},
                judge,
                by_item,
            )

        scored = score(items)
        parts = {
            part: {
                system: own.summarize() for system, own in score(names).items()
            }
            for part, names in load_parts(hparams).items()
            if names and len(names) < len(items)
        }
        if intensities:
            monotonicity = intensity_monotonicity(
                intensities, items, spoken_emotion, judge, pool, measures
            )
            result["intensity_monotonicity"] = monotonicity.summarize()
            rows["intensities"] = monotonicity.rows
    summaries = {name: own.summarize() for name, own in scored.items()}
    result = {
        "systems": summaries,
        "parts": parts,
        "natural_words": natural_word_accuracy(readings, judge).summarize(),
        **result,
        "diagnosis": diagnose_systems(
            summaries, hparams["topline"], hparams["floor"]
        ),
    }
    for name, rows_of in (
        ("utterances", "utterance_rows"),
        ("words", "word_rows"),
        ("transitions", "transition_rows"),
    ):
        rows[name] = [
            {"system": system, **row}
            for system, own in scored.items()
            for row in getattr(own, rows_of)()
        ]
    for name, own in rows.items():
        write_csv(output / f"{name}.csv", own)
    write_json(output / "summary.json", result)
    return result


def write_table(result, folder):
    """Write and return the table of scores, and the failures found."""
    summaries = result["systems"]
    text = write_score_table(
        folder, score_rows(summaries), {name: name for name in summaries}
    )
    for part, own in (result["parts"] or {"all": summaries}).items():
        with atomic_path(Path(folder) / f"table_{part}.md") as temporary:
            table = system_table(own, {name: name for name in own})
            temporary.write_text(table + "\n", encoding="utf-8")
    failures = [
        f"{system}: {failure['name']}, see summary.json"
        for system, found in result["diagnosis"].items()
        for failure in found["failures"]
    ]
    return "\n".join([text, *failures])


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    run_on_main(hparams["prepare"], kwargs=hparams["prepare_opts"])
    print(write_table(evaluate(hparams), hparams["output_folder"]))
