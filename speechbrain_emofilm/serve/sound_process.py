"""Sound of speech tokens, made in a process of its own.

Decoding and sound are many small operations of torch: two threads of one
process wait for each other's turn in Python, two processes each have a core.

The messages of both directions are a header, which is JSON, and bytes. The
process gets the module once, as a file of this program that both map into
their memory, so that the weights are there once; texts and other things that
clients send never reach it.
"""

import contextlib
import json
import os
import queue
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

from speechbrain_emofilm.dataio.voices import Voice

import numpy as np
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

_SIZES = struct.Struct("<II")  # of the header and of the bytes
_PARTS = ("xvector", "prompt_tokens", "prompt_mel")  # of a voice
_START = "from speechbrain_emofilm.serve.sound_process import main; main()"
#: Seconds in which a process ends before it is killed.
_GRACE = 5.0


class Made(NamedTuple):
    """Answer of the process to one request for sound.

    Arguments
    ---------
    key : int
        Key of the row.
    wav : numpy.ndarray, optional
        Sound (T,), float32; None if the process could not make it.
    """

    key: int
    wav: np.ndarray | None


def make_sound(
    token_to_wav: torch.nn.Module,
    streams: dict[int, Any],
    key: int,
    tokens: torch.Tensor,
    speaker: str,
    speed: float,
    kind: str,
) -> np.ndarray:
    """Make the sound of a row, or the next part of it.

    Arguments
    ---------
    token_to_wav : TokenToWavBase
        What makes it.
    streams : dict
        Streams of the rows by key, which this function begins and ends.
    key : int
        Key of the row.
    tokens : torch.Tensor
        All tokens of the row (T,), or those that are new.
    speaker : str
        Name of the speaker.
    speed : float
        Speed of the speech.
    kind : str
        "whole", or "part" and "end" of a stream.

    Returns
    -------
    numpy.ndarray
        Sound (T,), float32.
    """
    if kind == "whole":
        (wav,) = token_to_wav([tokens], speaker, speed=speed)
    else:
        if key not in streams:
            streams[key] = token_to_wav.stream(speaker, speed=speed)
        stream = streams[key]
        if kind == "end":
            del streams[key]
            wav = stream.finish(tokens)
        else:
            wav = stream.push(tokens)
    return wav.float().cpu().numpy()


