"""Interface of the vocoders: from a mel spectrogram to a wave."""

import torch
import torch.nn.functional as F
from torch import nn


class MelVocoder(nn.Module):
    """Base class of vocoders: F0 from the mel, excitation from F0, then a wave.

    A vocoder implements ``predict_f0``, ``source``, ``decode`` and, to be
    trained, ``f0_loss``. Training calls them separately, since it knows the
    true F0; ``forward`` chains them.

    Arguments
    ---------
    hop_length : int
        Samples per mel frame.

    Example
    -------
    >>> class Buzz(MelVocoder):
    ...     def predict_f0(self, mel):
    ...         return mel.mean(-1)
    ...     def source(self, f0, seed=0):
    ...         return f0.repeat_interleave(self.hop_length, 1)
    ...     def decode(self, mel, source):
    ...         return source.sin()
    >>> lens = torch.tensor([1.0, 0.5])
    >>> wav = Buzz(hop_length=480)(torch.ones(2, 10, 80), lens)
    >>> wav.shape, (wav[1] != 0).sum().item()
    (torch.Size([2, 4800]), 2400)
    """

    def __init__(self, hop_length: int):
        super().__init__()
        self.hop_length = hop_length

    def predict_f0(self, mel: torch.Tensor) -> torch.Tensor:
        """Predict F0 from the mel spectrogram.

        Arguments
        ---------
        mel : torch.Tensor
            Natural-log mel spectrogram, shape (B, N, bands).

        Returns
        -------
        f0 : torch.Tensor
            F0 in Hz, near 0 where unvoiced; shape (B, N).
        """
        raise NotImplementedError

    def f0_loss(self, mel: torch.Tensor, f0: torch.Tensor) -> torch.Tensor:
        """Compute the error of the predicted F0.

        Arguments
        ---------
        mel : torch.Tensor
            Natural-log mel spectrogram, shape (B, N, bands).
        f0 : torch.Tensor
            The true F0 in Hz, 0 where unvoiced; shape (B, N).
        """
        raise NotImplementedError

    def source(self, f0: torch.Tensor, seed: int | None = 0) -> torch.Tensor:
        """Generate the excitation.

        Arguments
        ---------
        f0 : torch.Tensor
            F0 in Hz, shape (B, N).
        seed : int, optional
            Seed of the noise, which is then the same for every item; None
            draws independent noise per item from torch's global generator.

        Returns
        -------
        source : torch.Tensor
            Excitation for ``decode``; N * hop_length samples long.
        """
        raise NotImplementedError

    def decode(self, mel: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Shape the excitation by the mel spectrogram.

        Arguments
        ---------
        mel : torch.Tensor
            Natural-log mel spectrogram, shape (B, N, bands).
        source : torch.Tensor
            Excitation from ``source``.

        Returns
        -------
        wav : torch.Tensor
            Shape (B, N * hop_length).
        """
        raise NotImplementedError

    def forward(
        self,
        mel: torch.Tensor,
        lens: torch.Tensor | None = None,
        seed: int | None = 0,
    ) -> torch.Tensor:
        """Generate waves.

        Items of equal length run together and without padding, so that each
        wave equals that of the item alone and padding costs nothing.

        Arguments
        ---------
        mel : torch.Tensor
            Natural-log mel spectrograms, shape (B, N, bands).
        lens : torch.Tensor, optional
            Relative lengths (B,); all full if None.
        seed : int, optional
            Seed of the noise, as in ``source``.

        Returns
        -------
        wav : torch.Tensor
            Shape (B, N * hop_length), zero after each item's end.
        """
        n_frames = mel.shape[1]
        if lens is None:
            lens = mel.new_ones(mel.shape[0])
        lengths = torch.round(lens * n_frames).long()
        wav = mel.new_zeros(mel.shape[0], n_frames * self.hop_length)
        for length in lengths.unique().tolist():
            chosen = torch.nonzero(lengths == length).squeeze(1)
            part = mel[chosen, :length]
            source = self.source(self.predict_f0(part), seed)
            n_padding = (n_frames - length) * self.hop_length
            part = F.pad(self.decode(part, source), (0, n_padding))
            wav = wav.index_copy(0, chosen, part)
        return wav

    def stream(self, seed: int = 0):
        """Start an utterance whose mels arrive later.

        Arguments
        ---------
        seed : int
            Seed of the noise.

        Returns
        -------
        object
            ``push(mel (1, N, bands)) -> wav (1, samples)`` adds mels and
            returns the wave that is ready, often empty; ``finish()`` returns
            the rest.

        Raises
        ------
        ValueError
            If this vocoder cannot generate a wave piece by piece.
        """
        raise ValueError(
            f"{type(self).__name__} cannot generate a wave piece by piece: it "
            "has no method stream(); synthesise whole utterances, or use "
            "another vocoder."
        )


def seeded_noise(
    batch: int, *shape: int, seed: int | None, like: torch.Tensor
) -> torch.Tensor:
    """Draw standard normal noise without touching torch's global generator.

    Arguments
    ---------
    batch : int
        Number of items.
    *shape : int
        Shape of the noise of one item.
    seed : int, optional
        The same seed gives the same noise, on every device; all items get
        the same. None draws independent noise from torch's global generator.
    like : torch.Tensor
        Tensor whose device and precision the noise gets.

    Returns
    -------
    noise : torch.Tensor
        Shape (batch, *shape).

    Example
    -------
    >>> noise = seeded_noise(2, 3, seed=0, like=torch.zeros(1))
    >>> noise.shape, torch.equal(noise[0], noise[1])
    (torch.Size([2, 3]), True)
    """
    if seed is None:
        return torch.randn(batch, *shape, device=like.device).to(like.dtype)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *shape, generator=generator)
    return noise.to(like).expand(batch, *shape)


#: Torch draws normal noise on the CPU in blocks of so many values.
_NOISE_BLOCK = 16


class NoiseStream:
    """The noise of :func:`seeded_noise`, drawn frame by frame.

    Arguments
    ---------
    seed : int
        Seed of the noise.
    frame_size : int
        Values per frame.

    Raises
    ------
    ValueError
        If the frame size is not a multiple of 16: the values then depend on
        how many are drawn at once.

    Example
    -------
    >>> stream = NoiseStream(seed=0, frame_size=480)
    >>> parts = torch.cat([stream.draw(480), stream.draw(960)])
    >>> torch.equal(parts, seeded_noise(1, 1440, seed=0, like=parts)[0])
    True
    """

    def __init__(self, seed: int, frame_size: int):
        if frame_size % _NOISE_BLOCK:
            raise ValueError(
                f"Noise in frames of {frame_size} values cannot be drawn piece "
                f"by piece: use a multiple of {_NOISE_BLOCK}, such as 480."
            )
        self.frame_size = frame_size
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, n_values: int) -> torch.Tensor:
        """Draw the values (n_values,) of whole frames, on the CPU."""
        return torch.randn(n_values, generator=self._generator)
