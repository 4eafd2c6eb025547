"""A browser opens the page of ``emofilm serve`` and uses it as people do.

Needs Chromium and its driver (``apt install chromium chromium-driver``).
"""

import base64
import json
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from chromium import BROWSER, DRIVER, audit  # isort: skip
from model_server import serving_model  # isort: skip
from page_steps import (  # isort: skip
    CHIPS,
    TAKE,
    chip,
    emotion,
    hear,
    marks,
    read_wav,
    visit,
    wait_for_words,
    write,
    write_wav,
)
from stand_in_server import SECONDS, serving  # isort: skip

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium or no driver of it here"
)
pytest.importorskip("selenium")

TEXT = "We won! But then he left."
PITCH = {"name": "pitch", "unit": "st", "min": -6, "max": 6, "neutral": 0}


@pytest.fixture
def server():
    with serving(can_add=True, suggest=True) as server:
        yield server


@pytest.fixture(scope="module")
def real_server():
    """The server itself, with the shipped model."""
    pytest.importorskip("fastapi")
    with serving_model() as url:
        yield SimpleNamespace(url=url)


def test_a_newcomer_hears_the_shipped_model(browser, real_server):
    visit(browser, real_server)
    write(browser, TEXT, 6)
    chip(browser, 1).click()
    emotion(browser, "happy")
    chip(browser, 5).click()
    emotion(browser, "sad")
    assert marks(browser) == "We <happy>won!</> But then he <sad>left.</>"
    heard = hear(browser, lambda: browser.click("#play"))
    assert heard["loudest"] > 0.05
    spoken = browser.run(f"return emofilm.views.speak.speech.of({TAKE}).answer")
    assert heard["duration"] == pytest.approx(spoken["duration"], abs=0.01)
    samples, rate = read_wav(base64.b64decode(spoken["audio"]))
    assert len(samples) / rate == pytest.approx(spoken["duration"], abs=0.01)
    for word in spoken["words"]:
        start, end = (round(rate * word[key]) for key in ("start", "end"))
        assert np.abs(samples[start:end]).max() > 0.01, word
    assert spoken["words"][1]["emotion"] == {"happy": 1}
    assert spoken["words"][5]["emotion"] == {"sad": 1}
    # A word may be shorter than the time between two pictures.
    assert {"won", "left"} <= set(heard["lit"])
    assert set(heard["lit"]) <= set("We won But then he left".split())


def test_the_shipped_model_refuses_at_the_place(browser, real_server):
    from selenium.webdriver import Keys

    visit(browser, real_server)
    browser.click("#text")
    browser.chord(Keys.CONTROL, "a")
    browser.keys("<happy=0.7 sad=0.1>Oh</>")
    browser.wait("return document.querySelector('#text-error').textContent")
    browser.complaints()  # the browser's own word of the 400


def test_a_newcomer_hears_a_happy_and_a_sad_word(browser, server):
    visit(browser, server)
    write(browser, TEXT, 6)
    assert browser.run(CHIPS) == [
        f"{word}, no emotion" for word in "We won But then he left".split()
    ]
    chip(browser, 1).click()
    emotion(browser, "happy")
    chip(browser, 5).click()
    emotion(browser, "sad")
    assert marks(browser) == "We <happy>won!</> But then he <sad>left.</>"
    heard = hear(browser, lambda: browser.click("#play"))
    assert heard["lit"] == "We won But then he left".split()
    assert heard["loudest"] > 0.1
    assert heard["duration"] == pytest.approx(6 * SECONDS, abs=0.01)
    path, request = server.requests[-1]
    assert path == "/v1/words"
    assert request["text"] == marks(browser)
    assert request["voice"] == "0011"
    assert [w["emotion"] for w in server.speak(request)["words"]] == [
        None, {"happy": 1}, None, None, None, {"sad": 1},
    ]  # fmt: skip
    status = browser.find("#status").text
    assert status == "Speech is ready, 1.8 s."


def test_marks_and_words_are_two_views_of_one_thing(browser, server):
    visit(browser, server)
    write(browser, "<sad intensity=0.4>We won</> twice", 3)
    assert browser.run(CHIPS) == [
        "We, sad · 40 %", "won, sad · 40 %", "twice, no emotion",
    ]  # fmt: skip
    chip(browser, 2).click()
    emotion(browser, "angry")
    assert marks(browser) == "<sad intensity=0.4>We won</> <angry>twice</>"
    chip(browser, 0).click()
    browser.click("#words .clear")
    assert marks(browser) == "We <sad intensity=0.4>won</> <angry>twice</>"
    write(browser, "", 0)
    assert "appear here" in browser.find("#words").text


