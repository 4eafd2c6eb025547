"""Mels of the regression decoder while tokens are still being generated."""

from speechbrain_emofilm.lobes.mini.layer_stream import (
    LayersStream,
    apply_to_rows,
)
from speechbrain_emofilm.lobes.mini.speech_tokenizer import MelDecoder

import torch

FRAMES_PER_TOKEN = 2


class MelDecoderStream:
    """Streaming decoding of the codes of one utterance, piece by piece.

    The mels are those of ``MelDecoder.decode`` but for rounding. Every
    position is computed once, so that the cost of a piece depends on its size
    alone, and only the ends of the layers' inputs are kept.

    Arguments
    ---------
    decoder : MelDecoder
        In evaluation mode.
    speaker : torch.Tensor
        Input of the decoder's speaker module, for one utterance.

    Example
    -------
    >>> decoder = MelDecoder(torch.nn.Embedding(2, 16), 16, n_blocks=1)
    >>> stream = MelDecoderStream(decoder, torch.tensor([1]))
    >>> codes = torch.zeros(1, 30, 8)
    >>> [stream.push(part).shape[1] for part in codes.split(10, dim=1)]
    [4, 20, 20]
    >>> stream.finish().shape, stream.look_ahead
    (torch.Size([1, 16, 80]), 16)
    """

    @torch.no_grad()
    def __init__(self, decoder: MelDecoder, speaker: torch.Tensor):
        self._decoder = decoder
        self._speaker = decoder.speaker(speaker)[:, None]
        self._input = LayersStream([decoder.input])
        self._at_25 = LayersStream(decoder.at_25)
        self._at_50 = LayersStream(decoder.at_50)
        #: Mel frames by which the mels stay behind the codes.
        self.look_ahead = self._at_50.look_ahead + FRAMES_PER_TOKEN * (
            self._input.look_ahead + self._at_25.look_ahead
        )
        self._finished = False

    def push(self, codes: torch.Tensor) -> torch.Tensor:
        """Add codes (1, T, 8), and return the mels (1, N, n_mels) now ready.

        Raises
        ------
        ValueError
            If the stream has been finished.
        """
        if self._finished:
            raise ValueError(
                "MelDecoderStream: the speech has been finished; make another "
                "stream for other speech."
            )
        return self._decode(codes, last=False)

    def finish(self, codes: torch.Tensor | None = None) -> torch.Tensor:
        """End the speech, and return the rest of its mels (1, N, n_mels).

        Arguments
        ---------
        codes : torch.Tensor, optional
            Its last codes (1, T, 8), which costs less than to push them.
        """
        self._finished = True
        if codes is None:
            n_codes = self._decoder.input.in_channels
            codes = self._speaker.new_zeros(1, 0, n_codes)
        return self._decode(codes, last=True)

    @torch.no_grad()
    def _decode(self, codes: torch.Tensor, last: bool) -> torch.Tensor:
        x = self._at_25.push(
            self._input.push(codes, last) + self._speaker, last
        )
        x = apply_to_rows(self._decoder.upsample, x)
        return self._at_50.push(self._decoder.split_frames(x), last)


class RegressionStream:
    """Streaming decoding of the speech tokens of one utterance.

    Arguments
    ---------
    decoder : RegressionDecoder
        In evaluation mode.
    xvector : torch.Tensor
        Speaker vector, (1, speaker_dim).

    Example
    -------
    >>> from speechbrain_emofilm.lobes.mini.token_decoder import (
    ...     RegressionDecoder,
    ... )
    >>> decoder = RegressionDecoder(channels=16, speaker_dim=4)
    >>> stream = RegressionStream(decoder, torch.randn(1, 4))
    >>> stream.push(torch.randint(6561, (1, 20))).shape
    torch.Size([1, 12, 80])
    """

    def __init__(self, decoder, xvector: torch.Tensor):
        self._decoder = decoder
        self._mels = MelDecoderStream(decoder, decoder.unit_speaker(xvector))
        #: Mel frames by which the mels stay behind the tokens.
        self.look_ahead = self._mels.look_ahead

    def push(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add tokens (1, T), and return the log-mels (1, N, n_mels) now ready.

        Raises
        ------
        ValueError
            If the stream has been finished.
        """
        codes = self._decoder.fsq.from_id(tokens)
        return self._decoder.log_mel(self._mels.push(codes))

    def finish(self, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """End the speech, and return the rest of its mels (1, N, n_mels).

        Arguments
        ---------
        tokens : torch.Tensor, optional
            Its last tokens (1, T), which costs less than to push them.
        """
        codes = None if tokens is None else self._decoder.fsq.from_id(tokens)
        return self._decoder.log_mel(self._mels.finish(codes))

    #: Whether :meth:`finish` takes the last tokens.
    finishes_with_input = True
