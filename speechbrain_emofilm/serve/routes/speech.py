"""Speech of whole texts, marks, and suggestions of them."""

import asyncio
import base64
import json
import time
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Any

from speechbrain_emofilm.dataio import encoding
from speechbrain_emofilm.dataio.markup import MarkedText
from speechbrain_emofilm.inference.suggester import write_marks
from speechbrain_emofilm.serve import audio
from speechbrain_emofilm.serve.engine import OutOfTime, Overloaded
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
    answer_to,
    client_of,
    timed,
)
from speechbrain_emofilm.serve.speech import Speech

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

#: Names by which OpenAI's clients ask for a speech model.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
#: Names of OpenAI's own voices, which some of its clients cannot change: the
#: default voice speaks for them, unless the model has one of that name.
OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin",
    "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip


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
                "model_not_found",
                404,
                param="model",
                name=asked.model[:80],
                known=service.name,
            )
        if (
            asked.voice in OPENAI_VOICES
            and asked.voice not in service.synthesizer.speakers
        ):
            asked = asked.model_copy(update={"voice": None})
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
            # The answer has no words.
            replace(speaking, words=False),
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

    @app.post("/v1/words", summary="Speech with the times of its words")
    async def words(asked: WordsRequest, request: Request):
        marks, marked = service.read(asked)
        reading, speaking = await service.plan(
            marks, asked, asked.instruction or None, "text"
        )
        listener = Listener()
        job = service.job(
            client_of(request),
            listener,
            speaking,
            reading.pieces,
            streaming=asked.stream,
        )
        speech = Speech(service.synthesizer, speaking.speed, service.aligner)
        speech.expect(reading)
        rate, kind = service.sample_rate, asked.response_format

        def answer(wav):
            """Return what is known of the speech, beside other requests."""
            f0 = audio.f0_track(wav, rate)
            left = max(job.deadline - time.monotonic(), 0)
            try:
                times, source = speech.timed_words(left)
            except FutureTimeout:
                raise OutOfTime() from None
            return {
                "sample_rate": rate,
                "duration": round(speech.duration, 4),
                "text": marked.text,
                "marks": marks,
                "seed": asked.seed,
                "voice": speaking.voice,
                "words": [
                    {
                        **timed(word_times),
                        "confidence": round(word_times.confidence, 4),
                        "emotion": word["emotion"],
                        "intensity": word["intensity"],
                    }
                    for word, word_times in zip(words_of(marked), times)
                ],
                "word_times_source": source,
                "f0": f0,
            }

        async def events(event):
            wavs = []
            try:
                while True:
                    wavs.append(
                        speech.finish() if event is None else speech.add(event)
                    )
                    begun = [timed(word) for word in speech.new_words()]
                    if len(wavs[-1]) or begun:
                        sound = base64.b64encode(encoding.to_pcm(wavs[-1]))
                        yield _event(
                            {
                                "type": "audio",
                                "sample_rate": rate,
                                "audio": sound.decode(),
                                "words": begun,
                            }
                        )
                    if event is None:
                        break
                    event = await listener.next(
                        max(job.deadline - time.monotonic(), 0)
                    )
                known = await asyncio.to_thread(answer, np.concatenate(wavs))
                yield _event({"type": "done", **known})
            except (ValueError, Overloaded, OutOfTime, TimeoutError) as error:
                yield _event({"type": "error", **answer_to(error)[1]})
            finally:
                speech.close()

        if asked.stream:
            try:
                # Errors that show with the first sound have a status.
                first = await service.next_event(request, listener, job)
            except BaseException:
                service.engine.cancel(job)
                raise
            return _SpeechResponse(
                events(first),
                job,
                service.engine,
                service.settings.idle_limit,
                media_type="text/event-stream",
            )
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
                encoded = base64.b64encode(sound).decode()
                return {"audio": encoded, "format": kind, **answer(wav)}

            return await asyncio.to_thread(finish)
        finally:
            service.engine.cancel(job)
            speech.close()

    @app.post("/v1/marks", summary="Marks as words, and words as marks")
    async def marks(asked: MarksRequest):
        return _marks_answer(*service.read(asked))

    @app.post("/v1/suggest", summary="Emotions suggested for a text")
    async def suggest(asked: SuggestRequest):
        function = service.require("suggest")
        service.parse(asked.text)
        try:
            found = await service.on_model(lambda: function(asked.text))
            suggested = write_marks(found, service.tags)
        except ValueError as error:
            raise Fault(str(error), "suggest_wrong", param="text") from error
        return _marks_answer(suggested, service.parse(suggested))


def _delta(data: bytes) -> bytes:
    """Write sound as an event of OpenAI's interface."""
    encoded = base64.b64encode(data).decode()
    return _event({"type": "speech.audio.delta", "audio": encoded})


def _event(content: dict) -> bytes:
    """Write a server-sent event."""
    return f"data: {json.dumps(content)}\n\n".encode()


def _marks_answer(marks: str, marked: MarkedText) -> dict[str, Any]:
    return {"marks": marks, "text": marked.text, "words": words_of(marked)}
