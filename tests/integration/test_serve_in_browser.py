"""A browser opens the page of the server itself, with models that speak.

Needs Chromium and its driver (``apt install chromium chromium-driver``).
"""

from types import SimpleNamespace

from speechbrain_emofilm.dataio.labels import (
    UtteranceLabels,
    WordLabel,
    read_label_textgrid,
    read_word_labels,
    write_label_textgrid,
    write_word_labels,
)
from speechbrain_emofilm.dataio.voices import read_voices

import pytest
import soundfile

from chromium import BROWSER, DRIVER, audit  # isort: skip
from model_server import (  # isort: skip
    prompted_model,
    serving_model,
    shipped_model,
)
from page_steps import (  # isort: skip
    CHIPS,
    TAKE,
    chip,
    emotion,
    hear,
    marks,
    visit,
    wait_for_words,
    write,
    write_wav,
)

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium or no driver of it here"
)
pytest.importorskip("selenium")
pytest.importorskip("fastapi")

TOKEN = "a-secret-token"
SAID = "We won the game."
#: The chosen words' labels, as a reader sees them.
LABELS = """
return [...document.querySelectorAll("#label-words .chip")].map(
  chip => chip.getAttribute("aria-label"))
"""


@pytest.fixture(scope="module")
def synthesizer():
    return shipped_model()


@pytest.fixture(scope="module")
def parts(synthesizer):
    from speechbrain_emofilm.serve.app import find_parts

    pytest.importorskip("pocketsphinx")
    pytest.importorskip("vader")
    return find_parts(synthesizer)


@pytest.fixture(scope="module")
def server(synthesizer, parts):
    with serving_model(synthesizer, parts=parts) as url:
        yield SimpleNamespace(url=url)


