"""The Brain base makes a training that resumes exactly."""

from speechbrain_emofilm.core import ResumableBrain
from speechbrain_emofilm.utils.checkpoints import AtomicCheckpointer
from speechbrain_emofilm.utils.schedulers import WarmupCosineSchedule

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.train_logger import FileTrainLogger


class TinyBrain(ResumableBrain):
    """Fits noisy inputs; stops as if killed at a given batch."""

    best_key = "error"
    stop_at = None

    def compute_forward(self, batch, stage):
        if stage == sb.Stage.TRAIN:
            self.seen.append(batch.flatten().tolist())
            if len(self.seen) == self.stop_at:
                raise KeyboardInterrupt
            batch = batch + torch.randn_like(batch)
        return self.modules.linear(batch)

    def compute_objectives(self, predictions, batch, stage):
        loss = (predictions - batch).square().mean()
        self.accumulate_stats({"error": (loss.detach(), len(batch))})
        return loss


def make_brain(folder, epochs=3, stop_at=None, **run_opts):
    """A Brain in a folder and what its `fit` is given."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(1, 1)
    counter = EpochCounter(epochs)
    hparams = {
        "seed": 3,
        "epoch_counter": counter,
        "lr_schedules": {"opt_class": WarmupCosineSchedule(0.1, 2, 30)},
        "train_logger": FileTrainLogger(str(folder / "log.txt")),
    }
    checkpointer = AtomicCheckpointer(
        folder / "save", {"linear": linear, "counter": counter}
    )
    brain = TinyBrain(
        {"linear": linear},
        lambda parameters: torch.optim.AdamW(parameters, lr=1.0),
        hparams,
        {"noprogressbar": True, "ckpt_interval_steps": 1, **run_opts},
        checkpointer,
    )
    brain.seen, brain.stop_at = [], stop_at
    return brain


def fit(brain, n_items=10):
    """Trains on n_items numbers in batches of two; returns the weights."""
    data = torch.arange(float(n_items))[:, None]
    options = {"batch_size": 2, "shuffle": True}
    valid = {"batch_size": 2}
    counter = brain.hparams.epoch_counter
    brain.fit(counter, data, data[:3], None, options, valid)
    return [p.detach().clone() for p in brain.modules.parameters()]


@pytest.mark.parametrize(
    "stop_at",
    [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 6, 9, 12))],
)
def test_resumed_training_ends_with_equal_parameters(tmp_path, stop_at):
    whole = make_brain(tmp_path / "whole", grad_accumulation_factor=2)
    weights = fit(whole)
    killed = make_brain(
        tmp_path / "killed", stop_at=stop_at, grad_accumulation_factor=2
    )
    with pytest.raises(KeyboardInterrupt):
        fit(killed)
    torch.rand(5)  # whatever random numbers were drawn since
    resumed = make_brain(tmp_path / "killed", grad_accumulation_factor=2)
    torch.testing.assert_close(fit(resumed), weights, rtol=0, atol=0)
    assert len(resumed.seen) < len(whole.seen)
    assert resumed.seen == whole.seen[-len(resumed.seen) :]


def test_last_group_of_an_accumulation_is_a_smaller_one(tmp_path):
    brain = make_brain(tmp_path, epochs=1, grad_accumulation_factor=2)
    fit(brain, n_items=6)  # three batches
    assert brain.optimizer_step == 2


def test_gradients_are_the_mean_of_their_group(tmp_path, monkeypatch):
    gradients = []

    def keep(optimizer, *args, **kwargs):
        parameters = optimizer.param_groups[0]["params"]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    # No update is made, so that all gradients are taken at the same place.
    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    for factor in (1, 2):
        brain = make_brain(
            tmp_path / str(factor),
            epochs=1,
            grad_accumulation_factor=factor,
            max_grad_norm=1e9,
        )
        fit(brain, n_items=6)
    single, grouped = gradients[:3], gradients[3:]
    torch.testing.assert_close(grouped, [sum(single[:2]) / 2, single[2]])


def test_order_depends_on_the_epoch_alone(tmp_path):
    brain = make_brain(tmp_path)
    fit(brain)
    epochs = [brain.seen[start : start + 5] for start in (0, 5, 10)]
    assert epochs[0] != epochs[1] != epochs[2]
    brain.train_sampler.set_epoch(2)
    again = torch.tensor(list(brain.train_sampler)).float().split(2)
    assert [batch.tolist() for batch in again] == epochs[1]


@pytest.mark.slow
def test_complete_training_is_not_trained_on(tmp_path):
    options = dict(epochs=9, optimizer_step_limit=10)  # two epochs
    weights = fit(make_brain(tmp_path, **options))
    again = make_brain(tmp_path, **options)
    torch.testing.assert_close(fit(again), weights, rtol=0, atol=0)
    assert again.seen == []


def test_statistics_are_means_over_items(tmp_path):
    brain = make_brain(tmp_path)
    brain.on_stage_start(sb.Stage.VALID)
    brain.accumulate_stats({"error": (torch.tensor(1.0), torch.tensor(3))})
    brain.accumulate_stats({"error": (5.0, 1), "empty": (0.0, 0)})
    brain.on_stage_end(sb.Stage.TEST, 0.5)
    log = (tmp_path / "log.txt").read_text()
    assert "test loss: 5.00e-01" in log
    assert "test error: 2.00e+00" in log or "test error: 2.00" in log
    assert "test empty: 0.00e+00" in log


@pytest.mark.slow
def test_best_checkpoint_is_kept_with_the_newest(tmp_path):
    brain = make_brain(tmp_path)
    fit(brain)
    best = brain.checkpointer.find_checkpoint(min_key="error")
    errors = [c.meta["error"] for c in brain.checkpointer.list_checkpoints()]
    assert best.meta["error"] == min(errors)
    assert 1 <= len(errors) <= 2


def test_losses_of_one_process_have_a_weight_of_one(tmp_path):
    brain = make_brain(tmp_path)
    for stage in (sb.Stage.TRAIN, sb.Stage.VALID):
        shares = brain.share_of_all_processes(torch.tensor([3, 0]), stage)
        assert shares.tolist() == [1, 1]


def test_random_numbers_differ_between_batches_and_epochs(tmp_path):
    brain = make_brain(tmp_path)
    seeds = {brain.random_seed(e, s) for e in (1, 2) for s in (1, 2)}
    assert len(seeds) == 4
    assert brain.random_seed(1, 0) is None
    assert brain.random_seed(1, 2) == brain.random_seed(1, 2)
