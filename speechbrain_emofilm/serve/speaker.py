"""Speech of several rows at once, which join and leave between two tokens."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from speechbrain_emofilm.inference.long_text import carry_history
from speechbrain_emofilm.inference.pointing import Pointing, Reading
from speechbrain_emofilm.inference.streaming import first_chunk_tokens
from speechbrain_emofilm.serve.engine import Row, Said
from speechbrain_emofilm.serve.sound_process import SoundProcess, make_sound

import numpy as np
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Tokens (of 40 ms) after which more of a stream's sound is made, once it has
#: begun; with fewer, more would be computed twice.
NEXT_TOKENS = 25
#: The same, once so many tokens have been made sound: the listener has
#: seconds of sound, and larger parts cost less.
LATER_TOKENS, BEGINNING_TOKENS = 50, 100
#: Rows whose sound a GPU makes together, if they end within so many steps. A
#: CPU gains nothing by it, and makes the same sound to the last bit if each row
#: is alone.
SOUNDS, PATIENCE = 4, 8
#: Seconds for which a step waits for sound if there is nothing else to do;
#: rows that arrive wait as long.
_IDLE = 0.01


@dataclass(eq=False)
class _Spoken:
    """A row that is being spoken."""

    row: Row
    speaker: str
    n_first: int | None = None  # tokens after which a stream begins, if it does
    beside: bool = False  # whether its sound is made in the other process
    tokens: list[int] = field(default_factory=list)
    parts: list[slice] = field(default_factory=list)  # tokens made sound
    reading: Reading | None = None  # for the model's word pointer
    pointings: list[Pointing | None] = field(default_factory=list)  # of parts
    ended: bool = False
    n_heard: int = 0  # parts whose sound is there

    @property
    def n_pushed(self) -> int:
        """Number of tokens that have been made sound, or are being."""
        return self.parts[-1].stop if self.parts else 0

    def is_due(self) -> bool:
        """Check whether there are enough tokens for the next sound."""
        if self.n_first is None:
            return False
        n_needed = LATER_TOKENS
        if not self.parts:
            n_needed = self.n_first
        elif self.n_pushed < BEGINNING_TOKENS:
            n_needed = NEXT_TOKENS
        return len(self.tokens) - self.n_pushed >= n_needed

    def kind_of(self, index: int) -> str:
        """Return what :func:`make_sound` calls a part."""
        if self.n_first is None:
            return "whole"
        last = self.ended and index == len(self.parts) - 1
        return "end" if last else "part"


class ContinuousSpeaker:
    """Row speaker that draws one token of every row in each step.

    A new row does not wait for the others' end. The sound of rows that are
    streamed is made bit by bit, that of others at their end. Where the model
    leaves a core of the CPU free, sound is made there, in a process of its
    own, while the next tokens are drawn; until that process is ready, and if
    it ends, sound is made between the steps. With a single row, the speaker
    does one thing after another: it speaks one text at a time.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    max_rows : int
        Greatest number of rows whose tokens are drawn together.
    beside : bool, optional
        Whether sound is made in a process of its own; as the machine suggests
        if None.
    """

    def __init__(
        self, synthesizer, max_rows: int = 16, beside: bool | None = None
    ):
        self.synthesizer = synthesizer
        self.max_rows = max_rows
        self._decoding = synthesizer.decoding(on_text=self._keep_text)
        self._rows: dict[int, _Spoken] = {}
        self._refused: list[Said] = []
        self._waiting: list[_Spoken] = []  # ended, without their sound
        self._ready: list[Said] = []  # sound that was made here
        self._streams: dict[int, Any] = {}  # of rows whose sound is made here
        self._firsts: dict[tuple[str, float], int | None] = {}
        on_cpu = torch.device(synthesizer.device).type == "cpu"
        self._together = not on_cpu
        self._patience = PATIENCE
        with synthesizer.inference_ctx:
            self._n_threads = torch.get_num_threads()
        if beside is None:
            free = self._n_threads < _n_cores() and max_rows > 1
            beside = on_cpu and free and os.name == "posix"
        self._beside = beside
        self.process: SoundProcess | None = None

    @property
    def room(self) -> int:
        """Number of rows that can join now."""
        return self.max_rows - len(self._decoding)

    @property
    def busy(self) -> bool:
        """Whether rows are spoken or their sound is made."""
        return bool(self._rows or self._refused)

    def start(self) -> None:
        """Start the process that makes sound, if there is to be one."""
        if not self._beside or self.process is not None:
            return
        try:
            self.process = SoundProcess(
                self.synthesizer.mods.token_to_wav,
                getattr(self.synthesizer, "_autocast", nullcontext()),
                self._n_threads,
            )
        except Exception as error:  # a module that cannot be handed over
            logger.warning(
                "Sound is made between the tokens, not beside them: %s", error
            )

    def close(self) -> None:
        """End the process that makes sound."""
        if self.process is not None:
            self.process.close()
            self.process = None

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
        reading = None
        if speaking.words:
            reading = synthesizer.reading(row.piece, prompt)
        spoken = _Spoken(row, speaker, reading=reading)
        if row.streaming:
            spoken.n_first = self._first_tokens(speaker, speaking.speed)
        process = self.process
        spoken.beside = (
            process is not None and process.ready and process.knows(speaker)
        )
        self._decoding.join([utterance])
        self._rows[row.key] = spoken

    def _first_tokens(self, speaker: str, speed: float) -> int | None:
        """Return the tokens after which a stream begins; None without any."""
        how = speaker, speed
        if how not in self._firsts:
            if len(self._firsts) >= 1000:  # clients choose the speeds
                self._firsts.clear()
            token_to_wav = self.synthesizer.mods.token_to_wav
            try:
                stream = token_to_wav.stream(speaker, speed=speed)
                self._firsts[how] = first_chunk_tokens(stream)
            except ValueError as error:
                logger.warning("Sound comes piece by piece: %s", error)
                self._firsts[how] = None
        return self._firsts[how]

    def _keep_text(self, key: Any, states: torch.Tensor) -> None:
        """Keep the states of a row's text, for the word pointer."""
        reading = self._rows[key].reading
        if reading is not None:
            reading.on_text(states)

    def leave(self, key: int) -> None:
        """Drop a row, if it is still there."""
        self._refused = [said for said in self._refused if said.key != key]
        self._ready = [said for said in self._ready if said.key != key]
        spoken = self._rows.pop(key, None)
        if spoken is None:
            return
        self._streams.pop(key, None)
        self._waiting = [
            other for other in self._waiting if other is not spoken
        ]
        if spoken.beside and self.process is not None:
            self.process.drop(key)
        self._decoding.leave(key)

    def step(self) -> list[Said]:
        """Draw one token of every row and return the sound that is ready."""
        said, self._refused = self._refused, []
        with self.synthesizer.inference_ctx, torch.no_grad():
            drawn = self._decoding.step()
        for one in drawn:
            token, is_last = one.token, one.is_last
            spoken = self._rows[one.key]
            if spoken.reading is not None:
                spoken.reading.on_drawn(one)
            if token is not None:
                spoken.tokens.append(token)
                if is_last:
                    logger.warning("Speech did not end by itself and was cut.")
            if is_last:
                self._end(spoken)
            elif spoken.is_due():
                self._make_part(spoken)
        if self._waiting:
            self._patience -= 1
            if (
                len(self._waiting) >= SOUNDS
                or self._patience <= 0
                or not len(self._decoding)
            ):
                self._speak(self._waiting)
                self._waiting = []
        if self.process is not None:
            idle = not (
                len(self._decoding) or said or self._ready or self._refused
            )
            self._listen(self.process, _IDLE if idle else 0.0)
        said += self._ready
        self._ready = []
        for part in said:
            if part.last:
                self._rows.pop(part.key, None)
        return said

    def _end(self, spoken: _Spoken) -> None:
        """Let the rest of a row's sound be made."""
        spoken.ended = True
        if not spoken.tokens:
            error = ValueError("The model says nothing for this text.")
            self._refused.append(Said(spoken.row.key, error=error))
        elif self._together and spoken.n_first is None:
            if not self._waiting:
                self._patience = PATIENCE
            self._waiting.append(spoken)
        else:
            self._make_part(spoken)

    def _make_part(self, spoken: _Spoken) -> None:
        """Let the sound of new tokens be made."""
        index = len(spoken.parts)
        spoken.parts.append(slice(spoken.n_pushed, len(spoken.tokens)))
        spoken.pointings.append(self._point(spoken))
        if not spoken.beside or self.process is None:
            self._make_here(spoken, index)
            return
        self.process.make(
            spoken.row.key,
            spoken.tokens[spoken.parts[index]],
            spoken.speaker,
            spoken.row.speaking.speed,
            spoken.kind_of(index),
        )

    def _point(self, spoken: _Spoken) -> Pointing | None:
        """Find the words of a row among its tokens so far."""
        if spoken.reading is None:
            return None
        return self.synthesizer.find_words(spoken.reading, spoken.ended)

    def _make_here(self, spoken: _Spoken, index: int) -> None:
        """Make the sound of a part in this process."""
        tokens = torch.tensor(spoken.tokens[spoken.parts[index]])
        with self.synthesizer.inference_ctx, torch.no_grad():
            wav = make_sound(
                self.synthesizer.mods.token_to_wav,
                self._streams,
                spoken.row.key,
                tokens,
                spoken.speaker,
                spoken.row.speaking.speed,
                spoken.kind_of(index),
            )
        self._hear(spoken, index, wav)

    def _hear(self, spoken: _Spoken, index: int, wav: np.ndarray) -> None:
        """Pass on the sound of a part, unless it has been passed on."""
        if index < spoken.n_heard:
            return
        spoken.n_heard = index + 1
        key, pointing = spoken.row.key, spoken.pointings[index]
        if spoken.kind_of(index) != "part":
            said = Said(key, wav, spoken.tokens, pointing=pointing)
            self._ready.append(said)
        elif len(wav):
            said = Said(key, wav, last=False, pointing=pointing)
            self._ready.append(said)

    def _listen(self, process: SoundProcess, timeout: float) -> None:
        """Take the sound that the other process has made."""
        ended = process.ended  # before its last answers are taken
        for key, wav in process.take(timeout):
            spoken = self._rows.get(key)
            if spoken is None or not spoken.beside:
                continue
            if wav is None:
                process.drop(key)
                self._make_again(spoken)
            else:
                self._hear(spoken, spoken.n_heard, wav)
        if ended:
            logger.warning(
                "The process that makes sound has ended: sound is made "
                "between the tokens from now on, which takes longer."
            )
            self.close()
            for spoken in list(self._rows.values()):
                if spoken.beside:
                    self._make_again(spoken)

    def _make_again(self, spoken: _Spoken) -> None:
        """Make sound here that the other process has not made.

        The same parts give the same sound; what was heard is left out.
        """
        spoken.beside = False
        for index in range(len(spoken.parts)):
            self._make_here(spoken, index)

    def _speak(self, rows: Sequence[_Spoken]) -> None:
        """Make the sound of whole rows in this process."""
        with self.synthesizer.inference_ctx, torch.no_grad():
            wavs = self.synthesizer.mods.token_to_wav(
                [torch.tensor(spoken.tokens) for spoken in rows],
                [spoken.speaker for spoken in rows],
                speed=[spoken.row.speaking.speed for spoken in rows],
            )
        self._ready += [
            Said(
                spoken.row.key,
                wav.float().cpu().numpy(),
                spoken.tokens,
                pointing=self._point(spoken),
            )
            for spoken, wav in zip(rows, wavs)
        ]


def _n_cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
