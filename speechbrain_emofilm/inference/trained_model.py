"""Base class of models in a training's output folder."""

import re
from pathlib import Path

from speechbrain_emofilm.utils.assets import find_file

import torch
import yaml
from speechbrain.inference.interfaces import Pretrained


class TrainedModel(Pretrained):
    """Base class of models that are loaded from a training's output folder.

    ``HPARAMS_FILE`` is the name of the file that describes the model,
    ``MODULES_NEEDED`` lists the modules that this file must define.

    Arguments
    ---------
    *args, **kwargs
        Arguments of :class:`speechbrain.inference.interfaces.Pretrained`.

    Example
    -------
    >>> class Speaker(TrainedModel):
    ...     HPARAMS_FILE = "speaker.yaml"
    >>> Speaker.from_hparams(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... has no speaker.yaml: give the output folder of a ...
    """

    HPARAMS_FILE: str
    #: Folder it was loaded from; None if it came from elsewhere.
    folder: Path | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        missing = [n for n in self.MODULES_NEEDED if n not in self.mods]
        if missing:
            raise ValueError(
                f"The hparams have no modules[{missing[0]!r}]: "
                f"{type(self).__name__} needs {', '.join(self.MODULES_NEEDED)}."
            )

    @classmethod
    def from_hparams(
        cls, source: str | Path, hparams_file: str | None = None, **kwargs
    ) -> "TrainedModel":
        """Load a trained model.

        Arguments
        ---------
        source : str or Path
            Output folder of a training recipe, or another source that
            SpeechBrain can fetch from. A folder that starts with
            ``speechbrain_emofilm/`` is found wherever the package is
            installed.
        hparams_file : str, optional
            Name of the description; ``HPARAMS_FILE`` if None.
        **kwargs
            Arguments of ``Pretrained.from_hparams``.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist or has no such file.
        ValueError
            If the device is not available, or if the checkpoints do not fit
            the modules of that file.
        """
        hparams_file = hparams_file or cls.HPARAMS_FILE
        _check_device((kwargs.get("run_opts") or {}).get("device"))
        folder = Path(source)
        if not folder.exists():
            folder = _packaged(folder, hparams_file)
            source = folder if folder.exists() else source
        if not folder.exists() and not _can_be_remote(str(source)):
            raise FileNotFoundError(
                f"{source} does not exist: give the output folder of a "
                "finished training."
            )
        if folder.exists() and not (folder / hparams_file).is_file():
            raise FileNotFoundError(
                f"{folder} has no {hparams_file}: give the output folder of "
                "a finished training."
            )
        _check_hparams(folder / hparams_file)
        try:
            model = super().from_hparams(str(source), hparams_file, **kwargs)
        except RuntimeError as error:  # from load_state_dict
            raise ValueError(
                f"{source} does not fit its {hparams_file} "
                f"({' '.join(str(error).split())}): give the output folder of "
                "one training."
            ) from error
        model.folder = folder if folder.is_dir() else None
        return model


def _packaged(folder: Path, hparams_file: str) -> Path:
    """Return the place of a model inside the package, if it is one."""
    try:
        return find_file(folder / hparams_file).parent
    except FileNotFoundError:
        return folder


def _can_be_remote(source: str) -> bool:
    """Tell the name of a hub's repository or a URL from a local folder."""
    if "://" in source:
        return True
    name = re.fullmatch(r"(\w[\w.-]*)/\w[\w.-]*", source)
    return name is not None and not Path(name[1]).exists()


def _check_device(device: str | None) -> None:
    """Raise an error that names a device which is not available."""
    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].strip().rstrip(".")
        raise ValueError(
            f"The device {str(device)!r} cannot be used ({reason}): choose "
            "one that this machine has, for example 'cpu'."
        ) from error


def _check_hparams(path: Path) -> None:
    """Raise ValueError if a local hyperparameter file is damaged."""
    if not path.is_file():
        return
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"))
        problem = "it names no hyperparameters"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        root, problem = None, " ".join(str(error).split())
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(
            f"{path} is not a file of hyperparameters ({problem}): copy it "
            "again, or train again."
        )
