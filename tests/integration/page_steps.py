"""Steps in the page of ``emofilm serve`` for tests."""

import io
import wave

import numpy as np

TAKE = "emofilm.views.speak.store.take"
#: The words on the page with their emotions, as a reader sees them.
CHIPS = """
return [...document.querySelectorAll("#words .chip")].map(
  chip => chip.getAttribute("aria-label"))
"""


def visit(browser, server, address="", words=6):
    """Open the page, and wait for its words."""
    browser.driver.get("about:blank")
    browser.driver.get(server.url + address)
    browser.wait("return 'ready' in document.documentElement.dataset")
    if words:
        wait_for_words(browser, words)


def wait_for_words(browser, n):
    browser.wait(f"return {TAKE}.stale === null && {TAKE}.words.length === {n}")


def write(browser, text, n):
    """Replace the text, by keys."""
    from selenium.webdriver import Keys

    browser.click("#text")
    browser.chord(Keys.CONTROL, "a")
    browser.keys(text or Keys.DELETE)
    wait_for_words(browser, n)


def chip(browser, index):
    return browser.all("#words .chip")[index]


def emotion(browser, name, place="#words"):
    browser.click(f"{place} [data-emotion={name}]")


def marks(browser):
    """The marks, once the server has written them."""
    browser.wait(f"return {TAKE}.stale === null")
    return browser.run("return document.querySelector('#text').value")


def hear(browser, act):
    """Do something that plays; what was played, once it has been heard."""
    browser.run(
        """
        window.heard = {lit: [], places: [], done: false};
        const {player} = emofilm;
        const events = new AbortController();
        const {signal} = events;
        player.addEventListener("start", () => {
          const samples = player.playing.buffer.getChannelData(0);
          heard.loudest = samples.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
          heard.duration = player.playing.buffer.duration;
          heard.from = player.time;
          heard.owner = player.playing.owner;
        }, {signal});
        player.addEventListener("time", () => {
          const lit = document.querySelector(".chip.lit");
          const text = lit && lit.getAttribute("aria-label").split(",")[0];
          if (text && heard.lit.at(-1) !== text) heard.lit.push(text);
          heard.to = player.time;
        }, {signal});
        player.addEventListener("stop", () => {
          heard.done = true;
          events.abort();
        }, {signal});
        """
    )
    act()
    browser.wait("return heard.duration && heard.done")
    return browser.run("return heard")


def write_wav(path, seconds=1.0, rate=16000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        tone = np.sin(np.arange(round(seconds * rate)) / 10)
        file.writeframes((8000 * tone).astype("<i2").tobytes())
    return path


def read_wav(content):
    with wave.open(io.BytesIO(content)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert file.getnchannels() == 1 and file.getsampwidth() == 2
        return samples / 32768, file.getframerate()
