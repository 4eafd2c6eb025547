"""Atomic writing, JSON files and file fingerprints."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PathLike = str | Path


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary name that becomes ``path`` when the block succeeds.

    If the block raises (a full disk, an interrupt), the temporary file is
    removed and any earlier file at ``path`` stays as it was.

    Arguments
    ---------
    path : str or Path
        Path of the finished file. Missing parent folders are created.

    Yields
    ------
    temporary : Path
        A fresh name in the same folder with the same extension, so that
        writers that choose a format by extension keep working.

    Example
    -------
    >>> tmpdir = getfixture("tmp_path")
    >>> with atomic_path(tmpdir / "out" / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (tmpdir / "out" / "a.txt").read_text()
    'whole'
    >>> [p.name for p in (tmpdir / "out").iterdir()]
    ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        _allow_reading(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _allow_reading(path: Path) -> None:
    """Give a file the permissions that the umask leaves to a new one.

    Some writers (safetensors) go through private temporary files.
    """
    if path.stat().st_mode & 0o777 == 0o600:
        probe = path.with_name(f"{path.name}.mode")
        probe.touch()
        path.chmod(probe.stat().st_mode & 0o777)
        probe.unlink()


def copy_file(source: PathLike, target: PathLike) -> None:
    """Copy a file, whole or not at all.

    Arguments
    ---------
    source : str or Path
        File to copy.
    target : str or Path
        Path of the copy. Missing parent folders are created.

    Example
    -------
    >>> tmpdir = getfixture("tmp_path")
    >>> _ = (tmpdir / "a.txt").write_text("whole")
    >>> copy_file(tmpdir / "a.txt", tmpdir / "out" / "b.txt")
    >>> (tmpdir / "out" / "b.txt").read_text()
    'whole'
    """
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def write_json(path: PathLike, obj: Any) -> None:
    """Write a JSON file (UTF-8, indented) atomically.

    Arguments
    ---------
    path : str or Path
        Where the file goes.
    obj : object
        Anything that JSON can hold; NaN and infinity are refused.

    Raises
    ------
    ValueError
        If a number is NaN or infinite; no file is written.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> write_json(path, {"text": "你好"})
    >>> read_json(path)
    {'text': '你好'}
    """
    with atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(obj, file, ensure_ascii=False, indent=1, allow_nan=False)
            file.write("\n")


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not JSON; the message names the file and the place.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> _ = path.write_text('{"a": [1, 2]}')
    >>> read_json(path)
    {'a': [1, 2]}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; check the path, or make the file first."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # JSON or its encoding
        raise ValueError(
            f"{path}: not a JSON file ({error}); delete it and make it again."
        ) from error


def file_fingerprint(path: PathLike) -> str:
    """Compute the first 16 hexadecimal digits of a file's SHA-256.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tokenizer.safetensors"
    >>> _ = path.write_bytes(b"weights")
    >>> file_fingerprint(path)
    '9a129038d9a00aed'
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: check the path given for it."
        )
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
