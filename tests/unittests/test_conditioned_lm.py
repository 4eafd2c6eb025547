"""EmotionConditionedLM: what is trained, on what, and its random draws."""

from speechbrain_emofilm.lobes.conditioned_lm import (
    ConditionedLMInputs,
    EmotionConditionedLM,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.lobes.efilm import (
    EFiLM,
    EmotionEncoder,
    FiLM,
    NoFusion,
    WordEmotionLoss,
    WordStyleEncoder,
)

import pytest
import torch
import torch.nn.functional as F

K, E, C, V = 5, 8, 16, 27
QWEN2 = dict(
    vocab_size=40,
    hidden_size=C,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def a_model(position="speech", fusion=None, **options):
    return EmotionConditionedLM(
        CosyVoice2LM(QWEN2, speech_token_size=V),
        EFiLM(EmotionEncoder(K, dim=E), fusion or FiLM(E, C)),
        WordEmotionLoss(K, C, position=position),
        **options,
    )


def wake(model):
    """Moves the encoder off zero, as training would."""
    torch.nn.init.normal_(model.efilm.encoder.output_layer.weight)
    return model


@pytest.fixture
def batch():
    """Three utterances of 6, 3 and 6 text tokens, 8, 6 and 4 speech tokens.

    The padding of the word indices is 0, as SpeechBrain's batches pad.
    """
    return ConditionedLMInputs(
        text_tokens=torch.randint(40, (3, 6)),
        text_lens=torch.tensor([1.0, 0.5, 1.0]),
        word_of_token=torch.tensor(
            [[0, 0, 1, 1, -1, 2], [0, 1, 2, 0, 0, 0], [-1, 0, 0, 1, 2, 2]]
        ),
        speech_tokens=torch.randint(V, (3, 8)),
        speech_lens=torch.tensor([1.0, 0.75, 0.5]),
        word_of_speech=torch.tensor(
            [
                [-1, 0, 0, 1, 1, 2, 2, -1],
                [0, 0, 1, 1, 2, -1, 0, 0],
                [0, 1, 2, 2, 0, 0, 0, 0],
            ]
        ),
        # the first word of the last utterance is unlabelled
        word_emotions=torch.eye(K)[
            torch.tensor([[1, 1, 2], [0, 3, 4], [0, 2, 2]])
        ]
        * torch.tensor([[1, 1, 1], [1, 1, 1], [0, 1, 1]]).unsqueeze(-1),
        word_intensity=torch.tensor(
            [[1.0, 0.5, 1.0], [0.0, 1.0, 1.0], [0.0, 1.0, 0.2]]
        ),
    )


def condition(model, batch):
    return model.condition(
        batch.text_tokens,
        batch.text_lens,
        batch.word_of_token,
        batch.word_emotions,
        batch.word_intensity,
    )


def step(model, batch, loss=lambda out: out.speech_loss + out.emotion_loss):
    """One optimiser step on all that requires gradients; returns the loss."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.grad = None
    value = loss(model(batch))
    value.backward()
    with torch.no_grad():
        for parameter in trainable:
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    return value.item()


def learns(module):
    return any(
        p.grad is not None and bool(p.grad.any()) for p in module.parameters()
    )


def spy_history(model):
    """Collects the history of every pass of the language model."""
    histories = []
    model.llm.register_forward_pre_hook(
        lambda module, args, kwargs: histories.append(kwargs["history"]),
        with_kwargs=True,
    )
    return histories


def spy_labels(model):
    """Collects the word emotions of every pass of the encoder."""
    labels = []
    model.efilm.encoder.register_forward_pre_hook(
        lambda module, args: labels.append(args[0])
    )
    return labels


def test_counts_are_those_of_the_supervised_and_of_the_labelled_positions(
    batch,
):
    out = a_model()(batch)
    assert out.n_speech == (8 + 1) + (6 + 1) + (4 + 1)
    assert out.n_emotion == 6 + 5 + 3
    assert all(value.dim() == 0 for value in vars(out).values())


def test_counts_at_the_input_are_those_of_the_labelled_text_tokens(batch):
    assert a_model("input")(batch).n_emotion == 5 + 3 + 3


def test_losses_do_not_read_word_indices_in_the_padding(batch):
    model = wake(a_model())
    before = model(batch)
    batch.word_of_token[1, 3:] = 2
    batch.word_of_speech[1, 6:] = 1
    batch.word_of_speech[2, 4:] = -1
    after = model(batch)
    assert vars(before) == vars(after)


def test_labels_change_nothing_before_training(batch):
    model = a_model()
    labelled = model(batch)
    unlabelled = model(batch._replace(word_emotions=torch.zeros(3, 3, K)))
    assert torch.equal(labelled.speech_loss, unlabelled.speech_loss)


def test_speech_loss_is_the_language_models_on_the_conditioned_text(batch):
    model = wake(a_model())
    lm_out = model.llm(
        condition(model, batch).text_embeddings,
        batch.text_lens,
        batch.speech_tokens,
        batch.speech_lens,
    )
    out = model(batch)
    torch.testing.assert_close(
        out.speech_loss, F.cross_entropy(lm_out.logits, lm_out.targets)
    )
    accuracy = (lm_out.logits.argmax(-1) == lm_out.targets).float().mean()
    assert out.speech_accuracy == accuracy
    assert out.modulation_ratio > 0


def test_only_efilm_speech_head_and_classifier_are_trainable():
    trainable = {
        name.split(".weight")[0].split(".bias")[0]
        for name, parameter in a_model().named_parameters()
        if parameter.requires_grad
    }
    assert trainable == {
        "efilm.encoder.input_layer",
        "efilm.encoder.output_layer",
        "efilm.fusion.gamma",
        "efilm.fusion.beta",
        "llm.llm_decoder",
        "emotion_loss.classifier",
    }


def test_a_checkpoint_of_the_trained_parts_holds_no_frozen_weight():
    model = a_model()
    parts = [model.efilm, model.llm.llm_decoder, model.emotion_loss]
    saved = sum(
        tensor.numel()
        for part in parts
        for tensor in part.state_dict().values()
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert saved == trainable


def test_encoder_learns_from_the_first_step_and_fusion_from_the_second(batch):
    model = a_model()
    step(model, batch)
    assert learns(model.efilm.encoder)
    assert not learns(model.efilm.fusion)
    assert learns(model.llm.llm_decoder)
    assert learns(model.emotion_loss.classifier)
    step(model, batch)
    assert learns(model.efilm.encoder)
    assert learns(model.efilm.fusion)


@pytest.mark.parametrize("position", ["speech", "input"])
def test_emotion_loss_alone_reaches_the_encoder_but_not_the_speech_head(
    position, batch
):
    model = a_model(position)
    step(model, batch, loss=lambda out: out.emotion_loss)
    assert learns(model.efilm.encoder)
    assert not learns(model.llm.llm_decoder)


def test_the_frozen_language_model_never_changes(batch):
    model = a_model().train()
    before = {
        name: tensor.clone()
        for name, tensor in model.llm.state_dict().items()
        if not name.startswith("llm_decoder")
    }
    for _ in range(3):
        step(model, batch)
    after = model.llm.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not learns(model.llm.llm)


def test_emotion_loss_at_speech_depends_on_the_speech_and_at_input_does_not(
    batch,
):
    other = batch._replace(speech_tokens=batch.speech_tokens.flip(1))
    for position, depends in [("speech", True), ("input", False)]:
        model = wake(a_model(position))
        one, two = model(batch).emotion_loss, model(other).emotion_loss
        assert (one != two) == depends


def test_a_speech_position_is_classified_before_its_token_is_known(batch):
    """hidden[:, t] has read the tokens before t alone."""
    model = wake(a_model())
    batch.word_of_speech.fill_(-1)
    batch.word_of_speech[0, 7] = 2
    loss = model(batch).emotion_loss
    batch.speech_tokens[0, 7] += 1
    torch.testing.assert_close(model(batch).emotion_loss, loss)
    batch.speech_tokens[0, 6] += 1
    assert not torch.isclose(model(batch).emotion_loss, loss)


def test_a_batch_without_labels_gives_zero_emotion_loss(batch):
    model = wake(a_model())
    batch.word_emotions.zero_()
    out = model(batch)
    (out.speech_loss + out.emotion_loss).backward()
    assert out.emotion_loss == 0
    assert out.emotion_accuracy == 0
    assert out.n_emotion == 0
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.parameters()
        if p.requires_grad
    )


def test_without_emotion_loss_its_fields_are_zero(batch):
    model = a_model()
    model.emotion_loss = None
    out = model(batch)
    assert (out.emotion_loss, out.emotion_accuracy, out.n_emotion) == (0, 0, 0)
    step(model, batch)
    assert learns(model.efilm.encoder)


def test_every_trainable_parameter_gets_a_gradient_with_no_fusion(batch):
    """Or DistributedDataParallel would stop at the second step."""
    model = a_model(fusion=NoFusion(E, C))
    step(model, batch)
    assert all(
        p.grad is not None for p in model.parameters() if p.requires_grad
    )


def test_history_is_corrupted_in_training_only(batch):
    model = a_model(history_corruption=0.5)
    histories = spy_history(model)
    model.eval()(batch)
    model.train()(batch)
    assert histories[0] is None
    assert not torch.equal(histories[1], batch.speech_tokens)


def test_corrupt_history_has_tokens_of_the_batch_and_leaves_the_targets(batch):
    tokens = [
        [1, 2, 3, 1, 2, 3, 1, 2],
        [3] * 6 + [9] * 2,
        [1, 2, 3, 1] + [9] * 4,
    ]
    batch = batch._replace(speech_tokens=torch.tensor(tokens))
    model = a_model(history_corruption=1.0).train()
    histories = spy_history(model)
    targets = []
    model.llm.register_forward_hook(
        lambda module, args, out: targets.append(out.targets)
    )
    model(batch)
    assert set(histories[0][0].tolist()) <= {1, 2, 3}
    assert histories[0][1, 6:].tolist() == [9, 9]  # padding stays
    assert not torch.equal(histories[0], batch.speech_tokens)
    assert targets[0][:9].tolist() == [1, 2, 3, 1, 2, 3, 1, 2, V]


def test_history_corruption_takes_its_share():
    model = a_model(history_corruption=0.4).train()
    tokens = torch.arange(20000).reshape(2, -1)  # a draw is a change
    history = model._corrupt(tokens, torch.ones(2))
    share = (history != tokens).float().mean()
    assert share.item() == pytest.approx(0.4, abs=0.02)


def test_condition_dropout_takes_all_labels_of_an_utterance_in_training_only(
    batch,
):
    model = a_model(condition_dropout=0.5)
    labels = spy_labels(model)
    model.eval()(batch)
    assert torch.equal(labels.pop(), batch.word_emotions)
    kept = []
    model.train()
    for _ in range(20):
        model(batch)
        for given, left in zip(batch.word_emotions, labels.pop()):
            assert torch.equal(left, given) or not left.any()
            kept.append(bool(left.any()))
    assert 0.3 < sum(kept) / len(kept) < 0.7


def test_dropped_labels_are_neither_modulated_nor_classified(batch):
    model = wake(a_model(condition_dropout=1.0))
    out = model.train()(batch)
    assert (out.modulation_ratio, out.n_emotion, out.emotion_loss) == (0, 0, 0)
    out = model.eval()(batch)
    assert out.modulation_ratio > 0
    assert out.n_emotion == 14


def test_what_training_does_at_random_follows_torchs_seed(batch):
    model = wake(a_model(history_corruption=0.5, condition_dropout=0.5))
    model.train()

    def losses(seed):
        torch.manual_seed(seed)
        out = model(batch)
        return out.speech_loss.item(), out.emotion_loss.item()

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("name", ["history_corruption", "condition_dropout"])
def test_a_share_outside_0_to_1_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 1.5.*0 to 1"):
        a_model(**{name: 1.5})


def test_the_model_learns_to_speak_the_same_words_as_their_labels_say():
    """Two utterances differ in labels and speech alone."""
    model = a_model(history_corruption=0.5).train()
    labels = torch.eye(K)[torch.tensor([[1, 1], [2, 2]])]
    batch = ConditionedLMInputs(
        text_tokens=torch.tensor([[3, 4, 5, 6]] * 2),
        text_lens=torch.ones(2),
        word_of_token=torch.tensor([[0, 0, 1, 1]] * 2),
        speech_tokens=torch.tensor([[5, 6] * 4, [7, 8] * 4]),
        speech_lens=torch.ones(2),
        word_of_speech=torch.tensor([[0] * 4 + [1] * 4] * 2),
        word_emotions=labels,
        word_intensity=torch.ones(2, 2),
    )
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], lr=0.02
    )
    for _ in range(60):
        out = model(batch)
        optimizer.zero_grad()
        (out.speech_loss + 0.1 * out.emotion_loss).backward()
        optimizer.step()
    model.eval()
    as_labelled = model(batch).speech_loss
    swapped = model(batch._replace(word_emotions=labels.flip(0))).speech_loss
    assert swapped > as_labelled + 0.5


def test_the_condition_is_what_generation_speaks(batch):
    model = wake(a_model()).eval()
    tokens = model.llm.generate(
        condition(model, batch).text_embeddings,
        batch.text_lens,
        unconditional_embeddings=model.llm.embed_text(batch.text_tokens),
        guidance=1.5,
        max_ratio=3.0,
        seeds=[0, 1, 2],
    )
    assert len(tokens) == 3
    assert all((0 <= item).all() and (item < V).all() for item in tokens)


# --- Prosody of words --------------------------------------------------------


def with_axes(batch):
    """The batch with the pitch and the pace of some words."""
    axes = torch.arange(18.0).view(3, 3, 2) - 9
    axes[0, 1] = axes[2, :, 1] = float("nan")
    return batch._replace(word_axes=axes)


def a_model_with_axes(**options):
    """A model that has learned something of its axes."""
    model = wake(a_model(**options))
    encoder = WordStyleEncoder(
        K,
        dim=E,
        axes=["pitch", "pace"],
        axis_dropout=0.0,
        all_axes_dropout=0.0,
        emotion_dropout=1.0,
        intensity_dropout=0.0,
    )
    encoder.output_layer.load_state_dict(
        model.efilm.encoder.output_layer.state_dict()
    )
    model.efilm.encoder = encoder
    return model


def test_axes_reach_the_speech_behind_prompts_too(batch):
    model = a_model_with_axes().eval()
    without, asked = model(batch), model(with_axes(batch))
    assert asked.speech_loss != without.speech_loss
    prompted = with_axes(batch).behind([None] * 3)
    assert torch.equal(model(prompted).speech_loss, asked.speech_loss)


def test_words_whose_emotion_is_dropped_for_axes_have_no_emotion_loss(batch):
    model = a_model_with_axes()
    n_labelled = int(model(batch).n_emotion)
    out = model.train()(with_axes(batch))
    # Left are the words without any axis: one, of two speech tokens.
    assert n_labelled > int(out.n_emotion) == 2
    assert int(model.eval()(with_axes(batch)).n_emotion) == n_labelled


def test_dropped_conditions_drop_the_axes_too(batch):
    model = a_model_with_axes(condition_dropout=1.0)
    out = model.train()(with_axes(batch))
    assert out.modulation_ratio == 0 and out.n_emotion == 0
