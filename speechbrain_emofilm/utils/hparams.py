"""Checks of hyperparameters that were changed on the command line.

Authors
 * speechbrain-emofilm contributors, 2026
"""

from collections.abc import Mapping
from pathlib import Path
from pydoc import locate

import yaml

_NEW, _INCLUDE = "!new:", "!include:"


def check_overrides(
    hparams: Mapping, hparams_file: str | Path, overrides: str
) -> None:
    """Makes sure that a part swapped on the command line is really swapped.

    HyperPyYAML merges a mapping on the command line into the one that stands
    in the file, and keeps the file's class: ``--fusion='!new:Other {dim: 2}'``
    would silently train the fusion that was to be replaced.

    Arguments
    ---------
    hparams : dict
        As loaded.
    hparams_file : str or Path
        The file they were loaded from.
    overrides : str
        What the command line changed, from ``sb.parse_arguments``.

    Raises
    ------
    ValueError
        If an object is not of the class that the command line names.

    Example
    -------
    >>> import torch
    >>> hparams = {"activation": torch.nn.ReLU()}
    >>> asked = "activation: !new:torch.nn.GELU []"
    >>> check_overrides(hparams, "train.yaml", asked)
    Traceback (most recent call last):
    ...
    ValueError: train.yaml: activation is still a ReLU, ...
    """
    document = yaml.compose(overrides or "")
    for key, node in document.value if document else ():
        wanted = _class_name(node, Path(hparams_file).parent)
        made = hparams.get(key.value)
        if wanted is not None and type(made) is not locate(wanted):
            raise ValueError(
                f"{hparams_file}: {key.value} is still a "
                f"{type(made).__name__}, as a mapping on the command line is "
                f"merged into the file's. Give --{key.value}='!new:{wanted} "
                "[ARGUMENTS]' with a list of arguments, which replaces it, or "
                "change the line of the file."
            )


def _class_name(node: yaml.Node, folder: Path) -> str | None:
    """Class that a node makes, by itself or by the file it includes."""
    if node.tag.startswith(_NEW):
        return node.tag[len(_NEW) :]
    if node.tag.startswith(_INCLUDE):
        path = folder / node.tag[len(_INCLUDE) :]
        if path.is_file():
            root = yaml.compose(path.read_text(encoding="utf-8"))
            if root is not None:
                return _class_name(root, path.parent)
    return None
