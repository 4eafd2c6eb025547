"""Weights are found, and loaded whole or refused by name."""

from speechbrain_emofilm.utils.assets import (
    find_file,
    load_safetensors,
    load_tensors,
)

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.safetensors"


def test_file_of_the_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("speechbrain_emofilm/utils/assets.py").is_file()


def test_own_file_is_found_first(tmp_path, monkeypatch):
    own = tmp_path / "speechbrain_emofilm" / "utils" / "assets.py"
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.chdir(tmp_path)
    assert find_file("speechbrain_emofilm/utils/assets.py").samefile(own)


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="assets/no.safetensors does"):
        load_tensors("speechbrain_emofilm/assets/no.safetensors")


def test_weights_of_half_precision_become_the_modules(file):
    source = torch.nn.Linear(2, 3)
    save_file({k: v.half() for k, v in source.state_dict().items()}, file)
    target = load_safetensors(torch.nn.Linear(2, 3), file)
    assert target.weight.dtype == torch.float32
    torch.testing.assert_close(target.weight, source.weight.half().float())


def test_damaged_file_is_named(file):
    save_file(torch.nn.Linear(20, 30).state_dict(), file)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="safetensors is not a complete"):
        load_tensors(file)


def test_every_difference_is_named_and_nothing_loaded(file):
    save_file({"weight": torch.zeros(3, 5), "scale": torch.zeros(1)}, file)
    module = torch.nn.Linear(2, 3)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError) as error:
        load_safetensors(module, file)
    for part in (
        str(file),
        "Linear",
        "1 missing: bias",
        "1 unexpected: scale",
        "weight (3x5 in the file, 3x2 in the module)",
    ):
        assert part in str(error.value)
    assert torch.equal(module.weight, before)


def test_long_lists_are_cut(file):
    save_file({f"{n}": torch.zeros(1) for n in range(9)}, file)
    with pytest.raises(
        ValueError, match=r"9 unexpected: 0, 1, 2, 3, 4, \.\.\."
    ):
        load_safetensors(torch.nn.Identity(), file)
