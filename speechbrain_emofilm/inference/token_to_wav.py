"""Speech tokens to waves: a mel decoder followed by a vocoder."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from speechbrain_emofilm.dataio.voices import Voice
from speechbrain_emofilm.lobes.cosyvoice2.flow_encoder import FRAMES_PER_TOKEN
from speechbrain_emofilm.processing.mel_speed import (
    MelSpeedStream,
    change_speed,
    check_speeds,
)

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class TokenToWavBase(nn.Module, ABC):
    """Base class of converters from 25 Hz speech tokens to waves.

    A subclass provides the names of its ``speakers``, ``decode_mels`` and, to
    be streamed, ``mel_stream``.

    Arguments
    ---------
    mel_decoder : nn.Module
        Maps speech tokens to mel spectrograms.
    vocoder : nn.Module
        ``forward(mel (B, N, 80), lens (B,), seed=) -> wav (B, samples)``.
    n_timesteps : int
        Number of solver steps of a flow-matching ``mel_decoder``.
    sample_rate : int
        Sampling rate of the vocoder in Hz.
    """

    def __init__(
        self,
        mel_decoder: nn.Module,
        vocoder: nn.Module,
        n_timesteps: int = 10,
        sample_rate: int = 24000,
    ):
        super().__init__()
        self.mel_decoder = mel_decoder
        self.vocoder = vocoder
        self.n_timesteps = n_timesteps
        self.sample_rate = sample_rate

    @property
    @abstractmethod
    def speakers(self) -> Sequence[str]:
        """Names of the speakers; the first is the default."""

    @abstractmethod
    def decode_mels(
        self, tokens: Sequence[torch.Tensor], speakers: list[int], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate the mel spectrograms of a batch.

        Arguments
        ---------
        tokens : list of torch.Tensor
            Speech tokens of each item, long, shape (T_i,).
        speakers : list of int
            Index of each item's speaker.
        seed : int
            Seed of the noise.

        Returns
        -------
        mel : torch.Tensor
            Shape (B, N, 80).
        lens : torch.Tensor
            Relative lengths of the spectrograms, shape (B,).
        """

    @torch.no_grad()
    def forward(
        self,
        tokens: Sequence[torch.Tensor],
        speaker: str | Sequence[str] | None = None,
        seed: int = 0,
        speed: float | Sequence[float] = 1.0,
    ) -> list[torch.Tensor]:
        """Generate the waves of a batch.

        Arguments
        ---------
        tokens : list of torch.Tensor
            Speech tokens of each item, long, shape (T_i,).
        speaker : str or list of str, optional
            One name for all items, or one for each; the first speaker if None.
        seed : int
            Seed of the noise. All items share the noise, so that an item
            sounds the same alone and in a batch.
        speed : float or list of float
            Speed of all items, or of each, from 0.5 to 2; the pitch stays. As
            in CosyVoice, the mel of N frames is interpolated to
            int(N / speed) frames (at least 2).

        Returns
        -------
        list of torch.Tensor
            Waves, shape (samples_i,).

        Raises
        ------
        ValueError
            If a speaker is unknown, an item has no tokens, or a speed is out
            of range.
        """
        speeds = check_speeds(speed, len(tokens))
        speakers = self.speaker_ids(speaker, len(tokens))
        mel, mel_lens = self.decode_mels(tokens, speakers, seed)
        return self.vocode(mel, mel_lens, seed, speeds)

    @property
    def streams_exactly(self) -> bool:
        """Whether streams sound like whole utterances, but for rounding."""
        return False

    def mel_stream(self, speaker: int, seed: int):
        """Start the mels of an utterance whose tokens arrive later.

        Arguments
        ---------
        speaker : int
            Index of the speaker.
        seed : int
            Seed of the noise.

        Returns
        -------
        object
            ``push(tokens (1, T)) -> mel (1, N, 80)`` adds tokens and returns
            the mels that are ready, often none; ``finish()`` returns the rest.

        Raises
        ------
        ValueError
            If this class or its mel decoder cannot decode piece by piece.
        """
        raise ValueError(
            f"{type(self).__name__} cannot decode speech tokens piece by "
            "piece: it has no method mel_stream()."
        )

    def stream(
        self, speaker: str | None = None, seed: int = 0, speed: float = 1.0
    ) -> "WavStream":
        """Start an utterance whose tokens arrive later.

        Arguments
        ---------
        speaker : str, optional
            Name of the speaker; the first if None.
        seed : int
            Seed of the noise.
        speed : float
            As in :meth:`forward`, but for the positions at which the mel is
            read, which ``MelSpeedStream`` describes.

        Returns
        -------
        WavStream
            Its ``push`` and ``finish`` return the wave piece by piece.

        Raises
        ------
        ValueError
            If the speaker is unknown, the speed is out of range, or the mel
            decoder or the vocoder cannot run piece by piece.
        """
        (speed,) = check_speeds(speed, 1)
        (index,) = self.speaker_ids(speaker, 1)
        mels = self.mel_stream(index, seed)
        vocoder = start_stream(self.vocoder, seed=seed)
        device = next(self.mel_decoder.parameters()).device
        return WavStream(mels, vocoder, speed, device)

    @torch.no_grad()
    def vocode(
        self,
        mel: torch.Tensor,
        lens: torch.Tensor,
        seed: int = 0,
        speed: float | Sequence[float] = 1.0,
    ) -> list[torch.Tensor]:
        """Turn the mel spectrograms of a batch into waves.

        Arguments
        ---------
        mel : torch.Tensor
            Shape (B, N, 80).
        lens : torch.Tensor
            Relative lengths of the spectrograms, shape (B,).
        seed : int
            Seed of the noise.
        speed : float or list of float
            As in :meth:`forward`.

        Returns
        -------
        list of torch.Tensor
            Waves, shape (samples_i,).

        Raises
        ------
        ValueError
            If a speed is out of range.
        """
        speeds = check_speeds(speed, len(mel))
        if set(speeds) != {1.0}:
            n_frames = torch.round(lens * mel.shape[1]).long().tolist()
            mels = [
                change_speed(item[:n], own)
                for item, n, own in zip(mel, n_frames, speeds)
            ]
            mel, lens = pad_items(mels, mel.device)
        wavs = self.vocoder(mel, lens, seed=seed)
        n_samples = torch.round(lens * wavs.shape[1]).long().tolist()
        return [wav[:end] for wav, end in zip(wavs, n_samples)]

    def voice_of(self, speaker: str) -> Voice | None:
        """Return the recorded voice of a speaker; None without recordings."""
        return None

    def emotion_voices(self, speaker: str) -> dict[str, str]:
        """Look up the voices of a speaker: emotion to the voice's name.

        Raises
        ------
        ValueError
            If the speaker has no voices of several emotions.
        """
        raise ValueError(
            f"This model has fixed speakers ({', '.join(self.speakers)}) "
            "without a voice for each emotion: use reference=None, or a "
            "CosyVoice2 model."
        )

    def check_new_voice(self, name: str) -> None:
        """Check that a voice of this name can be added.

        Raises
        ------
        ValueError
            If the model speaks with fixed speakers, or the name is empty.
        """
        raise ValueError(
            f"This model has fixed speakers ({', '.join(self.speakers)}) and "
            "cannot take on the voice of a recording: use a CosyVoice2 model."
        )

    def speaker_ids(
        self, speaker: str | Sequence[str] | None, n_items: int
    ) -> list[int]:
        """Look up the index of each item's speaker, as in :meth:`forward`.

        Raises
        ------
        ValueError
            If a name is unknown, or the numbers of names and items differ.
        """
        known = list(self.speakers)
        if speaker is None:
            speaker = known[0]
        names = [speaker] * n_items if isinstance(speaker, str) else speaker
        if len(names) != n_items:
            raise ValueError(
                f"{len(names)} speakers were given for {n_items} items: give "
                "one name, or one for each item."
            )
        for name in names:
            if name not in known:
                raise ValueError(
                    f"The speaker {name!r} is not known: this model has "
                    f"{', '.join(known)}."
                )
        return [known.index(name) for name in names]


