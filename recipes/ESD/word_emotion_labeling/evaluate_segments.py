#!/usr/bin/env python3
"""Evaluate a labeler on recordings whose emotions are annotated in time.

> python evaluate_segments.py hparams/evaluate_segments.yaml \
    --labeler_folder results/word_emotion_labeling/mini/multiple_instance/1986 \
    --zed_folder /path/to/ZED

With ``--segments_file list.csv`` (or ``.jsonl``) in place of ``--zed_folder``,
any other set is read. The words of each recording are labelled and turned into
segments of emotion, which are compared with the annotated ones. The output is
``summary.json`` (emotion diarization error rate, scores of each emotion, 95 %
intervals from resampling the recordings), ``recordings.csv`` with a row for
each recording, ``found_segments.csv`` with the segments found, in the format of
``segments_file``, and a table on the terminal. Recordings that cannot be used
are skipped and listed with the reason in ``skipped.json``; if there are more
than `max_bad_share`, the script fails.
"""

import sys
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.audio import audio_info, load_audio
from speechbrain_emofilm.dataio.emotion_segments import (
    fill_gaps,
    map_emotions,
    read_segments,
    read_zed,
    segments_of_labels,
)
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.metrics.emotion_segments import EmotionDiarization
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.files import write_json
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm

SAMPLE_RATE = 16000  # Hz, of the audio that aligner and recogniser get
#: Letters in a second of speech. The features of a labeler may hold the
#: duration per letter, so that a window gets as many as speech usually has.
LETTERS_PER_SECOND = 16
CHOICES = {
    "without_text": ("windows", "recognizer"),
    "frame_statistics": ("training", "recording"),
}


class WordFinder:
    """Find the words of recordings, or windows in place of them.

    Aligner and recogniser are created when they are first needed.
    """

    def __init__(self, hparams):
        self.hparams = hparams
        self._tools = {}

    def _tool(self, name):
        if name not in self._tools:
            self._tools[name] = self.hparams[name]()
        return self._tools[name]

    def find(self, recording, duration):
        """Return the text, the words, and where they come from."""
        text, source = None, "text"
        if self.hparams["use_text"]:
            text = recording.text
        if text is None and self.hparams["without_text"] == "windows":
            windows = fixed_windows(duration, self.hparams["window_length"])
            return "", windows, "windows"
        wav = load_audio(recording.audio, SAMPLE_RATE)
        if text is None:
            source = "recognizer"
            text = self._tool("recognizer").transcribe([wav], SAMPLE_RATE)[0]
            if not text:
                raise ValueError(
                    f"{recording.audio}: no word was recognised; give its "
                    "text, or set without_text to windows."
                )
        words = self._tool("aligner").align(
            wav, SAMPLE_RATE, text, self.hparams["language"]
        )
        return text, words, source


def fixed_windows(duration, length):
    """Divide a recording into windows; a short rest goes to the last one."""
    n_windows = max(int(duration / length + 0.5), 1)
    ends = [length * number for number in range(1, n_windows)] + [duration]
    return [
        Word(
            "a" * max(round(LETTERS_PER_SECOND * (end - start)), 1), start, end
        )
        for start, end in zip([0.0, *ends], ends)
    ]


def check_options(hparams):
    """Raise ValueError for options that are wrong or contradict each other."""
    if (hparams["zed_folder"] is None) == (hparams["segments_file"] is None):
        raise ValueError(
            "Give either zed_folder or segments_file: the recordings come "
            "from one of them."
        )
    for name, choices in CHOICES.items():
        if hparams[name] not in choices:
            raise ValueError(
                f"{name} is {hparams[name]!r}: set it to "
                f"{' or '.join(choices)}."
            )
    if not hparams["window_length"] > 0:
        raise ValueError(
            f"window_length is {hparams['window_length']}: give a length in "
            "seconds above 0."
        )


def read_recordings(hparams):
    """Read the set and return its recordings."""
    if hparams["zed_folder"] is not None:
        return read_zed(hparams["zed_folder"])
    return read_segments(hparams["segments_file"], hparams["audio_folder"])


