"""Regression from speech tokens to log-mel: light, without flow matching."""

from speechbrain_emofilm.lobes.mini.decoder_stream import RegressionStream
from speechbrain_emofilm.lobes.mini.fsq import FSQ
from speechbrain_emofilm.lobes.mini.speech_tokenizer import MelDecoder

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class RegressionDecoder(MelDecoder):
    """Decoder of the mean log-mel of speech tokens, given the speaker.

    Convolutional and deterministic. It has the interface of
    ``CosyVoice2Flow``, so that either decodes the tokens of a backbone; flow
    matching gives sharper speech but needs far more training.

    Arguments
    ---------
    channels, n_blocks, n_mels : int
        As in ``MelDecoder``.
    speaker_dim : int
        Size of the speaker vector.
    mel_mean, mel_std : float
        Mean and standard deviation of log-mels.

    Example
    -------
    >>> decoder = RegressionDecoder(channels=16, speaker_dim=4)
    >>> tokens, lens = torch.randint(6561, (2, 5)), torch.tensor([1.0, 0.6])
    >>> mel, mel_lens = decoder.inference(tokens, lens, torch.randn(2, 4))
    >>> mel.shape, mel_lens
    (torch.Size([2, 10, 80]), tensor([1.0000, 0.6000]))
    """

    #: A stream gives the same mels as a whole utterance.
    streams_exactly = True

    def __init__(
        self,
        channels: int = 192,
        n_blocks: int = 3,
        speaker_dim: int = 160,
        n_mels: int = 80,
        mel_mean: float = -6.0,
        mel_std: float = 2.5,
    ):
        speaker = nn.Linear(speaker_dim, channels)
        super().__init__(speaker, channels, n_blocks, n_mels)
        self.mel_mean, self.mel_std = mel_mean, mel_std
        self.fsq = FSQ()

    def forward(
        self, tokens: torch.Tensor, xvector: torch.Tensor
    ) -> torch.Tensor:
        """Decode segments without padding.

        Arguments
        ---------
        tokens : torch.Tensor
            (B, S) in 0..6560.
        xvector : torch.Tensor
            (B, speaker_dim).

        Returns
        -------
        torch.Tensor
            (B, 2 S, n_mels) natural-log mel.
        """
        codes = self.fsq.from_id(tokens)
        return self.log_mel(self.decode(codes, self.unit_speaker(xvector)))

    def unit_speaker(self, xvector: torch.Tensor) -> torch.Tensor:
        """Scale speaker vectors (B, speaker_dim) to length 1."""
        return F.normalize(xvector, dim=1)

    def log_mel(self, normalised: torch.Tensor) -> torch.Tensor:
        """Map normalised mels (B, N, n_mels) to natural-log ones."""
        return normalised * self.mel_std + self.mel_mean

    def stream(
        self,
        xvector: torch.Tensor,
        n_timesteps: int | None = None,
        seed: int | None = None,
    ) -> RegressionStream:
        """Start an utterance whose tokens arrive later.

        Arguments
        ---------
        xvector : torch.Tensor
            (1, speaker_dim).
        n_timesteps, seed
            As in :meth:`inference`.

        Returns
        -------
        RegressionStream
            Its ``push`` and ``finish`` return the mels of :meth:`inference`
            piece by piece.
        """
        return RegressionStream(self, xvector)

    @torch.no_grad()
    def inference(
        self,
        tokens: torch.Tensor,
        lens: torch.Tensor,
        xvector: torch.Tensor,
        n_timesteps: int | None = None,
        seed: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode a batch; each item equals the item alone.

        Arguments
        ---------
        tokens : torch.Tensor
            (B, S), padded.
        lens : torch.Tensor
            (B,) relative lengths.
        xvector : torch.Tensor
            (B, speaker_dim).
        n_timesteps : int, optional
            Steps of flow matching; not used here.
        seed : int, optional
            Seed of flow matching; not used, as nothing is random here.

        Returns
        -------
        mel : torch.Tensor
            (B, 2 S, n_mels), zero in the padding.
        lens : torch.Tensor
            (B,) relative lengths of the mel.
        """
        n_tokens = torch.round(lens * tokens.shape[1]).long().tolist()
        mels = [
            self(item[None, :n], vector[None])[0]
            for item, n, vector in zip(tokens, n_tokens, xvector)
        ]
        return pad_sequence(mels, batch_first=True), lens