class SoundProcess:
    """Process that makes sound; it starts in the background.

    Arguments
    ---------
    token_to_wav : TokenToWavBase
        What makes the sound, on the CPU. Its weights move to memory that both
        processes map.
    context : AbstractContextManager
        Precision of the computation.
    n_threads : int
        Number of threads of the process.

    Raises
    ------
    Exception
        If the module cannot be handed over, or no process be started.
    """

    def __init__(
        self,
        token_to_wav: torch.nn.Module,
        context: contextlib.AbstractContextManager,
        n_threads: int,
    ):
        self._token_to_wav = token_to_wav
        self._voices = {
            name: token_to_wav.voice_of(name) for name in token_to_wav.speakers
        }
        self._answers: queue.SimpleQueue[Made | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._ended = self._closing = False
        self._folder = tempfile.mkdtemp(prefix="emofilm-")
        path = Path(self._folder) / "token_to_wav.pt"
        try:
            torch.save((token_to_wav, context), path)
            _map_weights(token_to_wav, path)
            search = [os.path.abspath(place) for place in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl+C is for the server, whose end ends this process.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        assert self._process.stdin and self._process.stdout
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        self._send({"path": str(path), "threads": n_threads})
        threading.Thread(
            target=self._read, name="emofilm-sound", daemon=True
        ).start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether the process makes sound."""
        return self._ready.is_set() and not self._ended

    @property
    def ended(self) -> bool:
        """Whether the process has ended: it answers nothing any more."""
        return self._ended

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait until the process is ready or has ended; tell whether it is."""
        self._ready.wait(timeout)
        return self.ready

    def knows(self, speaker: str) -> bool:
        """Tell whether the process has a voice; hand over one that is new."""
        voice = self._token_to_wav.voice_of(speaker)
        known = speaker in self._voices
        if known and self._voices[speaker] is voice:
            return True
        if voice is None:
            return False
        parts = [getattr(voice, name).cpu().numpy() for name in _PARTS]
        self._send(
            {
                "voice": speaker,
                "parts": [(part.dtype.str, part.shape) for part in parts],
            },
            b"".join(part.tobytes() for part in parts),
        )
        self._voices[speaker] = voice
        return True

    def make(
        self,
        key: int,
        tokens: Sequence[int],
        speaker: str,
        speed: float,
        kind: str,
    ) -> None:
        """Have sound made; see :func:`make_sound`."""
        header = {"key": key, "speaker": speaker, "speed": speed, "kind": kind}
        self._send(header, np.array(tokens, np.int64).tobytes())

    def drop(self, key: int) -> None:
        """Forget a row."""
        self._send({"drop": key})

    def take(self, timeout: float = 0.0) -> Iterator[Made]:
        """Take the answers that are there.

        Arguments
        ---------
        timeout : float
            Seconds to wait for the first one.
        """
        while True:
            try:
                made = self._answers.get(timeout > 0, timeout)
            except queue.Empty:
                return
            if made is None:  # the process has ended
                return
            yield made
            timeout = 0.0

    def close(self) -> None:
        """End the process."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        # Who reads the answers notices an end.
        with contextlib.suppress(OSError, ValueError):
            write_message(self._input, header, body)

    def _read(self) -> None:
        """Take the answers, until the process ends."""
        while (message := read_message(self._output)) is not None:
            header, body = message
            if header.get("ready"):
                self._ready.set()
                shutil.rmtree(self._folder, ignore_errors=True)
                continue
            # A copy can be written to, as all other sound.
            wav = None if header["failed"] else np.frombuffer(body, "f4").copy()
            self._answers.put(Made(header["key"], wav))
        self._ended = True
        self._ready.set()
        self._answers.put(None)
        self._output.close()
        self._process.wait()


def _map_weights(module: torch.nn.Module, path: Path) -> None:
    """Let the weights of a module be those of a file, mapped into memory."""
    mapped, _ = torch.load(path, mmap=True, weights_only=False)
    for own, other in zip(
        chain(module.parameters(), module.buffers()),
        chain(mapped.parameters(), mapped.buffers()),
        strict=True,
    ):
        own.data = other.data


def write_message(file: IO[bytes], header: dict[str, Any], body: bytes) -> None:
    """Write a message.

    Example
    -------
    >>> import io
    >>> file = io.BytesIO()
    >>> write_message(file, {"key": 1}, b"sound")
    >>> _ = file.seek(0)
    >>> read_message(file), read_message(file)
    (({'key': 1}, b'sound'), None)
    """
    head = json.dumps(header).encode()
    file.write(_SIZES.pack(len(head), len(body)) + head + body)
    file.flush()


def read_message(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read a message; None at the end of the file."""
    sizes = file.read(_SIZES.size)
    if len(sizes) < _SIZES.size:
        return None
    n_head, n_body = _SIZES.unpack(sizes)
    head, body = file.read(n_head), file.read(n_body)
    if len(head) < n_head or len(body) < n_body:
        return None
    return json.loads(head), body


# ------------------------------------------------------------- the process


def main() -> None:
    """Make sound until the input ends."""
    # Nothing that prints may disturb the answers.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = sys.stdin.buffer
    setup = read_message(source)
    if setup is None:
        return
    path = setup[0]["path"]
    try:
        torch.set_num_threads(setup[0]["threads"])
        token_to_wav, context = torch.load(path, mmap=True, weights_only=False)
    finally:
        # It stays mapped; nobody else removes it if the server was killed.
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)
    requests: queue.SimpleQueue[tuple[dict, bytes]] = queue.SimpleQueue()
    dropped: set[int] = set()
    threading.Thread(
        target=_listen, args=(source, requests, dropped), daemon=True
    ).start()
    streams: dict[int, Any] = {}
    with context, torch.no_grad():
        _warm_up(token_to_wav)
        write_message(output, {"ready": True}, b"")
        while True:
            header, body = requests.get()
            if "drop" in header:
                dropped.discard(header["drop"])
                streams.pop(header["drop"], None)
            elif "voice" in header:
                voice = _read_voice(header["parts"], body)
                token_to_wav.add_voice(header["voice"], voice)
            elif header["key"] not in dropped:
                sound = _answer(token_to_wav, streams, header, body)
                answer = {"key": header["key"], "failed": sound is None}
                write_message(output, answer, sound or b"")


def _warm_up(token_to_wav: torch.nn.Module) -> None:
    """Make some sound, so that no client waits for what is loaded."""
    tokens, speaker = torch.zeros(50).long(), token_to_wav.speakers[0]
    with contextlib.suppress(Exception):  # the requests will show it
        for kind in ("whole", "part", "end"):
            make_sound(token_to_wav, {}, 0, tokens, speaker, 1.0, kind)


def _answer(
    token_to_wav: torch.nn.Module,
    streams: dict[int, Any],
    header: dict[str, Any],
    body: bytes,
) -> bytes | None:
    """Make the sound that is asked for; None if that fails."""
    tokens = torch.from_numpy(np.frombuffer(body, np.int64).copy())
    try:
        wav = make_sound(token_to_wav, streams, tokens=tokens, **header)
    except Exception:  # the server tries it too, and has the same error
        logger.exception("Sound could not be made.")
        return None
    return wav.tobytes()


def _listen(
    source: IO[bytes],
    requests: "queue.SimpleQueue[tuple[dict, bytes]]",
    dropped: set[int],
) -> None:
    """Take what is asked for; end the process with the server."""
    while (message := read_message(source)) is not None:
        if "drop" in message[0]:
            dropped.add(message[0]["drop"])
        requests.put(message)
    os._exit(0)


def _read_voice(parts: Sequence[tuple[str, list[int]]], body: bytes) -> Voice:
    """Read the tensors of a voice."""
    tensors, start = [], 0
    for kind, shape in parts:
        n_bytes = np.dtype(kind).itemsize * int(np.prod(shape))
        array = np.frombuffer(body[start : start + n_bytes], kind)
        tensors.append(torch.from_numpy(array.reshape(shape).copy()))
        start += n_bytes
    return Voice(*tensors)
