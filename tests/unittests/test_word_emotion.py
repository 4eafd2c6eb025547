from speechbrain_emofilm.lobes.word_emotion import (
    BroadcastLoss,
    FrameNormalization,
    MultipleInstanceLoss,
    WordEmotionOutput,
    WordEmotionTransformer,
    WordLoss,
    WordTargets,
    bag_attention,
    splice_bags,
    word_mask,
)

import pytest
import torch
import torch.nn.functional as F

LOSSES = [BroadcastLoss, MultipleInstanceLoss, WordLoss]


def make_model(**options):
    torch.manual_seed(0)
    options = {"input_dim": 6, "n_emotions": 3, "d_model": 16, **options}
    return WordEmotionTransformer(nhead=2, d_ffn=32, **options).eval()


def make_targets(emotions, attributes=None, bags=None):
    emotions = torch.tensor(emotions)
    if attributes is None:
        attributes = torch.full((*emotions.shape, 1), torch.nan)
    if bags is None:
        bags = torch.zeros_like(emotions)
    return WordTargets(emotions, attributes, torch.as_tensor(bags))


def make_output(logits, attention=None):
    logits = torch.as_tensor(logits, dtype=torch.float)
    if attention is None:
        attention = torch.zeros(logits.shape[:2])
    return WordEmotionOutput(
        logits, torch.full((*logits.shape[:2], 1), 0.25), attention
    )


class TestTransformer:
    @pytest.mark.parametrize("context", [None, 0, 1])
    def test_padding_changes_nothing(self, context):
        model = make_model(context=context)
        features = torch.randn(1, 4, 6)
        alone = model(features)
        padded = torch.cat([features, torch.full((1, 3, 6), torch.inf)], 1)
        batch = torch.cat([torch.randn(1, 7, 6), padded])
        together = model(batch, torch.tensor([1.0, 4 / 7]))
        for name in ("logits", "attributes", "attention"):
            torch.testing.assert_close(
                getattr(together, name)[1:, :4], getattr(alone, name)
            )

    def test_gradients_are_finite_where_padding_sees_no_word(self):
        model = make_model(context=0).train()
        output = model(torch.randn(2, 5, 6), torch.tensor([1.0, 0.2]))
        bags = torch.where(
            word_mask(output.logits, torch.tensor([1.0, 0.2])), 0, -1
        )
        targets = make_targets([[1] * 5, [2] * 5], bags=bags)
        MultipleInstanceLoss()(output, targets).backward()
        assert all(
            p.grad.isfinite().all()
            for p in model.parameters()
            if p.grad is not None
        )

    def test_a_word_sees_as_far_as_its_context(self):
        features = torch.randn(1, 6, 6)
        changed = features.clone()
        changed[:, 5] += 10
        for context, first in [(None, 0), (1, 3), (0, 5)]:
            model = make_model(context=context, num_layers=2)
            difference = model(features).logits - model(changed).logits
            moved = difference.abs().amax(-1)[0] > 1e-6
            assert moved.tolist() == [i >= first for i in range(6)]

    def test_size_of_the_taxonomy_and_of_the_attributes_is_free(self):
        output = make_model(n_emotions=7, n_attributes=3)(torch.randn(2, 3, 6))
        assert output.logits.shape == (2, 3, 7)
        assert output.attributes.shape == (2, 3, 3)
        assert ((output.attributes > 0) & (output.attributes < 1)).all()

    def test_a_wide_group_weighs_no_more_than_a_narrow_one(self):
        model = make_model(group_dims=[4, 2])
        squares = model.scale**2
        assert squares[:4].sum() == pytest.approx(float(squares[4:].sum()))
        assert squares.sum() == pytest.approx(6)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"n_emotions": 1}, "at least 2 emotions"),
            ({"n_attributes": 0}, "1 attribute"),
            ({"group_dims": [4, 1]}, r"sum to 5, and input_dim is 6"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ValueError, match=message):
            make_model(**options)


