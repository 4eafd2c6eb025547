"""Files of measured prosody: pitch, pace and level of every word.

A file is JSON by utterance id. ``key`` changes with everything that the values
depend on::

    {"0011_000351": {"key": "5be1...",
                     "words": [{"pitch": 2.1, "pace": 0.92, "level": 3.4},
                               {"pitch": null, "pace": 1.0, "level": 1.2}]}}

Values are in natural units relative to the speaker's neutral reading, see
:mod:`speechbrain_emofilm.processing.prosody_axes`; null is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from speechbrain_emofilm.processing.prosody_axes import AXES
from speechbrain_emofilm.utils.files import read_json, write_json


@dataclass(frozen=True)
class WordProsody:
    """Measured prosody of an utterance.

    Arguments
    ---------
    key : str
        Hash of everything that the values depend on.
    words : list of dict
        Axis to value, or None, of each word.
    """

    key: str
    words: Sequence[Mapping[str, float | None]]


def write_word_prosody(
    path: str | Path, prosody: Mapping[str, WordProsody]
) -> None:
    """Write the prosody of utterances.

    Arguments
    ---------
    path : str or Path
        File to write.
    prosody : dict
        Utterance id to prosody.
    """
    write_json(path, {name: asdict(own) for name, own in prosody.items()})


def read_word_prosody(path: str | Path) -> dict[str, WordProsody]:
    """Read and check the prosody of utterances.

    Arguments
    ---------
    path : str or Path
        File of :func:`write_word_prosody`.

    Returns
    -------
    dict
        Utterance id to prosody.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "word_prosody.json"
    >>> own = WordProsody("1", [{"pitch": None, "pace": 0.9, "level": 1.0}])
    >>> write_word_prosody(path, {"a": own})
    >>> read_word_prosody(path) == {"a": own}
    True
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} does not exist: axes are learned from measured prosody; "
            "run measure_prosody.py first."
        )
    content = read_json(path)
    prosody = {}
    try:
        for name, entry in content.items():
            prosody[name] = WordProsody(str(entry["key"]), list(entry["words"]))
            for word in entry["words"]:
                for axis, value in word.items():
                    low, high = AXES[axis].low, AXES[axis].high
                    if value is not None and not low <= value <= high:
                        raise ValueError(f"{axis} {value} of {name}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold the prosody of words ({error!r}): delete it "
            "and run measure_prosody.py again."
        ) from error
    return prosody
