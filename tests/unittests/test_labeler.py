import math

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import check_labels
from speechbrain_emofilm.dataio.word_features import (
    aligned_words,
    word_features,
    word_timing,
)
from speechbrain_emofilm.inference.labeler import (
    WordEmotionLabeler,
    entropy,
    smooth,
)
from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
)
from speechbrain_emofilm.lobes.word_emotion import (
    FrameNormalization,
    WordEmotionOutput,
    WordEmotionTransformer,
)

import pytest
import soundfile
import torch

EMOTIONS = ["neutral", "sad", "happy"]
WORDS = [Word("We", 0.0, 0.2), Word("won", 0.2, 0.6), Word("it", 0.6, 1.0)]


class Loudness(FrameFeatureExtractor):
    """Mean and peak of each 20 ms."""

    def __init__(self):
        super().__init__("loudness", "1", {}, dim=2, receptive_field=320)

    def encode(self, wavs, n_samples):
        pieces = wavs.unfold(1, 320, 320).abs()
        return torch.stack([pieces.mean(-1), pieces.amax(-1)], dim=-1)


class Given(torch.nn.Module):
    """Says what its first features say: logits; then one attribute."""

    def forward(self, features, lens=None):
        return WordEmotionOutput(
            features[..., : len(EMOTIONS)],
            features[..., len(EMOTIONS) :].sigmoid(),
            features[..., 0],
        )


def make_labeler(model=None, **options):
    torch.manual_seed(0)
    hparams = {
        "emotions": EMOTIONS,
        "background": "neutral",
        "attributes": ["intensity"],
        "intensity_source": "evidence",
        "intensity_temperature": 1.0,
        "smoothing": 0.0,
        "min_confidence": 0.0,
        "word_timing": False,
        **options,
    }
    model = model or WordEmotionTransformer(2, 3, d_model=8, nhead=2, d_ffn=8)
    modules = {
        "word_emotion": model,
        "frame_normalization": FrameNormalization(2),
        "emotion_features": Loudness(),
    }
    return WordEmotionLabeler(modules, hparams, run_opts={"device": "cpu"})


def given_labels(logits, attribute=0.0, confidence=1.0, **options):
    """Labels of one-second words with these logits."""
    labeler = make_labeler(Given(), **options)
    logits = torch.tensor(logits)
    frames = torch.full((len(logits), 4), attribute)
    frames[:, :3] = logits
    words = [Word("a", i, i + 1, confidence) for i in range(len(logits))]
    frames = frames.repeat_interleave(50, dim=0)
    return labeler.label_frames([frames], [words])[0].words


def test_labels_keep_the_contract():
    labels = make_labeler().label_frames([torch.randn(50, 2)], [WORDS])[0]
    check_labels(labels, EMOTIONS, "")
    assert [word.word for word in labels.words] == ["We", "won", "it"]
    for word in labels.words:
        assert set(word.probs) == set(EMOTIONS)
        assert word.emotion == max(word.probs, key=word.probs.get)
        assert 0 <= word.intensity <= 1 and 0 <= word.confidence <= 1


def test_labels_do_not_depend_on_the_batch():
    labeler = make_labeler()
    frames = [torch.randn(50, 2), torch.randn(60, 2)]
    words = [WORDS[:2], WORDS]
    together = labeler.label_frames(frames, words)
    assert together[:1] == labeler.label_frames(frames[:1], words[:1])