def test_an_error_is_shown_at_its_place(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    browser.click("#text")
    browser.chord(Keys.CONTROL, "a")
    browser.keys("We <hapy>won</>")
    message = browser.wait(
        "return document.querySelector('#text-error').textContent"
    )
    assert "hapy" in message and "happy" in message
    assert browser.run(
        "return document.querySelector('.behind mark').textContent"
    ).startswith("<hapy")
    assert browser.find("#text").get_attribute("aria-invalid") == "true"
    browser.complaints()  # the browser's own word of the server's 400
    write(browser, "We won", 2)
    assert browser.find("#text-error").text == ""
    assert browser.find("#text").get_attribute("aria-invalid") == "false"


def test_a_drag_chooses_several_words_and_shift_extends(browser, server):
    from selenium.webdriver import ActionChains, Keys

    visit(browser, server)
    write(browser, TEXT, 6)
    first, third, last = (chip(browser, i) for i in (0, 2, 4))
    ActionChains(browser.driver).click_and_hold(first).move_to_element(
        third
    ).release().perform()
    emotion(browser, "surprise")
    assert marks(browser) == "<surprise>We won! But</> then he left."
    ActionChains(browser.driver).key_down(Keys.SHIFT).click(
        chip(browser, 4)
    ).key_up(Keys.SHIFT).perform()
    emotion(browser, "sad")
    assert marks(browser) == "<sad>We won! But then he</> left."
    assert last is not None


def test_the_keyboard_is_enough(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    write(browser, TEXT, 6)
    for _ in range(20):
        browser.keys(Keys.TAB)
        if browser.run("return document.activeElement.role === 'listbox'"):
            break
    else:
        pytest.fail("the words cannot be reached by tab")
    browser.keys(Keys.RIGHT)
    browser.chord(Keys.SHIFT, Keys.RIGHT)
    browser.keys("2")
    assert marks(browser) == "We <happy>won! But</> then he left."
    browser.keys("-", "-")
    assert marks(browser) == "We <happy intensity=0.8>won! But</> then he left."
    browser.keys("+")
    browser.keys(Keys.HOME, "3", Keys.END, "4")
    assert marks(browser) == (
        "<sad>We</> <happy intensity=0.9>won! But</> then he <angry>left.</>"
    )
    browser.keys("0")
    assert marks(browser).endswith("then he left.")
    browser.keys(Keys.LEFT)
    heard = hear(browser, lambda: browser.keys(" "))
    assert heard["lit"] == ["he", "left"]
    browser.keys(Keys.HOME)
    assert (
        browser.run(
            "return document.querySelector('#words .active')"
            ".getAttribute('aria-selected')"
        )
        == "true"
    )
    heard = hear(browser, lambda: browser.keys(Keys.END, Keys.ENTER))
    assert heard["lit"] == ["left"]


def test_emotions_are_mixed(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    write(browser, "We won", 2)
    chip(browser, 1).click()
    emotion(browser, "happy")
    browser.click("#words .mix")
    emotion(browser, "surprise")
    assert marks(browser) == "We <happy=0.5 surprise=0.5>won</>"
    slider = browser.all("#words .weight:not([hidden]) input")[0]
    slider.send_keys(Keys.RIGHT, Keys.RIGHT, Keys.RIGHT, Keys.RIGHT)
    assert marks(browser) == "We <happy=0.7 surprise=0.3>won</>"
    assert browser.run(CHIPS)[1] == "won, happy 70 + surprise 30"
    emotion(browser, "happy")
    assert marks(browser) == "We <surprise>won</>"


def test_words_are_heard_with_their_surroundings(browser, server):
    visit(browser, server)
    write(browser, TEXT, 6)
    chip(browser, 3).click()
    heard = hear(browser, lambda: browser.click("#words .palette .quiet"))
    assert heard["lit"][:3] == ["But", "then", "he"]
    assert heard["from"] == pytest.approx(2 * SECONDS, abs=0.1)
    assert heard["to"] == pytest.approx(5 * SECONDS, abs=0.15)


def test_a_click_into_the_wave_plays_from_there(browser, server):
    visit(browser, server)
    hear(browser, lambda: browser.click("#play"))
    heard = hear(browser, lambda: browser.click(".take .wave"))
    assert heard["from"] == pytest.approx(heard["duration"] / 2, abs=0.1)


def test_the_take_is_stopped(browser, server):
    visit(browser, server)
    browser.click("#play")
    browser.wait("return emofilm.player.playing")
    browser.click("#play")
    assert browser.run("return emofilm.player.playing") is None
    assert browser.find("#play").text == "Play"


def test_two_takes_are_compared(browser, server):
    visit(browser, server)
    write(browser, TEXT, 6)
    browser.click("#compare")
    assert browser.run(f"return {TAKE}.seed") != 0
    browser.click("#dice")
    seed = browser.run(f"return {TAKE}.seed")
    chip(browser, 0).click()
    emotion(browser, "happy")
    assert marks(browser).startswith("<happy>We</>")
    heard = hear(browser, lambda: browser.click("#play"))
    assert heard["owner"] == "b"
    assert server.requests[-1][1]["seed"] == seed
    assert "seed" in browser.all(".take .info")[1].text
    # The other take is as it was.
    browser.click(".take .edit")
    assert marks(browser) == TEXT
    assert browser.run("return emofilm.views.speak.store.state.current") == "a"


LONG = " ".join(f"{n} dogs ran" for n in "One Two Three Four Five".split())


def test_a_long_text_is_heard_before_all_of_it_is_spoken(browser, server):
    visit(browser, server)
    write(browser, LONG, 15)
    wait_for_words(browser, 15)
    server.gate.clear()
    browser.click("#play")
    browser.wait("return emofilm.player.playing && emofilm.player.time > 0.1")
    lit = "return document.querySelector('.chip.lit')?.ariaLabel"
    assert browser.wait(lit).startswith("One,")
    assert browser.find("#play").text == "Stop"
    assert browser.find(".take .none").text.startswith("Being spoken")
    assert not browser.find(".take canvas").is_displayed()
    server.gate.set()
    browser.wait(f"return emofilm.views.speak.speech.of({TAKE})")
    browser.wait("return !emofilm.player.playing")
    assert browser.find(".take canvas").is_displayed()
    assert browser.find(".take .info").text.startswith("4.5 s")
    # What was heard is what is kept.
    answer = server.speak(server.requests[-1][1])
    kept = browser.run(f"return [...emofilm.views.speak.speech.of({TAKE}).wav]")
    assert bytes(kept) == base64.b64decode(answer["audio"])
    heard = hear(browser, lambda: browser.click("#play"))
    assert heard["duration"] == pytest.approx(4.5, abs=0.01)


def test_a_long_text_is_stopped_while_it_is_spoken(browser, server):
    visit(browser, server)
    write(browser, LONG, 15)
    server.gate.clear()
    browser.click("#play")
    browser.wait("return emofilm.player.playing && emofilm.player.time > 0")
    browser.click("#play")
    assert browser.run("return emofilm.player.playing") is None
    browser.wait("return document.querySelector('#play').innerText === 'Play'")
    server.gate.set()
    assert browser.find("#status").text == ""


def test_tags_are_inserted_where_the_cursor_is(browser):
    with serving(tags=["[laughter]", "[breath]"]) as server:
        visit(browser, server)
        write(browser, "We won", 2)
        browser.run(
            """
            const [text, tags] = ["#text", "#tags"].map(
              id => document.querySelector(id));
            text.setSelectionRange(2, 2);
            tags.value = "[laughter]";
            tags.dispatchEvent(new Event("change", {bubbles: true}));
            """
        )
        text = browser.run("return document.querySelector('#text').value")
        assert text == "We [laughter] won"
        assert len(browser.all("#tags option")) == 3
        assert browser.run("return document.querySelector('#tags').value") == ""


def drag_by_touch(browser, *places):
    """Put a finger down, move it over places, and lift it."""
    touch = browser.driver.execute_cdp_cmd
    kinds = ["touchStart", *["touchMove"] * (len(places) - 1)]
    for kind, (x, y) in zip(kinds, places):
        touch(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y}]},
        )
    touch("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def middle(browser, index):
    return browser.run(
        """
        const chip = document.querySelectorAll("#words .chip")[arguments[0]];
        chip.scrollIntoView({block: "center"});
        const box = chip.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + 20];
        """,
        index,
    )


def test_a_finger_chooses_words_and_scrolls(browser, server):
    browser.size(360, 700)
    emulate = browser.driver.execute_cdp_cmd
    emulate("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        visit(browser, server)
        write(browser, TEXT, 6)
        first, third = middle(browser, 0), middle(browser, 2)
        steps = [
            [first[k] + (third[k] - first[k]) * s / 6 for k in (0, 1)]
            for s in range(7)
        ]
        drag_by_touch(browser, *steps)
        emotion(browser, "surprise")
        assert marks(browser) == "<surprise>We won! But</> then he left."
        drag_by_touch(browser, middle(browser, 4))  # a tap
        emotion(browser, "sad")
        wanted = "<surprise>We won! But</> then <sad>he</> left."
        assert marks(browser) == wanted
        # A finger that scrolls the page chooses nothing.
        x, y = middle(browser, 0)
        drag_by_touch(browser, *([x, y - 25 * step] for step in range(12)))
        browser.wait("return scrollY > 0")
        chosen = browser.run("return emofilm.views.speak.editor.choice")
        assert chosen == [4, 4]
    finally:
        emulate("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_switching_goes_on_with_the_same_word(browser, server):
    visit(browser, server)
    write(browser, TEXT, 6)
    browser.click("#compare")
    hear(browser, lambda: browser.click("#play"))
    browser.run("document.querySelector('#words .chips').focus()")
    browser.keys("x")
    assert browser.run("return emofilm.views.speak.store.state.current") == "a"
    browser.click("#play")
    browser.wait("return emofilm.player.playing && emofilm.player.time > 0.7")
    browser.run("document.querySelector('#words .chips').focus()")
    browser.keys("x")
    began = browser.wait(
        "return emofilm.player.playing?.owner === 'b' && emofilm.player.time"
    )
    assert began > 1.5 * SECONDS
    browser.wait("return document.querySelector('.chip.lit')")


def test_a_reload_restores_everything(browser, server):
    visit(browser, server)
    write(browser, "<happy=0.7 sad=0.3>我们</> 赢了 &amp; go", 5)
    browser.run(
        """
        const set = (id, value, kind) => {
          const field = document.querySelector(id);
          field.value = value;
          field.dispatchEvent(new Event(kind, {bubbles: true}));
        };
        set("#voice", "0012", "change");
        set("#seed", "77", "change");
        set("#guidance", "2.5", "input");
        set("#speed", "1.5", "input");
        """
    )
    browser.click("#compare")
    keys = "['marks','voice','seed','guidance','speed']"
    read = (
        "return ['a','b'].map(name => "
        f"{keys}.map(key => emofilm.views.speak.store.state[name][key]))"
    )
    before = browser.run(read)
    assert before[0][1:] == ["0012", 77, 2.5, 1.5]
    browser.wait("return /as=77.*b=/.test(location.hash)")
    browser.driver.refresh()
    browser.wait("return 'ready' in document.documentElement.dataset")
    wait_for_words(browser, 5)
    assert browser.run(read) == before
    assert browser.run(CHIPS)[0] == "我, happy 70 + sad 30"
    address = parse_qs(urlsplit(browser.driver.current_url).fragment)
    assert address["a"] == [before[0][0]]


def test_steps_are_undone_and_redone(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    write(browser, TEXT, 6)
    chip(browser, 1).click()
    emotion(browser, "happy")
    happy = marks(browser)
    emotion(browser, "sad")
    sad = marks(browser)
    browser.chord(Keys.CONTROL, "z")
    assert marks(browser) == happy
    browser.click("#undo")
    assert marks(browser) == TEXT
    browser.chord(Keys.CONTROL, Keys.SHIFT, "z")
    browser.click("#redo")
    assert marks(browser) == sad
    assert browser.find("#redo").get_property("disabled")
    assert browser.run(CHIPS)[1] == "won, sad"


def test_emotions_are_suggested_where_the_server_can(browser, server):
    visit(browser, server)
    write(browser, TEXT, 6)
    browser.click("#suggest")
    browser.wait(f"return {TAKE}.marks.includes('happy')")
    assert marks(browser) == "We <happy>won!</> But then he left."
    with serving() as other:
        visit(browser, other)
        for button, reason in (
            ("#suggest", "This model suggests nothing."),
            ("#add-voice", "This model has fixed speakers."),
        ):
            found = browser.find(button)
            assert found.get_attribute("aria-disabled") == "true"
            assert found.get_attribute("title") == reason
            browser.click(button)
            assert browser.find("#status").text == reason
        assert [path for path, _ in other.requests if "marks" not in path] == []


def test_axes_of_a_model_are_set_by_word(browser):
    with serving(axes=[PITCH]) as server:
        visit(browser, server)
        write(browser, "We won", 2)
        chip(browser, 1).click()
        browser.run(
            """
            const field = document.querySelector(
              "#words .slider:not([hidden]):not(.weight) input[max='6']");
            field.value = 3;
            field.dispatchEvent(new Event("input", {bubbles: true}));
            """
        )
        browser.wait(f"return {TAKE}.stale === null")
        _, request = server.requests[-1]
        assert [word["pitch"] for word in request["words"]] == [None, 3]


def test_a_voice_is_added_from_a_file(browser, server, tmp_path):
    visit(browser, server)
    browser.click("#add-voice")
    browser.find("#voice-name").send_keys("anna")
    browser.find("#voice-file").send_keys(
        str(write_wav(tmp_path / "anna.wav", 4.0))
    )
    browser.find("#voice-text").send_keys("What she says")
    browser.click("#voice-form [type=submit]")
    browser.wait(f"return {TAKE}.voice === 'anna'")
    sent = dict(server.requests)["/v1/voices"]
    samples, rate = read_wav(sent["file"])
    assert len(samples) / rate == pytest.approx(4.0, abs=0.01)
    assert np.abs(samples).max() == pytest.approx(8000 / 32768, abs=0.02)
    assert sent["text"] == b"What she says"
    hear(browser, lambda: browser.click("#play"))
    assert server.requests[-1][1]["voice"] == "anna"


def test_a_voice_is_recorded(browser, server):
    visit(browser, server)
    browser.click("#add-voice")
    browser.find("#voice-name").send_keys("bob")
    browser.click("#voice-form [type=submit]")
    assert "record one" in browser.find("#voice-error").text
    browser.click("#voice-record")
    browser.wait(
        "return /[1-9]\\.\\d s/.test("
        "document.querySelector('#voice-record').textContent)"
    )
    browser.click("#voice-record")
    browser.wait("return !document.querySelector('#voice-preview').hidden")
    browser.click("#voice-form [type=submit]")
    browser.wait(f"return {TAKE}.voice === 'bob'")
    samples, rate = read_wav(dict(server.requests)["/v1/voices"]["file"])
    assert len(samples) / rate > 0.5
    assert np.abs(samples).max() > 0.01


def test_sound_and_marks_are_saved(browser, server):
    visit(browser, server)
    write(browser, "<happy>We won</>", 2)
    hear(browser, lambda: browser.click("#play"))
    save = ".take:not([hidden]) .actions .round"
    sound, text = browser.all(save)[:2]
    sound.click()
    samples, rate = read_wav(browser.downloaded("take_a.wav"))
    answer = server.speak(server.requests[-1][1])
    assert browser.downloaded("take_a.wav") == base64.b64decode(answer["audio"])
    assert len(samples) / rate == pytest.approx(2 * SECONDS, abs=0.001)
    text.click()
    assert browser.downloaded("take_a.txt") == b"<happy>We won</>\n"


def test_the_language_is_switched_and_kept(browser, server):
    visit(browser, server)
    heading = browser.find("#speak h1").text
    browser.run(
        """
        const field = document.querySelector("#language");
        field.value = "zh";
        field.dispatchEvent(new Event("change", {bubbles: true}));
        """
    )
    assert browser.find("#speak h1").text != heading
    assert browser.run("return document.documentElement.lang") == "zh-Hans"
    assert browser.run(CHIPS)[0] == "We, 高兴"
    assert "lang=zh" in browser.driver.current_url
    browser.driver.refresh()
    browser.wait("return 'ready' in document.documentElement.dataset")
    wait_for_words(browser, 6)
    assert browser.find("#play").text == "播放"
    english = set(
        browser.run(
            """
            const {default: en} = await import("/static/i18n/en.js");
            const {default: zh} = await import("/static/i18n/zh.js");
            return Object.keys(en).filter(key => !(key in zh));
            """
        )
    )
    assert english == set()


def test_labels_are_corrected_and_saved(browser, server, tmp_path):
    visit(browser, server, "#view=labels", words=0)
    browser.find("#label-file").send_keys(
        str(write_wav(tmp_path / "said.wav", 1.5))
    )
    browser.find("#label-text").send_keys("We won twice")
    browser.click("#label-run")
    browser.wait("return !document.querySelector('#labelled').hidden")
    note = browser.find("#label-note").text
    assert "synthetic" in note
    chips = "#label-words .chip"
    texts = [c.get_attribute("aria-label") for c in browser.all(chips)]
    assert texts == ["We, sad · 80 %", "won, sad · 45 %", "twice, sad · 45 %"]
    assert len(browser.all("#label-words .doubtful")) == 2
    browser.all(chips)[1].click()
    emotion(browser, "happy", "#label-words")
    assert browser.all(chips)[1].get_attribute("aria-label") == "won, happy ✓"
    assert "1 corrected" in browser.find("#label-count").text
    heard = hear(browser, lambda: browser.click("#label-play"))
    assert heard["lit"] == ["We", "won", "twice"]
    assert heard["duration"] == pytest.approx(1.5, abs=0.01)
    browser.click("#label-json")
    saved = json.loads(browser.downloaded("said.json"))
    assert saved["format"] == "json"
    assert saved["duration"] == pytest.approx(1.5)
    assert [word["emotion"] for word in saved["words"]] == [
        {"neutral": 0.3, "sad": 0.7},
        {"happy": 1},
        {"neutral": 0.3, "sad": 0.7},
    ]
    assert saved["words"][1]["confidence"] == 1
    browser.click("#label-undo")
    assert "0 corrected" in browser.find("#label-count").text
    browser.click("#label-textgrid")
    assert b"ooTextFile" in browser.downloaded("said.TextGrid")


def test_labels_of_a_file_are_opened(browser, server, tmp_path):
    labels = {"words": [{"text": "Oh"}, {"text": "no"}]}
    (tmp_path / "words.json").write_text(json.dumps(labels))
    visit(browser, server, "#view=labels", words=0)
    browser.click("#label-run")
    assert browser.find("#label-error").text == "Choose a recording first."
    browser.find("#label-file").send_keys(str(write_wav(tmp_path / "said.wav")))
    browser.find("#label-alignment").send_keys(str(tmp_path / "words.json"))
    browser.click("#label-run")
    browser.wait("return document.querySelectorAll('#label-words .chip')[1]")
    assert browser.all("#label-words .shape")[1].text == "no"


def test_a_server_with_a_token_is_asked_with_it(browser):
    with serving(token="secret", can_add=True, suggest=True) as server:
        browser.driver.get("about:blank")
        browser.driver.get(server.url)
        browser.wait("return document.querySelector('#token-dialog').open")
        browser.find("#token").send_keys("wrong")
        browser.keys("\ue007")
        browser.wait(
            "return document.querySelector('#token-dialog').open && "
            "!document.querySelector('#token-wrong').hidden"
        )
        browser.find("#token").send_keys("secret")
        browser.keys("\ue007")
        wait = "return 'ready' in document.documentElement.dataset"
        browser.wait(wait)
        wait_for_words(browser, 6)
        # It is kept for this tab.
        browser.driver.refresh()
        browser.wait(wait)
        wait_for_words(browser, 6)
        browser.complaints()  # the browser's own words of the 401s


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1300])
def test_everyone_can_use_both_views(browser, server, tmp_path, scheme, width):
    browser.size(width, 900)
    browser.prefer(prefers_color_scheme=scheme)
    visit(browser, server)
    browser.click("#compare")
    hear(browser, lambda: browser.click("#play"))
    chip(browser, 1).click()
    browser.click("#words .mix")
    emotion(browser, "surprise")
    marks(browser)
    overflow = (
        "const root = document.documentElement;"
        "return root.scrollWidth - root.clientWidth"
    )
    background = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    assert (int(light[4:].split(",")[0]) > 128) == (scheme == "light")
    assert browser.find("#speak .keys").is_displayed()
    assert audit(browser) == []
    assert browser.run(overflow) <= 0
    browser.click("[data-view=labels]")
    browser.find("#label-file").send_keys(str(write_wav(tmp_path / "said.wav")))
    browser.click("#label-run")
    browser.wait("return document.querySelectorAll('#label-words .chip')[1]")
    assert audit(browser) == []
    assert browser.run(overflow) <= 0
    browser.click("#theme")
    assert browser.run(background) != light
    assert audit(browser) == []
    browser.click("#theme")


def test_no_motion_for_those_who_want_none(browser, server):
    browser.prefer(prefers_reduced_motion="reduce")
    visit(browser, server)
    moving = browser.run(
        """
        document.querySelector("#play").classList.add("busy");
        return document.getAnimations().length + [
          ...document.querySelectorAll("*")
        ].filter(e => parseFloat(getComputedStyle(e).transitionDuration)).length
        """
    )
    assert moving == 0
