"""Finite scalar quantisation and the tables made of its digits."""

import copy

from speechbrain_emofilm.lobes.mini.fsq import FSQ, FSQEmbedding, FSQLinear

import pytest
import torch
import torch.nn.functional as F

TABLES = [FSQEmbedding, FSQLinear]


def test_every_id_has_its_own_code():
    quantiser = FSQ()
    ids = torch.arange(6561)
    codes = quantiser.from_id(ids)
    assert set(codes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(quantiser.to_id(codes), ids)


def test_the_first_dimension_is_the_lowest_digit():
    quantiser = FSQ()
    low = torch.full((8,), -1.0)
    assert quantiser.to_id(low) == 0
    for place in range(8):
        raised = low.clone()
        raised[place] = 1.0
        assert quantiser.to_id(raised) == 2 * 3**place


def test_values_are_rounded_after_tanh():
    quantiser = FSQ(n_dims=5)
    x = torch.tensor([-9.0, -0.5, 0.0, 0.54, 0.56])
    codes, ids = quantiser(x)
    assert codes.tolist() == [-1, 0, 0, 0, 1]
    assert ids == quantiser.to_id(codes)


def test_gradient_passes_as_if_nothing_was_rounded():
    x = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(4, 8)
    codes, _ = FSQ()(x)
    (gradient,) = torch.autograd.grad((weight * codes).sum(), x)
    torch.testing.assert_close(gradient, weight * (1 - x.tanh() ** 2))


def test_embedding_looks_its_table_up_in_either_mode():
    embedding = FSQEmbedding(6, hidden=5, n_extra=2, n_dims=3)
    ids = torch.tensor([[28, 0, 26], [27, 0, 13]])
    assert embedding.weight.shape == (29, 6)
    with_gradient = embedding(ids)
    with torch.no_grad():
        without = embedding(ids)
    torch.testing.assert_close(with_gradient, without)
    torch.testing.assert_close(without, F.embedding(ids, embedding.weight))


def test_linear_multiplies_by_its_table():
    linear = FSQLinear(6, hidden=5, n_dims=3)
    torch.nn.init.normal_(linear.bias)
    x = torch.randn(2, 4, 6)
    assert linear(x).shape == (2, 4, 30)
    expected = x @ linear.weight.T + linear.bias
    torch.testing.assert_close(linear(x), expected)


@pytest.mark.parametrize("table", TABLES)
def test_is_small_beside_a_table_with_free_rows(table):
    n_parameters = sum(p.numel() for p in table(192).parameters())
    assert n_parameters < 6564 * 192 / 8


@pytest.mark.parametrize("table", TABLES)
def test_every_parameter_receives_a_gradient(table):
    module = table(6, hidden=5, n_extra=3, n_dims=3)
    ids = torch.arange(30)
    if table is FSQEmbedding:
        module(ids).square().sum().backward()
    else:
        F.cross_entropy(module(torch.randn(30, 6)), ids).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_embedding_and_table_have_the_same_gradient():
    module = FSQEmbedding(6, hidden=5, n_dims=3)
    ids = torch.tensor([4, 4, 29, 0])
    parameters = list(module.parameters())
    looked_up = torch.autograd.grad(module(ids).square().sum(), parameters)
    full = F.embedding(ids, module.weight).square().sum()
    for ours, theirs in zip(looked_up, torch.autograd.grad(full, parameters)):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_the_table_is_computed_once_while_nothing_changes():
    embedding = FSQEmbedding(6, hidden=5, n_dims=3)
    assert embedding.weight is embedding.weight
    # A frozen table needs no gradient even where gradients are recorded.
    embedding.requires_grad_(False)
    with torch.enable_grad():
        assert embedding.weight is embedding.weight


def _step(module):
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    with torch.enable_grad():
        module.weight.square().sum().backward()
    optimiser.step()


def _load(module):
    state = {k: v + 1 for k, v in module.state_dict().items()}
    module.load_state_dict(state)


def _load_by_assignment(module):
    state = {k: v + 1 for k, v in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def _to_double(module):
    module.double()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "change", [_step, _load, _load_by_assignment, _to_double]
)
def test_a_change_of_the_parameters_renews_the_table(table, change):
    module = table(6, hidden=5, n_dims=3)
    with torch.no_grad():
        before = module.weight
        change(module)
        after = module.weight
    expected = module.weight.detach()  # with gradient: not from the cache
    assert after.dtype == expected.dtype
    assert not torch.equal(after.float(), before)
    torch.testing.assert_close(after, expected)


def test_a_table_made_under_inference_mode_serves_training():
    linear = FSQLinear(6, hidden=5, n_dims=3).requires_grad_(False)
    with torch.inference_mode():
        linear(torch.randn(2, 6))
    x = torch.randn(2, 6, requires_grad=True)
    linear(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_table_made_under_autocast_keeps_full_precision():
    module = FSQEmbedding(6, hidden=5, n_dims=3)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            weight = module.weight
    torch.testing.assert_close(weight, module.weight.detach())


def test_a_copy_is_independent():
    module = FSQEmbedding(6, hidden=5, n_dims=3)
    with torch.no_grad():
        before = module.weight.clone()
        twin = copy.deepcopy(module)
        _load(twin)
        assert not torch.equal(twin.weight, before)
        assert torch.equal(module.weight, before)