@pytest.fixture(scope="module")
def recording(synthesizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("said") / "said.wav"
    result = synthesizer.synthesize(f"<happy>{SAID}</happy>")
    soundfile.write(path, result.wav.numpy(), result.sample_rate)
    return path


def open_recording(browser, recording, alignment=None, text=""):
    browser.find("#label-file").send_keys(str(recording))
    if alignment is not None:
        browser.find("#label-alignment").send_keys(str(alignment))
    browser.find("#label-text").send_keys(text)
    browser.click("#label-run")
    browser.wait("return document.querySelector('#label-words .chip')")


def correct_by_key(browser, index, digit):
    """Give a word the emotion of a digit, by keys alone."""
    from selenium.webdriver import Keys

    browser.run("document.querySelector('#label-words .chips').focus()")
    browser.keys(Keys.HOME, *[Keys.ARROW_RIGHT] * index, digit)


def test_a_recording_is_labelled_on_the_spot(
    browser, server, recording, tmp_path
):
    visit(browser, server, "#view=labels", words=0)
    open_recording(browser, recording, text=SAID)
    labels = browser.run(LABELS)
    assert [label.split(",")[0] for label in labels] == SAID[:-1].split()
    assert all(label.endswith(" %") for label in labels)
    assert "synthetic speech only" in browser.find("#label-note").text
    browser.all("#label-words .chip")[1].click()
    emotion(browser, "sad", "#label-words")
    correct_by_key(browser, 3, "2")
    assert browser.run(LABELS)[1::2] == ["won, sad ✓", "game, angry ✓"]
    heard = hear(browser, lambda: browser.click("#label-play"))
    assert heard["loudest"] > 0.05
    browser.click("#label-json")
    path = tmp_path / "saved.json"
    path.write_bytes(browser.downloaded("said.json"))
    emotions = "neutral angry happy sad surprise".split()
    (saved,) = read_word_labels(path, emotions).values()
    assert [w.word for w in saved.words] == SAID[:-1].split()
    assert saved.words[1].emotion == "sad"
    assert saved.words[3].emotion == "angry"
    assert [w.confidence for w in saved.words][1::2] == [1, 1]
    assert max(w.end for w in saved.words) < 2
    # What was saved is opened as it is, and goes on.
    visit(browser, server, "#view=labels", words=0)
    open_recording(browser, recording, path)
    assert browser.run(LABELS)[1] == "won, sad · 100 %"


@pytest.mark.parametrize("kind", ["json", "TextGrid"])
def test_labels_of_a_file_are_corrected_and_saved(
    browser, server, recording, tmp_path, kind
):
    emotions = "neutral angry happy sad surprise".split()
    words = [
        WordLabel(
            word, 0.2 * i, 0.2 * i + 0.2, "happy", {"happy": 1.0}, 0.5,
            0.9 - 0.2 * i,
        )
        for i, word in enumerate(SAID[:-1].split())
    ]  # fmt: skip
    path = tmp_path / f"labels.{kind}"
    if kind == "json":
        write_word_labels(path, {"said": UtteranceLabels(words)}, emotions)
    else:
        write_label_textgrid(path, UtteranceLabels(words), 1.0)
    name = tmp_path / f"opened_{kind}.wav"
    name.write_bytes(recording.read_bytes())
    visit(browser, server, "#view=labels", words=0)
    open_recording(browser, name, path)
    # A TextGrid does not say how sure the labeler was.
    sure = kind == "json"
    shares = ["90 %", "70 %", "50 %", "30 %"]
    assert browser.run(LABELS) == [
        f"{w.word}, happy" + sure * f" · {share}"
        for w, share in zip(words, shares)
    ]
    assert len(browser.all("#label-words .doubtful")) == sure
    browser.all("#label-words .chip")[3].click()
    emotion(browser, "surprise", "#label-words")
    correct_by_key(browser, 0, "4")
    assert "2 corrected" in browser.find("#label-count").text
    browser.click(f"#label-{kind.lower()}")
    saved = tmp_path / f"saved.{kind}"
    saved.write_bytes(browser.downloaded(f"opened_{kind}.{kind}"))
    if kind == "json":
        (labels,) = read_word_labels(saved, emotions).values()
    else:
        labels = read_label_textgrid(saved, emotions)
    found = [(w.word, w.emotion) for w in labels.words]
    assert found == [
        ("We", "sad"), ("won", "happy"), ("the", "happy"), ("game", "surprise"),
    ]  # fmt: skip
    assert [w.start for w in labels.words] == pytest.approx([0, 0.2, 0.4, 0.6])


def test_emotions_are_suggested(browser, server):
    visit(browser, server)
    write(browser, "We won! But he left.", 5)
    browser.click("#suggest")
    browser.wait(f"return {TAKE}.marks.includes('happy')")
    assert marks(browser) == "<happy intensity=0.6>We won!</> But he left."
    assert browser.run(CHIPS)[0] == "We, happy · 60 %"


def test_what_is_not_installed_is_explained_without_trying(
    browser, synthesizer
):
    from speechbrain_emofilm.serve.service import Parts

    reason = "Suggestions need a package: pip install it."
    missing = {"suggest": reason, "label": "Labels need another."}
    with serving_model(synthesizer, parts=Parts(missing=missing)) as url:
        visit(browser, SimpleNamespace(url=url))
        button = browser.find("#suggest")
        assert button.get_attribute("aria-disabled") == "true"
        browser.click("#suggest")
        assert browser.find("#status").text == reason
        browser.click("#add-voice")
        assert "fixed speakers" in browser.find("#status").text
        browser.click("[data-view=labels]")
        assert "Labels need another." in browser.find("#label-missing").text


def test_a_voice_is_added_heard_and_kept(browser, tmp_path):
    from speechbrain_emofilm.serve.service import Settings

    model = prompted_model(tmp_path)
    settings = Settings(keep_voices=True)
    recording = write_wav(tmp_path / "bob.wav", 4.0)
    with serving_model(model, settings) as url:
        visit(browser, SimpleNamespace(url=url))
        assert browser.find("#voice").text.split() == ["anna"]
        browser.click("#add-voice")
        browser.find("#voice-name").send_keys("bob")
        browser.find("#voice-file").send_keys(str(recording))
        browser.find("#voice-text").send_keys("What he says")
        browser.click("#voice-form [type=submit]")
        browser.wait(f"return {TAKE}.voice === 'bob'")
        write(browser, "We won", 2)
        heard = hear(browser, lambda: browser.click("#play"))
        assert heard["loudest"] > 0
        spoken = f"return emofilm.views.speak.speech.of({TAKE}).answer.voice"
        assert browser.run(spoken) == "bob"
        # Recordings that are no voice are refused, where they are chosen.
        browser.click("#add-voice")
        browser.find("#voice-name").send_keys("short")
        short = write_wav(tmp_path / "short.wav", 1.0)
        browser.find("#voice-file").send_keys(str(short))
        browser.find("#voice-text").send_keys("Oh")
        browser.click("#voice-form [type=submit]")
        error = "return document.querySelector('#voice-error').textContent"
        assert "3 to 30 s" in browser.wait(error)
        browser.click("#voice-cancel")
    assert any("400" in entry for entry in browser.complaints())
    kept = [p for p in tmp_path.glob("*.safetensors") if p.name[:6] != "voices"]
    assert list(read_voices(kept[0])) == ["bob"]


@pytest.fixture(scope="module")
def closed_server(synthesizer, parts):
    from speechbrain_emofilm.serve.service import Settings

    with serving_model(synthesizer, Settings(token=TOKEN), parts) as url:
        yield SimpleNamespace(url=url)


def test_the_address_brings_the_token(browser, closed_server, recording):
    browser.driver.get("about:blank")
    visit(browser, closed_server, f"#token={TOKEN}")
    assert TOKEN not in browser.driver.current_url
    write(browser, "We won", 2)
    browser.click("#suggest")
    browser.wait(f"return {TAKE}.marks.includes('happy')")
    assert hear(browser, lambda: browser.click("#play"))["loudest"] > 0.05
    write(browser, LONG, 18)
    browser.click("#play")  # in parts
    browser.wait(f"return emofilm.views.speak.speech.of({TAKE})")
    browser.run("emofilm.player.stop()")
    browser.click("[data-view=labels]")
    open_recording(browser, recording, text=SAID)
    browser.click("#label-textgrid")
    assert b"ooTextFile" in browser.downloaded("said.TextGrid")
    browser.run("sessionStorage.clear()")


def test_a_wrong_token_has_one_clear_message(browser, closed_server):
    browser.driver.get("about:blank")
    browser.driver.get(closed_server.url + "#token=a-wrong-token&lang=zh")
    browser.wait("return document.querySelector('#token-dialog').open")
    wrong = browser.find("#token-wrong")
    assert wrong.is_displayed() and wrong.text == "服务器未接受该令牌。"
    browser.find("#token").send_keys("密码密码密码")  # no header holds it
    browser.keys("\ue007")
    browser.wait("return document.querySelector('#token').value === ''")
    assert wrong.is_displayed()
    browser.keys("\ue00c")  # escape: the page cannot do without
    browser.wait("return document.querySelector('#status').textContent")
    assert "令牌" in browser.find("#status").text
    browser.run("sessionStorage.clear()")
    assert all("401" in entry for entry in browser.complaints())


LONG = (
    "The men won the game and then he left the house again with us. "
    "Why not go home?"
)


def test_a_long_text_of_the_model_is_heard_from_its_first_part(browser, server):
    visit(browser, server)
    write(browser, LONG, 18)
    browser.run(
        """
        window.lit = [];
        emofilm.player.addEventListener("time", () => {
          const chip = document.querySelector(".chip.lit");
          const text = chip?.ariaLabel.split(",")[0];
          if (text && lit.at(-1) !== text) lit.push(text);
        });
        """
    )
    browser.click("#play")
    browser.wait("return emofilm.player.playing")
    assert browser.run("return emofilm.player.playing.buffer") is None
    spoken = f"emofilm.views.speak.speech.of({TAKE})"
    browser.wait(f"return {spoken} && !emofilm.player.playing")
    lit = browser.run("return lit")
    order = LONG.replace(".", "").replace("?", "").split()
    assert len(lit) > 8
    places = iter(order)
    assert all(word in places for word in lit)
    # The same as if it had been spoken in whole.
    answer = browser.run(f"return {spoken}.answer")
    samples = browser.run(f"return [...{spoken}.track.samples].length")
    rate = browser.run("return emofilm.player.context.sampleRate")
    assert samples / rate == pytest.approx(answer["duration"], abs=0.01)
    assert answer["f0"]["hz"] and len(answer["words"]) == 18


def gap(browser, index):
    """Click between two words."""
    browser.run(
        """
        document.querySelector("#words .chips").scrollIntoView(
          {block: "center"});
        """
    )
    from selenium.webdriver import ActionChains

    place = browser.find(f"#words .gap[data-gap='{index}']")
    shift = 0 if "pause" in place.get_attribute("class") else -4
    ActionChains(browser.driver).move_to_element_with_offset(
        place, shift, 0
    ).click().perform()


def test_pauses_are_added_changed_and_taken_out(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    write(browser, "We won but he left", 5)
    gap(browser, 2)
    assert marks(browser) == "We won <break time=0.3s/>but he left"
    label = "but, no emotion, after a pause of 0.3 s"
    assert browser.run(CHIPS)[2] == label
    assert browser.find("#words .gap.pause").text == "0.3 s"
    # A click on it leads to its seconds.
    gap(browser, 2)
    field = "document.activeElement.closest('.pause-field').innerText"
    assert "but" in browser.wait(f"return {field}")
    browser.keys("1", ".", "5")
    assert marks(browser) == "We won <break time=1.5s/>but he left"
    browser.keys(Keys.TAB, Keys.ENTER)  # its button
    assert marks(browser) == "We won but he left"
    browser.click("#undo")
    assert marks(browser) == "We won <break time=1.5s/>but he left"
    # The text's marks are shown, too; emotions stay beside them.
    write(browser, "<sad>We <break time=2s/>won</>", 2)
    assert browser.run(CHIPS)[1] == "won, sad, after a pause of 2.0 s"
    chip(browser, 0).click()
    emotion(browser, "happy")
    assert marks(browser) == "<happy>We</> <sad><break time=2s/>won</>"


def test_pauses_are_set_by_keys(browser, server):
    from selenium.webdriver import Keys

    visit(browser, server)
    write(browser, "We won", 2)
    browser.run("document.querySelector('#words .chips').focus()")
    browser.keys(Keys.HOME, Keys.ARROW_RIGHT, "..")
    assert marks(browser) == "We <break time=0.4s/>won"
    browser.keys(",,,,")
    assert marks(browser) == "We won"
    browser.keys(",")
    assert marks(browser) == "We won"
    # The last word may have a pause behind it.
    last = browser.all("#words .pause-field input")[1]
    last.send_keys("0.5")
    assert marks(browser) == "We won<break time=0.5s/>"
    assert browser.run(CHIPS)[1].endswith("before a pause of 0.5 s")
    heard = hear(browser, lambda: browser.click("#play"))
    assert heard["duration"] > 0.9


def test_pauses_of_chinese_words(browser, server):
    visit(browser, server, "#lang=zh")
    write(browser, "我们赢了", 4)
    gap(browser, 2)
    assert marks(browser) == "我们<break time=0.3s/>赢了"
    assert browser.run(CHIPS)[2] == "赢, 无情感, 前有 0.3 s 停顿"
    assert audit(browser) == []


def test_errors_are_whole_sentences_of_the_pages_language(browser, server):
    visit(browser, server, "#lang=zh")
    wait_for_words(browser, 6)
    from selenium.webdriver import Keys

    browser.click("#text")
    browser.chord(Keys.CONTROL, "a")
    browser.keys("We <hapy>won</>")
    error = "return document.querySelector('#text-error').textContent"
    message = browser.wait(error)
    assert message.startswith("标记有误。英文说明：") and "happy" in message
    assert browser.find(".behind mark").get_property("textContent") == "<hapy>"
    browser.run(
        """
        const text = document.querySelector("#text");
        text.value = "We ".repeat(2000);
        text.dispatchEvent(new Event("input", {bubbles: true}));
        """
    )
    browser.wait(f"{error}.includes('4096')")
    message = browser.run(error)
    assert message == "文字有 6000 个字符，超过上限 4096 个：请分段合成。"
    assert all("400" in entry for entry in browser.complaints())


def test_everyone_can_use_pauses(browser, server):
    for width in (1300, 360):
        browser.size(width, 900)
        visit(browser, server)
        write(browser, "We <break time=0.3s/>won but he left", 5)
        chip(browser, 1).click()
        assert audit(browser) == []
        overflow = (
            "const root = document.documentElement;"
            "return root.scrollWidth - root.clientWidth"
        )
        assert browser.run(overflow) <= 0
