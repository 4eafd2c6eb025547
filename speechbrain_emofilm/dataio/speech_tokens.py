"""A corpus's speech tokens in one file, with the tokenizer's name on it.

The file is safetensors: one int16 tensor (S,) for each utterance id, and in
its header the fingerprint of the tokenizer that made it, the size of each
wav when it was read, and the utterances that could not be read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_emofilm.utils.files import atomic_path

import safetensors
import safetensors.torch
import torch

PathLike = str | Path


@dataclass
class SpeechTokenCache:
    """Speech tokens of a corpus.

    Arguments
    ---------
    tokenizer : str
        Fingerprint of the tokenizer, see :func:`file_fingerprint`.
    tokens : dict
        Utterance id to its tokens, (S,) long.
    wav_bytes : dict
        Utterance id to the size of its wav, by which a changed wav is
        noticed.
    skipped : dict
        Utterance id to the reason why it has no tokens.
    """

    tokenizer: str
    tokens: dict[str, torch.Tensor] = field(default_factory=dict)
    wav_bytes: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def write_speech_tokens(path: PathLike, cache: SpeechTokenCache) -> None:
    """Writes a token cache; the old one stays until the new one is whole.

    Arguments
    ---------
    path : str or Path
        The file to write.
    cache : SpeechTokenCache
        Its content.

    Example
    -------
    >>> path = getfixture("tmp_path") / "speech_tokens.safetensors"
    >>> cache = SpeechTokenCache("3f2a", {"0011_000351": torch.arange(6)})
    >>> write_speech_tokens(path, cache)
    >>> read_speech_tokens(path, "3f2a").tokens["0011_000351"].shape
    torch.Size([6])
    """
    tensors = {
        utterance: tokens.to(torch.int16).contiguous()
        for utterance, tokens in cache.tokens.items()
    }
    header = {
        "tokenizer": cache.tokenizer,
        "wav_bytes": json.dumps(cache.wav_bytes),
        "skipped": json.dumps(cache.skipped),
    }
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def read_speech_tokens(
    path: PathLike, tokenizer: str | None = None
) -> SpeechTokenCache:
    """Reads a token cache.

    Arguments
    ---------
    path : str or Path
        The file.
    tokenizer : str, optional
        Fingerprint of the tokenizer in use; another one is an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, not a token cache, or of another tokenizer.
    """
    remedy = "make it with extract_speech_tokens.py"
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: {remedy}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tokens = {
                name: file.get_tensor(name).long() for name in file.keys()
            }
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it and {remedy}."
        ) from error
    if not {"tokenizer", "wav_bytes", "skipped"} <= header.keys():
        raise ValueError(
            f"{path} is not a cache of speech tokens: give another path, or "
            f"delete it and {remedy}."
        )
    if tokenizer is not None and header["tokenizer"] != tokenizer:
        raise ValueError(
            f"{path} holds tokens of the speech tokenizer "
            f"{header['tokenizer']}, but this backbone's is {tokenizer}: "
            f"delete the file and {remedy}, or give the path of a cache of "
            "this tokenizer."
        )
    return SpeechTokenCache(
        header["tokenizer"],
        tokens,
        json.loads(header["wav_bytes"]),
        json.loads(header["skipped"]),
    )
