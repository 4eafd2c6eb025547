"""Dynamic time warping, against a reference library and known answers."""

from speechbrain_emofilm.metrics.dtw import (
    DISTANCES,
    DynamicTimeWarping,
    contours,
    dtw,
)
from speechbrain_emofilm.processing.prosody import ProsodyTrack, prosody_track

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist


def pairs(seed=0, sizes=((7, 9), (12, 5), (1, 6), (10, 10))):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(n, 3)), rng.normal(size=(m, 3))) for n, m in sizes
    ]


def padded(arrays):
    """Batch (B, T, C) with something wild in the padding, and its lens."""
    longest = max(map(len, arrays))
    batch = torch.full((len(arrays), longest, arrays[0].shape[1]), 1e3)
    for row, array in zip(batch, arrays):
        row[: len(array)] = torch.from_numpy(array)
    lens = torch.tensor([len(array) / longest for array in arrays])
    return batch.double(), lens


@pytest.mark.slow
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_padded_batch_equals_the_reference_library(distance):
    librosa_dtw = pytest.importorskip("librosa").sequence.dtw
    a, b = zip(*pairs())
    # The padding is float32; so are the values that the reference sees.
    (predict, p_lens), (target, t_lens) = padded(a), padded(b)
    out = dtw(predict, target, p_lens, t_lens, distance)
    for index, (n, m) in enumerate(zip(map(len, a), map(len, b))):
        x, y = predict[index, :n].numpy(), target[index, :m].numpy()
        costs, path = librosa_dtw(C=cdist(x, y, distance))
        assert float(out.cost[index]) == pytest.approx(costs[-1, -1])
        assert int(out.path_length[index]) == len(path)


@pytest.mark.parametrize("distance", DISTANCES)
def test_identical_speech_costs_nothing(distance):
    wave = torch.randn(2, 30, 16)
    out = dtw(wave, wave.clone(), distance=distance)
    assert out.cost.tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert out.path_length.tolist() == [30, 30]


def test_slower_speech_costs_nothing():
    wave = torch.randn(1, 10, 4)
    slow = wave.repeat_interleave(2, 1)
    assert float(dtw(wave, slow).cost) == pytest.approx(0, abs=1e-9)


def test_shuffled_words_cost():
    wave = torch.randn(1, 40, 4)
    words = wave.reshape(1, 4, 10, 4)[:, [2, 0, 3, 1]].reshape(1, 40, 4)
    assert float(dtw(wave, words).normalized) > 0.1


def test_a_constant_offset_is_the_normalised_cost():
    wave = torch.zeros(1, 20, 1)
    out = dtw(wave, wave + 3.0, distance="euclidean")
    assert float(out.normalized) == pytest.approx(3.0)
    assert float(out.cost) == pytest.approx(60.0)


def test_unknown_distances_and_empty_utterances_are_refused():
    with pytest.raises(ValueError, match="choose one of cosine"):
        dtw(torch.ones(1, 2, 1), torch.ones(1, 2, 1), distance="city block")
    with pytest.raises(ValueError, match="no frame"):
        dtw(torch.ones(1, 2, 1), torch.ones(1, 0, 1))


def test_nan_is_a_counted_failure():
    wave = torch.randn(2, 6, 3)
    broken = wave.clone()
    broken[0, 3] = torch.nan
    warping = DynamicTimeWarping()
    warping.append(["a", "b"], broken, wave)
    summary = warping.summarize()
    assert summary["failures"] == {"a": "features not finite"}
    assert summary["cosine"]["dtw"] == pytest.approx(0, abs=1e-9)
    assert summary["measured"] == 1


def test_raw_and_normalised_costs_are_reported_with_intervals():
    warping = DynamicTimeWarping(["euclidean"])
    wave = torch.zeros(2, 10, 1)
    offset = torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
    warping.append(["a", "b"], wave, wave + offset)
    figures = warping.summarize("euclidean")
    assert figures["dtw"] == pytest.approx(20.0)
    assert figures["normalized"] == pytest.approx(2.0)
    assert figures["normalized_low"] == pytest.approx(1.0)
    assert figures["normalized_high"] == pytest.approx(3.0)


def tone(hertz, gain=0.1):
    time = np.arange(12000) / 24000
    harmonics = np.arange(1, 8)[:, None]
    return gain * np.sin(2 * np.pi * hertz * harmonics * time).mean(0)


def test_contours_of_an_octave_are_twelve_semitones_apart():
    low = contours(prosody_track(tone(150), 24000))
    high = contours(prosody_track(tone(300), 24000))
    f0 = dtw(low["f0"], high["f0"], distance="euclidean").normalized
    assert float(f0) == pytest.approx(12, abs=0.5)


def test_contours_of_ten_times_the_amplitude_are_20_db_apart():
    soft = contours(prosody_track(tone(150, 0.05), 24000))
    loud = contours(prosody_track(tone(150, 0.5), 24000))
    energy = dtw(soft["energy"], loud["energy"], distance="euclidean")
    assert float(energy.normalized) == pytest.approx(20, abs=0.5)


def test_the_f0_contour_of_a_whisper_is_a_counted_failure():
    unvoiced = np.full(40, np.nan)
    track = ProsodyTrack(unvoiced, *[np.zeros(40)] * 4)
    warping = DynamicTimeWarping(["euclidean"])
    f0 = contours(track)["f0"]
    warping.append(["a"], f0, f0)
    assert warping.summarize()["failures"] == {"a": "features not finite"}
