"""extract_features.py: killed, shared out, or given bad wavs, loses nothing."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from speechbrain_emofilm.dataio.feature_cache import EmotionFeatureCache
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.sharding import parts_folder

import numpy as np
import pytest
import soundfile
from tiny_world import REPOSITORY, run_script

HERE = Path(__file__).parent
RECIPE = REPOSITORY / "recipes" / "ESD" / "word_emotion_labeling"
HPARAMS = RECIPE / "hparams" / "extract_features.yaml"
N_UTTERANCES = 24


@pytest.fixture
def corpus(tmp_path):
    """Wavs of noise, each of another length, and their manifest."""
    generator = np.random.default_rng(0)
    manifest = {}
    for number in range(N_UTTERANCES):
        seconds = 0.3 + 0.02 * number
        write_wav(
            tmp_path / f"{number:02d}.wav",
            generator.normal(0, 0.1, round(16000 * seconds)),
        )
        manifest[f"0011_{number:06d}"] = {
            "wav": f"{{data_root}}/{number:02d}.wav",
            "duration": seconds,
        }
    for split in ("train", "valid", "test"):
        write_json(tmp_path / f"{split}.json", {})
    write_json(tmp_path / "train.json", manifest)
    return tmp_path


def write_wav(path, samples, sample_rate=16000, subtype="PCM_16"):
    soundfile.write(path, samples, sample_rate, subtype=subtype)


def flags(
    corpus,
    cache="features.hdf5",
    pause=0.0,
    revision="1",
    limit="null",
    **options,
):
    """Command-line options of the script."""
    options = {
        "emotion_features": f"!new:toy_features.ToyFeatures [{pause}, "
        f"'{revision}', {limit}]",
        "data_folder": corpus,
        "prepared_folder": corpus,
        "feature_cache": corpus / cache,
        "skip_prep": True,
        "max_batch_length": 1,
        "device": "cpu",
        **options,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def extract(*args, **options):
    """Runs the script in this process."""
    run_script(RECIPE / "extract_features.py", flags(*args, **options), HPARAMS)


def start(corpus, *args, launcher=(sys.executable,), **options):
    """Runs the script in a process of its own.

    Not a fork of this one: tqdm's lock is shared by forked processes, and one
    that is killed while it holds the lock stops all others for ever.
    """
    return subprocess.Popen(
        [*launcher, "extract_features.py", str(HPARAMS)]
        + flags(corpus, *args, **options),
        cwd=RECIPE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{HERE}"},
    )


def extract_and_kill(n_parts, delay, corpus, **options):
    """Runs the script in a process that is killed some seconds after it has
    written so many parts; returns the names of all that there are.

    It stops by itself two parts later, so that however late the kill comes
    on a busy machine, there is work left.
    """
    folder = parts_folder(corpus / "features.hdf5")
    before = set(folder.glob("[!.]*"))
    process = start(corpus, limit=n_parts + 2, **options)
    while process.poll() is None:
        if len(set(folder.glob("[!.]*")) - before) >= n_parts:
            break
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.wait()
    return set(folder.glob("[!.]*"))


def test_killed_at_random_moments_it_ends_like_an_unbroken_run(corpus):
    extract(corpus, "unbroken.hdf5")
    moments = random.Random()
    survived = set()
    for n_parts in (1, 1, 2):
        delay = moments.uniform(0, 0.1)
        parts = extract_and_kill(n_parts, delay, corpus, pause=0.1)
        assert survived < parts
        survived = parts
    extract(corpus)
    unbroken = (corpus / "unbroken.hdf5").read_bytes()
    assert (corpus / "features.hdf5").read_bytes() == unbroken
    assert not parts_folder(corpus / "features.hdf5").exists()
    with EmotionFeatureCache(corpus / "features.hdf5") as cache:
        assert len(cache) == N_UTTERANCES


def test_killed_between_joining_the_parts_and_removing_them(corpus):
    extract(corpus, "unbroken.hdf5")
    extract_and_kill(3, 0, corpus, pause=0.1)
    parts = parts_folder(corpus / "features.hdf5")
    left = {part.name: part.read_bytes() for part in parts.glob("[!.]*")}
    extract(corpus)
    parts.mkdir()
    for name, data in left.items():
        (parts / name).write_bytes(data)
    extract(corpus)
    unbroken = (corpus / "unbroken.hdf5").read_bytes()
    assert (corpus / "features.hdf5").read_bytes() == unbroken
    assert not parts.exists()


def test_processes_share_the_work_and_the_file_is_the_same(
    corpus, warm_python, monkeypatch
):
    extract(corpus, "alone.hdf5")
    launcher = (warm_python, "-m", "torch.distributed.run", "--standalone")
    monkeypatch.setenv("PYTHON_EXEC", warm_python)
    process = start(
        corpus,
        "shared.hdf5",
        launcher=(*launcher, "--nproc_per_node=2"),
        distributed_backend="gloo",
    )
    assert process.wait() == 0
    alone = (corpus / "alone.hdf5").read_bytes()
    assert (corpus / "shared.hdf5").read_bytes() == alone


def test_only_what_is_new_or_changed_is_read_again(corpus, capfd):
    extract(corpus)
    before = (corpus / "features.hdf5").stat().st_mtime_ns
    extract(corpus)
    assert (corpus / "features.hdf5").stat().st_mtime_ns == before
    manifest = read_json(corpus / "train.json")
    changed = next(iter(manifest))
    write_wav(corpus / "00.wav", np.full(5600, 0.25))
    manifest[changed]["duration"] = 0.35
    del manifest[f"0011_{N_UTTERANCES - 1:06d}"]
    write_json(corpus / "train.json", manifest)
    extract(corpus)
    with EmotionFeatureCache(corpus / "features.hdf5") as cache:
        assert set(cache) == set(manifest)
        assert cache[changed].mean() == 0.25


def spoil(corpus):
    """Spoils wavs, each in another way; id to what the message says."""

    def wav(number):
        return corpus / f"{number:02d}.wav"

    (wav(0)).write_bytes(b"")
    wav(1).write_bytes(b"no audio")
    wav(2).unlink()
    write_wav(wav(3), np.zeros(round(16000 * 0.36)))
    nan = np.full(round(16000 * 0.38), 0.1)
    nan[100] = np.nan
    write_wav(wav(4), nan, subtype="FLOAT")
    write_wav(wav(5), np.full(1000, 0.1))
    data = wav(6).read_bytes()
    wav(6).write_bytes(data[: len(data) // 2])
    write_wav(wav(7), np.full(200, 0.1))
    manifest = read_json(corpus / "train.json")
    manifest["0011_000007"]["duration"] = 0.0125
    write_json(corpus / "train.json", manifest)
    reasons = [
        "the file is empty",
        "not an audio file",
        "no such audio file",
        "nothing but silence",
        "NaN or infinite",
        "by the manifest",
        "truncated",
        "shorter than",
    ]
    return {f"0011_{n:06d}": reason for n, reason in enumerate(reasons)}


def test_bad_wavs_are_counted_and_listed(corpus):
    bad = spoil(corpus)
    extract(corpus, max_bad_share=0.5)
    listed = read_json(corpus / "emotion_features_skipped.json")
    assert set(listed) == set(bad)
    for name, reason in bad.items():
        assert reason in listed[name]
        assert f"{int(name[-2:]):02d}.wav" in listed[name]
    with EmotionFeatureCache(corpus / "features.hdf5") as cache:
        assert len(cache) == N_UTTERANCES - len(bad)
        with pytest.raises(ValueError, match="0011_000003.*silence"):
            cache["0011_000003"]


def test_too_many_bad_wavs_are_an_error_and_mending_them_is_enough(corpus):
    spoil(corpus)
    with pytest.raises(ValueError, match="8 of 24 utterances.*max_bad_share"):
        extract(corpus)
    generator = np.random.default_rng(0)
    manifest = read_json(corpus / "train.json")
    for number in range(8):
        seconds = 0.3 + 0.02 * number
        write_wav(
            corpus / f"{number:02d}.wav",
            generator.normal(0, 0.1, round(16000 * seconds)),
        )
        manifest[f"0011_{number:06d}"]["duration"] = seconds
    write_json(corpus / "train.json", manifest)
    extract(corpus)
    assert read_json(corpus / "emotion_features_skipped.json") == {}


def test_stereo_and_other_sample_rates_are_read(corpus):
    seconds = 0.3
    stereo = np.stack([np.full(round(48000 * seconds), 0.1)] * 2, axis=1)
    write_wav(corpus / "00.wav", stereo, 48000)
    write_wav(corpus / "01.wav", np.full(round(8000 * 0.32), 0.1), 8000)
    extract(corpus)
    with EmotionFeatureCache(corpus / "features.hdf5") as cache:
        assert cache["0011_000000"].shape == (15, 2)
        assert cache["0011_000001"].shape == (16, 2)


def test_cache_of_another_model_is_an_error_before_any_work(corpus):
    extract(corpus)
    before = (corpus / "features.hdf5").read_bytes()
    with pytest.raises(ValueError) as error:
        extract(corpus, revision="2")
    message = str(error.value)
    assert "features.hdf5 holds features of another extractor" in message
    assert "its revision is 1, the one in use has 2" in message
    assert "Delete the file" in message
    assert (corpus / "features.hdf5").read_bytes() == before


def test_parts_of_another_model_are_an_error(corpus):
    extract_and_kill(1, 0, corpus, pause=0.1)
    with pytest.raises(ValueError, match="features of another extractor"):
        extract(corpus, revision="2")
