"""Base class of emotion feature extractors: batching and long utterances."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch


class FrameFeatureExtractor(torch.nn.Module):
    """Base class of emotion feature extractors.

    A subclass implements :meth:`encode` for utterances of at most
    ``max_duration``. Longer ones are cut into pieces, each with ``context``
    seconds of its neighbours on either side, so that memory stays bounded;
    the frames of the context are discarded.

    Arguments
    ---------
    model_name : str
        Name of the model, part of the cache key.
    revision : str
        Version of its weights, part of the cache key.
    config : dict
        Other options that change the frames, part of the cache key; must be
        JSON-serializable.
    dim : int
        Dimension D of a frame.
    receptive_field : int
        Samples that the convolutions of one frame span; an utterance has as
        many frames as such spans fit, ``hop`` samples apart.
    frame_offset : float
        Centre of frame 0, in seconds.
    hop : int
        Samples from one frame to the next.
    sample_rate : int
        Sample rate of the input, in Hz.
    normalize_wav : bool
        Whether to normalise waveforms to mean 0 and variance 1, computed
        over the whole utterance without its padding.
    speaker_normalization : bool
        Whether frames should be normalised by the statistics of their
        speaker before a classifier sees them. This is done when the cache is
        read, since it needs all utterances of a speaker.
    padded_batches : bool
        Whether :meth:`encode` accepts utterances of different lengths.
        Otherwise they are processed one by one.
    shortest : int, optional
        Minimum samples of an utterance; by default ``receptive_field``.
    max_duration : float
        Longest piece that is encoded at once, in seconds of frames.
    context : float
        Seconds of context on either side of a piece.

    Raises
    ------
    ValueError
        If ``max_duration`` is not longer than the context on both sides.

    Example
    -------
    >>> class Loudness(FrameFeatureExtractor):
    ...     def encode(self, wavs, n_samples):
    ...         return wavs.unfold(1, 320, 320).abs().mean(-1, keepdim=True)
    >>> extractor = Loudness("loudness", "1", {}, dim=1, receptive_field=320)
    >>> features, lens = extractor(torch.ones(2, 3200), torch.tensor([1, 0.5]))
    >>> features.shape, lens
    (torch.Size([2, 10, 1]), tensor([1.0000, 0.5000]))
    """

    def __init__(
        self,
        model_name: str,
        revision: str,
        config: dict[str, Any],
        dim: int,
        receptive_field: int,
        frame_offset: float = 0.0,
        hop: int = 320,
        sample_rate: int = 16000,
        normalize_wav: bool = False,
        speaker_normalization: bool = False,
        padded_batches: bool = True,
        shortest: int | None = None,
        max_duration: float = 30.0,
        context: float = 1.0,
    ):
        super().__init__()
        if max_duration <= 2 * context:
            raise ValueError(
                f"max_duration is {max_duration:g} s, but the context on both "
                f"sides of a piece takes {2 * context:g} s: raise "
                "max_duration."
            )
        self.model_name = model_name
        self.revision = revision
        self.config = {
            **config,
            "max_duration": max_duration,
            "context": context,
        }
        self.dim = dim
        self.receptive_field = receptive_field
        self.frame_offset = frame_offset
        self.hop = hop
        self.sample_rate = sample_rate
        self.normalize_wav = normalize_wav
        self.speaker_normalization = speaker_normalization
        self.padded_batches = padded_batches
        self.shortest = shortest or receptive_field
        self.max_frames = int(max_duration * sample_rate) // hop
        self.context_frames = int(context * sample_rate) // hop

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    def n_frames(self, n_samples: torch.Tensor) -> torch.Tensor:
        """Count the frames of utterances.

        Arguments
        ---------
        n_samples : torch.Tensor
            Numbers of samples (B,), long.

        Returns
        -------
        torch.Tensor
            Numbers of frames (B,), long; 0 for fewer samples than a frame
            spans.
        """
        frames = (n_samples - self.receptive_field) // self.hop + 1
        return frames.clamp(min=0)

    def encode(
        self, wavs: torch.Tensor, n_samples: torch.Tensor
    ) -> torch.Tensor:
        """Compute frames; to be implemented by the subclass.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, T), 0 after their end.
        n_samples : torch.Tensor
            Their numbers of samples (B,), long, on the CPU; at most T.

        Returns
        -------
        torch.Tensor
            Frames (B, F, D) with F of the longest utterance. Frames after an
            utterance's end are ignored; the others must not depend on the
            rest of the batch.
        """
        raise NotImplementedError

    @torch.inference_mode()
    def forward(
        self, wavs: torch.Tensor, lens: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Extract the frames of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, T) at ``sample_rate``.
        lens : Optional[torch.Tensor]
            Relative lengths (B,); all full if None.

        Returns
        -------
        features : torch.Tensor
            Frames (B, F, D), 0 after an utterance's end.
        lens : torch.Tensor
            Relative lengths of the frames (B,).

        Raises
        ------
        ValueError
            If an utterance is too short.
        """
        if lens is None:
            lens = torch.ones(len(wavs), device=wavs.device)
        n_samples = torch.round(lens.float() * wavs.shape[1]).long().cpu()
        n_frames = self.n_frames(n_samples)
        if n_samples.min() < self.shortest:
            raise ValueError(
                f"Item {int(n_samples.argmin())} of the batch has "
                f"{int(n_samples.min())} samples at {self.sample_rate} Hz, "
                f"but {self.model_name} needs {self.shortest}: leave out such "
                "utterances."
            )
        wavs = self._prepared(wavs, n_samples)
        equal = n_samples.min() == n_samples.max()
        together = self.padded_batches or equal
        if together and n_frames.max() <= self.max_frames:
            features = self.encode(wavs, n_samples)
        else:
            features = torch.nn.utils.rnn.pad_sequence(
                [
                    self._encode_in_pieces(wav[:samples], int(frames))
                    for wav, samples, frames in zip(wavs, n_samples, n_frames)
                ],
                batch_first=True,
            )
        frame = torch.arange(features.shape[1], device=features.device)
        padding = frame >= n_frames.to(features.device)[:, None]
        features = features.masked_fill(padding[..., None], 0.0)
        return features, (n_frames / n_frames.max()).to(lens.device)

    def _prepared(self, wavs, n_samples):
        """Zero the padding and, if required, normalise the waveforms."""
        longest = int(n_samples.max())
        prepared = torch.zeros_like(wavs[:, :longest])
        for row, wav, samples in zip(prepared, wavs, n_samples):
            wav = wav[:samples]
            if self.normalize_wav:
                wav = torch.nn.functional.layer_norm(wav, wav.shape)
            row[:samples] = wav
        return prepared

    def _encode_in_pieces(self, wav, n_frames):
        """Compute the frames (F, D) of one utterance of any length."""
        if n_frames <= self.max_frames:
            return self.encode(wav[None], torch.tensor([len(wav)]))[0]
        step = self.max_frames - 2 * self.context_frames
        pieces = []
        for start in range(0, n_frames, step):
            first = max(0, start - self.context_frames)
            last = min(n_frames, start + step + self.context_frames)
            end = last * self.hop
            if self.receptive_field > self.hop:
                end += self.receptive_field - self.hop
            piece = wav[None, first * self.hop : end]
            frames = self.encode(piece, torch.tensor([piece.shape[1]]))[0]
            pieces.append(frames[start - first : start - first + step])
        return torch.cat(pieces)


def convolution_span(
    kernels: Iterable[int], strides: Iterable[int]
) -> tuple[int, int]:
    """Compute the receptive field and hop of a stack of convolutions.

    Arguments
    ---------
    kernels : iterable of int
        Kernel size of each layer.
    strides : iterable of int
        Stride of each layer.

    Returns
    -------
    receptive_field : int
        Samples that one frame spans.
    hop : int
        Samples from one frame to the next.

    Example
    -------
    >>> convolution_span([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    (400, 320)
    """
    receptive_field, hop = 1, 1
    for kernel, stride in zip(kernels, strides):
        receptive_field += (kernel - 1) * hop
        hop *= stride
    return receptive_field, hop


def weights_fingerprint(module: torch.nn.Module) -> str:
    """Compute a fingerprint of a module's weights.

    Arguments
    ---------
    module : torch.nn.Module
        Module with the weights.

    Returns
    -------
    str
        First 16 hexadecimal digits of the SHA-256.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = weights_fingerprint(layer)
    >>> _ = torch.nn.init.zeros_(layer.bias)
    >>> before == weights_fingerprint(layer)
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        values = tensor.detach().cpu().contiguous()
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
