"""E-FiLM: what a fusion may do to a text, and who learns from which loss."""

import math

from speechbrain_emofilm.lobes.efilm import (
    AdditiveFusion,
    ConcatenationFusion,
    EFiLM,
    EmotionEncoder,
    FiLM,
    NoFusion,
    WordEmotionLoss,
    WordStyleEncoder,
    is_labelled,
)

import pytest
import torch

K, E, C = 5, 8, 16
FUSIONS = [FiLM, AdditiveFusion, ConcatenationFusion, NoFusion]
LEARNING_FUSIONS = FUSIONS[:3]
# Words: angry at 0.4, unlabelled, a mixture. Tokens: one of no word.
WORD_EMOTIONS = torch.tensor(
    [[[0.0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0.7, 0.3, 0]]]
)
WORD_INTENSITY = torch.tensor([[0.4, 0.0, 1.0]])
WORD_OF_TOKEN = torch.tensor([[0, 0, -1, 1, 1, 2]])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def text():
    return torch.randn(1, 6, C)


def an_efilm(fusion_class=FiLM, **options):
    return EFiLM(EmotionEncoder(K, dim=E), fusion_class(E, C, **options))


def train(efilm, text, n_steps=5):
    """Steps towards an arbitrary target, which move everything they can."""
    optimizer = torch.optim.Adam(efilm.parameters(), lr=0.05)
    for _ in range(n_steps):
        out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
        loss = (out.text_embeddings - text - 1.0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def has_gradient(module):
    return [
        parameter.grad is not None and bool(parameter.grad.any())
        for parameter in module.parameters()
    ]


@pytest.mark.parametrize("fusion_class", FUSIONS)
def test_every_label_is_the_identity_at_initialisation(fusion_class):
    efilm = an_efilm(fusion_class)
    word_emotions = torch.rand(3, 4, K).softmax(-1)
    word_of_token = torch.randint(-1, 4, (3, 7))
    text = torch.randn(3, 7, C)
    out = efilm(text, word_of_token, word_emotions, torch.rand(3, 4))
    assert torch.equal(out.text_embeddings, text)
    assert out.modulation_ratio == 0


@pytest.mark.parametrize("fusion_class", LEARNING_FUSIONS)
def test_training_changes_labelled_words_and_no_other_token(fusion_class, text):
    efilm = an_efilm(fusion_class)
    train(efilm, text)
    out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
    changed = (out.text_embeddings != text).any(-1)
    assert changed.tolist() == [[True, True, False, False, False, True]]


def test_no_fusion_never_changes_the_text_but_keeps_the_encoder_in_the_graph(
    text,
):
    efilm = an_efilm(NoFusion)
    train(efilm, text)
    out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
    assert torch.equal(out.text_embeddings, text)
    # DistributedDataParallel needs a gradient, if zero, of each parameter
    assert all(p.grad is not None for p in efilm.parameters())


def test_each_token_gets_the_emotion_of_its_own_word(text):
    efilm = an_efilm(AdditiveFusion)
    train(efilm, text)
    emotion = efilm.encoder(WORD_EMOTIONS, WORD_INTENSITY)
    out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
    for token, word in enumerate(WORD_OF_TOKEN[0].tolist()):
        expected = text[0, token]
        if word >= 0:
            expected = expected + efilm.fusion.shift(emotion[0, word])
        torch.testing.assert_close(out.text_embeddings[0, token], expected)


def test_encoder_gives_zero_for_unlabelled_words_whatever_their_intensity(text):
    efilm = an_efilm()
    train(efilm, text)
    emotion = efilm.encoder(torch.zeros(1, 2, K), torch.tensor([[0.0, 1.0]]))
    assert torch.equal(emotion, torch.zeros(1, 2, E))


def test_encoder_tells_classes_mixtures_and_intensities_apart(text):
    efilm = an_efilm()
    train(efilm, text)
    pure = torch.eye(K)[None, 1:4]
    mixture = (pure[:, :1] + pure[:, 1:2]) / 2
    word_emotions = torch.cat([pure, mixture, pure[:, :1]], 1)
    intensity = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]])
    emotion = efilm.encoder(word_emotions, intensity)[0]
    distances = torch.cdist(emotion, emotion) + torch.eye(len(emotion))
    assert distances.min() > 1e-3


