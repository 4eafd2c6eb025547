"""The server of ``emofilm serve``, as its clients see it."""

import base64
import io
import json
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

from speechbrain_emofilm.cli import SHIPPED_MODEL
from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    write_label_textgrid,
)
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.splitting import TextSplitter
from speechbrain_emofilm.dataio.voices import read_voices
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.serve.app import create_app, find_parts
from speechbrain_emofilm.serve.engine import Row, Speaking
from speechbrain_emofilm.serve.service import MAX_RECORDINGS, Parts, Settings
from speechbrain_emofilm.serve.speaker import ContinuousSpeaker
from speechbrain_emofilm.serve.speech import Speech
from speechbrain_emofilm.utils.assets import find_file

import httpx
import numpy as np
import openai
import pytest
import soundfile
from model_server import prompted_model, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.slow  # it loads a model

TEXT = "<happy>We won!</happy> <sad intensity=0.4>But he left.</sad>"
TOKEN = "a-secret-token"


class GatedSpeaker(ContinuousSpeaker):
    """Speaks only while its gate is open, and keeps what it was given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.joined, self.left = [], []

    def join(self, rows):
        self.joined += rows
        super().join(rows)

    def leave(self, key):
        self.left.append(key)
        super().leave(key)

    def step(self):
        # Rows wait here, and may leave, until the gate is opened.
        return super().step() if self.gate.wait(0.02) else []


@pytest.fixture(scope="module")
def synthesizer():
    return EmoFiLMSynthesizer.from_hparams(find_file(SHIPPED_MODEL).parent)


@contextmanager
def serving(synthesizer, settings=None, parts=None, beside=False):
    """A server on a free port: its address, application and speaker."""
    settings = settings or Settings()
    speaker = GatedSpeaker(synthesizer, settings.max_rows, beside)
    app = create_app(synthesizer, settings, parts or Parts(), speaker)
    with running(app) as port:
        try:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{port}",
                ws=f"ws://127.0.0.1:{port}/v1/stream",
                port=port,
                service=app.state.service,
                speaker=speaker,
            )
        finally:
            speaker.gate.set()


@pytest.fixture(scope="module")
def server(synthesizer):
    # With a process for the sound, which gets ready in the meantime.
    with serving(synthesizer, beside=True) as served:
        yield served


@pytest.fixture
def gate(server):
    server.speaker.gate.clear()
    yield server.speaker.gate
    server.speaker.gate.set()
    wait_for(lambda: server.service.engine.n_jobs == 0)


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def wait_for(condition):
    """Wait until something holds; fail if it never does."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("It never came true.")


def error_of(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "values"}
    assert error["code"]
    return error


# ---------------------------------------------------------------- information


