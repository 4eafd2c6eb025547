"""Speech tokens to waves, in the voice of a reference recording."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from speechbrain_emofilm.dataio.voices import Voice, read_voices
from speechbrain_emofilm.inference.token_to_wav import (
    TokenToWavBase,
    pad_items,
    start_stream,
)
from speechbrain_emofilm.processing.mel_speed import change_speed, check_speeds

import torch
from torch import nn


class PromptedTokenToWav(TokenToWavBase):
    """CosyVoice2's flow and vocoder, prompted with a reference recording.

    The voices are read on first use, because training does not need them.
    The emotion of the recording is audible in the speech, whatever emotion
    the words are given. Use one voice per emotion (``0011/happy``) to prompt
    the flow with a recording that agrees with the words; :meth:`decode_voices`
    is for sentences whose emotion changes.

    Arguments
    ---------
    mel_decoder : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.flow.CosyVoice2Flow`.
    vocoder : nn.Module
        A :class:`~speechbrain_emofilm.lobes.cosyvoice2.hift.HiFTGenerator`.
    voices : str or Path
        File written by :mod:`~speechbrain_emofilm.dataio.voices`. The default
        is the first neutral voice (``0011`` or ``0011/neutral``).
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
        self._added_voices: dict[str, Voice] = {}

    @cached_property
    def _stored_voices(self) -> dict[str, Voice]:
        if self._added_voices and not self.voices_file.exists():
            return {}
        return read_voices(self.voices_file)

    @property
    def voices(self) -> dict[str, Voice]:
        """Voices by name: those of the file, and those added."""
        return {**self._stored_voices, **self._added_voices}

    def voice_of(self, speaker: str) -> Voice:
        """Return a voice; see the base class."""
        return self.voices[speaker]

    def emotion_voices(self, speaker: str) -> dict[str, str]:
        """Look up the voices of a speaker: emotion to the voice's name.

        Arguments
        ---------
        speaker : str
            Name of the speaker (``0011``) or of one of its voices
            (``0011/happy``).

        Returns
        -------
        dict
            Emotion to the name of its voice. A voice without an emotion in
            its name is the neutral one if there is no other.

        Raises
        ------
        ValueError
            If the speaker is unknown, or has no neutral voice or no other.
        """
        speaker = speaker.partition("/")[0]
        names = [n for n in self.voices if n.partition("/")[0] == speaker]
        found = {n.partition("/")[2] or "neutral": n for n in sorted(names)}
        if not found:
            known = dict.fromkeys(n.partition("/")[0] for n in self.speakers)
            raise ValueError(
                f"The speaker {speaker!r} is not known: this model has "
                f"{', '.join(known)}."
            )
        if "neutral" not in found or len(found) == 1:
            raise ValueError(
                f"The speaker {speaker!r} has only the voices "
                f"{', '.join(names)}: reference='per_span' needs a neutral "
                "one and one of another emotion (extract_speaker_embeddings.py "
                "--reference matched)."
            )
        return found

    def check_new_voice(self, name: str) -> None:
        """Refuse an empty name; see the base class."""
        if not name.strip():
            raise ValueError("The voice has no name: give it one.")

    def add_voice(self, name: str, voice: Voice) -> None:
        """Take on a voice, under a new name or in place of another."""
        self._added_voices[name] = voice

    @property
    def speakers(self) -> list[str]:
        """Names of the voices; the first is the default, a neutral one."""
        return sorted(
            self.voices,
            key=lambda name: name.partition("/")[2] not in ("", "neutral"),
        )

    def decode_mels(
        self, tokens: Sequence[torch.Tensor], speakers: list[int], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate the mel spectrograms of a batch; see the base class."""
        names, known = self.speakers, self.voices
        voices = [known[names[speaker]] for speaker in speakers]
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

    @torch.no_grad()
    def decode_voices(
        self,
        tokens: Sequence[torch.Tensor],
        voices: Sequence[Sequence[str]],
        seed: int = 0,
        speed: float | Sequence[float] = 1.0,
    ) -> list[torch.Tensor]:
        """Generate the mel spectrograms of each item in several voices.

        All are one batch with the same noise. The voices of an item thus
        speak in time with each other: a frame of one may follow one of
        another.

        Arguments
        ---------
        tokens : list of torch.Tensor
            Speech tokens of each item, long, shape (T_i,).
        voices : list of list of str
            Names of each item's voices, V_i.
        seed : int
            Seed of the noise.
        speed : float or list of float
            As in :meth:`forward`. Give it here or to :meth:`vocode`, not to
            both.

        Returns
        -------
        list of torch.Tensor
            Log-mels of each item, shape (V_i, N_i, 80).

        Raises
        ------
        ValueError
            If a voice is unknown, an item has no tokens, or a speed is out of
            range.
        """
        speeds = check_speeds(speed, len(tokens))
        rows = [item for item, own in zip(tokens, voices) for _ in own]
        names = [name for own in voices for name in own]
        mels, lens = self.decode_mels(
            rows, self.speaker_ids(names, len(rows)), seed
        )
        n_frames = torch.round(lens * mels.size(1)).long().tolist()
        decoded, start = [], 0
        for own, own_speed in zip(voices, speeds):
            end = start + len(own)
            item = mels[start:end, : n_frames[start]]
            decoded.append(change_speed(item, own_speed))
            start = end
        return decoded

    def mel_stream(self, speaker: int, seed: int):
        """Start the mels of an utterance; see the base class."""
        voice = self.voices[self.speakers[speaker]]
        device = next(self.mel_decoder.parameters()).device
        return start_stream(
            self.mel_decoder,
            voice.xvector[None].to(device),
            prompt_tokens=voice.prompt_tokens[None].to(device),
            prompt_mel=voice.prompt_mel[None].to(device),
            n_timesteps=self.n_timesteps,
            seed=seed,
        )
