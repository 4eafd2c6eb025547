"""Speech of several rows at once, which join and leave between two tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import MarkedText, parse_markup
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    SpeechDecoding,
    Utterance,
)
from speechbrain_emofilm.serve.engine import Row, Said

import numpy as np
import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Tokens (of 40 ms) after which a stream's sound is made: the first time, so
#: that it begins soon, and later, so that little is computed twice.
FIRST_TOKENS, NEXT_TOKENS = 16, 25


@dataclass
class _Spoken:
    """A row that is being spoken."""

    row: Row
    request: Any  # of the synthesizer: text, units and emotions
    speaker: str
    stream: Any = None  # of token_to_wav; None if the sound is made at the end
    tokens: list[int] = field(default_factory=list)
    n_pushed: int = 0
    wavs: list[torch.Tensor] = field(default_factory=list)

    def is_due(self) -> bool:
        """Check whether there are enough tokens for the next sound."""
        n_new = len(self.tokens) - self.n_pushed
        return n_new >= (NEXT_TOKENS if self.n_pushed else FIRST_TOKENS)

    def new_tokens(self) -> torch.Tensor:
        """Return the tokens that have not been made sound (T,)."""
        new = self.tokens[self.n_pushed :]
        self.n_pushed = len(self.tokens)
        return torch.tensor(new, dtype=torch.long)


class ContinuousSpeaker:
    """Row speaker that draws one token of every row in each step.

    A new row does not wait for the others' end. The sound of rows that are
    streamed is made bit by bit, that of others at their end, for all that
    end together.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    max_rows : int
        Greatest number of rows.
    """

    def __init__(self, synthesizer, max_rows: int = 16):
        self.synthesizer = synthesizer
        self.max_rows = max_rows
        options = dict(synthesizer._generation)
        self._limits = {
            name: options.pop(name)
            for name in ("min_ratio", "max_ratio")
            if name in options
        }
        self._decoding = SpeechDecoding(synthesizer.mods.emofilm.llm, **options)
        self._rows: dict[int, _Spoken] = {}
        self._refused: list[Said] = []

    @property
    def room(self) -> int:
        """Number of rows that can join now."""
        return self.max_rows - len(self._rows)

    @torch.no_grad()
    def join(self, rows: Sequence[Row]) -> None:
        """Take on rows; what is wrong with one is told by the next step."""
        for row in rows:
            try:
                spoken, utterance = self._read(row)
            except ValueError as error:
                self._refused.append(Said(row.key, error=error))
                continue
            self._rows[row.key] = spoken
            self._decoding.join([utterance])

    def leave(self, key: int) -> None:
        """Drop a row, if it is still there."""
        self._refused = [said for said in self._refused if said.key != key]
        if self._rows.pop(key, None) is not None:
            self._decoding.leave(key)

    @torch.no_grad()
    def step(self) -> list[Said]:
        """Draw one token of every row and return the sound that is ready."""
        said, self._refused = self._refused, []
        ended = []
        with self.synthesizer.inference_ctx:
            drawn = self._decoding.step()
        for key, token, is_last, _ in drawn:
            spoken = self._rows[key]
            if token is not None:
                spoken.tokens.append(token)
                if is_last:
                    logger.warning("Speech did not end by itself and was cut.")
            if is_last:
                ended.append(self._rows.pop(key))
            elif spoken.stream is not None and spoken.is_due():
                wav = self._sound(spoken, spoken.stream.push)
                if len(wav):
                    rate = self.synthesizer.mods.token_to_wav.sample_rate
                    said.append(Said(key, wav.numpy(), rate, last=False))
        return said + self._finish(ended)

    def _sound(self, spoken: _Spoken, make) -> torch.Tensor:
        """Make sound (samples,) of a stream's new tokens."""
        with self.synthesizer.inference_ctx:
            wav = make(spoken.new_tokens().to(self.synthesizer.device))
        spoken.wavs.append(wav.float().cpu())
        return spoken.wavs[-1]

    def _finish(self, ended: Sequence[_Spoken]) -> list[Said]:
        """Make the rest of the sound of rows, and find their words."""
        said = []
        whole = [s for s in ended if s.stream is None and s.tokens]
        wavs = {}
        if whole:
            token_to_wav = self.synthesizer.mods.token_to_wav
            with self.synthesizer.inference_ctx:
                made = token_to_wav(
                    [s.new_tokens() for s in whole],
                    [s.speaker for s in whole],
                    speed=[s.row.speaking.speed for s in whole],
                )
            wavs = {s.row.key: wav.float().cpu() for s, wav in zip(whole, made)}
        for spoken in ended:
            if not spoken.tokens:
                error = ValueError("The model says nothing for this text.")
                said.append(Said(spoken.row.key, error=error))
                continue
            if spoken.stream is not None:
                self._sound(spoken, spoken.stream.push)
                with self.synthesizer.inference_ctx:
                    rest = spoken.stream.finish()
                spoken.wavs.append(rest.float().cpu())
                wav = torch.cat(spoken.wavs[-2:])
                heard = torch.cat(spoken.wavs)
            else:
                wav = heard = wavs[spoken.row.key]
            said.append(self._last(spoken, wav, heard))
        return said

    def _last(
        self, spoken: _Spoken, wav: torch.Tensor, heard: torch.Tensor
    ) -> Said:
        """Return the last part of a row, with the times of its words."""
        row = spoken.row
        rate = self.synthesizer.mods.token_to_wav.sample_rate
        if not row.timed:
            return Said(row.key, wav.numpy(), rate)
        words, source = self.synthesizer._word_times(
            spoken.request, heard, rate
        )
        words = words_of_text(self.synthesizer, row.text, words)
        return Said(row.key, wav.numpy(), rate, words, source)

    def _read(self, row: Row) -> tuple[_Spoken, Utterance]:
        """Prepare a row; ValueError if its text cannot be spoken."""
        synthesizer, speaking = self.synthesizer, row.speaking
        speaker = speaking.voice or synthesizer.speakers[0]
        request = synthesizer._read(row.text, "unlabelled", 1.0)
        prompt = synthesizer._prompt(
            speaker, None, request.instruction or speaking.instruction
        )
        spoken = _Spoken(row, request, speaker)
        if row.streaming:
            token_to_wav = synthesizer.mods.token_to_wav
            try:
                spoken.stream = token_to_wav.stream(
                    speaker, speed=speaking.speed
                )
            except ValueError as error:
                logger.warning("Sound comes sentence by sentence: %s", error)
        return spoken, self._utterance(row, request, prompt)

    def _utterance(self, row: Row, request, prompt) -> Utterance:
        """Embed a row's text with and without its emotions."""
        emofilm, device = self.synthesizer.mods.emofilm, self.synthesizer.device
        units, whole = request.units, torch.ones(1, device=device)
        n_prompt = len(prompt.text_ids)
        ids = torch.tensor([[*prompt.text_ids, *units.ids]], device=device)
        words = torch.tensor(
            [[-1] * n_prompt + list(units.word_of_unit)], device=device
        )
        intensity = request.word_intensity[None].to(device)

        def condition(emotions: torch.Tensor) -> torch.Tensor:
            with self.synthesizer.inference_ctx:
                return emofilm.condition(
                    ids, whole, words, emotions, intensity
                ).text_embeddings

        emotions = request.word_emotions[None].to(device)
        guidance = row.speaking.guidance
        spoken = prompt.speech_tokens[None].to(device)
        (utterance,) = emofilm.llm._utterances(
            condition(emotions),
            whole,
            spoken if spoken.numel() else None,
            whole,
            condition(torch.zeros_like(emotions)) if guidance != 1 else None,
            guidance,
            **{"min_ratio": 2.0, "max_ratio": 20.0, **self._limits},
            n_target_text=[sum(w >= 0 for w in units.word_of_unit)],
            seeds=[row.speaking.seed],
        )
        return replace(utterance, key=row.key)