def test_health_models_voices_emotions_and_tags(client, synthesizer):
    assert client.get("/healthz").json()["status"] == "ok"
    models = client.get("/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["mini"]
    assert models["data"][0]["abilities"] == {"suggest": False, "label": False}
    assert set(models["data"][0]["missing"]) == {"suggest", "label"}
    voices = client.get("/v1/voices").json()
    assert voices["default"] == synthesizer.speakers[0]
    assert [v["id"] for v in voices["voices"]] == synthesizer.speakers
    assert voices["can_add"] is False
    assert "fixed speakers" in voices["cannot_add"]
    emotions = client.get("/v1/emotions").json()
    assert [e["name"] for e in emotions["emotions"]] == synthesizer.emotions
    assert client.get("/v1/tags").json() == {"tags": []}


def test_colours_are_those_of_the_evaluation_report(client, synthesizer):
    from speechbrain_emofilm.evaluation.report import emotion_colors

    answer = client.get("/v1/emotions").json()
    colours = {e["name"]: e["colour"] for e in answer["emotions"]}
    assert colours == emotion_colors(synthesizer.emotions)


def test_the_interface_is_described_and_loads_nothing_from_elsewhere(client):
    description = client.get("/openapi.json").json()
    assert "/v1/audio/speech" in description["paths"]
    assert description["components"]["schemas"]["WordsRequest"]["examples"]
    for path in ("/docs", "/redoc"):
        error_of(client.get(path), 404)


def test_every_answer_has_the_headers_of_a_safe_page(client):
    for path in ("/healthz", "/v1/voices", "/nothing"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# --------------------------------------------------------------------- speech


def test_openai_client_gets_each_format(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    for format, kind in (
        ("wav", "WAV"),
        ("flac", "FLAC"),
        ("mp3", "MP3"),
        ("opus", "OGG"),
    ):
        speech = client.audio.speech.create(
            model="tts-1", voice="0011", input="We won!", response_format=format
        )
        info = soundfile.info(io.BytesIO(speech.content))
        assert (info.format, info.channels) == (kind, 1)
        assert info.duration > 0.3


def test_openai_client_gets_an_mp3_in_parts(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="0012", input=LONG, extra_body={"stream": True}
    ) as response:
        assert response.headers["content-type"] == "audio/mpeg"
        parts = list(response.iter_bytes())
    assert len(parts) > 2
    wav, rate = soundfile.read(io.BytesIO(b"".join(parts)))
    words = httpx.post(
        f"{server.url}/v1/words",
        json={"text": LONG, "voice": "0012"},
        timeout=120,
    ).json()
    # mp3 adds up to a tenth of a second at its ends.
    assert len(wav) / rate == pytest.approx(words["duration"], abs=0.15)
    assert np.abs(wav).max() > 0.05


def pcm(content):
    return np.frombuffer(content, "<i2") / 32767


def test_openai_client_streams_the_same_samples(server, synthesizer):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="0012", input=TEXT, response_format="pcm"
    ) as response:
        parts = list(response.iter_bytes())
    expected = synthesizer.synthesize(TEXT, speaker="0012").wav
    np.testing.assert_allclose(pcm(b"".join(parts)), expected, atol=1e-3)


MANY = (
    "<break time=0.1s/><happy>The men won.</happy> He left <sad>us, <break "
    'time="400ms"/> again.</sad> The 2 dogs ran. Why not?'
)


@pytest.fixture
def small_pieces(synthesizer, monkeypatch):
    """The model as one that cuts short texts, too."""
    splitter = TextSplitter(min_units=5, max_units=15, min_last_units=2)
    monkeypatch.setattr(synthesizer.planner, "splitter", splitter)


def test_a_text_of_pieces_sounds_as_the_synthesizer_speaks_it(
    server, synthesizer, gate, small_pieces
):
    """Alone and in company, whole and streamed, with the same word times."""
    assert len(synthesizer.plan(MANY)) == 6  # 4 pieces and 2 breaks
    whole = synthesizer.synthesize(MANY, seed=3)
    asked = {"input": MANY, "seed": 3, "response_format": "pcm"}

    def say(stream):
        return httpx.post(
            f"{server.url}/v1/audio/speech",
            json={**asked, "stream": stream},
            timeout=120,
        ).content

    def words():
        url, asked = f"{server.url}/v1/words", {"text": MANY, "seed": 3}
        return httpx.post(url, json=asked, timeout=120).json()

    threads, answers = in_threads(
        [lambda: say(True), lambda: say(False), words]
    )
    wait_for(lambda: server.service.engine.n_jobs == 3)
    gate.set()
    for thread in threads:
        thread.join()
    for sound in (*answers[:2], say(True)):
        np.testing.assert_allclose(pcm(sound), whole.wav, atol=1e-3)
    answer = answers[2]
    wav, _ = soundfile.read(io.BytesIO(base64.b64decode(answer["audio"])))
    np.testing.assert_allclose(wav, whole.wav, atol=1e-3)
    own = {w["text"]: (w["start"], w["end"]) for w in answer["words"]}
    for word in whole.words:
        name = "2" if word.text == "two" else word.text
        if name not in ("the", "The"):
            assert own[name] == pytest.approx((word.start, word.end), abs=1e-3)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_spoken_as_the_synthesizer_does(synthesizer, streaming):
    """Also if some rows leave."""
    speaker = ContinuousSpeaker(synthesizer, 3, False)
    texts = ["<happy>We won!</>", "He left.", "<sad>No dog ran home.</>"]
    rows = [
        Row(i, synthesizer.plan(text)[0], Speaking(), i, streaming)
        for i, text in enumerate(texts)
    ]
    speaker.join(rows[:2])
    sounds, steps = {0: [], 2: []}, 0
    while speaker.busy:
        steps += 1
        if steps == 9:
            speaker.join(rows[2:])
            assert speaker.room == 0
            speaker.leave(1)
        for said in speaker.step():
            sounds[said.key].append(said)
    for key, parts in sounds.items():
        expected = synthesizer.synthesize(texts[key], seed=key)
        assert [part.last for part in parts][-1]
        assert list(parts[-1].tokens) == expected.speech_tokens.tolist()
        wav = np.concatenate([part.wav for part in parts])
        np.testing.assert_allclose(wav, expected.wav, atol=1e-3)
        assert (len(parts) > 1) == streaming


def test_history_is_that_of_the_model(
    server, synthesizer, small_pieces, monkeypatch
):
    monkeypatch.setattr(synthesizer, "history", True)
    asked = {"input": MANY, "response_format": "pcm", "stream": True}
    answer = httpx.post(
        f"{server.url}/v1/audio/speech", json=asked, timeout=120
    )
    expected = synthesizer.synthesize(MANY).wav
    plain = synthesizer.synthesize(MANY, history=False).wav
    assert len(expected) != len(plain)
    np.testing.assert_allclose(pcm(answer.content), expected, atol=1e-3)


def test_wav_of_several_sentences_is_readable_and_exact_if_asked(client):
    asked = {"input": TEXT, "response_format": "wav"}
    stream = client.post("/v1/audio/speech", json={**asked, "stream": True})
    exact = client.post("/v1/audio/speech", json={**asked, "stream": False})
    assert stream.content[4:8] == b"\xff" * 4
    wav, rate = soundfile.read(io.BytesIO(exact.content))
    streamed, whole = stream.content[44:], exact.content[-2 * len(wav) :]
    np.testing.assert_allclose(pcm(streamed), pcm(whole), atol=1e-3)
    # The header says the length, and players believe it.
    assert exact.content[4:8] == struct.pack("<I", len(exact.content) - 8)
    assert len(exact.content) == 44 + 2 * len(wav)
    assert rate == 24000


def test_server_sent_events_carry_the_sound(client):
    asked = {
        "input": "We won!",
        "response_format": "pcm",
        "stream_format": "sse",
    }
    answer = client.post("/v1/audio/speech", json=asked)
    events = [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.split("\n\n")
        if line
    ]
    assert events[-1] == {"type": "speech.audio.done"}
    sound = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
    plain = client.post(
        "/v1/audio/speech", json={**asked, "stream_format": "audio"}
    )
    assert sound == plain.content


def test_speed_changes_the_length_and_the_word_times(client):
    def ask(speed):
        asked = {"text": "He left the house again.", "speed": speed}
        return client.post("/v1/words", json=asked).json()

    one, two = ask(1), ask(2)
    assert two["duration"] == pytest.approx(one["duration"] / 2, abs=0.05)
    last = [answer["words"][-1]["end"] for answer in (one, two)]
    assert last[1] == pytest.approx(last[0] / 2, abs=0.05)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"voice": "nobody"}, "voice", "0011"),
        ({"input": "<hapy>We</> won"}, "input", "did you mean 'happy'"),
        ({"input": ""}, "input", "no word"),
        ({"input": "We " * 5000}, "input", "4096"),
        ({"speed": 4}, "speed", "less than or equal to 2"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"guidance": "x"}, "guidance", "number"),
        ({"response_format": "aac"}, "response_format", "'wav'"),
        ({"inputs": "We won"}, "inputs", "not permitted"),
        ({"instructions": "mumble"}, "instructions", "mumble"),
        ({"input": "We won. <hapy>He</>"}, "input", "Character 8"),
        ({"input": "We won. He left 我们 here."}, "input", "我"),
        ({"input": "a <break time=10s/> " * 40}, "input", "400 s"),
    ],
)
def test_a_wrong_request_has_one_clear_message(client, change, param, words):
    asked = {"input": "We won!", "response_format": "wav", **change}
    error = error_of(client.post("/v1/audio/speech", json=asked), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["code"]
    assert words in error["message"]


def test_openais_own_voices_are_the_default_one(client):
    asked = {"input": "We won!", "response_format": "wav", "seed": 3}
    default, alloy, other = (
        client.post("/v1/audio/speech", json={**asked, "voice": voice}).content
        for voice in ("default", "alloy", "0012")
    )
    assert alloy == default != other


def test_openai_client_raises_its_own_errors(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    asked = {"voice": "0011", "input": "We won!"}
    with pytest.raises(openai.NotFoundError, match="mini"):
        client.audio.speech.create(model="whisper-1", **asked)
    with pytest.raises(openai.BadRequestError, match="not known"):
        client.audio.speech.create(model="tts-1", voice="x", input="We won!")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"\xff", b"[" * 100000], ids=range(5)
)
def test_rubbish_is_refused(client, body):
    error_of(
        client.post(
            "/v1/words",
            content=body,
            headers={"content-type": "application/json"},
        ),
        400,
    )


