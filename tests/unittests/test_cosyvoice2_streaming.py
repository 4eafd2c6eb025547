"""Streaming flow and vocoder against what they compute for whole speech."""

import gc
import json
import weakref
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream
from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator
from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream
from speechbrain_emofilm.lobes.vocoder import seeded_noise
from speechbrain_emofilm.processing.mel import log_mel

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_flow import small_flow
from torch.utils.flop_counter import FlopCounterMode

FIXTURES = Path(__file__).parents[1] / "fixtures"
ATOL = 1e-5


@pytest.fixture(scope="module")
def reference():
    return load_file(FIXTURES / "flow_small.safetensors")


def make_flow(reference, **changes):
    """The flow of the fixture."""
    flow = small_flow(**changes)
    weights = {k[2:]: v for k, v in reference.items() if k.startswith("w.")}
    flow.load_state_dict(weights)
    return flow.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flow(reference):
    return make_flow(reference)


@pytest.fixture
def speech(reference):
    """Long speech and a prompt whose end lies within a chunk."""
    generator = torch.Generator().manual_seed(3)
    return {
        "tokens": torch.randint(300, (1, 157), generator=generator),
        "xvector": reference["xvec"],
        "prompt_tokens": reference["prompt_token"][:, :17],
        "prompt_mel": reference["prompt_feat"][:, :34],
    }


def stream_mels(flow, speech, part=7, **options):
    """All mels that a stream returns, one after the other."""
    stream = FlowStream(
        flow,
        speech["xvector"],
        speech.get("prompt_tokens"),
        speech.get("prompt_mel"),
        **{"n_timesteps": 3, **options},
    )
    parts = speech["tokens"].split(part, dim=1)
    return [stream.push(part) for part in parts] + [stream.finish()]


def whole_mel(flow, speech, **options):
    """The mel of one call."""
    options = {"n_timesteps": 3, "streaming": True, **options}
    return flow.inference(**speech, lens=torch.ones(1), **options)[0]


def assert_close(actual, expected, atol=ATOL):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0.0)


@pytest.mark.parametrize("part", [1, 7, 60, 157])
def test_stream_equals_the_masked_whole_however_tokens_come(flow, speech, part):
    mels = stream_mels(flow, speech, part, left_chunks=None)
    assert_close(torch.cat(mels, 1), whole_mel(flow, speech))


def test_stream_without_prompt_equals_the_masked_whole(flow, speech):
    speech = {k: v for k, v in speech.items() if "prompt" not in k}
    mels = stream_mels(flow, speech, left_chunks=None)
    assert_close(torch.cat(mels, 1), whole_mel(flow, speech))


@pytest.mark.parametrize("n_tokens", [1, 25, 26, 27, 28, 50])
def test_every_length_is_spoken_to_its_end(flow, speech, n_tokens):
    speech = {
        "tokens": speech["tokens"][:, :n_tokens],
        "xvector": speech["xvector"],
    }
    mels = torch.cat(stream_mels(flow, speech, left_chunks=None), 1)
    assert_close(mels, whole_mel(flow, speech))
    assert mels.size(1) == 2 * n_tokens


def test_stream_agrees_with_the_reference_but_for_its_last_chunk(reference):
    """The reference's stream: chunks with a mask, the last one without."""
    flow = make_flow(reference, chunk_size=5)
    whole = {k: reference[k] for k in ("token", "prompt_token", "prompt_feat")}
    stream = FlowStream(
        flow,
        reference["xvec"],
        whole["prompt_token"],
        whole["prompt_feat"],
        left_chunks=None,
    )
    mel = torch.cat([stream.push(whole["token"]), stream.finish()], 1).mT
    assert_close(mel, reference["out.stream_chunk5.mel"])


