"""The flow against the reference, and its batches against single items."""

import json
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.flow import (
    CosyVoice2Flow,
    FlowDraws,
    fixed_noise,
)

import pytest
import torch
from safetensors.torch import load_file
from small_flow import small_flow

FIXTURES = Path(__file__).parents[1] / "fixtures"
ATOL = 1e-5
# name: streaming, finalize, with prompt, tokens per chunk
CASES = {
    "full": (False, True, True, 25),
    "full_nofinal": (False, False, True, 25),
    "stream": (True, True, True, 25),
    "stream_nofinal": (True, False, True, 25),
    "noprompt_full": (False, True, False, 25),
    "stream_chunk5": (True, True, True, 5),
}


@pytest.fixture(scope="module")
def reference():
    return load_file(FIXTURES / "flow_small.safetensors")


@pytest.fixture(scope="module")
def weights(reference):
    return {k[2:]: v for k, v in reference.items() if k.startswith("w.")}


@pytest.fixture(scope="module")
def flow(weights):
    flow = small_flow()
    flow.load_state_dict(weights)
    return flow.eval().requires_grad_(False)


@pytest.fixture
def batch():
    """Three items of different lengths with prompts of different lengths."""
    generator = torch.Generator().manual_seed(7)

    def ids(length):
        return torch.randint(300, (3, length), generator=generator)

    return {
        "tokens": ids(40),
        "lens": torch.tensor([40, 31, 9]) / 40,
        "xvector": torch.randn(3, 192, generator=generator),
        "prompt_tokens": ids(20),
        "prompt_mel": torch.randn(3, 40, 80, generator=generator),
        "prompt_lens": torch.tensor([4, 20, 11]) / 20,
    }


def assert_close(actual, expected, atol=ATOL):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0.0)


def prompted(reference):
    tokens = torch.cat([reference["prompt_token"], reference["token"]], 1)
    return tokens.long(), torch.tensor([tokens.size(1)])


def training_case(reference, name):
    case = {
        k.split("_", 2)[2]: v
        for k, v in reference.items()
        if k.startswith(f"tr_{name}_")
    }
    prompt_frames = (case["cond"] != 0).any(1).sum(1)
    prompt = case["feat"].mT * (torch.arange(62) < prompt_frames[:, None, None])
    assert torch.equal(case["cond"], prompt)  # the first frames, then zeros
    case["draws"] = FlowDraws(
        case["t"], case["z"].mT, case["cfg_keep"], prompt_frames, name == "s"
    )
    case["lens"] = case["token_len"] / case["token"].size(1)
    return case


# ---------------------------------------------------------------- reference


def test_state_dict_at_true_size_is_the_checkpoints():
    with torch.device("meta"):
        state = CosyVoice2Flow().state_dict()
    manifest = json.loads((FIXTURES / "manifest_flow.json").read_text())
    expected = {name: shape for name, (shape, _) in manifest["tensors"].items()}
    assert {name: list(t.shape) for name, t in state.items()} == expected


def test_counters_of_the_upstream_trainer_are_dropped(weights):
    flow = small_flow()
    flow.load_state_dict({**weights, "epoch": 3, "step": 1000})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        flow.load_state_dict({**weights, "other": torch.zeros(1)})


@pytest.mark.parametrize("case", CASES)
def test_synthesis_agrees(weights, reference, case):
    streaming, finalize, with_prompt, chunk_size = CASES[case]
    flow = small_flow(chunk_size=chunk_size).eval()
    flow.load_state_dict(weights)
    prompt = {}
    if with_prompt:
        prompt = {
            "prompt_tokens": reference["prompt_token"],
            "prompt_mel": reference["prompt_feat"],
        }
    mel, lens = flow.inference(
        reference["token"],
        torch.ones(1),
        reference["xvec"],
        streaming=streaming,
        finalize=finalize,
        **prompt,
    )
    assert_close(mel.mT, reference[f"out.{case}.mel"])
    assert lens.tolist() == [1.0]


