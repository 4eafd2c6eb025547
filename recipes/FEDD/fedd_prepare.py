#!/usr/bin/env python3
"""Make EmoSplice, a test set whose emotion changes within the utterance.

> python fedd_prepare.py /path/to/ESD results/emosplice \
      --alignment_folder /path/to/ESD/textgrids

FEDD, the set of the E-FiLM paper (arXiv 2509.20378), is not public. EmoSplice
is built after its description from the parallel sentences of ESD, or of any
corpus in its layout: scores on it are not scores on FEDD.

* strong: the first words of one emotion and the rest of another;
* mild: two emotions that are neighbours in valence and arousal, with a
  neutral bridge of one to three words between them, or with one of two words
  whose prosody lies between the emotions' (see bridging.py).

All words of an item are by one speaker and from readings of one sentence, so
that the emotion of each word is known by construction. Readings are joined at
word boundaries (see joining.py). Speakers and ordered pairs of emotions take
turns. The same corpus, options and seed give the same bytes.

It writes into `save_folder`::

    strong.json, mild.json     manifests, the emotion null
    items.csv                  speaker and marked-up text of each item
    word_labels.json           emotion of each word
    textgrids/<speaker>/       words, emotions and intensities, for Praat
    wavs/<id>.wav
    joins.csv                  one row per join: how far speech jumps there
    join_quality.json          comparison with natural word boundaries

own_set_prepare.py reads a set of one's own into the same form.
"""

import argparse
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU
from speechbrain_emofilm.dataio.alignments import find_textgrid, read_alignment
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    check_words,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import write_markup
from speechbrain_emofilm.dataio.text import split_words
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.files import (
    atomic_path,
    file_fingerprint,
    read_json,
    write_json,
)
from speechbrain_emofilm.utils.skipped import report_skipped

import numpy as np
import soundfile
from bridging import bridge_cuts, with_bridge
from esd_prepare import prepare_esd, sentence_key
from joining import MEASURES
from speechbrain.dataio.dataio import load_data_json
from speechbrain.utils.logger import get_logger
from splicing import (
    SAMPLE_RATE,
    Recording,
    best_splice,
    mild_cuts,
    natural_jumps,
    strong_cuts,
)
from tqdm import tqdm

logger = get_logger(__name__)

EMOTIONS = ("neutral", "angry", "happy", "sad", "surprise")
#: Valence and arousal of emotions, -1 to 1, after Russell's circumplex.
VALENCE_AROUSAL = {
    "happy": (0.8, 0.5),
    "surprise": (0.4, 0.8),
    "angry": (-0.5, 0.8),
    "sad": (-0.8, -0.4),
}
#: Largest angle in degrees between neighbours, seen from neutral.
LARGEST_ANGLE = 90.0
#: Number of sentences to try for an item before the best join is taken.
MOST_TRIALS = 12
#: Number of natural word boundaries that joins are compared with.
N_NATURAL = 600
#: A jump is natural up to this quantile of the natural boundaries' jumps.
NATURAL_QUANTILE = 0.95
STATE_FILE = "fedd_prepare.json"
#: Raise it when the same corpus and options give other items.
SET_VERSION = 3


# --- The corpus -----------------------------------------------------------


def read_recordings(
    data_folder: str | Path,
    manifests: Sequence[str | Path],
    alignment_folder: str | Path,
    emotions: Sequence[str],
    word_labels: str | Path | None = None,
) -> tuple[dict, dict[str, str]]:
    """Read parallel sentences with word times, and list what is skipped.

    Returns (speaker, sentence) to emotion to Recording, and id to reason.
    """
    labels = read_word_labels(word_labels, emotions) if word_labels else {}
    sentences, skipped = {}, {}
    for manifest in manifests:
        items = load_data_json(manifest, {"data_root": str(data_folder)})
        for name, item in tqdm(items.items(), "Reading alignments"):
            if item["emotion"] not in emotions:
                continue
            try:
                words = _aligned_words(name, item, alignment_folder, labels)
            except (FileNotFoundError, ValueError) as error:
                skipped[name] = str(error)
                continue
            recording = Recording(
                name,
                item["wav"],
                item["speaker"],
                item["language"],
                item["text"],
                item["emotion"],
                words,
            )
            key = (item["speaker"], sentence_key(item["text"]))
            sentences.setdefault(key, {})[item["emotion"]] = recording
    return sentences, skipped


