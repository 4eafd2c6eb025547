"""Checkpoints that are either complete or absent."""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechbrain_emofilm.utils.files import atomic_path, copy_file

import torch
import yaml
from hyperpyyaml import resolve_references
from speechbrain.utils.checkpoints import Checkpoint, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Not SpeechBrain's prefix, so that no reader takes it for a checkpoint.
_UNFINISHED = "unfinished-"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain Checkpointer that survives a kill or a full disk.

    SpeechBrain writes a checkpoint's meta file first, so that a run killed
    while saving leaves a folder that looks like the newest checkpoint but
    cannot be loaded. Here the folder gets its name when it is complete.

    Arguments
    ---------
    *args, **kwargs
        Arguments of :class:`speechbrain.utils.checkpoints.Checkpointer`.

    Example
    -------
    >>> import torch
    >>> checkpointer = AtomicCheckpointer(
    ...     getfixture("tmpdir"), {"layer": torch.nn.Linear(2, 2)}
    ... )
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> checkpointer.find_checkpoint().path == checkpoint.path
    True
    """

    def save_checkpoint(
        self,
        meta: Mapping[str, Any] = {},
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> Checkpoint | None:
        """Save a checkpoint completely or not at all.

        Arguments
        ---------
        meta : dict
            Entries to add to the meta file.
        end_of_epoch : bool
            Whether an epoch has just ended.
        name : str, optional
            Name of the checkpoint; the time if None.
        verbosity : int
            Logging level of the message.

        Returns
        -------
        Checkpoint or None
            None on all but the main process.

        Raises
        ------
        OSError
            If it cannot be written; earlier checkpoints stay as they are.
        """
        if if_main_process():
            self._remove_unfinished()
        try:
            saved = super().save_checkpoint(
                meta, end_of_epoch, name, logging.DEBUG
            )
        # torch.save reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            self._remove_unfinished()
            raise OSError(
                f"{self.checkpoints_dir}: the checkpoint could not be saved "
                f"({error}). The checkpoints before it are whole: free some "
                "space and start the same command again to resume."
            ) from error
        if saved is not None:
            final = saved.path.with_name(saved.path.name[len(_UNFINISHED) :])
            os.replace(saved.path, final)
            files = {n: final / p.name for n, p in saved.paramfiles.items()}
            saved = Checkpoint(final, saved.meta, files)
            logger.log(verbosity, f"Saved a checkpoint in {final}")
        # No process may list the checkpoints before the new one has its name.
        ddp_barrier()
        return saved

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint.

        Raises
        ------
        ValueError
            If it does not fit the objects to recover.
        """
        try:
            super().load_checkpoint(checkpoint)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{checkpoint.path} does not fit this model "
                f"({' '.join(str(error).split())}): resume with the hparams "
                "it was trained with, or give another output_folder."
            ) from error

    def _new_checkpoint_dirpath(self) -> Path:
        return _unfinished(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name: str) -> Path:
        return _unfinished(super()._custom_checkpoint_dirpath(name))

    def _remove_unfinished(self) -> None:
        """Remove the remains of a killed run or a failed save."""
        for path in self.checkpoints_dir.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def _unfinished(path: Path) -> Path:
    return path.with_name(_UNFINISHED + path.name)