def test_last_chunk_alone_differs_from_the_references_driver(flow, speech):
    """The original's chunks but the last: a call with look-ahead for each;
    the last: a call without chunks."""
    parts = stream_mels(flow, speech, part=157, left_chunks=None)
    n_new = parts[0].size(1) // 2
    before = dict(speech, tokens=speech["tokens"][:, : n_new + 3])
    assert_close(parts[0], whole_mel(flow, before, finalize=False))
    last = whole_mel(flow, speech, streaming=False)[:, 2 * n_new :]
    assert last.shape == parts[1].shape
    difference = (last - parts[1]).abs()
    assert 1e-4 < difference.mean() < 0.3 * last.std()


def test_bounded_context_equals_the_whole_until_it_forgets(flow, speech):
    whole = whole_mel(flow, speech)
    bounded = torch.cat(stream_mels(flow, speech, left_chunks=2), 1)
    # The first chunk holds the prompt and 8 tokens, then two more are kept.
    kept = 2 * (3 * 25 - 17)
    assert_close(bounded[:, :kept], whole[:, :kept])
    difference = (bounded[:, kept:] - whole[:, kept:]).abs()
    assert 1e-4 < difference.mean() < 0.3 * whole.std()


def test_what_the_default_context_forgets_costs_six_hundredths(flow, speech):
    """16 s of speech: the score in FlowStream and docs/cosyvoice2.md."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(300, (1, 400), generator=generator)
    speech = dict(speech, tokens=tokens)
    whole = whole_mel(flow, speech)
    bounded = torch.cat(stream_mels(flow, speech, part=400), 1)
    # The first chunk holds the prompt and 8 tokens, then four more are kept.
    kept = 2 * (5 * 25 - 17)
    assert kept >= 2 * 100
    assert_close(bounded[:, :kept], whole[:, :kept], atol=2e-5)
    difference = bounded[:, kept:] - whole[:, kept:]
    rms = float(difference.square().mean().sqrt() / whole.std())
    assert rms == pytest.approx(0.061, rel=0.1)


def chunk_flops(flow, speech, **options):
    """What each of eight chunks costs."""
    stream = FlowStream(
        flow,
        speech["xvector"],
        speech["prompt_tokens"],
        speech["prompt_mel"],
        n_timesteps=2,
        **options,
    )
    flops = []
    for chunk in torch.randint(300, (1, 200)).split(25, dim=1):
        with FlopCounterMode(display=False) as counter:
            assert stream.push(chunk).size(1) in (16, 50)
        flops.append(counter.get_total_flops())
    return flops


def test_a_chunk_costs_the_same_however_much_came_before(flow, speech):
    flops = chunk_flops(flow, speech, left_chunks=2)
    assert len(set(flops[4:])) == 1
    assert flops[0] < flops[-1]
    by_default = chunk_flops(flow, speech)
    assert by_default[6] == by_default[7]


def test_a_chunk_costs_more_than_the_one_before_if_all_are_kept(flow, speech):
    flops = chunk_flops(flow, speech, left_chunks=None)
    assert all(before < after for before, after in zip(flops, flops[1:]))


def test_a_finished_stream_leaves_no_memory_behind(flow, speech):
    stream = FlowStream(flow, speech["xvector"], n_timesteps=1)
    stream.push(speech["tokens"])
    cache = weakref.ref(stream._solver_cache)
    del stream
    gc.collect()
    assert cache() is None


def test_other_seeds_sound_different_and_leave_torch_alone(flow, speech):
    state = torch.get_rng_state()
    one, other = (
        torch.cat(stream_mels(flow, speech, seed=seed), 1) for seed in (0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(one, other, atol=0.1)


def test_mels_are_scaled_as_in_one_call(reference, speech):
    flow = make_flow(reference, mel_mean=-6.0, mel_std=2.5)
    mels = stream_mels(flow, speech, left_chunks=None)
    assert_close(torch.cat(mels, 1), whole_mel(flow, speech), atol=5e-5)


def test_misuse_is_refused(flow, speech):
    xvector = speech["xvector"]
    with pytest.raises(ValueError, match="or neither"):
        FlowStream(flow, xvector, speech["prompt_tokens"])
    with pytest.raises(ValueError, match="two frames per token"):
        FlowStream(
            flow,
            xvector,
            speech["prompt_tokens"],
            speech["prompt_mel"][:, :-1],
        )
    with pytest.raises(ValueError, match="at least 1"):
        FlowStream(flow, xvector, left_chunks=0)
    stream = FlowStream(flow, xvector, n_timesteps=1)
    stream.finish()
    with pytest.raises(ValueError, match="another stream"):
        stream.push(speech["tokens"])


# ---------------------------------------------------------------- vocoder


@pytest.fixture(scope="module")
def vocoder():
    """The released kernels, which set how far the network sees, narrow."""
    torch.manual_seed(0)
    vocoder = HiFTGenerator(base_channels=16, f0_cond_channels=8)
    return vocoder.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mel():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 120, 80, generator=generator).double()


def stream_wave(vocoder, mel, part=25, **options):
    """All waves that a stream returns, one after the other."""
    stream = HiFTStream(vocoder, **options)
    waves = [stream.push(frames) for frames in mel.split(part, dim=1)]
    return [*waves, stream.finish()]


@pytest.mark.parametrize("part", [1, 25, 120])
def test_wave_stream_equals_the_whole_however_mels_come(vocoder, mel, part):
    parts = stream_wave(vocoder, mel, part)
    torch.testing.assert_close(
        torch.cat(parts, 1), vocoder(mel), atol=1e-7, rtol=0
    )


def test_wave_stream_of_few_frames_equals_the_whole(vocoder, mel):
    for n_frames in (1, 4, 20, 23):
        part = mel[:, :n_frames]
        torch.testing.assert_close(
            torch.cat(stream_wave(vocoder, part), 1),
            vocoder(part),
            atol=1e-7,
            rtol=0,
        )


def test_less_context_costs_accuracy_but_not_length(vocoder, mel):
    whole = vocoder(mel)
    error = {}
    for context in (4, 8, 16):
        wave = torch.cat(stream_wave(vocoder, mel, context=context), 1)
        assert wave.shape == whole.shape
        error[context] = float((wave - whole).abs().max())
    assert error[16] < 1e-7 < error[8] < error[4]


def test_sound_comes_as_soon_as_its_context_is_there(vocoder, mel):
    sizes = [w.shape[1] // 480 for w in stream_wave(vocoder, mel, context=8)]
    assert sizes == [12, 25, 25, 25, 20, 13]


def test_a_part_costs_the_same_however_much_came_before(vocoder, mel):
    stream = HiFTStream(vocoder)
    flops = []
    for part in mel.repeat(1, 2, 1).split(30, dim=1):
        with FlopCounterMode(display=False) as counter:
            stream.push(part)
        flops.append(counter.get_total_flops())
    assert len(set(flops[2:])) == 1


def test_silence_and_a_finished_wave_stream(vocoder, mel):
    assert HiFTStream(vocoder).finish().shape == (1, 0)
    stream = HiFTStream(vocoder)
    stream.push(mel[:, :0])
    stream.finish()
    with pytest.raises(ValueError, match="another stream"):
        stream.push(mel)
    with pytest.raises(ValueError, match="0 or more"):
        HiFTStream(vocoder, context=-1)


# ------------------------------------------- beside the original's vocoding

HOP, OVERLAP = 480, 8  # samples of a frame; frames that the original repeats
SEEN = 15  # frames to each side that the network sees
PARTS = (50, 100, 60)  # the original's first chunks, and a rest


@pytest.fixture(scope="module")
def small():
    """The reference's small vocoder, and long mels."""
    weights = load_file(FIXTURES / "hift_small.safetensors")
    config = json.loads((FIXTURES / "hift_small.json").read_text())["config"]
    vocoder = HiFTGenerator(**config)
    vocoder.load_state_dict(
        {k[2:]: v for k, v in weights.items() if k.startswith("w.")}
    )
    vocoder = vocoder.double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, sum(PARTS), 80, generator=generator).double()
    f0 = vocoder.predict_f0(mel)
    noise = seeded_noise(
        1, sum(PARTS) * HOP, vocoder.m_source.n_waves, seed=0, like=f0
    )
    return vocoder, mel, f0, noise


