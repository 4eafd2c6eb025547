"""Caches of emotion features know who made them and survive being killed."""

import os
import pickle

from speechbrain_emofilm.dataio.feature_cache import (
    EmotionFeatureCache,
    extractor_identity,
    merge_parts,
    stored_features,
    write_part,
)
from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
)
from speechbrain_emofilm.utils.sharding import parts_folder

import pytest
import torch

SPEAKERS = {"a1": "0011", "a2": "0011", "b1": "0012"}


def identity(model="wavlm", normalize=True, **config):
    return extractor_identity(
        FrameFeatureExtractor(
            model, "3f2a", config, 3, 400, speaker_normalization=normalize
        )
    )


def frames(seed, n_frames):
    generator = torch.Generator().manual_seed(seed)
    return 5 + 2 * torch.randn(n_frames, 3, generator=generator)


@pytest.fixture
def features():
    return {"a1": frames(1, 40), "a2": frames(2, 7), "b1": frames(3, 20)}


@pytest.fixture
def path(tmp_path, features):
    path = tmp_path / "features.hdf5"
    sizes = dict.fromkeys(features, 100)
    first = {name: features[name] for name in ("a1", "b1")}
    write_part(path, identity(), first, sizes)
    write_part(path, identity(), {"a2": features["a2"]}, sizes, {"c": "bad."})
    assert merge_parts(path, identity(), [*features, "c"]) == {"c": "bad."}
    return path


def test_frames_are_read_as_they_were_written(path, features):
    with EmotionFeatureCache(path, identity()) as cache:
        assert sorted(cache) == sorted(features)
        assert (cache.dim, cache.frame_rate) == (3, 50.0)
        for name, values in features.items():
            assert cache[name].dtype == torch.float32
            torch.testing.assert_close(
                cache[name], values, atol=1e-2, rtol=1e-3
            )


def test_frames_are_normalised_by_their_speaker(path, features):
    with EmotionFeatureCache(path, identity(), SPEAKERS) as cache:
        for names in (("a1", "a2"), ("b1",)):
            read = torch.cat([cache[name] for name in names])
            assert read.mean(0).abs().max() < 1e-3
            assert (read.std(0, correction=0) - 1).abs().max() < 1e-3


def test_extractor_decides_whether_frames_are_normalised(tmp_path, features):
    path = tmp_path / "plain.hdf5"
    plain = identity(normalize=False)
    write_part(path, plain, features, dict.fromkeys(features, 1))
    merge_parts(path, plain, features)
    with EmotionFeatureCache(path, plain, SPEAKERS) as cache:
        assert cache["a1"].mean() > 4


def test_a_value_that_never_changes_is_no_division_by_zero(tmp_path):
    path = tmp_path / "constant.hdf5"
    write_part(path, identity(), {"a1": torch.ones(9, 3)}, {"a1": 1})
    merge_parts(path, identity(), ["a1"])
    with EmotionFeatureCache(path, identity(), SPEAKERS) as cache:
        assert (cache["a1"] == 0).all()


def test_utterance_of_an_unknown_speaker_is_named(path):
    with EmotionFeatureCache(path, identity(), {"a1": "0011"}) as cache:
        with pytest.raises(ValueError, match="b1 has no speaker"):
            cache["b1"]


def test_missing_utterances_are_named_with_their_reason(path):
    with EmotionFeatureCache(path, identity()) as cache:
        with pytest.raises(ValueError, match="no features of c: bad."):
            cache["c"]
        with pytest.raises(ValueError, match="extract_features.py again"):
            cache["d"]


@pytest.mark.parametrize(
    "other, key",
    [
        (identity(model="emotion2vec"), "model is wavlm"),
        (identity(layer=3), "config_hash is"),
        ({**identity(), "revision": "77"}, "revision is 3f2a.*has 77"),
    ],
)
def test_cache_of_another_extractor_is_an_error(path, other, key):
    with pytest.raises(ValueError, match=f"features.hdf5 holds.*{key}.*Delete"):
        EmotionFeatureCache(path, other)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_cache_is_an_error_with_file_and_fix(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(
        ValueError, match="features.hdf5 is truncated.*delete it and make it"
    ):
        EmotionFeatureCache(path)


def test_other_hdf5_is_an_error(tmp_path):
    import h5py

    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["tokens"] = [1, 2]
    with pytest.raises(ValueError, match="not a cache of emotion features"):
        EmotionFeatureCache(tmp_path / "x.hdf5")


def test_missing_cache_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="extract_features.py"):
        EmotionFeatureCache(tmp_path / "none.hdf5")


def test_damaged_part_is_made_again_and_the_others_stay(tmp_path, features):
    path = tmp_path / "features.hdf5"
    sizes = dict.fromkeys(features, 1)
    write_part(path, identity(), {"a1": features["a1"]}, sizes)
    (whole,) = parts_folder(path).iterdir()
    damaged = parts_folder(path) / "0000.hdf5"
    damaged.write_bytes(whole.read_bytes()[:300])
    assert list(stored_features(path, identity()).files) == ["a1"]
    assert list(parts_folder(path).iterdir()) == [whole]


def test_of_two_parts_with_an_utterance_the_newer_counts(tmp_path):
    path = tmp_path / "features.hdf5"
    write_part(path, identity(), {"a1": torch.zeros(2, 3)}, {"a1": 1})
    (older,) = parts_folder(path).iterdir()
    os.utime(older, (1, 1))
    newer = {"a1": torch.ones(2, 3), "a2": torch.ones(2, 3)}
    write_part(path, identity(), newer, {"a1": 2, "a2": 2})
    assert stored_features(path, identity()).wav_bytes["a1"] == 2
    merge_parts(path, identity(), ["a1"])
    with EmotionFeatureCache(path) as cache:
        assert list(cache) == ["a1"]
        assert (cache["a1"] == 1).all()


def test_loaders_can_copy_it_to_their_workers(path):
    with EmotionFeatureCache(path, identity(), SPEAKERS) as cache:
        here = cache["a1"]
        with pickle.loads(pickle.dumps(cache)) as there:
            assert torch.equal(there["a1"], here)


def test_same_frames_make_the_same_file(tmp_path, features):
    sizes = dict.fromkeys(features, 1)
    files = []
    for order in (list(features), list(features)[::-1]):
        path = tmp_path / f"{order[0]}.hdf5"
        for name in order:
            write_part(path, identity(), {name: features[name]}, sizes)
        merge_parts(path, identity(), features)
        files.append(path.read_bytes())
    assert files[0] == files[1]
