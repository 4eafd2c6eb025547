"""Weights of reduced precision, for faster or lighter decoding on CPUs."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

PRECISIONS = ("fp32", "bf16", "int8")
_BLOCK = 256  # rows of a weight converted at once
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "sve_bf16")


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 (AVX-512, AMX or SVE).

    Returns False also where torch cannot tell.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _INSTRUCTIONS)
    # Earlier versions of torch have no public way to ask.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return ask is not None and ask()


class BFloat16Linear(nn.Module):
    """Linear layer with bfloat16 weights, for inputs of any precision.

    On a GPU, or a CPU that multiplies bfloat16, inputs and products are also
    rounded to it, which about doubles the error of rounded weights. Other CPUs
    are slow in bfloat16 (ten times on AVX2), so there the weights are converted
    on use, block by block, while each block is in the processor's cache.

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
        #: Whether to compute in bfloat16 on a CPU.
        self.is_native = cpu_multiplies_bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., D)."""
        # A product with a single vector is limited by memory, not arithmetic.
        is_vector = x.numel() == x.shape[-1]
        if self.is_native or is_vector or x.device.type != "cpu":
            y = F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        else:
            blocks = self.weight.split(_BLOCK)
            y = torch.cat([F.linear(x, b.to(x.dtype)) for b in blocks], -1)
        return y if self.bias is None else y + self.bias


def set_weight_precision(lm: nn.Module, precision: str) -> nn.Module:
    """Reduce the precision of a language model's weights for decoding.

    Arguments
    ---------
    lm : nn.Module
        A ``CosyVoice2LM``, changed in place. It cannot be trained or saved
        as a checkpoint of the unchanged model afterwards.
    precision : str
        "fp32" changes nothing. "bf16" halves the size of the linear layers.
        "int8" quarters it; their inputs are also quantised, with one scale
        for the whole batch, so an utterance in a batch no longer sounds
        exactly as it does alone.

    Returns
    -------
    lm : nn.Module
        The same model, so that hparams can construct and convert at once.

    Raises
    ------
    ValueError
        If the precision is unknown.

    Example
    -------
    >>> from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
    >>> qwen2 = dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
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
            # torch warns that this function will move to another package.
            warnings.simplefilter("ignore")
            torch.ao.quantization.quantize_dynamic(lm, parts, inplace=True)
    return lm


def _replace_linear_layers(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, BFloat16Linear(child))
        else:
            _replace_linear_layers(child)
