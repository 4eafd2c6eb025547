"""Learning rates are a function of the number of updates."""

from speechbrain_emofilm.utils.schedulers import WarmupCosineSchedule

import pytest
import torch


@pytest.fixture
def optimizer():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in "ab"]
    return torch.optim.AdamW(groups, lr=7.0)


def test_rate_rises_to_the_peak_and_falls_to_its_share(optimizer):
    schedule = WarmupCosineSchedule(0.1, 4, 20, final_lr_scale=0.1)
    rates = [schedule(optimizer, n) for n in range(25)]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert all(a >= b for a, b in zip(rates[3:], rates[4:]))
    assert rates[12] == pytest.approx(0.055)  # half way down
    assert rates[20:] == pytest.approx([0.01] * 5)


def test_every_group_gets_the_rate(optimizer):
    rate = WarmupCosineSchedule(0.1, 0, 20)(optimizer, 5)
    assert [group["lr"] for group in optimizer.param_groups] == [rate, rate]


def test_asking_twice_changes_nothing(optimizer):
    schedule = WarmupCosineSchedule(0.1, 4, 20)
    assert schedule(optimizer, 9) == schedule(optimizer, 9)


def test_the_warm_up_of_a_short_trial_is_half_of_it(optimizer, caplog):
    schedule = WarmupCosineSchedule(0.1, 200, 100)
    rates = [schedule(optimizer, n) for n in range(100)]
    assert rates.index(max(rates)) == 49
    assert "200 steps is shortened to half of the 100" in caplog.text


@pytest.mark.parametrize("warmup, total", [(-1, 10), (0, 0)])
def test_impossible_numbers_are_refused(warmup, total):
    with pytest.raises(ValueError, match="is not possible"):
        WarmupCosineSchedule(0.1, warmup, total)
