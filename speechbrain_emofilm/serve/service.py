"""What the endpoints of the server share: model, engine and settings."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.dataio.markup import MarkedText, parse_markup
from speechbrain_emofilm.inference.long_text import Piece
from speechbrain_emofilm.serve import audio
from speechbrain_emofilm.serve.engine import (
    Engine,
    Job,
    OutOfTime,
    Overloaded,
    RowSpeaker,
    Speaking,
)
from speechbrain_emofilm.serve.guard import error_body
from speechbrain_emofilm.serve.marks import MAX_WORDS, marks_of, words_of
from speechbrain_emofilm.serve.models import (
    MarksRequest,
    SpeechRequest,
    WordsRequest,
)
from speechbrain_emofilm.serve.speaker import ContinuousSpeaker
from speechbrain_emofilm.serve.speech import Reading, read_text

from fastapi import Request, UploadFile, WebSocket

#: Greatest number of recordings that wait to be labelled.
MAX_RECORDINGS = 8
#: How often it is checked whether the client is still there, in seconds.
_LOOK = 0.25


@dataclass(frozen=True)
class Settings:
    """Settings of the server.

    Arguments
    ---------
    host : str
        Address that the server listens to.
    token : str, optional
        Token that requests must bring.
    max_characters : int
        Longest text of a request.
    max_jobs : int
        Greatest number of requests that wait or are spoken.
    max_jobs_per_client : int, optional
        Greatest number of them of one client; `max_jobs` if None.
    max_rows : int
        Greatest number of sentences that are spoken together.
    max_streams : int
        Greatest number of WebSockets.
    max_upload : int
        Greatest size of a recording in bytes.
    max_recording : float
        Longest recording in seconds.
    max_voices : int
        Greatest number of voices that clients add.
    keep_voices : bool
        Whether these voices are kept in the model's folder.
    time_limit : float
        Seconds after which a request is given up.
    idle_limit : float
        Seconds after which a silent WebSocket, or a client that does not
        read its response, is given up.
    threads : int, optional
        Number of threads of the model on a CPU.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    max_characters: int = 4096
    max_jobs: int = 128
    max_jobs_per_client: int | None = None
    max_rows: int = 16
    max_streams: int = 32
    max_upload: int = 32 << 20
    max_recording: float = 120.0
    max_voices: int = 32
    keep_voices: bool = False
    time_limit: float = 120.0
    idle_limit: float = 60.0
    threads: int | None = None


@dataclass(frozen=True)
class Parts:
    """Abilities that a model may lack.

    Arguments
    ---------
    suggest : callable, optional
        ``suggest(text) -> MarkedText`` gives the unmarked words of a text
        emotions.
    label : callable, optional
        ``label(wav, sample_rate, text, words) -> UtteranceLabels`` labels
        the words of a sound (T,); what is said is recognised if neither text
        nor words (with times) are given. It may have ``emotions``, the
        taxonomy of its labels, and a ``note`` about them.
    missing : dict
        Why an ability is missing, by its name.
    """

    suggest: Callable[[str], MarkedText] | None = None
    label: Callable[..., UtteranceLabels] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


class Fault(Exception):
    """Error that is told to the client.

    Arguments
    ---------
    message : str
        One clear sentence.
    code : str
        Short name of the error, which does not change.
    status : int
        HTTP status.
    param : str, optional
        Name of the item of the request that is wrong.
    **values
        Numbers and names of the message.
    """

    def __init__(
        self,
        message: str,
        code: str,
        status: int = 400,
        param: str | None = None,
        **values: Any,
    ):
        super().__init__(message)
        self.code, self.status, self.param = code, status, param
        self.values = values


class Listener:
    """Events of a job, for a coroutine."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue = asyncio.Queue()

    def sink(self, event: Any) -> None:
        """Take an event from the model's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody listens
            pass

    async def next(self, timeout: float | None = None) -> Any:
        """Return the next event; an error is raised."""
        event = await asyncio.wait_for(self._events.get(), timeout)
        if isinstance(event, Exception):
            raise event
        return event


