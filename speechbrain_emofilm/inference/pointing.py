"""Words of generated speech, found by the model's own word pointer.

While the language model speaks, its states are kept. From them the word
pointer finds each word in the speech tokens: its times, and whether it was
spoken at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.lobes.cosyvoice2.speech_decoding import DrawnToken
from speechbrain_emofilm.lobes.word_pointer import WordPointer, monotonic_path

import numpy as np
import torch

#: Name of the pointer as ``word_times_source``.
POINTER = "pointer"
#: A word below this share of its expected length is cut.
CUT_SHARE = 0.2
#: A word that is found outside of its place for more than this share of its
#: expected length is repeated.
REPEATED_SHARE = 0.6
#: Mean probability below which a word is lost, whatever its length.
LOST_CONFIDENCE = 0.15
#: Clarity below which a word is lost; chosen on validation sentences.
LOST_CLARITY = 0.05
#: Speech tokens around a word that are not outside of its place.
_MARGIN = 1


class WordCoverage(NamedTuple):
    """Whether a word was spoken.

    Arguments
    ---------
    status : str
        ``"spoken"``, ``"lost"``, ``"cut"`` (left early) or ``"repeated"``.
    share : float
        Its length relative to what its text units take in this utterance.
    confidence : float
        Mean probability of the word in its place, 0 to 1.
    clarity : float, optional
        Probability with which a listener hears the word's least clear
        phoneme; None without a listener.
    """

    status: str
    share: float
    confidence: float
    clarity: float | None = None


@dataclass(frozen=True)
class Pointing:
    """Words of an utterance among its speech tokens.

    Arguments
    ---------
    spans : numpy.ndarray
        First and last place of each word in tokens, shape (W, 2); equal for
        a word that was left out, -1 for one that is not reached yet.
    confidence : numpy.ndarray
        Mean probability of each word in its place, shape (W,).
    coverage : list of WordCoverage
        Whether each word was spoken.
    """

    spans: np.ndarray
    confidence: np.ndarray
    coverage: list[WordCoverage]

    def heard(self, clarity: Sequence[float | None]) -> "Pointing":
        """Return the same with what a listener heard of each word.

        A word that is not heard at all is lost, whatever the language model
        meant to say.

        Arguments
        ---------
        clarity : list of float or None
            As in :class:`~speechbrain_emofilm.inference.listening.Heard`.
        """
        coverage = [
            word._replace(
                clarity=own,
                status="lost"
                if own is not None and own < LOST_CLARITY
                else word.status,
            )
            for word, own in zip(self.coverage, clarity)
        ]
        return replace(self, coverage=coverage)

    @property
    def n_bad(self) -> int:
        """Number of words that are lost, cut or repeated."""
        return sum(word.status != "spoken" for word in self.coverage)

    @property
    def n_lost(self) -> int:
        """Number of words that are lost or cut."""
        return sum(word.status in ("lost", "cut") for word in self.coverage)

    def words(
        self, names: Sequence[str], seconds_per_token: float
    ) -> list[Word]:
        """Return the words with their times in seconds.

        Arguments
        ---------
        names : list of str
            The W words.
        seconds_per_token : float
            Duration of a speech token.
        """
        return [
            Word(
                name,
                float(start) * seconds_per_token,
                float(end) * seconds_per_token,
                float(confidence),
            )
            for name, (start, end), confidence in zip(
                names, self.spans, self.confidence
            )
        ]


class Reading:
    """What the language model drew for an utterance, and its states.

    Arguments
    ---------
    word_of_unit : list of int
        Word of each text token, that of a prompt included, -1 for none.
    n_words : int
        Number of words.

    Example
    -------
    >>> reading = Reading([0, 0, 1], n_words=2)
    >>> reading.on_text(torch.randn(3, 16))
    >>> for token in (5, 6, None):
    ...     reading.on_drawn(DrawnToken(0, token, False, torch.randn(16)))
    >>> reading.tokens
    [5, 6]
    >>> (found,) = point(WordPointer(16).eval(), [reading])
    >>> found.spans.shape, len(found.coverage)
    ((2, 2), 2)
    """

    def __init__(self, word_of_unit: Sequence[int], n_words: int):
        self.word_of_unit = list(word_of_unit)
        self.n_words = n_words
        self.tokens: list[int] = []
        self._text: list[torch.Tensor] = []
        self._speech: list[torch.Tensor] = []

    def on_text(self, states: torch.Tensor) -> None:
        """Keep the states (T, C) of text that has been read."""
        self._text.append(states)

    def on_drawn(self, drawn: DrawnToken) -> None:
        """Keep a token, if any, and the state that predicted it."""
        if drawn.token is not None:
            self.tokens.append(drawn.token)
        self._speech.append(drawn.hidden)

    @property
    def text_states(self) -> torch.Tensor:
        """States at the text tokens read so far, (T, C)."""
        return torch.cat(self._text).clone()

    @property
    def speech_states(self) -> torch.Tensor:
        """States that predicted the tokens, and the one behind if known."""
        return torch.stack(self._speech).clone()

    def log_likelihood(self, llm_decoder: torch.nn.Module) -> float:
        """Compute the mean log-probability of the tokens."""
        if not self.tokens:
            return -np.inf
        states = self.speech_states[: len(self.tokens)]
        logits = llm_decoder(states).float().log_softmax(-1)
        index = torch.tensor(self.tokens, device=logits.device)
        return float(logits.gather(1, index[:, None]).mean())


class PointedTokens:
    """Speech tokens as they are drawn, and the words found among them so far.

    Arguments
    ---------
    tokens : iterator of int
        The tokens; each draw adds to the reading.
    pointer : WordPointer
        The model's pointer.
    reading : Reading
        What has been drawn.
    """

    def __init__(
        self, tokens: Iterator[int], pointer: WordPointer, reading: Reading
    ):
        self._tokens = tokens
        self._pointer = pointer
        self.reading = reading

    def __iter__(self) -> Iterator[int]:
        """Return itself."""
        return self

    def __next__(self) -> int:
        """Draw the next token."""
        return next(self._tokens)

    def find_words(self, is_whole: bool) -> Pointing | None:
        """Find the words in the tokens so far; None without any token."""
        if not self.reading.tokens:
            return None
        return point(self._pointer, [self.reading], is_whole)[0]


@torch.no_grad()
def point(
    pointer: WordPointer, readings: Sequence[Reading], is_whole: bool = True
) -> list[Pointing]:
    """Find the words of utterances in their speech tokens.

    Arguments
    ---------
    pointer : WordPointer
        The model's pointer.
    readings : list of Reading
        Utterances, each with at least one token.
    is_whole : bool
        Whether the utterances have ended.

    Returns
    -------
    list of Pointing
        One for each utterance.
    """
    found = []
    # One by one: padding would cost more than a small batch saves.
    for reading in readings:
        text, speech = reading.text_states, reading.speech_states
        n_tokens = len(reading.tokens)
        if len(speech) > n_tokens:  # the state behind the last token
            speech = speech[: n_tokens + 1]
        log_probs = _log_probs(pointer, reading, text, speech)
        found.append(_judge(log_probs, reading, pointer.resolution, is_whole))
    return found


def _log_probs(
    pointer: WordPointer,
    reading: Reading,
    text: torch.Tensor,
    speech: torch.Tensor,
) -> np.ndarray:
    """Compute the words' log-probabilities (F, 1 + W) of one utterance."""
    n_tokens = len(reading.tokens)
    known = len(speech) - 1  # tokens behind which the state is known
    if known < n_tokens:
        speech = torch.cat([speech, speech[-1:]])
    owners = torch.tensor(reading.word_of_unit[: len(text)], device=text.device)
    options = dict(
        text_states=text[None],
        text_lens=torch.ones(1, device=text.device),
        word_of_token=owners[None],
        n_words=reading.n_words,
        speech_states=speech[None],
    )
    lens = torch.tensor([known / n_tokens], device=text.device)
    # Relative lengths say up to where the state behind a token is known.
    return pointer(**options, speech_lens=lens)[0].float().cpu().numpy()


