"""Labels of recordings, and files of them."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

from speechbrain_emofilm.dataio.alignments import read_alignment, read_tiers
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.serve.models import ExportRequest
from speechbrain_emofilm.serve.service import Fault, Service, decode

from fastapi import FastAPI, File, Form, Response, UploadFile


def add_labels(app: FastAPI, service: Service) -> None:
    """Add labelling of recordings.

    Arguments
    ---------
    app : FastAPI
        The application.
    service : Service
        What its endpoints share.
    """

    @app.post("/v1/label", summary="Emotions of the words of a recording")
    async def label(
        file: Annotated[UploadFile, File()],
        text: Annotated[str | None, Form(max_length=20000)] = None,
        alignment: Annotated[UploadFile | None, File()] = None,
    ):
        text = " ".join((text or "").split())
        wav, sample_rate = await decode(service, file)
        words = labels = None
        if alignment is not None:
            content = await alignment.read(1 << 20)
            given = await asyncio.to_thread(_read_labels, service, content)
            words = given.alignment()
            if any(word.emotion for word in given.words):
                labels = given  # to be looked at and corrected

        try:
            if labels is None:
                function = service.require("label")
                labels = await service.label(
                    lambda: function(wav, sample_rate, text or None, words)
                )
        except ImportError as error:
            raise Fault(
                f"This server labels no recordings: {error}",
                "label_missing",
                501,
                reason=str(error),
            ) from error
        except ValueError as error:
            raise Fault(str(error), "label_wrong", param="file") from error
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
            "note": getattr(service.parts.label, "note", None),
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
            raise Fault(str(error), "labels_wrong", param="words") from error
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
            raise Fault(
                message, "alignment_wrong", param="alignment"
            ) from error
