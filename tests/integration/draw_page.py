"""Draws the README's picture of the page of ``emofilm serve``.

``python tests/integration/draw_page.py docs/serve.png`` starts the server with
the shipped model and Chromium, and lets both takes be spoken.
"""

import sys
import tempfile
from pathlib import Path

from speechbrain_emofilm.serve.app import find_parts

from PIL import Image

from chromium import browsing  # isort: skip
from model_server import serving_model, shipped_model  # isort: skip

TEXT = (
    "<happy>We won!</> But <surprise=0.6 sad=0.4>then</> "
    "<sad intensity=0.6>he</> <sad>left.</>"
)
OTHER = "<happy>We won!</> But then <angry>he left.</>"
SIZE = (1200, 1340)


def main(path):
    """Draw the page, in the middle of take A."""
    model = shipped_model()
    with (
        serving_model(model, parts=find_parts(model)) as url,
        tempfile.TemporaryDirectory() as folder,
        browsing(folder) as browser,
    ):
        browser.size(*SIZE)
        browser.prefer(prefers_color_scheme="light")
        browser.driver.get(url)
        browser.wait("return 'ready' in document.documentElement.dataset")
        browser.run(
            """
            location.hash = new URLSearchParams({
              a: arguments[0], b: arguments[1], bs: 7, lang: "en"});
            """,
            TEXT,
            OTHER,
        )
        state = "emofilm.views.speak.store.state"
        browser.wait(
            f"return {state}.b && !{state}.a.stale && !{state}.b.stale"
        )
        for name in ("b", "a"):
            browser.run(f"emofilm.views.speak.play('{name}')")
            browser.wait(f"return emofilm.player.playing?.owner === '{name}'")
            browser.run("emofilm.player.stop()")
        browser.run("document.querySelector('#status').remove()")
        browser.run("emofilm.views.speak.editor.choose(3, 3)")
        browser.run("emofilm.views.speak.play('a')")
        browser.wait("return emofilm.player.time > 0.3")
        browser.wait("return document.querySelector('.chip.lit')")
        browser.driver.save_screenshot(str(path))
    Image.open(path).convert("RGB").save(path, optimize=True)
    print(f"{path}: {Path(path).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1])
