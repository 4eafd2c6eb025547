"""Words are aligned with the tokens of a CTC recogniser."""

import itertools

from speechbrain_emofilm.integrations.aligner.base import (
    AlignmentError,
    UnusableInputError,
)
from speechbrain_emofilm.integrations.aligner.by_language import (
    AlignerByLanguage,
)
from speechbrain_emofilm.integrations.aligner.ctc import (
    CTCAligner,
    SpeechBrainCTC,
    viterbi_search,
)

import numpy as np
import pytest
import torch
import torchaudio
from tiny_ctc import tiny_ctc

RATE = 16000
VOCABULARY = {
    "-": 0,
    "|": 1,
    "我": 2,
    "们": 3,
    "赢": 4,
    "了": 5,
    "A": 6,
    "B": 7,
}
NOISE = 0.1 * np.random.default_rng(0).normal(size=RATE)


class Recogniser:
    """Hears what it is told to, one token in each of 20 frames of 50 ms."""

    sample_rate, blank = RATE, 0

    def __init__(self, heard, separator=None, sure=0.9):
        self.heard, self.separator, self.sure = heard, separator, sure

    def log_probs(self, wav):
        assert wav.shape == (RATE,)
        other = (1 - self.sure) / (len(VOCABULARY) - 1)
        probs = torch.full((20, len(VOCABULARY)), other)
        for frame in range(20):
            probs[frame, VOCABULARY[self.heard.get(frame, "-")]] = self.sure
        return probs.log()

    def token_ids(self, word):
        return [VOCABULARY[c] for c in word if c in VOCABULARY]


def aligner(*args, max_extension=0.1, **kwargs):
    return CTCAligner(
        lambda: Recogniser(*args, **kwargs),
        max_extension=max_extension,
        search=viterbi_search,
    )


SENTENCE = {2: "我", 4: "们", 5: "们", 14: "赢", 15: "了"}


def test_characters_are_found_where_they_are_heard():
    words = aligner(SENTENCE, max_extension=0).align(NOISE, RATE, "我们赢了。")
    assert [word.text for word in words] == list("我们赢了")
    times = [(word.start, word.end) for word in words]
    expected = [(0.1, 0.15), (0.2, 0.3), (0.7, 0.75), (0.75, 0.8)]
    np.testing.assert_allclose(times, expected, atol=1e-6)


def test_blank_frames_are_divided_up_to_a_limit():
    words = aligner(SENTENCE).align(NOISE, RATE, "我们赢了")
    times = [(word.start, word.end) for word in words]
    expected = [(0.0, 0.175), (0.175, 0.4), (0.6, 0.75), (0.75, 0.9)]
    np.testing.assert_allclose(times, expected, atol=1e-6)


def test_the_confidence_is_the_mean_posterior_and_low_for_what_is_not_said():
    heard = {**SENTENCE, 14: "-"}  # the third character is not there
    words = aligner(heard, sure=0.86).align(NOISE, RATE, "我们赢了")
    confidences = [word.confidence for word in words]
    np.testing.assert_allclose(confidences, [0.86, 0.86, 0.02, 0.86], atol=1e-6)


def test_a_character_the_model_lacks_lies_between_its_neighbours():
    words = aligner(SENTENCE).align(NOISE, RATE, "我龘们赢了")
    assert [word.confidence > 0 for word in words] == [1, 0, 1, 1, 1]
    assert words[1].end > words[1].start
    assert words[0].end <= words[1].start and words[1].end <= words[2].start


def test_words_of_letters_are_separated_as_the_model_wants_it():
    heard = {3: "A", 5: "B", 6: "|", 10: "A"}
    found = aligner(heard, separator=1, max_extension=0).align(
        NOISE, RATE, "AB A", "zh"
    )
    times = [(word.start, word.end) for word in found]
    np.testing.assert_allclose(times, [(0.15, 0.3), (0.5, 0.55)], atol=1e-6)


def test_another_sample_rate_is_changed():
    noise = 0.1 * np.random.default_rng(0).normal(size=8000)
    words = aligner(SENTENCE).align(noise, 8000, "我们赢了")
    assert words[-1].end == pytest.approx(0.9)


def test_a_text_with_too_many_words_is_refused():
    with pytest.raises(AlignmentError, match="20 frames, too few .* 21 tok"):
        aligner(SENTENCE).align(NOISE, RATE, "我们赢" * 7)


def test_another_language_and_unknown_text_are_refused():
    with pytest.raises(UnusableInputError, match="'en'"):
        aligner(SENTENCE).align(NOISE, RATE, "We won.", "en")
    with pytest.raises(UnusableInputError, match="no character of '123'"):
        aligner(SENTENCE).align(NOISE, RATE, "123")