# ---------------------------------------------------------------------- words


LONG = "<sad>One two three four five six seven eight nine ten, and he left.</>"


def test_words_have_times_emotions_and_pitch(client):
    asked = {"text": TEXT + " He had 21 dogs.", "voice": "0013", "seed": 5}
    answer = client.post("/v1/words", json=asked).json()
    wav, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio"])))
    assert rate == answer["sample_rate"]
    assert answer["duration"] == pytest.approx(len(wav) / rate, abs=1e-3)
    words = answer["words"]
    # The text's own words, also where the reading has others.
    assert [w["text"] for w in words] == (
        "We won But he left He had 21 dogs".split()
    )
    assert words[0]["emotion"] == {"happy": 1.0}
    assert words[2]["intensity"] == 0.4
    assert words[5]["emotion"] is None
    times = [t for w in words for t in (w["start"], w["end"])]
    assert times == sorted(times)
    assert words[5]["start"] >= words[4]["end"]
    assert all(w["end"] > w["start"] for w in words)
    assert times[-1] <= answer["duration"]
    f0 = answer["f0"]
    assert len(f0["hz"]) == pytest.approx(answer["duration"] / f0["hop"], abs=2)
    voiced = [hz for hz in f0["hz"] if hz is not None]
    assert voiced and min(voiced) > 40
    assert answer["text"] == "We won! But he left. He had 21 dogs."


def parts_of(answer):
    """Events of an answer in parts."""
    return [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.split("\n\n")
        if line
    ]


