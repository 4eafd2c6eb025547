"""Files of measured prosody."""

from speechbrain_emofilm.dataio.word_prosody import read_word_prosody
from speechbrain_emofilm.utils.files import write_json

import pytest


def test_a_missing_file_names_the_step_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="run measure_prosody.py"):
        read_word_prosody(tmp_path / "word_prosody.json")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"a": 1},
        {"a": {"key": "1"}},
        {"a": {"key": "1", "words": [1]}},
        {"a": {"key": "1", "words": [{"pich": 1.0}]}},
        {"a": {"key": "1", "words": [{"pitch": "x"}]}},
        {"a": {"key": "1", "words": [{"pace": 7.0}]}},
    ],
)
def test_another_file_is_refused_with_the_correction(tmp_path, content):
    path = tmp_path / "word_prosody.json"
    write_json(path, content)
    with pytest.raises(ValueError, match="delete it and run measure_prosody"):
        read_word_prosody(path)
