"""The paper's table of a corpus without word truth, by CosyVoice2 and
emotion2vec at small size.
"""

import json
import shutil
import sys
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json, write_json

import pytest
from tiny_cosyvoice2 import BACKBONE
from tiny_world import (
    RECIPE,
    REPOSITORY,
    SENTENCES,
    make_corpus,
    run_script,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from features import write_random_emotion2vec  # noqa: E402

for package in ("s3tokenizer", "onnx", "onnxruntime", "funasr"):
    pytest.importorskip(package)

FEDD = REPOSITORY / "recipes" / "FEDD"
EMOTION2VEC = "speechbrain_emofilm.integrations.emotion_features.emotion2vec"
COLUMNS = "| system | Emo SIM ↑ | DTW ↓ | WER ↓ | SpkSIM ↑ | MOS ↑ |"
TOOLS = {
    "aligner": "!name:tiny_tools.EvenAligner",
    "asr": "!name:tiny_tools.Recogniser",
    "mos": "!name:tiny_tools.Predictor",
}


def options(**values):
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, pristine_snapshot):
    """A corpus with its test sentences in every emotion, voices, a trained
    model and an emotion2vec.
    """
    root = tmp_path_factory.mktemp("evaluation")
    make_corpus(root / "esd")
    shutil.rmtree(root / "esd" / "transitions")  # ESD has no such part
    (root / "snapshot").symlink_to(pristine_snapshot)
    write_random_emotion2vec(root / "emotion2vec", "tiny")
    hparams = RECIPE / "hparams" / "cosyvoice2.yaml"
    flags = options(
        data_folder=root / "esd",
        prepared_folder=root / "prepared",
        output_folder=root / "model",
        backbone_source=root / "snapshot",
        backbone=json.dumps(BACKBONE),
        label_source="truth",
        use_tensorboard=False,
        num_workers=0,
        number_of_steps=1,
        emotion_dim=8,
    ) + ["--device=cpu", "--noprogressbar"]
    run_script("extract_speech_tokens.py", flags, hparams)
    for reference in ("neutral", "matched", "same"):
        run_script(
            "extract_speaker_embeddings.py",
            [*flags, f"--reference={reference}"],
            hparams,
        )
    run_script("train.py", flags, hparams)
    return root


def evaluate(place, **more):
    flags = options(
        data_folder=place / "esd",
        prepared_folder=place / "prepared",
        model_folder=place / "model",
        backbone_source=place / "snapshot",
        backbone=json.dumps(BACKBONE),
        emotion_features=f"!name:{EMOTION2VEC}.Emotion2vec"
        f" [{place / 'emotion2vec'}]",
        n_shown=1,
        **TOOLS,
        **more,
    )
    return run_script(
        "evaluate.py",
        [*flags, "--device=cpu"],
        RECIPE / "hparams" / "evaluate_cosyvoice2.yaml",
    )


@pytest.fixture(scope="module")
def evaluated(place):
    evaluate(place)
    return place


def test_a_corpus_without_word_truth_has_the_papers_table(evaluated):
    place = evaluated
    folder = place / "model" / "evaluation"
    summary = read_json(folder / "summary.json")
    spoken = [
        f"{system}_{kind}"
        for kind in ("neutral", "matched")
        for system in ("copy_synthesis", "backbone", "efilm")
    ]
    assert [*summary] == [
        "original", *spoken, "per_span", "copy_synthesis_same",
        "neutral_reading", "neutral_copy",
    ]  # fmt: skip
    entry = summary["efilm_matched"]
    scores = entry["scores"]
    assert scores["emo_sim"]["measured"] == 2
    assert set(scores["emo_sim"]["by_emotion"]) == {"neutral", "angry"}
    assert scores["dtw"]["cosine"]["dtw"] > 0
    assert scores["mos"]["mos"] == 3
    assert -1 <= scores["speaker_similarity"]["speaker_similarity"] <= 1
    assert scores["utterance_discrimination"]["chance"] == 0.5
    assert scores["word_emotion_accuracy"]["words"] == 8
    assert scores["transitions"] is scores["leakage"] is None
    left_out = entry["left_out"]
    assert left_out["transitions"] == "no switch of emotion to measure"
    for name in ("transitions_as_asked", "within_utterance_correlation"):
        assert name not in entry
        assert left_out[name] == "no truth_file and no asked_file"
    original = summary["original"]["scores"]
    assert original["emo_sim"]["emo_sim"] == pytest.approx(100)
    assert original["utterance_discrimination"]["accuracy"] == 1

    lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == COLUMNS
    assert len(lines) == 2 + len(summary) + 2
    row = next(line for line in lines if "E-FiLM, voice in the" in line)
    assert row.count("|") == 7 and "| |" not in row
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "E-FiLM, neutral voice" in report


def test_the_same_command_speaks_and_measures_nothing_again(evaluated):
    place = evaluated
    folders = place / "prepared" / "evaluation", place / "model" / "evaluation"
    before = {
        path: path.stat().st_mtime_ns
        for folder in folders
        for kind in ("wav", "safetensors")
        for path in folder.rglob(f"*.{kind}")
    }
    evaluate(place)
    for path, time in before.items():
        assert path.stat().st_mtime_ns == time, path


