"""Files are written whole or not at all."""

import errno
import json
import math
import os

from speechbrain_emofilm.utils.files import atomic_path, read_json, write_json

import pytest
import torch
from safetensors.torch import save_file


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        with atomic_path(path) as temporary:
            temporary.write_text("half of the ne")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_temporary_name_keeps_folder_and_extension(tmp_path):
    with atomic_path(tmp_path / "deep" / "a.wav") as temporary:
        assert temporary.parent == tmp_path / "deep"
        assert temporary.suffix == ".wav"
        temporary.touch()


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_path(tmp_path / "a.txt"):
            pass


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_those_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for name in ("a.txt", "a.safetensors"):
            with atomic_path(tmp_path / name) as temporary:
                if name == "a.txt":
                    temporary.touch()
                else:
                    save_file({"a": torch.zeros(1)}, temporary)
            assert (tmp_path / name).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert len(list(tmp_path.iterdir())) == 2


def test_json_goes_round_trip_readably(tmp_path):
    path = tmp_path / "labels" / "a.json"
    write_json(path, {"词": [1, 0.5, None]})
    assert read_json(path) == {"词": [1, 0.5, None]}
    assert "词" in path.read_text(encoding="utf-8")


def test_json_reader_accepts_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([1]), encoding="utf-8-sig")
    assert read_json(path) == [1]


def test_json_writer_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError):
        write_json(path, {"wer": math.nan})
    assert read_json(path) == 1


def test_json_reader_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.json: no such file"):
        read_json(tmp_path / "missing.json")


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe\x00"])
def test_json_reader_names_a_broken_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.json: not a JSON file"):
        read_json(path)
