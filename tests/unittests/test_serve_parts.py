"""Scheduling, reading of texts, sound and command of the server."""

import io
import queue
import re
from pathlib import Path

from speechbrain_emofilm import serve
from speechbrain_emofilm.cli import main
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.encoding import STREAMED, encode_parts
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.dataio.normalization import TextNormalizer
from speechbrain_emofilm.dataio.splitting import TextSplitter
from speechbrain_emofilm.dataio.text import TextUnits, split_words
from speechbrain_emofilm.inference.long_text import Planner, piece_seed
from speechbrain_emofilm.serve.audio import decode_recording
from speechbrain_emofilm.serve.engine import (
    Engine,
    Job,
    OutOfTime,
    Overloaded,
    Said,
    Speaking,
)
from speechbrain_emofilm.serve.marks import marks_of, words_of
from speechbrain_emofilm.serve.speech import (
    StreamReader,
    read_text,
    words_of_text,
)

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st


class FakeSpeaker:
    """Speaks a row when the test says so."""

    def __init__(self, max_rows):
        self.max_rows = max_rows
        self.rows = {}
        self.all, self.joined, self.left = [], [], []
        self.turns = queue.Queue()

    @property
    def room(self):
        return self.max_rows - len(self.rows)

    def join(self, rows):
        self.rows.update((row.key, row) for row in rows)
        self.all += rows
        self.joined += [row.piece for row in rows]

    def leave(self, key):
        self.left.append(self.rows.pop(key).piece)

    def start(self):
        pass

    def close(self):
        self.joined.append("closed")

    def step(self):
        """Finish the rows of the texts that the test names, or all."""
        texts = self.turns.get(timeout=60)
        if isinstance(texts, Exception):
            raise texts
        said = []
        for key, row in list(self.rows.items()):
            if texts == "all" or row.piece in texts:
                del self.rows[key]
                said.append(Said(key, np.array([float(key)]), [key, key]))
        return said


class Sink:
    """Events of a job."""

    def __init__(self):
        self.events = queue.Queue()

    def __call__(self, event):
        self.events.put(event)

    def next(self):
        return self.events.get(timeout=60)

    def all(self):
        """All events up to the last one."""
        events = []
        while True:
            events.append(self.next())
            if events[-1] is None or isinstance(events[-1], Exception):
                return events


@pytest.fixture
def engine():
    engine = Engine(FakeSpeaker(2), max_jobs=4, max_jobs_per_client=3)
    yield engine
    if engine.alive:
        engine.speaker.turns.put("all")
        engine.close()


def submit(engine, client, pieces, **options):
    sink = Sink()
    job = Job(client, Speaking(), sink, pieces, **options)
    engine.submit(job)
    return job, sink


def test_clients_get_equal_shares(engine):
    _, long = submit(engine, "a", ["a1", "a2", "a3", "a4"])
    _, other = submit(engine, "a", ["A1"])
    _, short = submit(engine, "b", ["b1"])
    engine.start()
    for _ in range(3):
        engine.speaker.turns.put("all")
    for sink in (long, other, short):
        assert sink.all()[-1] is None
    # One of each client, then the other job of the first client.
    assert engine.speaker.joined == ["a1", "b1", "A1", "a2", "a3", "a4"]


def test_the_beginning_of_a_stream_goes_first(engine):
    submit(engine, "a", ["a1", "a2", "a3"])
    submit(engine, "a", ["b1", "b2"])
    _, stream = submit(engine, "a", ["s1", "s2"], streaming=True)
    engine.start()
    engine.speaker.turns.put("all")
    assert stream.next() is not None
    # And its second sentence does not push the others away.
    assert engine.speaker.joined[:2] == ["s1", "a1"]
    engine.speaker.turns.put("all")
    engine.speaker.turns.put("all")
    stream.all()
    assert engine.speaker.joined[2] == "b1"


def test_pieces_are_heard_in_the_order_of_the_text(engine):
    _, sink = submit(engine, "a", ["one", "two"])
    engine.start()
    engine.speaker.turns.put(["two"])
    engine.speaker.turns.put(["one"])
    assert [event and event.wav[0] for event in sink.all()] == [0, 1, None]


def test_a_cancelled_job_leaves_room(engine):
    job, sink = submit(engine, "a", ["one", "two", "three"])
    _, other = submit(engine, "a", ["other"])
    engine.start()
    engine.speaker.turns.put([])
    engine.cancel(job)
    for _ in range(3):
        engine.speaker.turns.put("all")
    assert other.all()[-1] is None
    assert set(engine.speaker.left) <= {"one", "two"}
    assert engine.speaker.left
    assert sink.events.empty()


