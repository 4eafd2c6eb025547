"""The WebSocket: text in, sound and word times out.

A text is spoken sentence by sentence: a sentence begins to sound once its end
has been written. That also holds for a model that reads pieces of a text
(``synthesizer.reads_pieces``): the rows of the engine's batch are whole pieces
of text, so that the sentences of several clients are spoken together. To hear
such a model while a sentence is being written, call ``synthesizer.stream``
with the pieces in Python.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, get_args

from speechbrain_emofilm.dataio import encoding
from speechbrain_emofilm.serve.engine import (
    Job,
    OutOfTime,
    Overloaded,
    Speaking,
)
from speechbrain_emofilm.serve.models import StreamEnd, StreamStart, StreamText
from speechbrain_emofilm.serve.service import (
    Fault,
    Listener,
    Service,
    answer_to,
    client_of,
    problem_of,
    timed,
)
from speechbrain_emofilm.serve.speech import Speech, StreamReader

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ValidationError


def add_stream(app: FastAPI, service: Service) -> None:
    """Add the WebSocket: text in, sound and word times out.

    Arguments
    ---------
    app : FastAPI
        The application.
    service : Service
        What its endpoints share.
    """

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
        raise Fault(
            "The message is not JSON: send an object.", "message_wrong"
        ) from None
    asked = content.get("type") if isinstance(content, dict) else None
    expected = []
    for kind in kinds:
        names = get_args(kind.model_fields["type"].annotation)
        expected += names
        if asked in names:
            try:
                return kind.model_validate(content)
            except ValidationError as error:
                raise Fault(
                    problem_of(error.errors()), "message_wrong"
                ) from None
    raise Fault(
        f"A message of the type {str(asked)[:40]!r} is not expected here: "
        f"send {', '.join(expected)}.",
        "message_wrong",
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
        listener = Listener()
        job = service.job(
            client_of(socket), listener, speaking, (), False, streaming=True
        )
        speech = Speech(service.synthesizer, speaking.speed)
        await send({"type": "start", "sample_rate": service.sample_rate})
        done = await _converse(service, inbox, send, job, listener, speech)
        await send({"type": "done", **done})
        return True
    except (Fault, ValueError, Overloaded, OutOfTime) as error:
        _, body = answer_to(error)
        told = ("message", "code", "values")
        await send(
            {"type": "error", **{key: body["error"][key] for key in told}}
        )
        return False
    finally:
        if job is not None:
            service.engine.cancel(job)


async def _converse(
    service: Service,
    inbox: _Inbox,
    send,
    job: Job,
    listener: Listener,
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
            raise Fault(
                "The text is longer than the "
                f"{service.settings.max_characters} characters that are "
                "accepted: start another.",
                "text_too_long",
                length=n_characters,
                limit=service.settings.max_characters,
            )
        reading = await service.in_reader(reader.add, message.text)
        if reading is not None:
            speech.expect(reading)
        service.engine.add(job, reading.pieces if reading else (), False)


async def _write_stream(send, listener: Listener, speech: Speech) -> float:
    """Send what is said and the words that begin; return the duration."""
    while True:
        event = await listener.next()
        wav = speech.finish() if event is None else speech.add(event)
        if len(wav):
            await send(encoding.to_pcm(wav))
        words = speech.new_words()
        if words:
            await send({"type": "words", "words": [timed(w) for w in words]})
        if event is None:
            return speech.duration