@pytest.mark.parametrize("text", [TEXT, LONG, MANY], ids=range(3))
def test_words_in_parts_are_those_of_the_whole(client, small_pieces, text):
    asked = {"text": text, "seed": 3}
    whole = client.post("/v1/words", json=asked).json()
    answer = client.post("/v1/words", json={**asked, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, done = parts_of(answer)
    assert len(parts) > 1 and done.pop("type") == "done"
    wav, _ = soundfile.read(io.BytesIO(base64.b64decode(whole.pop("audio"))))
    sound = b"".join(base64.b64decode(part["audio"]) for part in parts)
    np.testing.assert_allclose(pcm(sound), wav, atol=1e-3)
    # Words come with the sound in which they begin.
    heard, words = 0, []
    for part in parts:
        heard += len(base64.b64decode(part["audio"])) / 2 / part["sample_rate"]
        words += part["words"]
        assert all(word["start"] <= heard + 0.1 for word in part["words"])
    names = [word["text"] for word in done["words"]]
    assert [word["text"] for word in words] == names
    for key in ("text", "marks", "seed", "voice", "duration"):
        assert done[key] == whole[key]
    for one, other in zip(done["words"], whole["words"]):
        assert one["emotion"] == other["emotion"]
        assert one["start"] == pytest.approx(other["start"], abs=0.05)


def test_words_in_parts_say_what_is_wrong(client, server, monkeypatch):
    asked = {"text": "<hapy>We won!</>", "stream": True}
    error = error_of(client.post("/v1/words", json=asked), 400)
    assert error["code"] == "marks_wrong"
    # An error that comes later is the last event.
    monkeypatch.setattr(Speech, "timed_words", lambda *_: 1 / 0)
    monkeypatch.setattr(
        Speech, "finish", lambda self: (_ for _ in ()).throw(ValueError("No."))
    )
    answer = client.post("/v1/words", json={"text": TEXT, "stream": True})
    last = parts_of(answer)[-1]
    assert (last["type"], last["error"]["message"]) == ("error", "No.")
    monkeypatch.undo()
    speak(server, "We won!")


def test_words_of_the_page_and_marks_speak_alike(client):
    marks = client.post("/v1/marks", json={"text": TEXT}).json()
    words = client.post("/v1/words", json={"words": marks["words"]}).json()
    text = client.post("/v1/words", json={"text": TEXT}).json()
    assert words == text


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "“<happy=0.7 surprise=0.3 intensity=0.25>Oh</>,” he said…",
        "<sad=0.125 happy=0.875>well-kept</> &amp; &lt;sound&gt;!",
        "no marks at all",
        "<sad>We <break time=0.3s/>won</> <break time=2s/>",
    ],
)
def test_marks_and_words_are_lossless(client, text, synthesizer):
    there = client.post("/v1/marks", json={"text": text}).json()
    plain = "".join(
        w["before"] + w["text"] + w["after"] for w in there["words"]
    )
    assert plain == there["text"]
    back = client.post("/v1/marks", json={"words": there["words"]}).json()
    assert back == there
    emotions = synthesizer.emotions
    one, two = (parse_markup(t, emotions) for t in (text, there["marks"]))
    assert one == two


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([{"text": "two words"}], "exactly one word"),
        ([{"text": "a"}, {"text": "b"}], "exactly one word"),
        ([{"text": "a", "emotion": {"glad": 1}}], "'glad' is not known"),
        ([{"text": "a", "emotion": {"sad": 0.5}}], "sum to 1"),
        ([{"text": "a", "pitch": 2}], "pitch"),
        ([{"text": "a", "intensity": 2}], "less than or equal to 1"),
        ([], "no word"),
    ],
)
def test_words_that_cannot_be_marked_are_refused(client, words, message):
    error = error_of(client.post("/v1/marks", json={"words": words}), 400)
    assert message in error["message"]


def test_marks_need_text_or_words(client):
    for asked in ({}, {"text": "a", "words": [{"text": "a"}]}):
        error = error_of(client.post("/v1/marks", json=asked), 400)
        assert error["message"] == "Give either text or words."


# ------------------------------------------------------ queue, order, company


