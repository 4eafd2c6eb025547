"""WordPointer: which word of the text a speech language model is speaking.

A decoder-only language model has to know which word it speaks next, so the
word can be read from its own states. For each speech token the pointer
compares a query, made from the states before and after the token, with a key
for every text token and one for silence; the softmax over them, summed over
the text tokens of each word, is the probability that this word is being
spoken. A token is divided into a few frames with a query each, so that word
boundaries are finer than tokens. Cross-entropy against the word of each frame
trains it; no aligner and no knowledge of the language is needed.

The state after a token is known one step later. Where it is not known yet, in
a stream, a learned vector takes its place.

``monotonic_path`` finds the words in order in a finished utterance, or in one
that is still being spoken.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

#: Target of frames that are not trained on.
IGNORE = -100
#: Smallest probability of a word: one wrong frame must not decide a path.
FLOOR = 1e-6
#: Cost of leaving out a word, as a negative logarithm of a probability.
SKIP_COST = 12.0


class WordPointerOutput(NamedTuple):
    """Loss of ``WordPointer``; every field is a 0-d tensor.

    Arguments
    ---------
    loss : torch.Tensor
        Mean cross-entropy of the frames; 0 if there are none.
    accuracy : torch.Tensor
        Share of the frames whose word, or silence, is found.
    n_frames : torch.Tensor
        Number of frames.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    n_frames: torch.Tensor


