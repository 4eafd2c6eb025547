"""Share an extraction between processes, and resume it after a kill.

Each process writes its results to small files, the parts, in the folder
``<cache>.parts``. A part is either whole or absent, whenever a process is
killed. When all processes have finished, the main process merges the parts
into the cache and removes the folder. Until then, any number of processes can
resume the work: what the cache and its parts hold is not computed again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from speechbrain_emofilm.utils.files import atomic_path

from speechbrain.utils.distributed import ddp_barrier, run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

PathLike = str | Path
Item = TypeVar("Item")
Content = TypeVar("Content")
Result = TypeVar("Result")


def extract_in_shares(
    find_pending: Callable[[], Sequence[Item]],
    extract: Callable[[Sequence[Item]], None],
    merge: Callable[[], Result],
) -> Result:
    """Extract what is missing, with each process taking its share.

    Arguments
    ---------
    find_pending : callable
        Lists the items that neither the cache nor its parts hold; called by
        the main process.
    extract : callable
        Processes a share of these items and writes its results with
        :func:`write_part`; called by every process.
    merge : callable
        Merges the parts into the cache; called by the main process at the
        end.

    Returns
    -------
    object
        The result of ``merge``, in every process.

    Example
    -------
    >>> done = []
    >>> extract_in_shares(lambda: [3, 1], done.extend, lambda: sorted(done))
    [1, 3]
    """
    pending = run_on_main(find_pending)
    rank = int(os.environ.get("RANK", 0))
    extract(pending[rank :: int(os.environ.get("WORLD_SIZE", 1))])
    ddp_barrier()
    return run_on_main(merge)


def parts_folder(path: PathLike) -> Path:
    """Return the folder of a cache's parts.

    Example
    -------
    >>> parts_folder("prepared/features.hdf5").as_posix()
    'prepared/features.hdf5.parts'
    """
    return Path(f"{path}.parts")


def write_part(
    path: PathLike,
    names: Iterable[str],
    write: Callable[[Path], None],
) -> None:
    """Write a part of a cache.

    A part with the same names is replaced.

    Arguments
    ---------
    path : str or Path
        The cache.
    names : iterable of str
        Names of the items in the part.
    write : callable
        Writes the part to the path that it is given.

    Example
    -------
    >>> cache = getfixture("tmp_path") / "lengths.txt"
    >>> write_part(cache, ["a"], lambda path: path.write_text("a 3"))
    >>> [text for _, text in read_with_parts(cache, Path.read_text)]
    ['a 3']
    """
    joined = "\n".join(sorted(names))
    name = hashlib.sha256(joined.encode()).hexdigest()[:16]
    part = parts_folder(path) / f"{name}{Path(path).suffix}"
    with atomic_path(part) as temporary:
        write(temporary)


def read_with_parts(
    path: PathLike, read: Callable[[Path], Content]
) -> Iterator[tuple[Path, Content]]:
    """Read a cache, if it exists, and then its parts, the oldest first.

    The last of several results for one item is therefore the current one. A
    part that cannot be read is removed, so that it is made again.

    Arguments
    ---------
    path : str or Path
        The cache.
    read : callable
        Reads one file, and raises ValueError if it is damaged.

    Yields
    ------
    file : Path
        The cache or a part.
    content : object
        The content, as ``read`` returns it.

    Raises
    ------
    ValueError
        If the cache itself cannot be read.
    """
    path = Path(path)
    if path.is_file():
        yield path, read(path)
    for part in list_parts(path):
        try:
            content = read(part)
        except ValueError as error:
            logger.warning("%s It is removed and made again.", error)
            part.unlink()
            continue
        yield part, content


def list_parts(path: PathLike) -> list[Path]:
    """List the parts of a cache, the oldest first."""
    return sorted(
        parts_folder(path).glob(f"[!.]*{Path(path).suffix}"),
        key=lambda part: part.stat().st_mtime_ns,
    )


def remove_parts(path: PathLike) -> None:
    """Remove the parts of a cache that has been merged."""
    shutil.rmtree(parts_folder(path), ignore_errors=True)
