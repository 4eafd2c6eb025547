"""Speech with an emotion for every word, from marked-up text."""

import importlib.util
import math
import operator
from collections.abc import (
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.markup import Break
from speechbrain_emofilm.dataio.text import language_of
from speechbrain_emofilm.dataio.voices import (
    Voice,
    read_voices,
    write_voices,
)
from speechbrain_emofilm.inference.listening import Heard, listen
from speechbrain_emofilm.inference.long_text import (
    Piece,
    Planner,
    candidate_seed,
    carry_history,
    piece_seed,
    pieces_and_gaps,
)
from speechbrain_emofilm.inference.pointing import (
    POINTER,
    PointedTokens,
    Pointing,
    Reading,
    point,
)
from speechbrain_emofilm.inference.prompting import LMPrompt, make_prompt
from speechbrain_emofilm.inference.spans import (
    blend_mels,
    voice_spans,
    word_voices,
)
from speechbrain_emofilm.inference.speech import (
    SpeechJoiner,
    SynthesisResult,
    proportional_times,
)
from speechbrain_emofilm.inference.streaming import (
    ChunkMaker,
    SpeechChunk,
    SpeechTrack,
    Utterances,
)
from speechbrain_emofilm.inference.token_to_wav import pad_items
from speechbrain_emofilm.inference.trained_model import TrainedModel
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    SpeechDecoding,
)
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import (
    Utterance as LMUtterance,
)
from speechbrain_emofilm.processing.mel_speed import check_speeds

import torch
from speechbrain.utils.logger import get_logger
from torch.nn.utils.rnn import pad_sequence

logger = get_logger(__name__)

#: Pieces of a long text that are spoken together, and speech tokens whose sound
#: is made at once: both keep the memory at that of a short text.
LONG_BATCH, LONG_WINDOW = 4, 50
#: File of a model's folder with the voices that its user added.
ADDED_VOICES = "added_voices.safetensors"
#: Options of ``generation`` that belong to an utterance, not to the decoding.
_LENGTH_OPTIONS = ("min_ratio", "max_ratio")