def _judge(
    log_probs: np.ndarray, reading: Reading, resolution: int, is_whole: bool
) -> Pointing:
    """Find the path through the words and say which of them were spoken."""
    n_words = reading.n_words
    probs = np.exp(log_probs[:, 1:])
    owners = np.asarray(reading.word_of_unit)
    units = np.bincount(owners[owners >= 0], minlength=n_words)
    written = np.flatnonzero(units)
    path = np.full((n_words, 2), -1)
    path[written] = monotonic_path(
        log_probs[:, [0, *(written + 1)]], is_whole=is_whole
    )
    path = _share_unwritten(path, units)
    lengths = path[:, 1] - path[:, 0]
    spoken = (lengths > 0) & (units > 0)
    # Frames that a text unit takes in this utterance.
    rate = 1.0
    if spoken.any():
        rate = float(np.median(lengths[spoken] / units[spoken]))
    confidence, coverage = np.zeros(n_words), []
    margin = _MARGIN * resolution
    for word, (start, end) in enumerate(path):
        own = probs[:, word]
        if end > start:
            confidence[word] = own[start:end].mean()
        expected = rate * max(int(units[word]), 1)
        share = float(lengths[word] / expected)
        outside = own.sum() - own[max(start - margin, 0) : end + margin].sum()
        status = "spoken"
        if not units[word]:
            pass  # has no text token of its own to be pointed at
        elif end == start or confidence[word] < LOST_CONFIDENCE:
            status = "lost"
        elif share < CUT_SHARE:
            status = "cut"
        elif outside > REPEATED_SHARE * expected:
            status = "repeated"
        coverage.append(WordCoverage(status, share, float(confidence[word])))
    return Pointing(path / resolution, confidence, coverage)


def _share_unwritten(path: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Divide the place of a word with those behind it that have no token.

    A text token may hold several Chinese characters, each of them a word.
    """
    path, word = path.copy(), 0
    while word < len(path):
        end = word + 1
        while end < len(path) and not units[end]:
            end += 1
        if end > word + 1 and units[word] and path[word, 0] >= 0:
            first, last = path[word].tolist()
            borders = np.linspace(first, last, end - word + 1).round()
            path[word:end, 0] = borders[:-1]
            path[word:end, 1] = borders[1:]
        word = end
    return path
