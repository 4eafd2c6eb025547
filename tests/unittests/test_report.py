"""The report is one page that needs nothing else."""

import base64
import io
import re

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.evaluation.report import (
    AskedWord,
    Estimate,
    Finding,
    Picture,
    Report,
    Sample,
    Score,
    Take,
    audio_uri,
    draw_take,
    place_words,
    write_report,
)
from speechbrain_emofilm.utils.colors import emotion_colors

import numpy as np
import pytest
import soundfile
from PIL import Image

EMOTIONS = ["neutral", "happy"]
WAV = 0.5 * np.sin(2 * np.pi * 200 * np.arange(12000) / 24000)
WORDS = [Word("We", 0.0, 0.2), Word("won", 0.2, 0.5)]


def a_sample(text="won"):
    asked = [AskedWord("We"), AskedWord(text, "happy", 0.8)]
    takes = [
        Take("backbone", WAV, 24000, WORDS),
        Take("efilm", WAV, 24000, [], "its words were not found"),
    ]
    return Sample(f"“We {text}”", asked, takes)


def a_report(**changes):
    score = Score(
        "Word error rate",
        "Lower is better.",
        {"efilm": Estimate(0.25, 0.1, 1.5)},
        "{:.1%}",
    )
    content = {
        "title": "A test",
        "introduction": ["Listen."],
        "systems": {"backbone": "Floor", "efilm": "E-FiLM"},
        "emotions": EMOTIONS,
        "scores": [score],
        "samples": [a_sample(), a_sample("lost")],
        "pictures": [Picture("Curves", b"\x89PNG", "All of them.")],
        "details": {"Options": {"seed": 0}},
        "note": "Rule-made prosody.",
    }
    return Report(**content | changes)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(path, a_report()).read_text()


def packed(page, kind):
    found = re.findall(rf'src="data:{kind};base64,([^"]+)"', page)
    return [base64.b64decode(content) for content in found]


def test_every_take_can_be_played(page):
    sounds = packed(page, "audio/flac")
    assert len(sounds) == 4
    wav, sample_rate = soundfile.read(io.BytesIO(sounds[0]))
    assert sample_rate == 24000
    np.testing.assert_allclose(wav, WAV, atol=1e-4)


def test_every_take_has_a_picture(page):
    pictures = packed(page, "image/png")
    assert len(pictures) == 5  # and one of all
    assert Image.open(io.BytesIO(pictures[0])).width > 400


def test_the_page_needs_nothing_else(page):
    addresses = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert all(address.startswith("data:") for address in addresses)
    assert "@import" not in page and "url(" not in page


def test_scores_stand_with_their_intervals(page):
    text = re.sub(r"\s+", " ", page)
    assert "25.0% <small>10.0% – 150.0% </small>" in text
    assert "left: 10.0%; width: 90.0%" in text  # a bar ends with its track


def test_a_system_without_a_score_has_an_empty_cell(page):
    assert re.search(r"<td></td>", page)


def test_notes_and_options_are_told(page):
    for words in (
        "Rule-made prosody.",
        "its words were not found",
        "<dt>seed</dt><dd>0</dd>",
    ):
        assert words in page


def test_text_is_not_taken_for_markup(tmp_path):
    report = a_report(samples=[a_sample("<script>x</script>")])
    page = write_report(tmp_path / "report.html", report).read_text()
    assert "<script>" not in page


def test_a_page_without_samples_can_be_written(tmp_path):
    report = a_report(samples=[], scores=[], pictures=[])
    page = write_report(tmp_path / "report.html", report).read_text()
    assert "<audio" not in page


def test_sound_is_smaller_than_a_wav():
    assert len(audio_uri(WAV, 24000)) < 2 * len(WAV) * 4 / 3


def test_the_emotion_asked_colours_the_picture():
    colors = emotion_colors(EMOTIONS)
    sample = a_sample()
    plain = Sample(
        sample.title, [AskedWord("We"), AskedWord("won")], sample.takes
    )

    def has_color(sample):
        png = draw_take(sample, sample.takes[0], colors)
        pixels = np.array(Image.open(io.BytesIO(png)).convert("RGBA"))
        strip = pixels[: len(pixels) // 8].reshape(-1, 4).astype(int)
        shades = strip[strip[:, 3] > 250, :3]
        return bool((np.ptp(shades, axis=1) > 60).any())

    assert has_color(sample)
    assert not has_color(plain)


def test_no_word_is_written_over_another():
    rng = np.random.default_rng(0)
    centres = np.sort(rng.uniform(0, 3, 40))
    widths = rng.uniform(0.05, 0.3, 40)
    places = place_words(centres, widths)
    for line in (0, 1):
        on_line = [
            (start, start + width)
            for (start, own), width in zip(places, widths)
            if own == line
        ]
        assert len(on_line) > 10
        assert all(a[1] < b[0] for a, b in zip(on_line, on_line[1:]))


def test_words_with_room_stand_where_they_are_spoken():
    places = place_words([1, 2, 3], [0.5, 0.5, 0.5])
    assert places == [(0.75, 0), (1.75, 0), (2.75, 0)]


def test_a_take_may_have_been_asked_for_something_else():
    sample = a_sample()
    neutral = [AskedWord("We", "neutral"), AskedWord("won", "neutral")]
    other = Take("efilm", WAV, 24000, WORDS, asked=neutral)
    colors = emotion_colors(EMOTIONS)
    as_sample = draw_take(sample, sample.takes[0], colors)
    assert draw_take(sample, other, colors) != as_sample


def test_a_configuration_is_shown_as_it_is_written(tmp_path):
    report = a_report(details={"Training": "lr: 1\nseed: <2>\n"})
    page = write_report(tmp_path / "report.html", report).read_text()
    assert "lr: 1\nseed: &lt;2&gt;\n</pre>" in page


def test_colours_go_round_for_a_long_taxonomy():
    colors = emotion_colors([str(i) for i in range(12)])
    assert len(colors) == 12
    assert colors["9"] == colors["0"]


def test_findings_are_a_table_below_the_scores(tmp_path):
    findings = [
        Finding("E-FiLM", "flat prosody", "found", ["a 1 below 2"], ["lr"]),
        Finding("E-FiLM", "noisy transitions", "untested"),
    ]
    path = write_report(tmp_path / "report.html", a_report(findings=findings))
    table = path.read_text().split("<h2>Diagnosis</h2>")[1].split("</table>")[0]
    text = " ".join(re.sub("<[^>]+>", " ", table).split())
    assert "E-FiLM flat prosody found a 1 below 2 lr" in text
    assert "E-FiLM noisy transitions untested" in text
    plain = write_report(tmp_path / "plain.html", a_report()).read_text()
    assert "Diagnosis" not in plain
