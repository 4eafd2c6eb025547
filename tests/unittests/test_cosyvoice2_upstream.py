"""Released files of flow and vocoder: what loads, and what is refused."""

import os
import pickle

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import (
    load_flow,
    load_hift,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import pytest
import torch
from tiny_cosyvoice2 import FLOW, VOCODER

PARTS = {
    "flow.pt": (CosyVoice2Flow, load_flow, FLOW),
    "hift.pt": (HiFTGenerator, load_hift, VOCODER),
}


@pytest.fixture(params=PARTS)
def part(request, tmp_path):
    """The loader of a class, small sizes and a file of weights."""
    kind, load, sizes = PARTS[request.param]
    torch.manual_seed(0)
    path = tmp_path / request.param
    state = kind(**sizes).state_dict()
    torch.save({**state, "epoch": 1, "step": 10}, path)
    return load, sizes, path


class Payload:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_weights_are_loaded_and_frozen(part):
    load, sizes, path = part
    state = torch.load(path, weights_only=True)
    model = load(path, **sizes)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_other_layouts_of_the_vocoder(tmp_path):
    torch.manual_seed(0)
    vocoder = HiFTGenerator(**VOCODER)
    old = {"discriminator.weight": torch.zeros(1)}
    for name, tensor in vocoder.state_dict().items():
        for new, short in (("original0", "g"), ("original1", "v")):
            name = name.replace(
                f"parametrizations.weight.{new}", f"weight_{short}"
            )
        old[f"generator.{name}"] = tensor
    torch.save(old, tmp_path / "hift.pt")
    loaded = load_hift(tmp_path / "hift.pt", **VOCODER)
    for name, tensor in vocoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_truncated_file_is_refused(part):
    load, sizes, path = part
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path.name} is no whole checkpoint"):
        load(path, **sizes)


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_would_run_code_never_runs(part, tmp_path, plain):
    load, sizes, path = part
    trap = tmp_path / "trap"
    if plain:
        path.write_bytes(pickle.dumps({"weight": Payload(trap)}))
    else:
        torch.save({"weight": Payload(trap)}, path)
    with pytest.raises(ValueError, match=path.name):
        load(path, **sizes)
    assert not trap.exists()


def test_missing_file_is_named(part):
    load, sizes, path = part
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        load(path, **sizes)


@pytest.mark.parametrize("change", ["missing", "unexpected", "another shape"])
def test_tensors_that_do_not_fit_are_named(part, change):
    load, sizes, path = part
    state = torch.load(path, weights_only=True)
    name = next(n for n in state if n.endswith("bias"))
    tensor = state.pop(name)
    if change == "unexpected":
        state |= {name: tensor, "stranger.weight": tensor}
        name = "stranger.weight"
    elif change == "another shape":
        state[name] = torch.cat([tensor, tensor])
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"1 (of )?{change}: {name}"):
        load(path, **sizes)


@pytest.mark.parametrize(
    "name, release",
    [
        ("length_regulator.model.0.weight", "CosyVoice 1"),
        ("decoder.estimator.transformer_blocks.0.ff.weight", "CosyVoice 3"),
    ],
)
def test_flows_of_other_releases_are_named(tmp_path, name, release):
    torch.save({name: torch.zeros(1)}, tmp_path / "flow.pt")
    with pytest.raises(ValueError, match=f"is a flow of {release}"):
        load_flow(tmp_path / "flow.pt", **FLOW)
