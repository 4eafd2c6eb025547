"""Word times and lost words from the word pointer of a synthesizer."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain_emofilm.inference.listening import Heard
from speechbrain_emofilm.inference.long_text import candidate_seed
from speechbrain_emofilm.inference.pointing import (
    Pointing,
    Reading,
    WordCoverage,
    _judge,
    point,
)
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import DrawnToken
from speechbrain_emofilm.lobes.word_pointer import WordPointer
from speechbrain_emofilm.serve.engine import Row, Speaking
from speechbrain_emofilm.serve.speaker import ContinuousSpeaker
from speechbrain_emofilm.serve.speech import Speech, read_text
from speechbrain_emofilm.utils.assets import find_file

import numpy as np
import pytest
import torch

_spec = importlib.util.spec_from_file_location(
    "synthesizer_tests", Path(__file__).with_name("test_synthesizer.py")
)
_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tests)
make_synthesizer = _tests.make_synthesizer

TEXT = "<happy>We won!</happy> But <sad>he left</sad>"


def with_pointer(**hparams):
    synthesizer = make_synthesizer(**hparams)
    synthesizer.mods.emofilm.word_pointer = WordPointer(
        16, reduced_dim=8, hidden=8, dim=4
    ).eval()
    synthesizer.pointer = synthesizer.mods.emofilm.word_pointer
    return synthesizer


def judge(frames, units, resolution=2):
    """Judge words by the labels of frames, 0 for silence."""
    n_words = len(units)
    probs = np.full((len(frames), n_words + 1), 0.01)
    probs[np.arange(len(frames)), frames] = 0.95
    owners = [word for word, n in enumerate(units) for _ in range(n)]
    reading = Reading(owners, n_words)
    return _judge(np.log(probs), reading, resolution, is_whole=True)


def statuses(found):
    return [word.status for word in found.coverage]


def test_words_that_are_visited_in_order_are_spoken():
    found = judge([0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0], [2, 1, 2])
    assert statuses(found) == ["spoken"] * 3
    assert found.spans.tolist() == [[1, 3], [3, 4], [4, 6]]
    assert found.n_bad == found.n_lost == 0
    assert found.confidence == pytest.approx([0.95] * 3)


def test_a_word_that_is_never_visited_is_lost():
    found = judge([0, 1, 1, 1, 1, 3, 3, 3, 3, 0], [2, 2, 2])
    assert statuses(found) == ["spoken", "lost", "spoken"]
    assert np.diff(found.spans[1]) <= 0.5 and found.confidence[1] < 0.1


def test_a_word_that_is_left_early_is_cut():
    frames = [1] * 20 + [2] * 2 + [3] * 20
    assert statuses(judge(frames, [10, 10, 10])) == ["spoken", "cut", "spoken"]


def test_a_word_that_is_visited_twice_is_repeated():
    frames = [1] * 8 + [2] * 8 + [0] * 4 + [1] * 8 + [2] * 8 + [3] * 8
    found = judge(frames, [4, 4, 4])
    assert "repeated" in statuses(found)
    assert found.n_lost == 0 and found.n_bad >= 1


def test_words_without_a_text_token_share_the_place_of_the_one_before():
    probs = np.full((8, 4), 0.01)
    probs[:4, 1] = probs[4:, 3] = 0.97
    reading = Reading([0, 2], n_words=3)
    found = _judge(np.log(probs), reading, 1, is_whole=True)
    assert found.spans.tolist() == [[0, 2], [2, 4], [4, 8]]
    assert statuses(found) == ["spoken"] * 3


def test_times_follow_from_the_duration_of_a_token():
    spans = np.array([[1.5, 3.0], [3.0, 3.0]])
    coverage = [WordCoverage("spoken", 1.0, 0.9), WordCoverage("lost", 0, 0)]
    pointing = Pointing(spans, np.array([0.9, 0.0]), coverage)
    we, won = pointing.words(["we", "won"], 0.04)
    assert (we.text, we.start, we.end) == ("we", 0.06, 0.12)
    assert (won.start, won.end, won.confidence) == (0.12, 0.12, 0.0)


def test_the_state_behind_the_last_token_is_used_where_it_is_known():
    torch.manual_seed(0)
    pointer = WordPointer(16, reduced_dim=8, hidden=8, dim=4).eval()
    states = torch.randn(4, 16)
    cut, ended = (Reading([0, 0, 1], n_words=2) for _ in range(2))
    for reading in (cut, ended):
        reading.on_text(torch.ones(3, 16))
        for token, state in zip((5, 6, 7), states):
            reading.on_drawn(DrawnToken(0, token, False, state))
    ended.on_drawn(DrawnToken(0, None, True, states[3]))
    confidences = [p.confidence for p in point(pointer, [cut, ended])]
    assert not np.allclose(*confidences)
    assert len(ended.speech_states) == 4 and ended.tokens == [5, 6, 7]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_pointer_changes_the_word_times_only(guidance):
    plain = make_synthesizer().synthesize(TEXT, guidance=guidance)
    pointed = with_pointer().synthesize(TEXT, guidance=guidance)
    assert torch.equal(plain.wav, pointed.wav)
    assert pointed.word_times_source == "pointer"
    assert [word.text for word in pointed.words] == "We won But he left".split()
    assert len(pointed.coverage) == 5 and plain.coverage is None
    ends = [time for word in pointed.words for time in (word.start, word.end)]
    assert ends == sorted(ends)
    assert ends[-1] <= len(pointed.wav) / 24000 + 1e-6


def test_word_times_do_not_depend_on_the_batch():
    synthesizer = with_pointer()
    texts, seeds = [TEXT, "Yes.", "We left"], [1, 2, 3]
    together = synthesizer.synthesize(texts, seed=seeds)
    for text, seed, result in zip(texts, seeds, together):
        alone = synthesizer.synthesize(text, seed=seed)
        for word, other in zip(alone.words, result.words, strict=True):
            assert word.start == pytest.approx(other.start, abs=1e-6)
            assert word.end == pytest.approx(other.end, abs=1e-6)


def test_an_aligner_that_is_named_gives_the_times():
    class Aligner:
        def align(self, wav, sample_rate, text, language):
            raise ValueError("cannot")

    synthesizer = with_pointer(aligner=Aligner())
    result = synthesizer.synthesize(TEXT)
    assert result.word_times_source == "proportional"
    assert len(result.coverage) == 5
    chosen = with_pointer(aligner=Aligner(), word_times="pointer")
    assert chosen.synthesize(TEXT).word_times_source == "pointer"
    other = with_pointer(word_times="aligner")
    assert other.synthesize(TEXT).word_times_source == "proportional"


@pytest.fixture(scope="module")
def bistream():
    path = "speechbrain_emofilm/assets/mini_bistream/synthesizer.yaml"
    return EmoFiLMSynthesizer.from_hparams(find_file(path).parent)


def both_streams(synthesizer, text):
    """Chunks without and with a pointer of random weights."""
    chunks = []
    pointer = WordPointer(192, reduced_dim=8, hidden=8, dim=4).eval()
    for synthesizer.pointer in (None, pointer):
        chunks.append(list(synthesizer.stream(text)))
    return chunks


def test_a_stream_tells_the_words_of_the_pointer(bistream):
    plain, chunks = both_streams(bistream, TEXT)
    assert torch.equal(
        torch.cat([c.wav for c in plain]), torch.cat([c.wav for c in chunks])
    )
    assert {chunk.word_times_source for chunk in chunks} <= {
        "pointer",
        "estimated",
    }
    assert chunks[-1].word_times_source == "pointer"
    assert plain[-1].word_times_source == "estimated"
    assert [w.text for w in chunks[-1].words] == "We won But he left".split()
    for before, after in zip(chunks, chunks[1:]):
        told = [word.start for word in before.words]
        assert told == [word.start for word in after.words][: len(told)]


def test_pieces_of_text_are_pointed_at_as_they_are_read(bistream):
    pieces = ["<happy>We won!</happy> But ", "<sad>he le", "ft</sad>"]
    plain, chunks = both_streams(bistream, pieces)
    assert torch.equal(
        torch.cat([c.wav for c in plain]), torch.cat([c.wav for c in chunks])
    )
    assert chunks[-1].word_times_source == "pointer"
    assert [w.text for w in chunks[-1].words] == "We won But he left".split()


# --- Several readings -----------------------------------------------------


class Judge:
    """Calls the words of some readings lost, by their tokens."""

    def __init__(self, monkeypatch, n_lost):
        self.seen = []
        self.n_lost = n_lost
        target = "speechbrain_emofilm.inference.synthesizer.point"
        monkeypatch.setattr(target, self)

    def __call__(self, pointer, readings):
        (reading,) = readings
        self.seen.append(reading.tokens)
        n_lost = self.n_lost[(len(self.seen) - 1) % len(self.n_lost)]
        coverage = [
            WordCoverage("lost" if i < n_lost else "spoken", 1.0, 0.5)
            for i in range(reading.n_words)
        ]
        spans = np.tile([0.0, 1.0], (reading.n_words, 1))
        return [Pointing(spans, np.ones(reading.n_words), coverage)]


def test_one_candidate_is_the_reading_of_today():
    plain, pointed = make_synthesizer(), with_pointer()
    for options in ({}, {"candidates": 1, "retry": 0}):
        result = pointed.synthesize(TEXT, seed=4, **options)
        assert torch.equal(result.wav, plain.synthesize(TEXT, seed=4).wav)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_candidate_with_the_fewest_lost_words_is_taken(best, monkeypatch):
    judge = Judge(monkeypatch, [0 if i == best else 2 for i in range(3)])
    synthesizer = with_pointer()
    result = synthesizer.synthesize(TEXT, seed=4, candidates=3)
    alone = make_synthesizer().synthesize(TEXT, seed=candidate_seed(4, best))
    assert result.speech_tokens.tolist() == judge.seen[best]
    assert torch.equal(result.wav, alone.wav)


def test_of_equal_candidates_the_most_probable_is_taken(monkeypatch):
    judge = Judge(monkeypatch, [1])
    likelihood = {"log_likelihood": lambda own, _: -abs(len(own.tokens) - 99)}
    monkeypatch.setattr(Reading, "log_likelihood", likelihood["log_likelihood"])
    result = with_pointer().synthesize(TEXT, seed=4, candidates=4)
    assert len(result.speech_tokens) == max(map(len, judge.seen))


def test_of_equal_candidates_the_one_heard_best_is_taken(monkeypatch):
    judge = Judge(monkeypatch, [0])
    scores = iter([-2.0, -0.5, -1.0])
    target = "speechbrain_emofilm.inference.synthesizer.listen"
    monkeypatch.setattr(
        target, lambda *args: Heard(next(scores), [0.9] * args[-1])
    )
    synthesizer = with_pointer()
    synthesizer.listener = torch.nn.Identity()
    synthesizer.text_frontend.phonemes = list
    result = synthesizer.synthesize(TEXT, seed=4, candidates=3)
    assert result.speech_tokens.tolist() == judge.seen[1]
    assert [word.clarity for word in result.coverage] == [0.9] * 5


def test_a_word_that_is_not_heard_is_drawn_again(monkeypatch):
    judge = Judge(monkeypatch, [0])
    clarity = iter([[0.9, 0.0, 0.9, 0.9, 0.9], [0.9] * 5])
    target = "speechbrain_emofilm.inference.synthesizer.listen"
    monkeypatch.setattr(target, lambda *args: Heard(-1.0, next(clarity)))
    synthesizer = with_pointer()
    synthesizer.listener = torch.nn.Identity()
    synthesizer.text_frontend.phonemes = list
    result = synthesizer.synthesize(TEXT, seed=4, retry=3)
    assert len(judge.seen) == 2
    assert result.speech_tokens.tolist() == judge.seen[1]


def test_only_texts_that_lack_a_word_are_drawn_again(monkeypatch):
    judge = Judge(monkeypatch, [1, 0, 0])
    texts = [TEXT, "Yes we won"]
    results = with_pointer().synthesize(texts, seed=[4, 5], retry=3)
    assert len(judge.seen) == 3  # both, then the first
    plain = make_synthesizer()
    again = plain.synthesize(TEXT, seed=candidate_seed(4, 1))
    assert torch.equal(results[0].wav, again.wav)
    assert torch.equal(results[1].wav, plain.synthesize(texts[1], seed=5).wav)


def test_readings_do_not_end_worse_than_the_first(monkeypatch):
    judge = Judge(monkeypatch, [1, 3, 2])
    result = with_pointer().synthesize(TEXT, seed=4, retry=2)
    assert len(judge.seen) == 3
    assert result.speech_tokens.tolist() == judge.seen[0]


def test_hparams_give_the_number_of_candidates(monkeypatch):
    judge = Judge(monkeypatch, [1])
    with_pointer(candidates=2, retry=1).synthesize(TEXT)
    assert len(judge.seen) == 4


@pytest.mark.parametrize("options", [{"candidates": 2}, {"retry": 1}])
def test_several_readings_need_a_pointer(options):
    with pytest.raises(ValueError, match="need a model with a word pointer"):
        make_synthesizer().synthesize(TEXT, **options)


@pytest.mark.parametrize("options", [{"candidates": 0}, {"retry": -1}])
def test_impossible_numbers_are_refused(options):
    with pytest.raises(ValueError, match="give integers of at least 1 and 0"):
        with_pointer().synthesize(TEXT, **options)


SECOND = "<happy>They came</happy> late <sad>again and again</sad>"


def rows_of(synthesizer, texts, streaming):
    pieces = [synthesizer.plan(text)[0] for text in texts]
    return [
        Row(key, piece, Speaking(seed=3), 3, streaming)
        for key, piece in enumerate(pieces)
    ]


def speak(synthesizer, rows, beside=False):
    """Return what is said of each row."""
    speaker = ContinuousSpeaker(synthesizer, beside=beside)
    speaker.join(rows)
    said = {row.key: [] for row in rows}
    while speaker.busy:
        for part in speaker.step():
            said[part.key].append(part)
    return said


@pytest.mark.parametrize("streaming", [False, True])
def test_the_server_finds_the_words_of_a_row_alone_and_in_company(streaming):
    synthesizer = with_pointer()
    rows = rows_of(synthesizer, [TEXT, SECOND], streaming)
    together = speak(synthesizer, rows)
    for row, text in zip(rows, [TEXT, SECOND]):
        alone = speak(synthesizer, [row])[row.key]
        assert len(alone) == len(together[row.key])
        for one, other in zip(alone, together[row.key]):
            assert np.array_equal(one.wav, other.wav)
            assert np.array_equal(one.pointing.spans, other.pointing.spans)
        result = synthesizer.synthesize(text, seed=3)
        wav = np.concatenate([part.wav for part in alone])
        assert wav == pytest.approx(result.wav.numpy(), abs=1e-4)
        n_tokens = len(result.speech_tokens)
        found, source = synthesizer.word_times(
            row.piece, result.wav, 24000, n_tokens, alone[-1].pointing
        )
        assert found == result.words and source == "pointer"


def test_speech_of_the_server_has_the_pointers_times():
    synthesizer = with_pointer()
    (row,) = rows_of(synthesizer, [SECOND], True)
    with ThreadPoolExecutor(1) as aligner:
        speech = Speech(synthesizer, aligner=aligner)
        speech.expect(read_text(synthesizer.planner, SECOND))
        begun = []
        for part in speak(synthesizer, [row])[row.key]:
            speech.add(part)
            begun += speech.new_words()
        speech.finish()
        begun += speech.new_words()
        words, source = speech.timed_words(60)
    result = synthesizer.synthesize(SECOND, seed=3)
    assert source == "pointer" and words == result.words
    assert [word.text for word in begun] == [word.text for word in words]
    starts = [word.start for word in begun]
    assert starts == sorted(starts)
    assert all(word.end >= word.start for word in begun)
    assert all(word.confidence > 0 for word in begun)


def test_without_a_pointer_the_server_keeps_no_states():
    synthesizer = make_synthesizer()
    said = speak(synthesizer, rows_of(synthesizer, [TEXT], True))[0]
    assert all(part.pointing is None for part in said)
