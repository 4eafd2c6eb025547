"""Repetition-aware sampling against the reference and its own statement."""

import json
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    GreedySampler,
    RepetitionAwareSampler,
    UtteranceNoise,
    candidate_columns,
    draw,
)

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROWS = json.loads((FIXTURES / "ras_sampling.json").read_text())["rows"]
N_GRID = 4000


@pytest.fixture(scope="module")
def reference():
    """Log-probabilities (20, 64) and histories (20, 25), padded left."""
    tensors = load_file(FIXTURES / "ras_sampling.safetensors")
    histories = torch.full_like(tensors["history"], -1)
    for row, (tokens, n) in enumerate(
        zip(tensors["history"], tensors["history_len"].tolist())
    ):
        histories[row, histories.shape[1] - n :] = tokens[:n]
    return tensors["logits"].log_softmax(-1), histories


def _grid():
    """Evenly spaced numbers in (0, 1), shape (N_GRID,)."""
    return (torch.arange(N_GRID, dtype=torch.float64) + 0.5) / N_GRID


def _sample_many(sampler, log_probs, history, first, second):
    """Tokens of one row for many pairs of uniform numbers."""
    uniforms = torch.stack([first, second], dim=1)
    rows = len(uniforms)
    return sampler(
        log_probs.expand(rows, -1), history.expand(rows, -1), uniforms
    )


def test_candidates_are_those_of_the_reference(reference):
    ids, probs = RepetitionAwareSampler().nucleus(reference[0])
    for row, expected in enumerate(ROWS):
        n = len(expected["candidates"])
        assert ids[row, :n].tolist() == expected["candidates"]
        torch.testing.assert_close(
            probs[row, :n], torch.tensor(expected["candidate_probs"])
        )
        assert (probs[row, n:] == 0).all()


def test_redraws_the_candidates_that_the_reference_redraws(reference):
    sampler = RepetitionAwareSampler()
    ids, _ = sampler.nucleus(reference[0])
    repeated = sampler.is_repeated(ids, reference[1])
    for row, expected in enumerate(ROWS):
        flags = expected["redraw_if_drawn"]
        assert repeated[row, : len(flags)].tolist() == flags


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_draws_candidates_in_proportion(reference, row):
    """What is drawn and kept follows the candidates' probabilities."""
    log_probs, history = reference[0][row], reference[1][row]
    tokens = _sample_many(
        RepetitionAwareSampler(), log_probs, history, _grid(), _grid() * 0
    )
    probs = torch.tensor(ROWS[row]["candidate_probs"])
    for token, p, redraw in zip(
        ROWS[row]["candidates"],
        probs / probs.sum(),
        ROWS[row]["redraw_if_drawn"],
    ):
        share = (tokens == token).double().mean()
        if not redraw and not any(ROWS[row]["redraw_if_drawn"]):
            assert abs(share - p) < 2 / N_GRID
        elif not redraw:
            assert share > p - 2 / N_GRID


def test_a_repeated_token_is_redrawn_from_everything_else(reference):
    # The only candidate of row 14 stands in its window.
    (rejected,) = ROWS[14]["candidates"]
    log_probs, history = reference[0][14] / 8, reference[1][14]
    sampler = RepetitionAwareSampler(top_k=1)
    tokens = _sample_many(sampler, log_probs, history, _grid(), _grid())
    expected = log_probs.exp()
    expected[rejected] = 0
    expected = expected / expected.sum()
    share = torch.bincount(tokens, minlength=64) / N_GRID
    assert share[rejected] == 0
    assert (share > 0).sum() == ROWS[14]["redraw_support_size"][0]
    assert (share - expected).abs().max() < 2 / N_GRID


def test_only_the_window_counts():
    log_probs = torch.tensor([[0.9, 0.1]]).log()
    sampler = RepetitionAwareSampler(window=3)
    uniforms = torch.zeros(1, 2)
    inside, outside = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 1, 1, 1]])
    assert sampler(log_probs, inside, uniforms) == 1
    assert sampler(log_probs, outside, uniforms) == 0


def test_tau_is_a_share_of_the_window():
    history = torch.tensor([[5, 0, 5, 0, 5, 5, 5, 5, 5, 5]])
    zero = torch.tensor([[0]])
    for tau, repeated in [(0.1, True), (0.2, True), (0.3, False)]:
        sampler = RepetitionAwareSampler(tau=tau)
        assert sampler.is_repeated(zero, history) == repeated


def test_a_forbidden_token_is_never_drawn():
    log_probs = torch.tensor([0.0, 0.0, -torch.inf, 0.0]).log_softmax(-1)
    sampler = RepetitionAwareSampler(top_p=1.0)
    history = torch.tensor([0, 1, 3])
    tokens = _sample_many(sampler, log_probs, history, _grid(), _grid())
    assert set(tokens.tolist()) == {0, 1, 3}


