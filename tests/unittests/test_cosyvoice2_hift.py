"""The HiFT vocoder against the reference, stage by stage."""

import json
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import pytest
import torch
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = dict(base_channels=16, f0_cond_channels=8)
# Phases reach 3600 rad here, so that one rounding of the interpolation, which
# depends on the processor, moves a sine of height 0.1 by 2.4e-5.
SINE_ATOL = 1e-4
SOURCE_ATOL = 2e-4
# Of the highest F0: errors are those of a sum whose terms are as large.
F0_ERROR = 2e-6
# Of the wave from a given source.
WAVE_ATOL = 1e-4


@pytest.fixture(scope="module")
def reference():
    return load_file(FIXTURES / "hift_small.safetensors")


@pytest.fixture(scope="module")
def weights(reference):
    return {k[2:]: v for k, v in reference.items() if k.startswith("w.")}


@pytest.fixture(scope="module")
def vocoder(weights):
    config = json.loads((FIXTURES / "hift_small.json").read_text())["config"]
    vocoder = HiFTGenerator(**config)
    vocoder.load_state_dict(weights)
    return vocoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mel(reference):
    return reference["mel"].transpose(1, 2)


def assert_close(actual, expected, atol, rtol=0.0):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def zero_noise(f0):
    return f0.new_zeros(f0.shape[0], f0.shape[1] * 480, 9)


def test_state_dict_at_true_size_is_the_checkpoints():
    with torch.device("meta"):
        state = HiFTGenerator().state_dict()
    manifest = json.loads((FIXTURES / "manifest_hift.json").read_text())
    expected = {name: shape for name, (shape, _) in manifest["tensors"].items()}
    assert {name: list(t.shape) for name, t in state.items()} == expected


def test_f0_agrees(vocoder, reference, mel):
    expected = reference["f0_pred"]
    difference = (vocoder.predict_f0(mel) - expected).abs()
    assert difference.max() < F0_ERROR * expected.max()


def test_harmonics_agree(vocoder, reference):
    f0 = reference["f0_given"]
    waves = vocoder.m_source.waves(f0, zero_noise(f0))[:, ::7]
    assert_close(waves, reference["sines_zero_noise"], atol=SINE_ATOL)
    unvoiced = reference["uv_frames"] == 0
    assert unvoiced.any()
    waves = vocoder.m_source.waves(f0, zero_noise(f0)).unflatten(1, (-1, 480))
    assert (waves[unvoiced] == 0).all()


def test_source_agrees_without_and_with_noise(vocoder, reference):
    f0 = reference["f0_given"]
    silent = vocoder.m_source(f0, zero_noise(f0))
    assert_close(silent, reference["src_zero_noise"][:, 0], atol=SOURCE_ATOL)
    noisy = vocoder.m_source(f0, reference["noise"])
    assert_close(noisy, reference["src_with_noise"][:, 0], atol=SOURCE_ATOL)


def test_decoder_agrees(vocoder, reference, mel):
    source = reference["source_given"][:, 0]
    assert_close(vocoder.decode(mel, source), reference["wav"], atol=3e-5)


def test_decoder_agrees_where_it_clips(vocoder, reference, mel):
    wav = vocoder.decode(4 * mel, reference["source_given"][:, 0])
    assert (wav.abs() == torch.tensor(0.99)).any()
    assert_close(wav, reference["wav_loud"], atol=5e-5)


def test_chain_agrees_from_the_given_f0(vocoder, reference, mel):
    f0 = reference["f0_pred"]
    source = vocoder.m_source(f0, zero_noise(f0))
    expected = reference["inf_source_zero_noise"][:, 0]
    assert_close(source, expected, atol=SOURCE_ATOL)
    wav = vocoder.decode(mel, expected)
    assert_close(wav, reference["inf_wav_zero_noise"], atol=WAVE_ATOL)


def test_decoder_agrees_where_the_source_continues(vocoder, reference, mel):
    cache = reference["cache_source"][:, 0]
    expected = reference["inf_source_zero_noise"][:, 0]
    wav = vocoder.decode(
        mel, torch.cat([cache, expected[:, cache.shape[1] :]], 1)
    )
    assert_close(wav, reference["inf_wav_cache"], atol=WAVE_ATOL)


