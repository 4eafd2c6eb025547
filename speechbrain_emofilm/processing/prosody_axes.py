"""Axes of a word's prosody that can be asked for: pitch, pace and level.

All values are relative to the same speaker's neutral reading of the same
sentence, in natural units:

* ``pitch``: semitones (st) of the mean fundamental frequency;
* ``pace``: factor on the rate of speech, the word's duration in the neutral
  reading divided by its own; above 1 is faster;
* ``level``: decibels (dB).

A model computes with steps that add up: semitones, octaves of the pace (its
binary logarithm) and decibels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ProsodyAxis:
    """One axis of prosody.

    Arguments
    ---------
    name : str
        Its name.
    unit : str
        Unit of its values; ``"x"`` for a factor.
    low : float
        Lowest value that can be asked for.
    high : float
        Highest value that can be asked for.
    neutral : float
        Value of the neutral reading.
    scale : float
        Change, in steps that add up, that a model sees as 1: about the
        standard deviation over the words of emotional speech.

    Example
    -------
    >>> pace = AXES["pace"]
    >>> pace.to_steps(0.5), pace.from_steps(1.0), pace.unit
    (-1.0, 2.0, 'x')
    """

    name: str
    unit: str
    low: float
    high: float
    neutral: float
    scale: float

    @property
    def is_factor(self) -> bool:
        """Whether its values are factors, not differences."""
        return self.unit == "x"

    def to_steps(self, value: float) -> float:
        """Convert a value in natural units to steps that add up."""
        return math.log2(value) if self.is_factor else float(value)

    def from_steps(self, value: float) -> float:
        """Convert steps that add up to natural units."""
        return 2.0**value if self.is_factor else float(value)

    def describe(self) -> dict[str, str | float]:
        """Return what a user of a model has to know, for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "min": self.low,
            "max": self.high,
            "neutral": self.neutral,
        }


#: All axes by name.
AXES = {
    axis.name: axis
    for axis in (
        ProsodyAxis("pitch", "st", -12.0, 12.0, 0.0, 4.0),
        ProsodyAxis("pace", "x", 0.5, 2.0, 1.0, 0.4),
        ProsodyAxis("level", "dB", -12.0, 12.0, 0.0, 5.0),
    )
}

#: What a stressed word of an English sentence has: the pitch accent (here two
#: semitones above the neutral reading), a longer duration (a quarter) and a
#: higher level (3 dB), the three correlates of accent that phonetics agrees on
#: (Fry 1958; Lieberman 1960), at a size that is clear and not yet emphatic.
STRESS: Mapping[str, float] = {"pitch": 2.0, "pace": 0.8, "level": 3.0}


def check_axes(names: Sequence[str]) -> list[str]:
    """Check the names of a model's axes.

    Arguments
    ---------
    names : list of str
        Some of :data:`AXES`, each at most once.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    ValueError
        If a name is unknown or occurs twice.

    Example
    -------
    >>> check_axes(["pitch", "level"])
    ['pitch', 'level']
    """
    names = list(names)
    for name in names:
        if name not in AXES or names.count(name) > 1:
            raise ValueError(
                f"axes: {names} is not possible; choose some of "
                f"{', '.join(AXES)}, each once."
            )
    return names


def axes_tensor(
    words: Sequence[Mapping[str, float | None] | None], axes: Sequence[str]
) -> torch.Tensor:
    """Convert values in natural units to a model's input.

    Arguments
    ---------
    words : list of dict
        Axis to value of each of the W words. An axis that is not asked for
        is left out or None.
    axes : list of str
        The model's A axes.

    Returns
    -------
    torch.Tensor
        Values in steps that add up, NaN where nothing is asked, shape (W, A).

    Example
    -------
    >>> axes_tensor([{"pace": 2.0}, None], ["pitch", "pace"])
    tensor([[nan, 1.],
            [nan, nan]])
    """
    rows = [
        [
            math.nan
            if (value := (word or {}).get(name)) is None
            else AXES[name].to_steps(value)
            for name in axes
        ]
        for word in words
    ]
    return torch.tensor(rows).reshape(len(rows), len(axes))
