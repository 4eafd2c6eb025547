"""The web application of ``emofilm serve``."""

import asyncio
import base64
import json
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from speechbrain_emofilm import __version__
from speechbrain_emofilm.dataio import encoding
from speechbrain_emofilm.dataio.alignments import (
    Word,
    read_alignment,
    read_tiers,
)
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.markup import MarkedText, parse_markup
from speechbrain_emofilm.inference.labeling import make_label
from speechbrain_emofilm.inference.long_text import Piece
from speechbrain_emofilm.inference.suggester import make_suggest, write_marks
from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.serve import audio
from speechbrain_emofilm.serve.engine import (
    Engine,
    Job,
    OutOfTime,
    Overloaded,
    RowSpeaker,
    Speaking,
)
from speechbrain_emofilm.serve.guard import Guard, error_body, is_loopback
from speechbrain_emofilm.serve.marks import MAX_WORDS, marks_of, words_of
from speechbrain_emofilm.serve.models import (
    ExportRequest,
    MarksRequest,
    SpeechRequest,
    StreamEnd,
    StreamStart,
    StreamText,
    SuggestRequest,
    WordsRequest,
)
from speechbrain_emofilm.serve.speaker import ContinuousSpeaker
from speechbrain_emofilm.serve.speech import (
    Reading,
    Speech,
    StreamReader,
    read_text,
)
from speechbrain_emofilm.utils.colors import emotion_colors

import numpy as np
import soundfile
from fastapi import (
    FastAPI,
    File,
    Form,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from speechbrain.utils.logger import get_logger
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

logger = get_logger(__name__)

STATIC = Path(__file__).parent / "static"
#: Names by which OpenAI's clients ask for a speech model.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
#: Greatest number of recordings that wait to be labelled.
MAX_RECORDINGS = 8
#: How often it is checked whether the client is still there, in seconds.
_LOOK = 0.25
_VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


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


class _Fault(Exception):
    """Error that is told to the client."""

    def __init__(self, message, status=400, **details):
        super().__init__(message)
        self.status = status
        self.details = details


class _Listener:
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
    """What the endpoints share: model, engine and settings."""

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
            raise _Fault(str(error), param=param) from error

    def check_length(self, text: str, param: str = "text") -> None:
        """Refuse a text that is too long."""
        limit = self.settings.max_characters
        if len(text) > limit:
            raise _Fault(
                f"The text has {len(text)} characters, more than the {limit} "
                "that are accepted: give it in parts.",
                param=param,
            )

    def read(self, request: MarksRequest) -> tuple[str, MarkedText]:
        """Return marks and words of a request."""
        if (request.text is None) == (request.words is None):
            raise _Fault("Give either text or words.", param="text")
        if request.text is not None:
            marked = self.parse(request.text)
            words = words_of(marked)
        else:
            words = [word.model_dump() for word in request.words or ()]
            unknown = {
                name for word in words for name in word["emotion"] or ()
            } - set(self.emotions)
            if unknown:
                raise _Fault(
                    f"The emotion {min(unknown)!r} is not known: this model "
                    f"has {', '.join(self.emotions)}.",
                    param="words",
                )
        try:
            marks = marks_of(words, self.emotions, self.tags, self.axes)
        except ValueError as error:
            raise _Fault(str(error), param="words") from error
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
        raise _Fault(
            f"The voice {name[:80]!r} is not known: this model has {shown}.",
            param="voice",
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
                raise _Fault(str(error), param=param) from error
            try:
                prompt = self.synthesizer.prompt(voice, None, instruction)
            except ValueError as error:
                raise _Fault(str(error), param="instructions") from error
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
        listener: _Listener,
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
        self, request: Request, listener: _Listener, job: Job
    ) -> Any:
        """Wait for the next event while the client is there."""
        while True:
            try:
                return await listener.next(_LOOK)
            except ValueError as error:  # the model cannot speak the text
                raise _Fault(str(error)) from error
            except TimeoutError:
                if await request.is_disconnected():
                    raise _Fault("The client has left.", 499) from None
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
            raise _Fault(
                "The recording was not labelled in time: cut it, or try "
                "again later.",
                504,
                code="timeout",
            ) from None


def create_app(
    synthesizer,
    settings: Settings | None = None,
    parts: Parts | None = None,
    speaker: RowSpeaker | None = None,
) -> FastAPI:
    """Create the application.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    settings : Settings, optional
        Settings; the defaults if None.
    parts : Parts, optional
        Further abilities; those of :func:`find_parts` if None.
    speaker : RowSpeaker, optional
        What speaks; a :class:`ContinuousSpeaker` if None.

    Returns
    -------
    FastAPI
        The application; ``state.service`` holds its engine.
    """
    settings = settings or Settings()
    service = Service(
        synthesizer,
        settings,
        find_parts(synthesizer) if parts is None else parts,
        speaker,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        service.labelling.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="E-FiLM speech",
        summary="Speech with an emotion for every word.",
        description=(
            "Texts hold marks such as `<happy>We won!</happy>`, "
            "`<sad intensity=0.4>but he left.</>` or the mixture "
            "`<happy=0.7 surprise=0.3>Oh!</>`. `/v1/audio/speech` works with "
            "the clients made for OpenAI's interface."
        ),
        version=__version__,
        # Their pages load scripts from elsewhere; /openapi.json is served.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _add_error_handlers(app)
    _add_information(app, service)
    _add_speech(app, service)
    _add_labels(app, service)
    _add_stream(app, service)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), "static")
    hosts = None
    if is_loopback(settings.host):
        hosts = {"127.0.0.1", "localhost", "::1", settings.host}
    app.add_middleware(
        Guard,
        token=settings.token,
        hosts=hosts,
        max_upload=settings.max_upload,
    )
    return app


