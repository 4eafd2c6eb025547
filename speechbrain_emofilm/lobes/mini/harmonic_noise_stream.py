"""Wave of the harmonic-plus-noise vocoder while mels are still generated."""

from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    HarmonicNoiseVocoder,
    PulseTrain,
)
from speechbrain_emofilm.lobes.mini.layer_stream import LayersStream
from speechbrain_emofilm.lobes.vocoder import NoiseStream

import torch
import torch.nn.functional as F


class HarmonicNoiseStream:
    """Streaming synthesis of the wave of one utterance, part by part.

    The wave is that of ``HarmonicNoiseVocoder.forward`` but for rounding:
    every frame of the networks and of the Fourier transforms is computed once,
    the phase of the pulses runs on in double precision, and the noise is the
    same. The cost of a part depends on its size alone.

    The phase adds up the rounding of F0, in a stream as in one call: in float32
    with the released weights, the waves of 8 s of random tokens, up to 0.19
    loud, differ by up to 0.0006; a change of F0 by its last bit does as much.
    In float64 they are equal to 1e-8.

    Arguments
    ---------
    vocoder : HarmonicNoiseVocoder
        In evaluation mode.
    seed : int
        Seed of the noise.

    Raises
    ------
    ValueError
        If the vocoder's frames do not have a multiple of 16 samples, or its
        networks have a layer that cannot run piece by piece.

    Example
    -------
    >>> vocoder = HarmonicNoiseVocoder(channels=16).eval()
    >>> stream = HarmonicNoiseStream(vocoder)
    >>> mel = torch.randn(1, 30, 80)
    >>> parts = [stream.push(part) for part in mel.split(10, dim=1)]
    >>> [part.shape[1] // 480 for part in parts], stream.look_ahead
    ([0, 8, 10], 12)
    >>> wav = torch.cat([*parts, stream.finish()], dim=1)
    >>> torch.allclose(wav, vocoder(mel), atol=1e-4)
    True
    """

    def __init__(self, vocoder: HarmonicNoiseVocoder, seed: int = 0):
        self.vocoder = vocoder
        self._noise = NoiseStream(seed, vocoder.hop_length)
        self._f0 = LayersStream(vocoder.f0_predictor)
        self._filter = LayersStream(vocoder.filter_predictor)
        self._pulses = PulseTrain(vocoder.hop_length, vocoder.sampling_rate)
        #: Mel frames by which the wave stays behind the mels: a sample needs
        #: the gains of half a window later, which is one frame, and the source
        #: of another half window later, whose F0 is interpolated to the centre
        #: of the frame after it.
        self.look_ahead = max(
            self._filter.look_ahead + 1, self._f0.look_ahead + 3
        )
        # All start at the first frame of the transforms not yet computed.
        self._source: torch.Tensor | None = None  # (1, 2, samples)
        self._gain: torch.Tensor | None = None  # (1, 2, frames, bins)
        self._overlap: torch.Tensor | None = None  # (1, 3, filter_hop)
        self._begun = False
        # Segments of the half window before the wave, which is reflection.
        self._n_skipped = vocoder.n_fft // 2 // vocoder.filter_hop
        self._heard = False
        self._spoken = False
        self._finished = False

    def push(self, mel: torch.Tensor) -> torch.Tensor:
        """Add natural-log mels (1, N, bands), and return the wave now ready.

        The wave is (1, samples) and often empty.

        Raises
        ------
        ValueError
            If the stream has been finished.
        """
        if self._finished:
            raise ValueError(
                "HarmonicNoiseStream: the speech has been finished; make "
                "another stream for other speech."
            )
        self._heard = self._heard or mel.size(1) > 0
        return self._speak(mel, last=False)

    def finish(self, mel: torch.Tensor | None = None) -> torch.Tensor:
        """End the speech, and return the rest of its wave (1, samples).

        Arguments
        ---------
        mel : torch.Tensor, optional
            Its last mels (1, N, bands), which costs less than to push them.
        """
        window = self.vocoder.window
        if mel is None:
            n_bands = self.vocoder.f0_predictor[0].in_channels
            mel = window.new_zeros(1, 0, n_bands)
        heard = self._heard or mel.size(1) > 0
        nothing_left = self._finished or not heard
        self._finished = True
        if nothing_left:
            return window.new_zeros(1, 0)
        return self._speak(mel, last=True)

    #: Whether :meth:`finish` takes the last mels.
    finishes_with_input = True

    @torch.no_grad()
    def _speak(self, mel: torch.Tensor, last: bool) -> torch.Tensor:
        vocoder = self.vocoder
        n_fft, hop = vocoder.n_fft, vocoder.filter_hop
        self._extend(mel, last)
        if not self._begun:
            if self._source.size(2) <= n_fft // 2 and not last:
                return mel.new_zeros(1, 0)
            # The whole transform is centred and begins with a reflection.
            self._source = F.pad(self._source, (n_fft // 2, 0), mode="reflect")
            self._begun = True
        if last:
            self._source = F.pad(self._source, (0, n_fft // 2), mode="reflect")
            # A centred transform has one frame more than there are filters.
            self._gain = torch.cat([self._gain, self._gain[:, :, -1:]], 2)
        n_ready = (self._source.size(2) - n_fft) // hop + 1
        n_frames = min(n_ready, self._gain.size(2))
        if n_frames <= 0:
            return mel.new_zeros(1, 0)
        segments = vocoder.filtered_segments(
            self._source[..., : (n_frames - 1) * hop + n_fft],
            self._gain[:, :, :n_frames],
        )
        self._source = self._source[..., n_frames * hop :].clone()
        self._gain = self._gain[:, :, n_frames:].clone()
        n_kept = segments.size(1) - n_frames
        if self._overlap is not None:
            segments[:, :n_kept] += self._overlap
        ready, overlap = segments.tensor_split([n_frames], dim=1)
        self._overlap = overlap.clone()
        if last:
            # The wave ends half a window before the last frame's end.
            ready = segments[:, : segments.size(1) - n_fft // 2 // hop]
        skipped, ready = ready.tensor_split([self._n_skipped], dim=1)
        self._n_skipped -= skipped.size(1)
        first = not self._spoken
        self._spoken = self._spoken or ready.size(1) > 0
        return vocoder.join_segments(ready, first, last)

    def _extend(self, mel: torch.Tensor, last: bool) -> None:
        """Append to the source and to the gains what the mels allow."""
        vocoder = self.vocoder
        x = vocoder.normalised(mel)
        f0 = vocoder.to_f0(self._f0.push(x, last))
        pulses = self._pulses.push(f0, last)
        noise = self._noise.draw(pulses.size(1))[None].to(pulses)
        source = torch.stack([pulses, noise], 1)
        gain = vocoder.to_gain(self._filter.push(x, last))
        if self._source is not None:
            source = torch.cat([self._source, source], dim=2)
            gain = torch.cat([self._gain, gain], dim=2)
        self._source, self._gain = source, gain
