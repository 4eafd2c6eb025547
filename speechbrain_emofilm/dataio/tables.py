"""Text files and CSV tables as editors and spreadsheet programs write them."""

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

PathLike = str | Path

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_text(path: PathLike) -> str:
    """Read a text file in UTF-8 or, with a byte order mark, UTF-16.

    Arguments
    ---------
    path : str or Path
        File to read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another encoding; the message names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_text("We won.", encoding="utf-16")
    >>> read_text(path)
    'We won.'
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path.")
    content = Path(path).read_bytes()
    encoding = "utf-8"
    for mark, name in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            encoding = name
    position = content.find(b"\0") if encoding.startswith("utf-8") else -1
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        position = error.start
    if position >= 0:
        line = content.count(b"\n", 0, position) + 1
        raise ValueError(
            f"{path} line {line}: the text is not in UTF-8; save the file as "
            "UTF-8 (spreadsheet programs: 'CSV UTF-8')."
        )
    return text


def read_table(
    path: PathLike, required: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    r"""Read a CSV table with a header.

    The separator (comma, semicolon or tab) is recognised by the header.
    Empty lines are skipped, and so are empty cells after the last column.

    Arguments
    ---------
    path : str or Path
        File to read, see :func:`read_text`.
    required : sequence of str
        Columns that the table must have.

    Returns
    -------
    list of (int, dict)
        Line number of each row, and column name to cell.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a row has more or fewer cells than columns, or
        the file has another encoding; the message names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text('id;text\na;"He left; we won."\n')
    >>> read_table(path, ["id", "text"])
    [(2, {'id': 'a', 'text': 'He left; we won.'})]
    """
    lines = list(io.StringIO(read_text(path), newline=""))
    headers = {
        separator: _cells(lines[0] if lines else "", separator)
        for separator in _SEPARATORS
    }
    separator, columns = max(
        headers.items(), key=lambda h: (len({*h[1]} & {*required}), len(h[1]))
    )
    missing = [name for name in required if name not in columns]
    remedy = f"add {', '.join(missing)}" if missing else ""
    if len({*columns}) != len(columns):
        remedy = "rename those that occur twice"
    if remedy:
        raise ValueError(
            f"{path} line 1: the table has the columns "
            f"{', '.join(columns) or 'none'}; {remedy}."
        )
    reader = csv.reader(lines[1:], delimiter=separator, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    line = 2
    try:
        for cells in reader:
            surplus = cells[len(columns) :]
            if any(surplus) or 0 < len(cells) < len(columns):
                raise ValueError(
                    f"{path} line {line}: {len(cells)} cells for the "
                    f"{len(columns)} columns {', '.join(columns)}; quote a "
                    f'text with {_SEPARATORS[separator]} ("..."), and leave '
                    "no cell out."
                )
            if cells:
                rows.append((line, dict(zip(columns, cells))))
            line = reader.line_num + 2
    except csv.Error as error:
        raise ValueError(
            f"{path} line {line}: the quotation marks are unbalanced "
            f"({error}); double those inside a quoted text."
        ) from error
    return rows


def _cells(header: str, separator: str) -> list[str]:
    """Split the header into names without spaces, trailing empty ones cut."""
    names = next(csv.reader([header.rstrip()], delimiter=separator), [])
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    return names
