"""Plan of a text of any length: the pieces to speak and the breaks between.

Nothing is spoken here: a plan says what the language model gets, piece by
piece, and how long the pauses are. A caller that streams speech, or serves it,
can follow the same plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from speechbrain_emofilm.dataio.markup import Break, MarkedText, parse_markup
from speechbrain_emofilm.dataio.normalization import TextNormalizer
from speechbrain_emofilm.dataio.splitting import TextSplitter, cut_marked
from speechbrain_emofilm.dataio.text import END_OF_INSTRUCTION, TextUnits
from speechbrain_emofilm.inference.prompting import LMPrompt

import torch

#: Largest number of speech tokens that are carried to the next piece (30 s).
MAX_HISTORY_TOKENS = 750
#: Distance between the seeds of two pieces of a text: far more than that
#: between the seeds that people choose for several texts.
_SEED_STEP = 1_000_003
#: The same for the candidates of a piece.
_CANDIDATE_STEP = 7_000_000_001


@dataclass(frozen=True)
class Piece:
    """Part of a text that is spoken as one utterance.

    Arguments
    ---------
    marked : MarkedText
        Its text and the emotions of its words.
    units : TextUnits
        Its text, as the front end reads it.
    word_emotions : torch.Tensor
        Weights of the emotions (W, K); zeros for unlabelled words.
    word_intensity : torch.Tensor
        Intensities (W,).
    instruction : str
        How to speak; empty if the text gives no instruction.
    pause : float
        Natural pause in seconds between its sound and that of the next piece;
        0 before a break and at the end.
    word_axes : torch.Tensor, optional
        Asked prosody (W, A), NaN where nothing is asked, see
        :func:`~speechbrain_emofilm.processing.prosody_axes.axes_tensor`; None
        for a model without axes.
    """

    marked: MarkedText
    units: TextUnits
    word_emotions: torch.Tensor
    word_intensity: torch.Tensor
    instruction: str = ""
    pause: float = 0.0
    word_axes: torch.Tensor | None = None


class Planner:
    """Divide texts into pieces and breaks.

    Arguments
    ---------
    emotions : list of str
        The taxonomy.
    text_frontend : object
        ``encode(text) -> TextUnits``, with ``language``; ``tags`` and, for
        Mandarin, ``encode(text, borders=)`` as
        :class:`~speechbrain_emofilm.integrations.cosyvoice2.qwen2_tokenizer.Qwen2TextFrontend`.
    normalizer : TextNormalizer, optional
        Normalises text before the front end reads it.
    splitter : TextSplitter, optional
        Chooses where long texts are cut; one of CosyVoice2's sizes if None.
    axes : list of str
        The model's axes of prosody.

    Example
    -------
    >>> class Frontend:
    ...     language = "en"
    ...     def encode(self, text):
    ...         words = text.split()
    ...         places = list(range(len(words)))
    ...         return TextUnits(places, places, words)
    >>> splitter = TextSplitter(min_units=1, max_units=3, min_last_units=1)
    >>> planner = Planner(["happy", "sad"], Frontend(), splitter=splitter)
    >>> plan = planner.plan("<sad>He left. We <break time=1s/>stayed here.</>")
    >>> [getattr(part, "marked", part) for part in plan][1]
    Break(word=3, seconds=1.0)
    >>> [part.marked.text for part in plan if isinstance(part, Piece)]
    ['He left. We', 'stayed here.']
    """

    def __init__(
        self,
        emotions: Sequence[str],
        text_frontend,
        normalizer: TextNormalizer | None = None,
        splitter: TextSplitter | None = None,
        axes: Sequence[str] = (),
    ):
        self.emotions = list(emotions)
        self.axes = list(axes)
        self.text_frontend = text_frontend
        self.normalizer = normalizer
        self.splitter = splitter or TextSplitter()
        self.tags = list(getattr(text_frontend, "tags", ()))

    def plan(
        self,
        text: str,
        unmarked: str | Mapping[str, float] = "unlabelled",
        intensity: float = 1.0,
    ) -> list[Piece | Break]:
        """Divide a text.

        Arguments
        ---------
        text : str
            Text with marks and breaks, see
            :mod:`speechbrain_emofilm.dataio.markup`, of any length.
        unmarked : str or dict
            Emotion of words outside of marks, as in
            :func:`~speechbrain_emofilm.dataio.markup.parse_markup`.
        intensity : float
            Intensity of labelled words whose mark gives none.

        Returns
        -------
        list of Piece or Break
            At least one piece. Neighbouring breaks are added up; the word of
            a break is counted in the text as it was given.

        Raises
        ------
        MarkupError
            If the text is empty or its marks are invalid.
        ValueError
            If the front end cannot read the text.
        """
        instruction, _, text = text.rpartition(END_OF_INSTRUCTION)
        marked = self.parse(text, unmarked)
        breaks: dict[int, float] = {}
        for pause in marked.breaks:
            breaks[pause.word] = breaks.get(pause.word, 0.0) + pause.seconds
        n_words = len(marked.words)
        segments = self._segments(marked)
        if len(segments) > 1:
            # What cannot be read is told with its place in the whole text.
            self._encode(self._normalize(marked))
        plan: list[Piece | Break] = []
        start = 0
        for segment, end in segments:
            if start in breaks:
                plan.append(Break(start, breaks[start]))
            plan += self._pieces(segment, intensity, instruction.strip())
            start = end
        if n_words in breaks:
            plan.append(Break(n_words, breaks[n_words]))
        return plan

    def parse(
        self, text: str, unmarked: str | Mapping[str, float] = "unlabelled"
    ) -> MarkedText:
        """Read the marks of a text of any length; see :meth:`plan`."""
        return parse_markup(
            text,
            self.emotions,
            unmarked,
            max_words=None,
            tags=self.tags,
            axes=self.axes,
        )

    def piece(self, marked: MarkedText, intensity: float = 1.0) -> Piece:
        """Prepare a text as one piece, whatever its size.

        Arguments
        ---------
        marked : MarkedText
            Text as :meth:`parse` returns it; its breaks are ignored.
        intensity : float
            Intensity of labelled words whose mark gives none.
        """
        whole = self._normalize(marked)
        return self._piece(whole, self._encode(whole), intensity)

    def _piece(
        self, marked: MarkedText, units: TextUnits, intensity: float, **options
    ) -> Piece:
        """Make a piece of a text and its units."""
        axes = marked.axes_tensor(self.axes) if self.axes else None
        return Piece(
            marked, units, *marked.tensors(intensity), word_axes=axes, **options
        )

    def origins(self, marked: MarkedText) -> list[int]:
        """Find the word of a text that each spoken word comes from.

        Arguments
        ---------
        marked : MarkedText
            Text as :meth:`parse` returns it.

        Returns
        -------
        list of int
            For each word of the text's plan, all pieces joined, the index of
            the text's word whose reading it belongs to; -1 if it is of none.
            "$25 & more" is read in five words, with the origins 0, 0, 0, -1
            and 1.
        """
        if self.normalizer is None:
            return list(range(len(marked.words)))
        origins, start = [], 0
        for segment, end in self._segments(marked):
            _, own = self.normalizer.trace(segment.text)
            origins += [start + word if word >= 0 else -1 for word in own]
            start = end
        return origins

    def _segments(self, marked: MarkedText) -> list[tuple[MarkedText, int]]:
        """Cut a text at its breaks; each part comes with its end."""
        n_words = len(marked.words)
        ends = sorted({n_words, *(b.word for b in marked.breaks)} - {0})
        if len(ends) == 1:
            return [(marked, n_words)]
        return list(zip(cut_marked(marked, ends, self.tags), ends))

    def _pieces(
        self, segment: MarkedText, intensity: float, instruction: str
    ) -> list[Piece]:
        """Divide the text between two breaks."""
        whole = self._normalize(segment)
        units = self._encode(whole)
        ends = self.splitter.split(whole, units)
        if len(ends) == 1:
            return [
                self._piece(whole, units, intensity, instruction=instruction)
            ]
        pauses = [self.splitter.pause(whole, end) for end in ends[:-1]]
        return [
            self._piece(
                part,
                self._encode(part),
                intensity,
                instruction=instruction,
                pause=pause,
            )
            for part, pause in zip(
                cut_marked(whole, ends, self.tags), [*pauses, 0.0]
            )
        ]

    def _normalize(self, marked: MarkedText) -> MarkedText:
        """Write a text as it is spoken, without its breaks."""
        marked = replace(marked, breaks=[])
        if self.normalizer is None:
            return marked
        return self.normalizer.normalize_words(marked)

    def _encode(self, marked: MarkedText) -> TextUnits:
        """Convert a text to units; refuse one whose words are counted else."""
        options = {}
        if self.text_frontend.language in ("zh", "both"):
            # A token may hold several characters, each of them a word.
            options["borders"] = [
                index
                for index, (before, word) in enumerate(
                    zip(marked.words, marked.words[1:]), start=1
                )
                if (before.probs, before.intensity, before.axes)
                != (word.probs, word.intensity, word.axes)
            ]
        units = self.text_frontend.encode(marked.text, **options)
        if len(units.words) != len(marked.words):
            raise ValueError(
                f"The text front end reads {len(units.words)} words "
                f"({' '.join(units.words)}) in {marked.text!r}, which has "
                f"{len(marked.words)}: write numbers and abbreviations as "
                "words, with spaces between them."
            )
        return units


def pieces_and_gaps(
    plan: Sequence[Piece | Break],
) -> tuple[list[Piece], list[float | None]]:
    """Separate the pieces of a plan from the silence around them.

    Arguments
    ---------
    plan : list of Piece or Break
        A plan of :class:`Planner`.

    Returns
    -------
    pieces : list of Piece
        The N pieces.
    gaps : list of float or None
        N + 1 times in seconds: before each piece, and behind the last. At
        both ends None, which leaves the piece's own silence, if there is no
        break.
    """
    pieces: list[Piece] = []
    gaps: list[float | None] = [None]
    for part in plan:
        if isinstance(part, Break):
            gaps[-1] = part.seconds
        else:
            pieces.append(part)
            gaps.append(part.pause)
    if plan and isinstance(plan[-1], Piece):
        gaps[-1] = None
    return pieces, gaps


class Gaps:
    """Silence between pieces whose text becomes known bit by bit.

    Arguments
    ---------
    splitter : TextSplitter
        Knows the natural pauses.

    Example
    -------
    >>> gaps = Gaps(TextSplitter())
    >>> gaps.before
    >>> gaps.add_break(0.25)
    >>> gaps.before
    0.25
    """

    def __init__(self, splitter: TextSplitter):
        self._splitter = splitter
        self._any = False
        self._break = 0.0  # silence asked for behind the last piece
        self._pause = 0.0  # the natural pause there

    @property
    def before(self) -> float | None:
        """Seconds before the next piece; None leaves its own silence."""
        if self._any or self._break:
            return self._break or self._pause
        return None

    @property
    def last(self) -> float | None:
        """Seconds of silence asked for at the end; None if none were."""
        return self._break or None

    def add_break(self, seconds: float) -> None:
        """Add silence that the text asks for."""
        self._break += seconds

    def add_piece(self, piece: Piece) -> None:
        """Go on behind a piece."""
        self._any = True
        self._break = 0.0
        n_words = len(piece.marked.words)
        self._pause = self._splitter.pause(piece.marked, n_words)

    def add_plan(
        self, plan: Sequence[Piece | Break]
    ) -> list[tuple[float | None, Piece]]:
        """Go on behind a plan; return its pieces with the gaps before them."""
        pieces, gaps = pieces_and_gaps(plan)
        if not pieces:
            self.add_break(gaps[-1] or 0.0)
            return []
        spoken = []
        for index, piece in enumerate(pieces):
            if index:
                self._break, self._pause = 0.0, gaps[index] or 0.0
            else:
                self.add_break(gaps[index] or 0.0)
            spoken.append((self.before, piece))
            self.add_piece(piece)
        self._break = gaps[-1] or 0.0
        return spoken


def piece_seed(seed: int, index: int) -> int:
    """Derive the seed of a piece of a text; that of the first is the text's.

    Arguments
    ---------
    seed : int
        Seed of the text.
    index : int
        Number of the piece, from 0.

    Example
    -------
    >>> piece_seed(7, 0), piece_seed(7, 2)
    (7, 2000013)
    """
    return (seed + index * _SEED_STEP) % 2**63 if index else seed


def candidate_seed(seed: int, index: int) -> int:
    """Derive the seed of one of several readings of a piece.

    Arguments
    ---------
    seed : int
        Seed of the piece, which is that of its first reading.
    index : int
        Number of the reading, from 0.

    Example
    -------
    >>> candidate_seed(7, 0), candidate_seed(7, 1)
    (7, 7000000008)
    """
    return (seed + index * _CANDIDATE_STEP) % 2**63 if index else seed


def carry_history(
    prompt: LMPrompt, piece: Piece, speech_tokens: torch.Tensor
) -> LMPrompt:
    """Add a spoken piece to the prompt of the next one.

    Arguments
    ---------
    prompt : LMPrompt
        Prompt of the text.
    piece : Piece
        The piece before.
    speech_tokens : torch.Tensor
        Its speech tokens (S,). More than ``MAX_HISTORY_TOKENS`` are not
        carried, nor their text.

    Returns
    -------
    LMPrompt
        Prompt that the next piece continues.
    """
    if len(speech_tokens) > MAX_HISTORY_TOKENS:
        return prompt
    return LMPrompt(
        prompt.text_ids + piece.units.ids,
        torch.cat([prompt.speech_tokens, speech_tokens.cpu()]),
    )
