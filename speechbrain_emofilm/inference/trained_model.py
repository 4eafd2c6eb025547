"""Base class of models in a training's output folder.

Where a model runs is chosen when it is loaded: the device, the precision of
its language model, and the number of CPU threads.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.threads import cpu_threads, threads_for

import torch
import yaml
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.distributed import infer_device
from torch import nn

#: Precisions that :meth:`TrainedModel.from_hparams` knows.
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
# libyaml's loader is ten times faster, but optional.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    #: Number of CPU threads that was asked for; None chooses by the size of
    #: the language model, see :mod:`speechbrain_emofilm.utils.threads`.
    threads: int | None = None
    _n_parameters: int | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        missing = [n for n in self.MODULES_NEEDED if n not in self.mods]
        if missing:
            raise ValueError(
                f"The hparams have no modules[{missing[0]!r}]: "
                f"{type(self).__name__} needs {', '.join(self.MODULES_NEEDED)}."
            )
        lm = self._language_model()
        if lm is not None and torch.device(self.device).type == "cpu":
            self._n_parameters = sum(p.numel() for p in lm.parameters())

    @property
    def inference_ctx(self) -> AbstractContextManager:
        """Precision and number of CPU threads of the computation.

        The number of threads holds within the context only; the program's own
        is restored after it.
        """
        return self._computation()

    @inference_ctx.setter
    def inference_ctx(self, autocast: AbstractContextManager) -> None:
        self._autocast = autocast

    @contextlib.contextmanager
    def _computation(self) -> Iterator[None]:
        number = self.threads
        if number is None and self._n_parameters is not None:
            number = threads_for(self._n_parameters)
        with cpu_threads(number), self._autocast:
            yield

    def _language_model(self) -> nn.Module | None:
        """Return the model that decodes token by token, if there is one."""
        emofilm = self.mods["emofilm"] if "emofilm" in self.mods else None
        lm = getattr(emofilm, "llm", None)
        return lm if isinstance(lm, nn.Module) else None

    @classmethod
    def from_hparams(
        cls,
        source: str | Path,
        hparams_file: str | None = None,
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        **kwargs,
    ) -> "TrainedModel":
        """Load a trained model.

        Nothing is set for the whole program: the threads hold while the model
        computes.

        Arguments
        ---------
        source : str or Path
            Output folder of a training recipe, or another source that
            SpeechBrain can fetch from. A folder that starts with
            ``speechbrain_emofilm/`` is found wherever the package is
            installed.
        hparams_file : str, optional
            Name of the description; ``HPARAMS_FILE`` if None.
        device : str, optional
            Where the model computes, such as ``"cpu"`` or ``"cuda:1"``; if
            None, that of ``run_opts`` or else the first GPU, or the CPU
            without one.
        precision : str, optional
            Precision of the language model: ``"fp32"``, ``"bf16"`` and, on a
            CPU, ``"int8"`` (see
            :func:`~speechbrain_emofilm.lobes.cosyvoice2.precision.set_weight_precision`);
            on a GPU also ``"fp16"``, which is that of all modules. None
            leaves it to ``run_opts``, by default single precision.
        threads : int, optional
            Number of CPU threads while the model computes. If None, a
            language model on a CPU gets one thread for each 25 million
            parameters, at most those that torch uses now, unless the user has
            set ``OMP_NUM_THREADS``.
        **kwargs
            Arguments of ``Pretrained.from_hparams``, such as ``run_opts``.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist or has no such file.
        ValueError
            If the device is not available, the precision or the number of
            threads is impossible, or the checkpoints do not fit the modules of
            that file.
        """
        hparams_file = hparams_file or cls.HPARAMS_FILE
        if threads is not None and threads < 1:
            raise ValueError(
                f"threads is {threads}: give an integer of 1 or more."
            )
        options = _run_options(kwargs.pop("run_opts", None), device, precision)
        _check_device(options.get("device"))
        if options:
            kwargs["run_opts"] = options
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
        model.threads = threads
        if precision in ("bf16", "int8"):
            model._reduce_weights(precision)
        return model

    def _reduce_weights(self, precision: str) -> None:
        """Reduce the precision of the language model's weights."""
        from speechbrain_emofilm.lobes.cosyvoice2.precision import (
            set_weight_precision,
        )

        lm = self._language_model()
        if lm is None:
            raise ValueError(
                f"{type(self).__name__} has no language model to convert to "
                f"{precision}: load it in fp32."
            )
        set_weight_precision(lm, precision)


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


def _run_options(
    given: Mapping[str, Any] | None, device: str | None, precision: str | None
) -> dict[str, Any]:
    """Return SpeechBrain's run options with the device and precision."""
    names = getattr(given, "overridden_args", None)  # of a RunOptions
    options = {
        name: given[name]
        for name in (names if names is not None else given or ())
    }
    if device is not None:
        options["device"] = str(device)
    elif options.get("device") is None and infer_device().startswith("mps"):
        options["device"] = "cpu"  # generation is not made for Apple's GPUs
    if precision is None:
        return options
    if precision not in PRECISIONS:
        raise ValueError(
            f"The precision {precision!r} is not known: choose one of "
            f"{', '.join(PRECISIONS)}."
        )
    place = options.get("device") or infer_device()
    on_cpu = str(place).split(":")[0] == "cpu"
    if precision == ("fp16" if on_cpu else "int8"):
        raise ValueError(
            f"{precision} is not possible on {place}: choose bf16 or fp32"
            + (", or int8." if on_cpu else ", or fp16.")
        )
    # The others convert the weights of the language model alone.
    options["precision"] = "fp16" if precision == "fp16" else "fp32"
    return options


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
        root = yaml.compose(
            path.read_text(encoding="utf-8"), Loader=_YAML_LOADER
        )
        problem = "it names no hyperparameters"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        root, problem = None, " ".join(str(error).split())
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(
            f"{path} is not a file of hyperparameters ({problem}): copy it "
            "again, or train again."
        )
