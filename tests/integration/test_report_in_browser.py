"""A browser opens the report from disk, plays its sound, draws its pictures.

Needs Chromium (``apt install chromium``), and runs in addition where it is.
"""

import json
import re
import subprocess
from html import unescape

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.evaluation.report import (
    AskedWord,
    Estimate,
    Report,
    Sample,
    Score,
    Take,
    write_report,
)
from speechbrain_emofilm.utils.colors import emotion_colors

import numpy as np
import pytest
from PIL import Image

from chromium import BROWSER, DRIVER, browsing  # isort: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")

SECONDS = 0.5
#: Writes what the page has become into the page itself, for --dump-dom.
PROBE = """
<pre id="probe"></pre>
<script>
const sounds = [...document.querySelectorAll("audio")];
const loaded = sounds.map(sound => new Promise(done => {
  sound.onloadedmetadata = () => done(sound.duration);
  sound.onerror = () => done(null);
  sound.load();
}));
for (const sound of sounds) sound.preload = "auto";
for (const image of document.images) image.loading = "eager";
Promise.all([
  Promise.all(loaded),
  Promise.all([...document.images].map(image => image.decode())),
]).then(([durations]) => {
  const root = document.documentElement;
  document.getElementById("probe").textContent = JSON.stringify({
    durations: durations,
    images: [...document.images].map(image => image.naturalWidth),
    overflow: root.scrollWidth - root.clientWidth,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of four takes, as evaluate.py writes it."""
    wav = 0.5 * np.sin(np.arange(round(SECONDS * 24000)) / 20)
    words = [Word("We", 0.05, 0.1), Word("won", 0.1, 0.4)]
    systems = {"backbone": "Frozen backbone (floor)", "efilm": "E-FiLM"}
    asked = [AskedWord("We", "neutral"), AskedWord("won", "happy", 0.8)]
    takes = [Take(system, wav, 24000, words) for system in systems]
    estimates = dict.fromkeys(systems, Estimate(0.5, 0.4, 0.6))
    return write_report(
        tmp_path_factory.mktemp("page") / "report.html",
        Report(
            "A test",
            ["Listen."],
            systems,
            ["neutral", "happy"],
            [Score("Word error rate", "Lower is better.", estimates)],
            [Sample("We won", asked, takes)] * 2,
        ),
    )


def browse(page, tmp_path, *options):
    """Opens a page without a network; what the browser prints."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        *options,
        page.as_uri(),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("width", [400, 1280])
def test_sound_loads_and_pictures_are_drawn(page, tmp_path, width):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text() + PROBE)
    dom = browse(
        probed,
        tmp_path,
        f"--window-size={width},900",
        "--timeout=60000",
        "--dump-dom",
    )
    found = re.search(r'<pre id="probe">(.+?)</pre>', dom, re.DOTALL)
    assert found, "the page's sound or pictures did not load"
    state = json.loads(unescape(found[1]))
    assert state["durations"] == pytest.approx([SECONDS] * 4, abs=0.05)
    assert len(state["images"]) == 4 and min(state["images"]) > 400
    assert state["overflow"] <= 0


def test_the_page_is_not_blank(page, tmp_path):
    picture = tmp_path / "page.png"
    browse(
        page,
        tmp_path,
        "--window-size=1280,2000",
        "--hide-scrollbars",
        f"--screenshot={picture}",
    )
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (2000, 1280, 3)
    # Spectrograms are dark, on a light page.
    assert (pixels.max(-1) < 60).mean() > 0.02
    assert (pixels.min(-1) > 200).mean() > 0.3


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    """The page of nine systems, open in a browser that can be asked."""
    pytest.importorskip("selenium")
    if DRIVER is None:
        pytest.skip("no driver of Chromium here")
    systems = {f"s{i}": f"E-FiLM, variant number {i}" for i in range(9)}
    estimates = dict.fromkeys(systems, Estimate(0.5, 0.4, 0.6))
    wav = 0.5 * np.sin(np.arange(24000) / 20)
    words = [Word("We", 0.0, 0.5), Word("won", 0.5, 1.0)]
    asked = [AskedWord("We", "neutral"), AskedWord("won", "happy", 0.8)]
    path = write_report(
        tmp_path_factory.mktemp("wide") / "report.html",
        Report(
            "A test",
            [],
            systems,
            ["neutral", "happy"],
            [Score("Word error rate", "Lower is better.", estimates)],
            [Sample("We won", asked, [Take("s0", wav, 24000, words)])],
        ),
    )
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        browser.size(1300, 900)
        browser.driver.get(path.as_uri())
        yield browser


def test_a_wide_table_stays_on_the_page(window):
    wide = (
        "const box = document.querySelector('.scores').parentElement;"
        "return [box.scrollWidth - box.clientWidth,"
        "box.getBoundingClientRect().right - innerWidth,"
        "document.documentElement.scrollWidth - innerWidth]"
    )
    assert max(window.run(wide)) <= 0
    window.size(400, 900)
    in_box, *on_page = window.run(wide)
    assert in_box > 0 and max(on_page) <= 0
    window.size(1300, 900)


def test_the_spoken_word_lights_up_in_its_colour(window):
    red, green, blue = bytes.fromhex(
        emotion_colors(["neutral", "happy"])["happy"][1:]
    )
    assert f"rgba({red}, {green}, {blue}, " in window.run(
        "return getComputedStyle(document.querySelectorAll('.words span')[1])"
        ".backgroundImage"
    )
    window.run("document.querySelector('audio').play()")
    for word in ("We", "won"):
        assert window.wait(
            "const lit = document.querySelector('.words .lit');"
            f"return lit && lit.textContent === '{word}'"
        )
    window.wait("return document.querySelector('audio').ended")
    window.wait("return !document.querySelector('.words .lit')")
