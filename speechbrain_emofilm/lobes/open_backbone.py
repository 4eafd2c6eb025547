"""Optional training of the backbone language model.

The paper freezes it. Low-rank adapters, and joint training of the whole model
with E-FiLM as an upper bound, show what the freezing costs.
"""

from collections.abc import Sequence
from pathlib import Path

from speechbrain_emofilm.lobes.cosyvoice2.llm import CosyVoice2LM

import torch
from speechbrain.nnet.adapters import AdaptedModel, LoRA
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    mark_as_transfer,
    register_checkpoint_hooks,
)
from torch import nn

TRAININGS = ("frozen", "lora", "joint")


@register_checkpoint_hooks
class OpenBackbone(nn.Module):
    """Selection of the weights of a frozen language model to train.

    The language model is changed in place. A checkpoint of this module holds
    the weights that it selects, and no others. The speech head is trained
    and saved elsewhere.

    Arguments
    ---------
    llm : CosyVoice2LM
        Frozen language model with its pretrained weights.
    training : str
        Weights to train: none ("frozen"), low-rank adapters ("lora"), or all
        ("joint").
    rank : int
        Rank of the adapters.
    alpha : float
        The output of the adapters is scaled by alpha / rank.
    target_layers : list of str
        Layers of the Qwen2 model that get adapters; wildcards are allowed.

    Raises
    ------
    ValueError
        If `training` is unknown, or no layer matches `target_layers`.

    Example
    -------
    >>> qwen2 = dict(
    ...     vocab_size=40, hidden_size=16, intermediate_size=32,
    ...     num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    >>> llm = CosyVoice2LM(qwen2, speech_token_size=27)
    >>> backbone = OpenBackbone(llm, "lora", rank=2)
    >>> [tuple(weight.shape) for weight in backbone.opened.values()]
    [(2, 16), (16, 2), (2, 16), (8, 2)]
    """

    def __init__(
        self,
        llm: CosyVoice2LM,
        training: str = "frozen",
        rank: int = 8,
        alpha: float = 8.0,
        target_layers: Sequence[str] = ("*.q_proj", "*.v_proj"),
    ):
        super().__init__()
        if training not in TRAININGS:
            raise ValueError(
                f"The backbone's training is {training!r}: set it to "
                f"{', '.join(TRAININGS[:-1])} or {TRAININGS[-1]}."
            )
        self.llm = llm
        if training == "lora":
            self._adapt(rank, alpha, target_layers)
        elif training == "joint":
            llm.requires_grad_(True)

    def _adapt(
        self, rank: int, alpha: float, target_layers: Sequence[str]
    ) -> None:
        """Add adapters to the language model."""
        adapted = AdaptedModel(
            self.llm.llm,
            LoRA,
            target_layers=list(target_layers),
            adapter_kwargs={"rank": rank, "alpha": alpha},
        )
        if not adapted.replace_layers:
            raise ValueError(
                f"The backbone has no layer like {' or '.join(target_layers)}"
                " to adapt: name its layers in target_layers."
            )

    @property
    def opened(self) -> dict[str, nn.Parameter]:
        """Trained weights besides the speech head, by name in the model."""
        return {
            name: parameter
            for name, parameter in self.llm.named_parameters()
            if parameter.requires_grad and not name.startswith("llm_decoder.")
        }

    @mark_as_saver
    def save(self, path: str | Path) -> None:
        """Save the trained weights in a file."""
        torch.save({n: p.detach() for n, p in self.opened.items()}, path)

    @mark_as_transfer
    def load(self, path: str | Path) -> None:
        """Load trained weights from a file written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file holds other weights.
        """
        weights = torch.load(path, map_location="cpu", weights_only=True)
        opened = self.opened
        if {n: w.shape for n, w in weights.items()} != {
            n: p.shape for n, p in opened.items()
        }:
            raise ValueError(
                f"{path} holds {len(weights)} weights that do not fit the "
                f"{len(opened)} trained weights of this backbone: use the "
                "backbone_training and the options of the training that "
                "wrote it."
            )
        with torch.no_grad():
            for name, parameter in opened.items():
                parameter.copy_(weights[name])

    @mark_as_loader
    def recover(self, path: str | Path, end_of_epoch: bool) -> None:
        """Load trained weights to resume a training, like :meth:`load`."""
        del end_of_epoch
        self.load(path)
