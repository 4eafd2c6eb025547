"""Labels of recordings."""

import json
from types import SimpleNamespace

from speechbrain_emofilm import cli
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
)
from speechbrain_emofilm.inference import labeling
from speechbrain_emofilm.inference.labeling import RecordingLabeler
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.integrations.aligner.base import (
    proportional_alignment,
)
from speechbrain_emofilm.utils.assets import find_file

import pytest
import soundfile
import torch

RATE = 16000
EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]


class FakeLabeler:
    """Labels words as happy; remembers the sounds."""

    def __init__(self):
        self.heard = []
        self.hparams = SimpleNamespace(aligner=object)
        self.mods = SimpleNamespace(
            emotion_features=SimpleNamespace(sample_rate=RATE)
        )
        self.aligner = SimpleNamespace(align=self.align)

    def align(self, wav, sample_rate, text, language):
        words = text.split()
        return [
            Word(w.text, w.start, w.end, 1.0)
            for w in proportional_alignment(words, len(wav) / sample_rate)
        ]

    def label_wav(self, wav, words, statistics=None):
        self.heard.append((len(wav) / RATE, words, statistics))
        return UtteranceLabels(
            [
                WordLabel(w.text, w.start, w.end, "happy", {"happy": 1.0}, 0.5)
                for w in words
            ]
        )

    def speaker_statistics(self, paths):
        return [path.name for path in paths]


class FakeRecognizer:
    text = "We won"

    def transcribe(self, wavs, sample_rate):
        return [self.text for _ in wavs]


@pytest.fixture
def labeler(monkeypatch):
    """The shipped labeler, whose parts are stood in for."""
    fake = FakeLabeler()
    monkeypatch.setattr(RecordingLabeler, "labeler", fake)
    monkeypatch.setattr(RecordingLabeler, "recognizer", FakeRecognizer())
    return RecordingLabeler()


