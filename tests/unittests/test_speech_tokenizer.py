"""The mini speech tokenizer: 25 tokens a second, 6,561 ids."""

from speechbrain_emofilm.lobes.mini.speech_tokenizer import (
    ConvNeXtBlock,
    FSQSpeechTokenizer,
    SameConv,
    TokenDecoder,
    pool_prosody,
)
from speechbrain_emofilm.processing.mel import log_mel

import pytest
import torch

NAN = float("nan")


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return FSQSpeechTokenizer(channels=16, n_phonemes=5)


@pytest.mark.parametrize("n_samples", [24000, 24000 + 959, 24000 + 960, 2880])
def test_a_token_lasts_40_ms(tokenizer, n_samples):
    tokens = tokenizer.tokenize(torch.randn(2, n_samples))
    rate = FSQSpeechTokenizer.sample_rate // FSQSpeechTokenizer.token_rate
    assert tokens.shape == (2, n_samples // rate)


def test_tokens_are_ids_of_the_codebook(tokenizer):
    mel = 30 * torch.randn(2, 400, 80)
    tokens = tokenizer.tokenize_mel(mel)
    assert tokens.dtype == torch.long and not tokens.requires_grad
    assert 0 <= tokens.min() and tokens.max() < tokenizer.fsq.n_codes == 6561
    assert len(tokens.unique()) > 20


def test_tokens_of_a_wave_are_those_of_its_mel(tokenizer):
    wav = torch.randn(1, 12000)
    assert torch.equal(
        tokenizer.tokenize(wav), tokenizer.tokenize_mel(log_mel(wav))
    )


def test_batch_gives_what_single_utterances_give(tokenizer):
    mel = torch.randn(3, 50, 80)
    single = torch.cat([tokenizer.tokenize_mel(item[None]) for item in mel])
    assert torch.equal(tokenizer.tokenize_mel(mel), single)


def test_last_frame_of_an_odd_number_is_left_out(tokenizer):
    mel = torch.randn(1, 31, 80)
    assert torch.equal(
        tokenizer.tokenize_mel(mel), tokenizer.tokenize_mel(mel[:, :30])
    )


def test_a_token_depends_on_its_surroundings_only(tokenizer):
    mel = torch.randn(1, 400, 80)
    values = tokenizer.encode(mel)
    changed = mel.clone()
    changed[:, 200:202] += 1
    moved = (tokenizer.encode(changed) != values).any(-1)[0].nonzero()
    assert moved.min() > 70 and moved.max() < 130
    assert (moved == 100).any()


def test_mel_is_normalised_by_the_corpus_statistics(tokenizer):
    mel = torch.randn(1, 20, 80)
    expected = tokenizer.encode(mel)
    shifted = FSQSpeechTokenizer(channels=16, n_phonemes=5)
    shifted.load_state_dict(tokenizer.state_dict())
    shifted.mean += 3
    shifted.std *= 2
    again = shifted.encode((mel - tokenizer.mean) * 2 + tokenizer.mean + 3)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-4)


def test_training_output_has_rows_for_each_token(tokenizer):
    out = tokenizer(torch.randn(2, 20, 80))
    assert out.codes.shape == (2, 10, 8)
    assert set(out.codes.detach().unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert out.phonemes.shape == (2, 20, 5)
    assert out.prosody.shape == (2, 10, 3)


@pytest.mark.parametrize("output", ["phonemes", "prosody", "codes"])
def test_gradient_passes_the_quantiser(tokenizer, output):
    getattr(tokenizer(torch.randn(2, 20, 80)), output).square().sum().backward()
    for name, parameter in tokenizer.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_tokens_can_be_learned(tokenizer):
    """The heads read a phoneme from the codes after some steps."""
    torch.manual_seed(0)
    mel = torch.randn(4, 1, 80).repeat_interleave(8, 1) - 6
    target = torch.arange(4)[:, None].expand(4, 8)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=0.01)
    for _ in range(30):
        logits = tokenizer(mel).phonemes
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target.flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(-1) == target).float().mean() > 0.9
    assert len(tokenizer.tokenize_mel(mel).unique()) >= 4


def test_inference_weights_load_without_the_heads(tokenizer):
    state = {
        name: value.half()
        for name, value in tokenizer.state_dict().items()
        if not name.startswith("heads")
    }
    assert len(state) < len(tokenizer.state_dict())
    inference = FSQSpeechTokenizer(channels=16)
    inference.load_state_dict(state, strict=True)
    assert inference.heads is None
    # The weights were rounded to float16 only on their way.
    rounded = FSQSpeechTokenizer(channels=16, n_phonemes=5)
    rounded.load_state_dict(
        {k: v.half().float() for k, v in tokenizer.state_dict().items()}
    )
    mel = torch.randn(1, 40, 80)
    assert torch.equal(inference.tokenize_mel(mel), rounded.tokenize_mel(mel))


def test_decoder_makes_two_frames_of_a_token():
    torch.manual_seed(0)
    decoder = TokenDecoder(n_speakers=2, channels=16)
    codes = torch.randn(2, 7, 8)
    mel = decoder(codes, torch.tensor([0, 1]))
    assert mel.shape == (2, 14, 80)
    other = decoder(codes, torch.tensor([1, 1]))
    assert not torch.equal(mel[0], other[0])
    torch.testing.assert_close(mel[1], other[1])


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_convolution_keeps_the_length(kernel_size):
    assert SameConv(3, 4, kernel_size)(torch.zeros(2, 9, 3)).shape == (2, 9, 4)


def test_strided_convolution_halves_the_length():
    assert SameConv(3, 4, 4, stride=2)(torch.zeros(2, 8, 3)).shape == (2, 4, 4)


def test_block_is_residual():
    block = ConvNeXtBlock(8)
    x = torch.randn(2, 5, 8)
    assert not torch.equal(block(x), x)
    torch.nn.init.zeros_(block.scale)
    assert torch.equal(block(x), x)


def test_pooled_f0_is_the_mean_of_voiced_frames():
    f0 = torch.tensor([[1.0, 3.0, NAN, 2.0, NAN, NAN]])
    level = torch.tensor([[0.0, 1.0, 2.0, 4.0, 5.0, 5.0]])
    mean, voiced, pooled = pool_prosody(f0, level)
    assert mean.tolist() == [[2.0, 2.0, 0.0]]
    assert voiced.tolist() == [[1.0, 1.0, 0.0]]
    assert pooled.tolist() == [[0.5, 3.0, 5.0]]
