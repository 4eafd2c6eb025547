"""Speech of whole texts, marks, and suggestions of them."""

import asyncio
import base64
import json
import time
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from speechbrain_emofilm.dataio import encoding
from speechbrain_emofilm.dataio.markup import MarkedText
from speechbrain_emofilm.inference.suggester import write_marks
from speechbrain_emofilm.serve import audio
from speechbrain_emofilm.serve.engine import OutOfTime
from speechbrain_emofilm.serve.marks import words_of
from speechbrain_emofilm.serve.models import (
    MarksRequest,
    SpeechRequest,
    SuggestRequest,
    WordsRequest,
)
from speechbrain_emofilm.serve.service import (
    Fault,
    Listener,
    Service,
    client_of,
    timed,
)
from speechbrain_emofilm.serve.speech import Speech

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

#: Names by which OpenAI's clients ask for a speech model.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")


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


def add_speech(app: FastAPI, service: Service) -> None:
    """Add the endpoints that speak.

    Arguments
    ---------
    app : FastAPI
        The application.
    service : Service
        What its endpoints share.
    """

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
            raise Fault(
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
        listener = Listener()
        in_parts = asked.stream
        if in_parts is None:
            in_parts = asked.response_format == "pcm" or len(reading.pieces) > 1
        sse = asked.stream_format == "sse"
        streamed = in_parts and asked.response_format in encoding.STREAMED
        job = service.job(
            client_of(request),
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
        listener = Listener()
        job = service.job(
            client_of(request), listener, speaking, reading.pieces
        )
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
                    **timed(time),
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
            raise Fault(f"This model suggests no emotions: {reason}", 501)
        service.parse(asked.text)
        try:
            found = await service.on_model(lambda: function(asked.text))
            suggested = write_marks(found, service.tags)
        except ValueError as error:
            raise Fault(str(error), param="text") from error
        return _marks_answer(suggested, service.parse(suggested))


def _marks_answer(marks: str, marked: MarkedText) -> dict[str, Any]:
    return {"marks": marks, "text": marked.text, "words": words_of(marked)}
