"""A checkpoint is whole or absent."""

import resource

from speechbrain_emofilm.utils.checkpoints import (
    AtomicCheckpointer,
    export_trained_model,
)

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer


@pytest.fixture
def layer():
    return torch.nn.Linear(64, 64)


def test_saved_checkpoint_is_recovered(tmp_path, layer):
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    weight = layer.weight.detach().clone()
    saved = checkpointer.save_checkpoint(meta={"loss": 2.0}, name="first")
    assert saved.path == tmp_path / "CKPT+first"
    assert saved.paramfiles["layer"].is_file()
    torch.nn.init.zeros_(layer.weight)
    assert checkpointer.recover_if_possible(min_key="loss").meta["loss"] == 2.0
    assert torch.equal(layer.weight, weight)


def test_newest_and_best_are_kept(tmp_path, layer):
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for loss in (3.0, 1.0, 2.0):
        checkpointer.save_and_keep_only(meta={"loss": loss}, min_keys=["loss"])
    losses = {c.meta["loss"] for c in checkpointer.list_checkpoints()}
    assert losses == {1.0, 2.0}


def test_full_disk_leaves_the_checkpoint_before(tmp_path, layer):
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    first = checkpointer.save_checkpoint()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="could not be saved.*whole") as error:
            checkpointer.save_checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]
    assert checkpointer.recover_if_possible().path == first.path


def test_what_a_killed_run_left_is_ignored_and_removed(tmp_path, layer):
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    left = tmp_path / "unfinished-CKPT+2026-01-01+00-00-00+00"
    left.mkdir()
    (left / "CKPT.yaml").write_text("unixtime: 9e9\nend-of-epoch: true\n")
    assert checkpointer.recover_if_possible() is None
    checkpointer.save_checkpoint()
    assert not left.exists()


def test_checkpoint_of_another_size_is_named(tmp_path, layer):
    saved = AtomicCheckpointer(tmp_path, {"layer": layer}).save_checkpoint()
    other = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(64, 8)})
    with pytest.raises(
        ValueError, match="does not fit.*output_folder"
    ) as error:
        other.recover_if_possible()
    assert str(saved.path) in str(error.value)


def test_checkpoint_without_a_part_is_named(tmp_path, layer):
    saved = AtomicCheckpointer(tmp_path, {"layer": layer}).save_checkpoint()
    other = AtomicCheckpointer(tmp_path, {"layer": layer, "head": layer})
    with pytest.raises(ValueError, match="does not fit.*head") as error:
        other.recover_if_possible()
    assert str(saved.path) in str(error.value)


def save_then_export(tmp_path, later):
    """Export a training whose best checkpoint is older than a part of it."""
    (tmp_path / "train.yaml").write_text("model: {}")
    parts = {"layer": torch.nn.Linear(2, 1)}
    Checkpointer(tmp_path / "save", parts).save_checkpoint({"loss": 1.0})
    parts["pointer"] = torch.nn.Linear(3, 1)
    checkpointer = Checkpointer(tmp_path / "save", parts)
    if later:
        checkpointer.save_checkpoint({"loss": 2.0})
    export_trained_model(
        checkpointer,
        "loss",
        ["layer", "pointer", "never"],
        tmp_path / "trained",
        tmp_path / "train.yaml",
        "",
        "model",
    )
    return parts


def test_a_part_that_joined_later_is_exported_from_a_later_checkpoint(tmp_path):
    parts = save_then_export(tmp_path, later=True)
    names = sorted(p.name for p in (tmp_path / "trained").iterdir())
    assert names == ["layer.ckpt", "model.yaml", "pointer.ckpt"]
    exported = torch.load(tmp_path / "trained/pointer.ckpt")
    assert torch.equal(exported["weight"], parts["pointer"].weight)


def test_a_part_that_was_never_trained_is_not_left_out_silently(tmp_path):
    with pytest.raises(ValueError, match="holds pointer, which the hyper"):
        save_then_export(tmp_path, later=False)
