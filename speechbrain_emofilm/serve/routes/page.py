"""The page, and what it asks about the model."""

from pathlib import Path

from speechbrain_emofilm import __version__
from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.serve.service import Fault, Service
from speechbrain_emofilm.utils.colors import emotion_colors

from fastapi import FastAPI, Response
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parents[1] / "static"


def add_page(app: FastAPI, service: Service) -> None:
    """Add the page and what it asks about the model.

    Arguments
    ---------
    app : FastAPI
        The application.
    service : Service
        What its endpoints share.
    """

    @app.get("/", include_in_schema=False)
    async def page():
        index = STATIC / "index.html"
        if not index.is_file():
            raise Fault("The page is not installed.", "page_missing", 404)
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

    @app.get("/v1/models", summary="OpenAI's list: the model, its abilities")
    async def models():
        return {
            "object": "list",
            "data": [
                {
                    "id": service.name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "emofilm",
                    # What a page can offer, without trying it.
                    "abilities": service.abilities(),
                    "missing": {
                        name: service.reason(name)
                        for name, there in service.abilities().items()
                        if not there
                    },
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

    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), "static")
