"""A backbone trains as much as asked, and its checkpoint holds just that."""

from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.open_backbone import OpenBackbone

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer


def make(training, **options):
    torch.manual_seed(0)
    llm = CosyVoice2LM(
        dict(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        ),
        speech_token_size=27,
    )
    return OpenBackbone(llm, training, **options)


def logits(llm):
    torch.manual_seed(1)
    return llm(
        llm.embed_text(torch.randint(40, (2, 6))),
        torch.ones(2),
        torch.randint(27, (2, 8)),
        torch.ones(2),
    ).logits


def trains(llm):
    return {name for name, p in llm.named_parameters() if p.requires_grad}


HEAD = {"llm_decoder.weight", "llm_decoder.bias"}


def test_a_frozen_backbone_trains_its_head_alone():
    backbone = make("frozen")
    assert trains(backbone.llm) == HEAD and backbone.opened == {}


def test_lora_trains_adapters_and_the_head():
    backbone = make("lora", rank=2)
    opened = set(backbone.opened)
    assert trains(backbone.llm) == HEAD | opened
    assert len(opened) == 2 * 2 * 2  # layers, q and v, down and up
    assert all("adapter" in name for name in opened)


def test_joint_training_opens_everything():
    llm = make("joint").llm
    assert trains(llm) == {name for name, _ in llm.named_parameters()}


@pytest.mark.parametrize("training", ["lora", "joint"])
def test_an_opened_backbone_starts_as_the_frozen_one(training):
    torch.testing.assert_close(
        logits(make(training).llm), logits(make("frozen").llm)
    )


@pytest.mark.parametrize("training", ["lora", "joint"])
def test_what_is_opened_learns(training):
    backbone = make(training)
    with torch.no_grad():  # adapters start as zeros times something
        for parameter in backbone.opened.values():
            parameter.add_(0.01)
    logits(backbone.llm).square().sum().backward()
    for name, parameter in backbone.opened.items():
        assert parameter.grad is not None, name
        if "embedding" not in name and "bias" not in name:
            assert parameter.grad.abs().sum() > 0, name


def test_a_checkpoint_brings_back_what_was_trained(tmp_path):
    trained = make("lora")
    with torch.no_grad():
        for parameter in trained.opened.values():
            parameter.add_(torch.randn_like(parameter))
    Checkpointer(tmp_path, {"body": trained}).save_checkpoint()
    (file,) = tmp_path.glob("*/body.ckpt")
    assert set(torch.load(file)) == set(trained.opened)

    resumed, transferred = make("lora"), make("lora")
    Checkpointer(tmp_path, {"body": resumed}).recover_if_possible()
    transferred.load(file)
    for other in (resumed, transferred):
        assert torch.equal(logits(other.llm), logits(trained.llm))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    make("lora", rank=2).save(tmp_path / "body.ckpt")
    for other in (make("lora", rank=4), make("joint")):
        with pytest.raises(ValueError, match="body.ckpt.*backbone_training"):
            other.load(tmp_path / "body.ckpt")


def test_a_misspelled_training_is_named():
    with pytest.raises(ValueError, match="'frosen'.*frozen, lora or joint"):
        make("frosen")


def test_layers_that_the_backbone_lacks_are_named():
    with pytest.raises(ValueError, match=r"\*.qkv.*target_layers"):
        make("lora", target_layers=["*.qkv"])
