"""A damaged file is refused by one message that names it; nothing runs.

Some damage cannot be noticed, such as another sample of a wav: then the result
is as whole as ever.
"""

import os
import pickle
import struct

from speechbrain_emofilm.dataio.alignments import (
    Word,
    read_alignment,
    write_alignment,
)
from speechbrain_emofilm.dataio.audio import audio_info, load_audio
from speechbrain_emofilm.dataio.feature_cache import (
    EmotionFeatureCache,
    merge_parts,
    write_part,
)
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    read_speech_tokens,
    write_speech_tokens,
)
from speechbrain_emofilm.dataio.voices import Voice, read_voices, write_voices
from speechbrain_emofilm.inference.trained_model import TrainedModel
from speechbrain_emofilm.utils.assets import load_safetensors
from speechbrain_emofilm.utils.checkpoints import load_strictly
from speechbrain_emofilm.utils.files import read_json, write_json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

EMOTIONS = ["neutral", "happy"]
LABELS = UtteranceLabels(
    [WordLabel("We", 0.1, 0.4, "happy", {"happy": 1.0}, 0.5, 0.9)]
)


class Tiny(TrainedModel):
    HPARAMS_FILE = "model.yaml"
    MODULES_NEEDED = ["layer"]


def write_features(path):
    frames = {"a": torch.ones(7, 4), "b": torch.zeros(5, 4)}
    identity = {
        "model": "wavlm", "revision": "3f2a", "config_hash": "0", "dim": 4,
        "frame_rate": 50.0, "frame_offset": 0.01,
        "speaker_normalization": True,
    }  # fmt: skip
    write_part(path, identity, frames, wav_bytes={"a": 1, "b": 2})
    merge_parts(path, identity, frames)


def read_features(path):
    with EmotionFeatureCache(path, speakers={"a": "x", "b": "x"}) as cache:
        cache.wav_bytes()
        return [cache[name] for name in cache]


def write_model(path):
    path.write_text(
        "layer: !new:torch.nn.Linear\n    in_features: 2\n    out_features: 1\n"
        "modules:\n    layer: !ref <layer>\n"
        "pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
    )


def write_checkpoint(path):
    torch.save(torch.nn.Linear(2, 1).state_dict(), path)


#: Kind of file to the functions that write and read it.
KINDS = {
    "weights.safetensors": (
        lambda path: save_file(torch.nn.Linear(2, 1).state_dict(), path),
        lambda path: load_safetensors(torch.nn.Linear(2, 1), path),
    ),
    "tokens.safetensors": (
        lambda path: write_speech_tokens(
            path,
            SpeechTokenCache("3f2a", {"a": torch.arange(6)}, {"a": 9}),
        ),
        read_speech_tokens,
    ),
    "voices.safetensors": (
        lambda path: write_voices(
            path,
            {"x": Voice(torch.zeros(192), torch.arange(3), torch.zeros(6, 80))},
        ),
        read_voices,
    ),
    "features.hdf5": (write_features, read_features),
    "manifest.json": (
        lambda path: write_json(path, {"a": {"wav": "a.wav"}}),
        read_json,
    ),
    "labels.json": (
        lambda path: write_word_labels(path, {"a": LABELS}, EMOTIONS),
        lambda path: read_word_labels(path, EMOTIONS),
    ),
    "words.TextGrid": (
        lambda path: write_alignment(path, [Word("We", 0.1, 0.4, 0.5)], 1.0),
        read_alignment,
    ),
    "labels.TextGrid": (
        lambda path: write_label_textgrid(path, LABELS, 1.0),
        lambda path: read_label_textgrid(path, EMOTIONS),
    ),
    "layer.ckpt": (
        write_checkpoint,
        lambda path: load_strictly(torch.nn.Linear(2, 1), path),
    ),
    "model.yaml": (
        write_model,
        lambda path: Tiny.from_hparams(path.parent, savedir=path.parent),
    ),
    "a.wav": (
        lambda path: soundfile.write(path, np.zeros(400), 16000),
        lambda path: (audio_info(path, 30.0), load_audio(path)),
    ),
    "a.flac": (
        lambda path: soundfile.write(path, np.zeros(400), 16000),
        lambda path: (audio_info(path, 30.0), load_audio(path)),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    """Path of a good file, its content, and the function that reads it."""
    write, read = KINDS[request.param]
    path = tmp_path / request.param
    write(path)
    return path, path.read_bytes(), read


def attempt(path, content, read):
    """Whether damaged content is refused; never by another error."""
    path.write_bytes(content)
    try:
        read(path)
    except ValueError as error:
        message = str(error)
        assert path.name in message, message
        return True
    return False


def test_a_good_file_is_read(kind):
    assert not attempt(*kind)


def test_an_empty_file_is_refused(kind):
    path, _, read = kind
    assert attempt(path, b"", read)


#: Other bytes of YAML may describe another model.
checkable = pytest.mark.parametrize(
    "kind",
    [name for name in KINDS if not name.endswith(".yaml")],
    indirect=True,
)


@checkable
def test_a_truncated_file_is_whole_or_refused(kind):
    path, content, read = kind
    n_refused = 0
    places = {*range(1, len(content), max(1, len(content) // 24)), 1, 8}
    for place in sorted(places):
        n_refused += attempt(path, content[:place], read)
    assert n_refused >= 0.7 * len(places)


@checkable
def test_flipped_bytes_are_noticed_or_harmless(kind):
    path, content, read = kind
    for place in range(0, len(content), max(1, len(content) // 60)):
        for mask in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= mask
            attempt(path, damaged, read)


@pytest.mark.parametrize(
    "junk", [b"\0" * 5000, b"\xff" * 5000, b"{" * 50_000, b"not of this kind\n"]
)
def test_another_file_is_refused(kind, junk):
    path, _, read = kind
    assert attempt(path, junk, read)


def test_sizes_larger_than_the_file_are_refused_at_once(tmp_path):
    for name in ("weights.safetensors", "tokens.safetensors", "a.wav"):
        write, read = KINDS[name]
        path = tmp_path / name
        write(path)
        content = bytearray(path.read_bytes())
        if path.suffix == ".wav":
            content[4:8] = struct.pack("<I", 2**31)
        else:
            content[:8] = struct.pack("<Q", 2**60)
        assert attempt(path, content, read)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_nothing_in_a_file_is_executed(kind, tmp_path):
    path, _, read = kind
    trace = tmp_path / "executed"
    payload = pickle.dumps({"weight": Payload(f"touch {trace}")})
    assert attempt(path, payload, read)
    assert not trace.exists()


def test_no_code_in_a_checkpoint_is_executed(tmp_path):
    path, trace = tmp_path / "layer.ckpt", tmp_path / "executed"
    torch.save({"weight": Payload(f"touch {trace}")}, path)
    with pytest.raises(ValueError, match="layer.ckpt"):
        load_strictly(torch.nn.Linear(2, 1), path)
    assert not trace.exists()
