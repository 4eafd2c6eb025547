"""Items that cannot be used: listed, and an error above a share."""

from speechbrain_emofilm.utils.files import read_json
from speechbrain_emofilm.utils.skipped import report_skipped

import pytest

SKIPPED = {"a1": "a1.wav: it is silent.", "a2": "a2.wav: it is empty."}


def test_few_are_listed_and_logged(tmp_path, caplog):
    listing = tmp_path / "skipped.json"
    report_skipped(SKIPPED, 200, 0.01, listing)
    assert read_json(listing) == SKIPPED
    for words in ("2 of 200 utterances", "a1.wav: it is silent.", "skipped."):
        assert words in caplog.text


def test_too_many_are_listed_and_an_error(tmp_path):
    listing = tmp_path / "skipped.json"
    with pytest.raises(
        ValueError, match="2 of 199 voices .*a1.* max_bad_share = 0.01"
    ):
        report_skipped(SKIPPED, 199, 0.01, listing, "voices")
    assert read_json(listing) == SKIPPED


def test_an_old_list_is_emptied_where_nothing_is_skipped(tmp_path, caplog):
    listing = tmp_path / "skipped.json"
    report_skipped(SKIPPED, 2, 1, listing)
    caplog.clear()
    report_skipped({}, 2, 0, listing)
    assert read_json(listing) == {} and not caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_and_1_is_an_error(tmp_path, share):
    with pytest.raises(ValueError, match=f"max_bad_share: {share}"):
        report_skipped({}, 2, share, tmp_path / "skipped.json")
