"""Parts of a cache: shared between processes, kept over kills, merged."""

import json
import os

from speechbrain_emofilm.dataio.speech_tokens import (
    SpeechTokenCache,
    merge_parts,
    read_speech_tokens,
    stored_tokens,
    write_part,
    write_speech_tokens,
)
from speechbrain_emofilm.utils import sharding

import pytest
import torch


@pytest.fixture
def path(tmp_path):
    return tmp_path / "numbers.json"


def read(path):
    return json.loads(path.read_text())


def write_numbers(path, **numbers):
    sharding.write_part(
        path, numbers, lambda part: part.write_text(json.dumps(numbers))
    )


def contents(path):
    return [content for _, content in sharding.read_with_parts(path, read)]


def test_nothing_is_read_where_nothing_was_written(path):
    assert contents(path) == []


def test_a_part_is_replaced_by_the_next_one_of_the_same_items(path):
    write_numbers(path, a=1)
    write_numbers(path, a=2)
    assert contents(path) == [{"a": 2}]


def test_the_cache_comes_first_and_the_newest_part_last(path):
    path.write_text('{"a": 0}')
    for number in (3, 1, 2):
        write_numbers(path, **{f"a{number}": number})
    for age, part in enumerate(sorted(sharding.list_parts(path))):
        os.utime(part, (age, age))
    values = [min(content.values()) for content in contents(path)]
    expected = [
        min(read(part).values()) for part in sorted(sharding.list_parts(path))
    ]
    assert values == [0, *expected]


def test_a_damaged_part_is_removed_and_a_damaged_cache_is_an_error(path):
    write_numbers(path, a=1)
    damaged = sharding.parts_folder(path) / "0000.json"
    damaged.write_text('{"b": ')
    assert contents(path) == [{"a": 1}] and not damaged.exists()
    path.write_text('{"b": ')
    with pytest.raises(ValueError):
        contents(path)


def test_an_interrupted_part_is_not_read(path):
    def interrupted(part):
        part.write_text('{"a": ')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharding.write_part(path, ["a"], interrupted)
    assert contents(path) == []


@pytest.mark.parametrize("n_processes", [1, 2, 3])
def test_shares_of_all_processes_are_the_whole(monkeypatch, n_processes):
    done = []
    monkeypatch.setenv("WORLD_SIZE", str(n_processes))
    for rank in range(n_processes):
        monkeypatch.setenv("RANK", str(rank))
        sharding.extract_in_shares(
            lambda: list(range(7)), done.extend, lambda: None
        )
    assert sorted(done) == list(range(7))


def tokens_of(*names, skipped=()):
    return SpeechTokenCache(
        "3f2a",
        {name: torch.arange(3) for name in names},
        dict.fromkeys(names, 44),
        dict.fromkeys(skipped, "its wav is empty."),
    )


def test_token_parts_are_merged_without_utterances_of_no_manifest(tmp_path):
    path = tmp_path / "tokens.safetensors"
    write_speech_tokens(path, tokens_of("a", "removed", skipped=["d"]))
    write_part(path, tokens_of("b", skipped=["c"]))
    merged = merge_parts(path, "3f2a", ["a", "b", "c", "d"])
    assert list(merged.tokens) == ["a", "b"]
    assert list(merged.skipped) == ["c"]  # "d" is to be tried again
    assert read_speech_tokens(path).tokens.keys() == merged.tokens.keys()
    assert not sharding.parts_folder(path).exists()
    before = path.stat().st_mtime_ns
    merge_parts(path, "3f2a", ["a", "b", "c", "d"])
    assert path.stat().st_mtime_ns == before


def test_a_skipped_utterance_loses_its_tokens_and_gets_them_back(tmp_path):
    path = tmp_path / "tokens.safetensors"
    write_speech_tokens(path, tokens_of("a", "b"))
    write_part(path, tokens_of(skipped=["a"]))
    assert list(stored_tokens(path, "3f2a").tokens) == ["b"]
    write_part(path, tokens_of("a"))
    stored = stored_tokens(path, "3f2a")
    assert sorted(stored.tokens) == ["a", "b"] and not stored.skipped


def test_token_parts_of_another_tokenizer_are_an_error(tmp_path):
    path = tmp_path / "tokens.safetensors"
    write_part(path, tokens_of("a"))
    with pytest.raises(ValueError, match="3f2a, but .* 0000: delete"):
        stored_tokens(path, "0000")
