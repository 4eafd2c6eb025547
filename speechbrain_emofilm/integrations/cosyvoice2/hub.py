"""Files of CosyVoice2-0.5B, from the hub or a local folder.

Only the weights and the tokenizer's files are fetched, not the snapshot's
YAML, which would construct objects. Loaders read only tensors.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from speechbrain_emofilm.utils.downloading import download
from speechbrain_emofilm.utils.files import read_json, write_json

from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.fetching import FetchConfig, fetch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

PathLike = str | Path

REPOSITORY = "FunAudioLLM/CosyVoice2-0.5B"
#: Commit of the files in ``FILES``.
REVISION = "eec1ae6c79877dbd9379285cf8789c9e0879293d"
TOKENIZER_FOLDER = "CosyVoice-BlankEN"
#: Size in bytes and SHA-256 of each required file.
FILES = {
    "llm.pt": (
        2023316821,
        "b144ef55b51ce8cfb79a73c90dbba0bdaba4e451c0ebcfab20f769264f84a608",
    ),
    "flow.pt": (
        450575567,
        "ff4c2f867674411e0a08cee702996df13fa67c1cd864c06108da88d16d088541",
    ),
    "hift.pt": (
        83390254,
        "3386cc880324d4e98e05987b99107f49e40ed925b8ecc87c1f4939432d429879",
    ),
    "speech_tokenizer_v2.onnx": (
        496082973,
        "d43342aa12163a80bf07bffb94c9de2e120a8df2f9917cd2f642e7f4219c6f71",
    ),
    "campplus.onnx": (
        28303423,
        "a6ac6a63997761ae2997373e2ee1c47040854b4b759ea41ec48e4e42df0f4d73",
    ),
    "CosyVoice-BlankEN/config.json": (
        659,
        "168aa1bd401abc3bc262ba15ba4e499627a8b4e006e9d050b47c22de20660185",
    ),
    "CosyVoice-BlankEN/tokenizer_config.json": (
        1287,
        "482bd979881423375ca5414e4e0d94cd7c5349dbb17fffd46b4d36d71e62a1bc",
    ),
    "CosyVoice-BlankEN/vocab.json": (
        2776833,
        "ca10d7e9fb3ed18575dd1e277a2579c16d108e32f27439684afa0e10b1440910",
    ),
    "CosyVoice-BlankEN/merges.txt": (
        1402109,
        "ac8ff86a72bee70828fbc1119bc4398c6f3a9a6e490d7b0dbe917be025478bd0",
    ),
}
#: Tokenizer files that a folder may lack.
OPTIONAL = ("CosyVoice-BlankEN/tokenizer_config.json",)
#: Settings files that identify other CosyVoice models.
OTHER_MODELS = {
    "cosyvoice.yaml": "CosyVoice-1",
    "cosyvoice3.yaml": "CosyVoice-3",
}
#: Files of CosyVoice2 that CosyVoice-1 lacks: early snapshots of CosyVoice2
#: have a ``cosyvoice.yaml``, too.
NOT_IN_COSYVOICE_1 = ("cosyvoice2.yaml", TOKENIZER_FOLDER)
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
#: List of the fetched files that have been verified.
RECEIPT = "verified.json"


def fetch_file(
    name: str,
    source: PathLike = REPOSITORY,
    savedir: PathLike | None = None,
) -> Path:
    """Find one file of CosyVoice2-0.5B, fetching it if necessary.

    A download is called ``<name>.part`` until its size and SHA-256 have been
    verified; an interrupted one is resumed. Files in a local folder may have
    been fine-tuned, so that a size other than the released one's, or another
    content of a tokenizer file (which would silently change the token ids),
    is only a warning. Files of other repositories, fetched by SpeechBrain's
    ``fetch``, are not compared.

    Arguments
    ---------
    name : str
        One of ``FILES``.
    source : str or Path
        Name on the hub, or a folder with a snapshot.
    savedir : str or Path, optional
        Folder for files from the hub; files in the hub's cache are linked.

    Raises
    ------
    FileNotFoundError
        If the folder or the file does not exist.
    ValueError
        If the folder holds another model, the hub cannot be reached, or the
        fetched file is not the released one.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hift.pt").write_bytes(b"weights")
    >>> fetch_file("hift.pt", folder).name
    'hift.pt'
    """
    if _is_local(source):
        return _find_local(Path(source), name)
    if savedir is None:
        raise ValueError(
            f"{name} has to be fetched from the hub ({source}): give the "
            "folder `savedir` for it."
        )
    savedir = Path(savedir)
    (savedir / name).parent.mkdir(parents=True, exist_ok=True)
    return _fetch_from_hub(name, str(source), savedir)


def fetch_tokenizer(
    source: PathLike = REPOSITORY, savedir: PathLike | None = None
) -> Path:
    """Find the folder of the text tokenizer.

    Arguments
    ---------
    source : str or Path
        As in :func:`fetch_file`.
    savedir : str or Path, optional
        As in :func:`fetch_file`.

    Returns
    -------
    Path
        Folder for
        :class:`~speechbrain_emofilm.integrations.cosyvoice2.qwen2_tokenizer.Qwen2TextFrontend`.
    """
    names = [name for name in FILES if name.startswith(TOKENIZER_FOLDER)]
    return fetch_files(names, source, savedir) / TOKENIZER_FOLDER


def fetch_files(
    names: Sequence[str] = tuple(FILES),
    source: PathLike = REPOSITORY,
    savedir: PathLike | None = None,
) -> Path:
    """Find several files, by default all.

    Arguments
    ---------
    names : sequence of str
        Some of ``FILES``.
    source : str or Path
        As in :func:`fetch_file`.
    savedir : str or Path, optional
        As in :func:`fetch_file`.

    Returns
    -------
    Path
        Folder of the files.

    Raises
    ------
    FileNotFoundError or ValueError
        As in :func:`fetch_file`.
    """
    local = _is_local(source)
    for name in names:
        if local and name in OPTIONAL and not (Path(source) / name).is_file():
            continue
        fetch_file(name, source, savedir)
    return Path(source) if local else Path(savedir)


def _is_local(source: PathLike) -> bool:
    """Check whether a source is a folder: any path but ``owner/name``."""
    return Path(source).exists() or not _HUB_NAME.fullmatch(str(source))


def _find_local(folder: Path, name: str) -> Path:
    """Find a file in a folder that holds CosyVoice2."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder: give one with a snapshot of "
            f"CosyVoice2-0.5B, or the hub's name {REPOSITORY}."
        )
    settings = _other_settings(folder)
    if settings is not None:
        raise ValueError(
            f"{folder} holds {OTHER_MODELS[settings]} (it has {settings}), "
            f"whose parts differ: give a snapshot of {REPOSITORY}."
        )
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} has no {name}: give a whole snapshot of {REPOSITORY}."
        )
    _warn_if_changed(folder / name, name)
    return folder / name