@pytest.fixture
def recordings(tmp_path):
    """Folder: a.wav with a text, b.wav without, c.wav that is broken."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, rate in (("a", RATE), ("b", 24000)):
        wav = 0.1 * torch.randn(2 * rate).numpy()
        soundfile.write(folder / f"{name}.wav", wav, rate)
    (folder / "a.lab").write_text("He left us\n")
    (folder / "c.wav").write_bytes(b"no sound")
    return folder


def test_text_is_given_or_beside_or_recognised(labeler, recordings):
    given = labeler.label_file(recordings / "a.wav", "You and me")
    beside = labeler.label_file(recordings / "a.wav")
    heard = labeler.label_file(recordings / "b.wav")
    assert [r.text for r in (given, beside, heard)] == [
        "You and me",
        "He left us",
        "We won",
    ]
    assert [r.recognized for r in (given, beside, heard)] == [
        False,
        False,
        True,
    ]
    assert heard.labels.source["text"] == "recognised"
    assert "text" not in beside.labels.source
    assert heard.duration == 2.0


def test_what_is_not_understood_names_the_file(
    labeler, recordings, monkeypatch
):
    monkeypatch.setattr(FakeRecognizer, "text", " ... ")
    with pytest.raises(ValueError, match="b.wav: No speech is recognised"):
        labeler.label_file(recordings / "b.wav")
    (recordings / "a.lab").write_text("?!")
    with pytest.raises(ValueError, match="a.lab has no word"):
        labeler.label_file(recordings / "a.wav")
    (recordings / "a.lab").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="a.lab is not UTF-8"):
        labeler.label_file(recordings / "a.wav")


def test_a_sound_of_any_rate_with_words(labeler):
    words = [Word("We", 0.1, 0.4), Word("won", 0.4, 0.9)]
    labels = labeler(torch.randn(24000), 24000, words=words)
    assert labels.alignment() == words
    assert labeler.labeler.heard[0][0] == 1.0


def test_long_recordings_are_labelled_in_parts(labeler):
    text = " ".join(["We", "won"] * 40)
    wav = torch.randn(40 * RATE)
    labels = labeler(wav, RATE, text)
    expected = labeler.aligner.align(wav, RATE, text, "en")
    for label, word in zip(labels.words, expected, strict=True):
        assert label.word == word.text
        assert label.start == pytest.approx(word.start, abs=1e-3)
        assert label.end == pytest.approx(word.end, abs=1e-3)
    heard = labeler.labeler.heard
    assert len(heard) > 4
    for seconds, words, _ in heard:
        assert seconds <= labeling.LONGEST_PART + 2 * labeling.MARGIN + 1e-3
        assert words[0].start >= 0 and words[-1].end <= seconds + 1e-3


def test_a_recording_beyond_the_aligners_memory_is_refused(labeler, recordings):
    path = recordings / "b.wav"
    soundfile.write(path, torch.zeros(121 * RATE).numpy(), RATE)
    with pytest.raises(ValueError, match="b.wav: The recording has 121 s"):
        labeler.label_file(path)


def test_parts_end_at_the_longest_pause():
    words = [Word("a", t, t + 0.5) for t in (0, 1, 2, 3, 4, 6, 7, 8, 9)]
    (_, end, first), (start, _, _) = labeling._parts(words, 12.0)
    assert first[-1].start == 4 and end == 4.75 and start == 5.75


def test_command_labels_a_recording(labeler, recordings, tmp_path, capsys):
    wav, grid = recordings / "a.wav", tmp_path / "out" / "a.TextGrid"
    command = ["label", str(wav), "--text", "We won", "-o"]
    assert cli.main([*command, str(grid)]) == 0
    output = capsys.readouterr()
    assert "synthetic speech only" in output.err
    assert "happy" in output.out and "won" in output.out
    labels = read_label_textgrid(grid, EMOTIONS)
    assert [(w.word, w.emotion) for w in labels.words] == [
        ("We", "happy"),
        ("won", "happy"),
    ]
    path = tmp_path / "a.json"
    assert cli.main([*command, str(path)]) == 0
    labels = read_word_labels(path, EMOTIONS)["a"]
    assert labels.words[0].probs == {"happy": 1.0}
    assert "synthetic speech only" in labels.source["note"]


def test_command_labels_a_folder(labeler, recordings, tmp_path, capsys):
    output = tmp_path / "labels"
    command = ["label", str(recordings), "-o", str(output), "--one-speaker"]
    assert cli.main(command) == 1
    errors = capsys.readouterr().err
    assert "c.wav: not an audio file" in errors
    assert "b.wav: recognised 'We won'" in errors
    assert sorted(path.name for path in output.iterdir()) == [
        "a.TextGrid",
        "b.TextGrid",
        "word_labels.json",
    ]
    labels = read_word_labels(output / "word_labels.json", EMOTIONS)
    assert [w.word for w in labels["a"].words] == ["He", "left", "us"]
    assert labeler.labeler.heard[-1][2] == ["a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "-o", "a.txt"], "a.txt is neither TextGrid nor JSON"),
        (["x.wav", "-o", "a.json"], "x.wav does not exist"),
        (["c.wav", "-o", "a.json"], "c.wav: not an audio file"),
        (["a.wav", "-o", "a.json", "--text", " "], "text is empty"),
        (["a.wav", "-o", "a.json", "--one-speaker"], "is for a folder"),
        (
            ["a.wav", "-o", "a.json", "--labeler", "no"],
            "no has no labeler.yaml",
        ),
        ([".", "-o", "out", "--text", "We"], "beside it"),
        ([".", "-o", "a.wav"], "a.wav is a file"),
        (["empty", "-o", "out"], "empty has no recordings"),
    ],
)
def test_command_refuses_in_one_line(
    labeler, recordings, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(recordings)
    (recordings / "empty").mkdir()
    before = sorted(recordings.rglob("*"))
    assert cli.main(["label", *arguments]) == 2
    errors = [
        line
        for line in capsys.readouterr().err.splitlines()
        if not line.startswith(("labeler: ", "note: "))
    ]
    assert len(errors) == 1 and message in errors[0]
    assert sorted(recordings.rglob("*")) == before


def test_recordings_of_one_name_are_refused(tmp_path):
    for name in ("a.wav", "a.flac"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="a.wav has the name of a.flac"):
        labeling.find_recordings(tmp_path)


def test_an_own_labeler_is_taken_without_the_note(tmp_path):
    (tmp_path / "labeler.yaml").write_text("emotions: [calm, sad]\n")
    labeler = RecordingLabeler(tmp_path)
    assert labeler.emotions == ["calm", "sad"] and labeler.note is None
    hparams = SimpleNamespace(labeler=tmp_path)
    made = labeling.make_label(SimpleNamespace(hparams=hparams))
    assert made.folder == tmp_path


def test_the_shipped_labeler_is_small_and_names_no_folder():
    folder = find_file(f"{labeling.SHIPPED_LABELER}/labeler.yaml").parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 << 20
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"/tmp/" not in content and b"/home/" not in content


def test_the_shipped_labeler_hears_the_mini_voice(tmp_path, capsys):
    folder = find_file(
        "speechbrain_emofilm/assets/mini/synthesizer.yaml"
    ).parent
    synthesizer = EmoFiLMSynthesizer.from_hparams(folder)
    text = "The birch canoe slid on the smooth planks."
    for emotion in ("neutral", "sad"):
        speech = synthesizer.synthesize(f"<{emotion}>{text}</>")
        path = tmp_path / f"{emotion}.wav"
        soundfile.write(path, speech.wav.numpy(), speech.sample_rate)
    path = tmp_path / "sad.json"
    wav = str(path.with_suffix(".wav"))
    assert cli.main(["label", wav, "--text", text, "-o", str(path)]) == 0
    assert json.loads(path.read_text())["sad"]["source"]["model"]
    labels = read_word_labels(path, EMOTIONS)["sad"]
    assert [w.word for w in labels.words] == text.rstrip(".").split()
    assert sum(w.emotion == "sad" for w in labels.words) >= 4
    # Without the text, it is recognised.
    assert cli.main(["label", wav, "-o", str(tmp_path / "b.TextGrid")]) == 0
    assert "recognised" in capsys.readouterr().err