def test_a_late_job_is_given_up(engine):
    _, sink = submit(engine, "a", ["one"], time_limit=0)
    engine.start()
    (event,) = sink.all()
    assert isinstance(event, OutOfTime)


def test_a_failing_step_ends_its_jobs_only(engine):
    _, sink = submit(engine, "a", ["one"])
    engine.start()
    engine.speaker.turns.put(RuntimeError("broken"))
    assert str(sink.all()[-1]) == "broken"
    _, sink = submit(engine, "a", ["two"])
    engine.speaker.turns.put("all")
    assert sink.all()[-1] is None


def test_a_full_queue_refuses(engine):
    for _ in range(3):
        submit(engine, "a", ["one"])
    with pytest.raises(Overloaded) as info:
        submit(engine, "a", ["one"])
    assert 1 <= info.value.retry_after <= 60
    submit(engine, "b", ["one"])
    with pytest.raises(Overloaded):
        submit(engine, "c", ["one"])


def test_pieces_may_come_later(engine):
    job, sink = submit(engine, "a", [], complete=False, streaming=True)
    engine.start()
    engine.speaker.turns.put("all")
    engine.add(job, ["one"], False)
    assert sink.next().last
    engine.add(job, [], True)
    assert sink.next() is None


def test_pieces_have_seeds_of_their_own_and_may_continue_each_other(engine):
    job = Job("a", Speaking(seed=7), Sink(), ["1", "2", "3"], history=True)
    engine.submit(job)
    engine.start()
    for _ in range(3):
        engine.speaker.turns.put("all")
    assert job._sink.all()[-1] is None
    rows = engine.speaker.all
    assert [row.seed for row in rows] == [piece_seed(7, i) for i in range(3)]
    assert [row.previous for row in rows] == [
        None,
        ("1", [rows[0].key] * 2),
        ("2", [rows[1].key] * 2),
    ]


def test_functions_run_between_steps_and_errors_reach_the_caller(engine):
    engine.start()
    assert engine.call(lambda: 5).result(timeout=60) == 5
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(timeout=60)


def test_closing_tells_those_who_wait(engine):
    _, sink = submit(engine, "a", [], complete=False)
    engine.start()
    engine.close()
    assert isinstance(sink.all()[-1], Overloaded)
    assert engine.speaker.joined == ["closed"]
    with pytest.raises(Overloaded):
        submit(engine, "a", ["one"])


# --------------------------------------------------------------------- marks


EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
PARTS = st.lists(
    st.tuples(
        st.sampled_from(["", "<sad>", "<happy=0.5 sad=0.5 intensity=0.25>"]),
        st.lists(
            st.sampled_from(["we", "won", "he left", "3.5", "it’s", "我们"]),
            min_size=1,
        ),
        st.sampled_from([".", "!", ", ", "; ", "?” ", " ", "… ", "\n"]),
    ),
    min_size=1,
)


@settings(deadline=None, max_examples=60)
@given(PARTS)
def test_words_and_marks_are_lossless(parts):
    text = " ".join(
        f"{mark}{' '.join(words)}{end}{'</>' if mark else ''}"
        for mark, words, end in parts
    )
    marked = parse_markup(text, EMOTIONS, max_words=9999)
    marks = marks_of(words_of(marked), EMOTIONS)
    assert parse_markup(marks, EMOTIONS, max_words=9999) == marked


def test_words_and_marks_keep_breaks():
    tags = ["[laughter]"]
    text = (
        "<break time=0.25s/> <sad>We [laughter] <break time=10s/> "
        '<break time="10s"/><break time=2s/> “won”</sad> now. <break time=0s/>'
    )
    marked = parse_markup(text, EMOTIONS, tags=tags)
    words = words_of(marked)
    assert [word.get("break_before") for word in words] == [0.25, 22.0, None]
    assert [word.get("break_after") for word in words] == [None, None, 0.0]
    again = parse_markup(marks_of(words, EMOTIONS, tags), EMOTIONS, tags=tags)
    assert (again.text, again.words) == (marked.text, marked.words)
    assert words_of(again) == words
    words[0]["break_after"] = 1.0
    with pytest.raises(ValueError, match="Word 0 .*break_after"):
        marks_of(words, EMOTIONS, tags)


def test_words_and_marks_are_lossless_with_tags():
    tags = ["[laughter]", "<strong>", "</strong>"]
    text = "<sad>We [laughter] <strong>won</strong></sad> [laughter] now."
    marked = parse_markup(text, EMOTIONS, tags=tags)
    marks = marks_of(words_of(marked), EMOTIONS, tags)
    assert parse_markup(marks, EMOTIONS, tags=tags) == marked
    assert "<sad>We [laughter] <strong>won</>" in marks


