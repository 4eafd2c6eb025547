"""A small stand-in for ``emofilm serve`` that can do all the page may ask for.

The mini model has fixed voices, no axes and suggests nothing; this one adds
voices, has axes, suggests emotions and labels recordings, with tones for
speech. Texts are read and written by the package's own marks.
"""

import base64
import io
import json
import re
import threading
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from speechbrain_emofilm.dataio.labels import WordLabel
from speechbrain_emofilm.dataio.markup import (
    MarkupError,
    parse_markup,
    write_markup,
)

import numpy as np
import soundfile

STATIC = Path(__file__).parents[2] / "speechbrain_emofilm/serve/static"
EMOTIONS = {
    "neutral": "#8b8d98",
    "happy": "#f5a524",
    "sad": "#3e8ede",
    "angry": "#e5484d",
    "surprise": "#a463d8",
}
RATE = 24000
SECONDS = 0.3  # each word takes
#: As strict as the server's.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
NO_SUGGESTER = "This model suggests nothing."
NOTE = "The labeler heard synthetic speech only."


def read_marks(text):
    """The answer of ``/v1/marks`` for marked text."""
    marked = parse_markup(text, list(EMOTIONS))
    words, done = [], 0
    for index, word in enumerate(marked.words):
        probs = dict(zip(EMOTIONS, word.probs))
        probs = {name: p for name, p in probs.items() if p}
        following = (
            marked.words[index + 1].start
            if index + 1 < len(marked.words)
            else len(marked.text)
        )
        words.append(
            {
                "text": word.word,
                "before": marked.text[: word.start] if not index else "",
                "after": marked.text[word.end : following],
                "emotion": probs or None,
                "intensity": word.intensity,
                "pitch": None,
                "pace": None,
                "level": None,
            }
        )
        done = following
    assert not words or done == len(marked.text)
    return {"marks": text, "text": marked.text, "words": words}


def write_words(words):
    """The answer of ``/v1/marks`` for words."""
    text = "".join(
        word.get("before", "") + word["text"] + word.get("after", "")
        for word in words
    )
    labels = []
    for word in words:
        probs = word.get("emotion") or {}
        labels.append(
            WordLabel(
                word["text"],
                0.0,
                1.0,
                max(probs, key=probs.get) if probs else None,
                probs or None,
                intensity=word.get("intensity"),
            )
        )
    return {"marks": write_markup(text, labels), "text": text, "words": words}


def speak(request):
    """The answer of ``/v1/words``: a tone for each word."""
    answer = (
        write_words(request["words"])
        if "words" in request
        else read_marks(request["text"])
    )
    seconds = SECONDS / request.get("speed", 1.0)
    n = round(seconds * RATE)
    seed = request.get("seed", 0)
    waves, hertz, words = [], [], []
    for index, word in enumerate(answer["words"]):
        emotion = word["emotion"] or {}
        pitch = 120 + 40 * emotion.get("happy", 0) - 30 * emotion.get("sad", 0)
        pitch += seed % 7
        wave = np.sin(2 * np.pi * pitch * np.arange(n) / RATE)
        waves.append(0.4 * wave * np.hanning(n))
        hertz += [pitch] * round(seconds * 100 - 4) + [None] * 4
        start = index * seconds
        words.append(
            {
                "text": word["text"],
                "start": start,
                "end": start + seconds,
                "confidence": 0.9,
                "emotion": word["emotion"],
                "intensity": word["intensity"],
            }
        )
    wave = np.concatenate(waves)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, "PCM_16", format="WAV")
    return {
        **answer,
        "audio": base64.b64encode(buffer.getvalue()).decode(),
        "format": "wav",
        "sample_rate": RATE,
        "duration": len(wave) / RATE,
        "seed": seed,
        "voice": request.get("voice"),
        "words": words,
        "word_times_source": "proportional",
        "f0": {"hop": 0.01, "hz": hertz},
    }


def suggest(request):
    """The answer of ``/v1/suggest``: every won is happy."""
    answer = read_marks(request["text"])
    for word in answer["words"]:
        if word["text"].lower() == "won":
            word["emotion"] = {"happy": 1.0}
    return write_words(answer["words"])


def label(parts):
    """The answer of ``/v1/label``: half sure that all words are sad."""
    wave, rate = soundfile.read(io.BytesIO(parts["file"]))
    duration = len(wave) / rate
    if "alignment" in parts and parts["alignment"].lstrip().startswith(b"{"):
        texts = [w["text"] for w in json.loads(parts["alignment"])["words"]]
    else:
        texts = parts.get("text", b"We won").decode().split()
    step = duration / len(texts)
    words = [
        {
            "text": text,
            "start": index * step,
            "end": (index + 1) * step,
            "confidence": 0.45 if index else 0.8,
            "emotion": {"neutral": 0.3, "sad": 0.7},
            "intensity": 0.5,
        }
        for index, text in enumerate(texts)
    ]
    return {
        "duration": duration,
        "text": " ".join(texts),
        "words": words,
        "note": NOTE,
    }


