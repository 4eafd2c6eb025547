"""evaluate_segments.py, with a labeler that hears how loud speech is."""

import csv
import json
import sys
from pathlib import Path
from unittest import mock

from speechbrain_emofilm.dataio.emotion_segments import read_segments
from speechbrain_emofilm.inference.labeler import WordEmotionLabeler
from speechbrain_emofilm.utils.files import read_json

import numpy as np
import pytest
import soundfile
from stand_in_labeler import LoudnessLabeler
from tiny_world import REPOSITORY, run_script

RECIPE = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"
RATE = 16000


def write_wav(path, *parts):
    """Noise of (seconds, loudness) parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    wav = [
        level * np.sign(rng.standard_normal(round(seconds * RATE)))
        for seconds, level in parts
    ]
    soundfile.write(path, np.concatenate(wav), RATE)


@pytest.fixture
def zed(tmp_path):
    """Two recordings of 4 s, in a folder like that of ZED."""
    folder = tmp_path / "zed"
    write_wav(folder / "s1" / "a.wav", (2, 0.01), (2, 0.5))
    write_wav(folder / "s2" / "b.wav", (1, 0.5), (3, 0.01))
    annotation = {
        "s1_a": {
            "wav": "datafolder/s1/a.wav",
            "duration": 4.0,
            "emotion": [{"emo": "happy", "start": 2.0, "end": 4.0}],
            "transcription": "we lost we won",
        },
        "s2_b": {
            "wav": "datafolder/s2/b.wav",
            "duration": 4.0,
            "emotion": [{"emo": "sorrow", "start": 0.0, "end": 2.0}],
            "transcription": "oh we lost it",
        },
    }
    (folder / "ZED.json").write_text(json.dumps(annotation))
    return folder


def evaluate(output, **options):
    """Runs the script; returns the labeler and the summary."""
    labeler = LoudnessLabeler()
    options = {
        "labeler_folder": "nowhere",
        "output_folder": output,
        "aligner": "!name:stand_in_labeler.EvenAligner []",
        "recognizer": "!name:stand_in_labeler.FourWords []",
        **options,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    with (
        mock.patch.object(WordEmotionLabeler, "from_hparams") as load,
        mock.patch.object(sys, "path", [str(RECIPE), *sys.path]),
    ):
        load.return_value = labeler
        run_script(
            RECIPE / "evaluate_segments.py",
            [*flags, "--device=cpu"],
            RECIPE / "hparams" / "evaluate_segments.yaml",
        )
    return labeler, read_json(Path(output) / "summary.json")


def test_zed_is_evaluated_word_by_word(zed, tmp_path):
    output = tmp_path / "out"
    labeler, summary = evaluate(
        output, zed_folder=zed, emotion_map="{sorrow: sad}"
    )
    # a: all right; b: happy 0-1 is confusion, sad 1-2 is missed.
    assert summary["eder"]["eder"] == pytest.approx(2 / 8)
    assert summary["confusion"] == pytest.approx(1 / 8)
    assert summary["missed"] == pytest.approx(1 / 8)
    assert summary["false_alarm"] == 0
    assert summary["mean_eder"]["mean_eder"] == pytest.approx(1 / 4, abs=1e-3)
    assert summary["emotions"]["happy"]["precision"][
        "precision"
    ] == pytest.approx(2 / 3)
    assert summary["words_from"] == {"text": 2} and summary["left_out"] == 0
    assert labeler.calls[0] == ("we lost we won", "en", 4, None)
    with open(output / "recordings.csv", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert float(rows["s1_a"]["eder"]) == 0
    assert float(rows["s2_b"]["eder"]) == pytest.approx(0.5)
    assert read_json(output / "skipped.json") == {}
    found = {
        r.audio.name: r for r in read_segments(output / "found_segments.csv")
    }
    happy = [s for s in found["a.wav"].segments if s.emotion == "happy"]
    assert [(s.start, s.end) for s in happy] == [(2.0, 4.0)]


def test_unknown_emotions_are_refused_or_left_out(zed, tmp_path):
    with pytest.raises(ValueError, match="s2_b has the emotion 'sorrow'"):
        evaluate(tmp_path / "out", zed_folder=zed)
    _, summary = evaluate(
        tmp_path / "out", zed_folder=zed, emotion_map="{sorrow: null}"
    )
    assert summary["left_out"] == 1 and summary["eder"]["eder"] == 0
    with pytest.raises(ValueError, match="leaves out every recording"):
        evaluate(
            tmp_path / "out",
            zed_folder=zed,
            emotion_map="{sorrow: null, happy: null}",
        )


def test_a_table_without_texts(zed, tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("audio,start,end,emotion\ns1/a.wav,2.0,4.0,happy\n")
    options = {"segments_file": table, "audio_folder": zed}
    labeler, summary = evaluate(
        tmp_path / "windows", window_length=0.5, **options
    )
    assert summary["words_from"] == {"windows": 1}
    assert labeler.calls == [("", "en", 8, None)]
    assert summary["eder"]["eder"] == 0
    # Windows that do not fit the boundary cost: 1.8 s to 2.4 s is loud.
    _, summary = evaluate(tmp_path / "long", window_length=0.6, **options)
    assert summary["eder"]["eder"] == pytest.approx(0.2 / 4, abs=1e-3)
    labeler, summary = evaluate(
        tmp_path / "recognised",
        without_text="recognizer",
        frame_statistics="recording",
        **options,
    )
    assert summary["words_from"] == {"recognizer": 1}
    assert labeler.calls == [("one two three four", "en", 4, ["a.wav"])]
    assert summary["eder"]["eder"] == 0


def test_texts_can_be_ignored(zed, tmp_path):
    labeler, summary = evaluate(
        tmp_path / "out",
        zed_folder=zed,
        emotion_map="{sorrow: sad}",
        use_text=False,
        window_length=1.0,
    )
    assert summary["words_from"] == {"windows": 2}
    assert {call[2] for call in labeler.calls} == {4}


def test_unusable_recordings_are_skipped_and_listed(zed, tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(
        "audio,start,end,emotion,text\n"
        "s1/a.wav,2.0,4.0,happy,we lost we won\n"
        "s1/c.wav,2.0,4.0,happy,gone\n"
        "s2/b.wav,2.0,5.0,happy,too short\n"
        f"{zed}/s2/b.wav,0.0,1.0,happy,unalignable\n"
    )
    options = {"segments_file": table, "audio_folder": zed}
    with pytest.raises(ValueError, match="3 of 4 recordings cannot be used"):
        evaluate(tmp_path / "out", **options)
    _, summary = evaluate(tmp_path / "out", max_bad_share=0.75, **options)
    assert summary["measured"] == 1 and summary["utterances"] == 4
    reasons = read_json(tmp_path / "out" / "skipped.json")
    assert "no such audio file" in reasons["s1/c.wav"]
    assert "to 5 s, but lasts 4 s" in reasons["s2/b.wav"]
    assert "b.wav: " in reasons["s2/b.wav"]
    assert reasons[f"{zed}/s2/b.wav"] == "unalignable: leave it out."
    rows = (tmp_path / "out" / "recordings.csv").read_text()
    assert "no such audio file" in rows


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "either zed_folder or segments_file"),
        ({"zed_folder": "a", "segments_file": "b"}, "either zed_folder or"),
        ({"zed_folder": "a", "without_text": "guess"}, "without_text is 'gu"),
        ({"zed_folder": "a", "window_length": 0}, "window_length is 0"),
        (
            {"zed_folder": "a", "frame_statistics": "mine"},
            "frame_statistics is 'mine': set it to training or recording",
        ),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / "out", **options)


def test_nothing_recognised(zed, tmp_path):
    with pytest.raises(ValueError, match="a.wav: no word was recognised"):
        evaluate(
            tmp_path / "out",
            zed_folder=zed,
            emotion_map="{sorrow: sad}",
            use_text=False,
            without_text="recognizer",
            recognizer="!name:stand_in_labeler.Deaf []",
        )
