"""The layers of Qwen2, against those of transformers."""

from speechbrain_emofilm.lobes.cosyvoice2.qwen2 import Qwen2Config, Qwen2Model
from speechbrain_emofilm.lobes.cosyvoice2.trunk import read_packed

import pytest
import torch
import transformers

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
}
N_ITEMS, SIZE = 3, 11


def both(seed=0, **others):
    """Both implementations with random weights of one seed."""
    sizes = {**SIZES, **others}
    torch.manual_seed(seed)
    ours = Qwen2Model(Qwen2Config(**sizes, attn_implementation="eager"))
    torch.manual_seed(seed)
    theirs = transformers.Qwen2Model(
        transformers.Qwen2Config(**sizes, attn_implementation="eager")
    )
    return ours.eval(), theirs.eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    mask = torch.ones(N_ITEMS, SIZE)
    mask[1, 7:] = 0
    mask[2, 4:] = 0
    return torch.randn(N_ITEMS, SIZE, SIZES["hidden_size"]), mask


@pytest.mark.skipif(
    not transformers.__version__.startswith("4."),
    reason="another release may draw in another order",
)
@pytest.mark.parametrize("pad_token_id", [None, 3])
def test_random_weights_are_those_of_transformers(pad_token_id):
    ours, theirs = both(pad_token_id=pad_token_id)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert weight.equal(expected[name]), name


def test_hidden_states_and_attention_are_those_of_transformers(batch):
    ours, theirs = both()
    ours.load_state_dict(theirs.state_dict())
    embeddings, mask = batch
    with torch.no_grad():
        found = ours(embeddings, mask, output_attentions=True)
        expected = theirs(
            inputs_embeds=embeddings,
            attention_mask=mask,
            output_attentions=True,
            use_cache=False,
        )
        packed = read_packed(ours, embeddings, mask)
        packed_by_theirs = read_packed(theirs, embeddings, mask)
    inside = mask.bool()
    assert found.last_hidden_state[inside].equal(
        expected.last_hidden_state[inside]
    )
    for ours_of_layer, theirs_of_layer in zip(
        found.attentions, expected.attentions, strict=True
    ):
        rows = inside[:, None].expand(-1, 4, -1)
        assert ours_of_layer[rows].equal(theirs_of_layer[rows])
    assert packed.equal(packed_by_theirs)


def test_half_precision_is_that_of_transformers(batch):
    ours, theirs = both()
    ours.load_state_dict(theirs.state_dict())
    embeddings, mask = batch[0].bfloat16(), batch[1]
    with torch.no_grad():
        found = read_packed(ours.bfloat16(), embeddings, mask)
        expected = read_packed(theirs.bfloat16(), embeddings, mask)
    assert found.equal(expected)


def test_attention_is_returned_only_on_request(batch):
    ours, _ = both()
    assert ours(*batch).attentions is None


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_act": "gelu"},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"use_sliding_window": True},
    ],
)
def test_another_kind_of_model_is_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Qwen2Config(**SIZES, **setting)


def test_a_cache_is_refused(batch):
    ours, _ = both()
    with pytest.raises(ValueError, match="CachedQwen2"):
        ours(*batch, use_cache=True)


def test_other_settings_of_a_file_are_accepted():
    config = Qwen2Config(**SIZES, torch_dtype="bfloat16", eos_token_id=1)
    assert config.hidden_size == SIZES["hidden_size"]
