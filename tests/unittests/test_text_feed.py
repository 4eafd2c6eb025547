"""Marked text that arrives in pieces, cut between words."""

from speechbrain_emofilm.dataio.markup import parse_markup
from speechbrain_emofilm.inference.text_feed import TextFeed

import pytest
from hypothesis import given
from hypothesis import strategies as st

EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]
TEXTS = [
    "<happy>We won!</happy> <sad intensity=0.4>But he left.</sad>",
    '<happy=0.7 surprise=0.3>Oh! Why<break time="300ms"/> not?</> Don’t.',
    "<sad>我们</sad>赢了。他<happy>走了！</happy>",
    "1 &lt; 2 &amp; <angry>that was it!</angry> Fine.",
]


def words_of(marked):
    return [(word.word, word.probs, word.intensity) for word in marked.words]


def read_in_parts(text, cuts, sizes):
    """Feed a text cut at places, and take words as they are known."""
    feed, heads, rest = TextFeed(), [], list(sizes)
    edges = [0, *sorted(cuts), len(text)]
    for start, end in zip(edges, edges[1:]):
        feed.add(text[start:end])
        while rest and feed.count(feed.known) > rest[0]:
            heads.append(feed.take(rest.pop(0)))
    feed.finish()
    heads.append(feed.take())
    return [parse_markup(head, EMOTIONS) for head in heads if head.strip()]


@pytest.mark.parametrize("text", TEXTS)
@given(data=st.data())
def test_however_a_text_is_cut_its_words_keep_their_emotions(text, data):
    places = st.integers(0, len(text))
    cuts = data.draw(st.lists(places, max_size=8))
    sizes = data.draw(st.lists(st.integers(1, 3), max_size=4))
    parts = read_in_parts(text, cuts, sizes)
    found = [word for part in parts for word in words_of(part)]
    assert found == words_of(parse_markup(text, EMOTIONS))
    breaks = sum(b.seconds for part in parts for b in part.breaks)
    assert breaks == pytest.approx(0.3 * ("<break" in text))


def test_a_word_is_known_when_something_follows_it():
    feed = TextFeed()
    feed.add("We wo")
    assert feed.known == "We "
    feed.add("n")
    assert feed.known == "We "
    feed.add(" it")
    assert feed.known == "We won "


def test_an_incomplete_mark_is_waited_for():
    feed = TextFeed()
    feed.add("We won <hap")
    assert feed.known == "We won "
    feed.add("py>the game")
    assert feed.known == "We won <happy>the </>"


def test_tags_are_no_marks():
    feed = TextFeed(tags=["<strong>", "</strong>", "[laughter]"])
    feed.add("<strong>We</strong> [laughter] won it ")
    assert feed.known == "<strong>We</strong> [laughter] won it "
