"""TokenListener: which phonemes speech tokens sound like, whatever the text.

The states of a language model tell what it means to say. Whether the tokens
that it drew sound so is another question: this recogniser sees the tokens
alone, and a text that they do not say is improbable to it.
"""

from speechbrain_emofilm.lobes.mini.fsq import FSQ, N_LEVELS

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import nn

#: Frames into which a speech token is divided: two phonemes may share one.
FRAMES_PER_TOKEN = 2
#: Id of the blank of CTC; phoneme p has the id p + 1.
BLANK = 0


class _GRU(nn.GRU):
    """GRU without weak references, which forbid that parameters are swapped.

    With torch.__future__.set_swap_module_params_on_conversion, weights could
    not be loaded otherwise.
    """

    def _init_flat_weights(self):
        super()._init_flat_weights()
        self._flat_weight_refs = [None] * len(self._flat_weights_names)


class TokenListener(nn.Module):
    """Recognise phonemes in speech tokens, trained with CTC.

    Convolutions and a bidirectional GRU read the digits of the tokens.

    Arguments
    ---------
    n_phonemes : int
        Number of phonemes P.
    hidden : int
        Size of the hidden layers, even.
    dropout : float
        Dropout in training.
    token_dropout : float
        Share of the tokens that are hidden in training.
    n_dims : int
        Number of digits of a token.

    Example
    -------
    >>> listener = TokenListener(n_phonemes=10, hidden=8).eval()
    >>> tokens = torch.tensor([[5, 1000, 6560], [7, 7, 0]])
    >>> log_probs = listener(tokens, torch.tensor([1.0, 0.67]))
    >>> log_probs.shape
    torch.Size([2, 6, 11])
    >>> alone = listener(tokens[1:, :2], torch.ones(1))
    >>> torch.allclose(log_probs[1:, :4], alone, atol=1e-5)
    True
    """

    def __init__(
        self,
        n_phonemes: int,
        hidden: int = 128,
        dropout: float = 0.2,
        token_dropout: float = 0.1,
        n_dims: int = 8,
    ):
        super().__init__()
        self.token_dropout = token_dropout
        self.fsq = FSQ(n_dims)
        # What is trained beside a loaded listener starts as without it.
        with torch.random.fork_rng(devices=[]):
            self.input = nn.Linear(N_LEVELS * n_dims, hidden)
            self.convolution = nn.Conv1d(hidden, hidden, 3, padding=1)
            self.widening = nn.Conv1d(
                hidden, FRAMES_PER_TOKEN * hidden, 3, padding=1
            )
            self.gru = _GRU(
                hidden, hidden // 2, batch_first=True, bidirectional=True
            )
            self.output = nn.Linear(hidden, 1 + n_phonemes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities of blank and phonemes.

        Arguments
        ---------
        tokens : torch.Tensor
            Speech tokens, shape (B, S).
        lens : torch.Tensor
            Relative lengths, shape (B,).

        Returns
        -------
        torch.Tensor
            Shape (B, 2 * S, 1 + P).
        """
        n_tokens = tokens.shape[1]
        sizes = torch.round(lens * n_tokens).long().clamp(min=1)
        known = length_to_mask(sizes, max_len=n_tokens).to(tokens.device)
        digits = self.fsq.from_id(tokens).long() + 1
        digits = F.one_hot(digits, N_LEVELS).flatten(-2)
        x = digits.to(self.input.weight.dtype)
        if self.training:
            kept = torch.rand(tokens.shape, device=x.device)
            x = x * (kept >= self.token_dropout).unsqueeze(-1)
        known = known.bool().unsqueeze(1)
        x = F.gelu(self.input(x)).transpose(1, 2) * known
        x = (x + F.gelu(self.convolution(self.dropout(x)))) * known
        x = F.gelu(self.widening(self.dropout(x)))
        x = x.unflatten(1, (FRAMES_PER_TOKEN, -1)).permute(0, 3, 1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(x.flatten(1, 2)),
            FRAMES_PER_TOKEN * sizes.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        x, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0],
            batch_first=True,
            total_length=FRAMES_PER_TOKEN * n_tokens,
        )
        return self.output(self.dropout(x)).log_softmax(-1)

    def loss(
        self,
        tokens: torch.Tensor,
        lens: torch.Tensor,
        phonemes: torch.Tensor,
        phoneme_lens: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the CTC loss per phoneme.

        Arguments
        ---------
        tokens, lens
            As in ``forward``.
        phonemes : torch.Tensor
            Phonemes that are said, from 0, shape (B, N).
        phoneme_lens : torch.Tensor
            Relative lengths, shape (B,).

        Returns
        -------
        torch.Tensor
            Mean over the utterances, 0-d.
        """
        log_probs = self(tokens, lens)
        n_frames, n_phonemes = log_probs.shape[1], phonemes.shape[1]
        return F.ctc_loss(
            log_probs.transpose(0, 1),
            phonemes + 1,
            torch.round(lens * n_frames).long(),
            torch.round(phoneme_lens * n_phonemes).long(),
            blank=BLANK,
            zero_infinity=True,
        )
