"""Fusions inside the language model: what they touch, and what they do not."""

from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.cosyvoice2.modulation import (
    ModulatedEmbeddings,
    Modulation,
    join,
)
from speechbrain_emofilm.lobes.cosyvoice2.sampling import GreedySampler
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    SpeechDecoding,
    Utterance,
)
from speechbrain_emofilm.lobes.deep_fusion import DeepFiLM, SteeringFusion
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    WordEmotionLoss,
    WordStyleEncoder,
)
from speechbrain_emofilm.utils.assets import find_file

import pytest
import torch

K, E, C, V, LAYERS = 5, 8, 16, 27, 4
QWEN2 = dict(
    vocab_size=40,
    hidden_size=C,
    intermediate_size=32,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.3,
)
FUSIONS = {
    "steering": lambda: SteeringFusion(E, C, depth=0.5, gain=1.0),
    "film_deep": lambda: DeepFiLM(E, C, depths=[0, 0.25, 0.75], bound=1.0),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def a_model(fusion, position="speech", **options):
    return EmotionConditionedLM(
        CosyVoice2LM(QWEN2, speech_token_size=V, **options),
        EFiLM(EmotionEncoder(K, dim=E), fusion),
        WordEmotionLoss(K, C, position),
    )


def wake(model):
    """Moves the vectors off zero, as training would."""
    for name, parameter in model.efilm.encoder.named_parameters():
        if name in ("vectors", "offsets", "output_layer.weight"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(params=FUSIONS)
def fusion(request):
    return FUSIONS[request.param]()


@pytest.fixture
def model(fusion):
    return wake(a_model(fusion)).eval()


@pytest.fixture
def batch():
    """Utterances of 6, 3 and 6 text tokens, 8, 6 and 4 speech tokens.

    The first word of the last one is unlabelled.
    """
    labelled = torch.ones(3, 3, 1)
    labelled[2, 0] = 0
    return ConditionedLMInputs(
        text_tokens=torch.randint(40, (3, 6)),
        text_lens=torch.tensor([1.0, 0.5, 1.0]),
        word_of_token=torch.tensor(
            [[0, 0, 1, 1, -1, 2], [0, 1, 2, 0, 0, 0], [-1, 0, 0, 1, 2, 2]]
        ),
        speech_tokens=torch.randint(V, (3, 8)),
        speech_lens=torch.tensor([1.0, 0.75, 0.5]),
        word_of_speech=torch.tensor([[-1, 0, 0, 1, 1, 2, 2, -1]] * 3),
        word_emotions=labelled
        * torch.eye(K)[torch.tensor([[1, 1, 2], [0, 3, 4], [0, 2, 2]])],
        word_intensity=torch.tensor(
            [[1.0, 0.5, 1.0], [0.7, 1.0, 1.0], [0.0, 1.0, 0.2]]
        ),
    )


def unlabelled(batch):
    return batch._replace(word_emotions=torch.zeros_like(batch.word_emotions))


def condition(model, batch):
    return model.condition(
        batch.text_tokens,
        batch.text_lens,
        batch.word_of_token,
        batch.word_emotions,
        batch.word_intensity,
    ).text_embeddings


def read(model, batch, text, **options):
    return model.llm(
        text,
        batch.text_lens,
        batch.speech_tokens,
        batch.speech_lens,
        **options,
    )


def states_entering(model, layer, run):
    """What the layer is given while ``run`` runs, packed, (N, C)."""
    seen = []
    norm = model.llm.llm.layers[layer].input_layernorm
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given))
    run()
    hook.remove()
    return seen[0][0][0]


# --- What is touched ---------------------------------------------------------


def test_every_label_is_the_identity_at_initialisation(fusion, batch):
    model = a_model(fusion).eval()
    out, plain = model(batch), model(unlabelled(batch))
    assert torch.equal(out.speech_loss, plain.speech_loss)
    assert out.modulation_ratio == 0


