"""Loading CosyVoice2's language model from its own files."""

import json
import os
import pickle
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import (
    QWEN2_0_5B,
    load_llm,
    read_qwen2_config,
    read_upstream_tensors,
    rename_llm_tensors,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
DESCRIPTION = json.loads((FIXTURES / "llm_small.json").read_text())
QWEN2 = DESCRIPTION["config"]["qwen2"]
SIZES = {"config": QWEN2, "speech_token_size": 320}


@pytest.fixture(scope="module")
def state():
    """The reference's weights as its llm.pt holds them."""
    tensors = load_file(FIXTURES / "llm_small.safetensors")
    state = {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}
    embeddings = state["llm.model.model.embed_tokens.weight"]
    return {**state, "llm.model.lm_head.weight": embeddings}


@pytest.fixture
def llm_pt(tmp_path, state):
    path = tmp_path / "llm.pt"
    torch.save({**state, "epoch": 7, "step": 700}, path)
    return path


def _refused(path, match, **kwargs):
    """The message with which a file is refused."""
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        load_llm(path, **{**SIZES, **kwargs})
    message = str(error.value)
    assert str(path) in message
    assert "weights_only" not in message
    return message


def test_loading_equals_copying_the_tensors(llm_pt, state):
    loaded = load_llm(llm_pt, **SIZES)
    copied = CosyVoice2LM(QWEN2, 320)
    copied.load_state_dict(rename_llm_tensors(state))
    expected = copied.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    text, lens = torch.randint(400, (2, 5)), torch.ones(2)
    speech = torch.randint(320, (2, 9))
    logits = [
        lm.eval()(lm.embed_text(text), lens, speech, lens).logits
        for lm in (loaded, copied)
    ]
    torch.testing.assert_close(*logits)


def test_nothing_stays_without_memory(llm_pt):
    lm = load_llm(llm_pt, **SIZES)
    tensors = [*lm.parameters(), *lm.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_is_frozen_and_in_evaluation_mode_as_asked(llm_pt):
    lm = load_llm(llm_pt, **SIZES)
    trainable = {n for n, p in lm.named_parameters() if p.requires_grad}
    assert trainable == {"llm_decoder.weight", "llm_decoder.bias"}
    lm = load_llm(llm_pt, **SIZES, frozen=False)
    assert all(p.requires_grad for p in lm.parameters())
    assert not lm.training


def test_training_leaves_the_file_as_it_was(llm_pt):
    before = llm_pt.read_bytes()
    lm = load_llm(llm_pt, **SIZES)
    with torch.no_grad():
        lm.llm_decoder.weight += 1.0
    assert llm_pt.read_bytes() == before


def test_half_precision_and_old_format_are_read(tmp_path, state):
    path = tmp_path / "llm.pt"
    half = {name: tensor.half() for name, tensor in state.items()}
    torch.save(half, path, _use_new_zipfile_serialization=False)
    lm = load_llm(path, **SIZES)
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    torch.testing.assert_close(
        lm.llm.norm.weight, half["llm.model.model.norm.weight"].float()
    )


def test_the_sizes_come_from_the_folder_that_upstream_ships(llm_pt, tmp_path):
    folder = tmp_path / "CosyVoice-BlankEN"
    folder.mkdir()
    config = {**QWEN2, "model_type": "qwen2", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    lm = load_llm(llm_pt, folder, speech_token_size=320)
    assert lm.llm.config.rms_norm_eps == QWEN2["rms_norm_eps"]
    assert {p.dtype for p in lm.parameters()} == {torch.float32}


def test_released_sizes_are_the_default():
    manifest = json.loads((FIXTURES / "manifest_llm.json").read_text())
    shapes = {k: tuple(v[0]) for k, v in manifest["tensors"].items()}
    with torch.device("meta"):
        lm = CosyVoice2LM(QWEN2_0_5B)
        tensors = {k: torch.empty(shape) for k, shape in shapes.items()}
    lm.load_state_dict(rename_llm_tensors(tensors))
    assert len(shapes) == 295
    assert len(lm.state_dict()) == 294  # all but the text head


# Bad input


def test_refuses_a_missing_file(tmp_path):
    path = tmp_path / "llm.pt"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_llm(path, **SIZES)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_refuses_a_truncated_file(llm_pt, share):
    content = llm_pt.read_bytes()
    llm_pt.write_bytes(content[: int(share * len(content))])
    _refused(llm_pt, "no whole checkpoint")


def test_refuses_what_is_no_checkpoint(tmp_path):
    path = tmp_path / "llm.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    _refused(path, "no whole checkpoint")
    torch.save([torch.zeros(2)], path)
    _refused(path, "holds a list instead of named tensors")


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_never_runs(tmp_path, state, writer):
    path, harm = tmp_path / "llm.pt", tmp_path / "harm"
    evil = {**state, "payload": _Payload(harm)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=writer == "zip")
    _refused(path, "get it again")
    assert not harm.exists()


def test_says_why_a_pickle_is_refused(tmp_path):
    path = tmp_path / "llm.pt"
    torch.save({"payload": _Payload(tmp_path / "harm")}, path)
    _refused(path, "may run code")


def test_names_what_differs(llm_pt, state):
    state = dict(state)
    del state["llm.model.model.norm.weight"]
    state["speaker.weight"] = torch.zeros(2)
    state["llm_decoder.weight"] = state["llm_decoder.weight"][:100]
    torch.save(state, llm_pt)
    message = _refused(llm_pt, "does not fit")
    assert "1 missing: llm.norm.weight" in message
    assert "1 unexpected: speaker.weight" in message
    assert "llm_decoder.weight (100, 64) instead of (323, 64)" in message


def test_names_other_releases(llm_pt, state):
    first = {"text_encoder.embed.weight": torch.zeros(2)}
    torch.save({**state, **first}, llm_pt)
    _refused(llm_pt, "CosyVoice 1")
    third = dict(state)
    del third["llm_embedding.weight"], third["llm_decoder.bias"]
    torch.save(third, llm_pt)
    _refused(llm_pt, "CosyVoice 3")
    torch.save({"decoder.estimator.weight": torch.zeros(2)}, llm_pt)
    _refused(llm_pt, "no language model of CosyVoice2")


def test_refuses_a_folder_without_sizes(llm_pt, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_llm(llm_pt, empty)
    (empty / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="Qwen2"):
        read_qwen2_config(empty)
    (empty / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="lacks hidden_size"):
        read_qwen2_config(empty)


def test_reads_tensors_alone(tmp_path):
    path = tmp_path / "any.pt"
    torch.save({"a": torch.ones(2), "epoch": 7, "name": "x"}, path)
    assert list(read_upstream_tensors(path)) == ["a"]
