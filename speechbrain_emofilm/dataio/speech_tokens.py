"""Speech tokens of a corpus in one safetensors file.

The file holds an int16 tensor (S,) for each utterance id. Its header holds
the fingerprint of the tokenizer, the size of each wav when it was read, and
the utterances that could not be read.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_emofilm.utils import sharding
from speechbrain_emofilm.utils.files import atomic_path

import safetensors
import safetensors.torch
import torch

PathLike = str | Path
REMEDY = "make it with extract_speech_tokens.py"


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
    """Write a token cache atomically.

    Arguments
    ---------
    path : str or Path
        The file to write.
    cache : SpeechTokenCache
        The content of the file.

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
    """Read a token cache.

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
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: {REMEDY}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tokens = {
                name: file.get_tensor(name).long() for name in file.keys()
            }
        wav_bytes, skipped = (
            json.loads(header.get(name, "{}"))
            for name in ("wav_bytes", "skipped")
        )
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it and {REMEDY}."
        ) from error
    if not {"tokenizer", "wav_bytes", "skipped"} <= header.keys():
        raise ValueError(
            f"{path} is not a cache of speech tokens: give another path, or "
            f"delete it and {REMEDY}."
        )
    if tokenizer is not None:
        _check_tokenizer(path, header["tokenizer"], tokenizer)
    return SpeechTokenCache(header["tokenizer"], tokens, wav_bytes, skipped)


def write_part(path: PathLike, cache: SpeechTokenCache) -> None:
    """Write the tokens of some utterances as a part of a cache.

    Arguments
    ---------
    path : str or Path
        The cache's file.
    cache : SpeechTokenCache
        The content of the part.
    """
    sharding.write_part(
        path,
        {**cache.tokens, **cache.skipped},
        lambda part: write_speech_tokens(part, cache),
    )


def stored_tokens(path: PathLike, tokenizer: str) -> SpeechTokenCache:
    """Read the results of an interrupted or finished extraction.

    Arguments
    ---------
    path : str or Path
        The cache's file; neither it nor a part need exist.
    tokenizer : str
        Fingerprint of the tokenizer in use.

    Returns
    -------
    SpeechTokenCache
        The union of the cache and its parts. Utterances that the cache
        itself skips are not listed: the next run tries again.

    Raises
    ------
    ValueError
        If the cache is damaged, or made by another tokenizer.
    """
    stored = SpeechTokenCache(tokenizer)
    for file, cache in sharding.read_with_parts(path, read_speech_tokens):
        _check_tokenizer(path, cache.tokenizer, tokenizer)
        stored.tokens.update(cache.tokens)
        stored.wav_bytes.update(cache.wav_bytes)
        for utterance in cache.tokens:
            stored.skipped.pop(utterance, None)
        if file != Path(path):
            stored.skipped.update(cache.skipped)
            for utterance in cache.skipped:
                stored.tokens.pop(utterance, None)
    return stored


def merge_parts(
    path: PathLike, tokenizer: str, utterances: Collection[str]
) -> SpeechTokenCache:
    """Merge the parts of a cache into it.

    Arguments
    ---------
    path : str or Path
        The cache's file.
    tokenizer : str
        Fingerprint of the tokenizer in use.
    utterances : collection of str
        Utterances to keep.

    Returns
    -------
    SpeechTokenCache
        The content of the merged cache.
    """
    stored = stored_tokens(path, tokenizer)

    def kept(mapping: Mapping) -> dict:
        return {n: mapping[n] for n in sorted(mapping) if n in utterances}

    merged = SpeechTokenCache(
        tokenizer,
        kept(stored.tokens),
        kept(stored.wav_bytes),
        kept(stored.skipped),
    )
    if sharding.list_parts(path) or len(merged.tokens) < len(stored.tokens):
        write_speech_tokens(path, merged)
    sharding.remove_parts(path)
    return merged


def _check_tokenizer(path, made_by, in_use):
    """Raise ValueError if the tokens come from another tokenizer."""
    if made_by != in_use:
        raise ValueError(
            f"{path} holds tokens of the speech tokenizer {made_by}, but this "
            f"backbone's is {in_use}: delete the file and its parts and "
            f"{REMEDY}, or give the path of a cache of this tokenizer."
        )
