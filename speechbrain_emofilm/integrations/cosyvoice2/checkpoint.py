"""Load CosyVoice2's models from the released checkpoints.

A checkpoint is a pickle, which can run code when it is read. Only its tensors
are read here, mapped into memory instead of copied.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.flow import CosyVoice2Flow
from speechbrain_emofilm.lobes.cosyvoice2.hift import (
    HiFTGenerator,
    rename_weights,
)
from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM
from speechbrain_emofilm.utils.files import read_json

import torch

PathLike = str | Path

#: Sizes of CosyVoice2-0.5B's trunk, which is Qwen2-0.5B.
QWEN2_0_5B = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
}
_CONFIG = "config.json"
_SHOWN = 8  # names that a message lists at most
_LLM_TRUNK = "llm.model.model."
_LLM_TEXT_HEAD = "llm.model.lm_head.weight"


def load_llm(
    path: PathLike,
    config: Mapping[str, object] | PathLike | None = None,
    **kwargs,
) -> CosyVoice2LM:
    """Load the language model from a released ``llm.pt``.

    The weights stay mapped to the file, which must not change while the model
    is in use; training them does not change the file.

    Arguments
    ---------
    path : str or Path
        ``llm.pt`` of FunAudioLLM/CosyVoice2-0.5B.
    config : dict or str or Path or None
        Arguments of ``transformers.Qwen2Config``, or the folder
        ``CosyVoice-BlankEN`` of the release; the released sizes if None.
    **kwargs
        Other arguments of ``CosyVoice2LM``, such as ``frozen``.

    Returns
    -------
    lm : CosyVoice2LM
        In evaluation mode and single precision.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, holds more than tensors, belongs to another
        release, or does not fit the sizes; the message names the difference.
    """
    sizes: Mapping[str, object] = QWEN2_0_5B
    if isinstance(config, Mapping):
        sizes = config
    elif config is not None:
        sizes = read_qwen2_config(config)
    tensors = read_upstream_tensors(path)
    check_is_cosyvoice2_llm(tensors, path)
    tensors = rename_llm_tensors(tensors)
    # The meta device allocates nothing: the file's memory is assigned below.
    with torch.device("meta"):
        lm = CosyVoice2LM(dict(sizes), **kwargs)
    check_tensors(lm, tensors, path)
    lm.load_state_dict(
        {name: tensor.float() for name, tensor in tensors.items()},
        assign=True,
    )
    # Its buffers are not in the state dict and are still on the meta device.
    lm.llm.rotary_emb = type(lm.llm.rotary_emb)(lm.llm.config)
    return lm.eval()


def load_flow(path: PathLike, **kwargs) -> CosyVoice2Flow:
    """Load the flow-matching model from a released ``flow.pt``.

    Arguments
    ---------
    path : str or Path
        ``flow.pt`` of FunAudioLLM/CosyVoice2-0.5B.
    **kwargs
        Arguments of ``CosyVoice2Flow``; the released sizes by default.

    Returns
    -------
    flow : CosyVoice2Flow
        Frozen, in evaluation mode.

    Raises
    ------
    FileNotFoundError or ValueError
        As for :func:`load_llm`.
    """
    tensors = read_upstream_tensors(path)
    check_is_cosyvoice2_flow(tensors, path)
    return _load_frozen(CosyVoice2Flow(**kwargs), tensors, path)


def load_hift(path: PathLike, **kwargs) -> HiFTGenerator:
    """Load the vocoder from a released ``hift.pt``, as :func:`load_flow` does.

    Arguments
    ---------
    path : str or Path
        ``hift.pt`` of FunAudioLLM/CosyVoice2-0.5B.
    **kwargs
        Arguments of ``HiFTGenerator``; the released sizes by default.
    """
    tensors = read_upstream_tensors(path)
    rename_weights(tensors)
    return _load_frozen(HiFTGenerator(**kwargs), tensors, path)


def _load_frozen(module, tensors, path):
    """Load tensors into a module, freeze it and set evaluation mode."""
    check_tensors(module, tensors, path)
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def read_upstream_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint such as ``llm.pt``.

    Tensors are mapped into memory and read from the disk on first use. Other
    entries, such as the trainer's counters, are dropped.

    Arguments
    ---------
    path : str or Path
        A file written by ``torch.save``.

    Returns
    -------
    tensors : Dict[str, torch.Tensor]
        Tensors by their names in the file. Changing a tensor does not change
        the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated or holds objects other than tensors; none of
        its code is run.

    Example
    -------
    >>> path = getfixture("tmp_path") / "llm.pt"
    >>> torch.save({"norm.weight": torch.ones(3), "epoch": 7}, path)
    >>> read_upstream_tensors(path)
    {'norm.weight': tensor([1., 1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; get FunAudioLLM/CosyVoice2-0.5B and give "
            "the path of the file in it."
        )
    is_zip = zipfile.is_zipfile(path)  # the end of a truncated one is missing
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=is_zip
        )
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as e:
        # torch's message advises weights_only=False, so it is not passed on.
        if "unsupported global" in str(e).lower():
            reason = (
                "holds objects that are not tensors and may run code when "
                "they are read, so that it is refused"
            )
        else:
            n_bytes = path.stat().st_size
            reason = f"is no whole checkpoint ({n_bytes} bytes)"
        raise ValueError(
            f"{path} {reason}; get it again from FunAudioLLM/CosyVoice2-0.5B."
        ) from e
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{path} holds a {type(state).__name__} instead of named tensors; "
            "give the state dict of a model."
        )
    return {
        name: tensor
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def check_tensors(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: object
) -> None:
    """Check that tensors fit a module by name and shape.

    Arguments
    ---------
    module : torch.nn.Module
        Module that will load the tensors.
    tensors : Mapping[str, torch.Tensor]
        Tensors by their names in the module's state dict.
    source : object
        Origin of the tensors, for the error message.

    Raises
    ------
    ValueError
        If tensors are missing, unexpected or of another shape; the message
        names them.

    Example
    -------
    >>> linear = torch.nn.Linear(2, 3)
    >>> check_tensors(linear, {"weight": torch.ones(3, 2)}, "linear.pt")
    Traceback (most recent call last):
    ValueError: linear.pt does not fit the sizes of Linear (1 missing: bias). \
