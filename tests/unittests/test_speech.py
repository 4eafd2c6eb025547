"""Pieces of speech with silence of exact lengths between them."""

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.inference.speech import SpeechJoiner, SynthesisResult

import pytest
import torch

RATE = 24000


def piece(lead=0.1, sound=0.4, tail=0.3, source="x", text="Word."):
    """A tone between two stretches of quiet noise."""
    generator = torch.Generator().manual_seed(0)
    sizes = [round(s * RATE) for s in (lead, sound, tail)]
    wav = 1e-4 * torch.randn(sum(sizes), generator=generator)
    time = torch.arange(sizes[1]) / RATE
    wav[sizes[0] : sizes[0] + sizes[1]] = torch.sin(6.28 * 300 * time)
    words = [Word("Word", lead, lead + sound, 0.5)]
    return SynthesisResult(
        wav,
        RATE,
        words,
        source,
        text,
        torch.ones(1, 5),
        torch.ones(1),
        torch.tensor([len(wav)]),
    )


def join(gaps, *pieces):
    joiner = SpeechJoiner(gaps)
    for part in pieces:
        joiner.add(part)
    return joiner.finish()


def silences(wav):
    """Lengths in seconds of the silences, those at both ends included."""
    loud = (wav.abs() > 0.02).nonzero().flatten()
    edges = torch.cat([torch.tensor([-1]), loud, torch.tensor([len(wav)])])
    lengths = edges.diff() - 1
    inside = lengths[1:-1]
    long = inside[inside > 0.01 * RATE].tolist()
    return [n / RATE for n in (int(lengths[0]), *long, int(lengths[-1]))]


@pytest.mark.parametrize("gap", [0.03, 0.1, 0.3, 0.4, 1.0, 10.0])
def test_the_silence_between_two_sounds_is_exact(gap):
    speech = join([None, gap, None], piece(), piece())
    before, between, after = silences(speech.wav)
    assert between == pytest.approx(gap, abs=0.02)
    assert before == pytest.approx(0.1, abs=0.01)
    assert after == pytest.approx(0.3, abs=0.01)


def test_silence_at_both_ends_can_be_asked_for():
    speech = join([0.5, 0.05], piece())
    assert silences(speech.wav) == pytest.approx([0.5, 0.05], abs=0.02)
    assert speech.words[0].start == pytest.approx(0.5, abs=0.02)


def test_no_gap_at_all_joins_the_sounds():
    speech = join([None, 0.0, None], piece(), piece())
    assert len(silences(speech.wav)) == 2
    assert len(speech.wav) == pytest.approx(1.2 * RATE, abs=0.02 * RATE)


def test_one_piece_without_breaks_is_returned_as_it_is():
    one = piece()
    assert join([None, None], one) is one


def test_words_lie_in_the_sound_of_the_whole():
    speech = join([None, 0.2, 0.7, None], piece(), piece(), piece())
    for word, start in zip(speech.words, (0.1, 0.7, 1.8)):
        assert word.start == pytest.approx(start, abs=0.02)
        assert word.end == pytest.approx(start + 0.4, abs=0.02)
    assert speech.speech_tokens.tolist() == [19200] * 3
    assert speech.word_emotions.shape == (3, 5)
    assert speech.text == "Word. Word. Word."


def test_words_that_reach_into_cut_silence_end_there():
    late = piece()
    late.words[0] = Word("Word", 0.0, 0.8)
    speech = join([None, 0.1, None], late, late)
    first, second = speech.words
    assert first.end <= second.start
    assert second.end <= len(speech.wav) / RATE


def test_seams_do_not_click():
    speech = join([None, 0.05, None], piece(), piece())
    cut = round(0.5 * RATE)
    around = speech.wav[cut : cut + round(0.05 * RATE)]
    assert around.diff().abs().max() < 1e-3


def test_different_sources_of_word_times_are_both_named():
    same = join([None, 0.1, None], piece(), piece())
    assert same.word_times_source == "x"
    mixed = join([None, 0.1, None], piece(), piece(source="proportional"))
    assert mixed.word_times_source == "x and proportional"


def test_chinese_texts_are_joined_without_a_space():
    speech = join([None, 0.1, None], piece(text="我们。"), piece(text="赢了"))
    assert speech.text == "我们。赢了"


def test_a_piece_longer_than_what_is_reserved_fits():
    speech = join([None, 0.1, None], piece(sound=70), piece(sound=70))
    assert silences(speech.wav)[1] == pytest.approx(0.1, abs=0.02)
    assert len(speech.wav) == pytest.approx(140.5 * RATE, abs=0.02 * RATE)


def test_a_silent_piece_stays_whole():
    silent = piece()
    silent.wav.zero_()
    speech = join([None, 0.1, None], silent, piece())
    assert len(speech.wav) == pytest.approx(1.6 * RATE, abs=0.02 * RATE)
