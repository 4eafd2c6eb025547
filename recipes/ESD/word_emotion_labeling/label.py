#!/usr/bin/env python3
"""Label the words of a corpus with emotion, intensity and confidence.

> python label.py hparams/label.yaml --data_folder /path/to/ESD \
    --labeler_folder results/word_emotion_labeling/mini/multiple_instance/1986

The times of the words are read from TextGrids (written by align.py or the
Montreal Forced Aligner), the emotion features from their cache (written by
extract_features.py). The script writes a JSON file, which
recipes/ESD/emotional_tts reads as `label_file`, and a TextGrid for each
utterance, to be opened in Praat. Labels corrected there are read back with:

> python label.py hparams/label.yaml --data_folder /path/to/ESD \
    --labeler_folder results/word_emotion_labeling/mini/multiple_instance/1986 \
    --from_textgrids results/word_emotion_labeling/labels/textgrids

Words that were not changed keep their probabilities and confidence.

The same command resumes an interrupted run, and ends with the same files. An
utterance that cannot be labelled is skipped and listed with the reason in
`skipped_file`; if more than `max_bad_share` are, the script fails.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

from speechbrain_emofilm.dataio.feature_cache import (
    EmotionFeatureCache,
    extractor_identity,
)
from speechbrain_emofilm.dataio.labels import (
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.word_features import aligned_words
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.utils.files import (
    file_fingerprint,
    read_json,
    write_json,
)
from speechbrain_emofilm.utils.skipped import report_skipped

import speechbrain as sb
from esd_corpus import corpus_manifests, read_manifests
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import infer_device
from tqdm import tqdm


def label_batch(labeler, cache, items, alignment_folder, source):
    """Label utterances; return the labels and the reasons for skipping."""
    frames, words, skipped = {}, {}, {}
    for utterance, item in items.items():
        try:
            words[utterance] = aligned_words(alignment_folder, utterance, item)
            frames[utterance] = cache[utterance]
            labeler.word_features(frames[utterance], words[utterance])
        except (ValueError, FileNotFoundError) as error:
            skipped[utterance] = str(error)
    usable = [name for name in items if name not in skipped]
    if not usable:
        return {}, skipped
    labels = labeler.label_frames(
        [frames[name] for name in usable],
        [words[name] for name in usable],
        source,
    )
    return dict(zip(usable, labels)), skipped


def label_corpus(labeler, hparams):
    """Label all utterances; batches with a finished part are not repeated.

    Returns the labels and the reasons for skipping, both by utterance id.
    """
    items = choose_items(hparams)
    cache = EmotionFeatureCache(
        hparams["feature_cache"],
        extractor_identity(labeler.mods["emotion_features"]),
        {utterance: item["speaker"] for utterance, item in items.items()},
    )
    parts = open_parts(labeler, items, hparams)
    names, size = sorted(items), hparams["batch_size"]
    source = {
        "labeler": type(labeler).__name__,
        "model": file_fingerprint(
            Path(hparams["labeler_folder"]) / "word_emotion.ckpt"
        ),
        "features": cache.identity["model"],
    }
    labels, skipped = {}, {}
    for start in tqdm(range(0, len(names), size), desc="Labelling"):
        # Batches depend on the corpus alone, so that labels are the same to
        # the last bit after a resumed run.
        batch = {name: items[name] for name in names[start : start + size]}
        part = parts / f"{start:08d}.json"
        reasons = parts / f"{start:08d}.skipped.json"
        if not reasons.is_file():
            made, failed = label_batch(
                labeler, cache, batch, hparams["alignment_folder"], source
            )
            write_textgrids(made, batch, hparams["textgrid_folder"])
            write_word_labels(part, made, labeler.emotions)
            write_json(reasons, failed)  # the last: the part is complete
        labels.update(read_word_labels(part, labeler.emotions))
        skipped.update(read_json(reasons))
    return labels, skipped


def choose_items(hparams):
    """Read the items of the utterances to label."""
    manifests = corpus_manifests(hparams)
    items = read_manifests(manifests, hparams["data_folder"])
    speakers, language = hparams["speakers"], hparams["language"]
    if speakers is not None:
        items = {u: i for u, i in items.items() if i["speaker"] in speakers}
    if language != "both":
        items = {u: i for u, i in items.items() if i["language"] == language}
    if not items:
        raise ValueError(
            f"{', '.join(manifests)}: no utterance of the chosen speakers "
            f"({speakers or 'all'}) and language ({language}); prepare the "
            "corpus again or change them."
        )
    return items


def open_parts(labeler, items, hparams):
    """Open the folder of finished batches; empty it if the options differ."""
    folder = Path(hparams["labeler_folder"])
    way = {
        "items": items,
        "model": file_fingerprint(folder / "word_emotion.ckpt"),
        "hparams": file_fingerprint(folder / "labeler.yaml"),
        "overrides": hparams["labeler_overrides"],
        "features": labeler.mods["emotion_features"].revision,
        "alignment_folder": str(hparams["alignment_folder"]),
        "batch_size": hparams["batch_size"],
    }
    key = hashlib.sha256(json.dumps(way, sort_keys=True).encode()).hexdigest()
    parts = Path(f"{hparams['label_file']}.parts")
    state = parts / "way.json"
    if not state.is_file() or read_json(state) != key:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(state, key)
    return parts


def write_textgrids(labels, items, folder):
    """Write ``<folder>/<speaker>/<utterance>.TextGrid`` for each utterance."""
    for utterance, entry in labels.items():
        item = items[utterance]
        path = Path(folder) / item["speaker"] / f"{utterance}.TextGrid"
        write_label_textgrid(path, entry, item["duration"])


def correct_labels(emotions, hparams):
    """Correct the label file by TextGrids that were edited in Praat.

    Returns the labels and the reasons why TextGrids cannot be used, both by
    utterance id. Utterances without a usable TextGrid keep their labels.
    """
    folder = Path(hparams["from_textgrids"])
    labels = read_word_labels(hparams["label_file"], emotions)
    grids = sorted(folder.rglob("*.TextGrid"))
    if not grids:
        raise FileNotFoundError(
            f"{folder} has no TextGrid: give the textgrid_folder of the run "
            "that labelled the corpus."
        )
    skipped = {}
    for grid in grids:
        utterance = grid.stem
        try:
            if utterance not in labels:
                raise ValueError(
                    f"{grid}: {hparams['label_file']} has no such utterance; "
                    "remove the TextGrid."
                )
            labels[utterance] = labels[utterance].corrected(
                read_label_textgrid(grid, emotions), utterance
            )
        except ValueError as error:
            skipped[utterance] = str(error)
    return labels, skipped


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    labeler = WordEmotionLabeler.from_hparams(
        hparams["labeler_folder"],
        overrides=hparams["labeler_overrides"],
        savedir=hparams["labeler_folder"],
        run_opts={"device": run_opts.get("device") or infer_device()},
    )
    if hparams["from_textgrids"]:
        labels, skipped = correct_labels(labeler.emotions, hparams)
    else:
        labels, skipped = label_corpus(labeler, hparams)
    report_skipped(
        skipped,
        len({**labels, **skipped}),
        hparams["max_bad_share"],
        hparams["skipped_file"],
    )
    write_word_labels(hparams["label_file"], labels, labeler.emotions)
    shutil.rmtree(f"{hparams['label_file']}.parts", ignore_errors=True)
    n_words = sum(len(entry.words) for entry in labels.values())
    print(
        f"{hparams['label_file']}: labels of {n_words} words in "
        f"{len(labels)} utterances"
    )
