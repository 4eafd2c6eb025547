"""Speech tokens to waves, in the voice of a reference recording."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from speechbrain_emofilm.dataio.voices import Voice, read_voices
from speechbrain_emofilm.inference.token_to_wav import (
    TokenToWavBase,
    pad_items,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream
from speechbrain_emofilm.lobes.cosyvoice2.hift_stream import HiFTStream

import torch
from torch import nn


class PromptedTokenToWav(TokenToWavBase):
    """CosyVoice2's flow and vocoder, prompted with a reference recording.

    The voices are read on first use, because training does not need them.
    The emotion of the recording is audible in the speech, whatever emotion
    the words are given. Use one voice per emotion (``0011/happy``) to prompt
    the flow with a recording that agrees with the words.

    Arguments
    ---------
    mel_decoder : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.flow.CosyVoice2Flow`.
    vocoder : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.hift.HiFTGenerator`.
    voices : str or Path
        File written by :mod:`~speechbrain_emofilm.dataio.voices`. The first
        voice is the default.
    n_timesteps, sample_rate : int
        As in :class:`TokenToWavBase`.

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
        mel_decoder: nn.Module,
        vocoder: nn.Module,
        voices: str | Path,
        n_timesteps: int = 10,
        sample_rate: int = 24000,
    ):
        super().__init__(mel_decoder, vocoder, n_timesteps, sample_rate)
        self.voices_file = Path(voices)

    @cached_property
    def voices(self) -> dict[str, Voice]:
        """Voices by name."""
        return read_voices(self.voices_file)

    @property
    def speakers(self) -> list[str]:
        """Names of the voices; the first is the default."""
        return list(self.voices)

    def decode_mels(
        self, tokens: Sequence[torch.Tensor], speakers: list[int], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate the mel spectrograms of a batch; see the base class."""
        names = self.speakers
        voices = [self.voices[names[speaker]] for speaker in speakers]
        device = next(self.mel_decoder.parameters()).device
        padded, lens = pad_items(tokens, device)
        prompts, prompt_lens = pad_items(
            [voice.prompt_tokens for voice in voices], device
        )
        mels, _ = pad_items([voice.prompt_mel for voice in voices], device)
        return self.mel_decoder.inference(
            padded,
            lens,
            torch.stack([voice.xvector for voice in voices]).to(device),
            prompts,
            mels,
            n_timesteps=self.n_timesteps,
            seed=seed,
            prompt_lens=prompt_lens,
        )

    def stream(self, speaker: str | None = None, seed: int = 0) -> "WavStream":
        """Start an utterance whose tokens arrive later.

        Arguments
        ---------
        speaker : str, optional
            Name of a voice; the first if None.
        seed : int
            Seed of the noise.

        Raises
        ------
        ValueError
            If the voice is unknown.
        """
        (index,) = self.speaker_ids(speaker, 1)
        voice = self.voices[self.speakers[index]]
        device = next(self.mel_decoder.parameters()).device
        return WavStream(
            FlowStream(
                self.mel_decoder,
                voice.xvector[None].to(device),
                voice.prompt_tokens[None].to(device),
                voice.prompt_mel[None].to(device),
                n_timesteps=self.n_timesteps,
                seed=seed,
            ),
            HiFTStream(self.vocoder, seed),
        )


class WavStream:
    """Streaming synthesis of one utterance.

    Arguments
    ---------
    flow : FlowStream
        Turns tokens into mels.
    vocoder : HiFTStream
        Turns mels into a wave.
    """

    def __init__(self, flow: FlowStream, vocoder: HiFTStream):
        self._flow = flow
        self._vocoder = vocoder

    def push(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add tokens (T,) and return the wave that is ready (samples,)."""
        return self._vocoder.push(self._flow.push(tokens[None]))[0]

    def finish(self) -> torch.Tensor:
        """End the utterance and return the rest of its wave (samples,)."""
        last = self._vocoder.push(self._flow.finish())
        return torch.cat([last, self._vocoder.finish()], dim=1)[0]
