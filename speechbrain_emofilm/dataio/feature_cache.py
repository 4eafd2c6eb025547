"""Emotion features of a corpus in one HDF5 file.

The file holds a float16 dataset (F, D) for each utterance id, with the mean
and the standard deviation of its frames and the size of its wav in bytes. The
file's attributes identify the extractor. During the extraction each batch is
a part of the cache, see :mod:`speechbrain_emofilm.utils.sharding`.
"""

import hashlib
import io
import json
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechbrain_emofilm.utils import sharding
from speechbrain_emofilm.utils.files import atomic_path

import numpy as np
import torch

PathLike = str | Path
REMEDY = "make it with extract_features.py"
#: Smallest standard deviation by which a speaker's frames are divided.
STD_FLOOR = 1e-3


def extractor_identity(extractor: torch.nn.Module) -> dict[str, Any]:
    """Describe the extractor that makes a cache.

    Arguments
    ---------
    extractor : torch.nn.Module
        An extractor of emotion features, see
        :class:`~speechbrain_emofilm.integrations.emotion_features.base.FrameFeatureExtractor`.

    Returns
    -------
    dict
        ``model``, ``revision`` and ``config_hash`` identify it; ``dim``,
        ``frame_rate``, ``frame_offset`` and ``speaker_normalization``
        describe the frames.

    Example
    -------
    >>> from speechbrain_emofilm.integrations.emotion_features.base import (
    ...     FrameFeatureExtractor,
    ... )
    >>> extractor = FrameFeatureExtractor("wavlm", "3f2a", {}, 768, 400)
    >>> identity = extractor_identity(extractor)
    >>> identity["model"], identity["revision"], identity["dim"]
    ('wavlm', '3f2a', 768)
    """
    config = json.dumps(extractor.config, sort_keys=True)
    return {
        "model": extractor.model_name,
        "revision": extractor.revision,
        "config_hash": hashlib.sha256(config.encode()).hexdigest()[:16],
        "dim": extractor.dim,
        "frame_rate": float(extractor.frame_rate),
        "frame_offset": float(extractor.frame_offset),
        "speaker_normalization": bool(extractor.speaker_normalization),
    }