def label_recording(labeler, finder, recording, hparams):
    """Find the segments of a recording.

    Returns the true and the found segments, the duration, and where the words
    come from.
    """
    duration = audio_info(recording.audio, hparams["max_duration"]).duration
    try:
        truth = fill_gaps(recording.segments, duration, hparams["neutral"])
    except ValueError as error:
        raise ValueError(f"{recording.audio}: {error}") from error
    text, words, source = finder.find(recording, duration)
    statistics = None
    if hparams["frame_statistics"] == "recording":
        statistics = labeler.speaker_statistics([recording.audio])
    labels = labeler.label_file(
        recording.audio, text, hparams["language"], words, statistics
    )
    found = segments_of_labels(
        labels, duration, hparams["neutral"], hparams["max_pause"]
    )
    return truth, found, duration, source


def evaluate(labeler, hparams):
    """Label all recordings, write the results, and return the summary."""
    check_options(hparams)
    folder = Path(hparams["output_folder"])
    neutral = hparams["neutral"]
    known = list(dict.fromkeys([*labeler.emotions, neutral]))
    everything = read_recordings(hparams)
    recordings = map_emotions(everything, known, hparams["emotion_map"])
    if not recordings:
        raise ValueError(
            "emotion_map leaves out every recording: map some emotions to "
            f"{', '.join(known)}."
        )
    metric = EmotionDiarization(
        known, neutral, n_samples=hparams["n_bootstrap"]
    )
    finder = WordFinder(hparams)
    rows, skipped, sources = [], {}, {}
    for recording in tqdm(recordings, desc="Labelling"):
        try:
            truth, found, duration, source = label_recording(
                labeler, finder, recording, hparams
            )
        except (ValueError, FileNotFoundError) as error:
            skipped[recording.id] = str(error)
            metric.add_failure(recording.id, str(error))
            continue
        sources[source] = sources.get(source, 0) + 1
        metric.append(recording.id, truth, found, duration, words_from=source)
        rows += [
            {
                "audio": str(recording.audio.resolve()),
                "start": round(segment.start, 4),
                "end": round(segment.end, 4),
                "emotion": segment.emotion,
            }
            for segment in found
        ]
    report_skipped(
        skipped,
        len(recordings),
        hparams["max_bad_share"],
        folder / "skipped.json",
        "recordings",
    )
    if len(skipped) == len(recordings):
        raise ValueError(
            f"No recording could be used: see {folder / 'skipped.json'}."
        )
    summary = {
        **metric.summarize(),
        "left_out": len(everything) - len(recordings),
        "words_from": sources,
    }
    write_json(folder / "summary.json", summary)
    metric.write_rows(folder / "recordings.csv")
    write_csv(folder / "found_segments.csv", rows)
    return summary


def print_table(summary):
    """Print the main scores."""
    for name in ("eder", "mean_eder", "macro_f1"):
        score = summary[name]
        print(
            f"{name}: {score[name]:.3f} "
            f"({score['low']:.3f} to {score['high']:.3f})"
        )
    parts = ("false_alarm", "missed", "confusion", "all_neutral_eder")
    print(", ".join(f"{name}: {summary[name]:.3f}" for name in parts))
    for emotion, scores in summary["emotions"].items():
        cells = [
            f"{name} -"
            if scores[name][name] is None
            else f"{name} {scores[name][name]:.3f}"
            for name in ("precision", "recall", "f1")
        ]
        print(f"{emotion}: {', '.join(cells)}")


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    check_options(hparams)
    labeler = WordEmotionLabeler.from_hparams(
        hparams["labeler_folder"],
        overrides=hparams["labeler_overrides"],
        savedir=hparams["labeler_folder"],
        run_opts={"device": run_opts.get("device") or infer_device()},
    )
    print_table(evaluate(labeler, hparams))
    print(f"{hparams['output_folder']}/summary.json has all scores.")