class Server(ThreadingHTTPServer):
    """What the server remembers."""

    daemon_threads = True

    def __init__(self, token=None, **abilities):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.abilities = abilities
        self.voices = [
            {"id": "0011", "emotions": ["happy"]},
            {"id": "0012", "emotions": []},
        ]
        self.requests = []
        self.speak = speak
        self.gate = threading.Event()  # behind the first word of a stream
        self.gate.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """Answers as the server does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send(self, content, kind="application/json", status=200):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", CSP)
        self.end_headers()
        self.wfile.write(content)

    def send_parts(self, answer):
        """Send speech word by word."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        wave = base64.b64decode(answer.pop("audio"))[44:]
        for word in answer["words"]:
            start, end = (2 * round(RATE * word[k]) for k in ("start", "end"))
            sound = base64.b64encode(wave[start:end]).decode()
            begun = [{key: word[key] for key in ("text", "start", "end")}]
            self.send_event(
                type="audio", sample_rate=RATE, audio=sound, words=begun
            )
            assert self.server.gate.wait(60)
        self.send_event(type="done", **answer)
        self.close_connection = True

    def send_event(self, **content):
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def fail(self, status, message):
        error = {"message": message, "type": "invalid_request_error"}
        self.send(
            {"error": error | {"param": None, "code": None}}, status=status
        )

    def allowed(self):
        token = self.server.token
        if token is None or not self.path.startswith("/v1/"):
            return True
        if self.headers.get("Authorization") == f"Bearer {token}":
            return True
        self.fail(401, "A bearer token is needed.")
        return False

    def do_GET(self):
        path = self.path.split("?")[0]
        if not self.allowed():
            return
        can = self.server.abilities
        if path == "/" or path.startswith("/static/"):
            name = path.removeprefix("/static/").strip("/") or "index.html"
            file = (STATIC / name).resolve()
            if STATIC in file.parents and file.is_file():
                return self.send(file.read_bytes(), TYPES[file.suffix])
        if path == "/v1/voices":
            return self.send(
                {
                    "default": "0011",
                    "can_add": can.get("can_add", False),
                    "cannot_add": "This model has fixed speakers.",
                    "voices": self.server.voices,
                }
            )
        if path == "/v1/emotions":
            emotions = [
                {"name": name, "colour": colour}
                for name, colour in EMOTIONS.items()
            ]
            return self.send(
                {"emotions": emotions, "axes": can.get("axes", [])}
            )
        if path == "/v1/tags":
            return self.send({"tags": can.get("tags", [])})
        if path == "/v1/models":
            why = {} if can.get("suggest") else {"suggest": NO_SUGGESTER}
            return self.send(
                {"object": "list", "data": [{"id": "tones", "missing": why}]}
            )
        if path == "/healthz":
            return self.send({"status": "ok", "model": "tones", "version": "0"})
        self.fail(404, f"There is no {path}.")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.allowed():
            return
        kind = self.headers["Content-Type"]
        form = kind.startswith("multipart/")
        data = read_form(kind, body) if form else json.loads(body)
        self.server.requests.append((self.path, data))
        try:
            if self.path == "/v1/marks":
                self.send(
                    write_words(data["words"])
                    if "words" in data
                    else read_marks(data["text"])
                )
            elif self.path == "/v1/words":
                answer = self.server.speak(data)
                if data.get("stream"):
                    self.send_parts(answer)
                else:
                    self.send(answer)
            elif self.path == "/v1/suggest":
                if not self.server.abilities.get("suggest"):
                    return self.fail(501, NO_SUGGESTER)
                self.send(suggest(data))
            elif self.path == "/v1/voices":
                name = data["name"].decode()
                self.server.voices.append({"id": name, "emotions": []})
                self.send({"id": name, "emotions": []})
            elif self.path == "/v1/label":
                self.send(label(data))
            elif self.path == "/v1/label/export":
                text = json.dumps(data, indent=2)
                if data["format"] == "textgrid":
                    text = f'File type = "ooTextFile"\n{text}'
                self.send(text.encode(), "text/plain")
            else:
                self.fail(404, f"There is no {self.path}.")
        except (MarkupError, ValueError) as error:
            self.fail(400, str(error))


def read_form(kind, body):
    """The parts of a multipart body."""
    head = f"Content-Type: {kind}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + body)
    return {
        re.search(r'name="([^"]+)"', part["Content-Disposition"])[
            1
        ]: part.get_payload(decode=True)
        for part in message.get_payload()
    }


@contextmanager
def serving(**options):
    """A server on a free port of this machine, stopped at the end."""
    server = Server(**options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