def test_intensity_learnt_at_its_ends_is_monotone_between_them():
    """Only 0 and 1 are trained on; the levels between are interpolated."""
    efilm = EFiLM(EmotionEncoder(K, dim=E), AdditiveFusion(E, 1))
    optimizer = torch.optim.Adam(efilm.parameters(), lr=0.01)

    def shift(intensity):
        n_words = len(intensity)
        words = torch.eye(K)[1].expand(1, n_words, K)
        out = efilm(
            torch.zeros(1, n_words, 1),
            torch.arange(n_words)[None],
            words,
            intensity[None],
        )
        return out.text_embeddings[0, :, 0]

    ends = torch.tensor([0.0, 1.0])
    for _ in range(200):
        loss = (shift(ends) - ends).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    levels = shift(torch.linspace(0, 1, 11)).detach()
    assert loss < 1e-3
    assert (levels.diff() > 0).all()


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_film_never_leaves_its_bounds(size):
    film = FiLM(E, C, bound=0.3, text_scale=0.05)
    emotion = size * torch.randn(1, 50, E)
    beta = film(torch.zeros(1, 50, C), emotion)
    gamma = film(torch.ones(1, 50, C), emotion) - beta
    assert beta.abs().max() <= 0.3 * 0.05 + 1e-6
    assert (gamma - 1).abs().max() <= 0.3 + 1e-6
    assert beta.abs().max() > 0.1 * 0.05


def test_a_small_modulation_does_not_feel_the_bound():
    bounded = FiLM(E, C, bound=1.0)
    unbounded = FiLM(E, C)
    unbounded.load_state_dict(bounded.state_dict())
    text, emotion = torch.randn(1, 4, C), 1e-3 * torch.randn(1, 4, E)
    torch.testing.assert_close(
        bounded(text, emotion), unbounded(text, emotion), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("bound", [0, -1.0])
def test_a_bound_that_forbids_everything_is_refused(bound):
    with pytest.raises(ValueError, match="bound.*above 0"):
        FiLM(E, C, bound=bound)


@pytest.mark.parametrize("fusion_class", LEARNING_FUSIONS)
def test_text_scale_makes_a_fusion_independent_of_the_unit(fusion_class):
    small = fusion_class(E, C, text_scale=0.01)
    unit = fusion_class(E, C)
    unit.load_state_dict(small.state_dict())
    text, emotion = torch.randn(1, 4, C), torch.randn(1, 4, E)
    torch.testing.assert_close(
        small(0.01 * text, emotion), 0.01 * unit(text, emotion)
    )


@pytest.mark.parametrize("fusion_class", LEARNING_FUSIONS)
def test_encoder_learns_from_the_first_step_and_fusion_from_the_second(
    fusion_class, text
):
    efilm = an_efilm(fusion_class)
    train(efilm, text, n_steps=1)
    assert any(has_gradient(efilm.encoder))
    assert not any(has_gradient(efilm.fusion))
    train(efilm, text, n_steps=1)
    assert all(has_gradient(efilm.encoder))
    assert any(has_gradient(efilm.fusion))


def test_modulation_ratio_is_the_mean_over_labelled_tokens(text):
    efilm = an_efilm()
    train(efilm, text)
    out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
    ratios = [
        ((out.text_embeddings - text)[0, t].norm() / text[0, t].norm()).item()
        for t in (0, 1, 5)
    ]
    assert out.modulation_ratio.item() == pytest.approx(sum(ratios) / 3)
    assert not out.modulation_ratio.requires_grad


def test_modulation_ratio_of_an_unlabelled_text_is_zero(text):
    out = an_efilm()(
        text, WORD_OF_TOKEN, torch.zeros(1, 3, K), torch.zeros(1, 3)
    )
    assert out.modulation_ratio == 0


def test_efilm_works_under_bf16_autocast(text):
    efilm = an_efilm()
    with torch.autocast("cpu", torch.bfloat16):
        train(efilm, text)
        out = efilm(text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY)
    assert out.text_embeddings.isfinite().all()
    assert torch.equal(out.text_embeddings[0, 2:5], text[0, 2:5])


def naive_word_emotion_loss(emotion_loss, states, word_of_position, emotions):
    """Position after position, written as the definition says."""
    total, correct, n_labelled = 0.0, 0, 0
    for item, words in enumerate(word_of_position.tolist()):
        for position, word in enumerate(words):
            if word < 0 or emotions[item, word].sum() == 0:
                continue
            target = emotions[item, word]
            smoothing = emotion_loss.label_smoothing
            smooth = (1 - smoothing) * target + smoothing / len(target)
            logits = emotion_loss.classifier(states[item, position])
            total -= (smooth * logits.log_softmax(-1)).sum().item()
            correct += int(logits.argmax() == target.argmax())
            n_labelled += 1
    return total / n_labelled, correct / n_labelled, n_labelled


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_word_emotion_loss_equals_a_loop(label_smoothing):
    emotion_loss = WordEmotionLoss(K, C, label_smoothing=label_smoothing)
    emotions = (3 * torch.randn(3, 6, K)).softmax(-1)
    emotions[torch.rand(3, 6) < 0.4] = 0  # soft targets, some unlabelled
    states = torch.randn(3, 20, C)
    word_of_position = torch.randint(-1, 6, (3, 20))
    out = emotion_loss(states, word_of_position, emotions)
    loss, accuracy, n_labelled = naive_word_emotion_loss(
        emotion_loss, states, word_of_position, emotions
    )
    assert out.loss.item() == pytest.approx(loss, rel=1e-5)
    assert out.accuracy.item() == pytest.approx(accuracy)
    assert out.n_labelled.item() == n_labelled


def test_word_emotion_loss_is_least_at_its_soft_target():
    emotion_loss = WordEmotionLoss(2, 2)
    with torch.no_grad():
        emotion_loss.classifier.weight.copy_(torch.eye(2))
        emotion_loss.classifier.bias.zero_()
    target = torch.tensor([[[0.7, 0.3]]])
    word = torch.zeros(1, 1, dtype=torch.long)
    at_target = emotion_loss(target.log(), word, target).loss
    sharper = emotion_loss(3 * target.log(), word, target).loss
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert at_target.item() == pytest.approx(entropy)
    assert sharper > at_target


def test_word_emotion_loss_of_nothing_is_zero_with_a_graph():
    emotion_loss = WordEmotionLoss(K, C)
    states = torch.randn(2, 4, C, requires_grad=True)
    out = emotion_loss(
        states, torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 3, K)
    )
    out.loss.backward()
    assert (out.loss, out.accuracy, out.n_labelled) == (0, 0, 0)
    assert torch.equal(states.grad, torch.zeros_like(states))
    assert all(
        torch.equal(p.grad, torch.zeros_like(p))
        for p in emotion_loss.parameters()
    )


