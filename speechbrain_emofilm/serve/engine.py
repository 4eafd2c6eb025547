"""Scheduling of speech: what waits is decoded together, and in fair order.

One thread owns the model. Requests are :class:`Job` objects, whose text is
spoken piece by piece; a piece is a row of the model's batch. Which rows are
spoken next is decided here; how they are spoken is left to a
:class:`RowSpeaker`, which rows can join and leave between two steps.
"""

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from speechbrain_emofilm.inference.long_text import piece_seed

import numpy as np
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Seconds by which the first sound of a stream goes before other pieces that
#: have waited as long.
HEAD_START = 2.0
#: Pieces of one job that are spoken at once.
PIECES_AT_ONCE = 4


@dataclass(frozen=True)
class Speaking:
    """How a text is spoken.

    Arguments
    ---------
    voice : str, optional
        Name of the speaker; the first one if None.
    seed : int
        Seed of the sampling.
    guidance : float
        Strength of the emotions.
    speed : float
        Speed of the speech, 1 for the model's own.
    prompt : object, optional
        What the language model is prompted with.
    words : bool
        Whether the words are looked for while the text is spoken.
    """

    voice: str | None = None
    seed: int = 0
    guidance: float = 1.0
    speed: float = 1.0
    prompt: Any = None
    words: bool = True


@dataclass(frozen=True)
class Row:
    """Piece of text that waits for the model or is spoken by it.

    Arguments
    ---------
    key : int
        Number that no other row has.
    piece : object
        What is spoken: a
        :class:`~speechbrain_emofilm.inference.long_text.Piece` for the
        synthesizer.
    speaking : Speaking
        How it is spoken.
    seed : int
        Seed of the piece.
    streaming : bool
        Whether its sound is wanted bit by bit.
    previous : tuple, optional
        The piece before and its speech tokens, which this one continues.
    """

    key: int
    piece: Any
    speaking: Speaking
    seed: int = 0
    streaming: bool = False
    previous: tuple[Any, Sequence[int]] | None = None


@dataclass(frozen=True)
class Said:
    """What a step has spoken of one row.

    Arguments
    ---------
    key : int
        Key of the row.
    wav : numpy.ndarray
        Sound (T,), float32, that follows what was said before.
    tokens : list of int
        All speech tokens of the row, with its last part.
    last : bool
        Whether the row is finished.
    error : Exception, optional
        Reason for which the row cannot be spoken.
    pointing : object, optional
        Where the words are among the tokens so far: a
        :class:`~speechbrain_emofilm.inference.pointing.Pointing`.
    """

    key: int
    wav: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    tokens: Sequence[int] = ()
    last: bool = True
    error: Exception | None = None
    pointing: Any = None


class RowSpeaker(Protocol):
    """Model that speaks rows together.

    It is used by one thread. A row sounds the same alone and in company. A
    step may return later what it has begun.
    """

    @property
    def room(self) -> int:
        """Number of rows that can join now."""

    def start(self) -> None:
        """Get ready, before the first rows join."""

    def join(self, rows: Sequence[Row]) -> None:
        """Take on rows."""

    def step(self) -> list[Said]:
        """Do a part of the work and return what it has spoken."""

    def leave(self, key: int) -> None:
        """Drop a row, if it is still there."""

    def close(self) -> None:
        """End what still runs."""


class Overloaded(Exception):
    """More requests wait than are accepted.

    Arguments
    ---------
    retry_after : int
        Seconds after which to try again.
    """

    def __init__(self, retry_after: int):
        super().__init__(
            "Too many requests wait for the model: try again in "
            f"{retry_after} s."
        )
        self.retry_after = retry_after


class OutOfTime(Exception):
    """A request was not finished within its time."""

    def __init__(self):
        super().__init__(
            "The speech was not finished in time: give a shorter text, or "
            "try again later."
        )