def find_parts(synthesizer) -> Parts:
    """Find the further abilities that are installed with the model.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model. Its own methods ``suggest`` and ``label`` are used if it
        has them, else those of
        :func:`~speechbrain_emofilm.inference.suggester.make_suggest` and
        :func:`~speechbrain_emofilm.inference.labeling.make_label`.
    """
    found: dict[str, Any] = {}
    missing = {}
    for name, make in (("suggest", make_suggest), ("label", make_label)):
        found[name] = getattr(synthesizer, name, None)
        if found[name] is None:
            try:
                found[name] = make(synthesizer)
            except (ImportError, ValueError, OSError) as error:
                missing[name] = str(error)
                logger.warning("The server cannot %s: %s", name, error)
    return Parts(**found, missing=missing)


def _client(connection: Request | WebSocket) -> str:
    """Return who asks: clients share the model equally."""
    return connection.client.host if connection.client else "?"


def _add_error_handlers(app: FastAPI) -> None:
    """Answer all errors in one shape."""

    def answer(status, message, headers=None, kind=None, **details):
        kind = kind or (
            "server_error" if status >= 500 else "invalid_request_error"
        )
        return JSONResponse(
            error_body(message, kind, **details), status, headers
        )

    @app.exception_handler(_Fault)
    async def on_fault(request, error):
        return answer(error.status, str(error), **error.details)

    @app.exception_handler(HTTPException)
    async def on_http(request, error):
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Overloaded)
    async def on_overload(request, error):
        return answer(
            429,
            str(error),
            {"retry-after": str(error.retry_after)},
            kind="rate_limit_error",
            code="rate_limit_exceeded",
        )

    @app.exception_handler(OutOfTime)
    async def on_timeout(request, error):
        return answer(504, str(error), code="timeout")

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request, error):
        return answer(400, _problem(error.errors()), param=_place(error))

    @app.exception_handler(Exception)
    async def on_error(request, error):
        return answer(500, "The server has failed; its log says why.")

    def _place(error):
        place = [str(p) for p in error.errors()[0]["loc"] if p != "body"]
        return place[0] if place else None


def _problem(errors: Sequence[Any]) -> str:
    """Say what is wrong with a request, in one sentence."""
    first = errors[0] if errors else {"loc": (), "msg": "it cannot be read"}
    if first.get("type") == "json_invalid":
        return "The request is not JSON: send an object."
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    more = f" ({len(errors) - 1} further problems)" if errors[1:] else ""
    return f"{place or 'The request'}: {str(first['msg']).lower()}{more}."


