"""Where streamed speech goes: a wav file, standard output, or a player."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from speechbrain_emofilm.dataio.encoding import Encoder
from speechbrain_emofilm.utils.files import atomic_path

import soundfile
import torch

#: Players, with their arguments for a wav file on standard input.
PLAYERS = (
    ("aplay", "-q", "-"),
    ("paplay",),
    ("pw-play", "-"),
    ("ffplay", "-loglevel", "error", "-nodisp", "-autoexit", "-"),
    ("play", "-q", "-t", "wav", "-"),
)

#: Writes a wave (T,).
Write = Callable[[torch.Tensor], None]


def find_player() -> Sequence[str]:
    """Find a program that plays sound from its standard input.

    Returns
    -------
    sequence of str
        Its command, one of :data:`PLAYERS`.

    Raises
    ------
    FileNotFoundError
        If none is installed.
    """
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    names = ", ".join(command[0] for command in PLAYERS)
    raise FileNotFoundError(
        f"No player was found ({names}): install one, or write the speech to "
        "a file with -o FILE, or to standard output with -o -."
    )


@contextlib.contextmanager
def to_file(path: Path, sample_rate: int) -> Iterator[Write]:
    """Write a wav file (16 bits), which appears when it is complete.

    Arguments
    ---------
    path : Path
        The file.
    sample_rate : int
        Sampling rate in Hz.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> with to_file(path, 24000) as write:
    ...     write(torch.zeros(100))
    ...     write(torch.zeros(50))
    >>> soundfile.info(path).frames
    150
    """
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(
            temporary, "w", sample_rate, 1, "PCM_16", format="WAV"
        ) as file,
    ):
        yield lambda wav: file.write(wav.numpy())


@contextlib.contextmanager
def to_pipe(stream: BinaryIO, sample_rate: int) -> Iterator[Write]:
    """Write a wav file of unknown length to a pipe, as it comes.

    Arguments
    ---------
    stream : file object
        Takes bytes.
    sample_rate : int
        Sampling rate in Hz.

    Example
    -------
    >>> pipe = io.BytesIO()
    >>> with to_pipe(pipe, 24000) as write:
    ...     write(torch.zeros(100))
    >>> len(pipe.getvalue())
    244
    """
    encoder = Encoder(sample_rate, "wav")

    def write(wav: torch.Tensor) -> None:
        stream.write(encoder.add(wav.numpy()))
        stream.flush()

    yield write
    stream.write(encoder.finish())


@contextlib.contextmanager
def to_player(command: Sequence[str], sample_rate: int) -> Iterator[Write]:
    """Play the sound with a program.

    Arguments
    ---------
    command : list of str
        Command of the program, such as :func:`find_player` returns.
    sample_rate : int
        Sampling rate in Hz.

    Raises
    ------
    OSError
        If the program fails.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE) as player:
        pipe = player.stdin
        assert pipe is not None
        try:
            with to_pipe(io.BufferedWriter(pipe), sample_rate) as write:
                yield write
            pipe.close()
        except BrokenPipeError:
            pass
        if player.wait():
            raise OSError(
                f"The player {command[0]} failed (exit code "
                f"{player.returncode}): write the speech to a file with -o "
                "FILE."
            )
