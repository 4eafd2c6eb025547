"""Loading of parts of hparams files, and checks of overrides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from hyperpyyaml import load_hyperpyyaml

_NEW, _INCLUDE = "!new:", "!include:"


def load_some_hparams(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    r"""Load some entries of a model's hparams file, and none of the others.

    Arguments
    ---------
    path : str or Path
        File whose entries do not refer to each other by ``!ref``, as those
        that trainings write.
    names : list of str
        Names of the entries; the first must be there.

    Returns
    -------
    dict
        Name to loaded entry, of those that the file has.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no hparams file, or lacks the first entry.

    Example
    -------
    >>> path = getfixture("tmp_path") / "labeler.yaml"
    >>> _ = path.write_text("emotions: [sad]\nmodules: !new:no.such.Module")
    >>> load_some_hparams(path, ["emotions", "note"])
    {'emotions': ['sad']}
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}: give the output folder of a "
            "finished training."
        )
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("it names no hyperparameters")
        root.value = [item for item in root.value if item[0].value in names]
        hparams = load_hyperpyyaml(yaml.serialize(root))
        if names[0] not in hparams:
            raise ValueError(f"it has no {names[0]}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} does not describe a model "
            f"({' '.join(str(error).split())}): give the output folder of a "
            "finished training."
        ) from error
    return dict(hparams)


def check_overrides(
    hparams: Mapping, hparams_file: str | Path, overrides: str
) -> None:
    """Check that objects replaced on the command line really are replaced.

    HyperPyYAML merges a mapping on the command line into that of the file and
    keeps the file's class: ``--fusion='!new:Other {dim: 2}'`` would silently
    train the fusion it should replace.

    Arguments
    ---------
    hparams : dict
        Loaded hyperparameters.
    hparams_file : str or Path
        File that they were loaded from.
    overrides : str
        Overrides of the command line, from ``sb.parse_arguments``.

    Raises
    ------
    ValueError
        If an object is not of the class given on the command line.

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
    """Check that a number, which sizes the model, is the length of a list.

    Arguments
    ---------
    hparams : dict
        Loaded hyperparameters.
    hparams_file : str or Path
        File that they were loaded from.
    number, items : str
        Names of the number and of the list.

    Raises
    ------
    ValueError
        If they differ.

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
    """Find the class that a node, or the file it includes, creates."""
    if node.tag.startswith(_NEW):
        return node.tag[len(_NEW) :]
    if node.tag.startswith(_INCLUDE):
        path = folder / node.tag[len(_INCLUDE) :]
        if path.is_file():
            root = yaml.compose(path.read_text(encoding="utf-8"))
            if root is not None:
                return _class_name(root, path.parent)
    return None