def load_strictly(module: torch.nn.Module, path: str | Path) -> None:
    """Load all weights of a module; a hook for a ``Pretrainer``.

    Without a hook, weights that the file lacks keep their random values, and
    SpeechBrain only warns.

    Arguments
    ---------
    module : torch.nn.Module
        Module to load the weights into.
    path : str or Path
        File written by ``torch.save``; only tensors are read.

    Raises
    ------
    ValueError
        If the file does not hold exactly the module's weights.

    Example
    -------
    >>> path = getfixture("tmp_path") / "layer.ckpt"
    >>> torch.save(torch.nn.Linear(2, 2, bias=False).state_dict(), path)
    >>> load_strictly(torch.nn.Linear(2, 2), path)
    Traceback (most recent call last):
    ...
    ValueError: ...layer.ckpt does not fit Linear (... "bias"...
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many types
        raise ValueError(
            f"{path} is damaged or holds more than tensors "
            f"({type(error).__name__}): copy it again, or train again."
        ) from error
    try:
        module.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit {type(module).__name__} "
            f"({' '.join(str(error).split())}): load it with the hparams it "
            "was trained with."
        ) from error


def export_trained_model(
    checkpointer: Checkpointer,
    min_key: str,
    names: Iterable[str],
    folder: str | Path,
    hparams_file: str | Path,
    overrides: str,
    part: str,
) -> None:
    r"""Export the best checkpoint as a folder that ``from_hparams`` loads.

    Arguments
    ---------
    checkpointer : Checkpointer
        Checkpointer of the training.
    min_key : str
        Metric; the checkpoint with its smallest value is exported.
    names : iterable of str
        Recoverables to copy, as ``<name>.ckpt``; those that the training
        does not have are left out. One that joined the training after that
        checkpoint is taken from the newest checkpoint that holds it.
    folder : str or Path
        Folder to write to.
    hparams_file : str or Path
        Hyperparameters of the training.
    overrides : str
        Overrides of the hyperparameters on the command line.
    part : str
        Key of the hyperparameters that describe the trained model; they are
        written as ``<part>.yaml``.

    Raises
    ------
    ValueError
        If there is no checkpoint with ``min_key``, or none with a part of the
        training.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> text = "dim: 2\nmodel: {layer: !new:torch.nn.Linear [!ref <dim>, 1]}"
    >>> _ = (folder / "train.yaml").write_text(text)
    >>> checkpointer = Checkpointer(
    ...     folder / "save", {"layer": torch.nn.Linear(3, 1)}
    ... )
    >>> checkpoint = checkpointer.save_checkpoint({"loss": 1.0})
    >>> export_trained_model(
    ...     checkpointer, "loss", ["layer"], folder / "trained",
    ...     folder / "train.yaml", "dim: 3", "model",
    ... )
    >>> sorted(path.name for path in (folder / "trained").iterdir())
    ['layer.ckpt', 'model.yaml']
    >>> "!new:torch.nn.Linear" in (folder / "trained/model.yaml").read_text()
    True
    """
    folder = Path(folder)
    best = checkpointer.find_checkpoint(min_key=min_key)
    if best is None:
        raise ValueError(
            f"{checkpointer.checkpoints_dir} has no checkpoint with {min_key} "
            "to export: train first."
        )
    for name in names:
        if name in best.paramfiles or name in checkpointer.recoverables:
            source = _file_of(name, best, checkpointer)
            copy_file(source, folder / f"{name}.ckpt")
    with open(hparams_file, encoding="utf-8") as fin:
        document = yaml.compose(resolve_references(fin, overrides))
    parts = {key.value: value for key, value in document.value}
    with atomic_path(folder / f"{part}.yaml") as temporary:
        # Composed, not loaded: tags stay tags until the file is loaded.
        temporary.write_text(yaml.serialize(parts[part]))
    logger.info(f"{folder} holds the trained model, described by {part}.yaml.")


def _file_of(name: str, best: Checkpoint, checkpointer: Checkpointer) -> Path:
    """Return a recoverable's file of the best checkpoint or, if it has none,
    of the newest that does.
    """
    if name in best.paramfiles:
        return best.paramfiles[name]
    others = [
        c for c in checkpointer.list_checkpoints() if name in c.paramfiles
    ]
    if not others:
        raise ValueError(
            f"No checkpoint in {checkpointer.checkpoints_dir} holds {name}, "
            "which the hyperparameters describe: the training began without "
            "it and has ended. Train in another folder, or leave it out as "
            "before (the word pointer with --word_pointer_weight=0; "
            "train_pointer.py adds one to the trained model)."
        )
    newest = max(others, key=lambda c: c.meta["unixtime"])
    return newest.paramfiles[name]
