"""Large files over connections that break."""

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
    """Download a file of known size, or the rest of it.

    What ``path`` holds is kept and only the bytes behind it are asked for,
    whether it was this process that was cut off or another one that ended. A
    broken connection is opened again as long as each brings something.

    Arguments
    ---------
    url : str
        Where the file is.
    path : str or Path
        Where it goes; half of it stays there if the download ends early.
    size : int
        Its bytes.
    headers : dict, optional
        HTTP headers of the request.

    Raises
    ------
    OSError
        If the file cannot be had, or the connection brings nothing more.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hift.pt.part"
    >>> _ = path.write_bytes(b"weights")
    >>> download("http://127.0.0.1/hift.pt", path, 7)  # it is all there
    """
    path = Path(path)
    done = path.stat().st_size if path.is_file() else 0
    while done < size:
        before, problem = done, None
        try:
            _go_on(url, path, done, size, headers or {})
        except requests.RequestException as error:
            problem = error
        done = path.stat().st_size if path.is_file() else 0
        if done <= before:
            raise problem or ConnectionError(
                f"{url} brought {done} of {size} bytes and then nothing."
            )
        if done < size:
            time.sleep(_PAUSE)


def _go_on(
    url: str, path: Path, start: int, size: int, headers: Mapping[str, str]
) -> None:
    """Ask for the bytes from ``start`` on, once."""
    # Compressed, the bytes would be counted otherwise.
    headers = {**headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(
        url, headers=headers, stream=True, timeout=_TIMEOUT
    ) as response:
        response.raise_for_status()
        if response.status_code != 206:  # all of it comes, whatever was asked
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