class TestLosses:
    def test_broadcast_is_the_weighted_cross_entropy_of_known_words(self):
        logits = torch.randn(2, 3, 3)
        emotions = [[1, 1, 1], [2, 2, -1]]
        loss = BroadcastLoss(class_weights=[1.0, 2.0, 4.0], label_smoothing=0)
        expected = F.cross_entropy(
            logits.flatten(0, 1),
            torch.tensor(emotions).flatten(),
            torch.tensor([1.0, 2.0, 4.0]),
            ignore_index=-1,
        )
        found = loss(make_output(logits), make_targets(emotions))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_attributes_that_are_unknown_do_not_count(self, loss):
        output = make_output(torch.zeros(2, 2, 3))
        unknown = make_targets([[1, 1], [2, 2]])
        half = make_targets(
            [[1, 1], [2, 2]],
            attributes=torch.tensor([[[0.75]] * 2, [[torch.nan]] * 2]),
        )
        loss = loss()
        difference = loss(output, half) - loss(output, unknown)
        assert float(difference) == pytest.approx(0.25)

    @pytest.mark.parametrize("loss", LOSSES)
    def test_padding_and_unknown_emotions_do_not_count(self, loss):
        logits = torch.randn(1, 4, 3)
        short = make_output(logits[:, :2])
        long = make_output(logits)
        targets = make_targets([[1, 1, -1, 2]], bags=[[0, 0, 0, -1]])
        torch.testing.assert_close(
            loss()(long, targets), loss()(short, make_targets([[1, 1]]))
        )

    @pytest.mark.parametrize("loss", LOSSES)
    def test_nothing_known_is_no_loss(self, loss):
        found = loss()(
            make_output(torch.randn(1, 2, 3)), make_targets([[-1] * 2])
        )
        assert float(found) == 0

    def test_a_neutral_word_of_an_emotional_sentence_is_no_error(self):
        words = [[[9.0, 0, 0], [0, 9.0, 0]]]  # neutral, emotional
        output = make_output(words, attention=torch.tensor([[-9.0, 9.0]]))
        targets = make_targets([[1, 1]])
        options = {"label_smoothing": 0.0, "background_share": 0.25}
        bag = MultipleInstanceLoss(background=0, **options)(output, targets)
        # -log(0.25) and -log(0.75), and nothing of the attended average
        assert float(bag) == pytest.approx((1.386 + 0.288) / 2, abs=0.01)
        assert BroadcastLoss(label_smoothing=0)(output, targets) > 4

    def test_a_third_emotion_is_an_error(self):
        targets = make_targets([[1, 1]])
        loss = MultipleInstanceLoss(background=0)
        neutral = loss(make_output([[[9.0, 0, 0], [0, 9.0, 0]]]), targets)
        third = loss(make_output([[[0, 0, 9.0], [0, 9.0, 0]]]), targets)
        assert third > neutral + 1

    def test_words_of_a_neutral_sentence_are_neutral(self):
        logits = torch.randn(1, 3, 3)
        targets = make_targets([[0, 0, 0]])
        bag = MultipleInstanceLoss(
            background=0, attention_weight=0.0, label_smoothing=0.0
        )
        expected = BroadcastLoss(label_smoothing=0.0)
        torch.testing.assert_close(
            bag(make_output(logits), targets),
            expected(make_output(logits), targets),
            rtol=1e-4,
            atol=1e-4,
        )

    def test_attention_learns_to_go_to_the_word_that_carries_the_emotion(self):
        attention = torch.zeros(1, 2, requires_grad=True)
        output = make_output([[[9.0, 0, 0], [0, 9.0, 0]]], attention)
        MultipleInstanceLoss()(output, make_targets([[1, 1]])).backward()
        assert attention.grad[0, 1] < 0 < attention.grad[0, 0]

    def test_spliced_bags_are_judged_apart(self):
        logits = torch.randn(1, 4, 3)
        attention = torch.randn(1, 4)
        loss = MultipleInstanceLoss()
        spliced = loss(
            make_output(logits, attention),
            make_targets([[1, 1, 2, 2]], bags=[[0, 0, 1, 1]]),
        )
        apart = loss(
            make_output(logits.reshape(2, 2, 3), attention.reshape(2, 2)),
            make_targets([[1, 1], [2, 2]]),
        )
        torch.testing.assert_close(spliced, apart)

    def test_without_background_each_word_has_the_emotion(self):
        output = make_output([[[9.0, 0, 0], [0, 9.0, 0]]])
        targets = make_targets([[1, 1]])
        without = MultipleInstanceLoss(background=None)(output, targets)
        assert without > MultipleInstanceLoss(background=0)(output, targets)

    def test_class_weights_count(self):
        output = make_output(torch.randn(2, 2, 3))
        targets = make_targets([[1, 1], [2, 2]])
        loss = MultipleInstanceLoss(class_weights=[1.0, 1.0, 0.0])
        only = make_output(output.logits[:1])
        torch.testing.assert_close(
            loss(output, targets),
            MultipleInstanceLoss()(only, make_targets([[1, 1]])),
        )

    def test_refuses_a_share_that_is_none(self):
        with pytest.raises(ValueError, match="background_share is 1.0"):
            MultipleInstanceLoss(background_share=1.0)


