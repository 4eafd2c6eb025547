"""Loading of safetensors weights, including those shipped in the package."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch

_PACKAGE = Path(__file__).resolve().parent.parent
#: Maximum number of names that an error message lists.
_SHOWN = 5

PathLike = str | Path


def find_file(path: PathLike) -> Path:
    """Find a file, including those shipped in the package.

    Arguments
    ---------
    path : str or Path
        A path. One that starts with ``speechbrain_emofilm/`` is found
        wherever the package is installed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    Example
    -------
    >>> find_file("speechbrain_emofilm/utils/assets.py").name
    'assets.py'
    """
    path = Path(path)
    found = path
    if not path.is_file() and path.parts[:1] == (_PACKAGE.name,):
        found = _PACKAGE.parent / path
    if not found.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: correct the path, or create the file "
            "first."
        )
    return found


def load_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Arguments
    ---------
    path : str or Path
        Path of the file, resolved by :func:`find_file`.

    Returns
    -------
    dict
        Name to tensor.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a complete safetensors file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "speakers.safetensors"
    >>> safetensors.torch.save_file({"0011": torch.zeros(192)}, path)
    >>> load_tensors(path)["0011"].shape
    torch.Size([192])
    """
    try:
        return safetensors.torch.load_file(find_file(path))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}): "
            "download or create it again."
        ) from error


def load_safetensors(
    module: torch.nn.Module, path: PathLike
) -> torch.nn.Module:
    """Load all weights of a module from a safetensors file, strictly.

    Weights are cast to the module's own precision, so that a file may hold
    half precision.

    Arguments
    ---------
    module : torch.nn.Module
        Module whose weights are replaced in place.
    path : str or Path
        A file with one tensor for each entry of the module's state dict,
        resolved by :func:`find_file`.

    Returns
    -------
    torch.nn.Module
        The module, so that hparams can construct and load in one place.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not a safetensors file, or if names or shapes differ.

    Example
    -------
    >>> path = getfixture("tmp_path") / "linear.safetensors"
    >>> half = torch.nn.Linear(2, 3).half()
    >>> safetensors.torch.save_file(half.state_dict(), path)
    >>> load_safetensors(torch.nn.Linear(2, 3), path).weight.dtype
    torch.float32
    """
    weights = load_tensors(path)
    _check_weights(module, weights, path)
    module.load_state_dict(weights)
    return module


def _check_weights(
    module: torch.nn.Module, weights: dict[str, torch.Tensor], path: PathLike
) -> None:
    """Raise one error with all differences between a module and a file."""
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{name} ({_shape(weights[name])} in the file, "
            f"{_shape(expected[name])} in the module)"
            for name in sorted(expected.keys() & weights.keys())
            if expected[name].shape != weights[name].shape
        ],
    }
    found = [
        f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}"
        + (", ..." if len(names) > _SHOWN else "")
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(
            f"{path} does not fit {type(module).__name__}; "
            f"{'; '.join(found)}. Use the hparams that the file was created "
            "with, or create the file with these hparams."
        )


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
