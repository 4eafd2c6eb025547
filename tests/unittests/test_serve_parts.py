"""Scheduling, cutting of texts, sound and command of the server."""

import io
import queue

from speechbrain_emofilm.cli import main
from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.serve.audio import decode_recording, encode_parts
from speechbrain_emofilm.serve.engine import (
    Engine,
    Job,
    OutOfTime,
    Overloaded,
    Said,
    Speaking,
)
from speechbrain_emofilm.serve.marks import marks_of, words_of
from speechbrain_emofilm.serve.pieces import PieceReader, cut_text

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
        self.joined, self.left = [], []
        self.turns = queue.Queue()

    @property
    def room(self):
        return self.max_rows - len(self.rows)

    def join(self, rows):
        self.rows.update((row.key, row) for row in rows)
        self.joined += [row.text for row in rows]

    def leave(self, key):
        self.left.append(self.rows.pop(key).text)

    def step(self):
        """Finish the rows of the texts that the test names, or all."""
        texts = self.turns.get(timeout=60)
        if isinstance(texts, Exception):
            raise texts
        said = []
        for key, row in list(self.rows.items()):
            if texts == "all" or row.text in texts:
                del self.rows[key]
                said.append(Said(key, np.array([float(key)]), 1))
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
    with pytest.raises(Overloaded):
        submit(engine, "a", ["one"])


# ------------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("We won! He left.", ["We won!", "He left."]),
        ("Mr. A. Hill paid 3.50 today.", ["Mr. A. Hill paid 3.50 today."]),
        ("“We won!” he said.", ["“We won!”", "he said."]),
        ("… We won.", ["… We won."]),
        ("我们赢了。他走了！", ["我们赢了。", "他走了！"]),
        ("A title\n\nA text", ["A title", "A text"]),
        ("<sad>We won. </sad>He left.", ["<sad>We won.</>", "He left."]),
        (
            "<sad=0.5 happy=0.5>We won! He left.</> No!",
            ["<sad=0.5 happy=0.5>We won!</>", "<sad=0.5 happy=0.5>He left.</>"]
            + ["No!"],
        ),
    ],
)
def test_texts_are_cut_into_sentences(text, pieces):
    assert cut_text(text) == pieces


def test_long_sentences_are_cut_at_clauses():
    clause = " ".join(["word"] * 25)
    text = f"<sad>{clause}, {clause}, {clause}.</>"
    assert cut_text(text) == [
        f"<sad>{clause},</>",
        f"<sad>{clause},</>",
        f"<sad>{clause}.</>",
    ]
    assert [len(p.split()) for p in cut_text(" ".join(["a"] * 95))] == [
        40,
        40,
        15,
    ]


def test_tags_are_no_marks():
    tags = ["[laughter]", "<strong>", "</strong>"]
    text = "<sad><strong>We</strong> won. [laughter] Ha.</sad>"
    assert cut_text(text, tags) == [
        "<sad><strong>We</strong> won.</>",
        "<sad>[laughter] Ha.</>",
    ]


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
@given(PARTS, st.integers(1, 9))
def test_cutting_keeps_every_word_and_its_emotion(parts, size):
    text = " ".join(
        f"{mark}{' '.join(words)}{end}{'</>' if mark else ''}"
        for mark, words, end in parts
    )

    def words(texts):
        return [
            (word.word, word.probs, word.intensity)
            for text in texts
            for word in parse_markup(text, EMOTIONS, max_words=9999).words
        ]

    pieces = cut_text(text)
    assert words(pieces) == words([text])
    # The same, however the text arrives.
    reader = PieceReader()
    bits = [text[i : i + size] for i in range(0, len(text), size)]
    arrived = [piece for bit in bits for piece in reader.feed(bit)]
    assert words(arrived + reader.finish()) == words([text])


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


@pytest.mark.parametrize("format", ["wav", "pcm", "opus"])
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
    monkeypatch.setattr("speechbrain_emofilm.cli._load", lambda _: Model())
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
    monkeypatch.setattr("speechbrain_emofilm.cli._load", lambda _: Model())
    monkeypatch.setattr(server, "serve", lambda *args: calls.append(args))
    monkeypatch.setenv("EMOFILM_TOKEN", "from-the-environment")
    options = ["--port", "8001", "--max-jobs", "7"]
    assert main(["serve", "--model", str(tmp_path), *options]) == 0
    (_, settings, port, browser) = calls[0]
    assert (port, browser, settings.max_jobs) == (8001, True, 7)
    assert settings.host == "127.0.0.1"
    assert settings.token == "from-the-environment"


def test_the_command_names_what_is_not_installed(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "speechbrain_emofilm.serve.app", None)
    assert main(["serve"]) == 2
    assert "speechbrain-emofilm[serve]" in capsys.readouterr().err


def test_words_of_readings_are_those_of_the_text():
    from types import SimpleNamespace

    from speechbrain_emofilm.dataio.normalization import TextNormalizer
    from speechbrain_emofilm.serve.speaker import words_of_text

    synthesizer = SimpleNamespace(
        emotions=EMOTIONS,
        tags=[],
        hparams=SimpleNamespace(text_normalizer=TextNormalizer()),
    )
    spoken = [
        Word(word, index, index + 1, 0.5)
        for index, word in enumerate(
            "She paid twenty five dollars today".split()
        )
    ]
    found = words_of_text(synthesizer, "<sad>She paid $25 today</>", spoken)
    assert [(w.text, w.start, w.end) for w in found] == [
        ("She", 0, 1),
        ("paid", 1, 2),
        ("25", 2, 5),
        ("today", 5, 6),
    ]
