"""Samplers that choose the next speech token from the scores.

A sampler is called as ``sampler(log_probs, history, uniforms)`` and draws one
token per row of a batch. It has no random state: the caller passes uniform
numbers from one generator per utterance, so that an utterance sounds the same
alone and in any batch.

Where only few tokens are candidates, nearly all of the vocabulary is forbidden.
A sampler whose ``takes_ids`` is true is then called with the columns of
``candidate_columns`` and their ids, which draws the same tokens at less cost.
"""

from collections.abc import Callable, Sequence

import torch

Sampler = Callable[..., torch.Tensor]

N_UNIFORMS = 2  # the draw, and the draw that replaces a repeated token
_AHEAD = 32  # steps whose numbers are drawn at once
# Numbers that a processor adds at once; sums depend on it in the last bit.
_LANES = 16


class UtteranceNoise:
    """One random generator per utterance.

    The generators are on the CPU, so that a seed has the same effect on every
    device. Utterances can join and leave between two calls.

    Arguments
    ---------
    seeds : Sequence[int]
        One seed for each utterance.
    device : Optional[torch.device]
        Device of the numbers; the CPU if None.

    Example
    -------
    >>> batch, alone = UtteranceNoise([3, 7]), UtteranceNoise([7])
    >>> torch.equal(batch()[1:], alone())
    True
    >>> batch.keep([1])
    >>> batch.join([3])
    >>> torch.equal(batch(), torch.cat([alone(), UtteranceNoise([3])()]))
    True
    """

    def __init__(
        self, seeds: Sequence[int] = (), device: torch.device | None = None
    ):
        self._device = torch.device(device or "cpu")
        self._generators: list[torch.Generator] = []
        # Numbers drawn in advance, (B, steps, 2), and the next step's index.
        self._numbers = torch.empty(
            0, _AHEAD, N_UNIFORMS, dtype=torch.float64, device=self._device
        )
        self._next = 0
        self.join(seeds)

    def join(self, seeds: Sequence[int]) -> None:
        """Add utterances with these seeds."""
        if not seeds:
            return
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        self._generators += generators
        # All numbers are used up at the same step.
        new = self._draw(generators, _AHEAD - self._next)
        used = new.new_zeros(len(new), self._next, N_UNIFORMS)
        self._numbers = torch.cat([self._numbers, torch.cat([used, new], 1)])

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the utterances of these indices and forget the others."""
        self._generators = [self._generators[row] for row in rows]
        index = torch.tensor(rows, dtype=torch.long, device=self._device)
        self._numbers = self._numbers[index]

    def __call__(self) -> torch.Tensor:
        """Draw the next numbers in [0, 1) of every utterance, (B, 2)."""
        if self._next == _AHEAD:
            self._numbers = self._draw(self._generators, _AHEAD)
            self._next = 0
        self._next += 1
        return self._numbers[:, self._next - 1]

    def _draw(
        self, generators: Sequence[torch.Generator], n_steps: int
    ) -> torch.Tensor:
        """Draw the numbers of the next steps, (B, n_steps, 2)."""
        numbers = [
            torch.rand(n_steps, N_UNIFORMS, generator=g, dtype=torch.float64)
            for g in generators
        ]
        return torch.stack(numbers).to(self._device)


def draw(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw an index from each row by inverting its cumulative distribution.

    Arguments
    ---------
    probs : torch.Tensor
        Weights, not necessarily of sum 1, shape (B, K).
    uniform : torch.Tensor
        Uniform numbers in [0, 1), shape (B,).

    Returns
    -------
    index : torch.Tensor
        Shape (B,); an index of weight 0 is never drawn.

    Example
    -------
    >>> draw(torch.tensor([[0.0, 1.0, 3.0]] * 2), torch.tensor([0.2, 0.3]))
    tensor([1, 2])
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    target = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)


def candidate_columns(
    log_probs: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place the candidates in few columns instead of in the vocabulary.

    They are in order of id, and so far apart that sums over the columns are
    made in the order of sums over the vocabulary: they are equal to the last
    bit, and so are all tokens that are drawn.

    Arguments
    ---------
    log_probs : torch.Tensor
        Scores of the candidates, shape (B, K).
    ids : torch.Tensor
        Their ids, in any order, shape (B, K).

    Returns
    -------
    log_probs : torch.Tensor
        Scores of all columns, -inf for those without a candidate, (B, 16 K).
    ids : torch.Tensor
        The columns' ids, (B, 16 K).

    Example
    -------
    >>> scores, ids = torch.tensor([[0.5, 0.25]]), torch.tensor([[99, 8]])
    >>> columns, names = candidate_columns(scores, ids)
    >>> places = columns.isfinite()
    >>> columns[places], names[places], columns.shape
    (tensor([0.2500, 0.5000]), tensor([ 8, 99]), torch.Size([1, 32]))
    """
    n_columns = _LANES * ids.shape[1]
    ids, order = ids.sort(-1)
    starts = torch.arange(0, n_columns, _LANES, device=ids.device)
    places = starts + ids % _LANES
    columns = log_probs.new_full((len(ids), n_columns), -torch.inf)
    columns.scatter_(1, places, log_probs.gather(1, order))
    names = ids.new_zeros(len(ids), n_columns).scatter_(1, places, ids)
    return columns, names


