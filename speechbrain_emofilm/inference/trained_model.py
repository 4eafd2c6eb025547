"""Base class of models in a training's output folder."""

from pathlib import Path

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
            SpeechBrain can fetch from.
        hparams_file : str, optional
            Name of the description; ``HPARAMS_FILE`` if None.
        **kwargs
            Arguments of ``Pretrained.from_hparams``.

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
        try:
            return super().from_hparams(str(source), hparams_file, **kwargs)
        except RuntimeError as error:  # from load_state_dict
            raise ValueError(
                f"{source} does not fit its {hparams_file} "
                f"({' '.join(str(error).split())}): give the output folder of "
                "one training."
            ) from error