Give the sizes that it was trained with.
    """
    own = module.state_dict()
    problems = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of "
            f"{tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
    }
    if not any(problems.values()):
        return
    report = "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}"
        + (", ..." if len(names) > _SHOWN else "")
        for kind, names in problems.items()
        if names
    )
    raise ValueError(
        f"{source} does not fit the sizes of {type(module).__name__} "
        f"({report}). Give the sizes that it was trained with."
    )


def check_is_cosyvoice2_llm(
    tensors: Mapping[str, torch.Tensor], source: object
) -> None:
    """Check that a checkpoint is the language model of CosyVoice 2.

    Arguments
    ---------
    tensors : Mapping[str, torch.Tensor]
        Tensors by their names in the file.
    source : object
        Origin of the tensors, for the error message.

    Raises
    ------
    ValueError
        If it belongs to CosyVoice 1 or 3, or is no language model.

    Example
    -------
    >>> check_is_cosyvoice2_llm({"text_encoder.embed": None}, "llm.pt")
    Traceback (most recent call last):
    ValueError: llm.pt is a language model of CosyVoice 1; get \
llm.pt of FunAudioLLM/CosyVoice2-0.5B.
    """
    # CosyVoice 1 encodes text with layers of its own. In CosyVoice 3, start
    # and task are speech tokens without an embedding of their own, and the
    # speech head has no bias.
    if any(name.startswith("text_encoder.") for name in tensors):
        found = "is a language model of CosyVoice 1"
    elif not any(name.startswith(_LLM_TRUNK) for name in tensors):
        found = "is no language model of CosyVoice2"
    elif not {"llm_embedding.weight", "llm_decoder.bias"} & tensors.keys():
        found = "is a language model of CosyVoice 3"
    else:
        return
    raise ValueError(
        f"{source} {found}; get llm.pt of FunAudioLLM/CosyVoice2-0.5B."
    )


def check_is_cosyvoice2_flow(
    tensors: Mapping[str, torch.Tensor], source: object
) -> None:
    """Check that a checkpoint is not the flow of another CosyVoice release.

    Arguments and error are as for :func:`check_is_cosyvoice2_llm`.

    Example
    -------
    >>> check_is_cosyvoice2_flow({"length_regulator.0": None}, "flow.pt")
    Traceback (most recent call last):
    ValueError: flow.pt is a flow of CosyVoice 1; get \
flow.pt of FunAudioLLM/CosyVoice2-0.5B.
    """
    # CosyVoice 1 stretches token encodings to the mel's length; CosyVoice 3
    # has a transformer instead of the U-Net.
    releases = {
        "length_regulator.": 1,
        "decoder.estimator.transformer_blocks.": 3,
    }
    for prefix, release in releases.items():
        if any(name.startswith(prefix) for name in tensors):
            raise ValueError(
                f"{source} is a flow of CosyVoice {release}; get flow.pt of "
                "FunAudioLLM/CosyVoice2-0.5B."
            )


def rename_llm_tensors(
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Rename the tensors of ``llm.pt`` to the names of ``CosyVoice2LM``.

    Arguments
    ---------
    tensors : Mapping[str, torch.Tensor]
        Tensors by their names in the file.

    Returns
    -------
    tensors : Dict[str, torch.Tensor]
        The same tensors without the text head, which is never used.

    Example
    -------
    >>> rename_llm_tensors({"llm.model.model.norm.weight": torch.ones(2)})
    {'llm.norm.weight': tensor([1., 1.])}
    """
    return {
        (
            "llm." + name.removeprefix(_LLM_TRUNK)
            if name.startswith(_LLM_TRUNK)
            else name
        ): tensor
        for name, tensor in tensors.items()
        if name != _LLM_TEXT_HEAD
    }


def read_qwen2_config(path: PathLike) -> dict[str, object]:
    """Read the sizes of a Qwen2 trunk.

    Arguments
    ---------
    path : str or Path
        ``config.json`` of transformers, or the folder that contains it, such
        as ``CosyVoice-BlankEN``.

    Returns
    -------
    config : Dict[str, object]
        Arguments of ``transformers.Qwen2Config``: only the sizes in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the model is not a Qwen2 or a size is missing.

    Example
    -------
    >>> import json
    >>> folder = getfixture("tmp_path")
    >>> config = {**QWEN2_0_5B, "model_type": "qwen2", "eos_token_id": 1}
    >>> _ = (folder / "config.json").write_text(json.dumps(config))
    >>> read_qwen2_config(folder) == QWEN2_0_5B
    True
    """
    path = Path(path)
    if path.is_dir():
        path = path / _CONFIG
    config = read_json(path)
    if not isinstance(config, dict) or config.get("model_type") != "qwen2":
        raise ValueError(
            f"{path} does not describe a Qwen2 model; give {_CONFIG} of "
            "CosyVoice-BlankEN in FunAudioLLM/CosyVoice2-0.5B."
        )
    missing = sorted(QWEN2_0_5B.keys() - config.keys())
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; get it again from "
            "FunAudioLLM/CosyVoice2-0.5B."
        )
    return {name: config[name] for name in QWEN2_0_5B}
