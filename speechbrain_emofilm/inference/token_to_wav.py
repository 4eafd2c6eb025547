"""Speech tokens to waves: a mel decoder followed by a vocoder."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from speechbrain_emofilm.dataio.voices import Voice

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class TokenToWavBase(nn.Module, ABC):
    """Base class of converters from 25 Hz speech tokens to waves.

    A subclass provides the names of its ``speakers``, and ``decode_mels``.

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

        Returns
        -------
        list of torch.Tensor
            Waves, shape (samples_i,).

        Raises
        ------
        ValueError
            If a speaker is unknown or an item has no tokens.
        """
        speakers = self.speaker_ids(speaker, len(tokens))
        mel, mel_lens = self.decode_mels(tokens, speakers, seed)
        return self.vocode(mel, mel_lens, seed)

    @torch.no_grad()
    def vocode(
        self, mel: torch.Tensor, lens: torch.Tensor, seed: int = 0
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

        Returns
        -------
        list of torch.Tensor
            Waves, shape (samples_i,).
        """
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