def speak(server, text, **options):
    asked = {"text": text, **options}
    answer = httpx.post(f"{server.url}/v1/words", json=asked, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["audio"]


def in_threads(functions):
    """Call functions at the same time."""
    results = [None] * len(functions)

    def call(index):
        results[index] = functions[index]()

    threads = [
        threading.Thread(target=call, args=(index,))
        for index in range(len(functions))
    ]
    for thread in threads:
        thread.start()
    return threads, results


def test_a_sentence_sounds_the_same_alone_and_in_company(server, gate):
    texts = ["We won!", "<sad>But he left the old house.</sad>", "No?"]
    threads, together = in_threads(
        [lambda t=t: speak(server, t, seed=3) for t in texts]
    )
    wait_for(lambda: server.service.engine.n_jobs == 3)
    gate.set()
    for thread in threads:
        thread.join()
    assert together == [speak(server, text, seed=3) for text in texts]


def test_what_cannot_be_read_does_not_wait_for_the_model(server, gate):
    for text, message in (
        ("He left 我们 here.", "我"),
        ("We won. <sad>He", "is not closed"),
    ):
        asked = {"text": text}
        answer = httpx.post(f"{server.url}/v1/words", json=asked, timeout=120)
        error = error_of(answer, 400)
        assert message in error["message"] and error["param"] == "text"
    assert server.speaker.joined == [] or server.service.engine.n_rows == 0


def test_a_client_that_leaves_frees_its_row(server, gate):
    before = len(server.speaker.left)
    connection = socket.create_connection(("127.0.0.1", server.port))
    body = json.dumps({"text": "We won!"}).encode()
    connection.sendall(
        b"POST /v1/words HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    wait_for(lambda: server.service.engine.n_rows == 1)
    connection.close()
    wait_for(lambda: server.service.engine.n_rows == 0)
    assert len(server.speaker.left) == before + 1
    assert server.service.engine.n_jobs == 0


def test_a_reader_of_a_stream_that_leaves_frees_its_row(server, gate):
    text = "We won. " * 6
    asked = {"input": text, "response_format": "pcm"}
    gate.set()
    with httpx.stream(
        "POST", f"{server.url}/v1/audio/speech", json=asked, timeout=120
    ) as response:
        next(response.iter_raw())
        gate.clear()
    wait_for(lambda: server.service.engine.n_jobs == 0)
    wait_for(lambda: server.service.engine.n_rows == 0)


def test_too_many_requests_are_told_when_to_try_again(synthesizer):
    with serving(synthesizer, Settings(max_jobs=2)) as server:
        server.speaker.gate.clear()
        threads, _ = in_threads([lambda: speak(server, "We won!")] * 2)
        wait_for(lambda: server.service.engine.n_jobs == 2)
        asked = {"text": "We won!"}
        answer = httpx.post(f"{server.url}/v1/words", json=asked)
        assert error_of(answer, 429)["type"] == "rate_limit_error"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        server.speaker.gate.set()
        for thread in threads:
            thread.join()
        speak(server, "We won!")


def test_a_late_request_is_given_up(synthesizer):
    with serving(synthesizer, Settings(time_limit=0.2)) as server:
        server.speaker.gate.clear()
        answer = httpx.post(f"{server.url}/v1/words", json={"text": "We won!"})
        assert error_of(answer, 504)["code"] == "timeout"
        wait_for(lambda: server.service.engine.n_rows == 0)


def test_a_failing_model_is_no_end_and_tells_no_secrets(
    server, client, monkeypatch
):
    monkeypatch.setattr(server.speaker._decoding, "step", lambda: 1 / 0)
    answer = client.post("/v1/words", json={"text": "We won!"})
    monkeypatch.undo()
    message = error_of(answer, 500)["message"]
    assert "division" not in message and "log" in message
    speak(server, "We won!")


# ----------------------------------------------------------------- websocket


def run_stream(server, messages, **options):
    """Send messages; return the answers up to the last one."""
    with connect(server.ws, **options) as ws:
        for message in messages:
            ws.send(json.dumps(message))
        answers = []
        while True:
            answer = ws.recv(timeout=60)
            answers.append(
                answer if isinstance(answer, bytes) else json.loads(answer)
            )
            if not isinstance(answer, bytes) and answers[-1]["type"] in (
                "done",
                "error",
            ):
                return answers


def hear(ws, until="done"):
    """Listen to a stream; return sound, words and the last message.

    It ends when a word begins, or with its end.
    """
    sound, words = b"", []
    while True:
        answer = ws.recv(timeout=60)
        if isinstance(answer, bytes):
            sound += answer
            continue
        answer = json.loads(answer)
        if answer["type"] != "words":
            return pcm(sound), words, answer
        for word in answer["words"]:
            # It begins in the sound that has come.
            words.append(word)
        if until in [word["text"] for word in words]:
            return pcm(sound), words, answer


def test_stream_speaks_sentences_as_they_arrive(server, synthesizer):
    with connect(server.ws) as ws:
        ws.send(json.dumps({"type": "start", "voice": "0012", "seed": 4}))
        assert json.loads(ws.recv()) == {"type": "start", "sample_rate": 24000}
        pieces = ["<happy>We ", "won! An", "d he ", "left 2 dogs.</happy>"]
        for piece in pieces[:3]:
            ws.send(json.dumps({"type": "text", "text": piece}))
        # The first sentence sounds before the second one is known.
        sound, words, _ = hear(ws, "won")
        ws.send(json.dumps({"type": "text", "text": pieces[3]}))
        ws.send(json.dumps({"type": "end"}))
        rest, more, done = hear(ws)
        sound, words = np.concatenate([sound, rest]), words + more
        chunks = list(
            synthesizer.stream(pieces[:3] + pieces[3:], speaker="0012", seed=4)
        )
        spoken = np.concatenate([chunk.wav for chunk in chunks])
        np.testing.assert_allclose(sound, spoken, atol=1e-3)
        assert done["duration"] == pytest.approx(len(sound) / 24000, abs=1e-4)
        assert [w["text"] for w in words] == "We won And he left 2 dogs".split()
        starts = [w["start"] for w in words]
        assert starts == sorted(starts) and starts[-1] < done["duration"]
        assert all(w["end"] >= w["start"] for w in words)
        # A second text on the same connection.
        for message in (
            {"type": "start"},
            {"type": "text", "text": "No."},
            {"type": "end"},
        ):
            ws.send(json.dumps(message))
        assert json.loads(ws.recv(timeout=60))["type"] == "start"
        assert [w["text"] for w in hear(ws)[1]] == ["No"]


def test_a_long_sentence_sounds_before_its_end(server, synthesizer):
    with connect(server.ws) as ws:
        for message in (
            {"type": "start", "speed": 0.8},
            {"type": "text", "text": LONG},
            {"type": "end"},
        ):
            ws.send(json.dumps(message))
        ws.recv()
        first = ws.recv(timeout=60)
        assert isinstance(first, bytes)
        rest, words, done = hear(ws, "seven")
        # Words come with the sound in which they begin.
        assert words[0]["text"] == "One"
        heard = len(rest) + len(first) // 2
        assert words[-1]["start"] <= heard / 24000 + 0.1
        rest, more, done = hear(ws)
        assert len(words) + len(more) == 13
        assert heard / 24000 < 0.9 * done["duration"]


def test_a_stream_begins_while_long_texts_are_spoken(server, gate):
    """Texts of one client leave room for the next, between two tokens."""
    asked = {"input": LONG, "response_format": "pcm", "stream": True}
    url = f"{server.url}/v1/audio/speech"
    gate.set()
    alone = httpx.post(url, json=asked, timeout=120)
    gate.clear()
    long = {"text": LONG * 6, "seed": 1}
    threads, _ = in_threads(
        [lambda: httpx.post(f"{server.url}/v1/words", json=long, timeout=120)]
    )
    wait_for(lambda: server.service.engine.n_rows > 0)
    gate.set()
    together = httpx.post(url, json=asked, timeout=120)
    # The long text is still being spoken.
    assert server.service.engine.n_jobs >= 1
    assert together.content == alone.content
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"type": "text", "text": "a"}], "not expected"),
        ([{"type": "start", "voice": "x"}], "not known"),
        ([{"type": "start", "speed": 9}], "speed"),
        ([{"type": "start"}, {"type": "end"}], "no word"),
        (
            [{"type": "start"}, {"type": "text", "text": "<hapy>We won.</> "}],
            "did you mean",
        ),
        (
            [
                {"type": "start"},
                {"type": "text", "text": "a <b"},
                {"type": "end"},
            ],
            "Complete the mark",
        ),
        ([{"type": "start"}, {"type": "text", "text": "a" * 5000}], "4096"),
        ([[1]], "not expected"),
    ],
)
def test_stream_says_what_is_wrong(server, messages, message):
    answer = run_stream(server, messages)[-1]
    assert answer["type"] == "error"
    assert message in answer["message"]
    wait_for(lambda: server.service.n_streams == 0)


