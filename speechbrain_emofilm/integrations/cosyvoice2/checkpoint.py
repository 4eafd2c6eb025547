"""CosyVoice2's own files: tensors and sizes, and nothing else of them.

A checkpoint is a pickle, which can run code when it is read. Here only its
tensors are read, mapped into memory rather than copied.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

from speechbrain_emofilm.utils.files import read_json

import torch

PathLike = str | Path

#: The sizes of CosyVoice2-0.5B's trunk, those of Qwen2-0.5B.
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
_SHOWN = 8  # names of a long list that a message gives


def read_upstream_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint such as ``llm.pt``.

    They stay on the disk until they are used, and what is never used stays
    there. Numbers beside them, such as the trainer's counters, are dropped.

    Arguments
    ---------
    path : str or Path
        A file written by ``torch.save``.

    Returns
    -------
    tensors : Dict[str, torch.Tensor]
        By the names in the file; mapped into memory, so that a change of a
        tensor does not reach the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not whole, or holds what is not a tensor; nothing in
        it is run.

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
    """Compares the names and shapes of a module with those of tensors.

    Arguments
    ---------
    module : torch.nn.Module
        That is to be loaded.
    tensors : Mapping[str, torch.Tensor]
        By the names in the module's state dict.
    source : object
        Where they come from, for the message.

    Raises
    ------
    ValueError
        If tensors are missing, unexpected or of another shape; the message
        names them.

    Example
    -------
    >>> linear = torch.nn.Linear(2, 3)
    >>> check_tensors(linear, linear.state_dict(), "linear.pt")
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
    """Tells the language models of CosyVoice's releases apart.

    Arguments
    ---------
    tensors : Mapping[str, torch.Tensor]
        A checkpoint by the names in the file.
    source : object
        Where they come from, for the message.

    Raises
    ------
    ValueError
        If the file is of CosyVoice 1 or 3, or no language model of any.

    Example
    -------
    >>> check_is_cosyvoice2_llm({"text_encoder.embed": None}, "llm.pt")
    Traceback (most recent call last):
    ValueError: llm.pt is a language model of CosyVoice 1; get \
llm.pt of FunAudioLLM/CosyVoice2-0.5B.
    """
    # The first release encodes text with layers of its own. The third has no
    # embedding for start and task, which are speech tokens there, and no
    # bias in its head.
    if any(name.startswith("text_encoder.") for name in tensors):
        found = "is a language model of CosyVoice 1"
    elif not any(name.startswith("llm.model.model.") for name in tensors):
        found = "is no language model of CosyVoice2"
    elif not {"llm_embedding.weight", "llm_decoder.bias"} & tensors.keys():
        found = "is a language model of CosyVoice 3"
    else:
        return
    raise ValueError(
        f"{source} {found}; get llm.pt of FunAudioLLM/CosyVoice2-0.5B."
    )


def read_qwen2_config(path: PathLike) -> dict[str, object]:
    """Reads the sizes of a Qwen2 trunk.

    Arguments
    ---------
    path : str or Path
        A ``config.json`` of transformers, or its folder, such as
        ``CosyVoice-BlankEN``.

    Returns
    -------
    config : Dict[str, object]
        Arguments of ``transformers.Qwen2Config``. Entries of the file other
        than sizes are left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it describes no Qwen2 or lacks a size.

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
