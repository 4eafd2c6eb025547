"""Checks of hyperparameters, which the command line may have changed."""

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


def check_length(
    hparams: Mapping, hparams_file: str | Path, number: str, items: str
) -> None:
    """Makes sure that a number is the length of the list that it counts.

    Arguments
    ---------
    hparams : dict
        As loaded.
    hparams_file : str or Path
        The file they were loaded from.
    number : str
        Name of the number, which sizes the model.
    items : str
        Name of the list.

    Raises
    ------
    ValueError
        If it is not.

    Example
    -------
    >>> hparams = {"emotions": ["neutral", "sad"], "n_emotions": 2}
    >>> check_length(hparams, "train.yaml", "n_emotions", "emotions")
    >>> hparams["n_emotions"] = 5
    >>> check_length(hparams, "train.yaml", "n_emotions", "emotions")
    Traceback (most recent call last):
    ...
    ValueError: train.yaml: n_emotions is 5, but emotions names 2 ...
    """
    names = hparams[items]
    if hparams[number] != len(names):
        raise ValueError(
            f"{hparams_file}: {number} is {hparams[number]}, but {items} names "
            f"{len(names)} ({', '.join(names)}): give --{number}={len(names)}, "
            f"or other {items}."
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