def _warn_if_changed(path: Path, name: str) -> None:
    """Warn of a file that is evidently not the released one."""
    size, checksum = FILES[name]
    found = path.stat().st_size
    if found != size:
        difference = f"has {found} bytes, the released file {size}"
    elif name.startswith(TOKENIZER_FOLDER) and _sha256(path) != checksum:
        difference = "has the size of the released file and other content"
    else:
        return
    logger.warning(
        f"{path} {difference}: unless it was fine-tuned, copy it again from "
        f"{REPOSITORY}."
    )


def _other_settings(folder: Path) -> str | None:
    """Return the settings file of another CosyVoice model in a folder."""
    names = [name for name in OTHER_MODELS if (folder / name).is_file()]
    if any((folder / name).exists() for name in NOT_IN_COSYVOICE_1):
        names = [name for name in names if name != "cosyvoice.yaml"]
    return names[0] if names else None


@main_process_only
def _fetch_from_hub(name: str, source: str, savedir: Path) -> Path:
    """Fetch a file of a repository; a released one is verified."""
    path = savedir / name
    try:
        if source == REPOSITORY:
            found = _get_released(name, savedir)
        else:
            found = fetch(name, source, savedir=savedir)
    # Hub, network and disk raise different errors.
    except Exception as error:
        raise ValueError(
            f"{name} of {source} could not be fetched "
            f"({' '.join(str(error).split())}): check the connection and run "
            "the same command again, which resumes the download; or give a "
            "folder with a snapshot as source."
        ) from error
    if source == REPOSITORY:
        _verify(found, name, savedir)
        os.replace(found, path)
    return path


def _get_released(name: str, savedir: Path) -> Path:
    """Find, link or download (as ``.part``) a file of ``REPOSITORY``.

    The hub's own client does not resume downloads in all versions, nor from
    all of the hub's storages.
    """
    path = savedir / name
    if path.exists():
        return path
    cached = try_to_load_from_cache(REPOSITORY, name, revision=REVISION)
    if isinstance(cached, str):
        config = FetchConfig(revision=REVISION)
        return fetch(name, REPOSITORY, savedir=savedir, fetch_config=config)
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    part = path.with_name(f"{path.name}.part")
    url = hf_hub_url(REPOSITORY, name, revision=REVISION)
    download(url, part, FILES[name][0], build_hf_headers())
    return part


def _verify(path: Path, name: str, savedir: Path) -> None:
    """Verify the size and checksum of a file once."""
    size, checksum = FILES[name]
    found = path.stat()
    remedy = f"delete {path.resolve()} and run the same command again"
    if found.st_size != size:
        raise ValueError(
            f"{path} has {found.st_size} bytes instead of {size}: {remedy}."
        )
    receipt = savedir / RECEIPT
    verified = read_json(receipt) if receipt.is_file() else {}
    mark = f"{checksum} {found.st_mtime_ns}"
    if verified.get(name) == mark:
        return
    logger.info("Checking %s", path)
    actual = _sha256(path)
    if actual != checksum:
        raise ValueError(
            f"{path} is not the published file (SHA-256 {actual} instead of "
            f"{checksum}): {remedy}."
        )
    write_json(receipt, {**verified, name: mark})


def _sha256(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