def test_stream_can_be_cancelled_and_left(server, gate):
    begin = [{"type": "start"}, {"type": "text", "text": "We won. He left. "}]
    answers = run_stream(server, [*begin, {"type": "cancel"}])
    assert answers[-1] == {"type": "done", "cancelled": True}
    with connect(server.ws) as ws:
        for message in begin:
            ws.send(json.dumps(message))
        wait_for(lambda: server.service.engine.n_rows == 1)
    wait_for(lambda: server.service.engine.n_jobs == 0)
    wait_for(lambda: server.service.engine.n_rows == 0)


# --------------------------------------------------------------------- safety


@pytest.fixture(scope="module")
def closed_server(synthesizer):
    settings = Settings(token=TOKEN, max_upload=100_000, max_streams=1)
    with serving(synthesizer, settings) as running:
        yield running


def test_the_token_is_needed_but_for_the_page_and_health(closed_server):
    url = closed_server.url
    for path in ("/v1/voices", "/v1/models", "/openapi.json", "/static"):
        error_of(httpx.get(url + path), 401)
        wrong = {"authorization": "Bearer a-secret-tokem"}
        error_of(httpx.get(url + path, headers=wrong), 401)
    assert httpx.get(f"{url}/healthz").status_code == 200
    assert httpx.get(f"{url}/").status_code in (200, 404)
    assert httpx.get(f"{url}/static/x.js").status_code == 404
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN)
    assert [model.id for model in client.models.list()] == ["mini"]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="x").models.list()


def test_the_token_of_a_stream_comes_as_header_or_protocol(closed_server):
    with pytest.raises(InvalidStatus):
        connect(closed_server.ws)
    with pytest.raises(InvalidStatus):
        connect(closed_server.ws, subprotocols=["emofilm", "bearer.wrong"])
    end = [{"type": "start"}, {"type": "cancel"}]
    for options in (
        {"additional_headers": {"authorization": f"Bearer {TOKEN}"}},
        {"subprotocols": ["emofilm", f"bearer.{TOKEN}"]},
    ):
        assert run_stream(closed_server, end, **options)[-1]["type"] == "done"
        wait_for(lambda: closed_server.service.n_streams == 0)


def test_streams_are_limited(closed_server):
    options = {"additional_headers": {"authorization": f"Bearer {TOKEN}"}}
    with connect(closed_server.ws, **options):
        wait_for(lambda: closed_server.service.n_streams == 1)
        with pytest.raises((InvalidStatus, ConnectionClosed)):
            with connect(closed_server.ws, **options) as second:
                second.recv(timeout=10)
    wait_for(lambda: closed_server.service.n_streams == 0)


def test_pages_of_other_names_and_servers_are_refused(server, client):
    port = server.port
    evil = {"host": f"evil.example:{port}"}
    assert error_of(client.get("/v1/voices", headers=evil), 421)
    assert client.get("/healthz", headers={"host": f"[::1]:{port}"}).is_success
    asked = {"json": {"text": "We won!"}}
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        headers = {"origin": origin}
        error_of(client.post("/v1/marks", headers=headers, **asked), 403)
        with pytest.raises(InvalidStatus):
            connect(server.ws, additional_headers=headers)
    own = {"origin": server.url}
    assert client.post("/v1/marks", headers=own, **asked).is_success
    with pytest.raises(InvalidStatus):
        connect(server.ws, additional_headers={"host": "evil.example"})


def test_bodies_are_limited(server, closed_server):
    big = b"x" * (1 << 21)
    json_type = {"content-type": "application/json"}
    url = f"{server.url}/v1/marks"
    error_of(httpx.post(url, content=big, headers=json_type), 413)

    def parts():  # without a length
        for _ in range(32):
            yield b" " * (1 << 16)

    error_of(httpx.post(url, content=parts(), headers=json_type), 413)
    headers = {"authorization": f"Bearer {TOKEN}"}
    files = {"file": ("a.wav", b"x" * 200_000)}
    url = f"{closed_server.url}/v1/label"
    error_of(httpx.post(url, files=files, headers=headers), 413)


def test_long_heads_are_refused(server):
    answer = httpx.get(
        f"{server.url}/healthz", headers={"x-long": "x" * 100_000}
    )
    error_of(answer, 431)


def test_static_files_stay_in_their_folder(server):
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "//etc/passwd"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda c=connection: c.recv(4096), b""))
        assert b" 404 " in answer.split(b"\r\n")[0]


