"""Speech of several rows at once, which join and leave between two tokens."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from speechbrain_emofilm.inference.long_text import carry_history
from speechbrain_emofilm.inference.streaming import first_chunk_tokens
from speechbrain_emofilm.serve.engine import Row, Said

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Tokens (of 40 ms) after which more of a stream's sound is made, once it has
#: begun; with fewer, more would be computed twice.
NEXT_TOKENS = 25
#: Rows whose sound a GPU makes together, if they end within so many steps; a
#: CPU gains nothing by it.
SOUNDS, PATIENCE = 4, 8
#: Parts of the sound that are made while tokens are drawn.
_AHEAD = 4


@dataclass
class _Spoken:
    """A row that is being spoken."""

    row: Row
    speaker: str
    stream: Any = None  # of token_to_wav; None if the sound is made at the end
    n_first: int = 0  # tokens after which a stream begins
    tokens: list[int] = field(default_factory=list)
    n_pushed: int = 0
    dropped: bool = False

    def is_due(self) -> bool:
        """Check whether there are enough tokens for the next sound."""
        if self.stream is None:
            return False
        n_new = len(self.tokens) - self.n_pushed
        return n_new >= (NEXT_TOKENS if self.n_pushed else self.n_first)

    def new_tokens(self) -> torch.Tensor:
        """Return the tokens that have not been made sound (T,)."""
        new = self.tokens[self.n_pushed :]
        self.n_pushed = len(self.tokens)
        return torch.tensor(new, dtype=torch.long)


class ContinuousSpeaker:
    """Row speaker that draws one token of every row in each step.

    A new row does not wait for the others' end. The sound of rows that are
    streamed is made bit by bit, that of others at their end. Where the model
    leaves a core of the CPU free, sound is made there while the next tokens
    are drawn.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    max_rows : int
        Greatest number of rows whose tokens are drawn together.
    beside : bool, optional
        Whether sound is made in a thread of its own; as the machine suggests
        if None.
    """

    def __init__(
        self, synthesizer, max_rows: int = 16, beside: bool | None = None
    ):
        self.synthesizer = synthesizer
        self.max_rows = max_rows
        self._decoding = synthesizer.decoding()
        self._rows: dict[int, _Spoken] = {}
        self._refused: list[Said] = []
        self._waiting: list[_Spoken] = []  # ended, without their sound
        on_cpu = torch.device(synthesizer.device).type == "cpu"
        self._patience = self._max_patience = 0 if on_cpu else PATIENCE
        if beside is None:
            with synthesizer.inference_ctx:
                n_threads = torch.get_num_threads()
            beside = on_cpu and n_threads < _n_cores()
        self._beside = beside
        self._pool: ThreadPoolExecutor | None = None
        self._making: deque[Future] = deque()

    @property
    def room(self) -> int:
        """Number of rows that can join now."""
        return self.max_rows - len(self._decoding)

    @property
    def busy(self) -> bool:
        """Whether rows are spoken or their sound is made."""
        return bool(self._rows or self._refused or self._making)

    def close(self) -> None:
        """End the thread that makes sound."""
        if self._pool is not None:
            self._pool.shutdown()

    def join(self, rows: Sequence[Row]) -> None:
        """Take on rows; what is wrong with one is told by the next step."""
        for row in rows:
            try:
                self._join(row)
            except ValueError as error:
                self._refused.append(Said(row.key, error=error))

    def _join(self, row: Row) -> None:
        synthesizer, speaking = self.synthesizer, row.speaking
        speaker = speaking.voice or synthesizer.speakers[0]
        prompt = speaking.prompt or synthesizer.prompt(speaker)
        if row.previous is not None:
            piece, tokens = row.previous
            prompt = carry_history(
                prompt, piece, torch.tensor(tokens, dtype=torch.long)
            )
        utterance = synthesizer.utterance(
            row.piece, prompt, row.seed, speaking.guidance, row.key
        )
        spoken = _Spoken(row, speaker)
        if row.streaming:
            token_to_wav = synthesizer.mods.token_to_wav
            try:
                spoken.stream = token_to_wav.stream(
                    speaker, speed=speaking.speed
                )
                spoken.n_first = first_chunk_tokens(spoken.stream)
            except ValueError as error:
                logger.warning("Sound comes piece by piece: %s", error)
        self._decoding.join([utterance])
        self._rows[row.key] = spoken

    def leave(self, key: int) -> None:
        """Drop a row, if it is still there."""
        self._refused = [said for said in self._refused if said.key != key]
        spoken = self._rows.pop(key, None)
        if spoken is not None:
            spoken.dropped = True
            self._decoding.leave(key)

    def step(self) -> list[Said]:
        """Draw one token of every row and return the sound that is ready."""
        said, self._refused = self._refused, []
        with self.synthesizer.inference_ctx, torch.no_grad():
            drawn = self._decoding.step()
        for key, token, is_last, _ in drawn:
            spoken = self._rows[key]
            if token is not None:
                spoken.tokens.append(token)
                if is_last:
                    logger.warning("Speech did not end by itself and was cut.")
            if is_last:
                self._end(spoken)
            elif spoken.is_due():
                self._make(self._push, spoken, spoken.new_tokens(), False)
        if self._waiting:
            self._patience -= 1
            if (
                len(self._waiting) >= SOUNDS
                or self._patience <= 0
                or not len(self._decoding)
            ):
                self._make(self._speak, self._waiting)
                self._waiting = []
        for part in self._made():
            if part.last:
                self._rows.pop(part.key, None)
            said.append(part)
        return said

    def _end(self, spoken: _Spoken) -> None:
        """Let the rest of a row's sound be made."""
        if not spoken.tokens:
            error = ValueError("The model says nothing for this text.")
            self._refused.append(Said(spoken.row.key, error=error))
        elif spoken.stream is not None:
            self._make(self._push, spoken, spoken.new_tokens(), True)
        else:
            if not self._waiting:
                self._patience = self._max_patience
            self._waiting.append(spoken)

    def _make(self, function: Callable[..., list[Said]], *args: Any) -> None:
        """Call a function that makes sound, in its thread if there is one."""
        if self._beside:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "emofilm-sound")
            self._making.append(self._pool.submit(function, *args))
            return
        made: Future = Future()
        made.set_result(function(*args))
        self._making.append(made)

    def _made(self) -> list[Said]:
        """Return the sound that is ready, in its order.

        It is waited for if there is nothing else to do, or too much of it.
        """
        said = []
        idle = not (len(self._decoding) or self._refused)
        while self._making and (
            self._making[0].done() or idle or len(self._making) > _AHEAD
        ):
            said += self._making.popleft().result()
            idle = False
        return said

    def _push(
        self, spoken: _Spoken, tokens: torch.Tensor, ended: bool
    ) -> list[Said]:
        """Make sound of new tokens of a stream, perhaps its last ones."""
        if spoken.dropped:
            return []
        key, stream = spoken.row.key, spoken.stream
        make = stream.finish if ended else stream.push
        with self.synthesizer.inference_ctx, torch.no_grad():
            wav = make(tokens).float().cpu().numpy()
        if ended:
            return [Said(key, wav, spoken.tokens)]
        return [Said(key, wav, last=False)] if len(wav) else []

    def _speak(self, rows: Sequence[_Spoken]) -> list[Said]:
        """Make the sound of whole rows."""
        rows = [spoken for spoken in rows if not spoken.dropped]
        if not rows:
            return []
        with self.synthesizer.inference_ctx, torch.no_grad():
            wavs = self.synthesizer.mods.token_to_wav(
                [spoken.new_tokens() for spoken in rows],
                [spoken.speaker for spoken in rows],
                speed=[spoken.row.speaking.speed for spoken in rows],
            )
        return [
            Said(spoken.row.key, wav.float().cpu().numpy(), spoken.tokens)
            for spoken, wav in zip(rows, wavs)
        ]


def _n_cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