class Job:
    """Request for speech.

    Arguments
    ---------
    client : str
        Who asks: clients get equal shares of the model.
    speaking : Speaking
        How the text is spoken.
    sink : callable
        ``sink(event)`` is called by the model's thread, in the order of the
        text: with each :class:`Said`, with an exception, which is the last
        event, or with None after the last piece.
    pieces : list
        Pieces of text.
    complete : bool
        Whether no pieces will be added.
    streaming : bool
        Whether the first sound is waited for.
    time_limit : float
        Seconds after which the job is given up, since its last text.
    history : bool
        Whether each piece continues the one before it, so that they are
        spoken one by one.
    """

    def __init__(
        self,
        client: str,
        speaking: Speaking,
        sink: Callable[[Any], None],
        pieces: Sequence[Any] = (),
        complete: bool = True,
        streaming: bool = False,
        time_limit: float = math.inf,
        history: bool = False,
    ):
        self.client = client
        self.speaking = speaking
        self.streaming = streaming
        self.history = history
        self.complete = complete
        self._time_limit = time_limit
        self.renew()
        self.cancelled = False
        self.ended = False
        self.waiting = deque(pieces)
        self._sink = sink
        self._n_rows = 0
        self._previous: Row | None = None
        self._spoken: Sequence[int] = ()  # tokens of the last row
        self._order: deque[int] = deque()  # keys of rows in order of the text
        self._held: dict[int, list[Said]] = {}  # said before their turn
        self.turn = 0.0  # when it was last served

    def renew(self) -> None:
        """Begin the time limit anew: the client is still writing."""
        self.deadline = time.monotonic() + self._time_limit

    def start_row(self, key: int) -> Row:
        """Turn the next piece into a row."""
        self._order.append(key)
        previous = None
        if self.history and self._previous is not None:
            previous = self._previous.piece, self._spoken
        self._previous = Row(
            key,
            self.waiting.popleft(),
            self.speaking,
            piece_seed(self.speaking.seed, self._n_rows),
            self.streaming,
            previous,
        )
        self._n_rows += 1
        return self._previous

    @property
    def n_at_once(self) -> int:
        """Greatest number of rows that are spoken at once.

        The sentences of a stream are heard in order.
        """
        return 1 if self.streaming or self.history else PIECES_AT_ONCE

    def accept(self, said: Said) -> None:
        """Take what was said and pass on what it is the turn of."""
        if said.last:
            self._spoken = said.tokens
        self._held.setdefault(said.key, []).append(said)
        while self._order and self._order[0] in self._held:
            key = self._order[0]
            parts = self._held.pop(key)
            for part in parts:
                self.emit(part if part.error is None else part.error)
            if not parts[-1].last:
                break
            self._order.popleft()
        self.finish_if_done()

    def finish_if_done(self) -> None:
        """Tell the sink if nothing is left to speak."""
        if self.complete and not self.waiting and not self._order:
            self.emit(None)

    def emit(self, event: Any) -> None:
        """Pass an event on, unless the job has ended."""
        if self.ended:
            return
        self.ended = event is None or isinstance(event, Exception)
        if not self.cancelled:
            self._sink(event)


