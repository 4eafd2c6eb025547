"""Annotated segments: the formats they are read from, and their errors."""

import json
from pathlib import Path

from speechbrain_emofilm.dataio.emotion_segments import (
    EmotionSegment,
    SegmentedRecording,
    fill_gaps,
    map_emotions,
    read_segments,
    read_zed,
    segments_of_labels,
)
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.metrics.row_stats import write_csv

import pytest

HAPPY = {"emo": "happy", "start": 1.0, "end": 2.0}


def as_tuples(segments):
    return [(s.start, s.end, s.emotion) for s in segments]


def zed(folder, **changes):
    """A folder with one recording, of which some values are changed."""
    entry = {
        "wav": "datafolder/speaker1/a.wav",
        "duration": 3.0,
        "emotion": [HAPPY],
        "transcription": "We won.",
        **changes,
    }
    entry = {key: value for key, value in entry.items() if value is not ...}
    (folder / "ZED.json").write_text(json.dumps({"spk1_1": entry}))
    return folder


def test_zed(tmp_path):
    (recording,) = read_zed(zed(tmp_path))
    assert recording.id == "spk1_1"
    assert recording.audio == tmp_path / "speaker1" / "a.wav"
    assert as_tuples(recording.segments) == [(1.0, 2.0, "happy")]
    assert recording.text == "We won." and recording.duration == 3.0


@pytest.mark.parametrize(
    "wav, place",
    [("b/a.wav", "{folder}/b/a.wav"), ("/corpora/a.wav", "/corpora/a.wav")],
)
def test_zed_with_other_paths(tmp_path, wav, place):
    (recording,) = read_zed(zed(tmp_path, wav=wav))
    assert recording.audio == Path(place.format(folder=tmp_path))


