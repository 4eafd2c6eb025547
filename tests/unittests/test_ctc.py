"""Words are aligned with the tokens of a CTC recogniser."""

import json

from speechbrain_emofilm.integrations.ctc import (
    CTCAligner,
    HuggingFaceCTC,
    SpeechBrainCTC,
)
from speechbrain_emofilm.processing.alignment import (
    AlignmentError,
    UnusableInputError,
)

import numpy as np
import pytest
import torch
import torchaudio

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


def naive_forced_align(
    log_probs, targets, input_lengths=None, target_lengths=None, blank=0
):
    """The best path by trying, frame after frame, all states of CTC."""
    labels = [blank]
    for target in targets[0].tolist():
        labels += [target, blank]
    best = {0: (log_probs[0, 0, blank].item(), [0])}
    best[1] = (log_probs[0, 0, labels[1]].item(), [1])
    for frame in log_probs[0, 1:]:
        new = {}
        for state, (score, path) in best.items():
            for following in (state, state + 1, state + 2):
                if following >= len(labels) or (
                    following == state + 2
                    and labels[following] in (blank, labels[state])
                ):
                    continue
                total = score + frame[labels[following]].item()
                if following not in new or total > new[following][0]:
                    new[following] = (total, [*path, following])
        best = new
    ends = [s for s in (len(labels) - 1, len(labels) - 2) if s in best]
    path = max((best[s] for s in ends), key=lambda found: found[0])[1]
    tokens = torch.tensor([[labels[state] for state in path]])
    return tokens, log_probs[0].gather(1, tokens.T).T


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


@pytest.fixture(autouse=True)
def forced_align(monkeypatch):
    monkeypatch.setattr(
        torchaudio.functional, "forced_align", naive_forced_align
    )


def aligner(*args, max_extension=0.1, **kwargs):
    return CTCAligner(
        lambda: Recogniser(*args, **kwargs), max_extension=max_extension
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


def test_a_torchaudio_without_its_library_is_one_clear_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("forced_align needs the compiled library")

    monkeypatch.setattr(torchaudio.functional, "forced_align", refuse)
    with pytest.raises(ImportError, match="one and the same index"):
        CTCAligner(lambda: Recogniser({}))


def test_a_model_of_transformers_is_aligned(tmp_path):
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
    )

    vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, "我": 3, "们": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    config = Wav2Vec2Config(
        vocab_size=5,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 32),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    recogniser = HuggingFaceCTC(str(tmp_path))
    log_probs = recogniser.log_probs(torch.from_numpy(NOISE).float())
    assert log_probs.shape[1] == 5
    torch.testing.assert_close(
        log_probs.exp().sum(-1), torch.ones(len(log_probs))
    )
    assert recogniser.token_ids("我") == [3]
    words = CTCAligner(lambda: recogniser).align(NOISE, RATE, "我们")
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
    words = CTCAligner(lambda: recogniser).align(NOISE, RATE, "我们")
    assert [word.text for word in words] == ["我", "们"]
    assert all(0 <= word.confidence <= 1 for word in words)


def test_a_model_of_speechbrain_is_not_fetched_from_elsewhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no hyperparams.yaml"):
        SpeechBrainCTC("speechbrain/asr-wav2vec2-ctc-aishell")
