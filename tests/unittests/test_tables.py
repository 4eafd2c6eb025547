"""CSV tables as people's editors and spreadsheet programs write them."""

from speechbrain_emofilm.dataio.tables import read_table, read_text

import pytest

COLUMNS = ("id", "text")


def table(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "list.csv"
    path.write_bytes(content.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_separators_are_recognised(
    tmp_path, encoding, separator, end
):
    lines = [separator.join(cells) for cells in (COLUMNS, ("a", "Café"))]
    path = table(tmp_path, end.join([*lines, ""]), encoding)
    assert read_table(path, COLUMNS) == [(2, {"id": "a", "text": "Café"})]


def test_the_header_decides_not_the_text(tmp_path):
    path = table(tmp_path, "id;text\na;well, well, well\n")
    assert read_table(path)[0][1]["text"] == "well, well, well"


def test_lines_are_those_of_the_file(tmp_path):
    path = table(tmp_path, 'id,text\n\na,"two\nlines"\nb,one\n')
    assert [line for line, _ in read_table(path)] == [3, 5]


def test_empty_cells_after_the_last_column_do_not_matter(tmp_path):
    path = table(tmp_path, "id,text,,\na,one,,\nb,two\n")
    rows = [row for _, row in read_table(path, COLUMNS)]
    assert rows == [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]


@pytest.mark.parametrize(
    "row, found",
    [("a,Add the sum, to the product", "3 cells"), ("a", "1 cells")],
)
def test_a_row_with_other_cells_is_refused_with_the_way_out(
    tmp_path, row, found
):
    path = table(tmp_path, f"id,text\n{row}\n")
    with pytest.raises(
        ValueError, match=f"list.csv line 2: {found} .*quote a text with commas"
    ):
        read_table(path, COLUMNS)


def test_missing_and_repeated_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="columns id; add text"):
        read_table(table(tmp_path, "id\na\n"), COLUMNS)
    with pytest.raises(ValueError, match="columns id, id; rename"):
        read_table(table(tmp_path, "id,id\na,b\n"))
    with pytest.raises(ValueError, match="columns none; add id, text"):
        read_table(table(tmp_path, ""), COLUMNS)


def test_unbalanced_quotation_marks_are_named_by_line(tmp_path):
    path = table(tmp_path, 'id,text\na,one\nb,"two\n')
    with pytest.raises(ValueError, match="list.csv line 3: the quotation"):
        read_table(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_another_encoding_is_named_with_the_way_out(tmp_path, encoding):
    path = table(tmp_path, "id,text\na,Café\n", encoding)
    with pytest.raises(ValueError, match="list.csv line .* save .* as UTF-8"):
        read_text(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv"):
        read_table(tmp_path / "none.csv")