def _aligned_words(name, item, alignment_folder, labels):
    """Label the words of an utterance with the times of its TextGrid."""
    grid = find_textgrid(alignment_folder, name, item["speaker"])
    timed = read_alignment(grid)
    known = labels[name].words if name in labels else [None] * len(timed)
    words = tuple(
        WordLabel(
            word.text,
            word.start,
            word.end,
            (label and label.emotion) or item["emotion"],
            intensity=label.intensity if label else None,
        )
        for word, label in zip(timed, known)
    )
    text_words = [word.text for word in split_words(item["text"])]
    check_words(UtteranceLabels(list(words)), text_words, f"{name} in {grid}")
    if len(known) != len(timed):
        raise ValueError(
            f"{name} has {len(known)} word labels but {len(timed)} words in "
            f"{grid}: label or align it again."
        )
    if words[-1].end > item["duration"] + 0.05:
        raise ValueError(
            f"{grid} ends at {words[-1].end:.2f} s, the recording at "
            f"{item['duration']:.2f} s: align it again."
        )
    return words


# --- The plan -------------------------------------------------------------


def neighbouring_pairs(
    valence_arousal: Mapping[str, Sequence[float]],
    largest_angle: float = LARGEST_ANGLE,
) -> list[tuple[str, str]]:
    """List ordered pairs of emotions that are neighbours seen from neutral."""
    angles = {
        emotion: math.degrees(math.atan2(arousal, valence)) % 360
        for emotion, (valence, arousal) in valence_arousal.items()
    }
    order = sorted(angles, key=angles.get)
    pairs = []
    for first, second in zip(order, order[1:] + order[:1]):
        if 0 < (angles[second] - angles[first]) % 360 <= largest_angle:
            pairs += [(first, second), (second, first)]
    return pairs