def test_repeats_where_nothing_else_is_allowed():
    log_probs = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    uniforms = torch.full((1, 2), 0.5)
    sampler = RepetitionAwareSampler()
    assert sampler(log_probs, torch.tensor([[1]]), uniforms) == 1


def test_ties_keep_the_order_of_ids():
    log_probs = torch.zeros(1, 500).log_softmax(-1)
    ids, _ = RepetitionAwareSampler(top_k=25).nucleus(log_probs)
    assert ids.tolist() == [list(range(25))]


def test_a_low_temperature_approaches_greedy():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20, 64, generator=generator)
    log_probs, history = scores.log_softmax(-1), torch.empty(20, 0)
    uniforms = torch.rand(20, 2, generator=generator)
    cold = RepetitionAwareSampler(temperature=1e-3)
    greedy = GreedySampler()(log_probs, history, uniforms)
    assert torch.equal(cold(log_probs, history, uniforms), greedy)
    hot = RepetitionAwareSampler(temperature=2.0)
    _, hot_probs = hot.nucleus(log_probs)
    _, probs = RepetitionAwareSampler().nucleus(log_probs)
    assert (hot_probs[:, 0] < probs[:, 0]).all()


def test_a_batch_draws_what_its_rows_draw_alone(reference):
    sampler = RepetitionAwareSampler()
    log_probs, history = reference
    uniforms = UtteranceNoise(range(20))()
    batch = sampler(log_probs, history, uniforms)
    alone = [
        sampler(
            log_probs[row : row + 1],
            history[row : row + 1],
            uniforms[row : row + 1],
        )
        for row in range(20)
    ]
    assert torch.equal(batch, torch.cat(alone))


def test_noise_goes_on_independently_of_the_other_utterances():
    batch, alone = UtteranceNoise([3, 7, 3]), UtteranceNoise([7])
    first = batch()
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    alone()
    batch.keep([1])  # the others have ended
    assert torch.equal(batch(), alone())


def test_noise_is_that_of_the_seed_whenever_an_utterance_joins():
    """Also where numbers have to be drawn anew while others go on."""
    batch, expected = UtteranceNoise([5]), {}
    for step in range(100):
        if step % 9 == 0:
            batch.join([step])
            generator = torch.Generator().manual_seed(step)
            expected[step] = torch.rand(
                100, 2, generator=generator, dtype=torch.float64
            )
        numbers = batch()
        for row, (start, own) in enumerate(expected.items(), 1):
            assert torch.equal(numbers[row], own[step - start])
        assert len(torch.unique(numbers)) == numbers.numel()


def test_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    UtteranceNoise([1, 2])()
    assert torch.equal(torch.get_rng_state(), state)


def test_draw_covers_the_ends_of_the_unit_interval():
    probs = torch.tensor([[0.0, 0.3, 0.0, 0.5, 0.0]] * 2)
    largest = torch.nextafter(
        torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0).double()
    )
    uniform = torch.stack([torch.zeros_like(largest), largest])
    assert draw(probs, uniform).tolist() == [1, 3]


@pytest.mark.parametrize(
    "arguments",
    [{"top_p": 0.0}, {"top_k": 0}, {"window": 0}, {"temperature": 0.0}],
)
def test_refuses_settings_out_of_range(arguments):
    with pytest.raises(ValueError, match="RepetitionAwareSampler"):
        RepetitionAwareSampler(**arguments)


@pytest.mark.parametrize("sampler", [RepetitionAwareSampler(), GreedySampler()])
def test_few_candidates_are_drawn_as_from_the_whole_vocabulary(sampler):
    torch.manual_seed(0)
    for n_tokens in (6567, 6561, 1000):
        scores = torch.randn(64, n_tokens) * torch.rand(64, 1) * 5
        scores, ids = scores.topk(15)
        scores[torch.rand(64, 15) < 0.5] = -torch.inf
        scores[:, 0] = 2.0
        scores[:8, 1:3] = 2.0  # equal ones
        uniforms = torch.rand(64, 2, dtype=torch.float64)
        history = ids[:, :2]  # they count as repeated
        whole = torch.full((64, n_tokens), -torch.inf)
        whole = whole.scatter(1, ids, scores).log_softmax(-1)
        columns, names = candidate_columns(scores, ids)
        columns = columns.log_softmax(-1)
        drawn = sampler(columns, history, uniforms, names)
        assert torch.equal(drawn, sampler(whole, history, uniforms))
        # Even the last bits are the same.
        is_candidate = columns.isfinite()
        same = whole.gather(1, names) == columns
        assert same[is_candidate].all() and is_candidate.any(1).all()
