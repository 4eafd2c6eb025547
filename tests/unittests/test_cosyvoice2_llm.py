"""CosyVoice2's language model: the reference, training and generation."""

import io
import json
from pathlib import Path

from speechbrain_emofilm.integrations.cosyvoice2.checkpoint import (
    rename_llm_tensors,
)
from speechbrain_emofilm.lobes.cosyvoice2.decoding import CachedQwen2
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.precision import (
    BFloat16Linear,
    cpu_multiplies_bfloat16,
    set_weight_precision,
)
from speechbrain_emofilm.lobes.cosyvoice2.sampling import (
    GreedySampler,
    RepetitionAwareSampler,
    UtteranceNoise,
)
from speechbrain_emofilm.lobes.cosyvoice2.trunk import read_packed
from speechbrain_emofilm.lobes.mini.fsq import FSQEmbedding, FSQLinear

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def reference():
    """Tensors and JSON of the reference."""
    description = json.loads((FIXTURES / "llm_small.json").read_text())
    return load_file(FIXTURES / "llm_small.safetensors"), description


def _upstream_state(tensors):
    return {k[2:]: v for k, v in tensors.items() if k.startswith("w.")}


@pytest.fixture(scope="module")
def reference_lm(reference):
    tensors, description = reference
    config = description["config"]
    lm = CosyVoice2LM(config["qwen2"], config["speech_token_size"])
    lm.load_state_dict(rename_llm_tensors(_upstream_state(tensors)))
    return lm


def _tiny_lm(seed=0, **kwargs):
    torch.manual_seed(seed)
    return CosyVoice2LM(TINY, speech_token_size=27, **kwargs)


