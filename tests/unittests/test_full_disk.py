"""A disk that fills up while a file is written leaves the old file whole."""

import resource
from contextlib import contextmanager

from speechbrain_emofilm.dataio import (
    alignments,
    feature_cache,
    labels,
    speech_tokens,
    voices,
)
from speechbrain_emofilm.evaluation.systems import write_wav
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.utils.checkpoints import AtomicCheckpointer
from speechbrain_emofilm.utils.files import write_json

import pytest
import torch
from safetensors import SafetensorError
from soundfile import LibsndfileError

ROOM = 4096  # bytes that the full disk still takes
#: What the writers raise then.
FULL = (OSError, LibsndfileError, SafetensorError)


@contextmanager
def full_disk():
    """Let no file grow beyond some bytes: a stand-in for a full disk.

    Writers in C meet it as well, since the system refuses the bytes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_tokens(path, n):
    cache = speech_tokens.SpeechTokenCache("3f2a", {"a": torch.arange(n)})
    speech_tokens.write_speech_tokens(path, cache)


def write_voices(path, n):
    voice = voices.Voice(
        torch.zeros(192), torch.zeros(n).long(), torch.zeros(2 * n, 80)
    )
    voices.write_voices(path, {"0011": voice})


def write_features(path, n):
    identity = {
        "model": "toy",
        "revision": "1",
        "config_hash": "0",
        "dim": 3,
        "frame_rate": 50.0,
        "frame_offset": 0.0,
    }
    features = {"a": torch.rand(n, 3)}
    feature_cache.write_part(path, identity, features, {"a": 1})
    feature_cache.merge_parts(path, identity, ["a"])


def write_labels(path, n):
    words = [labels.WordLabel("we", i, i + 0.5, "happy") for i in range(n)]
    entry = labels.UtteranceLabels(words)
    labels.write_word_labels(path, {"a": entry}, ["happy"])


def write_textgrid(path, n):
    words = [alignments.Word("we", i, i + 0.5) for i in range(n)]
    alignments.write_alignment(path, words, float(n))


WRITERS = {
    "list.json": lambda path, n: write_json(path, list(range(n))),
    "rows.csv": lambda path, n: write_csv(path, [{"id": i} for i in range(n)]),
    "speech.wav": lambda path, n: write_wav(path, torch.rand(n), 24000),
    "tokens.safetensors": write_tokens,
    "voices.safetensors": write_voices,
    "features.hdf5": write_features,
    "labels.json": write_labels,
    "words.TextGrid": write_textgrid,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_old_file_stays_whole(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, 4)
    whole = path.read_bytes()
    with full_disk(), pytest.raises(FULL):
        WRITERS[name](path, 9000)
    assert path.read_bytes() == whole
    left = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert left == [name]
    WRITERS[name](path, 5)  # once there is room again


def test_the_earlier_checkpoint_stays_whole(tmp_path):
    layer = torch.nn.Linear(200, 200)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    first = checkpointer.save_checkpoint()
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    torch.nn.init.zeros_(layer.weight)
    with full_disk(), pytest.raises(OSError, match="free some space"):
        checkpointer.save_checkpoint()
    assert checkpointer.find_checkpoint().path == first.path
    checkpointer.recover_if_possible()
    assert all(map(torch.equal, layer.state_dict().values(), kept.values()))
    assert [p for p in tmp_path.iterdir()] == [first.path]
