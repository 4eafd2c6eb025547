"""CosyVoice2's flow matching: speech tokens (25 Hz) to log-mels (50 Hz).

Speech tokens pass an up-sampling Conformer encoder without convolution
modules; its projection ``mu``, the speaker vector and the mel of a prompt
condition a causal one-resolution U-Net that predicts the velocity of an
optimal-transport flow from noise to mel. All sizes are arguments, for the
released model and smaller ones; the names in the state dict are those of the
released ``flow.pt``.

The released implementation synthesises one utterance at a time. Here items of
different lengths can form a batch, and each item equals the item alone.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from speechbrain_emofilm.lobes.cosyvoice2.flow_cache import StreamingCache
from speechbrain_emofilm.lobes.cosyvoice2.flow_encoder import (
    FRAMES_PER_TOKEN,
    LOOK_AHEAD,
    UpsamplingEncoder,
)
from speechbrain_emofilm.lobes.cosyvoice2.flow_estimator import FlowEstimator

import torch
import torch.nn.functional as F
from speechbrain.dataio.dataio import length_to_mask
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream

NOISE_FRAMES = 15000  # the released model's noise tensor: 300 s


def fixed_noise(
    n_frames: int, n_mels: int = 80, seed: int = 0, device=None
) -> Tensor:
    """Draw the first frames of one seeded noise tensor of 300 s.

    The noise of a frame thus does not depend on the length of the utterance;
    the released model always uses seed 0. Global random generators are not
    touched.

    Arguments
    ---------
    n_frames : int
        Number of frames.
    n_mels : int
        Mel bands.
    seed : int
        Seed of the noise.
    device : torch.device, optional
        Device of the result; the noise is always drawn on the CPU.

    Returns
    -------
    noise : Tensor
        (n_frames, n_mels).

    Raises
    ------
    ValueError
        If more than 300 s are requested.

    Example
    -------
    >>> fixed_noise(7).shape
    torch.Size([7, 80])
    >>> bool((fixed_noise(7)[:5] == fixed_noise(5)).all())
    True
    """
    if n_frames > NOISE_FRAMES:
        raise ValueError(
            f"{n_frames} mel frames are more than the {NOISE_FRAMES} (300 s) "
            "that the flow's noise has: split the text and join the speech."
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_mels, NOISE_FRAMES, generator=generator)
    return noise[:, :n_frames].T.contiguous().to(device)


class FlowDraws(NamedTuple):
    """Random draws of one training step.

    Arguments
    ---------
    time : Tensor
        Flow time in 0..1 of each item, (B,).
    noise : Tensor
        Start of the flow, (B, N, mels).
    keep : Tensor
        Bool, (B,); False drops mu, speaker and condition of the item.
    prompt_frames : Tensor
        Number of first mel frames that are given as prompt, (B,).
    streaming : bool
        Whether the batch is trained with chunked attention.
    """

    time: Tensor
    noise: Tensor
    keep: Tensor
    prompt_frames: Tensor
    streaming: bool


class ConditionalFlow(nn.Module):
    """Optimal-transport flow matching with classifier-free guidance.

    Arguments
    ---------
    estimator : nn.Module
        Predicts the velocity; see ``FlowEstimator``.
    sigma_min : float
        Level of the noise that remains at the end of the path.

    Example
    -------
    >>> estimator = FlowEstimator(4, 8, 2, 4, n_blocks=1, n_mid_blocks=1)
    >>> flow = ConditionalFlow(estimator)
    >>> x, speaker = torch.rand(2, 10, 4), torch.rand(2, 4)
    >>> n_frames = torch.tensor([10, 8])
    >>> flow.solve(x, n_frames, x, speaker, x, n_timesteps=2).shape
    torch.Size([2, 10, 4])
    >>> keep = torch.tensor([True, False])
    >>> draws = FlowDraws(torch.rand(2), x, keep, n_frames // 4, False)
    >>> flow.loss(x, n_frames, x, speaker, draws).shape
    torch.Size([])
    """

    def __init__(self, estimator: nn.Module, sigma_min: float = 1e-6):
        super().__init__()
        self.estimator = estimator
        self.sigma_min = sigma_min

    def solve(
        self,
        noise: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        condition: Tensor,
        n_timesteps: int = 10,
        guidance: float = 0.7,
        streaming: bool = False,
        cache: StreamingCache | None = None,
    ) -> Tensor:
        """Integrate from noise to mel with Euler steps on a cosine grid.

        Arguments
        ---------
        noise : Tensor
            Start, (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        mu : Tensor
            Encoded tokens, (B, N, mels).
        speaker : Tensor
            Projected speaker vector, (B, mels).
        condition : Tensor
            Mel of the prompt, zero after it, (B, N, mels).
        n_timesteps : int
            Number of steps.
        guidance : float
            Weight w of v = (1 + w) v_conditional - w v_unconditional; 0
            saves the unconditional half of the work.
        streaming : bool
            Whether attention stops at the end of each chunk.
        cache : StreamingCache, optional
            Cache of previous chunks; the input is then one chunk.

        Returns
        -------
        mel : Tensor
            (B, N, mels).
        """
        n_items = noise.size(0)
        inputs = [mu, speaker, condition]
        if guidance != 0:
            inputs = [torch.cat([i, torch.zeros_like(i)]) for i in inputs]
            n_frames = n_frames.repeat(2)
        mu, speaker, condition = inputs
        grid = torch.linspace(0, 1, n_timesteps + 1, device=noise.device)
        grid = 1 - torch.cos(grid * (math.pi / 2))
        x = noise
        for k, (time, step) in enumerate(zip(grid, grid.diff())):
            if cache is not None:
                cache.step = k
            velocity = self.estimator(
                x.repeat(mu.size(0) // n_items, 1, 1),
                n_frames,
                mu,
                time.expand(mu.size(0)),
                speaker,
                condition,
                streaming,
                cache,
            )
            if guidance != 0:
                given, free = velocity.chunk(2)
                velocity = (1 + guidance) * given - guidance * free
            x = x + step.to(x.dtype) * velocity
        return x

    def velocity(
        self,
        mel: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        draws: FlowDraws,
    ) -> tuple[Tensor, Tensor]:
        """Compute predicted and true velocity at a random point of the path.

        Arguments
        ---------
        mel : Tensor
            End of the path, (B, N, mels).
        n_frames, mu, speaker : Tensor
            As in :meth:`solve`.
        draws : FlowDraws
            Random draws.

        Returns
        -------
        predicted : Tensor
            (B, N, mels).
        true : Tensor
            (B, N, mels).
        """
        shrink = 1 - self.sigma_min
        time = draws.time[:, None, None]
        keep = draws.keep[:, None].to(mel.dtype)
        prompt = length_to_mask(
            draws.prompt_frames, mel.size(1), dtype=mel.dtype
        )
        predicted = self.estimator(
            (1 - shrink * time) * draws.noise + time * mel,
            n_frames,
            mu * keep[..., None],
            draws.time,
            speaker * keep,
            mel * (prompt * keep)[..., None],
            draws.streaming,
        )
        return predicted, mel - shrink * draws.noise

    def loss(
        self,
        mel: Tensor,
        n_frames: Tensor,
        mu: Tensor,
        speaker: Tensor,
        draws: FlowDraws,
    ) -> Tensor:
        """Compute the mean squared error of the velocity, a scalar.

        The mean is over all bands of all valid frames. Arguments as in
        :meth:`velocity`.
        """
        predicted, true = self.velocity(mel, n_frames, mu, speaker, draws)
        valid = length_to_mask(n_frames, mel.size(1), dtype=mel.dtype)
        error = (predicted - true) * valid[..., None]
        return error.square().sum() / (valid.sum() * mel.size(2))


def _drop_trainer_counters(module, state_dict, prefix, *args):
    """Remove the counters that the upstream trainer saves."""
    for counter in ("epoch", "step"):
        state_dict.pop(prefix + counter, None)


class CosyVoice2Flow(nn.Module):
    """CosyVoice2's token-to-mel model.

    The defaults are the sizes of the released 0.5B model; its ``flow.pt``
    loads with ``load_state_dict`` (strict).

    Arguments
    ---------
    vocab_size : int
        Number of speech tokens.
    token_dim : int
        Channels of the token embedding.
    encoder_dim, encoder_heads, encoder_ffn, encoder_blocks : int
        As ``dim``, ``n_heads``, ``hidden`` and ``n_blocks`` in
        ``UpsamplingEncoder``.
    encoder_up_blocks : int
        As ``n_up_blocks`` in ``UpsamplingEncoder``.
    dropout : float
        Dropout of the encoder.
    estimator_channels, estimator_heads, estimator_head_dim : int
        As ``channels``, ``n_heads`` and ``head_dim`` in ``FlowEstimator``.
    estimator_blocks, estimator_mid_blocks : int
        As ``n_blocks`` and ``n_mid_blocks`` in ``FlowEstimator``.
    speaker_dim : int
        Size of the speaker vector.
    n_mels : int
        Mel bands.
    chunk_size : int
        Tokens per chunk when streaming.
    condition_dropout : float
        In training, the share of items without any condition.
    prompt_rate : float
        In training, the share of items with their first frames as prompt.
    streaming_rate : float
        In training, the share of batches with chunked attention.
    input_embedding : nn.Module, optional
        Replaces the embedding table, (B, T) to (B, T, token_dim).
    mel_mean, mel_std : float
        Mean and standard deviation that normalise log-mels inside the model;
        0 and 1 in the released model.

    Example
    -------
    >>> flow = CosyVoice2Flow(
    ...     vocab_size=30, token_dim=8, encoder_dim=8, encoder_heads=2,
    ...     encoder_ffn=16, encoder_blocks=1, encoder_up_blocks=1,
    ...     estimator_channels=8, estimator_heads=2, estimator_head_dim=4,
    ...     estimator_blocks=1, estimator_mid_blocks=1, speaker_dim=4)
    >>> tokens, lens = torch.randint(30, (2, 6)), torch.tensor([1.0, 0.5])
    >>> mel, xvector = torch.rand(2, 12, 80), torch.rand(2, 4)
    >>> flow.loss(tokens, lens, mel, lens, xvector).shape
    torch.Size([])
    >>> mel, mel_lens = flow.eval().inference(
    ...     tokens, lens, xvector, n_timesteps=2)
    >>> mel.shape, mel_lens.tolist()
    (torch.Size([2, 12, 80]), [1.0, 0.5])
    """

    def __init__(
        self,
        vocab_size: int = 6561,
        token_dim: int = 512,
        encoder_dim: int = 512,
        encoder_heads: int = 8,
        encoder_ffn: int = 2048,
        encoder_blocks: int = 6,
        encoder_up_blocks: int = 4,
        dropout: float = 0.1,
        estimator_channels: int = 256,
        estimator_heads: int = 8,
        estimator_head_dim: int = 64,
        estimator_blocks: int = 4,
        estimator_mid_blocks: int = 12,
        speaker_dim: int = 192,
        n_mels: int = 80,
        chunk_size: int = 25,
        condition_dropout: float = 0.2,
        prompt_rate: float = 0.5,
        streaming_rate: float = 0.5,
        input_embedding: nn.Module | None = None,
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
    ):
        super().__init__()
        self.n_mels = n_mels
        self.mel_mean = mel_mean
        self.mel_std = mel_std
        self.condition_dropout = condition_dropout
        self.prompt_rate = prompt_rate
        self.streaming_rate = streaming_rate
        if input_embedding is None:
            input_embedding = nn.Embedding(vocab_size, token_dim)
        self.input_embedding = input_embedding
        self.spk_embed_affine_layer = nn.Linear(speaker_dim, n_mels)
        self.encoder = UpsamplingEncoder(
            token_dim,
            encoder_dim,
            encoder_heads,
            encoder_ffn,
            encoder_blocks,
            encoder_up_blocks,
            chunk_size,
            dropout,
        )
        self.encoder_proj = nn.Linear(encoder_dim, n_mels)
        estimator = FlowEstimator(
            n_mels,
            estimator_channels,
            estimator_heads,
            estimator_head_dim,
            estimator_blocks,
            estimator_mid_blocks,
            chunk_size * FRAMES_PER_TOKEN,
        )
        self.decoder = ConditionalFlow(estimator)
        self.register_load_state_dict_pre_hook(_drop_trainer_counters)

    def encode(
        self,
        tokens: Tensor,
        n_tokens: Tensor,
        streaming: bool = False,
        finalize: bool = True,
        upstream_padding: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Encode speech tokens as the flow's mean ``mu``.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T); negative ids (padding) count as 0.
        n_tokens : Tensor
            Number of tokens of each item, (B,).
        streaming, finalize, upstream_padding : bool
            As in ``UpsamplingEncoder.forward``.

        Returns
        -------
        mu : Tensor
            (B, N, mels).
        n_frames : Tensor
            Number of frames of each item, (B,).
        """
        x = self.input_embedding(tokens.clamp(min=0))
        valid = length_to_mask(n_tokens, tokens.size(1), dtype=x.dtype)
        x, n_frames = self.encoder(
            x * valid[..., None],
            n_tokens,
            streaming,
            finalize,
            upstream_padding,
        )
        return self.encoder_proj(x), n_frames

    def project_speaker(self, xvector: Tensor) -> Tensor:
        """Normalise speaker vectors (B, speaker_dim), project to (B, mels)."""
        return self.spk_embed_affine_layer(F.normalize(xvector, dim=1))

    def draw(
        self,
        n_frames: Tensor,
        generator: torch.Generator | None = None,
        length: int | None = None,
    ) -> FlowDraws:
        """Draw the random numbers of one training step.

        Arguments
        ---------
        n_frames : Tensor
            Number of frames of each item, (B,).
        generator : torch.Generator, optional
            Generator, for repeatable draws (validation); by default torch's.
        length : int, optional
            Number of frames with padding, N; by default the longest item's.

        Returns
        -------
        draws : FlowDraws
            Draws, on the device of ``n_frames``.
        """
        device = n_frames.device if generator is None else generator.device
        options = {"generator": generator, "device": device}
        n_items = n_frames.size(0)
        length = int(n_frames.max()) if length is None else length
        time, keep, prompt, share = torch.rand(4, n_items, **options)
        noise = torch.randn(n_items, length, self.n_mels, **options)
        streaming = torch.rand((), **options) < self.streaming_rate
        # K is uniform over the integers 0 .. floor(0.3 * frames).
        choices = (0.3 * n_frames.to(device)).floor() + 1
        prompt_frames = (share * choices).floor().long()
        prompt_frames = prompt_frames * (prompt < self.prompt_rate)
        return FlowDraws(
            time.to(n_frames.device),
            noise.to(n_frames.device),
            (keep > self.condition_dropout).to(n_frames.device),
            prompt_frames.to(n_frames.device),
            bool(streaming),
        )

    def loss(
        self,
        tokens: Tensor,
        token_lens: Tensor,
        mel: Tensor,
        mel_lens: Tensor,
        xvector: Tensor,
        draws: FlowDraws | None = None,
        upstream_padding: bool = False,
    ) -> Tensor:
        """Compute the training loss.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T).
        token_lens : Tensor
            Relative lengths of the tokens, (B,).
        mel : Tensor
            Log-mels of the same speech, (B, 2T, mels).
        mel_lens : Tensor
            Relative lengths of the mels, (B,): two frames per token.
        xvector : Tensor
            Speaker vectors, (B, speaker_dim).
        draws : FlowDraws, optional
            Random draws; by default those of :meth:`draw`.
        upstream_padding : bool
            See ``UpsamplingEncoder.forward``.

        Returns
        -------
        loss : Tensor
            Mean squared error of the velocity, scalar.

        Raises
        ------
        ValueError
            If the mels do not have two frames per token.
        """
        n_tokens = torch.round(token_lens * tokens.size(1)).long()
        n_frames = torch.round(mel_lens * mel.size(1)).long()
        uneven = n_frames != FRAMES_PER_TOKEN * n_tokens
        if mel.size(1) != FRAMES_PER_TOKEN * tokens.size(1) or uneven.any():
            item = int(uneven.int().argmax())
            raise ValueError(
                f"item {item} of the batch has {int(n_tokens[item])} speech "
                f"tokens and {int(n_frames[item])} mel frames (padded: "
                f"{tokens.size(1)} and {mel.size(1)}): cut the mel to two "
                "frames per token."
            )
        if draws is None:
            draws = self.draw(n_frames, length=mel.size(1))
        mu, n_frames = self.encode(
            tokens,
            n_tokens,
            draws.streaming,
            upstream_padding=upstream_padding,
        )
        speaker = self.project_speaker(xvector)
        mel = (mel - self.mel_mean) / self.mel_std
        return self.decoder.loss(mel, n_frames, mu, speaker, draws)

    @torch.no_grad()
    def inference(
        self,
        tokens: Tensor,
        lens: Tensor,
        xvector: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        n_timesteps: int = 10,
        guidance: float = 0.7,
        seed: int | Sequence[int] = 0,
        streaming: bool = False,
        finalize: bool = True,
        prompt_lens: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Synthesise mels; each item equals the item alone.

        Arguments
        ---------
        tokens : Tensor
            Speech tokens, (B, T).
        lens : Tensor
            Relative lengths of the tokens, (B,).
        xvector : Tensor
            Speaker vectors, (B, speaker_dim).
        prompt_tokens : Tensor, optional
            Speech tokens of a reference, (B, P).
        prompt_mel : Tensor, optional
            Log-mels of the reference, (B, 2P, mels).
        n_timesteps : int
            Number of solver steps.
        guidance : float
            Weight of classifier-free guidance, as in
            :meth:`ConditionalFlow.solve`.
        seed : int or sequence of int
            Seed of the noise, for all items or for each.
        streaming : bool
            Whether attention stops at the end of each chunk; chunks count
            from the start of the prompt.
        finalize : bool
            False if more tokens follow: the last three tokens of each item
            then serve as context and get no frames.
        prompt_lens : Tensor, optional
            Relative lengths of the prompts, (B,); by default all are full.
        noise : Tensor, optional
            Replaces the seeded noise, (B, N, mels) with the prompt's frames.

        Returns
        -------
        mel : Tensor
            Log-mels without the prompts, (B, N, mels), zero in padding.
        lens : Tensor
            Relative lengths of the mels, (B,).

        Raises
        ------
        ValueError
            If an item has no tokens to speak, prompt tokens and prompt mel do
            not match, or an item is longer than 300 s.
        """
        items, prompts = self._join_prompts(
            tokens, lens, xvector, prompt_tokens, prompt_mel, prompt_lens
        )
        n_tokens = torch.tensor([i.size(0) for i in items]).to(tokens.device)
        n_prompt = torch.tensor([p.size(0) for p in prompts])
        n_new = n_tokens.cpu() * FRAMES_PER_TOKEN - n_prompt
        if not finalize:
            n_new = n_new - LOOK_AHEAD * FRAMES_PER_TOKEN
        if n_new.min() <= 0:
            raise ValueError(
                f"item {int(n_new.argmin())} of the batch has no speech "
                "token to synthesise"
                + ("." if finalize else " beyond the 3 of context.")
                + " Leave it out of the batch."
            )
        tokens = pad_sequence(items, batch_first=True)
        mu, n_frames = self.encode(tokens, n_tokens, streaming, finalize)
        condition = torch.zeros_like(mu)
        for row, prompt in zip(condition, prompts):
            row[: prompt.size(0)] = (prompt - self.mel_mean) / self.mel_std
        if noise is None:
            noise = self._noise(seed, mu)
        mel = self.decoder.solve(
            noise.to(mu),
            n_frames,
            mu,
            self.project_speaker(xvector),
            condition,
            n_timesteps,
            guidance,
            streaming,
        ).float()
        mel = mel * self.mel_std + self.mel_mean
        spans = zip(mel, n_prompt.tolist(), n_new.tolist())
        mel = pad_sequence([m[p : p + n] for m, p, n in spans], True)
        return mel, (n_new / n_new.max()).to(mel.device)

    def stream(
        self,
        xvector: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        **options,
    ) -> "FlowStream":
        """Start an utterance whose tokens arrive later.

        Arguments
        ---------
        xvector : Tensor
            Speaker vector, (1, speaker_dim).
        prompt_tokens : Tensor, optional
            Speech tokens of a reference, (1, P).
        prompt_mel : Tensor, optional
            Log-mels of the reference, (1, 2P, mels).
        **options
            Number of solver steps, seed and others, as in ``FlowStream``.
        """
        # The stream is built of the parts of this module.
        from speechbrain_emofilm.lobes.cosyvoice2.flow_stream import FlowStream

        return FlowStream(self, xvector, prompt_tokens, prompt_mel, **options)

    def _join_prompts(
        self, tokens, lens, xvector, prompt_tokens, prompt_mel, prompt_lens
    ):
        """Return each item's prompt and tokens, unpadded, and prompt mel."""
        if (prompt_tokens is None) != (prompt_mel is None):
            raise ValueError(
                "a prompt needs both its speech tokens and its mel: pass "
                "prompt_tokens and prompt_mel, or neither."
            )
        n_tokens = torch.round(lens * tokens.size(1)).long().tolist()
        items = [row[:n] for row, n in zip(tokens.long(), n_tokens)]
        if prompt_tokens is None:
            return items, [xvector.new_zeros(0, self.n_mels)] * len(items)
        n_prompt = prompt_tokens.size(1)
        if prompt_mel.size(1) != FRAMES_PER_TOKEN * n_prompt:
            raise ValueError(
                f"the prompt has {n_prompt} speech tokens and "
                f"{prompt_mel.size(1)} mel frames: cut both so that there are "
                "two frames per token."
            )
        if prompt_lens is None:
            prompt_lens = torch.ones_like(lens)
        n_prompts = torch.round(prompt_lens * n_prompt).long().tolist()
        items = [
            torch.cat([prompt[:n].long(), item])
            for prompt, n, item in zip(prompt_tokens, n_prompts, items)
        ]
        prompts = [
            mel[: FRAMES_PER_TOKEN * n] for mel, n in zip(prompt_mel, n_prompts)
        ]
        return items, prompts

    def _noise(self, seed, mu):
        """Draw seeded noise for each item, (B, N, mels)."""
        n_items, length, n_mels = mu.shape
        if isinstance(seed, int):
            noise = fixed_noise(length, n_mels, seed, mu.device)
            return noise.expand(n_items, -1, -1)
        if len(seed) != n_items:
            raise ValueError(
                f"{len(seed)} seeds for {n_items} items: pass one seed per "
                "item, or a single integer."
            )
        return torch.stack(
            [fixed_noise(length, n_mels, s, mu.device) for s in seed]
        )
