"""Streaming flow matching: mels while tokens are still being generated."""

from speechbrain_emofilm.lobes.cosyvoice2.flow import (
    NOISE_FRAMES,
    CosyVoice2Flow,
    fixed_noise,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow_cache import StreamingCache
from speechbrain_emofilm.lobes.cosyvoice2.flow_encoder import (
    FRAMES_PER_TOKEN,
    LOOK_AHEAD,
)

import torch
from torch import Tensor


class FlowStream:
    """Streaming synthesis of the mels of one utterance, chunk by chunk.

    Each chunk runs once, as soon as its tokens and three more are available;
    layers cache what they need of previous chunks. Chunks count from the
    start of the prompt, so that the first one usually needs fewer new tokens.

    With ``left_chunks=None`` the mels are those of ``CosyVoice2Flow.inference``
    with ``streaming=True``, and the cost of a chunk grows with its position.
    The released implementation computes the same except for the last chunk (at
    most one second), which it runs again with all previous speech and without
    chunk limits.

    With a number of ``left_chunks``, attention forgets what lies between the
    prompt and that many chunks before the present one, so that the cost of a
    chunk is bounded. The mels are the same until something is forgotten, by
    default for at least the first 100 tokens (4 s). With random weights at
    small size, the rest of 16 s of speech differs by 6 % of the mels'
    standard deviation (RMS).

    Arguments
    ---------
    flow : CosyVoice2Flow
        In evaluation mode.
    xvector : Tensor
        Speaker vector, (1, speaker_dim).
    prompt_tokens : Tensor, optional
        Speech tokens of a reference, (1, P).
    prompt_mel : Tensor, optional
        Log-mels of the reference, (1, 2P, mels).
    n_timesteps : int
        Number of solver steps.
    guidance : float
        Weight of classifier-free guidance.
    seed : int
        Seed of the noise.
    left_chunks : int, optional
        Number of previous chunks that attention sees besides the prompt; all
        if None. At the released sizes each takes 230 MB in float32.

    Raises
    ------
    ValueError
        If prompt tokens and prompt mel do not match, or ``left_chunks`` is
        below 1.

    Example
    -------
    >>> flow = CosyVoice2Flow(
    ...     vocab_size=30, token_dim=8, encoder_dim=8, encoder_heads=2,
    ...     encoder_ffn=16, encoder_blocks=1, encoder_up_blocks=1,
    ...     estimator_channels=8, estimator_heads=2, estimator_head_dim=4,
    ...     estimator_blocks=1, estimator_mid_blocks=1, speaker_dim=4).eval()
    >>> stream = FlowStream(flow, torch.rand(1, 4), n_timesteps=2)
    >>> tokens = torch.randint(30, (1, 40))
    >>> [stream.push(part).shape[1] for part in tokens.split(10, dim=1)]
    [0, 0, 50, 0]
    >>> stream.finish().shape
    torch.Size([1, 30, 80])
    """

    def __init__(
        self,
        flow: CosyVoice2Flow,
        xvector: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        n_timesteps: int = 10,
        guidance: float = 0.7,
        seed: int = 0,
        left_chunks: int | None = 4,
    ):
        prompt_tokens, prompt_mel = _check_prompt(
            flow, xvector, prompt_tokens, prompt_mel
        )
        if left_chunks is not None and left_chunks < 1:
            raise ValueError(
                f"FlowStream: left_chunks is {left_chunks}; give at least 1, "
                "or None to keep all chunks."
            )
        self.flow = flow
        self.n_timesteps = n_timesteps
        self.guidance = guidance
        self.chunk_size = flow.encoder.chunk_size
        self._tokens = prompt_tokens.long()
        self._prompt = (prompt_mel - flow.mel_mean) / flow.mel_std
        with torch.no_grad():
            self._speaker = flow.project_speaker(xvector)
        self._noise = fixed_noise(
            NOISE_FRAMES, flow.n_mels, seed, xvector.device
        )
        self._n_frames = 0
        self._finished = False
        n_first = self._tokens.size(1)
        n_last = None if left_chunks is None else left_chunks * self.chunk_size
        self._token_cache = StreamingCache(n_first, n_last)
        if n_last is not None:
            n_last *= FRAMES_PER_TOKEN
        n_first *= FRAMES_PER_TOKEN
        self._frame_cache = StreamingCache(n_first, n_last)
        self._solver_cache = StreamingCache(n_first, n_last)

    @property
    def look_ahead(self) -> int:
        """Mel frames by which the mels stay behind the tokens, at most."""
        return FRAMES_PER_TOKEN * (self.chunk_size + LOOK_AHEAD - 1)

    @torch.no_grad()
    def push(self, tokens: Tensor) -> Tensor:
        """Add tokens (1, T), and return the mels (1, N, mels) that are ready.

        N is the length of the chunks that are now complete, often 0.

        Raises
        ------
        ValueError
            If the stream has been finished, or lasts more than 300 s.
        """
        if self._finished:
            raise ValueError(
                "FlowStream: the speech has been finished; make another "
                "stream for other speech."
            )
        self._tokens = torch.cat([self._tokens, tokens.long()], dim=1)
        mels = []
        while self._tokens.size(1) >= self.chunk_size + LOOK_AHEAD:
            mels.append(self._next_chunk())
        return self._join(mels)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the speech, and return the rest of its mels (1, N, mels)."""
        self._finished = True
        mels = []
        while self._tokens.size(1):
            mels.append(self._next_chunk())
        return self._join(mels)

    def _next_chunk(self) -> Tensor:
        """Generate the next chunk without the prompt, (1, N, mels)."""
        flow = self.flow
        chunk, self._tokens = self._tokens.tensor_split([self.chunk_size], 1)
        embedded = flow.input_embedding(
            torch.cat([chunk, self._tokens[:, :LOOK_AHEAD]], dim=1)
        )
        size = chunk.size(1)
        mu = flow.encoder_proj(
            flow.encoder.forward_chunk(
                embedded[:, :size],
                embedded[:, size:],
                self._token_cache,
                self._frame_cache,
            )
        )
        n_frames = mu.size(1)
        prompt, self._prompt = self._prompt.tensor_split([n_frames], 1)
        condition = torch.zeros_like(mu)
        condition[:, : prompt.size(1)] = prompt
        mel = flow.decoder.solve(
            self._next_noise(n_frames)[None].to(mu),
            torch.tensor([n_frames], device=mu.device),
            mu,
            self._speaker,
            condition,
            self.n_timesteps,
            self.guidance,
            cache=self._solver_cache,
        ).float()
        return mel[:, prompt.size(1) :] * flow.mel_std + flow.mel_mean

    def _next_noise(self, n_frames: int) -> Tensor:
        """Return the noise of the next frames, (N, mels)."""
        start, self._n_frames = self._n_frames, self._n_frames + n_frames
        if self._n_frames > NOISE_FRAMES:
            raise ValueError(
                f"FlowStream: the speech is longer than {NOISE_FRAMES} mel "
                "frames (300 s): begin another stream between two sentences."
            )
        return self._noise[start : self._n_frames]

    def _join(self, mels: list[Tensor]) -> Tensor:
        """Join mels, of which there may be none."""
        nothing = self._speaker.new_zeros(1, 0, self.flow.n_mels).float()
        return torch.cat([nothing, *mels], dim=1)


def _check_prompt(flow, xvector, tokens, mel):
    """Check a prompt's tokens and mel; return empty ones without a prompt."""
    if (tokens is None) != (mel is None):
        raise ValueError(
            "FlowStream: a prompt needs both its speech tokens and its mel: "
            "pass prompt_tokens and prompt_mel, or neither."
        )
    if tokens is None:
        tokens = torch.zeros(1, 0, dtype=torch.long, device=xvector.device)
        return tokens, xvector.new_zeros(1, 0, flow.n_mels)
    if mel.size(1) != FRAMES_PER_TOKEN * tokens.size(1):
        raise ValueError(
            f"FlowStream: the prompt has {tokens.size(1)} speech tokens and "
            f"{mel.size(1)} mel frames: cut both so that there are two frames "
            "per token."
        )
    return tokens, mel