def plan_turns(
    n_items: int, speakers: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, tuple[str, str]]]:
    """List the speaker and pair of emotions of each item; all take turns."""
    return [
        (
            speakers[(index + index // len(pairs)) % len(speakers)],
            pairs[index % len(pairs)],
        )
        for index in range(n_items)
    ]


# --- The set --------------------------------------------------------------


def prepare_emosplice(
    data_folder: str | Path,
    save_folder: str | Path,
    alignment_folder: str | Path,
    n_strong: int = 500,
    n_mild: int = 500,
    split: str = "test",
    emotions: Sequence[str] = EMOTIONS,
    valence_arousal: Mapping[str, Sequence[float]] = VALENCE_AROUSAL,
    bridge_emotion: str = "neutral",
    interpolate_bridge: bool = False,
    word_labels: str | Path | None = None,
    prepare_opts: Mapping | None = None,
    seed: int = 1986,
    max_bad_share: float = 1.0,
    skip_prep: bool = False,
) -> None:
    """Make the set from a corpus in ESD's layout.

    Nothing is done when it was made of the same corpus with the same options.

    Arguments
    ---------
    data_folder : str or Path
        The corpus.
    save_folder : str or Path
        Folder of the set, outside of the corpus.
    alignment_folder : str or Path
        TextGrids of the corpus, ``<speaker>/<id>.TextGrid``.
    n_strong : int
        Number of items with a strong transition.
    n_mild : int
        Number of items with a mild transition.
    split : str
        Split of the corpus: train, valid or test.
    emotions : sequence of str
        The taxonomy.
    valence_arousal : dict
        Emotion to (valence, arousal), by which neighbours are found.
    bridge_emotion : str
        Emotion of the words between the emotions of a mild item.
    interpolate_bridge : bool
        Whether the prosody of these words leads from the one emotion to the
        other, and their labels are mixtures of the two.
    word_labels : str or Path, optional
        Word labels of the corpus, with emotions and intensities; a word
        without a label carries the emotion of its reading.
    prepare_opts : dict, optional
        Options of prepare_esd, such as ``language``.
    seed : int
        Seed of the choice of sentences.
    max_bad_share : float
        Largest share of the utterances that may be unusable, 0 to 1.
    skip_prep : bool
        Skip this step.

    Raises
    ------
    FileNotFoundError
        If the corpus or its alignments are missing.
    ValueError
        If the corpus has too few parallel sentences for so many items.
    """
    if skip_prep:
        return
    save_folder = Path(save_folder)
    prepared = save_folder / "corpus"
    prepare_esd(data_folder, prepared, **(prepare_opts or {}))
    manifest = prepared / f"{split}.json"
    state = {
        "corpus": file_fingerprint(manifest),
        "options": [n_strong, n_mild, split, list(emotions)],
        "bridge": [bridge_emotion, interpolate_bridge],
        "valence_arousal": {k: list(v) for k, v in valence_arousal.items()},
        "alignments": _textgrids_fingerprint(alignment_folder),
        "word_labels": word_labels and file_fingerprint(word_labels),
        "seed": seed,
        "version": [speechbrain_emofilm.__version__, SET_VERSION],
    }
    state_file = save_folder / STATE_FILE
    if state_file.is_file() and read_json(state_file) == state:
        logger.info("%s: made before, nothing to do", save_folder)
        return
    state_file.unlink(missing_ok=True)
    sentences, skipped = read_recordings(
        data_folder, [manifest], alignment_folder, emotions, word_labels
    )
    report_skipped(
        skipped,
        len(skipped) + sum(map(len, sentences.values())),
        max_bad_share,
        save_folder / "skipped.json",
    )
    if not sentences:
        reason = next(iter(skipped.values()), "it is empty.")
        raise ValueError(
            f"{manifest}: none of its utterances can be used: {reason}"
        )
    _check_neighbours(emotions, valence_arousal, bridge_emotion, n_mild)
    maker = _Maker(sentences, seed)
    items = {
        "strong": maker.make(
            "strong", n_strong, list(permutations(emotions, 2)), strong_cuts
        ),
        "mild": maker.make(
            "mild",
            n_mild,
            neighbouring_pairs(valence_arousal),
            bridge_cuts if interpolate_bridge else mild_cuts,
            bridge_emotion,
            with_bridge if interpolate_bridge else None,
        ),
    }
    _write_set(save_folder, items, emotions, maker.natural)
    write_json(state_file, state)


def _textgrids_fingerprint(folder):
    """Hash the names, sizes and times of the alignments."""
    files = sorted(Path(folder).rglob("*.TextGrid"))
    stats = [(str(path), path.stat()) for path in files]
    stats = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _check_neighbours(emotions, valence_arousal, bridge_emotion, n_mild):
    """Raise ValueError for options that allow no mild item."""
    unknown = {*valence_arousal, bridge_emotion} - set(emotions)
    if n_mild and unknown:
        raise ValueError(
            f"valence_arousal and bridge_emotion name {sorted(unknown)}, "
            f"which the taxonomy lacks ({', '.join(emotions)})."
        )
    if n_mild and not neighbouring_pairs(valence_arousal):
        raise ValueError(
            "valence_arousal has no two emotions within "
            f"{LARGEST_ANGLE:g} degrees: mild transitions need neighbours."
        )


class _Maker:
    """Choice and splicing of sentences."""

    def __init__(self, sentences, seed):
        self.sentences = sentences
        self.rng = random.Random(seed)
        self.speakers = sorted({speaker for speaker, _ in sentences})
        recordings = [r for group in sentences.values() for r in group.values()]
        recordings = [r for r in recordings if len(r.words) > 1]
        recordings.sort(key=lambda recording: recording.id)
        self.natural = natural_jumps(recordings, N_NATURAL, seed)
        self.limits = {
            name: float(np.quantile(values, NATURAL_QUANTILE))
            for name, values in self.natural.items()
        }
        self.uses = Counter()

    def make(self, part, n_items, pairs, cuts, bridge=None, prepare=None):
        """Make the items of one part, by their ids."""
        items, taken = {}, set()
        turns = plan_turns(n_items, self.speakers, pairs)
        for index, (speaker, pair) in enumerate(tqdm(turns, f"Making {part}")):
            emotions = [pair[0], bridge, pair[1]] if bridge else list(pair)
            spliced = self._best(speaker, emotions, cuts, prepare, taken)
            if spliced is None:
                raise ValueError(
                    f"Speaker {speaker} has no further sentence in "
                    f"{', '.join(emotions)} for item {index + 1} of "
                    f"{n_items} {part} ones: ask for fewer, or take a larger "
                    "split."
                )
            items[f"{speaker}_{part}_{index + 1:04d}"] = spliced
        return items

    def _best(self, speaker, emotions, cuts, prepare, taken):
        """Splice the first sentence with natural joins, else the best one."""
        keys = [
            key
            for key, group in sorted(self.sentences.items())
            if key[0] == speaker
            and (key, *emotions) not in taken
            and all(emotion in group for emotion in emotions)
        ]
        self.rng.shuffle(keys)
        keys.sort(key=lambda key: self.uses[key])  # stable: least used first
        best = None
        for key in keys[:MOST_TRIALS]:
            group = self.sentences[key]
            readings = [group[emotion] for emotion in emotions]
            sizes = {len(reading.words) for reading in readings}
            if len(sizes) != 1:
                continue
            places = cuts(sizes.pop())
            found = best_splice(readings, places, self.limits, prepare)
            if found and (best is None or found[0] < best[0]):
                best = (*found, key)
            if best and best[0] <= 1:
                break
        if best is None:
            return None
        _, spliced, key = best
        self.uses[key] += 1
        taken.add((key, *emotions))
        return spliced


def write_items(
    path: str | Path,
    manifests: Mapping[str, Mapping],
    labels: Mapping[str, UtteranceLabels],
) -> None:
    """Write items.csv: id, part, speaker and marked text of each item."""
    write_csv(
        path,
        (
            {
                "id": name,
                "part": part,
                "speaker": entry["speaker"],
                "asked": write_markup(
                    entry["text"].replace("{{", "{").replace("}}", "}"),
                    labels[name].words,
                ),
            }
            for part, manifest in manifests.items()
            for name, entry in manifest.items()
        ),
    )


def _write_set(save_folder, items, emotions, natural):
    """Write sounds, manifests, labels and statistics of the joins."""
    labels, rows, manifests = {}, [], {}
    for part, content in items.items():
        manifests[part] = manifest = {}
        for name, spliced in content.items():
            source = spliced.sources[0]
            utterance = UtteranceLabels(
                spliced.words,
                {
                    "labels": "by construction",
                    "readings": [s.id for s in spliced.sources],
                },
            )
            labels[name] = utterance
            manifest[name] = _write_item(save_folder, name, spliced, source)
            rows += _join_rows(name, part, spliced)
        write_json(save_folder / f"{part}.json", manifest)
    write_word_labels(save_folder / "word_labels.json", labels, emotions)
    write_items(save_folder / "items.csv", manifests, labels)
    write_csv(save_folder / "joins.csv", rows)
    write_json(
        save_folder / "join_quality.json", _quality_summary(rows, natural)
    )


def _write_item(save_folder, name, spliced, source):
    """Write one item's sound and TextGrid; return its manifest entry."""
    wav = np.clip(spliced.wav, -1.0, 1.0)
    with atomic_path(save_folder / "wavs" / f"{name}.wav") as temporary:
        soundfile.write(temporary, wav, SAMPLE_RATE, "PCM_16")
    duration = len(wav) / SAMPLE_RATE
    write_label_textgrid(
        save_folder / "textgrids" / source.speaker / f"{name}.TextGrid",
        UtteranceLabels(spliced.words),
        duration,
    )
    return {
        "wav": f"{{data_root}}/wavs/{name}.wav",
        "duration": round(duration, 4),
        "speaker": source.speaker,
        "language": source.language,
        # `load_data_json` reads braces as replacements.
        "text": source.text.replace("{", "{{").replace("}", "}}"),
        "emotion": None,
    }


def _join_rows(name, part, spliced):
    """Make the rows of joins.csv."""
    readings = zip(spliced.sources, spliced.sources[1:])
    return [
        {
            "id": name,
            "part": part,
            "word": first,
            "time": round(place / SAMPLE_RATE, 4),
            "before": before.emotion,
            "after": after.emotion,
            **{
                measure: round(value, 4)
                for measure in MEASURES
                if (value := getattr(quality, measure)) is not None
            },
        }
        for (first, place, quality), (before, after) in zip(
            spliced.joins, readings
        )
    ]


def _quality_summary(rows, natural):
    """Compare the jumps at joins with those at natural word boundaries."""
    summary = {}
    for name in MEASURES:
        values = [row[name] for row in rows if name in row]
        limit = float(np.quantile(natural[name], NATURAL_QUANTILE))
        summary[name] = {
            "natural_median": round(float(np.median(natural[name])), 3),
            f"natural_{NATURAL_QUANTILE:.0%}": round(limit, 3),
            "natural_boundaries": len(natural[name]),
            "join_median": round(float(np.median(values)), 3)
            if values
            else None,
            "joins": len(values),
            "joins_within_natural": round(
                float(np.mean([value <= limit for value in values])), 4
            )
            if values
            else None,
        }
    return summary


# --- The command line ----------------------------------------------------


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data_folder", help="corpus in ESD's layout")
    parser.add_argument("save_folder", help="where the set goes")
    parser.add_argument("--alignment_folder", help="TextGrids of the corpus")
    parser.add_argument("--n_strong", type=int, default=500)
    parser.add_argument("--n_mild", type=int, default=500)
    parser.add_argument("--split", default="test", help="of the corpus")
    parser.add_argument("--emotions", nargs="+", default=list(EMOTIONS))
    parser.add_argument(
        "--interpolate_bridge",
        action="store_true",
        help="lead from the one emotion of a mild item to the other",
    )
    parser.add_argument("--word_labels", help="of the corpus, for intensities")
    parser.add_argument("--seed", type=int, default=1986)
    args = parser.parse_args()
    folder = args.alignment_folder or Path(args.data_folder) / "textgrids"
    prepare_emosplice(
        args.data_folder,
        args.save_folder,
        folder,
        args.n_strong,
        args.n_mild,
        args.split,
        args.emotions,
        interpolate_bridge=args.interpolate_bridge,
        word_labels=args.word_labels,
        seed=args.seed,
    )
    quality = read_json(Path(args.save_folder) / "join_quality.json")
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