class Engine:
    """Thread that owns the model and serves jobs in fair order.

    Arguments
    ---------
    speaker : RowSpeaker
        What speaks.
    max_jobs : int
        Greatest number of jobs; further ones are refused.
    max_jobs_per_client : int, optional
        Greatest number of jobs of one client.
    threads : int, optional
        Number of threads of a step on a CPU; torch's own if None.
    """

    def __init__(
        self,
        speaker: RowSpeaker,
        max_jobs: int = 128,
        max_jobs_per_client: int | None = None,
        threads: int | None = None,
    ):
        self.speaker = speaker
        self.max_jobs = max_jobs
        self.max_jobs_per_client = max_jobs_per_client or max_jobs
        self.threads = threads
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._rows: dict[int, Job] = {}  # rows that the speaker holds
        self._keys = itertools.count()
        self._calls: deque[tuple[Callable, Future]] = deque()
        self._served: dict[str, float] = {}  # when each client was served
        self._leaving: list[int] = []
        self._seconds_per_row = 0.5  # estimate for retry_after
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name="emofilm-model", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self.speaker.start()
        self._thread.start()

    def close(self) -> None:
        """End all jobs and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self.speaker.close()

    @property
    def alive(self) -> bool:
        """Whether jobs are served."""
        return self._thread.is_alive() and not self._closing

    @property
    def n_jobs(self) -> int:
        """Number of jobs that wait or are spoken."""
        return len(self._jobs)

    @property
    def n_rows(self) -> int:
        """Number of rows that the speaker holds."""
        return len(self._rows)

    def submit(self, job: Job) -> None:
        """Add a job.

        Raises
        ------
        Overloaded
            If too many jobs wait.
        """
        with self._changed:
            mine = sum(other.client == job.client for other in self._jobs)
            if (
                self._closing
                or len(self._jobs) >= self.max_jobs
                or mine >= self.max_jobs_per_client
            ):
                raise Overloaded(self._retry_after())
            job.turn = time.monotonic() - HEAD_START * job.streaming
            self._served.setdefault(job.client, job.turn)
            self._jobs.append(job)
            self._changed.notify_all()

    def add(self, job: Job, pieces: Sequence[Any], complete: bool) -> None:
        """Add pieces to a job that is not complete."""
        with self._changed:
            job.waiting.extend(pieces)
            job.renew()
            job.complete = complete
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Give up a job; its rows leave at the end of the current step."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    def call(self, function: Callable[[], Any]) -> Future:
        """Call a function that uses the model, between two steps."""
        future: Future = Future()
        with self._changed:
            if self._closing or len(self._calls) >= self.max_jobs:
                raise Overloaded(self._retry_after())
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    def _retry_after(self) -> int:
        """Estimate when there is room again, in seconds."""
        n = len(self._rows) + sum(len(job.waiting) for job in self._jobs)
        return int(min(max(1, self._seconds_per_row * n / 2), 60))

    def _run(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        while True:
            with self._changed:
                self._drop_jobs()
                while not (self._closing or self._has_work()):
                    self._changed.wait(self._until_deadline())
                    self._drop_jobs()
                if self._closing:
                    break
                leaving, self._leaving = self._leaving, []
                calls, self._calls = self._calls, deque()
                rows = self._choose(leaving)
            for function, future in calls:
                _call(function, future)
            self._step(leaving, rows)
        for job in self._jobs:
            job.emit(Overloaded(1))
        for _, future in self._calls:
            future.cancel()

    def _has_work(self) -> bool:
        return bool(
            self._calls
            or self._rows
            or self._leaving
            or any(job.waiting for job in self._jobs)
        )

    def _until_deadline(self) -> float | None:
        """Seconds until a job runs out of time; None without jobs."""
        first = min((job.deadline for job in self._jobs), default=math.inf)
        return None if first == math.inf else max(first - time.monotonic(), 0)

    def _drop_jobs(self) -> None:
        """Remove jobs that are ended, cancelled or late, and their rows."""
        now = time.monotonic()
        for job in list(self._jobs):
            if not job.ended and not job.cancelled:
                if now >= job.deadline:
                    job.emit(OutOfTime())
                else:
                    job.finish_if_done()
            if job.ended or job.cancelled:
                self._jobs.remove(job)
                for key in [k for k, j in self._rows.items() if j is job]:
                    del self._rows[key]
                    self._leaving.append(key)
        present = {job.client for job in self._jobs}
        for client in self._served.keys() - present:
            del self._served[client]

    def _choose(self, leaving: Sequence[int]) -> list[Row]:
        """Choose rows for the speaker's room.

        The client with the fewest rows comes first, then the one that was
        served longest ago; of its jobs, the one served longest ago.
        """
        room = self.speaker.room + len(leaving)
        n_of_client: dict[str, int] = {}
        n_of_job: dict[int, int] = {}
        for job in self._rows.values():
            n_of_client[job.client] = n_of_client.get(job.client, 0) + 1
            n_of_job[id(job)] = n_of_job.get(id(job), 0) + 1
        rows: list[Row] = []
        while len(rows) < room:
            ready = [
                job
                for job in self._jobs
                if job.waiting and n_of_job.get(id(job), 0) < job.n_at_once
            ]
            if not ready:
                break
            job = min(
                ready,
                key=lambda job: (
                    n_of_client.get(job.client, 0),
                    self._served[job.client],
                    job.turn,
                ),
            )
            row = job.start_row(next(self._keys))
            rows.append(row)
            self._rows[row.key] = job
            job.turn = self._served[job.client] = time.monotonic()
            n_of_client[job.client] = n_of_client.get(job.client, 0) + 1
            n_of_job[id(job)] = n_of_job.get(id(job), 0) + 1
        return rows

    def _step(self, leaving: Sequence[int], rows: Sequence[Row]) -> None:
        """Let rows leave and join, do a step and pass on what is said."""
        started = time.monotonic()
        try:
            for key in leaving:
                self.speaker.leave(key)
            if rows:
                self.speaker.join(rows)
            said = self.speaker.step() if self._rows else []
        except Exception as error:  # the thread must go on
            logger.exception("The model failed.")
            said = [Said(key, error=error) for key in self._rows]
            for key in self._rows:
                self.speaker.leave(key)
        finished = 0
        with self._changed:
            for part in said:
                job = self._rows.get(part.key)
                if job is None:
                    continue
                if part.last:
                    finished += 1
                    del self._rows[part.key]
                job.accept(part)
        if finished:
            each = (time.monotonic() - started) / finished
            self._seconds_per_row += 0.2 * (each - self._seconds_per_row)


def _call(function: Callable[[], Any], future: Future) -> None:
    """Call a function and keep its result or its error."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:  # the caller's
        future.set_exception(error)