class EmotionFeatureCache:
    """Read a cache of emotion features.

    Arguments
    ---------
    path : str or Path
        The file.
    identity : dict, optional
        Identity of the extractor in use, see :func:`extractor_identity`; a
        cache made by another one is an error.
    speakers : mapping, optional
        Utterance id to speaker. If given and the extractor asks for it,
        frames are normalised to mean 0 and variance 1 over all utterances of
        the speaker that are named here.

    Raises
    ------
    ImportError
        If h5py is missing.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, not a cache, or of another extractor.

    Example
    -------
    >>> path = getfixture("tmp_path") / "features.hdf5"
    >>> identity = {
    ...     "model": "wavlm", "revision": "3f2a", "config_hash": "0",
    ...     "dim": 4, "frame_rate": 50.0, "frame_offset": 0.0125,
    ...     "speaker_normalization": False,
    ... }
    >>> frames = {"0011_000351": torch.ones(7, 4)}
    >>> write_part(path, identity, frames, wav_bytes={"0011_000351": 4524})
    >>> merge_parts(path, identity, frames)
    {}
    >>> with EmotionFeatureCache(path, identity) as cache:
    ...     cache["0011_000351"].shape, cache.frame_rate
    (torch.Size([7, 4]), 50.0)
    """

    def __init__(
        self,
        path: PathLike,
        identity: Mapping[str, Any] | None = None,
        speakers: Mapping[str, str] | None = None,
    ):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist: {REMEDY}.")
        self.path = Path(path)
        self._file = None
        self.identity, self.skipped = read_header(path)
        if identity is not None:
            _check_identity(path, self.identity, identity)
        self.dim = self.identity["dim"]
        self.frame_rate = self.identity["frame_rate"]
        self.frame_offset = self.identity["frame_offset"]
        self._speakers, self._statistics = {}, {}
        if speakers is not None and self.identity["speaker_normalization"]:
            self._speakers = dict(speakers)
            self._statistics = self.speaker_statistics(speakers)
            self.close()  # a loader's workers open it themselves

    @property
    def _features(self):
        """Return the datasets; the file is opened at first use."""
        if self._file is None:
            self._file = _open(self.path)
        with _intact(self.path):
            return self._file["features"]

    def __getstate__(self):
        return {**self.__dict__, "_file": None}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __len__(self):
        return len(self._features)

    def __contains__(self, utterance):
        with _intact(self.path):
            return utterance in self._features

    def __iter__(self):
        with _intact(self.path):
            return iter(list(self._features))

    def __getitem__(self, utterance: str) -> torch.Tensor:
        """Read the frames (F, D) of an utterance, float32."""
        with _intact(self.path):
            frames = torch.from_numpy(self._dataset(utterance)[:]).float()
        if self._statistics:
            mean, std = self._statistics[self._speaker(utterance)]
            frames = (frames - mean) / std
        return frames

    def _dataset(self, utterance):
        if utterance not in self:
            reason = self.skipped.get(utterance, f"{REMEDY} again.")
            raise ValueError(
                f"{self.path} has no features of {utterance}: {reason}"
            )
        return self._features[utterance]

    def _speaker(self, utterance):
        if utterance not in self._speakers:
            raise ValueError(
                f"{utterance} has no speaker among those given, whose "
                f"statistics normalise the features of {self.path}: give "
                "`speakers` for all utterances."
            )
        return self._speakers[utterance]

    def speaker_statistics(
        self, speakers: Mapping[str, str]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Compute the mean and standard deviation of each speaker's frames.

        Arguments
        ---------
        speakers : mapping
            Utterance id to speaker; utterances without features are left
            out.

        Returns
        -------
        dict
            Speaker to the mean (D,) and the standard deviation (D,).
        """
        sums = {}
        for utterance, speaker in speakers.items():
            if utterance not in self:
                continue
            with _intact(self.path):
                data = self._features[utterance]
                mean, std = data.attrs["mean"], data.attrs["std"]
            moments = np.stack([np.ones_like(mean), mean, std**2 + mean**2])
            sums[speaker] = sums.get(speaker, 0) + len(data) * moments
        statistics = {}
        for speaker, (count, first, second) in sums.items():
            mean = first / count
            std = np.sqrt(np.maximum(second / count - mean**2, 0))
            statistics[speaker] = (
                torch.from_numpy(mean).float(),
                torch.from_numpy(np.maximum(std, STD_FLOOR)).float(),
            )
        return statistics

    def wav_bytes(self) -> dict[str, int]:
        """Return the size in bytes of each utterance's wav."""
        with _intact(self.path):
            return {
                utterance: int(data.attrs["wav_bytes"])
                for utterance, data in self._features.items()
            }


def write_part(
    path: PathLike,
    identity: Mapping[str, Any],
    features: Mapping[str, torch.Tensor],
    wav_bytes: Mapping[str, int],
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write the features of a batch of utterances as a part of a cache.

    Arguments
    ---------
    path : str or Path
        The cache.
    identity : mapping
        Identity of the extractor, see :func:`extractor_identity`.
    features : mapping
        Utterance id to frames (F, D).
    wav_bytes : mapping
        Utterance id to the size of its wav, by which a changed wav is
        noticed.
    skipped : mapping, optional
        Utterances of the batch without features, with the reasons.
    """
    skipped = skipped or {}

    def write(part):
        with _create(part, identity, skipped) as file:
            group = file.create_group("features")
            for utterance in sorted(features):
                frames = features[utterance].float().cpu().numpy()
                stored = frames.astype(np.float16)
                data = group.create_dataset(utterance, data=stored)
                # Statistics of the frames as they will be read
                data.attrs["mean"] = stored.mean(0, dtype=np.float64)
                data.attrs["std"] = stored.std(0, dtype=np.float64)
                data.attrs["wav_bytes"] = wav_bytes[utterance]

    sharding.write_part(path, {**features, **skipped}, write)


@dataclass
class StoredFeatures:
    """Content of a cache and its parts.

    Arguments
    ---------
    files : dict
        Utterance id to the file that holds its frames.
    wav_bytes : dict
        Utterance id to the size of its wav.
    skipped : dict
        Utterance id to the reason why a part has no frames of it. Utterances
        that the cache itself skips are not listed: the next run tries again.
    """

    files: dict[str, Path] = field(default_factory=dict)
    wav_bytes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def stored_features(
    path: PathLike, identity: Mapping[str, Any]
) -> StoredFeatures:
    """Find the results of an interrupted or finished extraction.

    A part that cannot be read is removed: its batch is computed again.

    Arguments
    ---------
    path : str or Path
        The cache; neither it nor a part need exist.
    identity : mapping
        Identity of the extractor in use, see :func:`extractor_identity`.

    Raises
    ------
    ValueError
        If the cache is damaged, or made by another extractor.
    """
    stored = StoredFeatures()
    for file, cache in sharding.read_with_parts(path, EmotionFeatureCache):
        _check_identity(path, cache.identity, identity)
        with cache:
            sizes = cache.wav_bytes()
        stored.files.update(dict.fromkeys(sizes, file))
        stored.wav_bytes.update(sizes)
        if file != Path(path):
            stored.skipped.update(cache.skipped)
    return stored


def merge_parts(
    path: PathLike,
    identity: Mapping[str, Any],
    utterances: Collection[str],
) -> dict[str, str]:
    """Merge the parts of a cache into it.

    Arguments
    ---------
    path : str or Path
        The cache.
    identity : mapping
        Identity of the extractor, see :func:`extractor_identity`.
    utterances : collection of str
        Utterances to keep.

    Returns
    -------
    dict
        Utterance id to the reason why it has no features.
    """
    if Path(path).is_file() and not sharding.parts_folder(path).is_dir():
        return {}  # nothing is new
    stored = stored_features(path, identity)
    skipped = {
        utterance: reason
        for utterance, reason in stored.skipped.items()
        if utterance in utterances
    }
    kept = sorted(set(utterances) & stored.files.keys() - skipped.keys())
    opened = {}
    try:
        with (
            atomic_path(path) as temporary,
            _create(temporary, identity, skipped) as merged,
        ):
            group = merged.create_group("features")
            for utterance in kept:
                source = stored.files[utterance]
                if source not in opened:
                    opened[source] = _open(source)
                opened[source].copy(f"features/{utterance}", group)
    finally:
        for file in opened.values():
            file.close()
    sharding.remove_parts(path)
    return skipped


def read_header(path: PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the header of a cache.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    identity : dict
        Identity of the extractor.
    skipped : dict
        Utterance id to the reason why it has no features.

    Raises
    ------
    ValueError
        If the file is damaged or not a cache.
    """
    with _open(path) as file, _intact(path):
        if "identity" not in file.attrs or "features" not in file:
            raise ValueError(
                f"{path} is not a cache of emotion features: give another "
                f"path, or delete it and {REMEDY}."
            )
        return (
            json.loads(file.attrs["identity"]),
            json.loads(file["skipped"][()]),
        )


def _check_identity(path, made_by, in_use):
    """Raise ValueError if the features come from another extractor."""
    for key in ("model", "revision", "config_hash"):
        if made_by[key] != in_use[key]:
            names = [
                " ".join(
                    str(who[k]) for k in ("model", "revision", "config_hash")
                )
                for who in (made_by, in_use)
            ]
            raise ValueError(
                f"{path} holds features of another extractor: its {key} is "
                f"{made_by[key]}, the one in use has {in_use[key]} "
                f"({names[0]} / {names[1]}). Delete the file and its parts "
                f"and {REMEDY}, or give the path of this extractor's cache."
            )


def _h5py():
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "Caches of emotion features need the package h5py: "
            "pip install h5py."
        ) from error
    return h5py


def _open(path):
    """Open for reading; raise ValueError if the file is damaged."""
    try:
        return _h5py().File(path, "r")
    except OSError as error:  # h5py's error for any damage
        raise ValueError(
            f"{path} is truncated or no HDF5 file ({error}): delete it and "
            f"{REMEDY}."
        ) from error


@contextmanager
def _intact(path):
    """Raise ValueError for what h5py and JSON raise if a file is damaged."""
    try:
        yield
    except (KeyError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete it and {REMEDY}."
        ) from error


@contextmanager
def _create(path, identity, skipped):
    """Open a new cache for writing; raise OSError if the disk is full."""
    with _FailingLate(path) as target:
        with _h5py().File(target, "w") as file:
            file.attrs["identity"] = json.dumps(dict(identity), sort_keys=True)
            file["skipped"] = json.dumps(dict(skipped), sort_keys=True)
            yield file
    if target.error is not None:
        raise target.error


class _FailingLate(io.FileIO):
    """A file that keeps the first error of writing for its user to raise.

    HDF5 ends the process if a write fails while it closes a file, so it is
    told that all writes succeed.
    """

    def __init__(self, path):
        super().__init__(path, "w+")
        self.error = None

    def write(self, data):
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size=None):
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size
