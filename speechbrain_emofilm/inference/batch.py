"""Synthesis of a whole list of texts into a folder.

A list is a text file with one text a line (empty lines are skipped), or a CSV
table with the columns ``id`` (or ``name``), ``text`` and, optionally,
``speaker``, ``seed``, ``emotion`` (of words outside marks), ``unmarked``,
``intensity``, ``guidance``, ``instruction``, ``prompting``, ``speed``,
``candidates`` and ``retry``; an empty cell takes the common setting. The whole
list is checked before anything is spoken.

The folder gets one wav file for each item, named by its id (``0001``, ``0002``
... without ids), and ``items.jsonl`` with one line of JSON for each: its text,
duration, word times and what was asked for. A run that was stopped goes on
where it was: items whose file and line exist are kept.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechbrain_emofilm.dataio.tables import read_table, read_text
from speechbrain_emofilm.utils.files import atomic_path

#: File of the folder with the word times of every item.
ITEMS_FILE = "items.jsonl"
#: Suffixes of tables; every other file is one of lines.
TABLE_SUFFIXES = (".csv", ".tsv")
#: Slowest and fastest speech that can be asked for, relative to the model's.
SPEEDS = (0.5, 2.0)
#: Digits of the number that names an item without an id.
_DIGITS = 4
#: Settings of models with a word pointer; noted with an item only if given.
_OF_POINTERS = ("candidates", "retry")
_FORBIDDEN_IN_NAMES = '/\\:*?"<>|\0'


@dataclass(frozen=True)
class Settings:
    """What is asked for besides the text.

    Arguments are those of
    :meth:`~speechbrain_emofilm.inference.synthesizer.EmoFiLMSynthesizer.synthesize`.

    Arguments
    ---------
    speaker : str, optional
        Name of the speaker.
    seed : int
        Seed of the sampling.
    guidance : float
        Strength of the emotions.
    unmarked : str
        Emotion of words outside marks.
    emotion : str, optional
        Emotion of words outside marks, instead of `unmarked`.
    intensity : float, optional
        Intensity of marks that give none.
    instruction : str, optional
        How to speak.
    prompting : str, optional
        What the language model hears of the voice.
    speed : float, optional
        Speed of the speech, 0.5 to 2; the model's own if None.
    candidates, retry : int, optional
        Readings to choose from, and further rounds; the model's own if None.

    Raises
    ------
    ValueError
        If a number is out of range.

    Example
    -------
    >>> Settings(speed=3.0)
    Traceback (most recent call last):
    ...
    ValueError: speed is 3.0: give a number from 0.5 to 2.
    """

    speaker: str | None = None
    seed: int = 0
    guidance: float = 1.0
    unmarked: str = "unlabelled"
    emotion: str | None = None
    intensity: float | None = None
    instruction: str | None = None
    prompting: str | None = None
    speed: float | None = None
    candidates: int | None = None
    retry: int | None = None

    def __post_init__(self):
        for name, low, high in (
            ("guidance", 0.0, math.inf),
            ("intensity", 0.0, 1.0),
            ("speed", *SPEEDS),
            ("candidates", 1, math.inf),
            ("retry", 0, math.inf),
        ):
            value = getattr(self, name)
            within = value is None or low <= value <= high
            if not within or value == math.inf:
                allowed = (
                    f"{low:g} or more"
                    if high == math.inf
                    else f"{low:g} to {high:g}"
                )
                raise ValueError(
                    f"{name} is {value}: give a number "
                    f"{'of' if high == math.inf else 'from'} {allowed}."
                )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``synthesize``, without speaker and seed."""
        options = asdict(self)
        del options["speaker"], options["seed"]
        # A fake or an older synthesizer need not know these.
        newer = ("emotion", "speed", *_OF_POINTERS)
        return {
            name: value
            for name, value in options.items()
            if value is not None or name not in newer
        }


@dataclass(frozen=True)
class Item:
    """One text of a list.

    Arguments
    ---------
    id : str
        Name of its wav file, without suffix.
    text : str
        Text with emotion marks.
    settings : Settings
        What is asked for besides.
    place : str
        File and line, for messages.
    """

    id: str
    text: str
    settings: Settings
    place: str


class BadItems(ValueError):
    """Rows of a list that cannot be spoken.

    Arguments
    ---------
    problems : list of str
        One sentence for each, which names the file and the line.
    """

    def __init__(self, problems: Sequence[str]):
        super().__init__(" ".join(problems))
        self.problems = list(problems)