def _add_information(app: FastAPI, service: Service) -> None:
    """Add the page and what it asks about the model."""

    @app.get("/", include_in_schema=False)
    async def page():
        index = STATIC / "index.html"
        if not index.is_file():
            raise _Fault("The page is not installed.", 404)
        return FileResponse(index, headers={"cache-control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon():
        return Response(status_code=204)

    @app.get("/healthz", summary="Whether the model answers")
    async def health():
        alive = service.engine.alive
        return JSONResponse(
            {
                "status": "ok" if alive else "stopped",
                "model": service.name,
                "version": __version__,
            },
            200 if alive else 503,
        )

    @app.get("/v1/models", summary="The model, as in OpenAI's list")
    async def models():
        return {
            "object": "list",
            "data": [
                {
                    "id": service.name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "emofilm",
                }
            ],
        }

    @app.get("/v1/emotions", summary="Emotions and other axes of the words")
    async def emotions():
        return {
            "emotions": [
                {"name": name, "colour": colour}
                for name, colour in emotion_colors(service.emotions).items()
            ],
            "axes": [AXES[name].describe() for name in service.axes],
        }

    @app.get("/v1/tags", summary="Tags that a text may hold")
    async def tags():
        return {"tags": service.tags}

    @app.get("/v1/voices", summary="Voices of the model")
    async def voices():
        known: dict[str, list[str]] = {}
        for name in service.synthesizer.speakers:
            speaker, _, emotion = name.partition("/")
            known.setdefault(speaker, [])
            if emotion:
                known[speaker].append(emotion)
        return {
            "default": next(iter(known)),
            "can_add": _can_add(service),
            "voices": [
                {"id": name, "emotions": own} for name, own in known.items()
            ],
        }

    @app.post("/v1/voices", summary="Add the voice of a recording")
    async def add_voice(
        name: Annotated[str, Form(max_length=64)],
        file: Annotated[UploadFile, File()],
        text: Annotated[str | None, Form(max_length=2000)] = None,
    ):
        if not _VOICE_NAME.fullmatch(name):
            raise _Fault(
                "The name of a voice has 1 to 64 letters, digits, - and _, "
                "and begins with a letter or digit.",
                param="name",
            )
        if not _can_add(service):
            try:
                service.synthesizer.mods.token_to_wav.check_new_voice(name)
                problem = "This model has no voice_maker."
            except ValueError as error:
                problem = str(error)
            raise _Fault(problem)
        if name in (s.partition("/")[0] for s in service.synthesizer.speakers):
            raise _Fault(f"There is a voice {name!r} already.", 409)
        if service.n_added >= service.settings.max_voices:
            raise _Fault("No more voices can be added.", 409)
        wav, sample_rate = await _decode(service, file)

        def add():
            with tempfile.TemporaryDirectory(prefix="emofilm-") as folder:
                path = Path(folder) / "recording.wav"
                soundfile.write(path, wav.numpy(), sample_rate, "FLOAT")
                try:
                    service.synthesizer.add_voice(name, path, text or None)
                except (ValueError, ImportError) as error:
                    # The name of our file tells a client nothing.
                    message = str(error).replace(str(path), "The recording")
                    raise _Fault(message, param="file") from error
            service.n_added += 1

        await service.on_model(add)
        return {"id": name, "emotions": []}


def _can_add(service: Service) -> bool:
    """Check whether the model takes on voices."""
    synthesizer = service.synthesizer
    if getattr(synthesizer.hparams, "voice_maker", None) is None:
        return False
    try:
        synthesizer.mods.token_to_wav.check_new_voice("x")
    except ValueError:
        return False
    return True


async def _decode(service: Service, file: UploadFile):
    """Decode an uploaded recording."""
    limits = service.settings
    data = await file.read(limits.max_upload + 1)
    try:
        return await asyncio.to_thread(
            audio.decode_recording, data, limits.max_recording
        )
    except ValueError as error:
        raise _Fault(str(error), param="file") from error


class _SpeechResponse(StreamingResponse):
    """Response whose job ends with it, however it ends."""

    def __init__(self, content, job, engine, idle_limit, **options):
        super().__init__(content, **options)
        self._job, self._engine = job, engine
        self._idle_limit = idle_limit

    async def __call__(self, scope, receive, send):
        async def prompt_send(message):
            try:
                await asyncio.wait_for(send(message), self._idle_limit)
            except TimeoutError:
                raise OSError("The client does not read.") from None

        try:
            await super().__call__(scope, receive, prompt_send)
        finally:
            self._engine.cancel(self._job)


def _add_speech(app: FastAPI, service: Service) -> None:
    """Add the endpoints that speak."""

    @app.post(
        "/v1/audio/speech",
        summary="Speech, with OpenAI's interface",
        response_class=Response,
        responses={
            200: {"content": {t: {} for t in encoding.MEDIA_TYPES.values()}}
        },
    )
    async def speech(asked: SpeechRequest, request: Request):
        if asked.model not in (service.name, "emofilm", *OPENAI_MODELS):
            raise _Fault(
                f"The model {asked.model[:80]!r} is not here: ask for "
                f"{service.name}.",
                404,
                param="model",
                code="model_not_found",
            )
        service.parse(asked.input, "input")
        reading, speaking = await service.plan(
            asked.input, asked, asked.instructions or None, "input"
        )
        listener = _Listener()
        in_parts = asked.stream
        if in_parts is None:
            in_parts = asked.response_format == "pcm" or len(reading.pieces) > 1
        sse = asked.stream_format == "sse"
        streamed = in_parts and asked.response_format in encoding.STREAMED
        job = service.job(
            _client(request),
            listener,
            speaking,
            reading.pieces,
            streaming=streamed,
        )
        try:
            # Errors that show with the first sound have a status.
            first: Any = await service.next_event(request, listener, job)
        except BaseException:
            service.engine.cancel(job)
            raise

        async def parts():
            encoder = encoding.Encoder(
                service.sample_rate, asked.response_format, not streamed
            )
            speech = Speech(service.synthesizer, speaking.speed)
            speech.expect(reading)
            event = first
            while event is not None:
                data = encoder.add(speech.add(event))
                if data:
                    yield _delta(data) if sse else data
                event = await listener.next(
                    max(job.deadline - time.monotonic(), 0)
                )

            def finish():
                return encoder.add(speech.finish()) + encoder.finish()

            # A whole file is encoded now, beside other requests.
            data = finish() if streamed else await asyncio.to_thread(finish)
            if data:
                yield _delta(data) if sse else data
            if sse:
                yield _event({"type": "speech.audio.done"})

        media = encoding.MEDIA_TYPES[asked.response_format]
        return _SpeechResponse(
            parts(),
            job,
            service.engine,
            service.settings.idle_limit,
            media_type="text/event-stream" if sse else media,
            headers={"x-sample-rate": str(service.sample_rate)},
        )

    def _delta(data: bytes) -> bytes:
        encoded = base64.b64encode(data).decode()
        return _event({"type": "speech.audio.delta", "audio": encoded})

    def _event(content: dict) -> bytes:
        return f"data: {json.dumps(content)}\n\n".encode()

    @app.post("/v1/words", summary="Speech with the times of its words")
    async def words(asked: WordsRequest, request: Request):
        marks, marked = service.read(asked)
        reading, speaking = await service.plan(
            marks, asked, asked.instruction or None, "text"
        )
        listener = _Listener()
        job = service.job(_client(request), listener, speaking, reading.pieces)
        speech = Speech(service.synthesizer, speaking.speed, service.aligner)
        speech.expect(reading)
        rate, kind = service.sample_rate, asked.response_format
        try:
            wavs = []
            while True:
                event = await service.next_event(request, listener, job)
                if event is None:
                    break
                wavs.append(speech.add(event))
            wav = np.concatenate([*wavs, speech.finish()])

            def finish():
                sound = encoding.encode(wav, rate, kind)
                f0 = audio.f0_track(wav, rate)
                left = max(job.deadline - time.monotonic(), 0)
                try:
                    return sound, f0, *speech.timed_words(left)
                except FutureTimeout:
                    raise OutOfTime() from None

            sound, f0, times, source = await asyncio.to_thread(finish)
        finally:
            service.engine.cancel(job)
            speech.close()
        return {
            "audio": base64.b64encode(sound).decode(),
            "format": kind,
            "sample_rate": rate,
            "duration": round(speech.duration, 4),
            "text": marked.text,
            "marks": marks,
            "seed": asked.seed,
            "voice": speaking.voice,
            "words": [
                {
                    **_timed(time),
                    "confidence": round(time.confidence, 4),
                    "emotion": word["emotion"],
                    "intensity": word["intensity"],
                }
                for word, time in zip(words_of(marked), times)
            ],
            "word_times_source": source,
            "f0": f0,
        }

    @app.post("/v1/marks", summary="Marks as words, and words as marks")
    async def marks(asked: MarksRequest):
        return _marks_answer(*service.read(asked))

    @app.post("/v1/suggest", summary="Emotions suggested for a text")
    async def suggest(asked: SuggestRequest):
        function = service.parts.suggest
        if function is None:
            reason = service.parts.missing.get("suggest", "it has no suggester")
            raise _Fault(f"This model suggests no emotions: {reason}", 501)
        service.parse(asked.text)
        try:
            found = await service.on_model(lambda: function(asked.text))
            suggested = write_marks(found, service.tags)
        except ValueError as error:
            raise _Fault(str(error), param="text") from error
        return _marks_answer(suggested, service.parse(suggested))


def _timed(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": round(word.start, 4),
        "end": round(word.end, 4),
    }


def _marks_answer(marks: str, marked: MarkedText) -> dict[str, Any]:
    return {"marks": marks, "text": marked.text, "words": words_of(marked)}


def _add_labels(app: FastAPI, service: Service) -> None:
    """Add labelling of recordings."""

    @app.post("/v1/label", summary="Emotions of the words of a recording")
    async def label(
        file: Annotated[UploadFile, File()],
        text: Annotated[str | None, Form(max_length=20000)] = None,
        alignment: Annotated[UploadFile | None, File()] = None,
    ):
        function = service.parts.label
        if function is None:
            reason = service.parts.missing.get("label", "it has no labeler")
            raise _Fault(f"This server labels no recordings: {reason}", 501)
        text = " ".join((text or "").split())
        wav, sample_rate = await _decode(service, file)
        words = labels = None
        if alignment is not None:
            content = await alignment.read(1 << 20)
            given = await asyncio.to_thread(_read_labels, service, content)
            words = given.alignment()
            if any(word.emotion for word in given.words):
                labels = given  # to be looked at and corrected

        def work():
            return function(wav, sample_rate, text or None, words)

        try:
            if labels is None:
                labels = await service.label(work)
        except ImportError as error:
            raise _Fault(
                f"This server labels no recordings: {error}", 501
            ) from error
        except ValueError as error:
            raise _Fault(str(error), param="file") from error
        return {
            "duration": round(len(wav) / sample_rate, 4),
            "text": text or " ".join(word.word for word in labels.words),
            "words": [
                {
                    "text": word.word,
                    "start": word.start,
                    "end": word.end,
                    "confidence": word.confidence,
                    "emotion": (
                        dict(word.probs)
                        if word.probs
                        else {word.emotion: 1.0}
                        if word.emotion
                        else None
                    ),
                    "intensity": word.intensity,
                }
                for word in labels.words
            ],
            "note": getattr(function, "note", None),
        }

    @app.post("/v1/label/export", summary="Labels as a file")
    async def export(asked: ExportRequest):
        labels = UtteranceLabels(
            [
                WordLabel(
                    word.text,
                    word.start,
                    word.end,
                    _strongest(word.emotion),
                    word.emotion or None,
                    word.intensity,
                    word.confidence,
                )
                for word in asked.words
            ],
            {"labeler": "emofilm serve", **_noted(service)},
        )
        try:
            content = await asyncio.to_thread(
                _write_labels, asked, labels, service
            )
        except ValueError as error:
            raise _Fault(str(error), param="words") from error
        suffix = "TextGrid" if asked.format == "textgrid" else "json"
        return Response(
            content,
            media_type=(
                "text/plain; charset=utf-8"
                if asked.format == "textgrid"
                else "application/json"
            ),
            headers={
                "content-disposition": (
                    f'attachment; filename="{asked.name}.{suffix}"'
                )
            },
        )


def _noted(service: Service) -> dict[str, str]:
    """Return what users should know about labels."""
    note = getattr(service.parts.label, "note", None)
    return {"note": note} if note else {}


def _taxonomy(service: Service) -> list[str]:
    """List the emotions of the model and those of the labeler."""
    own = getattr(service.parts.label, "emotions", ())
    return list(dict.fromkeys([*service.emotions, *own]))


def _strongest(emotion: dict[str, float] | None) -> str | None:
    """Name the strongest emotion of a mixture."""
    return max(emotion, key=emotion.__getitem__) if emotion else None


def _write_labels(asked, labels, service) -> bytes:
    """Write labels with the package's writers and return the file."""
    with tempfile.TemporaryDirectory(prefix="emofilm-") as folder:
        path = Path(folder) / "labels"
        try:
            if asked.format == "textgrid":
                write_label_textgrid(path, labels, asked.duration)
            else:
                write_word_labels(
                    path, {asked.name: labels}, _taxonomy(service)
                )
        except ValueError as error:
            raise ValueError(
                str(error).replace(str(path), "The file")
            ) from error
        return path.read_bytes()


def _read_labels(service: Service, content: bytes) -> UtteranceLabels:
    """Read an uploaded TextGrid, or word labels as JSON.

    The words of a TextGrid without the tier of emotions are unlabelled.
    """
    emotions = _taxonomy(service)
    with tempfile.TemporaryDirectory(prefix="emofilm-") as folder:
        path = Path(folder) / "alignment"
        path.write_bytes(content)
        try:
            if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                if {"words", "emotion"} <= read_tiers(path).keys():
                    return read_label_textgrid(path, emotions)
                return UtteranceLabels(
                    [
                        WordLabel(word.text, word.start, word.end)
                        for word in read_alignment(path)
                    ]
                )
            labels = list(read_word_labels(path, emotions).values())
            if len(labels) != 1:
                raise ValueError(
                    f"The alignment has {len(labels)} utterances: give one."
                )
            return labels[0]
        except (ValueError, RecursionError) as error:
            message = str(error).replace(str(path), "The alignment")
            raise _Fault(message, param="alignment") from error


def _add_stream(app: FastAPI, service: Service) -> None:
    """Add the WebSocket: text in, sound and word times out."""

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket):
        offered = socket.scope.get("subprotocols") or [None]
        if service.n_streams >= service.settings.max_streams:
            await socket.close(1013)
            return
        service.n_streams += 1
        inbox = _Inbox(socket, service.settings.idle_limit)
        try:
            await socket.accept(offered[0])
            # A client may have one text spoken after the other.
            while await _speak_stream(service, socket, inbox):
                pass
        except (TimeoutError, WebSocketDisconnect, OSError):
            pass
        finally:
            service.n_streams -= 1
            inbox.close()
            try:
                await socket.close()
            except (RuntimeError, OSError):  # it is closed
                pass


class _Inbox:
    """Messages of a WebSocket; none is lost when who waits is cancelled.

    Arguments
    ---------
    socket : WebSocket
        The connection.
    idle_limit : float
        Seconds after which a silent client is given up.
    """

    def __init__(self, socket: WebSocket, idle_limit: float):
        self._socket, self._idle_limit = socket, idle_limit
        self._pending: asyncio.Future | None = None

    async def wait(self, timeout: float | None = None) -> None:
        """Wait until there is a message."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._socket.receive())
        await asyncio.wait({self._pending}, timeout=timeout)

    async def take(self, *kinds: type[BaseModel]) -> Any:
        """Take the next message, which has to be of one of some kinds."""
        await self.wait(self._idle_limit)
        if self._pending is None or not self._pending.done():
            raise TimeoutError
        raw, self._pending = self._pending.result(), None
        if raw["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(raw.get("code", 1000))
        return _parse_message(raw.get("text"), kinds)

    def close(self) -> None:
        """Stop listening."""
        if self._pending is not None:
            self._pending.cancel()


def _parse_message(text: str | None, kinds: Sequence[type[BaseModel]]) -> Any:
    """Parse a message of one of some kinds."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        raise _Fault("The message is not JSON: send an object.") from None
    asked = content.get("type") if isinstance(content, dict) else None
    expected = []
    for kind in kinds:
        names = get_args(kind.model_fields["type"].annotation)
        expected += names
        if asked in names:
            try:
                return kind.model_validate(content)
            except ValidationError as error:
                raise _Fault(_problem(error.errors())) from None
    raise _Fault(
        f"A message of the type {str(asked)[:40]!r} is not expected here: "
        f"send {', '.join(expected)}."
    )


async def _speak_stream(
    service: Service, socket: WebSocket, inbox: _Inbox
) -> bool:
    """Speak one text of a stream; tell whether another may follow."""
    idle = service.settings.idle_limit
    job = None

    async def send(content: dict | bytes) -> None:
        if isinstance(content, bytes):
            await asyncio.wait_for(socket.send_bytes(content), idle)
        else:
            await asyncio.wait_for(socket.send_json(content), idle)

    try:
        start = await inbox.take(StreamStart, StreamEnd)
        if isinstance(start, StreamEnd):
            return start.type == "cancel"
        speaking = Speaking(
            service.voice(start.voice), start.seed, start.guidance, start.speed
        )
        listener = _Listener()
        job = service.job(
            _client(socket), listener, speaking, (), False, streaming=True
        )
        speech = Speech(service.synthesizer, speaking.speed)
        await send({"type": "start", "sample_rate": service.sample_rate})
        done = await _converse(service, inbox, send, job, listener, speech)
        await send({"type": "done", **done})
        return True
    except (_Fault, ValueError, Overloaded, OutOfTime) as error:
        await send({"type": "error", "message": str(error)})
        return False
    finally:
        if job is not None:
            service.engine.cancel(job)


async def _converse(
    service: Service,
    inbox: _Inbox,
    send,
    job: Job,
    listener: _Listener,
    speech: Speech,
) -> dict[str, Any]:
    """Read text and send its sound at the same time, until one has ended."""
    reading: asyncio.Future = asyncio.ensure_future(
        _read_stream(service, inbox, job, speech)
    )
    writing: asyncio.Future = asyncio.ensure_future(
        _write_stream(send, listener, speech)
    )
    waiting: asyncio.Future = reading
    try:
        while not writing.done():
            await asyncio.wait(
                {waiting, writing}, return_when=asyncio.FIRST_COMPLETED
            )
            if writing.done():
                break
            if waiting is reading:
                if reading.result() == "cancel":
                    return {"cancelled": True}
                # The client may still cancel, or leave.
                waiting = asyncio.ensure_future(inbox.wait())
            else:
                message = await inbox.take(StreamEnd)
                if message.type == "cancel":
                    return {"cancelled": True}
                waiting = asyncio.ensure_future(inbox.wait())
        return {"duration": round(writing.result(), 4)}
    finally:
        for task in (reading, writing, waiting):
            task.cancel()
        await asyncio.gather(reading, writing, waiting, return_exceptions=True)


async def _read_stream(
    service: Service, inbox: _Inbox, job: Job, speech: Speech
) -> str:
    """Hand the sentences of a stream's text to the engine."""
    reader = StreamReader(service.synthesizer.planner)
    n_characters = 0
    while True:
        message = await inbox.take(StreamText, StreamEnd)
        if isinstance(message, StreamEnd):
            if message.type == "cancel":
                return "cancel"
            reading = await service.in_reader(reader.finish)
            speech.expect(reading)
            service.engine.add(job, reading.pieces, True)
            return "end"
        n_characters += len(message.text)
        if n_characters > service.settings.max_characters:
            raise _Fault(
                "The text is longer than the "
                f"{service.settings.max_characters} characters that are "
                "accepted: start another."
            )
        reading = await service.in_reader(reader.add, message.text)
        if reading is not None:
            speech.expect(reading)
        service.engine.add(job, reading.pieces if reading else (), False)


async def _write_stream(send, listener: _Listener, speech: Speech) -> float:
    """Send what is said and the words that begin; return the duration."""
    while True:
        event = await listener.next()
        wav = speech.finish() if event is None else speech.add(event)
        if len(wav):
            await send(encoding.to_pcm(wav))
        words = speech.new_words()
        if words:
            await send({"type": "words", "words": [_timed(w) for w in words]})
        if event is None:
            return speech.duration