def test_a_text_goes_to_the_aligner_of_its_language():
    made = []

    class English:
        def __init__(self):
            made.append(self)

        def align(self, wav, sample_rate, text, language):
            return [language, text]

    both = AlignerByLanguage(
        {"en": English, "zh": lambda: aligner(SENTENCE, max_extension=0)}
    )
    words = both.align(NOISE, RATE, "我们赢了")
    assert [word.text for word in words] == list("我们赢了")
    assert not made
    assert both.align(NOISE, RATE, "We won") == ["en", "We won"]
    assert both.align(NOISE, RATE, "我们", language="en") == ["en", "我们"]
    assert len(made) == 1


def test_a_torchaudio_without_its_library_is_one_clear_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("forced_align needs the compiled library")

    monkeypatch.setattr(torchaudio.functional, "forced_align", refuse)
    with pytest.raises(ImportError, match="same package index"):
        CTCAligner(lambda: Recogniser({}))


def test_the_search_is_torchaudios_where_it_loads(monkeypatch):
    searched = []

    def forced_align(*args, **kwargs):
        searched.append(args)
        return viterbi_search(*args, **kwargs)

    monkeypatch.setattr(torchaudio.functional, "forced_align", forced_align)
    found = CTCAligner(lambda: Recogniser(SENTENCE)).align(
        NOISE, RATE, "我们赢了"
    )
    assert found == aligner(SENTENCE).align(NOISE, RATE, "我们赢了")
    log_probs, targets = searched[-1]
    assert log_probs.shape[:2] == (1, 20) and targets.shape == (1, 4)


def collapse(path, blank):
    """What CTC reads from a path: repetitions and blanks left out."""
    return [token for token, _ in itertools.groupby(path) if token != blank]


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("target", [[1], [1, 3], [3, 3], [1, 3, 3], [3, 1, 3]])
def test_no_path_is_more_likely_than_the_one_found(target, blank):
    generator = torch.Generator().manual_seed(sum(target) + blank)
    log_probs = torch.randn(6, 4, generator=generator).mul(2).log_softmax(-1)
    best = max(
        sum(log_probs[i, token].item() for i, token in enumerate(path))
        for path in itertools.product(range(4), repeat=6)
        if collapse(path, blank) == target
    )
    path, scores = viterbi_search(
        log_probs[None], torch.tensor([target]), blank
    )
    assert collapse(path[0].tolist(), blank) == target
    assert scores.sum().item() == pytest.approx(best, abs=1e-5)


def test_a_model_of_transformers_is_aligned():
    recogniser = tiny_ctc(["我", "们"])
    log_probs = recogniser.log_probs(torch.from_numpy(NOISE).float())
    assert log_probs.shape[1] == 5
    torch.testing.assert_close(
        log_probs.exp().sum(-1), torch.ones(len(log_probs))
    )
    assert recogniser.token_ids("我") == [3]
    words = CTCAligner(lambda: recogniser, search=viterbi_search).align(
        NOISE, RATE, "我们"
    )
    assert [word.text for word in words] == ["我", "们"]


HYPERPARAMS = """
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    fbank: !new:speechbrain.lobes.features.Fbank
        n_mels: 8
    linear: !new:speechbrain.nnet.linear.Linear
        input_size: 8
        n_neurons: 3
    softmax: !new:speechbrain.nnet.activations.Softmax
        apply_log: True
modules:
    encoder: !ref <encoder>
tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder
decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: 0
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        tokenizer: !ref <tokenizer>
"""


def test_a_model_of_speechbrain_is_aligned(tmp_path):
    from speechbrain.dataio.encoder import CTCTextEncoder

    tokenizer = CTCTextEncoder()
    tokenizer.insert_blank(index=0)
    tokenizer.update_from_iterable(["我", "们"], sequence_input=False)
    tokenizer.save(str(tmp_path / "tokenizer.ckpt"))
    (tmp_path / "hyperparams.yaml").write_text(HYPERPARAMS)
    recogniser = SpeechBrainCTC(tmp_path)
    assert recogniser.token_ids("们") == [2]
    words = CTCAligner(lambda: recogniser, search=viterbi_search).align(
        NOISE, RATE, "我们"
    )
    assert [word.text for word in words] == ["我", "们"]
    assert all(0 <= word.confidence <= 1 for word in words)


def test_a_model_of_speechbrain_is_not_fetched_from_elsewhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no hyperparams.yaml"):
        SpeechBrainCTC("speechbrain/asr-wav2vec2-ctc-aishell")
