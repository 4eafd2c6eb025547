"""Voices to clone: speaker vectors and prompts in one safetensors file.

The file holds ``<name>.xvector`` (D,), ``<name>.prompt_tokens`` (P,) and
``<name>.prompt_mel`` (2P, mels) for each voice. Its header holds the transcript
of each voice's recording, and its source: the recording and the models that it
was made with.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.utils import sharding
from speechbrain_emofilm.utils.assets import load_tensors
from speechbrain_emofilm.utils.files import atomic_path

import safetensors
import safetensors.torch
import torch

PathLike = str | Path

_PARTS = ("xvector", "prompt_tokens", "prompt_mel")


@dataclass(frozen=True)
class Voice:
    """Speaker vector and prompt of a reference recording.

    Arguments
    ---------
    xvector : torch.Tensor
        Speaker vector (D,).
    prompt_tokens : torch.Tensor
        Speech tokens of the recording (P,), long.
    prompt_mel : torch.Tensor
        Its log-mel (2P, mels).
    source : dict, optional
        The recording and models it was made with, str to str, by which an
        outdated voice is noticed.
    transcript : str, optional
        Words of the recording, with which it prompts a language model.

    Raises
    ------
    ValueError
        If there are not two mel frames per token.
    """

    xvector: torch.Tensor
    prompt_tokens: torch.Tensor
    prompt_mel: torch.Tensor
    source: Mapping[str, str] | None = None
    transcript: str | None = None

    def __post_init__(self):
        if len(self.prompt_mel) != 2 * len(self.prompt_tokens):
            raise ValueError(
                f"A voice has {len(self.prompt_tokens)} speech tokens and "
                f"{len(self.prompt_mel)} mel frames: cut both to two frames "
                "per token."
            )

    @classmethod
    def cut(
        cls,
        xvector: torch.Tensor,
        tokens: torch.Tensor,
        mel: torch.Tensor,
        source: Mapping[str, str] | None = None,
        transcript: str | None = None,
    ) -> "Voice":
        """Make a voice from tokens and a mel, cut to the same duration.

        Arguments
        ---------
        xvector : torch.Tensor
            Speaker vector (D,).
        tokens : torch.Tensor
            Speech tokens (S,).
        mel : torch.Tensor
            Log-mel (N, mels) of the same recording.
        source : dict, optional
            The recording and models it is made with.
        transcript : str, optional
            Words of the recording.

        Example
        -------
        >>> voice = Voice.cut(
        ...     torch.zeros(192), torch.zeros(26).long(), torch.zeros(51, 80)
        ... )
        >>> voice.prompt_tokens.shape, voice.prompt_mel.shape
        (torch.Size([25]), torch.Size([50, 80]))
        """
        n_tokens = min(len(tokens), len(mel) // 2)
        mel = mel[: 2 * n_tokens]
        return cls(xvector, tokens[:n_tokens], mel, source, transcript)


def write_voices(path: PathLike, voices: Mapping[str, Voice]) -> None:
    """Write voices atomically.

    Arguments
    ---------
    path : str or Path
        The file to write.
    voices : dict
        Name to voice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "voices.safetensors"
    >>> voice = Voice(
    ...     torch.zeros(192), torch.arange(3), torch.zeros(6, 80)
    ... )
    >>> write_voices(path, {"0011": voice, "0011/happy": voice})
    >>> list(read_voices(path))
    ['0011', '0011/happy']
    """
    # Copies: safetensors refuses tensors that share memory, such as those of
    # one voice under two names.
    tensors = {
        f"{name}.{part}": getattr(voice, part).cpu().contiguous().clone()
        for name, voice in voices.items()
        for part in _PARTS
    }
    header = {
        "sources": json.dumps({n: v.source for n, v in voices.items()}),
        "transcripts": json.dumps({n: v.transcript for n, v in voices.items()}),
    }
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata=header)


def read_voices(path: PathLike) -> dict[str, Voice]:
    """Read voices.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Name to voice, by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a file of voices.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: make it with "
            "extract_speaker_embeddings.py."
        )
    tensors = load_tensors(path)
    names = sorted({name.rpartition(".")[0] for name in tensors})
    missing = [
        f"{name}.{part}"
        for name in names
        for part in _PARTS
        if f"{name}.{part}" not in tensors
    ]
    if missing or not names:
        raise ValueError(
            f"{path} is not a file of voices (it has no "
            f"{missing[0] if missing else 'voice'}): make it with "
            "extract_speaker_embeddings.py."
        )
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    try:
        sources = json.loads(header.get("sources", "{}"))
        transcripts = json.loads(header.get("transcripts", "{}"))
    except ValueError as error:
        raise ValueError(
            f"{path} has a damaged header ({error}): make it with "
            "extract_speaker_embeddings.py."
        ) from error
    return {
        name: Voice(
            **{part: tensors[f"{name}.{part}"] for part in _PARTS},
            source=sources.get(name),
            transcript=transcripts.get(name),
        )
        for name in names
    }


def write_part(path: PathLike, voices: Mapping[str, Voice]) -> None:
    """Write some voices as a part of their file.

    Arguments
    ---------
    path : str or Path
        The file of all voices.
    voices : dict
        Name to voice.
    """
    sharding.write_part(path, voices, lambda part: write_voices(part, voices))


def stored_voices(
    path: PathLike, sources: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Voice], int]:
    """Read the current voices of an interrupted or finished extraction.

    Arguments
    ---------
    path : str or Path
        The file of the voices; neither it nor a part need exist.
    sources : dict
        Name of each voice to the recording and models it is made with today.

    Returns
    -------
    current : dict
        Name to voice, for the voices that would be the same today.
    n_outdated : int
        Number of other voices.
    """
    current, outdated = {}, set()
    for _, voices in sharding.read_with_parts(path, read_voices):
        for name, voice in voices.items():
            if name in sources and voice.source == sources[name]:
                current[name] = voice
            else:
                outdated.add(name)
    return current, len(outdated - current.keys())


def merge_parts(
    path: PathLike, sources: Mapping[str, Mapping[str, str]]
) -> None:
    """Merge the parts of a file of voices into it, without outdated voices.

    Arguments
    ---------
    path : str or Path
        The file of the voices.
    sources : dict
        Name of each voice to the recording and models it is made with today.
    """
    voices, _ = stored_voices(path, sources)
    if sharding.list_parts(path) and voices:
        write_voices(path, voices)
    sharding.remove_parts(path)