def test_a_slow_head_is_given_up(server, monkeypatch):
    from speechbrain_emofilm.serve.server import PromptProtocol

    monkeypatch.setattr(PromptProtocol, "head_seconds", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /healthz HTT")
        connection.settimeout(30)
        try:
            assert connection.recv(100) == b""
        except ConnectionResetError:
            pass


# ------------------------------------------------- voices, labels, suggestions


def wav_bytes(seconds=1.0, rate=16000, channels=1, **options):
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    wav = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(file, wav, rate, **{"format": "WAV", **options})
    return file.getvalue()


def test_a_model_with_fixed_speakers_takes_no_voices(client):
    files = {"file": ("a.wav", wav_bytes())}
    answer = client.post("/v1/voices", data={"name": "mine"}, files=files)
    assert "fixed speakers" in error_of(answer, 400)["message"]
    for name in ("../mine", "a/b", "", "x" * 65, "a\nb"):
        answer = client.post("/v1/voices", data={"name": name}, files=files)
        error_of(answer, 400)


def test_labels_of_a_file_are_opened_without_a_labeler(client, tmp_path):
    path = tmp_path / "labels.TextGrid"
    label = WordLabel("We", 0.1, 0.4, "happy")
    write_label_textgrid(path, UtteranceLabels([label]), 1.0)
    files = {
        "file": ("a.wav", wav_bytes()),
        "alignment": ("a.TextGrid", path.read_bytes()),
    }
    answer = client.post("/v1/label", files=files).json()
    assert answer["words"][0]["emotion"] == {"happy": 1.0}


@pytest.mark.parametrize("keep", [False, True])
def test_added_voices_are_kept_if_asked_for(tmp_path, keep):
    model = prompted_model(tmp_path)
    before = set(tmp_path.iterdir())
    with serving(model, Settings(keep_voices=keep)) as server:
        files = {"file": ("a.wav", wav_bytes(4.0))}
        asked = {"name": "bob", "text": "We won the game."}
        url = f"{server.url}/v1/voices"
        answer = httpx.post(url, data=asked, files=files, timeout=120)
        assert answer.json() == {"id": "bob", "emotions": []}
        names = [v["id"] for v in httpx.get(url).json()["voices"]]
        assert names == ["anna", "bob"]
        answer = httpx.post(url, data=asked, files=files, timeout=120)
        error = error_of(answer, 409)
        assert error["code"] == "voice_exists"
        assert error["values"] == {"name": "bob"}
        speak(server, "We won!", voice="bob")
    kept = set(tmp_path.iterdir()) - before
    assert bool(kept) == keep
    if keep:
        assert list(read_voices(*kept)) == ["bob"]


def test_a_folder_that_keeps_no_voice_is_told(tmp_path, monkeypatch):
    model = prompted_model(tmp_path)
    model.folder = tmp_path / "voices.safetensors"  # no folder
    with serving(model, Settings(keep_voices=True)) as server:
        files = {"file": ("a.wav", wav_bytes(4.0))}
        asked = {"name": "bob", "text": "We won the game."}
        url = f"{server.url}/v1/voices"
        answer = httpx.post(url, data=asked, files=files, timeout=120)
        error = error_of(answer, 500)
        assert error["code"] == "voice_not_kept"
        assert "--keep-voices" in error["message"]


def test_suggestions_and_labels_need_their_parts(client):
    answer = client.post("/v1/suggest", json={"text": "We won!"})
    assert "suggest" in error_of(answer, 501)["message"]
    files = {"file": ("a.wav", wav_bytes())}
    answer = client.post("/v1/label", data={"text": "We"}, files=files)
    assert "labeler" in error_of(answer, 501)["message"]


def test_parts_suggest_and_label(synthesizer, tmp_path):
    given = []

    def suggest(text):
        return parse_markup(text, synthesizer.emotions, "sad")

    probs = {"happy": 0.75, "sad": 0.25}
    known = UtteranceLabels(
        [WordLabel("We", 0.1, 0.4, "happy", probs, 0.5, 0.9)]
    )

    def label(wav, sample_rate, text, words):
        given.append((wav.shape, sample_rate, text, words))
        return known

    label.note = "The labeler has heard synthetic speech only."
    label.emotions = ["calm", *synthesizer.emotions]

    with serving(synthesizer, parts=Parts(suggest, label)) as server:
        url = server.url
        answer = httpx.post(
            f"{url}/v1/suggest", json={"text": "<happy>We won!</> He left."}
        ).json()
        assert answer["marks"] == "<happy>We won!</> <sad>He left.</>"
        files = {"file": ("a.flac", wav_bytes(1, 16000, 2, format="FLAC"))}
        labels = httpx.post(
            f"{url}/v1/label", data={"text": "We"}, files=files
        ).json()
        assert labels["words"][0]["emotion"] == {"happy": 0.75, "sad": 0.25}
        assert labels["duration"] == 1.0
        assert "synthetic speech only" in labels["note"]
        assert given[-1] == ((16000,), 16000, "We", None)
        # An alignment, as TextGrid or as word labels, replaces the text.
        grid = httpx.post(
            f"{url}/v1/label/export",
            json={
                "duration": 1.0,
                "words": labels["words"],
                "format": "textgrid",
                "name": "a",
            },
        )
        assert 'filename="a.TextGrid"' in grid.headers["content-disposition"]
        path = tmp_path / "labels.TextGrid"
        write_label_textgrid(path, known, 1.0)
        assert grid.content == path.read_bytes()
        as_json = httpx.post(
            f"{url}/v1/label/export",
            json={
                "duration": 1.0,
                "words": labels["words"],
                "format": "json",
                "name": "a",
            },
        )
        assert "happy" in as_json.text
        assert "synthetic speech only" in as_json.text
        # Labels are opened as they are.
        for content, probs in (
            (grid.content, {"happy": 1.0}),
            (as_json.content, {"happy": 0.75, "sad": 0.25}),
            (as_json.content.replace(b"happy", b"calm"), {"calm": 0.75}),
        ):
            files = {
                "file": ("a.wav", wav_bytes()),
                "alignment": ("../../x", content),
            }
            opened = httpx.post(f"{url}/v1/label", files=files).json()
            (word,) = opened["words"]
            assert probs.items() <= word["emotion"].items()
            assert (word["text"], word["intensity"]) == ("We", 0.5)
            assert opened["text"] == "We"
        assert len(given) == 1
        # Times without emotions are labelled.
        write_label_textgrid(
            path, UtteranceLabels([WordLabel("We", 0.1, 0.4)]), 1.0
        )
        unlabelled = (
            b'{"a": {"words": [{"word": "We", "start": 0.1, "end": 1}]}}'
        )
        for content in (
            path.read_bytes().replace(b'"emotion"', b'"phones"'),
            unlabelled,
        ):
            files["alignment"] = ("x", content)
            assert httpx.post(f"{url}/v1/label", files=files).is_success
            words = given[-1][3]
            assert [(w.text, w.start) for w in words] == [("We", 0.1)]
        files["alignment"] = ("x", b"rubbish")
        answer = httpx.post(f"{url}/v1/label", files=files)
        assert error_of(answer, 400)["param"] == "alignment"
        assert "/" not in answer.json()["error"]["message"]
        # What is said is recognised if nothing tells.
        files = {"file": ("a.wav", wav_bytes())}
        assert httpx.post(f"{url}/v1/label", files=files).is_success
        assert given[-1][2:] == (None, None)


def test_what_the_installed_parts_suggest_and_label(synthesizer):
    parts = find_parts(synthesizer)
    assert not parts.missing
    with serving(synthesizer, parts=parts) as server:
        url = server.url
        text = "<sad>We</> won! <break time=0.3s/>But he left."
        answer = httpx.post(f"{url}/v1/suggest", json={"text": text}).json()
        assert answer["marks"] == (
            "<sad>We</> <happy intensity=0.6>won!</> "
            "<break time=0.3s/>But he left."
        )
        answer = httpx.post(f"{url}/v1/suggest", json={"text": "我们赢了。"})
        assert "English only" in error_of(answer, 400)["message"]
        wav = synthesizer.synthesize("<sad>We won the game.</sad>").wav
        file = io.BytesIO()
        soundfile.write(file, wav.numpy(), 24000, format="WAV")
        labels = httpx.post(
            f"{url}/v1/label",
            data={"text": "We won the game."},
            files={"file": ("a.wav", file.getvalue())},
            timeout=100,
        ).json()
        assert [w["text"] for w in labels["words"]] == "We won the game".split()
        assert all(sum(w["emotion"].values()) for w in labels["words"])
        assert "synthetic speech only" in labels["note"]


def test_the_model_is_free_while_recordings_are_labelled(synthesizer):
    go_on = threading.Event()

    def label(wav, sample_rate, text, words):
        assert go_on.wait(60)
        return UtteranceLabels([WordLabel("We", 0.1, 0.4)])

    def suggest(text):
        return parse_markup(text, synthesizer.emotions)

    parts = Parts(suggest, label)
    with serving(synthesizer, parts=parts) as server:
        url, statuses = server.url, []

        def post():
            files = {"file": ("a.wav", wav_bytes())}
            answer = httpx.post(f"{url}/v1/label", files=files, timeout=100)
            statuses.append(answer.status_code)

        threads = [
            threading.Thread(target=post) for _ in range(MAX_RECORDINGS + 2)
        ]
        for thread in threads:
            thread.start()
        # More than wait are refused at once.
        wait_for(lambda: len(statuses) == 2)
        # This is asked in the model's thread.
        answer = httpx.post(f"{url}/v1/suggest", json={"text": "We won."})
        go_on.set()
        assert answer.is_success
        assert statuses[:2] == [429, 429]
        for thread in threads:
            thread.join()
        assert statuses[2:] == [200] * MAX_RECORDINGS


def test_recordings_are_given_up_in_time(synthesizer):
    go_on = threading.Event()
    parts = Parts(label=lambda *given: go_on.wait(60))
    with serving(synthesizer, Settings(time_limit=0.2), parts) as server:
        files = {"file": ("a.wav", wav_bytes())}
        answer = httpx.post(f"{server.url}/v1/label", files=files)
        assert error_of(answer, 504)["code"] == "label_timeout"
        go_on.set()


def test_what_is_not_installed_is_named(synthesizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "vader", None)
    parts = find_parts(synthesizer)
    assert parts.suggest is None
    assert "speechbrain-emofilm[suggest]" in parts.missing["suggest"]
    with serving(synthesizer, parts=parts) as server:
        answer = httpx.post(f"{server.url}/v1/suggest", json={"text": "We"})
        assert "nltk-vader-sentiment" in error_of(answer, 501)["message"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([{"text": "We", "start": 0.4, "end": 0.1}], "a"),
        ([{"text": "We", "start": 0, "end": 1, "emotion": {"glad": 1}}], "a"),
        ([{"text": "We", "start": 0, "end": 1}], "../a"),
    ],
)
def test_wrong_labels_are_not_written(client, words, name):
    asked = {"duration": 1, "words": words, "format": "json", "name": name}
    error = error_of(client.post("/v1/label/export", json=asked), 400)
    assert "/tmp" not in error["message"]