class Service:
    """What the endpoints share: model, engine and settings.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    settings : Settings
        Settings of the server.
    parts : Parts
        Further abilities.
    speaker : RowSpeaker, optional
        What speaks; a :class:`ContinuousSpeaker` if None.
    """

    def __init__(
        self,
        synthesizer,
        settings: Settings,
        parts: Parts,
        speaker: RowSpeaker | None,
    ):
        self.synthesizer = synthesizer
        self.settings = settings
        self.parts = parts
        self.engine = Engine(
            speaker or ContinuousSpeaker(synthesizer, settings.max_rows),
            settings.max_jobs,
            settings.max_jobs_per_client,
            settings.threads,
        )
        folder = getattr(synthesizer, "folder", None)
        self.name = folder.name if folder else "emofilm"
        # Texts are read, and words found in sound, beside the model's thread:
        # one at a time, since front ends and aligners have a state.
        self.reader = ThreadPoolExecutor(1, "emofilm-text")
        self.aligner = ThreadPoolExecutor(1, "emofilm-words")
        self.n_streams = 0
        self.n_added = 0
        self.labelling = ThreadPoolExecutor(1, "labelling")
        self._room = threading.Semaphore(MAX_RECORDINGS)

    @property
    def emotions(self) -> list[str]:
        """Names of the model's emotions."""
        return list(self.synthesizer.emotions)

    @property
    def tags(self) -> list[str]:
        """Tags of the model."""
        return list(self.synthesizer.tags)

    @property
    def axes(self) -> list[str]:
        """Names of the model's axes of prosody."""
        return list(getattr(self.synthesizer, "axes", ()))

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the model in Hz."""
        return self.synthesizer.sample_rate

    def abilities(self) -> dict[str, bool]:
        """Tell which further abilities there are."""
        return {
            "suggest": self.parts.suggest is not None,
            "label": self.parts.label is not None,
        }

    def require(self, name: str) -> Callable[..., Any]:
        """Return an ability; say why it is missing."""
        function = getattr(self.parts, name)
        if function is None:
            does = {
                "suggest": "suggests no emotions",
                "label": "labels no recordings",
            }[name]
            reason = self.reason(name)
            raise Fault(
                f"This server {does}: {reason}",
                f"{name}_missing",
                501,
                reason=reason,
            )
        return function

    def reason(self, name: str) -> str:
        """Say why an ability is missing."""
        absent = {"suggest": "it has no suggester.", "label": "no labeler."}
        return self.parts.missing.get(name, absent[name])

    def close(self) -> None:
        """End the threads."""
        self.engine.close()
        for pool in (self.reader, self.aligner):
            pool.shutdown(cancel_futures=True)

    def parse(self, text: str, param: str = "text") -> MarkedText:
        """Read a marked text; refuse it with the place of the error."""
        self.check_length(text, param)
        try:
            return parse_markup(
                text,
                self.emotions,
                max_words=MAX_WORDS,
                tags=self.tags,
                axes=self.axes,
            )
        except ValueError as error:
            raise Fault(str(error), "marks_wrong", param=param) from error

    def check_length(self, text: str, param: str = "text") -> None:
        """Refuse a text that is too long."""
        limit = self.settings.max_characters
        if len(text) > limit:
            raise Fault(
                f"The text has {len(text)} characters, more than the {limit} "
                "that are accepted: give it in parts.",
                "text_too_long",
                param=param,
                length=len(text),
                limit=limit,
            )

    def read(self, request: MarksRequest) -> tuple[str, MarkedText]:
        """Return marks and words of a request."""
        if (request.text is None) == (request.words is None):
            raise Fault(
                "Give either text or words.", "text_or_words", param="text"
            )
        if request.text is not None:
            marked = self.parse(request.text)
            words = words_of(marked)
        else:
            words = [word.model_dump() for word in request.words or ()]
            unknown = {
                name for word in words for name in word["emotion"] or ()
            } - set(self.emotions)
            if unknown:
                raise Fault(
                    f"The emotion {min(unknown)!r} is not known: this model "
                    f"has {', '.join(self.emotions)}.",
                    "emotion_unknown",
                    param="words",
                    name=min(unknown),
                    known=", ".join(self.emotions),
                )
        try:
            marks = marks_of(words, self.emotions, self.tags, self.axes)
        except ValueError as error:
            raise Fault(str(error), "words_wrong", param="words") from error
        return marks, self.parse(marks, "words")

    def voice(self, name: str | None) -> str:
        """Return a voice's name; refuse an unknown one."""
        speakers = list(self.synthesizer.speakers)
        if name in (None, "default"):
            return speakers[0]
        # A speaker with a voice for each emotion has a neutral one.
        for known in (name, f"{name}/neutral"):
            if known in speakers:
                return known
        shown = ", ".join(speakers[:20]) + (", ..." if speakers[20:] else "")
        raise Fault(
            f"The voice {name[:80]!r} is not known: this model has {shown}.",
            "voice_unknown",
            param="voice",
            name=name[:80],
            known=shown,
        )

    async def plan(
        self,
        text: str,
        asked: SpeechRequest | WordsRequest,
        instruction: str | None,
        param: str,
    ) -> tuple[Reading, Speaking]:
        """Read a text, and how to speak it; refuse what is not possible."""
        voice = self.voice(asked.voice)

        def read() -> tuple[Reading, Any]:
            try:
                reading = read_text(self.synthesizer.planner, text)
            except ValueError as error:
                raise Fault(str(error), "text_wrong", param=param) from error
            try:
                prompt = self.synthesizer.prompt(voice, None, instruction)
            except ValueError as error:
                raise Fault(
                    str(error), "instruction_wrong", param="instructions"
                ) from error
            return reading, prompt

        reading, prompt = await self.in_reader(read)
        return reading, Speaking(
            voice, asked.seed, asked.guidance, asked.speed, prompt
        )

    async def in_reader(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the thread that reads texts."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.reader, function, *args)

    def job(
        self,
        client: str,
        listener: Listener,
        speaking: Speaking,
        pieces: Sequence[Piece],
        complete: bool = True,
        streaming: bool = False,
    ) -> Job:
        """Hand a job to the engine."""
        job = Job(
            client,
            speaking,
            listener.sink,
            pieces,
            complete,
            streaming,
            self.settings.time_limit,
            self.synthesizer.history,
        )
        self.engine.submit(job)
        return job

    async def next_event(
        self, request: Request, listener: Listener, job: Job
    ) -> Any:
        """Wait for the next event while the client is there."""
        while True:
            try:
                return await listener.next(_LOOK)
            except ValueError as error:  # the model cannot speak the text
                raise Fault(str(error), "unspeakable") from error
            except TimeoutError:
                if await request.is_disconnected():
                    raise Fault(
                        "The client has left.", "client_left", 499
                    ) from None
                # The model's thread may be in the middle of a long step.
                if time.monotonic() > job.deadline:
                    raise OutOfTime() from None

    async def on_model(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread that owns the model."""
        future = asyncio.wrap_future(self.engine.call(function))
        try:
            return await asyncio.wait_for(future, self.settings.time_limit)
        except TimeoutError:
            raise OutOfTime() from None

    async def label(self, function: Callable[[], Any]) -> Any:
        """Call a function beside the model's thread, one after another.

        Speech goes on while a recording is labelled.
        """
        if not self._room.acquire(blocking=False):
            raise Overloaded(round(self.settings.time_limit / 2))
        work = self.labelling.submit(function)
        work.add_done_callback(lambda _: self._room.release())
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(work), self.settings.time_limit
            )
        except TimeoutError:
            raise Fault(
                "The recording was not labelled in time: cut it, or try "
                "again later.",
                "label_timeout",
                504,
            ) from None


def answer_to(error: Exception) -> tuple[int, dict[str, Any]]:
    """Find status and body of the answer to an error.

    Arguments
    ---------
    error : Fault, Overloaded, OutOfTime, ValueError or TimeoutError
        The error.

    Returns
    -------
    status : int
        HTTP status.
    body : dict
        Body, see :func:`~speechbrain_emofilm.serve.guard.error_body`.

    Example
    -------
    >>> status, body = answer_to(Overloaded(3))
    >>> status, body["error"]["code"], body["error"]["values"]
    (429, 'rate_limit_exceeded', {'seconds': 3})
    """
    if isinstance(error, Overloaded):
        return 429, error_body(
            str(error),
            "rate_limit_error",
            code="rate_limit_exceeded",
            values={"seconds": error.retry_after},
        )
    if isinstance(error, OutOfTime | TimeoutError):
        message = str(error) or str(OutOfTime())
        return 504, error_body(message, "server_error", code="timeout")
    if isinstance(error, Fault):
        kind = "server_error" if error.status >= 500 else None
        return error.status, error_body(
            str(error),
            kind or "invalid_request_error",
            error.param,
            error.code,
            error.values,
        )
    return 400, error_body(str(error), code="unspeakable")


def client_of(connection: Request | WebSocket) -> str:
    """Tell who asks: clients share the model equally.

    Arguments
    ---------
    connection : Request or WebSocket
        The connection.

    Returns
    -------
    str
        The client's address.
    """
    return connection.client.host if connection.client else "?"


async def decode(service: Service, file: UploadFile):
    """Decode an uploaded recording.

    Arguments
    ---------
    service : Service
        The service, whose settings limit the recording.
    file : UploadFile
        The recording.

    Returns
    -------
    wav : torch.Tensor
        Sound (T,), float32.
    sample_rate : int
        Sampling rate in Hz.

    Raises
    ------
    Fault
        If it cannot be decoded, or is too long.
    """
    limits = service.settings
    data = await file.read(limits.max_upload + 1)
    try:
        return await asyncio.to_thread(
            audio.decode_recording, data, limits.max_recording
        )
    except ValueError as error:
        raise Fault(
            str(error),
            "recording_wrong",
            param="file",
            longest=f"{limits.max_recording:g}",
        ) from error


def problem_of(errors: Sequence[Any]) -> str:
    """Say what is wrong with a request, in one sentence.

    Arguments
    ---------
    errors : list of dict
        Errors as pydantic lists them.

    Returns
    -------
    str
        The place of the first error and what it is.

    Example
    -------
    >>> problem_of([{"loc": ("body", "seed"), "msg": "Not a number"}])
    'seed: not a number.'
    """
    first = errors[0] if errors else {"loc": (), "msg": "it cannot be read"}
    if first.get("type") == "json_invalid":
        return "The request is not JSON: send an object."
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    more = f" ({len(errors) - 1} further problems)" if errors[1:] else ""
    return f"{place or 'The request'}: {str(first['msg']).lower()}{more}."


def timed(word: Word) -> dict[str, Any]:
    """Write a word and its times in seconds as an answer's object.

    Arguments
    ---------
    word : Word
        The word.

    Returns
    -------
    dict
        "text", "start" and "end".

    Example
    -------
    >>> timed(Word("won", 0.1, 0.25, 1.0))
    {'text': 'won', 'start': 0.1, 'end': 0.25}
    """
    return {
        "text": word.text,
        "start": round(word.start, 4),
        "end": round(word.end, 4),
    }