def words_of_text(synthesizer, text: str, spoken: Sequence[Word]) -> list[Word]:
    """Find the times of a text's own words from those of its reading.

    A reading may have several words for one ("21" is "twenty one").

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model, whose text normaliser made the reading.
    text : str
        Marked text.
    spoken : list of Word
        Words of the reading with their times.

    Returns
    -------
    list of Word
        One for each word of the marked text.
    """
    marked = parse_markup(text, synthesizer.emotions, tags=synthesizer.tags)
    normalizer = getattr(synthesizer.hparams, "text_normalizer", None)
    owners = list(range(len(marked.words)))
    if normalizer is not None:
        owners = _owners(normalizer, marked)
    parts: dict[int, list[Word]] = {}
    for owner, word in zip(owners, spoken):
        if owner >= 0:
            parts.setdefault(owner, []).append(word)
    words, end = [], 0.0
    for index, marked_word in enumerate(marked.words):
        name = marked_word.word
        own = parts.get(index) or [Word(name, end, end, 0.0)]
        end = max(part.end for part in own)
        start = min(part.start for part in own)
        confidence = min(part.confidence for part in own)
        words.append(Word(name, start, end, confidence))
    return words


def _owners(normalizer, marked: MarkedText) -> list[int]:
    """Find the word of the text that each word of its reading comes from.

    The normaliser carries emotions over: here every word has its own.
    """
    weights = np.eye(len(marked.words)).tolist()
    numbered = MarkedText(
        marked.text,
        [
            replace(word, probs=own, intensity=None)
            for word, own in zip(marked.words, weights)
        ],
        [str(index) for index in range(len(weights))],
    )
    return [
        word.probs.index(max(word.probs)) if any(word.probs) else -1
        for word in normalizer.normalize_words(numbered).words
    ]