class TokenToWav(TokenToWavBase):
    """Turn 25 Hz speech tokens into waves, with an x-vector as the voice.

    Arguments
    ---------
    mel_decoder : nn.Module
        ``inference(tokens (B, T), lens (B,), xvector (B, D), n_timesteps=,
        seed=) -> (mel (B, N, 80), lens (B,))``.
    speakers : dict
        X-vector (D,) of each speaker by name; the first is the default.
    vocoder, n_timesteps, sample_rate
        As in :class:`TokenToWavBase`.

    Raises
    ------
    ValueError
        If there is no speaker, or the x-vectors have different sizes.

    Example
    -------
    >>> class MelDecoder(nn.Module):
    ...     def inference(self, tokens, lens, xvector, n_timesteps, seed):
    ...         mel = tokens.repeat_interleave(2, 1)[..., None].float()
    ...         return mel.expand(-1, -1, 80), lens
    >>> class Vocoder(nn.Module):
    ...     def forward(self, mel, lens, seed):
    ...         return mel[..., 0].repeat_interleave(480, 1)
    >>> speakers = {"0011": torch.zeros(192)}
    >>> token_to_wav = TokenToWav(MelDecoder(), Vocoder(), speakers)
    >>> wavs = token_to_wav([torch.ones(25).long(), torch.ones(50).long()])
    >>> [wav.shape for wav in wavs]
    [torch.Size([24000]), torch.Size([48000])]
    >>> (wav,) = token_to_wav([torch.ones(25).long()], speed=1.25)
    >>> wav.shape
    torch.Size([19200])
    """

    speakers: Sequence[str] = ()

    def __init__(
        self,
        mel_decoder: nn.Module,
        vocoder: nn.Module,
        speakers: Mapping[str, torch.Tensor],
        n_timesteps: int = 10,
        sample_rate: int = 24000,
    ):
        super().__init__(mel_decoder, vocoder, n_timesteps, sample_rate)
        sizes = sorted({tuple(xvector.shape) for xvector in speakers.values()})
        if len(sizes) != 1 or len(sizes[0]) != 1:
            raise ValueError(
                f"TokenToWav has {len(speakers)} speakers with x-vectors of "
                f"the shapes {sizes}: give at least one speaker, and vectors "
                "(D,) of one size."
            )
        self.speakers = list(speakers)
        # Given by the caller and not trained: not part of a checkpoint.
        self.register_buffer(
            "xvectors",
            torch.stack([x.float() for x in speakers.values()]),
            persistent=False,
        )

    def decode_mels(
        self, tokens: Sequence[torch.Tensor], speakers: list[int], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate the mel spectrograms of a batch; see the base class."""
        padded, lens = pad_items(tokens, self.xvectors.device)
        return self.mel_decoder.inference(
            padded,
            lens,
            self.xvectors[speakers],
            n_timesteps=self.n_timesteps,
            seed=seed,
        )

    @property
    def streams_exactly(self) -> bool:
        """Whether streams sound like whole utterances; see the base class."""
        return getattr(self.mel_decoder, "streams_exactly", False)

    def mel_stream(self, speaker: int, seed: int):
        """Start the mels of an utterance; see the base class.

        The ``mel_decoder`` needs a method ``stream(xvector (1, D),
        n_timesteps=, seed=)``. ``RegressionDecoder`` gives the same mels as
        for whole utterances; ``CosyVoice2Flow`` attends to chunks.
        """
        return start_stream(
            self.mel_decoder,
            self.xvectors[speaker : speaker + 1],
            n_timesteps=self.n_timesteps,
            seed=seed,
        )


class WavStream:
    """Streaming synthesis of one utterance.

    Arguments
    ---------
    mels : object
        ``push(tokens (1, T)) -> mel (1, N, 80)``, ``finish() -> mel`` and
        ``look_ahead``, the mel frames by which the mels stay behind.
    vocoder : object
        ``push(mel (1, N, 80)) -> wav (1, samples)``, ``finish() -> wav`` and
        ``look_ahead``, the mel frames by which the wave stays behind.
    speed : float
        Speed, as in ``MelSpeedStream``.
    device : torch.device, optional
        Device of the mel decoder, to which tokens are moved.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.mini.harmonic_noise_vocoder import (
    ...     HarmonicNoiseVocoder,
    ... )
    >>> from speechbrain_emofilm.lobes.mini.token_decoder import (
    ...     RegressionDecoder,
    ... )
    >>> token_to_wav = TokenToWav(
    ...     RegressionDecoder(channels=16, n_blocks=1, speaker_dim=4),
    ...     HarmonicNoiseVocoder(channels=16),
    ...     {"0011": torch.ones(4)},
    ... ).eval()
    >>> tokens = torch.arange(45)
    >>> stream = token_to_wav.stream("0011")
    >>> parts = [stream.push(part) for part in tokens.split(15)]
    >>> [len(part) // 960 for part in parts], stream.look_ahead
    ([1, 15, 15], 14)
    >>> parts.append(stream.finish())
    >>> whole = token_to_wav([tokens])[0]
    >>> torch.allclose(torch.cat(parts), whole, atol=1e-4)
    True
    """

    def __init__(
        self,
        mels,
        vocoder,
        speed: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        self._device = device
        self._mels = mels
        self._vocoder = vocoder
        self._speed = MelSpeedStream(speed)

    @property
    def look_ahead(self) -> int:
        """Tokens after a token that must be known before its sound comes.

        For chunks this is the most; a token is 40 ms of speech.
        """
        speed = self._speed.speed
        frames = self._mels.look_ahead + speed * self._vocoder.look_ahead
        # Interpolation needs the frame after.
        frames += speed != 1
        return math.ceil(frames / FRAMES_PER_TOKEN)

    def push(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add tokens (T,) and return the wave that is ready (samples,).

        Raises
        ------
        ValueError
            If the stream has been finished.
        """
        mel = self._mels.push(tokens[None].to(self._device))
        return self._vocoder.push(self._speed.push(mel))[0]

    def finish(self, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """End the utterance and return the rest of its wave (samples,).

        Arguments
        ---------
        tokens : torch.Tensor, optional
            Its last tokens (T,), which costs less than to push them before.
        """
        if tokens is None or not len(tokens):
            mel = self._mels.finish()
        else:
            mel = _finish(self._mels, tokens[None].to(self._device))
        mel = self._speed.push(mel)
        rest = self._speed.finish()
        if rest is not None:
            mel = torch.cat([mel, rest], dim=1)
        return _finish(self._vocoder, mel)[0]


def _finish(stream, piece: torch.Tensor) -> torch.Tensor:
    """End a stream with its last piece; in one go, if it can."""
    if getattr(stream, "finishes_with_input", False):
        return stream.finish(piece)
    return torch.cat([stream.push(piece), stream.finish()], dim=1)


def start_stream(module: nn.Module, *inputs, **options):
    """Start the stream of a mel decoder or vocoder.

    Raises
    ------
    ValueError
        If the module cannot run piece by piece.

    Example
    -------
    >>> start_stream(nn.Identity(), seed=0)
    Traceback (most recent call last):
    ...
    ValueError: Identity cannot run piece by piece: it has no method stream()...
    """
    if not hasattr(module, "stream"):
        raise ValueError(
            f"{type(module).__name__} cannot run piece by piece: it has no "
            "method stream(); synthesise whole utterances, or use another one."
        )
    return module.stream(*inputs, **options)


def pad_items(
    items: Sequence[torch.Tensor], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad the tokens, or the prompts, of a batch.

    Arguments
    ---------
    items : list of torch.Tensor
        Shape (T_i, ...).
    device : torch.device
        Device of the results.

    Returns
    -------
    padded : torch.Tensor
        Shape (B, T, ...).
    lens : torch.Tensor
        Relative lengths, shape (B,).

    Raises
    ------
    ValueError
        If an item is empty.

    Example
    -------
    >>> pad_items([torch.tensor([5, 7]), torch.tensor([9])], "cpu")
    (tensor([[5, 7],
            [9, 0]]), tensor([1.0000, 0.5000]))
    """
    sizes = torch.tensor([len(item) for item in items], device=device)
    if not sizes.all():
        raise ValueError(
            f"Item {int(sizes.argmin())} has no speech tokens: give at least "
            "one token to be spoken, and a prompt."
        )
    padded = pad_sequence([item.to(device) for item in items], True)
    return padded, sizes / sizes.max()
