"""Finite scalar quantisation, with embeddings generated from its digits.

CosyVoice2's speech tokens are the corners, edges and centres of a cube:
8 dimensions, each -1, 0 or 1, hence 3^8 = 6561 ids (Mentzer et al., Finite
Scalar Quantization, 2024). A table with one free row per id is most of a
small language model; here a small network computes each row from the id's
digits, so that rare ids share what frequent ones learned.
"""

import torch
import torch.nn.functional as F
from torch import nn

N_LEVELS = 3


class FSQ(nn.Module):
    """Quantiser to -1, 0 or 1 per dimension, with a straight-through gradient.

    The id of a code is ``sum_j (q_j + 1) * 3**j``.

    Arguments
    ---------
    n_dims : int
        Number of dimensions; there are ``3 ** n_dims`` ids.

    Example
    -------
    >>> quantiser = FSQ()
    >>> codes, ids = quantiser(torch.randn(2, 10, 8))
    >>> codes.shape, ids.shape
    (torch.Size([2, 10, 8]), torch.Size([2, 10]))
    >>> torch.equal(quantiser.from_id(ids), codes)
    True
    """

    def __init__(self, n_dims: int = 8):
        super().__init__()
        self.n_dims = n_dims
        self.n_codes = N_LEVELS**n_dims
        self.register_buffer(
            "_place", N_LEVELS ** torch.arange(n_dims), persistent=False
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise values.

        Arguments
        ---------
        x : torch.Tensor
            Unbounded values, shape (..., n_dims).

        Returns
        -------
        codes : torch.Tensor
            Values -1, 0 or 1 whose gradient is that of tanh(x), same shape.
        ids : torch.Tensor
            Ids 0 to n_codes - 1, shape (...).
        """
        bounded = x.tanh()
        rounded = bounded.detach().round()
        # (rounded - bounded) first would not give exact -1, 0 and 1.
        codes = rounded + (bounded - bounded.detach())
        return codes, self.to_id(rounded)

    def to_id(self, codes: torch.Tensor) -> torch.Tensor:
        """Convert codes (..., n_dims) to ids (...)."""
        return ((codes.long() + 1) * self._place).sum(-1)

    def from_id(self, ids: torch.Tensor) -> torch.Tensor:
        """Convert ids (...) to codes (..., n_dims), as floats."""
        digits = ids.unsqueeze(-1) // self._place % N_LEVELS
        return (digits - 1).to(torch.get_default_dtype())


class _DigitTable(nn.Module):
    """Table (3 ** n_dims + n_extra, dim) computed from the ids' digits.

    A network with two hidden layers maps the one-hot digits of an id to its
    row; the extra ids, which have no digits, have a free row each. Without
    gradients the table is computed once and cached until a parameter changes.
    """

    def __init__(
        self, dim: int, hidden: int = 256, n_extra: int = 3, n_dims: int = 8
    ):
        super().__init__()
        self.dim = dim
        self.n_codes = N_LEVELS**n_dims
        self.n_rows = self.n_codes + n_extra
        digits = torch.arange(self.n_codes).unsqueeze(1)
        digits = digits // N_LEVELS ** torch.arange(n_dims) % N_LEVELS
        self.register_buffer(
            "_one_hot",
            F.one_hot(digits, N_LEVELS).flatten(1).float(),
            persistent=False,
        )
        self.network = nn.Sequential(
            nn.Linear(N_LEVELS * n_dims, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
        )
        self.extra = nn.Parameter(0.02 * torch.randn(n_extra, dim))
        self._cache: tuple[tuple, torch.Tensor] | None = None

    @property
    def weight(self) -> torch.Tensor:
        """Table of all rows, shape (3 ** n_dims + n_extra, dim)."""
        if self._needs_gradient() or self.extra.is_inference():
            return self._rows()
        # Optimiser steps and load_state_dict increment the version.
        state = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if self._cache is None or self._cache[0] != state:
            # The cached table must be neither an inference tensor, which
            # autograd would refuse later, nor in the first caller's precision.
            device = self.extra.device.type
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(device, enabled=False),
            ):
                self._cache = (state, self._rows())
        return self._cache[1]

    def _needs_gradient(self) -> bool:
        return torch.is_grad_enabled() and any(
            p.requires_grad for p in self.parameters()
        )

    def _rows(self, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the rows of ascending ids (N,), or all, shape (N, dim)."""
        one_hot, extra = self._one_hot, self.extra
        if ids is not None:
            one_hot = one_hot[ids[ids < self.n_codes]]
            extra = extra[ids[ids >= self.n_codes] - self.n_codes]
        generated = self.network(one_hot)
        return torch.cat([generated, extra.to(generated.dtype)])

    def _apply(self, fn, recurse=True):
        # .to() may place new values at an address that the cache knows.
        self._cache = None
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Describe the table for print(module)."""
        return f"rows={self.n_rows}, dim={self.dim}"


class FSQEmbedding(_DigitTable):
    """Embedding of FSQ ids whose rows are computed from their digits.

    Arguments
    ---------
    dim : int
        Width of an embedding.
    hidden : int
        Width of the generating network.
    n_extra : int
        Number of special ids after the codes, each with a free row.
    n_dims : int
        Number of dimensions of the FSQ.

    Example
    -------
    >>> embedding = FSQEmbedding(dim=16, hidden=8)
    >>> embedding(torch.tensor([[0, 6560, 6563]])).shape
    torch.Size([1, 3, 16])
    >>> embedding.weight.shape
    torch.Size([6564, 16])
    """

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids (...) as vectors (..., dim)."""
        if not self._needs_gradient():
            return F.embedding(ids, self.weight)
        used, index = ids.unique(return_inverse=True)
        return F.embedding(index, self._rows(used))


class FSQLinear(_DigitTable):
    """Linear layer onto FSQ ids whose rows are computed from their digits.

    Arguments
    ---------
    dim : int
        Width of the input.
    hidden, n_extra, n_dims : int
        As in ``FSQEmbedding``.

    Example
    -------
    >>> head = FSQLinear(dim=16, hidden=8)
    >>> head(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 6564])
    """

    def __init__(
        self, dim: int, hidden: int = 256, n_extra: int = 3, n_dims: int = 8
    ):
        super().__init__(dim, hidden, n_extra, n_dims)
        self.bias = nn.Parameter(torch.zeros(self.n_rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (..., 3 ** n_dims + n_extra) of x (..., dim)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
