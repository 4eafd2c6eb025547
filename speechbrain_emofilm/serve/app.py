"""The web application of ``emofilm serve``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from speechbrain_emofilm import __version__
from speechbrain_emofilm.inference.labeling import make_label
from speechbrain_emofilm.inference.suggester import make_suggest
from speechbrain_emofilm.serve.engine import (
    OutOfTime,
    Overloaded,
    RowSpeaker,
)
from speechbrain_emofilm.serve.guard import Guard, error_body, is_loopback
from speechbrain_emofilm.serve.routes.labels import add_labels
from speechbrain_emofilm.serve.routes.page import add_page
from speechbrain_emofilm.serve.routes.speech import add_speech
from speechbrain_emofilm.serve.routes.stream import add_stream
from speechbrain_emofilm.serve.routes.voices import add_voices
from speechbrain_emofilm.serve.service import (
    Fault,
    Parts,
    Service,
    Settings,
    answer_to,
    problem_of,
)

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from speechbrain.utils.logger import get_logger
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

logger = get_logger(__name__)

#: Codes of the errors that the framework raises, by their status.
_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "body_late",
    413: "too_large",
}


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
            "the clients made for OpenAI's interface. The WebSocket "
            "`/v1/stream` takes a text that is being written and speaks it "
            "sentence by sentence."
        ),
        version=__version__,
        # Their pages load scripts from elsewhere; /openapi.json is served.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _add_error_handlers(app)
    for add in (add_page, add_voices, add_speech, add_labels, add_stream):
        add(app, service)
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


def _add_error_handlers(app: FastAPI) -> None:
    """Answer all errors in one shape."""

    @app.exception_handler(Fault)
    @app.exception_handler(Overloaded)
    @app.exception_handler(OutOfTime)
    async def on_fault(request, error):
        headers = None
        if isinstance(error, Overloaded):
            headers = {"retry-after": str(error.retry_after)}
        status, body = answer_to(error)
        return JSONResponse(body, status, headers)

    @app.exception_handler(HTTPException)
    async def on_http(request, error):
        status = error.status_code
        kind = "server_error" if status >= 500 else "invalid_request_error"
        code = _HTTP_CODES.get(status, "http_error")
        body = error_body(str(error.detail), kind, code=code)
        return JSONResponse(body, status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request, error):
        place = _place(error)
        return JSONResponse(
            error_body(
                problem_of(error.errors()),
                param=place,
                code="request_wrong",
                values={"place": place or ""},
            ),
            400,
        )

    @app.exception_handler(Exception)
    async def on_error(request, error):
        message = "The server has failed; its log says why."
        return JSONResponse(
            error_body(message, "server_error", code="server_failed"), 500
        )

    def _place(error):
        place = [str(p) for p in error.errors()[0]["loc"] if p != "body"]
        return place[0] if place else None