def overlapping_chunks(vocoder, mel, noise, source=None):
    """The wave as the original's driver makes it.

    Each chunk but the first begins with the last frames and the last samples
    of excitation of the one before; the wave of an overlap goes from one to
    the other by the halves of a Hamming window. Phases begin anew in every
    chunk, unless the excitation is given.
    """
    n_overlap = OVERLAP * HOP
    rising, falling = torch.from_numpy(np.hamming(2 * n_overlap)).split(
        n_overlap
    )
    waves, start = [], 0
    held = last_excitation = None
    for end in np.cumsum(PARTS):
        samples = slice(start * HOP, end * HOP)
        frames = mel[:, start:end]
        if source is not None:
            excitation = source[:, samples]
        else:
            f0 = vocoder.predict_f0(frames)
            excitation = vocoder.m_source(f0, noise[:, samples])
            if last_excitation is not None:
                excitation[:, :n_overlap] = last_excitation
        wave = vocoder.decode(frames, excitation)
        if held is not None:
            wave[:, :n_overlap] *= rising
            wave[:, :n_overlap] += held * falling
        last_excitation = excitation[:, -n_overlap:]
        held = wave[:, -n_overlap:]
        waves.append(wave[:, :-n_overlap])
        start = end - OVERLAP
    return torch.cat([*waves, held], dim=1)