# --------------------------------------------------------------------- sound


def sound_file(wav, rate=8000, **options):
    file = io.BytesIO()
    soundfile.write(file, wav, rate, **{"format": "FLAC", **options})
    return file.getvalue()


def test_recordings_are_decoded_and_mixed():
    stereo = np.stack([np.full(800, 0.5), np.full(800, -0.25)], 1)
    wav, rate = decode_recording(sound_file(stereo), 1)
    assert (wav.shape, rate) == ((800,), 8000)
    np.testing.assert_allclose(wav, 0.125, atol=1e-4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a sound file"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "not a sound file"),
        (b"../../etc/passwd", "not a sound file"),
        # Hours of silence take few bytes.
        (sound_file(np.zeros(8000 * 3600, "int16")), "longer than the 60 s"),
        (sound_file(np.zeros((80, 9)), format="WAV"), "9 channels"),
        (sound_file(np.zeros(80), 4000, format="WAV"), "4000 Hz"),
        (sound_file(np.zeros(0), format="WAV"), "empty"),
        (sound_file(np.zeros(80), format="AIFF"), "AIFF"),
        (
            sound_file(np.full(80, np.nan), format="WAV", subtype="FLOAT"),
            "NaN",
        ),
    ],
    ids=range(9),
)
def test_recordings_that_cannot_be_used_are_refused(data, message):
    assert len(data) < 500_000
    with pytest.raises(ValueError, match=message):
        decode_recording(data, 60)


@pytest.mark.parametrize("format", STREAMED)
def test_parts_of_a_sound_are_written_as_they_come(format):
    rng = np.random.default_rng(0)
    wavs = [0.1 * rng.standard_normal(24000) for _ in range(4)]
    sent = list(encode_parts(wavs, 24000, format))
    assert all(sent[:4])
    data = b"".join(sent)
    if format == "pcm":
        assert len(data) == 2 * 4 * 24000
    else:
        heard, rate = soundfile.read(io.BytesIO(data))
        assert len(heard) == pytest.approx(4 * 24000, abs=2000)


# ------------------------------------------------------------------- command


class Model:
    speakers = ["0011"]