def test_float64_agrees(weights, vocoder, reference, mel):
    double = HiFTGenerator(base_channels=32, f0_cond_channels=32).double()
    double.load_state_dict(weights)
    f0 = double.predict_f0(mel.double())
    assert_close(f0, reference["f64.f0_pred"], atol=1e-9)
    wav = double.decode(mel.double(), reference["source_given"][:, 0].double())
    assert_close(wav, reference["f64.wav"], atol=1e-6)


def test_padded_batch_equals_one_by_one(weights):
    # In double precision, because F0 is integrated to phases: its rounding
    # grows to audible size, which is not what this test is about.
    vocoder = HiFTGenerator(base_channels=32, f0_cond_channels=32)
    vocoder.load_state_dict(weights)
    vocoder = vocoder.double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(3, 20, 80, generator=generator).double()
    lengths = [20, 13, 20]
    batch = vocoder(mel, torch.tensor(lengths) / 20, seed=3)
    for item, length, wav in zip(mel, lengths, batch):
        alone = vocoder(item[None, :length], seed=3)[0]
        assert_close(wav[: length * 480], alone, atol=1e-8)
        assert (wav[length * 480 :] == 0).all()


def test_same_seed_same_wave_whatever_torchs_generator(vocoder, mel):
    first = vocoder(mel, seed=5)
    state = torch.get_rng_state()
    second = vocoder(mel, seed=5)
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, vocoder(mel, seed=6))


def test_no_seed_gives_each_item_its_own_noise(vocoder):
    f0 = torch.zeros(2, 5)
    first, second = vocoder.source(f0, seed=None)
    assert not torch.equal(first, second)
    first, second = vocoder.source(f0, seed=0)
    assert torch.equal(first, second)


def test_every_weight_gets_a_gradient_through_source_and_f0():
    torch.manual_seed(0)
    vocoder = HiFTGenerator(**TINY)
    mel = torch.randn(2, 6, 80)
    f0 = vocoder.predict_f0(mel)
    wav = vocoder.decode(mel, vocoder.source(f0.detach()))
    (wav.square().sum() + f0.sum()).backward()
    without = [n for n, p in vocoder.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("layout", ["wrapped", "old_weight_norm", "trainer"])
def test_loads_other_file_layouts(vocoder, weights, reference, mel, layout):
    parametrization = ".parametrizations.weight.original"
    files = {
        "wrapped": {"generator." + k: v for k, v in weights.items()},
        "old_weight_norm": {
            k.replace(parametrization + "0", ".weight_g").replace(
                parametrization + "1", ".weight_v"
            ): v
            for k, v in weights.items()
        },
        "trainer": {
            **{"generator." + k: v for k, v in weights.items()},
            "discriminator.conv.weight": torch.zeros(1),
            "epoch": 3,
            "step": 1000,
        },
    }
    loaded = HiFTGenerator(base_channels=32, f0_cond_channels=32)
    before = dict(files[layout])
    loaded.load_state_dict(files[layout])
    assert files[layout] == before, "the caller's dictionary was changed"
    source = reference["source_given"][:, 0]
    assert torch.equal(loaded.decode(mel, source), vocoder.decode(mel, source))


def test_still_refuses_foreign_keys(weights):
    vocoder = HiFTGenerator(base_channels=32, f0_cond_channels=32)
    with pytest.raises(RuntimeError, match="resblocks.9"):
        vocoder.load_state_dict({**weights, "resblocks.9": torch.zeros(1)})


def test_other_sizes_keep_480_samples_per_frame():
    vocoder = HiFTGenerator(
        base_channels=16,
        f0_cond_channels=8,
        upsample_rates=(10, 12),
        upsample_kernel_sizes=(20, 24),
        resblock_kernel_sizes=(3,),
        source_resblock_kernel_sizes=(3, 3),
        resblock_dilation_sizes=[(1, 2)],
        source_resblock_dilation_sizes=[(1,), (1,)],
    )
    assert vocoder(torch.randn(1, 6, 80)).shape == (1, 6 * 480)


def test_refuses_dilations_that_do_not_match_the_kernels():
    with pytest.raises(ValueError, match="one per kernel"):
        HiFTGenerator(**TINY, resblock_dilation_sizes=[(1,)])