def _tiny_batch():
    """text_tokens (3, 7), text_lens, speech_tokens (3, 9), speech_lens."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(30, (3, 7), generator=generator),
        torch.tensor([7, 4, 5]) / 7,
        torch.randint(27, (3, 9), generator=generator),
        torch.tensor([6, 9, 1]) / 9,
    )


def _run_reference(lm, tensors, prefix, **kwargs):
    """Teacher-forced pass on the batch whose tensors have this prefix."""
    text, speech = (
        tensors[prefix + "text_token"],
        tensors[prefix + "speech_token"],
    )
    return lm(
        lm.embed_text(text),
        tensors[prefix + "text_token_len"] / text.shape[1],
        speech,
        tensors[prefix + "speech_token_len"] / speech.shape[1],
        **kwargs,
    )


# The reference


def test_unistream_agrees_with_the_reference(reference, reference_lm):
    tensors, description = reference
    expected = description["results"]["unistream"]
    out = _run_reference(reference_lm, tensors, "")
    kept = tensors["uni_lm_target"] != -1
    assert torch.equal(out.targets, tensors["uni_lm_target"][kept])
    torch.testing.assert_close(
        out.logits, tensors["uni_logits"][kept], rtol=0, atol=2e-5
    )
    loss = F.cross_entropy(out.logits, out.targets)
    assert loss.item() == pytest.approx(expected["loss"], abs=2e-6)
    accuracy = (out.logits.argmax(-1) == out.targets).float().mean()
    assert accuracy.item() == pytest.approx(expected["acc"])


def test_bistream_agrees_with_the_reference(reference, reference_lm):
    tensors, description = reference
    out = _run_reference(reference_lm, tensors, "bi_", bistream_probability=1.0)
    kept = tensors["bi_lm_target"] != -1
    assert torch.equal(out.targets, tensors["bi_lm_target"][kept])
    loss = F.cross_entropy(out.logits, out.targets)
    expected = description["results"]["bistream"]["loss"]
    assert loss.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("case", ["greedy_noprompt", "greedy_prompt"])
def test_greedy_tokens_agree_with_the_reference(reference, reference_lm, case):
    tensors, description = reference
    text, prompt = tensors["gr_text"], {}
    if case == "greedy_prompt":
        text = torch.cat([tensors["gr_prompt_text"], text], dim=1)
        prompt = {
            "prompt_speech_tokens": tensors["gr_prompt_speech"],
            "prompt_speech_lens": torch.ones(1),
        }
    (tokens,) = reference_lm.generate(
        reference_lm.embed_text(text),
        torch.ones(1),
        **prompt,
        sampler=GreedySampler(),
        min_ratio=40 / 9,
        max_ratio=40 / 9,
        n_target_text=[9],
    )
    expected = description["results"][case]["ids_all3_masked"]
    assert tokens.tolist() == expected


# Training


def test_frozen_stays_in_evaluation_mode():
    dropout = {"attention_dropout": 0.5}
    lm = CosyVoice2LM({**TINY, **dropout}, speech_token_size=27)
    wrapper = torch.nn.ModuleDict({"lm": lm})
    wrapper.train()
    assert not any(module.training for module in lm.modules())
    text, text_lens, speech, speech_lens = _tiny_batch()
    batch = (lm.embed_text(text), text_lens, speech, speech_lens)
    assert torch.equal(lm(*batch).logits, lm(*batch).logits)


def test_pretraining_trains():
    lm = _tiny_lm(frozen=False)
    lm.train()
    assert all(module.training for module in lm.modules())
    lm.eval()
    assert not any(module.training for module in lm.modules())
    assert all(parameter.requires_grad for parameter in lm.parameters())


def test_freezing_after_pretraining_takes_effect_at_once():
    lm = _tiny_lm(frozen=False)
    lm.train()
    lm.freeze()
    assert not any(module.training for module in lm.modules())


def test_frozen_passes_gradient_to_the_text_and_trains_the_decoder_only():
    lm = _tiny_lm()
    text, text_lens, speech, speech_lens = _tiny_batch()
    embeddings = lm.embed_text(text).requires_grad_()
    out = lm(embeddings, text_lens, speech, speech_lens)
    F.cross_entropy(out.logits, out.targets).backward()
    trained = {n for n, p in lm.named_parameters() if p.grad is not None}
    assert trained == {"llm_decoder.weight", "llm_decoder.bias"}
    magnitude = embeddings.grad.abs().sum(-1)
    for item, n_text in enumerate([7, 4, 5]):
        assert (magnitude[item, :n_text] > 0).all()
        assert (magnitude[item, n_text:] == 0).all()


def test_pretraining_reaches_every_parameter():
    lm = _tiny_lm(
        frozen=False,
        speech_embedding=FSQEmbedding(16, hidden=8, n_dims=3),
        llm_decoder=FSQLinear(16, hidden=8, n_dims=3),
    )
    text, *rest = _tiny_batch()
    out = lm(lm.embed_text(text), *rest)
    F.cross_entropy(out.logits, out.targets).backward()
    untouched = {
        name
        for name, parameter in lm.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    }
    # The end and fill are targets and never inputs.
    assert untouched == {"speech_embedding.extra"}


def test_hidden_states_predict_the_supervised_tokens():
    lm = _tiny_lm()
    text, text_lens, speech, speech_lens = _tiny_batch()
    out = lm(lm.embed_text(text), text_lens, speech, speech_lens)
    assert out.hidden.shape == (3, 10, 16)
    assert out.supervised.sum(1).tolist() == [7, 10, 2]
    torch.testing.assert_close(
        lm.llm_decoder(out.hidden[out.supervised]), out.logits
    )
    expected = [[*row[:n].tolist(), 27] for row, n in zip(speech, [6, 9, 1])]
    assert out.targets.tolist() == sum(expected, [])


def test_bistream_hidden_states_predict_the_speech_tokens():
    lm = _tiny_lm(mix_ratio=(2, 3))
    text, _, speech, _ = _tiny_batch()
    text, speech = text[:1, :5], speech[:1]
    lens = torch.ones(1)
    out = lm(lm.embed_text(text), lens, speech, lens, bistream_probability=1.0)
    s = speech[0].tolist()
    assert out.targets.tolist() == [*s[:3], 29, *s[3:6], 29, *s[6:], 27]
    # sos t0 t1 s0 s1 s2 t2 t3 s3 s4 s5 t4 task s6 s7 s8
    assert out.text_positions.tolist() == [[1, 2, 6, 7, 11]]
    assert out.speech_positions.tolist() == [[2, 3, 4, 7, 8, 9, 12, 13, 14, 15]]
    is_speech = out.targets != lm.fill_id
    torch.testing.assert_close(
        lm.llm_decoder(out.hidden[0]), out.logits[is_speech]
    )


def test_bistream_coins_come_from_the_generator():
    lm = _tiny_lm(mix_ratio=(1, 1))
    text = lm.embed_text(torch.randint(30, (40, 2)))
    speech, ones = torch.randint(27, (40, 5)), torch.ones(40)

    def n_fill(seed, probability):
        generator = torch.Generator().manual_seed(seed)
        out = lm(
            text,
            ones,
            speech,
            ones,
            bistream_probability=probability,
            generator=generator,
        )
        return (out.targets == lm.fill_id).sum().item()

    coins = torch.rand(40, generator=torch.Generator().manual_seed(5))
    assert n_fill(5, 0.3) == 2 * (coins < 0.3).sum()
    assert n_fill(5, 0.0) == 0
    assert n_fill(5, 1.0) == 80


def test_an_item_gives_the_same_in_any_batch_and_padding():
    lm = _tiny_lm()
    text, text_lens, speech, speech_lens = _tiny_batch()
    embeddings = lm.embed_text(text)
    embeddings[1, 4:] = 100.0
    speech[2, 1:] = -1
    batch = lm(embeddings, text_lens, speech, speech_lens)
    ends = batch.supervised.sum(1).cumsum(0).tolist()
    for item, (n_text, n_speech) in enumerate([(7, 6), (4, 9), (5, 1)]):
        alone = lm(
            embeddings[item : item + 1, :n_text],
            torch.ones(1),
            speech[item : item + 1, :n_speech],
            torch.ones(1),
        )
        here = batch.logits[ends[item] - n_speech - 1 : ends[item]]
        torch.testing.assert_close(here, alone.logits, rtol=1e-4, atol=1e-5)


def test_history_is_read_and_the_speech_remains_the_target():
    lm = _tiny_lm()
    text, text_lens, speech, speech_lens = _tiny_batch()
    batch = (lm.embed_text(text), text_lens, speech, speech_lens)
    clean, corrupted = lm(*batch), lm(*batch, history=(speech + 1) % 27)
    assert torch.equal(clean.targets, corrupted.targets)
    first, later = clean.hidden[:, 0], clean.hidden[:, 1]
    torch.testing.assert_close(first, corrupted.hidden[:, 0])
    assert not torch.allclose(later, corrupted.hidden[:, 1])


def test_attention_weights_stand_where_the_positions_say():
    eager = _tiny_lm(attn_implementation="eager")
    text, *rest = _tiny_batch()
    out = eager(eager.embed_text(text), *rest, output_attentions=True)
    assert [a.shape for a in out.attentions] == [(3, 2, 18 - 3, 18 - 3)] * 2
    for item, n_text in enumerate([7, 4, 5]):
        places = out.text_positions[item, :n_text].tolist()
        assert places == list(range(1, n_text + 1))
        first = out.speech_positions[item, 0]
        assert first == n_text + 1  # task predicts the first token
        weights = out.attentions[0][item, :, first]
        assert (weights[:, : first + 1] > 0).all()
        assert (weights[:, first + 1 :] == 0).all()
    plain = _tiny_lm()(eager.embed_text(text), *rest)
    assert plain.attentions is None
    torch.testing.assert_close(out.logits, plain.logits, rtol=1e-4, atol=1e-5)


def test_sdpa_has_no_attention_weights_to_return():
    lm = _tiny_lm()
    text, *rest = _tiny_batch()
    with pytest.raises(ValueError, match="eager"):
        lm(lm.embed_text(text), *rest, output_attentions=True)


# Generation


@torch.no_grad()
def _generate_slowly(
    lm, text, prompt, sampler, limits, seed, unconditional=None, guidance=1.0
):
    """One utterance, recomputed in full for every token, without padding."""
    noise, tokens = UtteranceNoise([seed]), []
    sos, task = lm.llm_embedding.weight[:, None]

    def score(text):
        speech = torch.tensor([*prompt, *tokens], dtype=torch.long)
        sequence = [sos, text, task, lm.speech_embedding(speech)]
        hidden = lm.llm(inputs_embeds=torch.cat(sequence)[None])[0]
        return lm.llm_decoder(hidden[0, -1:])

    while len(tokens) < limits[1]:
        logits = score(text)
        if unconditional is not None:
            without = score(unconditional)
            logits = without + guidance * (logits - without)
        logits[:, lm.end_id + 1 :] = -torch.inf
        if len(tokens) < limits[0]:
            logits[:, lm.end_id] = -torch.inf
        history = torch.tensor([tokens], dtype=torch.long)
        token = sampler(logits.log_softmax(-1), history, noise()).item()
        if token == lm.end_id:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize(
    "attention, guidance, sampler",
    [
        ("sdpa", 1.0, RepetitionAwareSampler()),
        ("sdpa", 2.5, RepetitionAwareSampler()),
        ("eager", 2.5, GreedySampler()),
    ],
)
def test_a_batch_speaks_as_each_item_recomputed_alone(
    attention, guidance, sampler
):
    lm = _tiny_lm(seed=3, attn_implementation=attention)
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] += 2.0  # so that items end at any time
    text, text_lens, prompt, _ = _tiny_batch()
    embeddings, unconditional = lm.embed_text(text), lm.embed_text(text) / 2
    n_prompts, n_targets, seeds = [3, 0, 9], [5, 4, 2], [11, 12, 13]
    batch = lm.generate(
        embeddings,
        text_lens,
        prompt,
        torch.tensor(n_prompts) / 9,
        unconditional_embeddings=None if guidance == 1.0 else unconditional,
        guidance=guidance,
        sampler=sampler,
        min_ratio=1.0,
        max_ratio=8.0,
        n_target_text=n_targets,
        seeds=seeds,
    )
    lengths = set()
    for item, n_text in enumerate([7, 4, 5]):
        alone = _generate_slowly(
            lm,
            embeddings[item, :n_text],
            prompt[item, : n_prompts[item]].tolist(),
            sampler,
            (n_targets[item], 8 * n_targets[item]),
            seeds[item],
            None if guidance == 1.0 else unconditional[item, :n_text],
            guidance,
        )
        assert batch[item].tolist() == alone
        lengths.add(len(alone))
    assert len(lengths) > 1


def test_guidance_beyond_one_moves_away_from_the_unconditional():
    lm = _tiny_lm()
    text = lm.embed_text(torch.randint(30, (1, 6)))
    other = lm.embed_text(torch.randint(30, (1, 6)))

    def speak(guidance, conditional, unconditional):
        return lm.generate(
            conditional,
            torch.ones(1),
            unconditional_embeddings=unconditional,
            guidance=guidance,
            sampler=GreedySampler(),
            max_ratio=4,
        )[0].tolist()

    assert speak(0.0, text, other) == speak(1.0, other, None)
    assert speak(3.0, text, text) == speak(1.0, text, None)


def test_candidates_are_the_nucleus_of_the_conditional():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    embeddings = lm.embed_text(text)

    def candidates(guidance, **options):
        """Which tokens can be the first, bool (B, V + 3)."""
        seen = []

        def sampler(log_probs, history, uniforms):
            seen.append(log_probs > -torch.inf)
            return log_probs.argmax(-1)

        lm.generate(
            embeddings,
            text_lens,
            unconditional_embeddings=-embeddings,
            guidance=guidance,
            sampler=sampler,
            min_ratio=0.0,
            max_ratio=1.0,
            **options,
        )
        return seen[0]

    plain = candidates(1.0, candidate_top_k=3)
    assert (plain.sum(1) == 3).all()
    # However strong the guidance, it chooses among the same tokens.
    assert torch.equal(candidates(9.0, candidate_top_k=3), plain)
    assert not torch.equal(
        candidates(9.0, candidate_top_p=0.5),
        candidates(9.0, candidate_top_p=0.05),
    )
    assert candidates(9.0, candidate_top_p=1e-6).sum(1).max() == 1
    assert candidates(9.0).sum(1).min() == lm.end_id + 1


def test_a_certain_token_is_repeated_rather_than_the_speech_ended():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    with torch.no_grad():
        lm.llm_decoder.bias[3] += 100.0
    spoken = lm.generate(
        lm.embed_text(text),
        text_lens,
        sampler=RepetitionAwareSampler(),
        candidate_top_p=0.9,
        min_ratio=0.0,
        max_ratio=4.0,
    )
    for tokens in spoken:
        assert len(tokens) >= 4 and (tokens == 3).all()


def test_an_end_that_comes_too_early_leaves_the_next_best_candidates():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    embeddings = lm.embed_text(text)
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] += 100.0
    options = {"candidate_top_k": 1, "min_ratio": 2.0, "max_ratio": 4.0}
    for guidance in (1.0, 2.0):
        spoken = lm.generate(
            embeddings,
            text_lens,
            unconditional_embeddings=-embeddings,
            guidance=guidance,
            **options,
        )
        n_text = (text_lens * text.shape[1]).round().int().tolist()
        assert [len(tokens) for tokens in spoken] == [2 * n for n in n_text]


def test_lengths_stay_within_the_ratios():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    embeddings = lm.embed_text(text)
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id :] += 100.0
    tokens = lm.generate(embeddings, text_lens, min_ratio=1.5)
    assert [len(t) for t in tokens] == [10, 6, 7]
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 300.0
    tokens = lm.generate(embeddings, text_lens, min_ratio=0.0, max_ratio=2.5)
    assert [len(t) for t in tokens] == [17, 10, 12]
    assert all((t < lm.end_id).all() for t in tokens)


def test_reports_speech_that_did_not_end_by_itself(caplog):
    lm = _tiny_lm()
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    text, text_lens, _, _ = _tiny_batch()
    lm.generate(lm.embed_text(text), text_lens, max_ratio=2.0)
    assert "max_ratio" in caplog.text and "[0, 1, 2]" in caplog.text


def test_items_that_have_ended_are_not_computed_any_more():
    lm = _tiny_lm()
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    rows = []
    lm.llm.norm.register_forward_hook(lambda _, x, y: rows.append(len(y)))
    text, text_lens, _, _ = _tiny_batch()
    lm.generate(
        lm.embed_text(text),
        text_lens,
        min_ratio=0.0,
        max_ratio=1.0,
        n_target_text=[3, 1, 2],
    )
    assert rows == [3, 2, 1]


def test_the_seed_decides_and_the_global_generator_does_not():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    embeddings = lm.embed_text(text)

    def speak(seeds):
        tokens = lm.generate(embeddings, text_lens, max_ratio=4.0, seeds=seeds)
        return [t.tolist() for t in tokens]

    state = torch.get_rng_state()
    first = speak([1, 2, 3])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert speak([1, 2, 3]) == first
    second = speak([1, 5, 3])
    assert second[1] != first[1]
    assert [second[0], second[2]] == [first[0], first[2]]


def test_generates_under_bfloat16():
    lm = _tiny_lm().bfloat16()
    text, text_lens, _, _ = _tiny_batch()
    tokens = lm.generate(
        lm.embed_text(text), text_lens, min_ratio=1.0, max_ratio=1.0
    )
    assert [len(t) for t in tokens] == [7, 4, 5]


def test_refuses_an_item_without_text():
    lm = _tiny_lm()
    text, _, _, _ = _tiny_batch()
    with pytest.raises(ValueError, match=r"\[1\] have no text"):
        lm.generate(lm.embed_text(text), torch.tensor([1.0, 0.0, 0.5]))


def test_refuses_ratios_that_contradict_each_other():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    with pytest.raises(ValueError, match="min_ratio 3.0"):
        lm.generate(
            lm.embed_text(text), text_lens, min_ratio=3.0, max_ratio=2.0
        )


def test_refuses_guidance_without_the_unconditional():
    lm = _tiny_lm()
    text, text_lens, _, _ = _tiny_batch()
    with pytest.raises(ValueError, match="unconditional_embeddings"):
        lm.generate(lm.embed_text(text), text_lens, guidance=2.0)


# Text streaming


def _pieces(embeddings, *sizes):
    """The text (1, T, C) in pieces of these sizes, the last one open."""
    return list(embeddings.split([*sizes, embeddings.shape[1] - sum(sizes)], 1))


def _teacher_forced(lm, text, tokens):
    """Scores and targets of the tokens laid out as bistream."""
    out = lm(
        text,
        torch.ones(1),
        torch.tensor([tokens]),
        torch.ones(1),
        bistream_probability=1.0,
    )
    return out.logits, out.targets


@pytest.mark.parametrize("n_prompt", [0, 2, 3, 4, 7])
def test_streamed_speech_is_the_best_in_the_layout_of_training(n_prompt):
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():  # full blocks, and speech up to the greatest length
        lm.llm_decoder.bias[lm.end_id :] -= 100.0
    text = lm.embed_text(torch.randint(30, (1, 7)))
    prompt = torch.randint(27, (1, n_prompt))
    tokens = list(
        lm.generate_stream(
            _pieces(text, 1, 3),
            prompt,
            sampler=GreedySampler(),
            max_ratio=4.0,
        )
    )
    spoken = [*prompt[0].tolist(), *tokens]
    logits, targets = _teacher_forced(lm, text, spoken)
    assert len(tokens) == 28
    assert (targets == lm.fill_id).sum() == 7 // 2
    best = logits[targets != lm.fill_id, : lm.end_id].argmax(-1)
    assert tokens == best[n_prompt : len(spoken)].tolist()


def test_speech_starts_before_the_text_is_complete():
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.fill_id] -= 100.0
    text = lm.embed_text(torch.randint(30, (1, 7)))
    read = []

    def write():
        for piece in text.split(1, 1):
            read.append(1)
            yield piece

    stream = lm.generate_stream(write())
    n_read = []
    for _ in range(9):
        next(stream)
        n_read.append(len(read))
    assert n_read == [2, 2, 2, 4, 4, 4, 6, 6, 6]


def test_the_pieces_of_the_text_do_not_matter():
    lm = _tiny_lm(seed=2, mix_ratio=(2, 3))
    text = lm.embed_text(torch.randint(30, (1, 7)))
    whole = list(lm.generate_stream([text], max_ratio=3.0, seed=5))
    pieces = list(lm.generate_stream(text.split(1, 1), max_ratio=3.0, seed=5))
    other = list(lm.generate_stream([text], max_ratio=3.0, seed=6))
    assert whole == pieces != other


def test_fill_asks_for_more_text_early():
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.fill_id] += 100.0
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    text = lm.embed_text(torch.randint(30, (1, 4)))
    tokens = list(
        lm.generate_stream([text], sampler=GreedySampler(), max_ratio=2.0)
    )
    # No speech in the blocks: all of it comes after the task.
    (expected,) = lm.generate(
        text,
        torch.ones(1),
        sampler=GreedySampler(),
        max_ratio=2.0,
    )
    assert tokens == expected.tolist()


def test_a_prompt_longer_than_the_text_is_not_lost():
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    text = lm.embed_text(torch.randint(30, (1, 2)))
    prompt = torch.randint(27, (1, 8))
    first = next(lm.generate_stream([text], prompt, sampler=GreedySampler()))
    logits, _ = _teacher_forced(lm, text, prompt[0].tolist())
    assert first == logits[-1, : lm.end_id].argmax()


def test_streaming_ends_at_max_ratio_and_refuses_no_text():
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id] -= 100.0
    text = lm.embed_text(torch.randint(30, (1, 5)))
    assert len(list(lm.generate_stream([text], max_ratio=4.0))) == 20
    with pytest.raises(ValueError, match="no text"):
        list(lm.generate_stream([]))


@torch.no_grad()
def _stream_slowly(lm, texts, prompt, sampler, max_len, guidance, seed):
    """Bistream speech, recomputed in full for every token, without a cache.

    texts: a list of variants, (1, T, C).
    """
    noise, tokens = UtteranceNoise([seed]), []
    n_text, n_speech = lm.mix_ratio
    sos, task = (row[None, None] for row in lm.llm_embedding.weight)
    prompt, sequences = list(prompt), [[sos] for _ in texts]

    def read(*pieces):
        for sequence, piece in zip(sequences, pieces):
            sequence.append(piece)

    def read_prompt(n):
        taken, prompt[:n] = prompt[:n], []
        speech = lm.speech_embedding(torch.tensor([taken], dtype=torch.long))
        read(*[speech] * len(texts))
        return n - len(taken)

    def speak(n_tokens, stop_id):
        for _ in range(n_tokens):
            logits = [
                lm.llm_decoder(lm.llm(inputs_embeds=torch.cat(s, 1))[0][:, -1])
                for s in sequences
            ]
            scores = logits[-1] + guidance * (logits[0] - logits[-1])
            for special in range(lm.end_id, lm.fill_id + 1):
                if special != stop_id:
                    scores[:, special] = -torch.inf
            history = torch.tensor([tokens], dtype=torch.long)
            token = sampler(scores.log_softmax(-1), history, noise())
            if token == stop_id:
                return
            tokens.append(token.item())
            read(*[lm.speech_embedding(token)[None]] * len(texts))

    while texts[0].shape[1] >= n_text:
        read(*(text[:, :n_text] for text in texts))
        texts = [text[:, n_text:] for text in texts]
        speak(read_prompt(n_speech), lm.fill_id)
    read(*texts)
    read(*[task] * len(texts))
    read_prompt(len(prompt))
    speak(max_len - len(tokens), lm.end_id)
    return tokens


@pytest.mark.parametrize("form", ["pairs", "tensors"])
@pytest.mark.parametrize("guidance, seed", [(1.0, 4), (0.0, 5), (2.5, 6)])
def test_guided_stream_equals_the_stream_recomputed(guidance, seed, form):
    lm = _tiny_lm(seed=seed, mix_ratio=(2, 3))
    text = lm.embed_text(torch.randint(30, (1, 7)))
    other = lm.embed_text(torch.randint(30, (1, 7)))
    prompt = torch.randint(27, (1, 4))
    pieces = list(zip(_pieces(text, 1, 3), _pieces(other, 1, 3)))
    if form == "tensors":
        pieces = [torch.cat(pair) for pair in pieces]
    options = {"max_ratio": 4.0, "seed": seed}
    tokens = list(
        lm.generate_stream(pieces, prompt, guidance=guidance, **options)
    )
    expected = _stream_slowly(
        lm,
        [text, other],
        prompt[0].tolist(),
        RepetitionAwareSampler(),
        28,
        guidance,
        seed,
    )
    assert tokens == expected
    if guidance in (0.0, 1.0):
        alone = [other, text][int(guidance)]
        assert tokens == list(lm.generate_stream([alone], prompt, **options))


def test_stream_chooses_among_the_candidates():
    lm = _tiny_lm(mix_ratio=(2, 3))
    text = lm.embed_text(torch.randint(30, (1, 7)))
    seen = []

    def sampler(log_probs, history, uniforms):
        seen.append((log_probs > -torch.inf).sum().item())
        return log_probs.argmax(-1)

    def stream(**options):
        seen.clear()
        pieces = [(text, -text)]
        lm_stream = lm.generate_stream(
            pieces, None, sampler, 2.0, guidance=3.0, **options
        )
        return list(lm_stream), set(seen)

    assert stream(candidate_top_k=3)[1] == {3}
    assert stream(candidate_top_p=1e-6)[1] == {1}
    assert stream()[1] == {28}


def test_stream_refuses_guidance_without_the_unconditional():
    lm = _tiny_lm()
    text = lm.embed_text(torch.randint(30, (1, 7)))
    with pytest.raises(ValueError, match="with and without"):
        list(lm.generate_stream([text], guidance=2.0))


def test_a_streamed_token_costs_the_same_however_much_came_before():
    lm = _tiny_lm(mix_ratio=(2, 3))
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id :] -= 100.0
    lengths = []
    lm.llm.norm.register_forward_hook(
        lambda _, x, y: lengths.append(y.shape[1])
    )
    text = lm.embed_text(torch.randint(30, (1, 7)))
    tokens = list(lm.generate_stream([text], max_ratio=20.0))
    assert len(tokens) == 140
    # Text, with sos in front of the first piece, or one token.
    assert lengths == [3, 1, 1, 3, 1, 1, 3, 1, 1, 3] + [1] * 130


@pytest.mark.parametrize("guidance", [1.0, 1.7])
def test_whole_text_tokens_are_those_of_generate(guidance, caplog):
    lm = _tiny_lm(seed=4)
    text, text_lens, prompt, _ = _tiny_batch()
    embeddings = lm.embed_text(text)
    options = {
        "unconditional_embeddings": embeddings / 2,
        "guidance": guidance,
        "candidate_top_k": 20,
        "candidate_top_p": 0.95,
        "max_ratio": 4.0,
        "min_ratio": 1.0,
    }
    for item in range(3):
        whole = slice(item, item + 1)
        own = {**options, "seeds": [item]}
        own["unconditional_embeddings"] = embeddings[whole] / 2
        arguments = (embeddings[whole], text_lens[whole], prompt[whole])
        (expected,) = lm.generate(*arguments, torch.ones(1), **own)
        warnings = len(caplog.records)
        stream = lm.generate_tokens(*arguments, torch.ones(1), **own)
        first = next(stream)
        assert [first, *stream] == expected.tolist()
        assert len(caplog.records) == 2 * warnings
        caplog.clear()


def test_whole_text_tokens_come_as_they_are_drawn():
    lm = _tiny_lm()
    steps = []
    lm.llm.norm.register_forward_hook(lambda *_: steps.append(1))
    text = lm.embed_text(torch.randint(30, (1, 5)))
    stream = lm.generate_tokens(text)
    for n_tokens in range(1, 6):
        next(stream)
        assert len(steps) == n_tokens


def test_token_stream_refuses_at_once_what_it_cannot_speak():
    lm = _tiny_lm()
    text, _, _, _ = _tiny_batch()
    embeddings = lm.embed_text(text)
    with pytest.raises(ValueError, match="one text, not 3"):
        lm.generate_tokens(embeddings)
    with pytest.raises(ValueError, match="unconditional_embeddings"):
        lm.generate_tokens(embeddings[:1], guidance=2.0)


def test_tokens_can_train_a_model_afterwards():
    """They are no inference tensors, which autograd refuses."""
    lm = _tiny_lm(frozen=False)
    text, text_lens, _, _ = _tiny_batch()
    (tokens, *_) = lm.generate(lm.embed_text(text), text_lens, max_ratio=2.0)
    lm.speech_embedding(tokens).sum().backward()
    assert lm.speech_embedding.weight.grad.any()


# The trunk


@pytest.mark.parametrize("n_key_heads", [1, 2, 4])
def test_cached_and_packed_reading_equal_the_trunk(n_key_heads):
    torch.manual_seed(0)
    lm = CosyVoice2LM(
        {
            **TINY,
            "num_attention_heads": 4,
            "num_key_value_heads": n_key_heads,
        },
        speech_token_size=27,
    )
    lens = torch.tensor([9, 4, 6])
    right = (torch.arange(9) < lens[:, None]).long()
    embeddings = torch.randn(3, 9, 16)
    with torch.no_grad():
        packed = read_packed(lm.llm, embeddings, right)
        cached = CachedQwen2(lm.llm, 9 - lens)
        flipped = torch.stack(
            [e.roll(9 - int(n), 0) for e, n in zip(embeddings, lens)]
        )
        pieces = torch.cat([cached(p) for p in flipped.split([6, 1, 2], 1)], 1)
        for row, n in enumerate(lens.tolist()):
            alone = lm.llm(inputs_embeds=embeddings[row : row + 1, :n])[0][0]
            torch.testing.assert_close(
                packed[row, :n], alone, rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                pieces[row, 9 - n :], alone, rtol=1e-4, atol=1e-5
            )
            assert not packed[row, n:].any()


def test_padding_costs_nothing_in_the_linear_layers():
    lm = _tiny_lm()
    rows = []
    lm.llm.layers[0].mlp.down_proj.register_forward_hook(
        lambda _, x, y: rows.append(y.shape[:-1].numel())
    )
    text, *rest = _tiny_batch()
    lm(lm.embed_text(text), *rest)
    assert rows == [(7 + 6) + (4 + 9) + (5 + 1) + 3 * 2]


def test_training_keeps_two_wide_tensors_of_each_layer():
    lm, wide = _tiny_lm(), set()

    def note(tensor):
        is_state = tensor.dim() == 3  # and no weight
        if is_state and tensor.shape[-1] == TINY["intermediate_size"]:
            wide.add(tensor.untyped_storage().data_ptr())
        return tensor

    text, text_lens, speech, speech_lens = _tiny_batch()
    embeddings = lm.embed_text(text).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = lm(embeddings, text_lens, speech, speech_lens)
    # Gate and values, but not what the gate lets through.
    assert len(wide) == 2 * TINY["num_hidden_layers"]
    out.logits.sum().backward()
    assert embeddings.grad.abs().max() > 0


def test_the_cache_grows_beyond_its_first_room():
    lm = _tiny_lm()
    embeddings = torch.randn(1, 140, 16)
    with torch.no_grad():
        cached = CachedQwen2(lm.llm)
        pieces = [cached(piece) for piece in embeddings.split(1, 1)]
        whole = lm.llm(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(
        torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(9, 4), (4, 9)])
def test_rows_of_two_caches_go_on_together(sizes):
    """Also where rows leave afterwards and what they alone needed is freed."""
    lm = _tiny_lm()
    lens = [[sizes[0], sizes[0] - 2], [sizes[1] - 3, sizes[1]]]
    texts = [[torch.randn(n + 4, 16) for n in part] for part in lens]
    caches = []
    with torch.no_grad():
        for part, ns in zip(texts, lens):
            padding = [max(ns) - n for n in ns]
            caches.append(CachedQwen2(lm.llm, padding))
            padded = [
                F.pad(t[:n], (0, 0, p, 0)) for t, n, p in zip(part, ns, padding)
            ]
            caches[-1](torch.stack(padded))
        merged, other = caches
        order = [2, 0, 3, 1]
        merged.merge(other, order)
        rows = [
            [(*texts[0], *texts[1])[i], (*lens[0], *lens[1])[i]] for i in order
        ]

        def go_on(n_tokens):
            new = torch.stack([t[n : n + n_tokens] for t, n in rows])
            hidden = merged(new)
            for row, (text, n) in enumerate(rows):
                whole = lm.llm(inputs_embeds=text[None, : n + n_tokens])[0]
                torch.testing.assert_close(
                    hidden[row], whole[0, n:], rtol=1e-4, atol=1e-5
                )
                rows[row][1] += n_tokens

        go_on(1)
        assert merged.size == max(sizes) + 1
        shortest = sorted(range(4), key=lambda row: rows[row][1])[:2]
        merged.keep(shortest)
        rows = [rows[row] for row in shortest]
        assert merged.size == max(n for _, n in rows)
        go_on(1)
        go_on(2)


# Smaller weights


@pytest.mark.parametrize(
    "precision, is_native, error",
    [
        ("bf16", False, 0.01),  # the weights alone are rounded
        ("bf16", True, 0.02),  # inputs and products, too
        ("int8", None, 0.1),
    ],
)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_smaller_weights_score_almost_the_same(
    precision, is_native, error, n_rows
):
    lm, small = _tiny_lm(), set_weight_precision(_tiny_lm(), precision)
    for module in small.modules():
        if isinstance(module, BFloat16Linear):
            module.is_native = is_native
    text, text_lens, speech, speech_lens = (t[:n_rows] for t in _tiny_batch())
    text_lens, speech_lens = torch.ones(n_rows), torch.ones(n_rows)
    with torch.no_grad():
        embeddings = lm.embed_text(text)
        exact = lm(embeddings, text_lens, speech, speech_lens).logits
        close = small(embeddings, text_lens, speech, speech_lens).logits
    assert 0 < (exact - close).norm() < error * exact.norm()
    tokens = small.generate(embeddings, text_lens, max_ratio=3.0)
    assert all(0 <= t < 27 for row in tokens for t in row.tolist())


@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("n_rows", [1, 3])
def test_bfloat16_layers_of_many_rows_are_whole_and_in_order(n_rows, is_native):
    linear = torch.nn.Linear(8, 600)
    x = torch.randn(n_rows, 8)
    small = BFloat16Linear(linear)
    small.is_native = is_native
    torch.testing.assert_close(small(x), linear(x), rtol=0, atol=0.05)


def test_bfloat16_layers_round_inputs_only_where_they_are_told_to():
    linear = torch.nn.Linear(8, 600)
    x = torch.randn(3, 8)
    small = BFloat16Linear(linear)
    rounded = F.linear(x, small.weight.float(), linear.bias)
    small.is_native = False
    torch.testing.assert_close(small(x), rounded, rtol=0, atol=1e-5)
    small.is_native = True
    assert (small(x) - rounded).abs().max() > 1e-4


@pytest.mark.parametrize(
    "capabilities, is_native",
    [
        ({}, False),
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
    ],
)
def test_avx512_alone_does_not_multiply_bfloat16(
    monkeypatch, capabilities, is_native
):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: capabilities, raising=False
    )
    assert cpu_multiplies_bfloat16() is is_native
    assert BFloat16Linear(torch.nn.Linear(2, 2)).is_native is is_native


def test_an_older_torch_is_asked_what_it_knows(monkeypatch):
    name = "_is_avx512_bf16_supported"
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert cpu_multiplies_bfloat16()
    monkeypatch.delattr(torch.cpu, name)
    assert not cpu_multiplies_bfloat16()


def test_smaller_weights_are_smaller():
    def n_bytes(precision):
        sizes = {"hidden_size": 128, "intermediate_size": 512}
        lm = CosyVoice2LM({**TINY, **sizes}, speech_token_size=27)
        set_weight_precision(lm, precision)
        buffer = io.BytesIO()
        torch.save(lm.llm.layers.state_dict(), buffer)
        return buffer.tell()

    assert n_bytes("bf16") < 0.6 * n_bytes("fp32")
    assert n_bytes("int8") < 0.4 * n_bytes("fp32")


def test_refuses_an_unknown_precision():
    with pytest.raises(ValueError, match="'fp8'"):
        set_weight_precision(_tiny_lm(), "fp8")
