"""From speech tokens to sound in a voice that a recording gives."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from speechbrain_emofilm.dataio.voices import Voice, read_voices
from speechbrain_emofilm.inference.token_to_wav import TokenToWav
from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream
from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence


class PromptedTokenToWav(TokenToWav):
    """CosyVoice2's flow and vocoder, prompted with a reference recording.

    The voices are read when the first speech is made: training needs none.
    The recording's emotion is heard in the speech, whatever the words are
    asked for; a voice for each emotion (``0011/happy``) gives the flow a
    recording that agrees with the words.

    Arguments
    ---------
    flow : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.flow.CosyVoice2Flow`.
    vocoder : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.hift.HiFTGenerator`.
    voices : str or Path
        File of :mod:`~speechbrain_emofilm.dataio.voices`. The first name is
        the default.
    n_timesteps : int
        Steps of the flow's solver.
    sample_rate : int
        Samples per second of the vocoder.

    Example
    -------
    >>> token_to_wav = PromptedTokenToWav(
    ...     flow, vocoder, "results/prepared/voices_neutral.safetensors"
    ... )  # doctest: +SKIP
    >>> (wav,) = token_to_wav([torch.ones(25).long()])  # doctest: +SKIP
    >>> wav.shape  # doctest: +SKIP
    torch.Size([24000])
    """

    def __init__(
        self,
        flow: nn.Module,
        vocoder: nn.Module,
        voices: str | Path,
        n_timesteps: int = 10,
        sample_rate: int = 24000,
    ):
        # Not TokenToWav's, which takes the voices themselves.
        nn.Module.__init__(self)
        self.flow = flow
        self.vocoder = vocoder
        self.voices_file = Path(voices)
        self.n_timesteps = n_timesteps
        self.sample_rate = sample_rate

    @cached_property
    def voices(self) -> dict[str, Voice]:
        """The voices by name."""
        return read_voices(self.voices_file)

    @property
    def speakers(self) -> list[str]:
        """Names of the voices; the first is the default."""
        return list(self.voices)

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
            One voice for all, or one for each item; the first if None.
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
            If a voice is unknown or an item has no tokens.
        """
        voices = self._chosen(speaker, len(tokens))
        device = next(self.flow.parameters()).device
        padded, lens = _pad(tokens, device)
        prompts, prompt_lens = _pad([v.prompt_tokens for v in voices], device)
        mels, _ = _pad([v.prompt_mel for v in voices], device)
        mel, mel_lens = self.flow.inference(
            padded,
            lens,
            torch.stack([v.xvector for v in voices]).to(device),
            prompts,
            mels,
            n_timesteps=self.n_timesteps,
            seed=seed,
            prompt_lens=prompt_lens,
        )
        wavs = self.vocoder(mel, mel_lens, seed=seed)
        n_samples = torch.round(mel_lens * wavs.shape[1]).long().tolist()
        return [wav[:end] for wav, end in zip(wavs, n_samples)]

    def stream(self, speaker: str | None = None, seed: int = 0) -> "WavStream":
        """Begins an utterance whose tokens are still to come.

        Arguments
        ---------
        speaker : str, optional
            A voice; the first if None.
        seed : int
            Of the noise.

        Raises
        ------
        ValueError
            If the voice is unknown.
        """
        (voice,) = self._chosen(speaker, 1)
        device = next(self.flow.parameters()).device
        return WavStream(
            FlowStream(
                self.flow,
                voice.xvector[None].to(device),
                voice.prompt_tokens[None].to(device),
                voice.prompt_mel[None].to(device),
                n_timesteps=self.n_timesteps,
                seed=seed,
            ),
            HiFTStream(self.vocoder, seed),
        )

    def _chosen(
        self, speaker: str | Sequence[str] | None, n_items: int
    ) -> list[Voice]:
        """The voice of each item."""
        voices = list(self.voices.values())
        return [voices[i] for i in self.speaker_ids(speaker, n_items)]


class WavStream:
    """One utterance: tokens go in, sound comes out.

    Arguments
    ---------
    flow : FlowStream
        Tokens to mels.
    vocoder : HiFTStream
        Mels to wave.
    """

    def __init__(self, flow: FlowStream, vocoder: HiFTStream):
        self._flow = flow
        self._vocoder = vocoder

    def push(self, tokens: torch.Tensor) -> torch.Tensor:
        """Takes new tokens (T,); returns what can be said by now (samples,)."""
        return self._vocoder.push(self._flow.push(tokens[None]))[0]

    def finish(self) -> torch.Tensor:
        """Ends the speech; returns the rest of the wave (samples,)."""
        last = self._vocoder.push(self._flow.finish())
        return torch.cat([last, self._vocoder.finish()], dim=1)[0]


def _pad(items, device):
    """Pads items; returns them with their relative lengths."""
    sizes = torch.tensor([len(item) for item in items], device=device)
    if not sizes.all():
        raise ValueError(
            f"Item {int(sizes.argmin())} has no speech tokens: give at least "
            "one token to be spoken, and a prompt."
        )
    padded = pad_sequence([item.to(device) for item in items], True)
    return padded, sizes / sizes.max()