@pytest.mark.parametrize("case", ["full", "stream_nofinal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_step_agrees(weights, reference, case, dtype):
    streaming, finalize, _, _ = CASES[case]
    flow = small_flow().to(dtype).eval()
    flow.load_state_dict(weights)
    source = "f64" if dtype == torch.float64 else "out"
    tokens, n_tokens = prompted(reference)
    mu, n_frames = flow.encode(tokens, n_tokens, streaming, finalize)
    # The sine tables are float32 in the reference's float64 run too.
    assert_close(mu, reference[f"{source}.{case}.mu"].to(dtype), atol=5e-6)
    if f"{source}.{case}.step0_pred" not in reference:
        return
    condition = torch.zeros_like(mu)
    condition[:, :40] = reference["prompt_feat"]
    inputs = [mu, flow.project_speaker(reference["xvec"].to(dtype)), condition]
    mu, speaker, condition = (
        torch.cat([value, torch.zeros_like(value)]) for value in inputs
    )
    noise = reference["noise"].mT[:, : mu.size(1)].to(dtype)
    predicted = flow.decoder.estimator(
        noise.expand(2, -1, -1),
        n_frames.expand(2),
        mu,
        torch.zeros(2),
        speaker,
        condition,
        streaming,
    )
    assert_close(
        predicted.mT, reference[f"{source}.{case}.step0_pred"].to(dtype)
    )


@pytest.mark.parametrize("name", ["f", "s"])
def test_training_agrees(flow, reference, name):
    case = training_case(reference, name)
    streaming = case["draws"].streaming
    mu, n_frames = flow.encode(
        case["token"], case["token_len"], streaming, upstream_padding=True
    )
    assert_close(mu.mT, case["mu"])
    speaker = flow.project_speaker(case["xvec"])
    predicted, _ = flow.decoder.velocity(
        case["feat"], n_frames, mu, speaker, case["draws"]
    )
    assert_close(predicted.mT, case["pred"])
    loss = flow.loss(
        case["token"],
        case["lens"],
        case["feat"],
        case["lens"],
        case["xvec"],
        case["draws"],
        upstream_padding=True,
    )
    results = json.loads((FIXTURES / "flow_small.json").read_text())["results"]
    expected = results["train_stream" if streaming else "train_full"]["loss"]
    assert float(loss) == pytest.approx(expected, abs=ATOL)


def test_noise_is_the_released_models(reference):
    assert torch.equal(fixed_noise(106).T, reference["noise"][0])


# ------------------------------------------------------------------ batches


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("finalize", [False, True])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_batch_equals_single_items(
    flow, batch, streaming, finalize, with_prompt
):
    if not with_prompt:
        batch = {k: v for k, v in batch.items() if "prompt" not in k}
    options = dict(n_timesteps=3, streaming=streaming, finalize=finalize)
    together, lens = flow.inference(**batch, **options)
    n_frames = torch.round(lens * together.size(1)).long().tolist()
    context = 0 if finalize else 6
    assert n_frames == [80 - context, 62 - context, 18 - context]
    for i, n in enumerate(n_frames):
        single = {k: v[i : i + 1] for k, v in batch.items()}
        for key in ("tokens", "prompt_tokens", "prompt_mel"):
            if key in single:
                is_prompt = key.startswith("prompt")
                share = single["prompt_lens" if is_prompt else "lens"]
                length = round(float(share) * single[key].size(1))
                single[key] = single[key][:, :length]
        single["lens"] = single["prompt_lens"] = torch.ones(1)
        alone, _ = flow.inference(**single, **options)
        assert_close(together[i : i + 1, :n], alone)
        assert (together[i, n:] == 0).all()


def test_loss_of_a_batch_is_the_mean_over_its_frames(flow, reference):
    case = training_case(reference, "f")
    keys = ("token", "lens", "feat", "lens", "xvec")
    together = flow.loss(*(case[k] for k in keys), case["draws"])
    total = 0.0
    for i, n in enumerate(case["token_len"].tolist()):
        draws = [value[i : i + 1] for value in case["draws"][:4]]
        draws[1] = draws[1][:, : 2 * n]
        total += (
            2
            * n
            * flow.loss(
                case["token"][i : i + 1, :n],
                torch.ones(1),
                case["feat"][i : i + 1, : 2 * n],
                torch.ones(1),
                case["xvec"][i : i + 1],
                FlowDraws(*draws, False),
            )
        )
    n_frames = 2 * case["token_len"].sum()
    assert_close(together, total / n_frames)
    upstream = flow.loss(
        *(case[k] for k in keys), case["draws"], upstream_padding=True
    )
    assert abs(float(upstream - together)) > 1e-4


def test_padding_of_tokens_and_mels_does_not_reach_the_loss(flow, reference):
    case = training_case(reference, "s")
    keys = ("token", "lens", "feat", "lens", "xvec")
    before = flow.loss(*(case[k] for k in keys), case["draws"])
    case["token"] = case["token"].clone()
    case["feat"] = case["feat"].clone()
    for i, n in enumerate(case["token_len"].tolist()):
        case["token"][i, n:] = -1
        case["feat"][i, 2 * n :] = 100.0
    after = flow.loss(*(case[k] for k in keys), case["draws"])
    assert_close(before, after, atol=1e-6)


def test_streaming_hides_later_chunks(flow):
    tokens = torch.arange(60)[None]
    changed = tokens.clone()
    changed[:, 25 + 3 :] += 100  # chunk of 25 tokens, look-ahead of 3
    options = dict(n_timesteps=2, streaming=True)
    arguments = (torch.ones(1), torch.ones(1, 192))
    mel, _ = flow.inference(tokens, *arguments, **options)
    other, _ = flow.inference(changed, *arguments, **options)
    assert_close(mel[:, :50], other[:, :50])
    assert (mel[:, 50:] - other[:, 50:]).abs().max() > 0.1
    options["streaming"] = False
    mel, _ = flow.inference(tokens, *arguments, **options)
    other, _ = flow.inference(changed, *arguments, **options)
    assert (mel[:, :50] - other[:, :50]).abs().max() > 1e-3


# ------------------------------------------------------- noise and guidance


def test_seeds_are_per_item_and_local(flow, batch):
    state = torch.get_rng_state()
    same = flow.inference(**batch, n_timesteps=1, seed=3)[0]
    each = flow.inference(**batch, n_timesteps=1, seed=[3, 4, 3])[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(same[0], each[0]) and torch.equal(same[2], each[2])
    assert (same[1] - each[1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="2 seeds for 3 items"):
        flow.inference(**batch, seed=[1, 2])


def test_noise_can_be_given(flow, batch):
    n_frames = 2 * (31 + 20)  # the longest item with its prompt
    noise = fixed_noise(n_frames, seed=5).expand(3, -1, -1)
    seeded = flow.inference(**batch, n_timesteps=2, seed=5)[0]
    assert torch.equal(
        flow.inference(**batch, n_timesteps=2, noise=noise)[0], seeded
    )


def test_guidance_extrapolates_from_the_unconditional_velocity(flow, batch):
    def one_step(weight):
        return flow.inference(**batch, n_timesteps=1, guidance=weight)[0]

    conditional = one_step(0.0)
    difference = one_step(1.0) - conditional
    assert difference.abs().max() > 0.1
    assert_close(one_step(0.5), conditional + 0.5 * difference)


# ------------------------------------------------------------------ training


def test_normalisation_of_mels_is_undone(weights, flow, batch):
    shifted = small_flow(mel_mean=-6.0, mel_std=2.5).eval()
    shifted.load_state_dict(weights)
    expected, lens = flow.inference(**batch, n_timesteps=2)
    batch["prompt_mel"] = batch["prompt_mel"] * 2.5 - 6.0
    mel, _ = shifted.inference(**batch, n_timesteps=2)
    for item, other, share in zip(mel, expected, lens.tolist()):
        n = round(share * len(item))
        assert_close(item[:n], other[:n] * 2.5 - 6.0, atol=1e-4)


def test_every_parameter_gets_a_gradient(reference):
    flow = small_flow().train()
    case = training_case(reference, "s")
    keys = ("token", "lens", "feat", "lens", "xvec")
    flow.loss(*(case[k] for k in keys), case["draws"]).backward()
    for name, parameter in flow.named_parameters():
        if name.endswith("linear_k.bias"):
            continue  # adds the same to a query's scores: softmax cancels it
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_acts_in_training_only(weights, reference):
    flow = small_flow()
    flow.load_state_dict(weights)
    case = training_case(reference, "f")
    keys = ("token", "lens", "feat", "lens", "xvec")

    def loss():
        return flow.loss(*(case[k] for k in keys), case["draws"]).item()

    assert loss() != loss()
    flow.eval()
    assert loss() == loss()


def test_draws_follow_the_recipe():
    flow = small_flow()
    n_frames = torch.randint(20, 41, (2000,))
    draws = flow.draw(n_frames, torch.Generator().manual_seed(0))
    again = flow.draw(n_frames, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(draws[:4], again[:4]))
    assert 0 <= draws.time.min() and draws.time.max() < 1
    assert float(draws.time.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.keep.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float(draws.noise.std()) == pytest.approx(1.0, abs=0.01)
    longest = (0.3 * n_frames).floor()
    assert (draws.prompt_frames <= longest).all()
    assert (draws.prompt_frames == longest).any()
    given = draws.prompt_frames > 0  # half of the items, less those with K = 0
    assert float(given.float().mean()) == pytest.approx(0.45, abs=0.04)
    generator = torch.Generator().manual_seed(0)
    coins = [flow.draw(n_frames[:1], generator).streaming for _ in range(200)]
    assert sum(coins) == pytest.approx(100, abs=30)


def test_rates_of_zero_switch_the_random_choices_off():
    flow = small_flow(condition_dropout=0.0, prompt_rate=0.0, streaming_rate=0)
    draws = flow.draw(torch.full((200,), 40))
    assert draws.keep.all() and not draws.prompt_frames.any()
    assert draws.streaming is False


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    flow = small_flow(dropout=0.0)
    tokens = torch.arange(24).view(2, 12)
    mel = torch.randn(300, 80)[tokens].repeat_interleave(2, dim=1)
    lens, xvector = torch.ones(2), torch.ones(2, 192)
    draws = flow.draw(torch.tensor([24, 24]))
    optimizer = torch.optim.AdamW(flow.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        loss = flow.loss(tokens, lens, mel, lens, xvector, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# ----------------------------------------------------------------- bad input


def test_mels_must_have_two_frames_per_token(flow, batch):
    mel, lens = torch.zeros(3, 80, 80), batch["lens"]
    arguments = (batch["tokens"], lens, mel, lens, batch["xvector"])
    assert flow.loss(*arguments).isfinite()
    longer = [torch.nn.functional.pad(mel, (0, 0, 0, 8)), lens * 80 / 88]
    tokens = torch.nn.functional.pad(batch["tokens"], (0, 4), value=-1)
    assert flow.loss(tokens, longer[1], *longer, batch["xvector"]).isfinite()
    short = torch.tensor([80, 61, 18]) / 80
    with pytest.raises(ValueError, match="item 1.*31 speech.*61 mel frames"):
        flow.loss(batch["tokens"], lens, mel, short, batch["xvector"])
    with pytest.raises(ValueError, match="two frames per token"):
        flow.loss(batch["tokens"], lens, mel[:, :79], lens, batch["xvector"])


def test_items_without_tokens_are_refused(flow, batch):
    batch["lens"] = torch.tensor([40, 0, 9]) / 40
    with pytest.raises(ValueError, match="item 1 .* no speech token"):
        flow.inference(**batch)
    batch["lens"] = torch.tensor([40, 31, 3]) / 40
    with pytest.raises(ValueError, match="item 2 .* beyond the 3 of context"):
        flow.inference(**batch, finalize=False)


def test_half_a_prompt_is_refused(flow, batch):
    mel = batch.pop("prompt_mel")
    with pytest.raises(ValueError, match="both its speech tokens and its mel"):
        flow.inference(**batch)
    with pytest.raises(ValueError, match="20 speech tokens and 39 mel"):
        flow.inference(**batch, prompt_mel=mel[:, :39])


def test_more_than_the_noise_is_refused():
    with pytest.raises(ValueError, match="15001 mel frames.*split the text"):
        fixed_noise(15001)