def test_confidence_is_certainty_by_the_aligners_confidence():
    sure, unsure = [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    first, second = given_labels([sure, unsure])
    assert first.confidence > 0.98 and second.confidence == 0
    half = given_labels([sure], confidence=0.5)[0]
    assert half.confidence == pytest.approx(first.confidence / 2, abs=1e-3)


def test_words_of_low_confidence_stay_unlabelled():
    first, second = given_labels(
        [[9.0, 0.0, 0.0], [0.5, 0.0, 0.0]], min_confidence=0.5
    )
    assert first.emotion == "neutral"
    assert second.emotion is second.probs is second.intensity is None
    assert second.confidence < 0.5


def test_evidence_against_neutral_is_intensity():
    neutral, mild, strong = given_labels(
        [[9.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 9.0, 0.0]]
    )
    assert neutral.intensity < 0.01 < mild.intensity < strong.intensity
    assert strong.intensity > 0.99
    tempered = given_labels([[0.0, 9.0, 0.0]], intensity_temperature=9.0)[0]
    assert tempered.intensity == pytest.approx(0.73, abs=0.01)


def test_a_rated_attribute_can_be_the_intensity():
    options = {"intensity_source": "attribute", "attributes": ["arousal"]}
    word = given_labels([[9.0, 0.0, 0.0]], attribute=math.log(3), **options)[0]
    assert word.intensity == pytest.approx(0.75)


def test_without_background_there_is_no_intensity():
    assert given_labels([[0.0, 9.0, 0.0]], background=None)[0].intensity is None


def test_smoothing_takes_from_neighbours():
    logits = [[9.0, 0.0, 0.0], [0.0, 0.6, 0.0], [9.0, 0.0, 0.0]]
    assert given_labels(logits)[1].emotion == "sad"
    assert given_labels(logits, smoothing=0.5)[1].emotion == "neutral"
    probs = torch.rand(5, 3).softmax(-1)
    assert torch.equal(smooth(probs, 0.0), probs)
    assert smooth(probs, 0.7).sum(-1) == pytest.approx(torch.ones(5))


def test_entropy_is_relative():
    assert entropy(torch.full((2, 7), 1 / 7)) == pytest.approx(torch.ones(2))


def test_a_file_is_labelled(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * torch.randn(24000).numpy(), 24000)
    labeler = make_labeler(word_timing=False)
    labels = labeler.label_file(path, "We won it!", words=WORDS)
    assert len(labels.words) == 3
    statistics = labeler.speaker_statistics([path, path])
    assert [len(s) for s in statistics] == [2, 2]
    own = labeler.label_file(path, "", words=WORDS, statistics=statistics)
    assert own != labels


def test_an_aligner_is_made_when_it_is_needed(tmp_path):
    class Aligner:
        def align(self, wav, sample_rate, text, language):
            assert len(wav) == sample_rate == 16000
            return [Word(text, 0.0, 0.5, 0.25)]

    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * torch.randn(24000).numpy(), 24000)
    labels = make_labeler(aligner=Aligner).label_file(path, "We")
    assert labels.words[0].word == "We"
    assert labels.words[0].confidence <= 0.25
    with pytest.raises(ValueError, match="no aligner"):
        make_labeler().label_file(path, "We")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no words"),
        ([Word("late", 5.0, 6.0)], r"word 0 \('late', 5.00 to 6.00 s\)"),
    ],
)
def test_words_that_do_not_fit(words, message):
    with pytest.raises(ValueError, match=message):
        make_labeler().label_frames([torch.randn(50, 2)], [words])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"background": "calm"}, "'calm' is not in the taxonomy"),
        ({"intensity_source": "guess"}, "evidence or attribute"),
        (
            {"intensity_source": "attribute", "attributes": ["valence"]},
            "neither intensity nor arousal",
        ),
        ({"smoothing": 1.5}, "smoothing is 1.5"),
        ({"min_confidence": -1}, "min_confidence is -1"),
    ],
)
def test_hparams_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make_labeler(**options)


def test_a_folder_without_a_labeler_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no labeler.yaml"):
        WordEmotionLabeler.from_hparams(tmp_path)


def test_timing_is_joined_to_the_frames():
    features = word_features(torch.ones(50, 2), WORDS, 50.0, 0.0)
    assert features.shape == (3, 4)
    assert features[:, :2] == pytest.approx(torch.ones(3, 2))
    slow, fast = word_timing([Word("one", 0, 0.6), Word("one", 0.6, 0.8)])
    assert (slow > fast).all()


def test_alignment_of_another_utterance_is_named(tmp_path):
    from speechbrain_emofilm.dataio.alignments import write_alignment

    path = tmp_path / "0011" / "0011_000351.TextGrid"
    write_alignment(path, WORDS, duration=1.0)
    item = {"speaker": "0011", "text": "We won it."}
    assert len(aligned_words(tmp_path, "0011_000351", item)) == 3
    item["text"] = "But he left."
    with pytest.raises(ValueError, match="0011_000351.TextGrid: word 0"):
        aligned_words(tmp_path, "0011_000351", item)
    with pytest.raises(FileNotFoundError, match="has no alignment"):
        aligned_words(tmp_path, "0011_000352", item)
    path.unlink()
    write_alignment(path, [], duration=1.0)
    item["text"] = "..."
    with pytest.raises(ValueError, match="has no words"):
        aligned_words(tmp_path, "0011_000351", item)
