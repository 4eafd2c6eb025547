"""Shapes and limits of requests."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: Longest text of any request in characters; the server may be stricter.
MAX_TEXT = 20000
MAX_ITEMS = 2000

Format = Literal["wav", "flac", "mp3", "opus", "pcm"]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Silence = Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)]
Voice = Annotated[str, Field(max_length=128)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
Guidance = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]
Speed = Annotated[float, Field(ge=0.5, le=2, allow_inf_nan=False)]
Instruction = Annotated[str, Field(max_length=500)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MarkedWord(_Model):
    """One word, its emotion, and the characters and silence around it."""

    text: Annotated[str, Field(min_length=1, max_length=200)]
    before: Annotated[str, Field(max_length=1000)] = ""
    after: Annotated[str, Field(max_length=1000)] = ""
    emotion: Annotated[dict[str, Share], Field(max_length=64)] | None = None
    intensity: Share | None = None
    pitch: Number | None = None
    pace: Number | None = None
    level: Number | None = None
    break_before: Silence | None = None
    break_after: Silence | None = None


class MarksRequest(_Model):
    """Marked text, or its words."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"text": "<happy>We won!</happy> But he left."}]
        },
    )

    text: Text | None = None
    words: Annotated[list[MarkedWord], Field(max_length=MAX_ITEMS)] | None = (
        None
    )


class WordsRequest(MarksRequest):
    """Speech with the times of its words."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "text": "<happy>We won!</happy> <sad>But he left.</sad>",
                    "seed": 1,
                }
            ]
        },
    )

    voice: Voice | None = None
    seed: Seed = 0
    guidance: Guidance = 1.0
    speed: Speed = 1.0
    instruction: Instruction | None = None
    response_format: Format = "wav"
    stream: bool = Field(
        default=False,
        description="True: server-sent events, with 16-bit PCM as soon as it "
        "is spoken and the words that begin in it; the last one has all that "
        "the answer has otherwise.",
    )


class SpeechRequest(_Model):
    """Speech, as OpenAI's clients ask for it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "model": "emofilm",
                    "input": "<happy>We won!</happy> But he left.",
                    "voice": "default",
                    "response_format": "wav",
                }
            ]
        },
    )

    model: Annotated[str, Field(max_length=128)] = "emofilm"
    input: Text
    voice: Voice | None = Field(
        default=None,
        description='Name of a voice, or "default", as which the names of '
        "OpenAI's own voices count.",
    )
    instructions: Instruction | None = None
    response_format: Format = "mp3"
    speed: Speed = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    stream: bool | None = Field(
        default=None,
        description="False: a file with its exact length. True: parts as "
        "soon as they are spoken (not flac, whose readers need the length). "
        "Left out: parts, if the format is pcm or the text is spoken in "
        "several pieces.",
    )
    seed: Seed = 0
    guidance: Guidance = 1.0

    @field_validator("voice", mode="before")
    @classmethod
    def _name_of_voice(cls, voice: Any) -> Any:
        """Accept OpenAI's {"id": NAME} too."""
        if isinstance(voice, dict) and set(voice) == {"id"}:
            return voice["id"]
        return voice


class SuggestRequest(_Model):
    """Text for which emotions are suggested."""

    text: Text


class TimedWord(_Model):
    """A labelled word."""

    text: Annotated[str, Field(min_length=1, max_length=200)]
    start: Annotated[float, Field(ge=0, le=36000, allow_inf_nan=False)]
    end: Annotated[float, Field(ge=0, le=36000, allow_inf_nan=False)]
    confidence: Share | None = None
    emotion: Annotated[dict[str, Share], Field(max_length=64)] | None = None
    intensity: Share | None = None


class ExportRequest(_Model):
    """Labels to write as a file."""

    duration: Annotated[float, Field(gt=0, le=36000, allow_inf_nan=False)]
    words: Annotated[list[TimedWord], Field(min_length=1, max_length=MAX_ITEMS)]
    format: Literal["textgrid", "json"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class StreamStart(_Model):
    """First message of a text stream."""

    type: Literal["start"]
    voice: Voice | None = None
    seed: Seed = 0
    guidance: Guidance = 1.0
    speed: Speed = 1.0


class StreamText(_Model):
    """Piece of the text of a stream."""

    type: Literal["text"]
    text: Text


class StreamEnd(_Model):
    """End of the text, or of the whole stream."""

    type: Literal["end", "cancel"]