def read_items(path: str | Path, common: Settings) -> list[Item]:
    r"""Read a list of texts.

    Arguments
    ---------
    path : str or Path
        Text file of lines, or table (``.csv``, ``.tsv``).
    common : Settings
        Settings of every row that does not give its own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty or has another encoding or unknown columns.
    BadItems
        If rows are invalid.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("id,text,seed\na,We won!,3\nb,He left.,\n")
    >>> [(i.id, i.text, i.settings.seed) for i in read_items(path, Settings())]
    [('a', 'We won!', 3), ('b', 'He left.', 0)]
    """
    path = Path(path)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return split_lines(read_text(path), common, str(path))
    rows = read_table(path, ["text"])
    columns = list(rows[0][1]) if rows else []
    known = {"id", "name", "text", *asdict(common)}
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise ValueError(
            f"{path} line 1: the column {unknown[0]!r} is not known; rename "
            f"it to one of {', '.join(sorted(known))}, or delete it."
        )
    names = [name for name in ("id", "name") if name in columns]
    if len(names) == 2:
        raise ValueError(
            f"{path} line 1: the columns id and name both name the files; "
            "delete one."
        )
    items, problems = [], []
    for number, (line, row) in enumerate(rows, start=1):
        place = f"{path} line {line}"
        try:
            name = row[names[0]].strip() if names else _number(number, rows)
            if not row["text"].strip():
                raise ValueError("the text is empty; give a word, or no row.")
            settings = _row_settings(row, common)
            items.append(Item(_file_name(name), row["text"], settings, place))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return _checked(items, problems, str(path))