def sentences(generator, n=64, n_words=6):
    """Sentences of noisy words; 4 in 10 words of the emotional are neutral."""
    emotions = torch.randint(0, 3, (n, 1), generator=generator)
    carries = torch.rand(n, n_words, generator=generator) >= 0.4
    words = torch.where(carries, emotions, 0)
    noise = torch.randn(n, n_words, 3, generator=generator)
    return F.one_hot(words, 3) + 0.4 * noise, words, emotions.expand_as(words)


def train(loss, share):
    """Accuracy on words, when trained on sentences for some steps."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = WordEmotionTransformer(3, 3, d_model=16, nhead=2, d_ffn=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    features, _, emotions = sentences(generator)
    targets = make_targets(emotions.tolist())
    for _ in range(60):
        x, lens, y = splice_bags(
            features, torch.ones(len(features)), targets, share, generator
        )
        optimizer.zero_grad()
        loss(model(x, lens), y).backward()
        optimizer.step()
    features, words, _ = sentences(generator)
    found = model.eval()(features).logits.argmax(-1)
    return float((found == words).float().mean())


def test_multiple_instances_tell_words_that_broadcast_labels_smear():
    broadcast = train(BroadcastLoss(), share=0.0)
    multiple_instance = train(MultipleInstanceLoss(), share=0.5)
    assert multiple_instance > broadcast + 0.1


class TestSplice:
    def data(self, n_words):
        lengths = torch.tensor(n_words)
        longest = int(lengths.max())
        item = torch.arange(len(n_words)).unsqueeze(-1).expand(-1, longest)
        word = torch.arange(longest).expand_as(item)
        features = torch.stack([item, word], -1).float()
        attributes = item.unsqueeze(-1).float() / len(n_words)
        return (
            features,
            lengths / longest,
            make_targets(item.tolist(), attributes),
        )

    def test_pieces_keep_their_words_in_order_and_their_emotion(self):
        features, lens, targets = self.data([7, 5, 6, 8])
        generator = torch.Generator().manual_seed(0)
        spliced, lens, new = splice_bags(
            features, lens, targets, 1.0, generator
        )
        n_words = torch.round(lens * spliced.shape[1]).long()
        assert (new.bags.amax(1) == 1).all()
        for x, n, emotions, bags in zip(
            spliced, n_words, new.emotions, new.bags
        ):
            assert (bags[:n] >= 0).all() and (bags[n:] == -1).all()
            assert torch.equal(x[:n, 0].long(), emotions[:n])
            for bag in (0, 1):
                piece = x[:n][bags[:n] == bag]
                assert len(piece) >= 2 and len(piece[:, 0].unique()) == 1
                assert (piece[:, 1].diff() == 1).all()
            assert x[0, 1] == 0  # the first piece is a beginning
            last = x[n - 1]  # and the second an end
            assert last[1] + 1 == [7, 5, 6, 8][int(last[0])]

    def test_nothing_is_spliced_at_share_0_nor_if_too_short(self):
        for n_words, share in [([5, 4], 0.0), ([3, 3], 1.0)]:
            features, lens, targets = self.data(n_words)
            spliced, new_lens, new = splice_bags(features, lens, targets, share)
            assert torch.equal(new_lens, lens)
            assert (new.bags <= 0).all()
            words = word_mask(features, lens)
            assert torch.equal(spliced[words], features[words])

    def test_the_generator_decides(self):
        data = self.data([6, 7, 8])
        first, second = (
            splice_bags(*data, 0.5, torch.Generator().manual_seed(3))[0]
            for _ in range(2)
        )
        assert torch.equal(first, second)


def test_attention_of_an_empty_bag_is_zero():
    inside = torch.tensor([[True, False], [False, False]])
    shares = bag_attention(torch.randn(2, 2), inside)
    assert shares.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_frame_normalization_is_kept_in_checkpoints():
    normalization = FrameNormalization(2)
    normalization.set(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 4.0]))
    other = FrameNormalization(2)
    other.load_state_dict(normalization.state_dict())
    assert other(torch.tensor([2.0, 2.0])).tolist() == [2.0, 0.0]
