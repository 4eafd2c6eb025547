"""What extractors share: lengths, padding, pieces of long speech."""

from speechbrain_emofilm.integrations.emotion_features.base import (
    FrameFeatureExtractor,
)

import pytest
import torch


class Means(FrameFeatureExtractor):
    """Mean of each stretch of 400 samples, every 320; nothing else."""

    def __init__(self, **options):
        super().__init__(
            "means", "1", {}, dim=1, receptive_field=400, **options
        )
        self.encoded = []

    def encode(self, wavs, n_samples):
        assert n_samples.max() == wavs.shape[1]
        self.encoded.append(tuple(wavs.shape))
        return wavs.unfold(1, 400, 320).mean(-1, keepdim=True)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_lengths_are_relative_and_padding_is_zero():
    features, lens = Means()(noise(3, 4000), torch.tensor([1.0, 0.5, 0.1]))
    assert features.shape == (3, 12, 1)
    assert torch.round(lens * 12).tolist() == [12, 6, 1]
    assert (features[1, 6:] == 0).all() and (features[2, 1:] == 0).all()


def test_batch_without_a_full_utterance_is_cut_to_its_longest():
    extractor = Means()
    features, lens = extractor(noise(2, 4000), torch.tensor([0.5, 0.25]))
    assert extractor.encoded == [(2, 2000)]
    assert features.shape[1] == 6 and lens[0] == 1


@pytest.mark.parametrize("seconds", [1.99, 2.01, 2.05, 5.0, 13.37])
def test_pieces_of_long_speech_join_without_a_seam(seconds):
    (wav,) = noise(1, round(16000 * seconds))
    whole, _ = Means()(wav[None])
    extractor = Means(max_duration=2.0, context=0.5)
    pieces, _ = extractor(wav[None])
    torch.testing.assert_close(pieces, whole)
    n_samples = torch.tensor([shape[1] for shape in extractor.encoded])
    assert extractor.n_frames(n_samples).max() <= 2 * 50


def test_long_speech_does_not_change_its_neighbour_in_the_batch():
    wavs, lens = noise(2, 16000 * 5), torch.tensor([1.0, 0.2])
    features, out = Means(max_duration=2.0, context=0.5)(wavs, lens)
    alone, _ = Means(max_duration=2.0, context=0.5)(wavs[1:, :16000])
    assert round(float(out[1]) * features.shape[1]) == alone.shape[1]
    assert torch.equal(features[1, : alone.shape[1]], alone[0])


def test_extractor_that_cannot_pad_gets_utterances_one_by_one():
    extractor = Means(padded_batches=False)
    wavs = noise(3, 4000)
    features, _ = extractor(wavs, torch.tensor([1.0, 0.5, 0.5]))
    assert extractor.encoded == [(1, 4000), (1, 2000), (1, 2000)]
    together, _ = Means()(wavs, torch.tensor([1.0, 0.5, 0.5]))
    assert torch.equal(features, together)


def test_waveforms_are_normalised_without_their_padding():
    class Square(Means):
        def encode(self, wavs, n_samples):
            return super().encode(wavs**2, n_samples)

    wavs = 3 + 0.1 * noise(2, 40000)
    features, _ = Square(normalize_wav=True)(wavs, torch.tensor([1.0, 0.5]))
    for item, n in zip(features, (124, 62)):
        assert item[:n].mean() == pytest.approx(1.0, abs=0.05)


def test_context_has_to_leave_something_of_a_piece():
    with pytest.raises(ValueError, match="raise max_duration"):
        Means(max_duration=2.0, context=1.0)