def split_lines(text: str, common: Settings, source: str) -> list[Item]:
    r"""Read the texts of a file of lines.

    Arguments
    ---------
    text : str
        Content of the file; lines without a character are skipped.
    common : Settings
        Settings of every line.
    source : str
        Name of the file, for messages.

    Example
    -------
    >>> items = split_lines("We won!\n\nHe left.\n", Settings(), "a.txt")
    >>> [(item.id, item.text, item.place) for item in items]
    [('0001', 'We won!', 'a.txt line 1'), ('0002', 'He left.', 'a.txt line 3')]
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    items = [
        Item(_number(index, lines), line, common, f"{source} line {number}")
        for index, (number, line) in enumerate(lines, start=1)
    ]
    return _checked(items, [], source)


def _number(index: int, items: Sequence) -> str:
    """Name the item of this index, counted from 1."""
    return f"{index:0{max(_DIGITS, len(str(len(items))))}d}"


def _file_name(name: str) -> str:
    """Return an id that is safe as the name of a file."""
    unsafe = name.startswith(".") or any(c in _FORBIDDEN_IN_NAMES for c in name)
    if not name or unsafe or not name.isprintable():
        raise ValueError(
            f"the id {name!r} cannot name a file; use letters, digits, _ and -."
        )
    return name


def _row_settings(row: Mapping[str, str], common: Settings) -> Settings:
    """Return the settings of a row of a table."""
    kinds: dict[str, Callable[[str], Any]] = {
        "seed": int,
        "candidates": int,
        "retry": int,
        "guidance": float,
        "intensity": float,
        "speed": float,
    }
    settings = asdict(common)
    for name in settings:
        cell = row.get(name, "").strip()
        if not cell:
            continue
        try:
            settings[name] = kinds.get(name, str)(cell)
        except ValueError:
            kind = "an integer" if kinds[name] is int else "a number"
            raise ValueError(f"{name} is {cell!r}; give {kind}.") from None
    return Settings(**settings)


def _checked(items: list[Item], problems: list[str], source: str) -> list[Item]:
    """Return the items; refuse none, or ids that occur twice."""
    if not items and not problems:
        raise ValueError(f"{source} has no text: write one text a line.")
    # Some file systems take upper and lower case for the same.
    places: dict[str, str] = {}
    for item in items:
        first = places.setdefault(item.id.lower(), item.place)
        if first != item.place:
            problems.append(
                f"{item.place}: the id {item.id!r} is already that of "
                f"{first}; give every item its own."
            )
    if problems:
        raise BadItems(problems)
    return items


def check_items(synthesizer, items: Sequence[Item]) -> None:
    """Refuse items that a model cannot speak.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    items : list of Item
        What it is to speak.

    Raises
    ------
    BadItems
        If there are any.
    """
    problems = []
    for item in items:
        settings = item.settings
        try:
            if settings.speaker not in (None, *synthesizer.speakers):
                raise ValueError(
                    f"the speaker {settings.speaker!r} is not known; choose "
                    f"one of {', '.join(synthesizer.speakers)}."
                )
            # The reading that comes before any synthesis.
            synthesizer.plan(
                item.text,
                settings.unmarked,
                settings.emotion,
                settings.intensity,
            )
        except ValueError as error:
            problems.append(f"{item.place}: {error}")
    if problems:
        raise BadItems(problems)


class OutputFolder:
    """Folder of a list's wav files and their ``items.jsonl``.

    Arguments
    ---------
    folder : str or Path
        Created if missing.
    model : str
        Model that speaks, noted with each item.
    overwrite : bool
        Whether to speak again what exists.

    Raises
    ------
    OSError
        If the folder cannot be made.
    """

    def __init__(self, folder: str | Path, model: str, overwrite: bool = False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = model
        self.overwrite = overwrite
        self._records = _read_records(self.folder / ITEMS_FILE)

    def wav(self, item: Item) -> Path:
        """Return the wav file of an item."""
        return self.folder / f"{item.id}.wav"

    def missing(self, items: Sequence[Item]) -> list[Item]:
        """Return the items that are still to be spoken.

        Raises
        ------
        BadItems
            If a file exists that was made from something else.
        """
        if self.overwrite:
            return list(items)
        missing, problems = [], []
        for item in items:
            record = self._records.get(item.id)
            if not self.wav(item).exists():
                missing.append(item)
            elif record is None or record.get("request") != self._request(item):
                problems.append(
                    f"{item.place}: {self.wav(item)} exists, but was not made "
                    "from this text, model and settings; delete it, choose "
                    "another folder, or overwrite all with --overwrite."
                )
        if problems:
            raise BadItems(problems)
        return missing

    def write(self, item: Item, result) -> None:
        """Write the wave and the word times of an item."""
        import soundfile

        with atomic_path(self.wav(item)) as temporary:
            soundfile.write(
                temporary, result.wav.numpy(), result.sample_rate, "PCM_16"
            )
        self._records[item.id] = record = {
            "id": item.id,
            "file": self.wav(item).name,
            "text": result.text,
            "seconds": round(len(result.wav) / result.sample_rate, 4),
            "words": [
                {
                    "text": word.text,
                    "start": round(word.start, 4),
                    "end": round(word.end, 4),
                }
                for word in result.words
            ],
            "word_times": result.word_times_source,
            "request": self._request(item),
        }
        # Appended at once, so that a run that is stopped loses nothing.
        with open(self.folder / ITEMS_FILE, "a", encoding="utf-8") as file:
            file.write(_json_line(record))

    def finish(self, items: Sequence[Item]) -> None:
        """Sort ``items.jsonl``: this list's items first, one line each."""
        own = [item.id for item in items if item.id in self._records]
        others = self._records.keys() - set(own)
        with atomic_path(self.folder / ITEMS_FILE) as temporary:
            Path(temporary).write_text(
                "".join(
                    _json_line(self._records[name])
                    for name in (*own, *sorted(others))
                ),
                encoding="utf-8",
            )

    def _request(self, item: Item) -> dict[str, Any]:
        settings = {
            name: value
            for name, value in asdict(item.settings).items()
            if value is not None or name not in _OF_POINTERS
        }
        return {"model": self.model, "text": item.text, **settings}


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Read items by id; a line that was cut off is as if not written."""
    records: dict[str, dict[str, Any]] = {}
    if not path.exists():
        return records
    for line in read_text(path).splitlines():
        try:
            record = json.loads(line)
            records[record["id"]] = record
        except (ValueError, KeyError, TypeError):
            continue
    return records


def speak_items(
    synthesizer, items: Sequence[Item], batch_size: int = 16
) -> Iterator[tuple[Item, Any]]:
    """Synthesize items, those of the same settings together.

    Arguments
    ---------
    synthesizer : EmoFiLMSynthesizer
        The model.
    items : list of Item
        What it is to speak.
    batch_size : int
        Number of texts that are synthesized together.

    Yields
    ------
    item : Item
        The item.
    result : SynthesisResult or Exception
        What was synthesized; if that failed also without the others of the
        batch, the error.
    """

    def key(item: Item) -> str:
        return repr(item.settings.arguments())

    for _, group in itertools.groupby(sorted(items, key=key), key):
        same = list(group)
        for start in range(0, len(same), batch_size):
            batch = same[start : start + batch_size]
            try:
                results = _speak(synthesizer, batch)
            except (ValueError, RuntimeError, MemoryError):
                for item in batch:
                    yield item, _speak_alone(synthesizer, item)
            else:
                yield from zip(batch, results)


def _speak(synthesizer, batch: Sequence[Item]) -> list:
    """Synthesize items that share their settings."""
    default = synthesizer.speakers[0]
    return synthesizer.synthesize(
        [item.text for item in batch],
        speaker=[item.settings.speaker or default for item in batch],
        seed=[item.settings.seed for item in batch],
        batch_size=len(batch),
        **batch[0].settings.arguments(),
    )


def _speak_alone(synthesizer, item: Item) -> Any:
    """Synthesize one item; return the error if that fails."""
    try:
        return _speak(synthesizer, [item])[0]
    except (ValueError, RuntimeError, MemoryError) as error:
        return error