class WordPointer(nn.Module):
    """Tell for each speech token which word of the text is being spoken.

    Parameters are initialised from the module's own seed and dropout draws
    from a copy of the random state, so that whatever is trained besides it is
    trained as without it.

    Arguments
    ---------
    state_dim : int
        Size C of the language model's states.
    reduced_dim : int
        Size to which a state is reduced.
    hidden : int
        Size of the hidden layer of the queries.
    dim : int
        Size of queries and keys.
    resolution : int
        Number R of frames into which a speech token is divided.
    dropout : float
        Dropout of states and hidden layers in training.
    next_dropout : float
        Share of the utterances whose states after the tokens are withheld in
        training, so that the pointer also works without them.
    seed : int
        Seed of the initial parameters.

    Example
    -------
    >>> pointer = WordPointer(state_dim=16, reduced_dim=8, hidden=8, dim=4)
    >>> log_probs = pointer(
    ...     torch.randn(2, 5, 16), torch.tensor([1.0, 0.6]),
    ...     torch.tensor([[0, 0, -1, 1, 2], [0, 1, -1, 0, 0]]),
    ...     torch.randn(2, 7, 16), torch.tensor([1.0, 0.5]), n_words=3)
    >>> log_probs.shape  # silence and 3 words in 4 frames of 6 tokens
    torch.Size([2, 24, 4])
    >>> torch.allclose(log_probs.exp().sum(-1), torch.ones(2, 24), atol=1e-4)
    True
    """

    def __init__(
        self,
        state_dim: int,
        reduced_dim: int = 128,
        hidden: int = 192,
        dim: int = 64,
        resolution: int = 4,
        dropout: float = 0.2,
        next_dropout: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.resolution = resolution
        self.next_dropout = next_dropout
        self.scale = 4 / dim**0.5
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reduce = nn.Linear(state_dim, reduced_dim)
            self.query = nn.Sequential(
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * reduced_dim, hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, resolution * dim),
            )
            # A text token's own state does not tell whether the word goes on.
            self.key = nn.Linear(2 * state_dim, dim)
        self.unknown = nn.Parameter(torch.zeros(reduced_dim))
        self.silence = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        text_states: torch.Tensor,
        text_lens: torch.Tensor,
        word_of_token: torch.Tensor,
        speech_states: torch.Tensor,
        speech_lens: torch.Tensor,
        n_words: int,
        sees_next: bool | torch.Tensor = True,
    ) -> torch.Tensor:
        """Compute the logarithms of the words' probabilities.

        Arguments
        ---------
        text_states : torch.Tensor
            States at the text tokens, shape (B, T, C).
        text_lens : torch.Tensor
            Relative lengths of the text, shape (B,).
        word_of_token : torch.Tensor
            Index of each text token's word, -1 for none, shape (B, T).
        speech_states : torch.Tensor
            States that predict the speech tokens, followed by the one behind
            the last token, shape (B, S + 1, C).
        speech_lens : torch.Tensor
            Relative lengths of the S speech tokens, shape (B,).
        n_words : int
            Number W of words.
        sees_next : bool or torch.Tensor
            Whether the state after each token is used, for all utterances or
            for each (B,); without, the pointer is strictly causal.

        Returns
        -------
        torch.Tensor
            Shape (B, S * R, 1 + W): silence, then the words. A word without
            a text token has the smallest probability.
        """
        n_speech = speech_states.shape[1] - 1
        sizes = torch.round(speech_lens * n_speech)
        known = length_to_mask(sizes, max_len=max(n_speech, 1)).bool()
        seen = torch.as_tensor(sees_next, device=known.device).view(-1, 1)
        queries = self._queries(
            speech_states.float(), known[:, :n_speech] & seen
        )
        n_text = text_states.shape[1]
        text = length_to_mask(
            torch.round(text_lens * n_text), max_len=n_text
        ).bool()
        keys = self._keys(text_states.float(), text)
        # Silence is one more key.
        keys = torch.cat([self.silence.expand(len(keys), 1, -1), keys], 1)
        scores = (queries @ keys.transpose(1, 2)).float() * self.scale
        word_of_token = word_of_token.masked_fill(~text, -1)
        owner = F.pad(word_of_token + 1, (1, 0))
        no_word = owner == 0
        no_word[:, 0] = False
        scores = scores.masked_fill(no_word.unsqueeze(1), -torch.inf)
        own = F.one_hot(owner, 1 + n_words).to(scores)
        return (scores.softmax(-1) @ own).clamp(min=FLOOR).log()

    def loss(
        self,
        text_states: torch.Tensor,
        text_lens: torch.Tensor,
        word_of_token: torch.Tensor,
        speech_states: torch.Tensor,
        speech_lens: torch.Tensor,
        word_of_frame: torch.Tensor,
    ) -> WordPointerOutput:
        """Compute the loss; the states get no gradient.

        Arguments
        ---------
        text_states, text_lens, word_of_token, speech_states, speech_lens
            As in ``forward``.
        word_of_frame : torch.Tensor
            Index of the word spoken in each frame, -1 for silence and
            ``IGNORE`` where nothing is to be learned, long, shape (B, S * R).
            Frames of words without a text token are left out.

        Returns
        -------
        WordPointerOutput
            The loss over the frames within ``speech_lens``.
        """
        n_words = max(int(word_of_token.max()), int(word_of_frame.max()), 0) + 1
        # A build without CUDA keeps no random state for such a device.
        on_gpu = speech_states.is_cuda and torch.backends.cuda.is_built()
        devices = [speech_states.device] if on_gpu else []
        with torch.random.fork_rng(devices=devices):
            coins = torch.rand(len(text_states), device=text_states.device)
            withheld = coins < self.next_dropout
            log_probs = self(
                text_states.detach(),
                text_lens,
                word_of_token,
                speech_states.detach(),
                speech_lens,
                n_words,
                sees_next=~withheld if self.training else True,
            )
        n_frames = log_probs.shape[1]
        sizes = torch.round(speech_lens * (n_frames // self.resolution))
        frames = length_to_mask(sizes * self.resolution, max_len=n_frames)
        n_text = text_states.shape[1]
        text = length_to_mask(torch.round(text_lens * n_text), max_len=n_text)
        written = F.one_hot(
            word_of_token.masked_fill(~text.bool(), -1) + 1, 1 + n_words
        ).amax(1)
        written[:, 0] = 1
        targets = word_of_frame + 1
        ignored = (word_of_frame == IGNORE) | ~frames.bool()
        targets = targets.masked_fill(ignored, 0)
        ignored = ignored | (written.gather(1, targets) == 0)
        n_used = (~ignored).sum()
        loss = F.nll_loss(
            log_probs.flatten(0, 1),
            targets.masked_fill(ignored, IGNORE).flatten(),
            ignore_index=IGNORE,
            reduction="sum",
        )
        right = (log_probs.argmax(-1) == targets) & ~ignored
        used = n_used.clamp(min=1)
        return WordPointerOutput(loss / used, right.sum() / used, n_used)

    def _queries(
        self, states: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        """Make the queries (B, S * R, D) of states (B, S + 1, C).

        ``known`` (B, S) tells where the state after a token is.
        """
        reduced = self.reduce(self.dropout(states))
        after = torch.where(
            known.unsqueeze(-1), reduced[:, 1:], self.unknown.to(reduced)
        )
        queries = self.query(torch.cat([reduced[:, :-1], after], -1))
        return queries.unflatten(-1, (self.resolution, -1)).flatten(1, 2)

    def _keys(self, states: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Make the keys (B, T, D) of states (B, T, C); ``text``: no padding."""
        states = self.dropout(states.masked_fill(~text.unsqueeze(-1), 0.0))
        return self.key(
            torch.cat([states, F.pad(states[:, 1:], (0, 0, 0, 1))], -1)
        )


def word_pointer(weight: float, **arguments) -> WordPointer | None:
    """Make a pointer, or None if the weight of its loss is 0.

    Arguments
    ---------
    weight : float
        Weight of the loss.
    **arguments : dict
        Arguments of ``WordPointer``.

    Example
    -------
    >>> word_pointer(0.0, state_dim=16) is None
    True
    """
    return WordPointer(**arguments) if weight else None


def monotonic_path(
    log_probs: torch.Tensor | np.ndarray,
    skip_cost: float = SKIP_COST,
    is_whole: bool = True,
) -> np.ndarray:
    """Find the most probable path through the words in their order.

    Each word takes at least one frame, unless it is left out; before, between
    and behind the words there may be silence. The search goes through the
    words and treats all frames at once, so that it takes a fraction of a
    millisecond.

    Arguments
    ---------
    log_probs : torch.Tensor or numpy.ndarray
        Logarithms of the probabilities of silence and the W words in each of
        F frames, shape (F, 1 + W).
    skip_cost : float
        Cost of leaving out a word; infinite for never.
    is_whole : bool
        Whether the utterance has ended. If not, the path may end anywhere;
        the words behind its end are not reached.

    Returns
    -------
    numpy.ndarray
        First frame of each word and the frame behind its last, integers of
        shape (W, 2); equal if the word is left out, -1 if it is not reached.

    Example
    -------
    >>> probs = torch.tensor(
    ...     [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]]
    ... )
    >>> monotonic_path(probs.log()).tolist()
    [[1, 3], [3, 4]]
    >>> monotonic_path(probs[:2].log(), is_whole=False).tolist()
    [[1, 2], [-1, -1]]
    """
    values = np.asarray(log_probs, dtype=np.float64)
    n_frames, n_words = len(values), values.shape[1] - 1
    sums = np.zeros((n_frames + 1, n_words + 1))
    np.cumsum(values, 0, out=sums[1:])
    frames = np.arange(n_frames + 1)
    # best[t]: score of the first t frames if the present state ends there.
    best = np.full(n_frames + 1, -np.inf)
    best[0] = 0.0
    states = [0, *(s for word in range(n_words) for s in (word + 1, 0))]
    begins, finals = [], []
    for state in states:
        total = sums[:, state]
        gains = best - total
        highest = np.maximum.accumulate(gains)
        # The latest frame of those that reach the highest gain so far.
        start = np.maximum.accumulate(np.where(gains == highest, frames, 0))
        if state:
            stay = np.full(n_frames + 1, -np.inf)
            stay[1:] = highest[:-1] + total[1:]
            start[1:] = start[:-1]
            skip = best - skip_cost
            start = np.where(skip >= stay, frames, start)
            best = np.maximum(stay, skip)
        else:
            best = highest + total
        begins.append(start)
        finals.append(best[-1])
    last = len(states) - 1
    if not is_whole:
        last = int(np.argmax(finals))
    path = np.full((n_words, 2), -1, dtype=np.int64)
    end = n_frames
    for index in range(last, -1, -1):
        start = int(begins[index][end])
        if states[index]:
            path[states[index] - 1] = start, end
        end = start
    return path
