"""Smaller weights, for faster or lighter speech generation on CPUs."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

PRECISIONS = ("fp32", "bf16", "int8")
_BLOCK = 256  # rows of a weight that are converted at once
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "sve_bf16")


def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16, by AVX-512, AMX or SVE.

    Returns
    -------
    bool
        False also where torch cannot tell.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _INSTRUCTIONS)
    # Earlier versions of torch have no public way to ask.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return ask is not None and ask()


class BFloat16Linear(nn.Module):
    """A linear layer with weights in bfloat16, for any precision around it.

    On a GPU, or a CPU that multiplies bfloat16, inputs and products are
    rounded to it, too, which about doubles the error of rounded weights. Other
    CPUs are slow in it, by ten times on AVX2; there the weights are converted
    as they are used, block by block, so that what has been converted is still
    in the processor's cache.

    Arguments
    ---------
    linear : nn.Linear
        The layer to replace; its bias keeps its precision.

    Example
    -------
    >>> linear = nn.Linear(4, 3)
    >>> BFloat16Linear(linear)(torch.randn(2, 4)).dtype
    torch.float32
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().bfloat16())
        self.register_buffer(
            "bias", None if linear.bias is None else linear.bias.detach()
        )
        #: Whether a CPU is to compute in bfloat16.
        self.is_native = cpu_multiplies_bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., D)."""
        # A product with one vector waits for the memory, not for arithmetic.
        is_vector = x.numel() == x.shape[-1]
        if self.is_native or is_vector or x.device.type != "cpu":
            y = F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        else:
            blocks = self.weight.split(_BLOCK)
            y = torch.cat([F.linear(x, b.to(x.dtype)) for b in blocks], -1)
        return y if self.bias is None else y + self.bias


def set_weight_precision(lm: nn.Module, precision: str) -> nn.Module:
    """Shrink the weights of a language model for decoding.

    Arguments
    ---------
    lm : nn.Module
        A ``CosyVoice2LM``, changed in place. It cannot be trained or saved
        as a checkpoint of the unchanged model afterwards.
    precision : str
        "fp32" leaves it as it is. "bf16" halves the linear layers. "int8"
        quarters them; their inputs are quantised, too, with one scale for
        the whole batch, so that an utterance no longer sounds exactly as it
        does alone.

    Returns
    -------
    lm : nn.Module
        The same model, so that hparams can construct and convert at once.

    Raises
    ------
    ValueError
        If there is no such precision.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> qwen2 = dict(
    ...     vocab_size=40,
    ...     hidden_size=16,
    ...     intermediate_size=32,
    ...     num_hidden_layers=1,
    ...     num_attention_heads=2,
    ...     num_key_value_heads=1,
    ... )
    >>> lm = CosyVoice2LM(qwen2, speech_token_size=27)
    >>> lm = set_weight_precision(lm, "bf16")
    >>> type(lm.llm_decoder).__name__
    'BFloat16Linear'
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"set_weight_precision: there is no precision {precision!r}; "
            f"give one of {', '.join(PRECISIONS)}."
        )
    if precision == "bf16":
        _replace_linear_layers(lm.llm.layers)
        if type(lm.llm_decoder) is nn.Linear:
            lm.llm_decoder = BFloat16Linear(lm.llm_decoder)
    elif precision == "int8":
        per_channel = torch.ao.quantization.per_channel_dynamic_qconfig
        parts = {"llm.layers": per_channel}
        if type(lm.llm_decoder) is nn.Linear:
            parts["llm_decoder"] = per_channel
        with warnings.catch_warnings():
            # torch announces that this moves to a package of its own.
            warnings.simplefilter("ignore")
            torch.ao.quantization.quantize_dynamic(lm, parts, inplace=True)
    return lm


def _replace_linear_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, BFloat16Linear(child))
        else:
            _replace_linear_layers(child)
