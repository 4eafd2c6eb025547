"""Resumable download of large files."""

import time
from collections.abc import Mapping
from pathlib import Path

import requests
from tqdm import tqdm

_BLOCK = 1 << 16  # bytes
_TIMEOUT = 30  # s without a byte
_PAUSE = 1  # s before another try


def download(
    url: str,
    path: str | Path,
    size: int,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download a file of known size, resuming a partial one.

    The bytes already in ``path`` are kept and only the rest is requested,
    whether this or an earlier process was interrupted. A broken connection
    is reopened as long as each attempt makes progress.

    Arguments
    ---------
    url : str
        Address of the file.
    path : str or Path
        Destination; a partial file stays there if the download fails.
    size : int
        Size of the file in bytes.
    headers : dict, optional
        HTTP headers of the request.

    Raises
    ------
    OSError
        If the file is unavailable, or an attempt makes no progress.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hift.pt.part"
    >>> _ = path.write_bytes(b"weights")
    >>> download("http://127.0.0.1/hift.pt", path, 7)  # already complete
    >>> path.read_bytes()
    b'weights'
    """
    path = Path(path)
    done = path.stat().st_size if path.is_file() else 0
    while done < size:
        before = done
        problem: Exception | None = None
        try:
            _go_on(url, path, done, size, headers or {})
        except requests.RequestException as error:
            problem = error
        done = path.stat().st_size if path.is_file() else 0
        if done <= before:
            raise problem or ConnectionError(
                f"{url} sent {done} of {size} bytes and then nothing: "
                "check the connection and try again."
            )
        if done < size:
            time.sleep(_PAUSE)


def _go_on(
    url: str, path: Path, start: int, size: int, headers: Mapping[str, str]
) -> None:
    """Request the bytes from ``start`` on, once."""
    # A compressed transfer would not match the expected size.
    headers = {**headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(
        url, headers=headers, stream=True, timeout=_TIMEOUT
    ) as response:
        response.raise_for_status()
        if response.status_code != 206:  # the server ignores the range
            start = 0
        with (
            open(path, "ab" if start else "wb") as file,
            tqdm(
                desc=path.name,
                total=size,
                initial=start,
                unit="B",
                unit_scale=True,
            ) as progress,
        ):
            for block in response.iter_content(_BLOCK):
                file.write(block)
                progress.update(len(block))
