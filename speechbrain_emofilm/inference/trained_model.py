"""Base class for the models in a training's output folder."""

from pathlib import Path

import yaml
from speechbrain.inference.interfaces import Pretrained


class TrainedModel(Pretrained):
    """Base of the models that a training's output folder holds.

    ``HPARAMS_FILE`` names the file by which the folder describes the model,
    ``MODULES_NEEDED`` the modules that the file has to define.

    Arguments
    ---------
    *args, **kwargs
        Those of :class:`speechbrain.inference.interfaces.Pretrained`.

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
            A training recipe's output folder, or another source that
            SpeechBrain can fetch from.
        hparams_file : str, optional
            Name of the file in it; ``HPARAMS_FILE`` if None.
        **kwargs
            Those of ``Pretrained.from_hparams``.

        Returns
        -------
        TrainedModel
            An object of this class.

        Raises
        ------
        FileNotFoundError
            If the folder exists but has no such file.
        ValueError
            If its checkpoints do not fit the modules of that file.
        """
        hparams_file = hparams_file or cls.HPARAMS_FILE
        folder = Path(source)
        if folder.exists() and not (folder / hparams_file).is_file():
            raise FileNotFoundError(
                f"{folder} has no {hparams_file}: give the output folder of "
                "a finished training."
            )
        _check_hparams(folder / hparams_file)
        try:
            return super().from_hparams(str(source), hparams_file, **kwargs)
        except RuntimeError as error:  # from load_state_dict
            raise ValueError(
                f"{source} does not fit its {hparams_file} "
                f"({' '.join(str(error).split())}): give a folder that one "
                "training has written."
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