def test_only_states_of_labelled_words_change_where_they_are_modulated(
    model, batch
):
    with torch.no_grad():
        text = condition(model, batch)
        layer = min(text.by_layer(LAYERS))
        modulated, frozen = (
            states_entering(model, layer, lambda given=given: read(*given))
            for given in (
                (model, batch, text),
                (model, batch, model.llm.embed_text(batch.text_tokens)),
            )
        )
    changed = (modulated != frozen).any(-1)
    # sos, the text of each utterance, task and speech
    expected = []
    labelled = batch.word_emotions.any(-1)
    for item, (n_text, n_speech) in enumerate([(6, 8), (3, 6), (6, 4)]):
        words = batch.word_of_token[item, :n_text].tolist()
        said = [bool(w >= 0 and labelled[item, w]) for w in words]
        expected += [False, *said, False, *[False] * n_speech]
    assert changed.tolist() == expected


def test_states_of_unlabelled_words_are_untouched_to_the_bit_at_every_layer(
    model, batch
):
    text = condition(model, batch)
    still = torch.zeros(3, 6, dtype=torch.bool)
    still[0, 4] = still[2, 0] = still[2, 1:3] = still[1, 3:] = True
    for modulation in text.modulations.values():
        states = 100 * torch.randn(3, 6, C)
        changed = (modulation.apply(states) != states).any(-1)
        assert torch.equal(changed, ~still)


def test_a_text_without_labels_is_the_frozen_models_to_the_bit(model, batch):
    """Also within a batch, and in training, where gradients are needed."""
    plain = model.llm.embed_text(batch.text_tokens)
    frozen = read(model, batch, plain)
    training = condition(model, unlabelled(batch))
    assert isinstance(training, ModulatedEmbeddings)
    out = read(model, batch, training)
    assert torch.equal(out.logits, frozen.logits)
    emotions = batch.word_emotions.clone()
    emotions[1] = 0
    mixed = read(
        model, batch, condition(model, batch._replace(word_emotions=emotions))
    )
    assert torch.equal(mixed.hidden[1], frozen.hidden[1])
    assert not torch.equal(mixed.hidden[0], frozen.hidden[0])


def test_without_labels_nothing_is_computed_in_synthesis(model, batch):
    with torch.no_grad():
        text = condition(model, unlabelled(batch))
    assert torch.equal(text, model.llm.embed_text(batch.text_tokens))


def test_modulation_reaches_the_speech(model, batch):
    swapped = batch._replace(word_emotions=batch.word_emotions.flip(-1))
    assert model(batch).speech_loss != model(swapped).speech_loss