def split_stream(vocoder, mel, **options):
    """The wave of a stream that gets the original's chunks."""
    stream = HiFTStream(vocoder, **options)
    waves = [stream.push(part) for part in mel.split(PARTS, dim=1)]
    return torch.cat([*waves, stream.finish()], dim=1)


def relative_rms(difference, wave):
    return float(difference.norm() / wave.norm())


def test_the_original_differs_at_its_joins_if_phases_run_on(small):
    vocoder, mel, f0, noise = small
    ours = split_stream(vocoder, mel)
    source = vocoder.m_source(f0, noise)
    difference = overlapping_chunks(vocoder, mel, noise, source) - ours
    near = torch.zeros(mel.size(1), dtype=torch.bool)
    for join in np.cumsum(PARTS)[:-1]:
        near[join - SEEN : join - OVERLAP + SEEN] = True
    far = difference.unflatten(1, (-1, HOP))[:, ~near]
    assert far.abs().max() < 1e-7
    assert relative_rms(difference, ours) == pytest.approx(0.056, rel=0.3)


@pytest.mark.parametrize("context, error", [(3, 0.07), (8, 0.009)])
def test_what_sound_that_comes_sooner_costs(small, context, error):
    """Context 3 sounds as soon as the original, 8 five frames later."""
    vocoder, mel, _, _ = small
    ours = split_stream(vocoder, mel)
    sooner = split_stream(vocoder, mel, context=context)
    assert relative_rms(sooner - ours, ours) == pytest.approx(error, rel=0.3)


def test_the_originals_phases_differ_no_more_than_other_phases_do(small):
    vocoder, mel, f0, noise = small
    ours = split_stream(vocoder, mel)
    chunks = overlapping_chunks(vocoder, mel, noise)
    # F0 sees five frames further than the network.
    same = (PARTS[0] - SEEN - 5) * HOP
    assert_close(chunks[:, :same], ours[:, :same], atol=1e-7)
    generator = torch.Generator().manual_seed(0)
    cycles = torch.rand(1, noise.size(2), 1, generator=generator).double()
    other_phases = vocoder.decode(
        mel, vocoder.m_source(f0, noise, start_cycles=cycles)
    )
    for wave, rms, log_mels in (
        (chunks, 0.98, 0.26),
        (other_phases, 1.18, 0.30),
    ):
        assert relative_rms(wave - ours, ours) == pytest.approx(rms, rel=0.1)
        difference = (log_mel(wave) - log_mel(ours)).abs().mean()
        assert float(difference) == pytest.approx(log_mels, rel=0.1)