def test_word_emotion_loss_knows_two_positions():
    assert WordEmotionLoss(K, C).position == "speech"
    assert WordEmotionLoss(K, C, position="input").position == "input"
    with pytest.raises(ValueError, match="'output'.*speech, input"):
        WordEmotionLoss(K, C, position="output")


def test_only_words_with_probability_are_labelled():
    assert is_labelled(WORD_EMOTIONS).tolist() == [[True, False, True]]


# --- Prosody of words --------------------------------------------------------

AXES = ["pitch", "pace", "level"]
NAN = math.nan
#: Two axes of the first word, one of the unlabelled second, none of the third.
WORD_AXES = torch.tensor([[[4.0, NAN, -5.0], [NAN, 0.4, NAN], [NAN] * 3]])


def a_style_encoder(**options):
    """An encoder that has learned something about everything."""
    encoder = WordStyleEncoder(K, dim=E, axes=AXES, **options)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    return encoder


def test_without_axes_the_style_encoder_is_the_emotion_encoder():
    torch.manual_seed(1)
    plain = EmotionEncoder(K, dim=E)
    after_plain = torch.rand(1)
    torch.manual_seed(1)
    style = WordStyleEncoder(K, dim=E)
    assert torch.equal(torch.rand(1), after_plain)
    assert style.state_dict().keys() == plain.state_dict().keys()
    for one, other in zip(style.parameters(), plain.parameters()):
        assert torch.equal(one, other)
        torch.nn.init.normal_(other)
        one.data.copy_(other)
    assert torch.equal(
        style(WORD_EMOTIONS, WORD_INTENSITY),
        plain(WORD_EMOTIONS, WORD_INTENSITY),
    )