def test_words_can_be_asked_as_a_labeler_says(place, tmp_path):
    labels = place / "esd" / "word_labels.json"  # stands for a labeler's
    evaluate(
        place,
        label_file=labels,
        references="[neutral]",
        scores="[emo_sim, transitions]",
        output_folder=tmp_path,
        max_utterances=2,
    )
    summary = read_json(tmp_path / "summary.json")
    # The first word of the angry sentence is neutral.
    transitions = summary["efilm_neutral"]["scores"]["transitions"]
    assert transitions["switches"] == 1
    assert set(summary["efilm_neutral"]["scores"]) == {"emo_sim", "transitions"}
    asked = (tmp_path / "utterances.csv").read_text(encoding="utf-8")
    assert "<neutral intensity=0>We</> <angry" in asked


def test_fewer_utterances_are_a_trial(place, tmp_path):
    evaluate(
        place,
        max_utterances=1,
        references="[]",
        scores="[wer]",
        output_folder=tmp_path,
    )
    summary = read_json(tmp_path / "summary.json")
    assert [*summary] == ["original", "copy_synthesis", "backbone", "efilm"]
    assert summary["efilm"]["wer"]["utterances"] == 1


def test_a_missing_voice_is_named(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="--reference=neutral"):
        evaluate(place, voices_folder=tmp_path, output_folder=tmp_path)
    with pytest.raises(ValueError, match="'angry' is unknown; choose from"):
        evaluate(place, references="[angry]", output_folder=tmp_path)


def test_strong_and_mild_items_have_tables_of_their_own(
    place, tmp_path, monkeypatch
):
    """A set of test sentences, half of it called mild."""
    monkeypatch.syspath_prepend(FEDD)
    names = sorted(read_json(place / "prepared" / "test.json"))
    assert len(names) == 2
    items = tmp_path / "set"
    make_set(place, items, names)
    voices = place / "prepared" / "voices_neutral.safetensors"
    run_script(
        FEDD / "synthesise.py",
        options(
            model_folder=place / "model",
            backbone_source=place / "snapshot",
            backbone=json.dumps(BACKBONE),
            set_folder=items,
            voices=voices,
            n_intensity=1,
        )
        + ["--device=cpu"],
        FEDD / "hparams" / "synthesise_cosyvoice2.yaml",
    )
    run_script(
        FEDD / "evaluate.py",
        options(
            data_folder=place / "esd",
            alignment_folder=place / "esd" / "textgrids",
            prepare_opts="{skip_prep: True}",
            set_folder=items,
            classifier_manifest=place / "prepared" / "train.json",
            reading_manifest=place / "prepared" / "test.json",
            emotion_features=f"!name:{EMOTION2VEC}.Emotion2vec"
            f" [{place / 'emotion2vec'}]",
            speaker_encoder=f"{{path: {place / 'snapshot' / 'campplus.onnx'}}}",
            **TOOLS,
        )
        + ["--device=cpu"],
        FEDD / "hparams" / "evaluate_cosyvoice2.yaml",
    )
    summary = read_json(items / "evaluation" / "summary.json")
    assert set(summary["parts"]) == {"strong", "mild"}
    for part, systems in summary["parts"].items():
        assert [*systems] == [
            "reference",
            "copy_synthesis",
            "backbone",
            "efilm",
        ]
        assert systems["efilm"]["emo_sim"]["utterances"] == 1
        assert systems["efilm"]["transitions"]["switches"] == 1
        table = items / "evaluation" / f"table_{part}.md"
        lines = table.read_text(encoding="utf-8").splitlines()
        assert lines[0] == COLUMNS and len(lines) == 6
    assert summary["systems"]["efilm"]["emo_sim"]["utterances"] == 2
    assert summary["intensity_monotonicity"]["utterances"] == 1


def make_set(place, folder, names):
    """Write a set in the format of fedd_prepare.py: one item in each part."""
    (folder / "wavs").mkdir(parents=True)
    manifest = read_json(place / "prepared" / "test.json")
    labels = read_json(place / "esd" / "word_labels.json")
    rows, chosen = ["id,speaker,asked"], {}
    for part, name in zip(("strong", "mild"), names):
        item = manifest[name]
        wav = item["wav"].replace("{data_root}", str(place / "esd"))
        shutil.copy(wav, folder / "wavs" / f"{name}.wav")
        entry = {**item, "wav": f"{{data_root}}/wavs/{name}.wav"}
        write_json(folder / f"{part}.json", {name: {**entry, "emotion": None}})
        words = [dict(word, emotion="sad") for word in labels[name]["words"]]
        words[0]["emotion"] = "happy"
        chosen[name] = {**labels[name], "words": words}
        first, rest = SENTENCES[0].split(" ", 1)
        rows.append(f"{name},0011,<happy>{first}</> <sad>{rest}</>")
    write_json(folder / "word_labels.json", chosen)
    (folder / "items.csv").write_text("\n".join(rows) + "\n")
