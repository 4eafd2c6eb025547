"""Voices: their list, and new ones of recordings."""

import re
import tempfile
from pathlib import Path
from typing import Annotated

from speechbrain_emofilm.serve.service import Fault, Service, decode

import soundfile
from fastapi import FastAPI, File, Form, UploadFile

_VOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def add_voices(app: FastAPI, service: Service) -> None:
    """Add the list of voices, and what adds one.

    Arguments
    ---------
    app : FastAPI
        The application.
    service : Service
        What its endpoints share.
    """

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
            "cannot_add": None if _can_add(service) else _why_not(service),
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
            raise Fault(
                "The name of a voice has 1 to 64 letters, digits, - and _, "
                "and begins with a letter or digit.",
                "voice_name",
                param="name",
            )
        if not _can_add(service):
            raise Fault(_why_not(service), "voices_fixed")
        if name in (s.partition("/")[0] for s in service.synthesizer.speakers):
            raise Fault(
                f"There is a voice {name!r} already: choose another name.",
                "voice_exists",
                409,
                param="name",
                name=name,
            )
        if service.n_added >= service.settings.max_voices:
            limit = service.settings.max_voices
            raise Fault(
                f"No more than {limit} voices can be added: start the server "
                "again to drop those that are not kept.",
                "voices_full",
                409,
                limit=limit,
            )
        wav, sample_rate = await decode(service, file)

        def add():
            with tempfile.TemporaryDirectory(prefix="emofilm-") as folder:
                path = Path(folder) / "recording.wav"
                soundfile.write(path, wav.numpy(), sample_rate, "FLOAT")
                try:
                    service.synthesizer.add_voice(
                        name, path, text or None, service.settings.keep_voices
                    )
                except (ValueError, ImportError) as error:
                    # The name of our file tells a client nothing.
                    message = str(error).replace(str(path), "The recording")
                    raise Fault(message, "voice_wrong", param="file") from error
                except OSError as error:
                    raise Fault(
                        f"The voice {name!r} can be used, but cannot be kept "
                        f"in the model's folder ({error.strerror}): make the "
                        "folder writable, or serve without --keep-voices.",
                        "voice_not_kept",
                        500,
                        name=name,
                        reason=error.strerror,
                    ) from error
            service.n_added += 1

        await service.on_model(add)
        return {"id": name, "emotions": []}


def _why_not(service: Service) -> str:
    """Say why the model takes on no voices."""
    try:
        service.synthesizer.mods.token_to_wav.check_new_voice("x")
    except ValueError as error:
        return str(error)
    return "This model has no voice_maker."


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