def test_a_checkpoint_of_the_emotion_encoder_loads_and_axes_do_nothing_yet():
    plain = EmotionEncoder(K, dim=E)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    style = WordStyleEncoder(K, dim=E, axes=AXES)
    weights = plain.state_dict()
    efilm = EFiLM(style, FiLM(E, C))
    efilm.load_state_dict(
        {
            **efilm.fusion.state_dict(prefix="fusion."),
            **{f"encoder.{name}": value for name, value in weights.items()},
        }
    )
    nothing = torch.full_like(WORD_AXES, NAN)
    expected = plain(WORD_EMOTIONS, WORD_INTENSITY)
    assert torch.equal(style(WORD_EMOTIONS, WORD_INTENSITY, nothing), expected)
    with_axes = style(WORD_EMOTIONS, WORD_INTENSITY, WORD_AXES)
    assert torch.equal(with_axes[:, ::2], expected[:, ::2])
    with pytest.raises(RuntimeError, match="input_layer"):
        style.load_state_dict({})


def test_axes_change_a_word_with_and_without_emotion_and_no_other():
    encoder = a_style_encoder()
    nothing = torch.full_like(WORD_AXES, NAN)
    without = encoder(WORD_EMOTIONS, WORD_INTENSITY, nothing)
    style = encoder(WORD_EMOTIONS, WORD_INTENSITY, WORD_AXES)
    assert not without[0, 1].any()
    assert style[0, 1].all()
    assert not torch.equal(style[0, 0], without[0, 0])
    assert torch.equal(style[0, 2], without[0, 2])
    zero = WORD_AXES.clone()
    zero[0, 0, 1] = 0.0  # asked to be as in the neutral reading
    assert not torch.equal(
        encoder(WORD_EMOTIONS, WORD_INTENSITY, zero)[0, 0], style[0, 0]
    )


def test_words_without_emotion_and_axes_keep_their_text_to_the_bit(text):
    efilm = EFiLM(a_style_encoder(), FiLM(E, C))
    emotions = WORD_EMOTIONS.clone()
    emotions[:, 2] = 0.0
    out = efilm(text, WORD_OF_TOKEN, emotions, WORD_INTENSITY, WORD_AXES)
    changed = (out.text_embeddings != text).any(-1)[0]
    assert changed.tolist() == [True, True, False, True, True, False]
    only_axes = efilm(
        text,
        WORD_OF_TOKEN,
        torch.zeros_like(emotions),
        WORD_INTENSITY,
        WORD_AXES,
    )
    assert only_axes.modulation_ratio > 0


def test_axes_and_the_encoder_learn_from_the_first_steps(text):
    encoder = WordStyleEncoder(K, dim=E, axes=AXES)
    efilm = EFiLM(encoder, FiLM(E, C))
    before = encoder.axis_layer.weight.clone()
    optimizer = torch.optim.Adam(efilm.parameters(), lr=0.05)
    for _ in range(2):
        out = efilm(
            text, WORD_OF_TOKEN, WORD_EMOTIONS, WORD_INTENSITY, WORD_AXES
        )
        (out.text_embeddings - text - 1.0).square().mean().backward()
        optimizer.step()
    assert (encoder.axis_layer.weight != before).any(1).all()


@pytest.mark.parametrize(
    "share, emotions, intensity, axes",
    [
        ("axis_dropout", True, True, False),
        ("all_axes_dropout", True, True, False),
        ("emotion_dropout", False, True, True),
        ("intensity_dropout", True, False, True),
    ],
)
def test_training_drops_what_its_shares_say(share, emotions, intensity, axes):
    shares = dict.fromkeys(
        ("axis_dropout", "all_axes_dropout", "emotion_dropout",
         "intensity_dropout"), 0.0,
    )  # fmt: skip
    encoder = a_style_encoder(**{**shares, share: 1.0})
    left = encoder.drop(WORD_EMOTIONS, WORD_INTENSITY, WORD_AXES)
    # The last word has no axes: only emotions tell how it sounds.
    assert torch.equal(left[0][:, 2], WORD_EMOTIONS[:, 2])
    assert torch.equal(left[0], WORD_EMOTIONS) == emotions
    assert torch.equal(left[1], WORD_INTENSITY) == intensity
    assert left[1][0, 1] == 0
    assert torch.equal(left[2].isnan(), WORD_AXES.isnan()) == axes
    assert axes or left[2].isnan().all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"axes": ["pich"]}, "choose some of pitch, pace, level"),
        ({"axes": ["pace", "pace"]}, "each once"),
        ({"axis_dropout": 1.5}, "axis_dropout is 1.5; give a share"),
    ],
)
def test_impossible_axes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WordStyleEncoder(K, **options)