class RepetitionAwareSampler:
    """Nucleus sampling that redraws recently repeated tokens.

    The repetition-aware sampling of VALL-E 2 (Chen et al., 2024) as
    CosyVoice2 uses it: draw from the nucleus; if the drawn token makes up at
    least a share ``tau`` of the last ``window`` tokens, forbid it and redraw
    once from the whole vocabulary.

    Arguments
    ---------
    top_p : float
        The nucleus ends with the token at which its probability reaches this.
    top_k : int
        Maximum number of tokens in the nucleus.
    window : int
        Number of latest tokens that are checked for repetition.
    tau : float
        Share of the window from which a token counts as repeated; with 0.1
        of 10 tokens, one occurrence is enough.
    temperature : float
        Divisor of the log-probabilities; below 1 sharpens the distribution.

    Raises
    ------
    ValueError
        If a value is out of range.

    Example
    -------
    >>> sampler = RepetitionAwareSampler(top_k=2)
    >>> log_probs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> uniforms = torch.tensor([[0.9, 0.9]])
    >>> sampler(log_probs, torch.tensor([[]]), uniforms)
    tensor([1])
    >>> sampler(log_probs, torch.tensor([[1]]), uniforms)
    tensor([2])
    """

    #: Whether it can be called with the ids of the columns.
    takes_ids = True

    def __init__(
        self,
        top_p: float = 0.8,
        top_k: int = 25,
        window: int = 10,
        tau: float = 0.1,
        temperature: float = 1.0,
    ):
        if not 0 < top_p <= 1 or top_k < 1 or window < 1 or temperature <= 0:
            raise ValueError(
                f"RepetitionAwareSampler: top_p {top_p}, top_k {top_k}, window "
                f"{window}, temperature {temperature}; top_p must be in (0, 1] "
                "and the others positive."
            )
        self.top_p = top_p
        self.top_k = top_k
        self.window = window
        self.tau = tau
        self.temperature = temperature

    def nucleus(
        self, log_probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the candidates of the first draw, most probable first.

        Arguments
        ---------
        log_probs : torch.Tensor
            Shape (B, V).

        Returns
        -------
        ids : torch.Tensor
            Shape (B, min(top_k, V)); equal probabilities in order of id.
        probs : torch.Tensor
            Probabilities of the ids, 0 outside the nucleus.
        """
        probs = self._probs(log_probs)
        # topk leaves the order of equal values open. The bits of non-negative
        # floats are ordered like their values: append the id to them.
        order = torch.arange(probs.shape[1], device=probs.device)
        keys = (probs.view(torch.int32).long() << 32) - order
        ids = keys.topk(min(self.top_k, probs.shape[1])).indices
        probs = probs.gather(1, ids)
        before = probs.cumsum(-1) - probs
        return ids, probs.masked_fill(before >= self.top_p, 0.0)

    def is_repeated(
        self, ids: torch.Tensor, history: torch.Tensor
    ) -> torch.Tensor:
        """Tell which ids (B, K) count as repeated, bool (B, K).

        ``history`` (B, H) holds the tokens so far without the prompt, latest
        last; shorter histories are padded with -1 on the left.
        """
        window = history[:, -self.window :].unsqueeze(1)
        count = (window == ids.unsqueeze(-1)).sum(-1)
        return count >= max(1.0, self.tau * self.window)

    def __call__(
        self,
        log_probs: torch.Tensor,
        history: torch.Tensor,
        uniforms: torch.Tensor,
        column_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw one token per row.

        Arguments
        ---------
        log_probs : torch.Tensor
            Log-probabilities, -inf for forbidden tokens, shape (B, V).
        history : torch.Tensor
            Tokens so far, see ``is_repeated``, shape (B, H).
        uniforms : torch.Tensor
            Uniform numbers in [0, 1), shape (B, 2).
        column_ids : Optional[torch.Tensor]
            Token of each column of ``log_probs``, shape (B, V), in ascending
            order; the number of the column if None.

        Returns
        -------
        tokens : torch.Tensor
            Shape (B,).
        """
        places, probs = self.nucleus(log_probs)
        places = places.gather(1, draw(probs, uniforms[:, 0]).unsqueeze(1))
        tokens = places if column_ids is None else column_ids.gather(1, places)
        repeated = self.is_repeated(tokens, history)
        if not repeated.any():
            return tokens.squeeze(1)
        rest = self._probs(log_probs.scatter(1, places, -torch.inf))
        # Where all other tokens are forbidden, the token has to repeat.
        repeated &= rest.sum(-1, keepdim=True) > 0
        rest = torch.where(repeated, rest, torch.ones_like(rest))
        again = draw(rest, uniforms[:, 1]).unsqueeze(1)
        if column_ids is not None:
            again = column_ids.gather(1, again)
        return torch.where(repeated, again, tokens).squeeze(1)

    def _probs(self, log_probs: torch.Tensor) -> torch.Tensor:
        log_probs = log_probs.float()
        if self.temperature != 1:
            log_probs = log_probs / self.temperature
        return log_probs.softmax(-1)


class GreedySampler:
    """Take the most probable token; called like the other samplers.

    Example
    -------
    >>> sampler = GreedySampler()
    >>> sampler(torch.tensor([[0.1, 0.9]]).log(), None, None)
    tensor([1])
    """

    #: Whether it can be called with the ids of the columns.
    takes_ids = True

    def __call__(
        self,
        log_probs: torch.Tensor,
        history: torch.Tensor,
        uniforms: torch.Tensor,
        column_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Choose the most probable token of each row (B, V), shape (B,)."""
        places = log_probs.argmax(-1, keepdim=True)
        tokens = places if column_ids is None else column_ids.gather(1, places)
        return tokens.squeeze(1)
