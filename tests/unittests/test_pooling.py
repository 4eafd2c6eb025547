"""Word features are the means of the frames inside the word."""

from speechbrain_emofilm.processing.pooling import word_average_pooling

import pytest
import torch

RATE, OFFSET = 50.0, 0.0125  # of emotion2vec


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def naive_pooling(features, word_times, n_frames):
    """One utterance, word after word and frame after frame."""
    pooled = torch.zeros(len(word_times), features.shape[-1])
    covered = []
    for w, (start, end) in enumerate(word_times.tolist()):
        total = 0.0
        for i in range(n_frames):
            centre = OFFSET + i / RATE
            first = max(start, centre - 0.5 / RATE)
            last = min(end, centre + 0.5 / RATE)
            overlap = max(0.0, last - first)
            pooled[w] += overlap * features[i]
            total += overlap
        covered.append(total > 0)
        pooled[w] /= total or 1.0
    return pooled, torch.tensor(covered)


def test_it_equals_a_loop_over_words_and_frames():
    features = torch.randn(3, 40, 6)
    word_times = 0.85 * torch.rand(3, 7, 2).sort(-1).values
    word_times[:, 5:] = torch.tensor([2.0, 2.4])  # after the last frame
    n_frames = [40, 20, 31]
    pooled, covered = word_average_pooling(
        features, word_times, RATE, OFFSET, torch.tensor(n_frames) / 40
    )
    for item, n in enumerate(n_frames):
        expected, has_frames = naive_pooling(
            features[item], word_times[item], n
        )
        torch.testing.assert_close(pooled[item], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(covered[item], has_frames)


def test_a_batch_equals_its_items_whatever_stands_in_the_padding():
    features = torch.randn(2, 30, 4)
    features[1, 18:] = torch.nan
    word_times = torch.tensor([[[0.05, 0.2], [0.3, 0.6]]] * 2)
    pooled, covered = word_average_pooling(
        features, word_times, RATE, OFFSET, torch.tensor([1.0, 0.6])
    )
    alone, alone_covered = word_average_pooling(
        features[1:, :18], word_times[1:], RATE, OFFSET
    )
    torch.testing.assert_close(pooled[1:], alone)
    assert torch.equal(covered[1:], alone_covered)


def test_a_word_shorter_than_a_frame_gets_the_frame():
    features = torch.randn(1, 10, 4)
    pooled, covered = word_average_pooling(
        features, torch.tensor([[[0.052, 0.056]]]), RATE, OFFSET
    )
    torch.testing.assert_close(pooled[0, 0], features[0, 2])
    assert covered.all()


def test_a_frame_on_a_border_counts_for_both_words_by_its_share():
    features = torch.tensor([[[0.0], [1.0]]])
    word_times = torch.tensor([[[0.0, 0.035], [0.035, 0.04]]])
    pooled, _ = word_average_pooling(features, word_times, RATE, 0.01)
    assert pooled.squeeze().tolist() == pytest.approx([15 / 35, 1.0])


def test_padding_words_and_words_without_frames_give_zeros():
    word_times = torch.tensor([[[0.1, 0.1], [0.0, 0.0], [3.0, 3.2]]])
    pooled, covered = word_average_pooling(
        torch.randn(1, 10, 4), word_times, RATE, OFFSET
    )
    assert torch.equal(pooled, torch.zeros(1, 3, 4))
    assert not covered.any()


def test_words_on_frame_borders_do_not_leak_into_each_other():
    """0.02 * i is not exact in floating point."""
    features = torch.eye(100)[None]
    borders = torch.arange(101) / RATE
    word_times = torch.stack([borders[:-1], borders[1:]], -1)[None]
    pooled, _ = word_average_pooling(features, word_times, RATE, 0.01)
    assert torch.equal(pooled > 0, features > 0)
    torch.testing.assert_close(pooled, features)


def test_gradients_reach_the_frames_of_words_only():
    features = torch.randn(1, 10, 4, requires_grad=True)
    pooled, _ = word_average_pooling(
        features, torch.tensor([[[0.04, 0.08]]]), RATE, 0.01
    )
    pooled.sum().backward()
    reached = features.grad.abs().sum(-1)[0] > 0
    assert reached.nonzero().flatten().tolist() == [2, 3]
