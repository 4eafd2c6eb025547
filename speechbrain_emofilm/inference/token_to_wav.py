"""From speech tokens to sound: flow matching, then a vocoder."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class TokenToWav(nn.Module):
    """Turns 25 Hz speech tokens into waves, in the voice of a speaker.

    Arguments
    ---------
    flow : nn.Module
        ``inference(tokens (B, T), lens (B,), xvector (B, D), n_timesteps=,
        seed=) -> (mel (B, N, 80), lens (B,))``.
    vocoder : nn.Module
        ``forward(mel (B, N, 80), lens (B,), seed=) -> wav (B, samples)``.
    speakers : dict
        Name of each speaker to its x-vector (D,). In hparams:
        ``!apply:safetensors.torch.load_file`` of a file of such tensors. The
        first is the default.
    n_timesteps : int
        Steps of the flow's solver.
    sample_rate : int
        Samples per second of the vocoder.

    Raises
    ------
    ValueError
        If there is no speaker, or their x-vectors have different sizes.

    Example
    -------
    >>> class Flow(nn.Module):
    ...     def inference(self, tokens, lens, xvector, n_timesteps, seed):
    ...         mel = tokens.repeat_interleave(2, 1)[..., None].float()
    ...         return mel.expand(-1, -1, 80), lens
    >>> class Vocoder(nn.Module):
    ...     def forward(self, mel, lens, seed):
    ...         return mel[..., 0].repeat_interleave(480, 1)
    >>> speakers = {"0011": torch.zeros(192)}
    >>> token_to_wav = TokenToWav(Flow(), Vocoder(), speakers)
    >>> wavs = token_to_wav([torch.ones(25).long(), torch.ones(50).long()])
    >>> [wav.shape for wav in wavs]
    [torch.Size([24000]), torch.Size([48000])]
    """

    def __init__(
        self,
        flow: nn.Module,
        vocoder: nn.Module,
        speakers: Mapping[str, torch.Tensor],
        n_timesteps: int = 10,
        sample_rate: int = 24000,
    ):
        super().__init__()
        sizes = sorted({tuple(xvector.shape) for xvector in speakers.values()})
        if len(sizes) != 1 or len(sizes[0]) != 1:
            raise ValueError(
                f"TokenToWav has {len(speakers)} speakers with x-vectors of "
                f"the shapes {sizes}: give at least one speaker, and vectors "
                "(D,) of one size."
            )
        self.flow = flow
        self.vocoder = vocoder
        self.n_timesteps = n_timesteps
        self.sample_rate = sample_rate
        self.speakers = list(speakers)
        # Made by the caller, not trained: it belongs to no checkpoint.
        self.register_buffer(
            "xvectors",
            torch.stack([x.float() for x in speakers.values()]),
            persistent=False,
        )

    @torch.no_grad()
    def forward(
        self,
        tokens: Sequence[torch.Tensor],
        speaker: str | Sequence[str] | None = None,
        seed: int = 0,
    ) -> list[torch.Tensor]:
        """Generates the waves of a batch.

        Arguments
        ---------
        tokens : list of torch.Tensor
            Speech tokens of each item, (T_i,) long.
        speaker : str or list of str, optional
            One name for all, or one for each item; the first speaker if None.
        seed : int
            Of the noise; the same for every item, so that an item sounds the
            same alone and in a batch.

        Returns
        -------
        list of torch.Tensor
            Waves (samples_i,).

        Raises
        ------
        ValueError
            If a speaker is unknown or an item has no tokens.
        """
        xvectors = self.xvectors[self.speaker_ids(speaker, len(tokens))]
        n_tokens = [len(item) for item in tokens]
        if 0 in n_tokens:
            raise ValueError(
                f"Item {n_tokens.index(0)} has no speech tokens: give at "
                "least one token to be spoken."
            )
        padded = pad_sequence(list(tokens), batch_first=True)
        padded = padded.to(xvectors.device)
        lens = torch.tensor(n_tokens, device=padded.device) / max(n_tokens)
        mel, mel_lens = self.flow.inference(
            padded, lens, xvectors, n_timesteps=self.n_timesteps, seed=seed
        )
        wavs = self.vocoder(mel, mel_lens, seed=seed)
        n_samples = torch.round(mel_lens * wavs.shape[1]).long().tolist()
        return [wav[:end] for wav, end in zip(wavs, n_samples)]

    def speaker_ids(
        self, speaker: str | Sequence[str] | None, n_items: int
    ) -> list[int]:
        """Finds the speaker of each item.

        Arguments
        ---------
        speaker : str or list of str, optional
            As in :meth:`forward`.
        n_items : int
            Number of items.

        Returns
        -------
        list of int
            The index of each item's speaker.

        Raises
        ------
        ValueError
            If a name is unknown, or there are not as many as items.
        """
        if speaker is None:
            speaker = self.speakers[0]
        names = [speaker] * n_items if isinstance(speaker, str) else speaker
        if len(names) != n_items:
            raise ValueError(
                f"{len(names)} speakers were given for {n_items} items: give "
                "one name, or one for each item."
            )
        for name in names:
            if name not in self.speakers:
                raise ValueError(
                    f"The speaker {name!r} is not known: this model has "
                    f"{', '.join(self.speakers)}."
                )
        return [self.speakers.index(name) for name in names]
