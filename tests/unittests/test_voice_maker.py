"""A voice from any recording, or one line that says what is wrong with it."""

from types import SimpleNamespace

from speechbrain_emofilm.inference.voices import VoiceMaker, speech_span

import pytest
import torch
from speechbrain.dataio import audio_io

TEXT = "We won the game."


def speech(seconds, sample_rate=16000, channels=1, level=0.3):
    """A buzz at 200 Hz with silence of 0.5 s around it."""
    time = torch.arange(int(seconds * sample_rate)) / sample_rate
    buzz = level * torch.sin(2 * torch.pi * 200 * time)
    wav = torch.nn.functional.pad(buzz, (sample_rate // 2,) * 2)
    return wav.expand(channels, -1)


@pytest.fixture
def save(tmp_path):
    def save(wav, sample_rate=16000):
        path = tmp_path / "ref.wav"
        audio_io.save(path, wav, sample_rate)
        return path

    return save


@pytest.fixture
def maker():
    heard = []

    def tokenize(wavs):
        heard.extend(wavs)
        return [torch.arange(len(wav) // 640) for wav in wavs]

    return SimpleNamespace(
        heard=heard,
        make=VoiceMaker(
            SimpleNamespace(sample_rate=16000, tokenize_batch=tokenize),
            SimpleNamespace(
                sample_rate=16000,
                embed=lambda wavs: torch.stack([w[:192] for w in wavs]),
            ),
        ),
    )


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_any_channels_are_read(maker, save, sample_rate, channels):
    path = save(speech(4, sample_rate, channels), sample_rate)
    voice = maker.make(path, f" {TEXT}\n")
    assert voice.transcript == TEXT
    # The speech with 0.1 s of silence at either end, 25 tokens per second.
    assert len(voice.prompt_tokens) == pytest.approx(4.2 * 25, abs=1)
    assert len(voice.prompt_mel) == 2 * len(voice.prompt_tokens)
    (wav,) = maker.heard
    assert wav.dim() == 1
    assert len(wav) == pytest.approx(4.2 * 16000, abs=700)


@pytest.mark.parametrize(
    "wav, message",
    [
        (speech(2), "ref.wav has 2.2 s of speech: a voice needs 3 to 30 s"),
        (speech(31), "ref.wav has 31.2 s of speech: a voice needs 3 to 30 s"),
        (torch.zeros(1, 80000), "ref.wav is silent"),
        (torch.sign(speech(4)), "ref.wav is clipped in .* of its samples"),
    ],
    ids=["short", "long", "silent", "clipped"],
)
def test_an_unusable_recording_is_refused(maker, save, wav, message):
    with pytest.raises(ValueError, match=message):
        maker.make(save(wav), TEXT)
    assert not maker.heard


def test_a_recording_that_is_clipped_in_places_is_told(maker, save, caplog):
    wav = speech(4).clone()
    wav[:, 20000:20050] = 1.0
    maker.make(save(wav), TEXT)
    assert "clipped in places" in caplog.text


def test_a_missing_file_and_another_kind_of_file_are_named(maker, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.wav"):
        maker.make(tmp_path / "none.wav", TEXT)
    text = tmp_path / "a.wav"
    text.write_text("no sound")
    with pytest.raises(ValueError, match="a.wav: not an audio file"):
        maker.make(text, TEXT)


def test_the_recogniser_is_made_once_and_only_when_a_text_is_missing(
    maker, save
):
    made = []

    def make_recognizer():
        made.append(1)
        return SimpleNamespace(transcribe=lambda wavs, rate: ["He left."])

    maker.make.make_recognizer = make_recognizer
    path = save(speech(4))
    assert maker.make(path, TEXT).transcript == TEXT
    assert not made
    assert maker.make(path).transcript == "He left."
    assert maker.make(path).transcript == "He left."
    assert made == [1]


@pytest.mark.parametrize(
    "text, heard, message",
    [
        ("  ", None, "ref.wav is empty"),
        (None, None, "give its text"),
        (None, " ", "No words were recognised in .*ref.wav: give its text"),
    ],
    ids=["empty", "no recogniser", "nothing heard"],
)
def test_a_voice_without_words_is_refused(maker, save, text, heard, message):
    if heard is not None:
        maker.make.make_recognizer = lambda: SimpleNamespace(
            transcribe=lambda wavs, rate: [heard]
        )
    with pytest.raises(ValueError, match=message):
        maker.make(save(speech(4)), text)


def test_a_missing_recogniser_is_told_with_the_way_out(maker, save):
    def make_recognizer():
        raise ImportError("Speech recognition needs the package x.")

    maker.make.make_recognizer = make_recognizer
    with pytest.raises(ImportError, match="package x.*give the text of"):
        maker.make(save(speech(4)))


def test_pauses_inside_the_speech_are_kept():
    wav = torch.cat([speech(1)[0], speech(1)[0]])
    assert speech_span(wav, 16000) == (0.4, 3.6)