def test_the_command_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("speechbrain_emofilm.cli._load", lambda *_: Model())
    common = ["serve", "--no-browser", "--model", str(tmp_path)]
    for options, message in (
        (["--token", "a b"], "The token has other characters"),
        (["--host", "192.0.2.1"], "cannot listen to 192.0.2.1 port 8000"),
        (["--port", "99999"], "port 99999"),
    ):
        assert main([*common, *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
    monkeypatch.setenv("EMOFILM_TOKEN", "short")
    assert main(common) == 2
    with pytest.raises(SystemExit):
        main([*common, "--max-jobs", "0"])


def test_the_command_serves_with_its_settings(monkeypatch, tmp_path):
    from speechbrain_emofilm.serve import server

    calls = []
    monkeypatch.setattr("speechbrain_emofilm.cli._load", lambda *_: Model())
    monkeypatch.setattr(server, "serve", lambda *args: calls.append(args))
    monkeypatch.setenv("EMOFILM_TOKEN", "from-the-environment")
    options = ["--port", "8001", "--max-jobs", "7", "--keep-voices"]
    assert main(["serve", "--model", str(tmp_path), *options]) == 0
    (_, settings, port, browser) = calls[0]
    assert (port, browser, settings.max_jobs) == (8001, True, 7)
    assert settings.host == "127.0.0.1"
    assert settings.keep_voices
    assert settings.token == "from-the-environment"


def test_the_command_names_what_is_not_installed(monkeypatch, capsys):
    import sys

    name = "speechbrain_emofilm.serve.server"
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve"]) == 2
    assert "speechbrain-emofilm[serve]" in capsys.readouterr().err


def test_every_error_has_a_sentence_in_chinese():
    """No code is missing on the page, and none is left there."""
    folder = Path(serve.__file__).parent
    sources = [path.read_text() for path in folder.rglob("*.py")]
    codes = {"timeout", "unspeakable", "label_missing", "suggest_missing"}
    for source in sources:
        for call in re.split(r"Fault\(", source)[1:]:
            found = re.search(r'"([a-z]+(?:_[a-z]+)+)"', call)
            codes |= {found[1]} if found else set()
        codes |= set(re.findall(r'code="(\w+)"', source))
        codes |= set(re.findall(r'^    \d{3}: "(\w+)",', source, re.M))
        codes |= set(re.findall(r'_HTTP_CODES.get\(status, "(\w+)"', source))
    chinese = (folder / "static/i18n/zh.js").read_text()
    known = set(re.findall(r'^  "error\.(\w+)"', chinese, re.M))
    assert codes == known - {"network", "text", "start"}


class Frontend:
    """Reads every word as one unit."""

    language = "en"

    def encode(self, text):
        words = [word.text for word in split_words(text)]
        return TextUnits(
            list(range(len(words))), list(range(len(words))), words
        )


@pytest.fixture
def planner():
    return Planner(
        EMOTIONS,
        Frontend(),
        TextNormalizer(language="en"),
        TextSplitter(min_units=2, max_units=4, min_last_units=1),
    )


TEXT = "<sad>She paid $25 &amp; left. <break time=1s/> He won 3 times.</> Why?"


def test_words_of_readings_are_those_of_the_text(planner):
    reading = read_text(planner, TEXT)
    assert len(reading.pieces) == 3
    assert reading.gaps == [None, 1.0, 0.5] and reading.last_gap is None
    said = [word.word for p in reading.pieces for word in p.marked.words]
    assert said[2:6] == ["twenty", "five", "dollars", "and"]
    spoken = [Word(w, i, i + 1, 0.5) for i, w in enumerate(said)]
    found = words_of_text(reading.words, reading.origins, spoken)
    assert [
        w.text for w in found
    ] == "She paid 25 left He won 3 times Why".split()
    assert [(w.start, w.end) for w in found[:4]] == [
        (0, 1), (1, 2), (2, 5), (6, 7),
    ]  # fmt: skip
    assert found[-1].end == len(said)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_sentences_are_read_however_they_arrive(planner, size):
    reader = StreamReader(planner)
    parts = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    readings = [reader.add(part) for part in parts] + [reader.finish()]
    readings = [reading for reading in readings if reading is not None]
    whole = read_text(planner, TEXT)
    assert len(readings) > 1
    for name in ("words", "gaps"):
        joined = [x for reading in readings for x in getattr(reading, name)]
        assert joined == getattr(whole, name)
    joined = [p.marked.words for r in readings for p in r.pieces]
    emotions = [(w.word, w.probs) for words in joined for w in words]
    assert emotions == [
        (w.word, w.probs) for p in whole.pieces for w in p.marked.words
    ]


def test_a_break_behind_a_stream_is_kept(planner):
    reader = StreamReader(planner)
    assert reader.add("We won. ") is None
    assert reader.add("He left. <break time=2s/").words == ["We", "won"]
    rest = reader.add("> ")
    last = reader.finish()
    gaps = [(r.words, r.last_gap) for r in (rest, last) if r is not None]
    assert gaps == [(["He", "left"], 2.0)]
    reader = StreamReader(planner)
    reader.add("We won. No ")
    reader.add("one. <break time=1s/> <break time=1s/> ")
    assert reader.finish().last_gap == 2.0
    reader = StreamReader(planner)
    assert reader.add("We won. He left. No").words == ["We", "won"]
    reader.add("w. <break time=1s/> ")
    assert reader.add("… ") is None
    assert reader.finish().last_gap == 1.0


def test_too_much_silence_is_refused(planner):
    breaks = "<break time=10s/>" * 31
    with pytest.raises(ValueError, match="take 310 s"):
        read_text(planner, f"We {breaks} won.")
    reader = StreamReader(planner)
    reader.add(f"We {breaks[: 17 * 20]} won. He")
    with pytest.raises(ValueError, match="310 s|340 s|s that are accepted"):
        reader.add(f" {breaks} left. And ")


def test_what_cannot_be_read_is_told_with_its_place(planner):
    with pytest.raises(ValueError, match="Character 16: .*hapy"):
        read_text(planner, "We won. He left <hapy>us</>.")


# --- Prosody of words --------------------------------------------------------


def test_words_of_the_page_carry_prosody_to_marks_and_back():
    axes = ["pitch", "pace", "level"]
    text = "<happy pitch=+2st>We</> <pace=0.7>won,</> <stress>he</> left."
    words = words_of(parse_markup(text, ["happy"], axes=axes))
    assert [[word[axis] for axis in axes] for word in words] == [
        [2.0, None, None],
        [None, 0.7, None],
        [2.0, 0.8, 3.0],
        [None] * 3,
    ]
    assert marks_of(words, ["happy"], axes=axes) == text


@pytest.mark.parametrize(
    "axes, message",
    [
        ([], "Word 0 .'We'. has a pitch, which this model cannot change"),
        (["pitch"], "has the pitch 13: give a number from -12 to 12"),
    ],
)
def test_prosody_that_a_model_cannot_give_is_refused(axes, message):
    words = [{"text": "We", "pitch": 13.0}]
    with pytest.raises(ValueError, match=message):
        marks_of(words, ["happy"], axes=axes)