@pytest.mark.parametrize("offset", [False, True])
def test_steering_adds_the_emotions_vector_by_its_intensity(batch, offset):
    fusion = SteeringFusion(E, C, depth=0.5, gain=4.0, offset=offset)
    model = wake(a_model(fusion))
    text = condition(model, batch)
    (layer,) = text.by_layer(LAYERS)
    assert layer == 2
    states = torch.randn(3, 6, C)
    change = text.modulations[0.5].apply(states) - states
    unit = states.square().mean(-1, keepdim=True).sqrt()
    encoder = model.efilm.encoder
    vector = 0.5 * encoder.vectors[1]
    if offset:
        vector = vector + encoder.offsets[1]
    expected = unit[0, 2] * 4.0 * vector
    torch.testing.assert_close(change[0, 2], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(change[2, 1], torch.zeros(C))


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_deep_film_never_leaves_its_bounds(size):
    fusion = DeepFiLM(E, C, depths=[0, 0.5], bound=0.3)
    text = fusion(torch.randn(2, 6, C), size * torch.randn(2, 6, E))
    assert len(text.modulations) == 2
    for scale, shift in text.modulations.values():
        assert 0.1 < scale.abs().max() <= 0.3 + 1e-6
        assert 0.1 < shift.abs().max() <= 0.3 + 1e-6


def test_a_modulation_has_the_unit_of_the_state(model, batch):
    for modulation in condition(model, batch).modulations.values():
        states = torch.randn(3, 6, C)
        torch.testing.assert_close(
            modulation.apply(50 * states), 50 * modulation.apply(states)
        )


def test_a_text_of_zeros_has_finite_gradients(model, batch):
    text = condition(model, batch).map(torch.Tensor.detach)
    for modulation in text.modulations.values():
        states = torch.zeros(3, 6, C, requires_grad=True)
        modulation.apply(states).sum().backward()
        assert states.grad.isfinite().all()


@pytest.mark.parametrize("depths", [[1.0], [-0.1], [0.5, 1.5]])
def test_a_depth_that_no_layer_has_is_refused(depths):
    with pytest.raises(ValueError, match="DeepFiLM: a depth of.*below 1"):
        DeepFiLM(E, C, depths)
    with pytest.raises(ValueError, match="SteeringFusion: a depth of"):
        SteeringFusion(E, C, depths[-1])


@pytest.mark.parametrize("depths", [[], [0.5, 0.5]])
def test_each_depth_is_there_once(depths):
    with pytest.raises(ValueError, match="one or more, each once"):
        DeepFiLM(E, C, depths)


def test_depths_are_shares_of_any_number_of_layers():
    modulation = Modulation(None, torch.zeros(1, C))
    text = ModulatedEmbeddings(
        torch.zeros(1, C), dict.fromkeys([7 / 24, 0, 0.99], modulation)
    )
    assert sorted(text.by_layer(24)) == [0, 7, 23]
    assert sorted(text.by_layer(4)) == [0, 1, 3]
    assert len(text.by_layer(1)[0]) == 3


# --- Who learns --------------------------------------------------------------


def step(model, batch):
    model.train().zero_grad()
    out = model(batch)
    (out.speech_loss + out.emotion_loss).backward()
    learning = {
        name: bool(parameter.grad.any())
        for name, parameter in model.efilm.named_parameters()
    }
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return learning


def test_steering_learns_from_the_first_step(batch):
    model = a_model(SteeringFusion(E, C))
    assert all(step(model, batch).values())
    # of each emotion in the batch
    for parameter in model.efilm.encoder.parameters():
        assert parameter.any(-1).all()


def test_deep_film_learns_everywhere_from_the_second_step(batch):
    model = a_model(FUSIONS["film_deep"]())
    learning = step(model, batch)
    assert learning["encoder.output_layer.weight"]
    assert not any(v for k, v in learning.items() if k.startswith("fusion"))
    assert all(step(model, batch).values())


def test_a_batch_without_labels_gives_every_parameter_a_gradient(fusion, batch):
    """DistributedDataParallel waits for each of them."""
    model = a_model(fusion).train()
    out = model(unlabelled(batch))
    (out.speech_loss + out.emotion_loss).backward()
    assert all(
        p.grad is not None for p in model.parameters() if p.requires_grad
    )


def test_the_frozen_language_model_never_changes(fusion, batch):
    model = a_model(fusion)
    before = {k: v.clone() for k, v in model.llm.llm.state_dict().items()}
    for _ in range(2):
        step(model, batch)
    for name, value in model.llm.llm.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_paper_loss_at_the_input_reads_the_modulations(fusion, batch):
    model = wake(a_model(fusion, position="input"))
    model(batch).emotion_loss.backward()
    assert all(p.grad.any() for p in model.efilm.fusion.parameters())
    assert any(p.grad.any() for p in model.efilm.encoder.parameters())


def test_steering_refuses_axes():
    encoder = WordStyleEncoder(K, dim=E, axes=["pitch"])
    with pytest.raises(ValueError, match="no vectors for the axes pitch"):
        EFiLM(encoder, SteeringFusion(E, C))


def test_the_modulation_ratio_of_steering_is_the_size_of_its_vectors(batch):
    model = wake(a_model(SteeringFusion(E, C))).eval()
    sizes = []
    for item, words in enumerate([[0, 0, 1, 1, 2], [0, 1, 2], [1, 2, 2]]):
        for word in words:
            emotion = batch.word_emotions[item, word].argmax()
            vector = model.efilm.encoder.vectors[emotion]
            vector = 10 * batch.word_intensity[item, word] * vector
            sizes.append(vector.square().mean().sqrt().item())
    expected = sum(sizes) / len(sizes)
    ratio = model(batch).modulation_ratio
    assert ratio.item() == pytest.approx(expected, rel=1e-3)
    assert not ratio.requires_grad
    assert model(unlabelled(batch)).modulation_ratio == 0


def test_bf16_autocast_leaves_unlabelled_words_alone(fusion, batch):
    model = wake(a_model(fusion))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(batch)
        (out.speech_loss + out.emotion_loss).backward()
        text, plain = condition(model, unlabelled(batch)), batch
        frozen = read(model, plain, model.llm.embed_text(batch.text_tokens))
        assert torch.equal(read(model, plain, text).logits, frozen.logits)
    assert out.speech_loss.isfinite()
    assert any(p.grad.any() for p in model.efilm.encoder.parameters())


# --- One mechanism, whole or step by step ------------------------------------


@pytest.mark.parametrize("bistream", [0.0, 1.0])
def test_an_utterance_is_read_alike_in_any_batch_and_padding(
    model, batch, bistream
):
    model.llm.mix_ratio = (1, 2)
    with torch.no_grad():
        text = condition(model, batch)
        out = read(model, batch, text, bistream_probability=bistream)
        for item, (n_text, n_speech) in enumerate([(6, 8), (3, 6), (6, 4)]):
            alone = model.llm(
                text[item : item + 1, :n_text],
                torch.ones(1),
                batch.speech_tokens[item : item + 1, :n_speech],
                torch.ones(1),
                bistream_probability=bistream,
            )
            torch.testing.assert_close(
                out.hidden[item, : n_speech + 1], alone.hidden[0]
            )


def test_prompts_are_not_modulated(model, batch):
    class Prompt:
        text_tokens = torch.tensor([3, 4])
        speech_tokens = torch.tensor([5, 6, 7])

    longer = batch.behind([Prompt, None, Prompt])
    text = condition(model, longer)
    for modulation in text.modulations.values():
        assert not modulation.shift[[0, 2], :2].any()
        assert modulation.shift[0, 2].any()
    assert model(longer).speech_loss.isfinite()


def test_attention_weights_are_those_of_the_same_states(fusion, batch):
    model = wake(a_model(fusion, attn_implementation="eager")).eval()
    with torch.no_grad():
        text = condition(model, batch)
        fast = read(model, batch, text)
        slow = read(model, batch, text, output_attentions=True)
    torch.testing.assert_close(slow.hidden, fast.hidden)
    assert len(slow.attentions) == LAYERS


def make_utterances(model, batch):
    """With and without labels, guidance and prompt; one of another fusion."""
    with torch.no_grad():
        text = condition(model, batch)
        plain = model.llm.embed_text(batch.text_tokens)
        shift = Modulation(None, torch.randn(6, C))
        other = ModulatedEmbeddings(plain[0], {0.5: shift})
    prompt = batch.speech_tokens[0, :5]
    return [
        Utterance(0, text[0], 12, prompt_tokens=prompt, seed=1),
        Utterance(1, plain[1, :3], 9, unconditional=plain[1, :3], guidance=2.0),
        Utterance(
            2, text[1, :3], 10, 4, unconditional=plain[1, :3], guidance=2.0
        ),
        Utterance(3, text[2], 7, 7, prompt_tokens=prompt[:2], seed=5),
        Utterance(4, other, 8, unconditional=plain[0], guidance=0.5),
    ]


def speak(model, utterances, **options):
    decoding = SpeechDecoding(model.llm, **options)
    decoding.join(utterances)
    drawn = {utterance.key: [] for utterance in utterances}
    while len(decoding):
        for item in decoding.step():
            drawn[item.key].append(item)
    return drawn


@pytest.mark.parametrize("max_rows", [None, 1, 2, 3])
def test_an_utterance_speaks_the_same_in_any_company(model, batch, max_rows):
    utterances = make_utterances(model, batch)
    together = speak(model, utterances, max_rows=max_rows)
    for utterance in utterances:
        alone = speak(model, [utterance])[utterance.key]
        for one, other in zip(alone, together[utterance.key], strict=True):
            assert one.token == other.token
            torch.testing.assert_close(one.hidden, other.hidden)


@pytest.mark.parametrize("n_prompt", [0, 3])
def test_states_of_decoding_are_those_of_training(model, batch, n_prompt):
    with torch.no_grad():
        text = condition(model, batch)[0]
    prompt = batch.speech_tokens[0, :n_prompt]
    utterance = Utterance(0, text, 10, 10, prompt_tokens=prompt)
    drawn = speak(model, [utterance])[0]
    tokens = [*prompt.tolist(), *(item.token for item in drawn)]
    with torch.no_grad():
        whole = model.llm(
            text[None], torch.ones(1), torch.tensor([tokens]), torch.ones(1)
        )
    torch.testing.assert_close(
        torch.stack([item.hidden for item in drawn]).clone(),
        whole.hidden[0, n_prompt:-1],
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_guidance_of_zero_is_the_frozen_model(model, batch):
    with torch.no_grad():
        text = condition(model, batch)
    plain = model.llm.embed_text(batch.text_tokens)
    options = dict(max_ratio=4.0, seeds=[3, 4, 5])
    guided = model.llm.generate(
        text,
        batch.text_lens,
        unconditional_embeddings=plain,
        guidance=0.0,
        **options,
    )
    frozen = model.llm.generate(plain, batch.text_lens, **options)
    labelled = model.llm.generate(text, batch.text_lens, **options)
    assert [t.tolist() for t in guided] == [t.tolist() for t in frozen]
    assert [t.tolist() for t in labelled] != [t.tolist() for t in frozen]


@pytest.mark.parametrize("n_prompt", [0, 4])
@pytest.mark.parametrize("cuts", [[6], [1, 3, 2], [1] * 6])
def test_a_growing_text_is_spoken_as_in_the_layout_of_training(
    model, batch, n_prompt, cuts
):
    lm = model.llm
    lm.mix_ratio = (2, 3)
    with torch.no_grad():
        lm.llm_decoder.bias[lm.end_id :] -= 100.0
        text = condition(model, batch)[:1]
    ends = torch.tensor(cuts).cumsum(0).tolist()
    pieces = [text[:, end - n : end] for n, end in zip(cuts, ends)]
    prompt = batch.speech_tokens[:1, :n_prompt]
    tokens = list(
        lm.generate_stream(
            pieces, prompt, sampler=GreedySampler(), max_ratio=4.0
        )
    )
    spoken = [*prompt[0].tolist(), *tokens]
    with torch.no_grad():
        out = lm(
            text,
            torch.ones(1),
            torch.tensor([spoken]),
            torch.ones(1),
            bistream_probability=1.0,
        )
    assert (out.targets == lm.fill_id).sum() == 3
    best = out.logits[out.targets != lm.fill_id, : lm.end_id].argmax(-1)
    assert tokens == best[n_prompt : len(spoken)].tolist()


@pytest.mark.parametrize("guidance, same_as", [(1.0, 0), (0.0, 1)])
def test_a_guided_growing_text_has_a_variant_without_modulation(
    model, batch, guidance, same_as
):
    lm = model.llm
    lm.mix_ratio = (2, 3)
    with torch.no_grad():
        text = condition(model, batch)[:1]
    variants = [text, lm.embed_text(batch.text_tokens[:1])]
    pieces = [tuple(v[:, i : i + 2] for v in variants) for i in (0, 2, 4)]
    options = dict(max_ratio=4.0, seed=3)
    tokens = list(lm.generate_stream(pieces, guidance=guidance, **options))
    alone = lm.generate_stream([variants[same_as]], **options)
    assert tokens == list(alone)


def test_join_keeps_each_part():
    scale, shift = torch.randn(3, C), torch.randn(3, C)
    first = ModulatedEmbeddings(
        torch.randn(1, C), {0.5: Modulation(None, shift[:1])}
    )
    second = ModulatedEmbeddings(
        torch.randn(3, C),
        {0.5: Modulation(scale, shift), 0: Modulation(None, shift)},
    )
    joined = join([torch.randn(2, C), first, second], 0)
    assert joined.shape == (6, C)
    assert torch.equal(joined.embeddings[3:], second.embeddings)
    middle = joined.modulations[0.5]
    assert torch.equal(middle.shift[2:], torch.cat([shift[:1], shift]))
    assert torch.equal(middle.scale[3:], scale)
    assert not middle.scale[:3].any() and not middle.shift[:2].any()
    assert joined.modulations[0].scale is None
    assert not joined.modulations[0].shift[:3].any()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_step_at_cosyvoice2s_width(name, batch):
    """Two of its 24 layers, with random weights and its paper's loss."""
    width = dict(
        vocab_size=40,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=2,
        num_attention_heads=14,
        num_key_value_heads=2,
        rope_theta=1e6,
    )
    fusion = {
        "steering": SteeringFusion(896, 896),
        "film_deep": DeepFiLM(896, 896, bound=1.0),
    }[name]
    model = EmotionConditionedLM(
        CosyVoice2LM(width, speech_token_size=6561),
        EFiLM(EmotionEncoder(K, dim=896), fusion),
        WordEmotionLoss(K, 896, "input"),
    )
    for _ in range(2):
        learning = step(model, batch)
    assert all(learning.values())
    assert model(batch).modulation_ratio > 0


# --- The synthesizer ---------------------------------------------------------


@pytest.fixture(params=FUSIONS)
def synthesizer(request):
    """The shipped model with random vectors in a fusion of the layers."""
    folder = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
    synthesizer = EmoFiLMSynthesizer.from_hparams(folder.parent)
    fusion = {
        "steering": SteeringFusion(64, 192, gain=0.2),
        "film_deep": DeepFiLM(64, 192, bound=0.2),
    }[request.param]
    encoder = EmotionEncoder(len(synthesizer.emotions), dim=64)
    synthesizer.mods.emofilm.efilm = EFiLM(encoder, fusion)
    wake(synthesizer.mods.emofilm)
    return synthesizer


def test_texts_are_spoken_whole_in_batches_and_as_a_stream(synthesizer):
    text, plain = (
        "<happy>We won!</happy> <sad>He left.</sad>",
        "We won! He left.",
    )
    alone, unmarked = (synthesizer.synthesize(t) for t in (text, plain))
    both = synthesizer.synthesize([text, plain], guidance=1.5)
    guided = synthesizer.synthesize(text, guidance=1.5)
    assert torch.equal(both[0].speech_tokens, guided.speech_tokens)
    assert torch.equal(both[1].speech_tokens, unmarked.speech_tokens)
    assert alone.speech_tokens.tolist() != unmarked.speech_tokens.tolist()
    chunks = [chunk.wav for chunk in synthesizer.stream(text)]
    assert torch.allclose(torch.cat(chunks), alone.wav, atol=1e-3)


def test_words_in_pieces_are_modulated_as_in_the_whole(
    synthesizer, monkeypatch
):
    monkeypatch.setattr(synthesizer, "reads_pieces", True)
    lm, read = synthesizer.mods.emofilm.llm, []

    def record(texts, *args, **kwargs):
        read.append(join([join(variants, 0) for variants in texts], 1))
        return iter([7] * 30)

    monkeypatch.setattr(lm, "generate_stream", record)
    text = "<happy>We won!</happy> But <sad>he left.</sad>"
    pieces = [text[start : start + 3] for start in range(0, len(text), 3)]
    list(synthesizer.stream(iter(pieces), guidance=1.5))
    (piece,) = synthesizer.plan(text)
    prompt = synthesizer.prompt("0011", None, None)
    whole = synthesizer._lm_inputs([piece], [prompt], 1.5)
    (grown,) = read
    expected = whole["text_embeddings"]
    assert torch.equal(grown.embeddings[:1], expected.embeddings)
    for depth, modulation in expected.modulations.items():
        conditional = grown.modulations[depth].shift[:1]
        torch.testing.assert_close(conditional, modulation.shift)
        assert not grown.modulations[depth].shift[1:].any()