class EmoFiLMSynthesizer(TrainedModel):
    """Synthesize text, each word with its marked emotion.

    Text of any length is spoken in pieces, which are cut at sentence ends and
    joined with natural pauses; see :meth:`plan`.

    Created by :meth:`from_hparams` from a folder with ``synthesizer.yaml``,
    which the training recipe writes. That file defines, besides SpeechBrain's
    ``pretrainer``:

    * ``modules``: ``emofilm``, an ``EmotionConditionedLM`` (in
      :mod:`speechbrain_emofilm.lobes.conditioned_lm`), and ``token_to_wav``, a
      :class:`~speechbrain_emofilm.inference.token_to_wav.TokenToWav`;
      optionally ``listener``, which hears whether speech tokens say their
      text, see :mod:`speechbrain_emofilm.inference.listening` (its front end
      has ``phonemes(ids) -> list of int``);
    * ``emotions``: list of the emotions in the taxonomy;
    * ``text_frontend``: ``encode(text) -> TextUnits``, with ``language``; one
      for ``"zh"`` or ``"both"`` has ``encode(text, borders=)``, see
      :class:`~speechbrain_emofilm.integrations.cosyvoice2.qwen2_tokenizer.Qwen2TextFrontend`;
    * ``text_normalizer`` (optional): a
      :class:`~speechbrain_emofilm.dataio.normalization.TextNormalizer`, for a
      front end that does not normalise text itself;
    * ``text_splitter`` (optional): a
      :class:`~speechbrain_emofilm.dataio.splitting.TextSplitter`, which says
      where long text is cut; by default one of CosyVoice2's sizes;
    * ``history`` (optional): whether each piece of a long text continues the
      one before it, see :meth:`synthesize`; by default not, as in CosyVoice2;
    * ``generation`` (optional): arguments of ``CosyVoice2LM.generate``, such
      as ``sampler``, ``min_ratio`` and ``max_ratio``;
    * ``aligner`` (optional): ``align(wav, sample_rate, text, language) ->
      [Word]``, for word times; by default those of the model's word pointer,
      or without one PocketSphinx's, for English and if installed;
    * ``word_times`` (optional): ``"pointer"`` or ``"aligner"``, to choose
      where both are there;
    * ``candidates`` and ``retry`` (optional): defaults of those arguments of
      :meth:`synthesize`;
    * ``prompting`` (optional): how the language model is prompted, one of
      :data:`~speechbrain_emofilm.inference.prompting.PROMPTING`; by default
      ``cross_lingual``;
    * ``voice_maker`` (optional): a
      :class:`~speechbrain_emofilm.inference.voices.VoiceMaker`, for voices
      from recordings.

    Arguments
    ---------
    *args, **kwargs
        Arguments of :class:`speechbrain.inference.interfaces.Pretrained`.

    Example
    -------
    >>> from speechbrain_emofilm.utils.assets import find_file
    >>> shipped = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
    >>> synthesizer = EmoFiLMSynthesizer.from_hparams(shipped.parent)
    >>> result = synthesizer.synthesize(
    ...     "<happy>We won!</happy> <sad intensity=0.4>but he left.</sad>"
    ... )
    >>> result.text, result.sample_rate
    ('We won! but he left.', 24000)
    >>> [word.text for word in result.words]
    ['We', 'won', 'but', 'he', 'left']
    >>> result.word_intensity.tolist()
    [1.0, 1.0, 0.4..., 0.4..., 0.4...]
    """

    HPARAMS_FILE = "synthesizer.yaml"
    MODULES_NEEDED = ["emofilm", "token_to_wav"]
    HPARAMS_NEEDED = ["emotions", "text_frontend"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.emotions = list(self.hparams.emotions)
        self.text_frontend = self.hparams.text_frontend
        efilm = getattr(self.mods.emofilm, "efilm", None)
        encoder = getattr(efilm, "encoder", None)
        #: Axes of prosody that a text can ask for; none of plain models.
        self.axes = list(getattr(encoder, "axes", ()))
        #: Reads texts and divides them.
        self.planner = Planner(
            self.emotions,
            self.text_frontend,
            getattr(self.hparams, "text_normalizer", None),
            getattr(self.hparams, "text_splitter", None),
            self.axes,
        )
        #: Whether the language model speaks a text while it is written.
        self.reads_pieces = bool(getattr(self.hparams, "bistream", False))
        self.history = bool(getattr(self.hparams, "history", False))
        self.prompting = getattr(self.hparams, "prompting", "cross_lingual")
        self._generation = dict(getattr(self.hparams, "generation", {}))
        #: Aligner of the words; None where times are proportional.
        self.aligner = getattr(self.hparams, "aligner", None)
        #: Finds words in the states of the language model; None without one.
        self.pointer = getattr(self.mods.emofilm, "word_pointer", None)
        #: Hears what speech tokens say; None without one.
        self.listener = (
            self.mods["listener"] if "listener" in self.mods else None
        )
        #: "pointer" or "aligner": where the word times of results are from.
        self.word_times_source = getattr(
            self.hparams,
            "word_times",
            POINTER if self.aligner is None else "aligner",
        )
        self._candidates = getattr(self.hparams, "candidates", 1)
        self._retry = getattr(self.hparams, "retry", 0)
        if self.aligner is None:
            self.aligner = _installed_aligner(self.text_frontend)

    @property
    def _points(self) -> bool:
        """Whether the word pointer gives the word times."""
        return self.pointer is not None and self.word_times_source == POINTER

    @classmethod
    def from_hparams(cls, source, *args, **kwargs) -> "EmoFiLMSynthesizer":
        """Load a trained model with the voices that were added to it.

        Arguments and errors are those of
        :meth:`~speechbrain_emofilm.inference.trained_model.TrainedModel.from_hparams`.
        """
        model = super().from_hparams(source, *args, **kwargs)
        for name, voice in model._read_added_voices().items():
            model.mods.token_to_wav.add_voice(name, voice)
        return model

    @property
    def speakers(self) -> list[str]:
        """Names of the speakers; the first is the default."""
        return self.mods.token_to_wav.speakers

    @property
    def tags(self) -> list[str]:
        """Tags that a text may hold, such as ``[laughter]``."""
        return self.planner.tags

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the speech in Hz."""
        return self.mods.token_to_wav.sample_rate

    def add_voice(
        self,
        name: str,
        recording: str | Path,
        text: str | None = None,
        save: bool = False,
    ) -> Voice:
        """Take on the voice of a recording.

        Arguments
        ---------
        name : str
            Name of the new speaker.
        recording : str or Path
            Audio file of 3 to 30 s of speech by one speaker.
        text : str, optional
            What is said in it; recognised if None.
        save : bool
            Whether to keep the voice in the model's folder.

        Returns
        -------
        Voice
            The voice.

        Raises
        ------
        FileNotFoundError
            If there is no such recording.
        ValueError
            If the model has fixed speakers, the name is empty, or the
            recording is unusable.
        """
        token_to_wav = self.mods.token_to_wav
        token_to_wav.check_new_voice(name)
        maker = getattr(self.hparams, "voice_maker", None)
        if maker is None:
            raise ValueError(
                "The synthesizer.yaml of this model has no voice_maker: train "
                "it with the present hparams, or copy that entry from them."
            )
        if save and self.folder is None:
            raise ValueError(
                "This model was not loaded from a folder, which could keep the "
                "voice: use save=False."
            )
        voice = maker(recording, text)
        token_to_wav.add_voice(name, voice)
        if save:
            added = {**self._read_added_voices(), name: voice}
            write_voices(self.folder / ADDED_VOICES, added)
        return voice

    def _read_added_voices(self) -> dict[str, Voice]:
        path = self.folder and self.folder / ADDED_VOICES
        return read_voices(path) if path and path.is_file() else {}

    @overload
    def synthesize(self, text: str, *args, **kwargs) -> SynthesisResult: ...

    @overload
    def synthesize(
        self, text: list[str] | tuple[str, ...], *args, **kwargs
    ) -> list[SynthesisResult]: ...

    def synthesize(
        self,
        text: str | Sequence[str],
        speaker: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        guidance: float = 1.0,
        unmarked: str = "unlabelled",
        emotion: str | Mapping[str, float] | None = None,
        intensity: float | None = None,
        batch_size: int = 16,
        instruction: str | None = None,
        prompting: str | None = None,
        reference: str | None = None,
        history: bool | None = None,
        speed: float | Sequence[float] = 1.0,
        candidates: int | None = None,
        retry: int | None = None,
    ) -> SynthesisResult | list[SynthesisResult]:
        """Synthesize one text or several, of any length.

        Every item has its own random generator: with the same seed, it sounds
        the same alone and in any batch. So has every piece of a long text;
        the seed of the first is the text's.

        Arguments
        ---------
        text : str or list of str
            Text with emotion marks and breaks, see
            :mod:`speechbrain_emofilm.dataio.markup`.
        speaker : str or list of str, optional
            One name for all texts, or one for each; the first speaker if None.
        seed : int or list of int
            One seed for all texts, or one for each.
        guidance : float
            Classifier-free guidance on the emotions: 1 is the plain model,
            higher values exaggerate.
        unmarked : str
            Emotion of words outside marks: ``"unlabelled"`` (left to the
            model) or ``"neutral"``.
        emotion : str or dict, optional
            Emotion (or mixture: name to weight) of words outside marks,
            instead of `unmarked`.
        intensity : float, optional
            Intensity, 0 to 1, of labelled words whose mark gives none; 1 if
            None.
        batch_size : int
            Number of texts, or pieces of long ones, in a batch.
        instruction : str, optional
            How to speak, such as ``"Speak softly."``. A text may instead begin
            with its own: ``"Speak softly.<|endofprompt|>We won."``.
        prompting : str, optional
            How the language model is prompted, one of
            :data:`~speechbrain_emofilm.inference.prompting.PROMPTING`; the
            model's default if None, and ``"instruct"`` with an instruction.
        reference : str, optional
            ``"per_span"`` prompts the flow with the speaker's voice of each
            word's emotion (``0011/happy``), and the language model with the
            neutral voice; that voice also speaks unlabelled words, words of
            intensity 0 and emotions without a voice. The speaker may then be
            named without an emotion (``0011``). None: one voice for all words.
        history : bool, optional
            Whether the language model is prompted with the text and speech of
            the piece before, as with a recording in zero-shot synthesis, so
            that timbre and mood go on. The pieces of a text are then made one
            after the other. The model's default if None.
        speed : float or list of float
            Speed of all texts, or of each, from 0.5 (half) to 2 (double). The
            pitch stays, and so do the pauses that breaks ask for.
        candidates : int, optional
            Number of readings that are drawn of every piece; the one with the
            fewest lost, cut and repeated words is taken and, of several, the
            one in which the model's listener hears the text best, or without
            a listener the most probable one. More than 1 needs a model with a
            word pointer. The model's default if None, usually 1.
        retry : int, optional
            How often as many readings are drawn again where the best one
            still lacks a word. The model's default if None, usually 0.

        Returns
        -------
        SynthesisResult or list of SynthesisResult
            One result for one text, a list for a list.

        Raises
        ------
        MarkupError
            If a text is empty or its marks are invalid.
        ValueError
            If the front end cannot read a text (an emoji, another language),
            or a speaker, seed, emotion, intensity, guidance, batch size,
            reference, speed, candidates or retry is invalid.
        """
        one_text = isinstance(text, str)
        texts = _strings("text", text)
        n = len(texts)
        if batch_size < 1:
            raise ValueError(
                f"batch_size is {batch_size}: give an integer of 1 or more."
            )
        intensity = 1.0 if intensity is None else intensity
        _check_strengths(guidance, intensity)
        speeds = check_speeds(speed, n)
        tries = self._check_tries(candidates, retry)
        if speaker is not None and not isinstance(speaker, str):
            speaker = _strings("speaker", speaker)
        if reference is not None:
            speaker = self._neutral_voices(reference, speaker)
        known = self.speakers
        speakers = [
            known[index]
            for index in self.mods.token_to_wav.speaker_ids(speaker, n)
        ]
        seeds = _seeds(seed, n)
        if len(seeds) != n:
            raise ValueError(
                f"{len(seeds)} seeds were given for {n} texts: give one, or "
                "one for each text."
            )
        plans = self._plan_all(
            texts, unmarked if emotion is None else emotion, intensity
        )
        parted = [pieces_and_gaps(plan) for plan in plans]
        pieces = [own for own, _ in parted]
        prompts = [
            self.prompt(speaker, prompting, own[0].instruction or instruction)
            for speaker, own in zip(speakers, pieces)
        ]
        current = list(prompts)
        history = self.history if history is None else history
        joiners = [SpeechJoiner(gaps) for _, gaps in parted]
        n_pieces = [len(own) for own in pieces]
        long = any(n > 1 for n in n_pieces)
        if long:
            batch_size = min(batch_size, LONG_BATCH)
        for batch in _batches(n_pieces, batch_size, history):
            results = self._speak(
                [pieces[item][index] for item, index in batch],
                [current[item] for item, _ in batch],
                [speakers[item] for item, _ in batch],
                [piece_seed(seeds[item], index) for item, index in batch],
                guidance,
                reference,
                [speeds[text] for text, _ in batch],
                long,
                *tries,
            )
            for (item, index), result in zip(batch, results):
                joiners[item].add(result)
                if history:
                    current[item] = carry_history(
                        prompts[item],
                        pieces[item][index],
                        result.speech_tokens,
                    )
        spoken = [joiner.finish() for joiner in joiners]
        return spoken[0] if one_text else spoken

    def plan(
        self,
        text: str,
        unmarked: str = "unlabelled",
        emotion: str | Mapping[str, float] | None = None,
        intensity: float | None = None,
    ) -> list[Piece | Break]:
        """Divide a text into pieces and breaks, without speaking it.

        Arguments
        ---------
        text, unmarked, emotion, intensity
            As in :meth:`synthesize`.

        Returns
        -------
        list of Piece or Break
            What :meth:`synthesize` speaks, in order, see
            :mod:`speechbrain_emofilm.inference.long_text`.

        Raises
        ------
        MarkupError
            If the text is empty or its marks are invalid.
        ValueError
            If the front end cannot read the text.
        """
        return self.planner.plan(
            text,
            unmarked if emotion is None else emotion,
            1.0 if intensity is None else intensity,
        )

    def stream(
        self,
        text: str | Iterable[str],
        speaker: str | None = None,
        seed: int = 0,
        guidance: float = 1.0,
        unmarked: str = "unlabelled",
        emotion: str | Mapping[str, float] | None = None,
        intensity: float | None = None,
        instruction: str | None = None,
        prompting: str | None = None,
        history: bool | None = None,
        speed: float = 1.0,
    ) -> Iterator[SpeechChunk]:
        """Synthesize a text while it is heard, or even while it is written.

        A text in whole is spoken with the tokens of :meth:`synthesize`. A
        text in pieces is spoken as soon as its first words are known, if the
        language model can read text and speech in turns (``bistream: true``
        in its ``synthesizer.yaml``); else sentence by sentence.

        Arguments
        ---------
        text : str or iterable of str
            A text with marks and breaks, or its pieces as they are written,
            cut anywhere, also within a word or mark.
        speaker, seed, guidance, unmarked, emotion, intensity
            As in :meth:`synthesize`.
        instruction, prompting, history, speed
            As in :meth:`synthesize`.

        Returns
        -------
        Iterator of SpeechChunk
            The sound in order, and the words that have begun.

        Raises
        ------
        ValueError
            As :meth:`synthesize`, or if this model cannot decode piece by
            piece. What is wrong with a text in whole or an option is raised
            by the call, with a later piece of text when it is reached.

        Example
        -------
        >>> from speechbrain_emofilm.utils.assets import find_file
        >>> mini = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
        >>> synthesizer = EmoFiLMSynthesizer.from_hparams(mini.parent)
        >>> chunks = list(synthesizer.stream("<happy>We won!</happy>"))
        >>> [word.text for word in chunks[-1].words]
        ['We', 'won']
        """
        intensity = 1.0 if intensity is None else intensity
        _check_strengths(guidance, intensity)
        (speed,) = check_speeds(speed, 1)
        (seed,) = _seeds(seed, 1)
        token_to_wav = self.mods.token_to_wav
        (index,) = token_to_wav.speaker_ids(speaker, 1)
        speaker = self.speakers[index]
        # Refuses a model that cannot.
        token_to_wav.stream(speaker, speed=speed)
        plan = None
        if isinstance(text, str):
            plan = self.plan(text, unmarked, emotion, intensity)
            pieces, _ = pieces_and_gaps(plan)
            instruction = pieces[0].instruction or instruction
        prompt = self.prompt(speaker, prompting, instruction)

        def generate(piece: Piece, prompt: LMPrompt, seed: int):
            inputs = self._lm_inputs([piece], [prompt], guidance)
            llm = self.mods.emofilm.llm
            if not self._points:
                return llm.generate_tokens(**inputs, seeds=[seed])
            reading = _reading(piece, prompt)
            tokens = llm.generate_tokens(
                **inputs,
                seeds=[seed],
                on_text=lambda _, states: reading.on_text(states),
                on_drawn=reading.on_drawn,
            )
            return PointedTokens(tokens, self.pointer, reading)

        def generate_growing(growing, prompt: LMPrompt, seed: int):
            return self._growing_tokens(growing, prompt, seed, guidance)

        utterances = Utterances(
            self.planner,
            generate,
            generate_growing if self.reads_pieces else None,
            prompt,
            unmarked if emotion is None else emotion,
            intensity,
            seed,
            self.history if history is None else history,
        )
        maker = ChunkMaker(
            lambda: token_to_wav.stream(speaker, speed=speed),
            self.track(speed),
        )
        return self._computed(
            maker.speak_all(
                utterances,
                utterances.of_pieces(text)
                if plan is None
                else utterances.of_plan(plan),
            )
        )

    def _computed(self, chunks: Iterator[SpeechChunk]) -> Iterator[SpeechChunk]:
        """Compute each chunk as the model is to compute; nothing between."""
        while True:
            with self.inference_ctx, torch.no_grad():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def forward(
        self, text: str | list[str] | tuple[str, ...], **kwargs
    ) -> SynthesisResult | list[SynthesisResult]:
        """Synthesize one text or several, as :meth:`synthesize` does."""
        return self.synthesize(text, **kwargs)

    def _neutral_voices(
        self, reference: str, speaker: str | list[str] | None
    ) -> str | list[str]:
        """Replace names of speakers by those of their neutral voices."""
        if reference != "per_span":
            raise ValueError(
                f"reference is {reference!r}: give 'per_span' or None."
            )

        def find(name: str) -> str:
            return self.mods.token_to_wav.emotion_voices(name)["neutral"]

        if isinstance(speaker, list):
            return [find(name) for name in speaker]
        return find(self.speakers[0] if speaker is None else speaker)

    def prompt(
        self,
        speaker: str,
        prompting: str | None = None,
        instruction: str | None = None,
    ) -> LMPrompt:
        """Make the language model's prompt for a text.

        Arguments
        ---------
        speaker : str
            Name of the speaker.
        prompting, instruction : str, optional
            As in :meth:`synthesize`.

        Returns
        -------
        LMPrompt
            The prompt.

        Raises
        ------
        ValueError
            If the model cannot be prompted so.
        """
        if prompting is None:
            prompting = "instruct" if instruction else self.prompting
        voice = self.mods.token_to_wav.voice_of(speaker)
        return make_prompt(
            self.text_frontend, prompting, speaker, voice, instruction
        )

    def decoding(
        self, on_text: Callable[[Hashable, torch.Tensor], None] | None = None
    ) -> SpeechDecoding:
        """Start a decoding of utterances that join and leave as they like.

        Arguments
        ---------
        on_text : callable, optional
            Called with the key of an utterance and the states at its text
            tokens (T, C) when its text has been read.

        Returns
        -------
        SpeechDecoding
            It takes the utterances of :meth:`utterance`, and its steps are
            to be made as :attr:`inference_ctx` says.
        """
        options = {
            name: value
            for name, value in self._generation.items()
            if name not in _LENGTH_OPTIONS
        }
        return SpeechDecoding(self.mods.emofilm.llm, on_text=on_text, **options)

    @torch.no_grad()
    def utterance(
        self,
        piece: Piece,
        prompt: LMPrompt,
        seed: int = 0,
        guidance: float = 1.0,
        key: Hashable = 0,
    ) -> LMUtterance:
        """Prepare a piece of text for a :meth:`decoding`.

        It gets the tokens that :meth:`synthesize` would give it.

        Arguments
        ---------
        piece : Piece
            A piece of :meth:`plan`.
        prompt : LMPrompt
            Prompt of the text, from :meth:`prompt`.
        seed : int
            Seed of the piece, see
            :func:`~speechbrain_emofilm.inference.long_text.piece_seed`.
        guidance : float
            As in :meth:`synthesize`.
        key : hashable
            Name of the utterance in the decoding.

        Returns
        -------
        Utterance
            What the language model needs to know.

        Example
        -------
        >>> from speechbrain_emofilm.utils.assets import find_file
        >>> mini = find_file("speechbrain_emofilm/assets/mini/synthesizer.yaml")
        >>> synthesizer = EmoFiLMSynthesizer.from_hparams(mini.parent)
        >>> (piece,) = synthesizer.plan("<happy>We won!</happy>")
        >>> prompt = synthesizer.prompt(synthesizer.speakers[0])
        >>> decoding, tokens = synthesizer.decoding(), []
        >>> decoding.join([synthesizer.utterance(piece, prompt)])
        >>> while len(decoding):
        ...     tokens += [drawn.token for drawn in decoding.step()]
        >>> expected = synthesizer.synthesize("<happy>We won!</happy>")
        >>> tokens[:-1] == expected.speech_tokens.tolist()
        True
        """
        with self.inference_ctx:
            inputs = self._lm_inputs([piece], [prompt], guidance)
            inputs = {
                name: value
                for name, value in inputs.items()
                if name in _LENGTH_OPTIONS or name not in self._generation
            }
            llm = self.mods.emofilm.llm
            (utterance,) = llm.utterances(**inputs, seeds=[seed])
        return replace(utterance, key=key)

    def reading(self, piece: Piece, prompt: LMPrompt) -> Reading | None:
        """Start to keep what shows the words of an utterance.

        Arguments
        ---------
        piece, prompt
            As in :meth:`utterance`.

        Returns
        -------
        Reading or None
            What the decoding's states are to be given to; None if the word
            pointer does not give the word times.
        """
        return _reading(piece, prompt) if self._points else None

    @torch.no_grad()
    def find_words(self, reading: Reading, is_whole: bool) -> Pointing | None:
        """Find the words of a reading; None before its first token.

        Arguments
        ---------
        reading : Reading
            What has been drawn so far.
        is_whole : bool
            Whether the utterance has ended.
        """
        if not reading.tokens:
            return None
        with self.inference_ctx:
            return point(self.pointer, [reading], is_whole)[0]

    def track(self, speed: float = 1.0) -> SpeechTrack:
        """Start to join the sound of pieces, and to time their words.

        Arguments
        ---------
        speed : float
            Speed of the speech.

        Returns
        -------
        SpeechTrack
            It joins sound as :meth:`synthesize` and :meth:`stream` do.
        """
        limits = {"min_ratio": 2.0, "max_ratio": 20.0, **self._generation}
        guess = math.sqrt(limits["min_ratio"] * limits["max_ratio"])
        return SpeechTrack(self.sample_rate, guess, speed)

    def _plan_all(
        self,
        texts: list[str],
        unmarked: str | Mapping[str, float],
        intensity: float,
    ) -> list[list[Piece | Break]]:
        """Read every text before any is synthesized."""
        plans = []
        for index, text in enumerate(texts):
            try:
                plans.append(self.planner.plan(text, unmarked, intensity))
            except ValueError as error:
                if len(texts) == 1:
                    raise
                raise ValueError(
                    f"Text {index} of {len(texts)}: {error}"
                ) from error
        return plans

    @torch.no_grad()
    def _speak(
        self,
        batch: list[Piece],
        prompts: list[LMPrompt],
        speakers: list[str],
        seeds: list[int],
        guidance: float,
        reference: str | None,
        speeds: list[float],
        long: bool,
        candidates: int,
        retry: int,
    ) -> list[SynthesisResult]:
        """Generate speech tokens, waves and word times of a batch."""
        with self.inference_ctx:
            spoken = self._choose_readings(
                batch, prompts, seeds, guidance, candidates, retry
            )
            tokens = [own for own, _ in spoken]
            # Flow and vocoder have fixed noise, as in CosyVoice2: the seed
            # changes the reading only.
            if reference is None:
                # A user's own converter need not know other speeds.
                options = {"speed": speeds} if set(speeds) != {1.0} else {}
                if long and not options:
                    wavs = self._long_waves(tokens, speakers)
                else:
                    wavs = self.mods.token_to_wav(tokens, speakers, **options)
        if reference is not None:
            wavs = self._speak_in_spans(batch, spoken, speakers, speeds)
        sample_rate = self.mods.token_to_wav.sample_rate
        results = []
        for request, wav, (own, pointing) in zip(batch, wavs, spoken):
            wav = wav.float().cpu()
            words, source = self.word_times(
                request, wav, sample_rate, len(own), pointing
            )
            results.append(
                SynthesisResult(
                    wav,
                    sample_rate,
                    words,
                    source,
                    request.marked.text,
                    request.word_emotions,
                    request.word_intensity,
                    own.cpu(),
                    None if pointing is None else pointing.coverage,
                )
            )
        return results

    def _long_waves(
        self, tokens: list[torch.Tensor], speakers: list[str]
    ) -> list[torch.Tensor]:
        """Make the waves of a long text's pieces, with little memory."""
        token_to_wav = self.mods.token_to_wav
        exact = getattr(token_to_wav, "streams_exactly", False)
        if not exact or not all(map(len, tokens)):
            return token_to_wav(tokens, speakers)
        wavs = []
        for own, speaker in zip(tokens, speakers):
            stream = token_to_wav.stream(speaker)
            parts = [stream.push(part) for part in own.split(LONG_WINDOW)]
            wavs.append(torch.cat([*parts, stream.finish()]))
        return wavs

    def _speak_in_spans(
        self,
        batch: list[Piece],
        spoken: list[tuple[torch.Tensor, Pointing | None]],
        neutral_voices: list[str],
        speeds: list[float],
    ) -> list[torch.Tensor]:
        """Generate waves in which the voice follows the words' emotions."""
        token_to_wav = self.mods.token_to_wav
        tokens = [own for own, _ in spoken]
        asked = [
            word_voices(
                request.word_emotions,
                request.word_intensity,
                self.emotions,
                token_to_wav.emotion_voices(neutral),
            )
            for request, neutral in zip(batch, neutral_voices)
        ]
        voices = [list(dict.fromkeys(of_words)) for of_words in asked]
        changing = [i for i, own in enumerate(voices) if len(own) > 1]
        for i in changing:
            # The words are found in neutral speech, which aligners know best.
            voices[i] = list(dict.fromkeys([neutral_voices[i], *voices[i]]))
        with self.inference_ctx:
            decoded = token_to_wav.decode_voices(tokens, voices)
        mels = [own[0] for own in decoded]

        def vocode(mels: list[torch.Tensor], speed) -> list[torch.Tensor]:
            padded, lens = pad_items(mels, mels[0].device)
            with self.inference_ctx:
                return token_to_wav.vocode(padded, lens, speed=speed)

        sample_rate = token_to_wav.sample_rate
        neutral = []
        if changing:
            neutral = vocode([mels[i] for i in changing], 1.0)
        for i, wav in zip(changing, neutral):
            words, _ = self.word_times(
                batch[i], wav.float().cpu(), sample_rate, *_sized(spoken[i])
            )
            spans = voice_spans(
                words,
                [voices[i].index(name) for name in asked[i]],
                len(wav) / sample_rate,
                len(mels[i]),
            )
            mels[i] = blend_mels(decoded[i], spans)
        return vocode(mels, speeds)

    def _check_tries(
        self, candidates: int | None, retry: int | None
    ) -> tuple[int, int]:
        """Return the number of candidates and of further rounds."""
        candidates = self._candidates if candidates is None else candidates
        retry = self._retry if retry is None else retry
        if candidates < 1 or retry < 0:
            raise ValueError(
                f"candidates is {candidates} and retry is {retry}: give "
                "integers of at least 1 and 0."
            )
        if self.pointer is None and (candidates > 1 or retry):
            raise ValueError(
                f"candidates {candidates} and retry {retry} need a model with "
                "a word pointer: train one with "
                "recipes/ESD/emotional_tts/train_pointer.py, or leave them out."
            )
        return candidates, retry

    def _choose_readings(
        self,
        batch: list[Piece],
        prompts: list[LMPrompt],
        seeds: list[int],
        guidance: float,
        candidates: int,
        retry: int,
    ) -> list[tuple[torch.Tensor, Pointing | None]]:
        """Draw readings of each item and take the best.

        The first is drawn with the item's own seed.
        """
        best: list[Any] = [None] * len(batch)
        open_items = list(range(len(batch)))
        for turn in range(1 + retry):
            drawn = [
                (item, turn * candidates + number)
                for number in range(candidates)
                for item in open_items
            ]
            readings = self._read(
                [batch[item] for item, _ in drawn],
                [prompts[item] for item, _ in drawn],
                [candidate_seed(seeds[item], n) for item, n in drawn],
                guidance,
                rated=candidates > 1 or retry > 0,
            )
            for (item, _), (rank, *reading) in zip(drawn, readings):
                if best[item] is None or rank < best[item][0]:
                    best[item] = rank, tuple(reading)
            open_items = [
                item
                for item in open_items
                if best[item][1][1] is not None and best[item][1][1].n_lost
            ]
            if not open_items:
                break
        return [reading for _, reading in best]

    def _read(
        self,
        batch: list[Piece],
        prompts: list[LMPrompt],
        seeds: list[int],
        guidance: float,
        rated: bool,
    ) -> list[tuple[tuple[float, float], torch.Tensor, Pointing | None]]:
        """Draw a reading of each item and find its words.

        Returns for each its rank, of which the smallest is best, its speech
        tokens and where its words are.
        """
        if self.pointer is None:
            plain = self._generate(batch, prompts, seeds, guidance)
            return [((0.0, 0.0), own, None) for own in plain]
        readings = [_reading(*item) for item in zip(batch, prompts)]
        tokens = self._generate(
            batch,
            prompts,
            seeds,
            guidance,
            on_text=lambda key, states: readings[key].on_text(states),
            on_drawn=lambda drawn: readings[drawn.key].on_drawn(drawn),
        )
        results: list[
            tuple[tuple[float, float], torch.Tensor, Pointing | None]
        ] = []
        for piece, own, reading in zip(batch, tokens, readings):
            if not len(own):  # nothing to point at
                results.append(((math.inf, 0.0), own, None))
                continue
            (pointing,) = point(self.pointer, [reading])
            heard = self._listen(piece, reading.tokens)
            if heard is not None:
                pointing = pointing.heard(heard.clarity)
            score = 0.0
            if rated and heard is not None:
                score = heard.score
            elif rated:
                score = reading.log_likelihood(
                    self.mods.emofilm.llm.llm_decoder
                )
            results.append(((float(pointing.n_bad), -score), own, pointing))
        return results

    def _listen(self, piece: Piece, tokens: Sequence[int]) -> Heard | None:
        """Compare speech tokens with the text that they should say."""
        if self.listener is None:
            return None
        units = piece.units
        return listen(
            self.listener,
            tokens,
            self.text_frontend.phonemes(units.ids),
            units.word_of_unit,
            len(piece.marked.words),
        )

    def _generate(
        self,
        batch: list[Piece],
        prompts: list[LMPrompt],
        seeds: list[int],
        guidance: float,
        **observers,
    ) -> list[torch.Tensor]:
        """Generate the speech tokens of each item."""
        return self.mods.emofilm.llm.generate(
            **self._lm_inputs(batch, prompts, guidance),
            seeds=seeds,
            **observers,
        )

    def _lm_inputs(
        self, batch: list[Piece], prompts: list[LMPrompt], guidance: float
    ) -> dict[str, Any]:
        """Prepare the arguments of the language model's ``generate``."""
        emofilm, device = self.mods.emofilm, self.device
        units = [piece.units for piece in batch]
        # A prompt belongs to no word and is not counted as text to speak.
        all_ids = [p.text_ids + u.ids for p, u in zip(prompts, units)]
        words = [
            [-1] * len(p.text_ids) + u.word_of_unit
            for p, u in zip(prompts, units)
        ]
        n_ids = torch.tensor([len(ids) for ids in all_ids])
        lens = (n_ids / n_ids.max()).to(device)
        ids, word_of_token, word_emotions, word_intensity = (
            pad_sequence(items, batch_first=True).to(device)
            for items in (
                [torch.tensor(ids) for ids in all_ids],
                [torch.tensor(word_of_id) for word_of_id in words],
                [piece.word_emotions for piece in batch],
                [piece.word_intensity for piece in batch],
            )
        )
        inputs = dict(self._generation)
        n_spoken = torch.tensor([len(p.speech_tokens) for p in prompts])
        if n_spoken.any():
            inputs["prompt_speech_tokens"] = pad_sequence(
                [p.speech_tokens for p in prompts], batch_first=True
            ).to(device)
            inputs["prompt_speech_lens"] = n_spoken / n_spoken.max()

        word_axes = None
        if self.axes:
            word_axes = pad_sequence(
                [piece.word_axes for piece in batch],
                batch_first=True,
                padding_value=math.nan,
            ).to(device)

        def condition(emotions, axes):
            # A user's own model need not know axes.
            options = {} if axes is None else {"word_axes": axes}
            return emofilm.condition(
                ids, lens, word_of_token, emotions, word_intensity, **options
            ).text_embeddings

        inputs["text_embeddings"] = condition(word_emotions, word_axes)
        inputs["text_lens"] = lens
        inputs["guidance"] = guidance
        if guidance != 1:
            unlabelled = torch.zeros_like(word_emotions)
            inputs["unconditional_embeddings"] = condition(unlabelled, None)
        # Tags belong to no word and make no text to speak.
        inputs["n_target_text"] = [
            sum(word >= 0 for word in u.word_of_unit) for u in units
        ]
        return inputs

    def _growing_tokens(
        self,
        growing: Iterable[tuple[Piece, int]],
        prompt: LMPrompt,
        seed: int,
        guidance: float,
    ) -> Iterator[int]:
        """Generate the speech tokens of text that is still being written."""
        lm, n_prompt = self.mods.emofilm.llm, len(prompt.text_ids)
        reading = Reading([], 0)

        def embeddings() -> Iterator[tuple[torch.Tensor, ...]]:
            read = 0
            for piece, n_units in growing:
                inputs = self._lm_inputs([piece], [prompt], guidance)
                variants = [inputs["text_embeddings"]]
                if guidance != 1:
                    variants.append(inputs["unconditional_embeddings"])
                end = n_prompt + n_units
                reading.word_of_unit = _reading(piece, prompt).word_of_unit
                reading.n_words = len(piece.marked.words)
                yield tuple(text[:, read:end] for text in variants)
                read = end

        options = {
            name: value
            for name, value in self._generation.items()
            if name != "min_ratio"  # the end is not drawn before the text's
        }
        spoken = None
        if len(prompt.speech_tokens):
            spoken = prompt.speech_tokens[None].to(self.device)
        if self._points:
            options["on_text"] = lambda _, states: reading.on_text(states)
            options["on_drawn"] = reading.on_drawn
        tokens = lm.generate_stream(
            embeddings(), spoken, seed=seed, guidance=guidance, **options
        )
        if not self._points:
            return tokens
        return PointedTokens(tokens, self.pointer, reading)

    def word_times(
        self,
        piece: Piece,
        wav: torch.Tensor,
        sample_rate: int,
        n_tokens: int = 0,
        pointing: Pointing | None = None,
    ) -> tuple[list[Word], str]:
        """Find the words of a piece by the pointer or, without, in its sound.

        Arguments
        ---------
        piece : Piece
            What is said.
        wav : torch.Tensor
            Its sound (T,), on the CPU.
        sample_rate : int
            Sampling rate in Hz.
        n_tokens : int
            Number of its speech tokens.
        pointing : Pointing, optional
            Where the word pointer found its words.

        Returns
        -------
        words : list of Word
            The words with their times.
        source : str
            As ``word_times_source`` of a
            :class:`~speechbrain_emofilm.inference.speech.SynthesisResult`.
        """
        names = [word.word for word in piece.marked.words]
        if self._points and pointing is not None:
            seconds_per_token = len(wav) / sample_rate / n_tokens
            return pointing.words(names, seconds_per_token), POINTER
        language = self.text_frontend.language
        if language == "both":
            language = language_of(piece.marked.text)
        if self.aligner is not None:
            try:
                found = self.aligner.align(
                    wav,
                    sample_rate,
                    " ".join(names),
                    language,
                )
            except ValueError as error:  # an unreadable word or sound
                logger.warning("Word times are proportional: %s", error)
                found = []
            if len(found) == len(names):
                words = [
                    Word(name, word.start, word.end, word.confidence)
                    for name, word in zip(names, found)
                ]
                return words, type(self.aligner).__name__
        duration = len(wav) / sample_rate
        return proportional_times(names, piece.units, duration), (
            "proportional"
        )


def _reading(piece: Piece, prompt: LMPrompt) -> Reading:
    """Start to keep the states of a piece that is spoken."""
    owners = [-1] * len(prompt.text_ids) + piece.units.word_of_unit
    return Reading(owners, len(piece.marked.words))


def _sized(
    spoken: tuple[torch.Tensor, Pointing | None],
) -> tuple[int, Pointing | None]:
    """Replace speech tokens by their number."""
    return len(spoken[0]), spoken[1]


def _batches(
    n_pieces: Sequence[int], batch_size: int, history: bool
) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of pieces, each as the indices of its text and its own.

    With history, a batch holds at most one piece of each text.
    """
    if not history:
        every = [(t, i) for t, n in enumerate(n_pieces) for i in range(n)]
        for start in range(0, len(every), batch_size):
            yield every[start : start + batch_size]
        return
    for start in range(0, len(n_pieces), batch_size):
        texts = range(start, min(start + batch_size, len(n_pieces)))
        for index in range(max(n_pieces[text] for text in texts)):
            yield [(text, index) for text in texts if index < n_pieces[text]]


def _strings(name: str, value: str | Sequence[str]) -> list[str]:
    """Return one string or several as a list; refuse anything else."""
    items: Any = [value] if isinstance(value, str) else value
    if not isinstance(items, (bytes, bytearray, Mapping)):
        try:
            items = list(items)
        except TypeError:
            items = [items]
        if all(isinstance(item, str) for item in items):
            return items
    raise ValueError(
        f"{name} is {value!r}: give a string, or a list of strings."
    )


def _check_strengths(guidance: float, intensity: float) -> None:
    """Refuse a guidance or an intensity that is not possible."""
    if not 0 <= guidance < math.inf or not 0 <= intensity <= 1:
        raise ValueError(
            f"The guidance {guidance} with the intensity {intensity} is not "
            "possible: give a guidance of 0 or more and an intensity from 0 to "
            "1."
        )


def _seeds(seed: Any, n: int) -> list[int]:
    """Return one seed for each text, as integers of Python."""
    try:
        return [operator.index(seed)] * n
    except TypeError:
        pass
    try:
        return [operator.index(item) for item in seed]
    except TypeError:
        raise ValueError(
            f"seed is {seed!r}: give an integer, or a list of integers."
        ) from None


def _installed_aligner(text_frontend):
    """Create the PocketSphinx aligner, for English and if installed."""
    reads_english = text_frontend.language in ("en", "both")
    if not reads_english or not importlib.util.find_spec("pocketsphinx"):
        return None
    from speechbrain_emofilm.integrations.aligner.pocketsphinx import (
        PocketsphinxAligner,
    )

    return PocketsphinxAligner(
        pronounce=getattr(text_frontend, "pronounce", None),
        # Times of doubtful words are better than none.
        strict=False,
    )