def test_zed_without_texts_and_with_several_segments(tmp_path):
    sad = {"emo": "sad", "start": 0, "end": 1}
    (recording,) = read_zed(
        zed(tmp_path, transcription=..., emotion=[HAPPY, sad])
    )
    assert recording.text is None
    assert as_tuples(recording.segments) == [
        (0.0, 1.0, "sad"),
        (1.0, 2.0, "happy"),
    ]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"wav": ...}, "has no 'wav': write an object"),
        ({"wav": 3}, "wav 3: write a text"),
        ({"duration": "long"}, "duration 'long': give a time"),
        ({"duration": True}, "duration True: give a time"),
        ({"emotion": HAPPY}, "write a list of objects with emo"),
        ({"emotion": [{"emo": "sad", "start": 1}]}, "has no 'end': write"),
        ({"emotion": [{**HAPPY, "end": 1.0}]}, "from 1 to 1 s: its end must"),
        ({"emotion": [{**HAPPY, "end": 4}]}, "to 4 s, but lasts 3 s"),
        ({"emotion": [{**HAPPY, "start": -1}]}, "start -1: give a time"),
        ({"emotion": [{**HAPPY, "end": float("nan")}]}, "end nan: give a"),
        (
            {"emotion": [HAPPY, {"emo": "sad", "start": 1.5, "end": 2.5}]},
            "happy from 1 to 2 s and sad from 1.5 to 2.5 s, which overlap",
        ),
        ({"transcription": 5}, "transcription 5: write a text"),
    ],
)
def test_zed_errors_name_file_and_recording(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_zed(zed(tmp_path, **changes))
    assert "ZED.json, recording spk1_1 has" in str(error.value)


def test_missing_and_empty_zed(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no ZED.json: give the"):
        read_zed(tmp_path)
    (tmp_path / "ZED.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no recordings"):
        read_zed(tmp_path)


CSV = """audio,start,end,emotion,text
b.wav,1.0,2.0,sad,
a.wav,,,,"Well, well."
b.wav,0.5,1.05,happy,We won.
"""
JSON_LINES = """
{"audio": "b.wav", "text": "We won.", "segments": [
 {"start": 1.0, "end": 2.0, "emotion": "sad"},
 {"start": 0.5, "end": 1.05, "emotion": "happy"}]}
{"audio": "a.wav", "text": "Well, well.", "segments": []}
""".replace(",\n", ",").replace("[\n", "[")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", CSV),
        ("a.tsv", CSV.replace(",", "\t").replace("l\t w", "l, w")),
        ("a.jsonl", JSON_LINES),
    ],
)
def test_generic_formats_agree(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    both, neither = read_segments(path)
    assert both.audio == tmp_path / "b.wav" and both.id == "b.wav"
    assert both.text == "We won." and neither.text == "Well, well."
    # Rounded annotations: the earlier segment ends where it says.
    assert as_tuples(both.segments) == [
        (0.5, 1.05, "happy"),
        (1.05, 2.0, "sad"),
    ]
    assert neither.segments == ()
    (elsewhere, _) = read_segments(path, "/corpus")
    assert elsewhere.audio == Path("/corpus/b.wav")


def test_texts_are_optional(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("audio;start;end;emotion\na.wav;0;1;sad\n")
    assert read_segments(path)[0].text is None
    path = tmp_path / "a.jsonl"
    path.write_text('{"audio": "a.wav", "segments": [], "text": null}\n')
    assert read_segments(path)[0].text is None


@pytest.mark.parametrize(
    "row, message",
    [
        ("a.wav,0.5,,sad,", r"line 3 \(a.wav\) has the end '': give a time"),
        ("a.wav,0.5,1,,", r"line 3 \(a.wav\) has the emotion ''"),
        (",0.5,1,sad,", "line 3 has the audio ''"),
        ("a.wav,2,3,sad,We lost.", r"line 3 \(a.wav\) has the text 'We lost.'"),
        ("a.wav,0.2,0.8,sad,", "a.csv, a.wav has the segments .* overlap"),
        ("a.wav,0,0.6,sad,", "a.csv, a.wav has the segments .* overlap"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, row, message):
    path = tmp_path / "a.csv"
    path.write_text(f"audio,start,end,emotion,text\na.wav,0,1,sad,Hi.\n{row}\n")
    with pytest.raises(ValueError, match=message):
        read_segments(path)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 has no 'audio'"),
        ('{"audio": "b"}', "line 2 has no 'segments'"),
        ('{"audio": "a", "segments": []}', "line 2 names a again"),
        ('{"audio": "b", "segments": [3]}', r"line 2 \(b\) has no 'emotion'"),
        ('{"audio": "b", "segments": [], "text": 3}', "line 2 has the text 3"),
    ],
)
def test_json_errors_name_the_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"audio": "a", "segments": []}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        read_segments(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not from .txt; convert"):
        read_segments(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_segments(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="holds no recordings"):
        read_segments(tmp_path / "a.jsonl")


def test_written_segments_are_read_back(tmp_path):
    path = tmp_path / "found.csv"
    row = {"audio": "/x/a.wav", "start": 0.0, "end": 1.5, "emotion": "sad"}
    write_csv(path, [row])
    (recording,) = read_segments(path)
    assert as_tuples(recording.segments) == [(0.0, 1.5, "sad")]
    assert recording.audio == Path("/x/a.wav")


def recordings(*emotions):
    return [
        SegmentedRecording(
            f"r{index}", Path("a.wav"), (EmotionSegment(0.0, 1.0, emotion),)
        )
        for index, emotion in enumerate(emotions)
    ]


def test_emotions_are_mapped_or_left_out():
    mapped = map_emotions(
        recordings("anger", "sad", "disgust"),
        ["angry", "sad"],
        {"anger": "angry", "disgust": None},
    )
    assert [r.segments[0].emotion for r in mapped] == ["angry", "sad"]


@pytest.mark.parametrize(
    "emotion_map, message",
    [
        ({}, "Recording r1 has the emotion 'anger'.*emotion_map"),
        ({"anger": "fury"}, "'anger' to 'fury', which the labeler does not"),
        ({"anger": "angry", "joy": "happy"}, "'joy', which no recording has"),
    ],
)
def test_unknown_emotions_are_refused_by_name(emotion_map, message):
    with pytest.raises(ValueError, match=message):
        map_emotions(
            recordings("sad", "anger"), ["angry", "sad", "happy"], emotion_map
        )


def test_gaps_are_neutral_and_neighbours_join():
    segments = [
        EmotionSegment(0.0, 1.0, "sad"),
        EmotionSegment(1.0, 1.5, "sad"),
        EmotionSegment(2.0, 3.05, "happy"),
    ]
    assert as_tuples(fill_gaps(segments, 3.0, "calm")) == [
        (0.0, 1.5, "sad"),
        (1.5, 2.0, "calm"),
        (2.0, 3.0, "happy"),
    ]
    assert as_tuples(fill_gaps([], 3.0, "calm")) == [(0.0, 3.0, "calm")]
    with pytest.raises(ValueError, match="to 3.05 s, but lasts 2.5 s"):
        fill_gaps(segments, 2.5, "calm")


def test_pauses_between_labelled_words():
    labels = UtteranceLabels(
        [
            WordLabel("a", 0.2, 1.0, "sad"),
            WordLabel("b", 1.4, 2.0, "sad"),  # short pause, same emotion
            WordLabel("c", 2.2, 3.0, "happy"),  # short pause, another one
            WordLabel("d", 4.0, 5.0, "happy"),  # long pause
            WordLabel("e", 5.0, 6.1),  # unlabelled
        ]
    )
    segments = segments_of_labels(labels, 6.0, "neutral", max_pause=0.5)
    assert as_tuples(segments) == [
        (0.0, 0.2, "neutral"),
        (0.2, 2.1, "sad"),
        (2.1, 3.0, "happy"),
        (3.0, 4.0, "neutral"),
        (4.0, 5.0, "happy"),
        (5.0, 6.0, "neutral"),
    ]
    separate = segments_of_labels(labels, 6.0, "neutral", max_pause=0.0)
    assert as_tuples(separate)[1:3] == [
        (0.2, 1.0, "sad"),
        (1.0, 1.4, "neutral"),
    ]
