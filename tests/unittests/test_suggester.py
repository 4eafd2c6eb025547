"""Marks suggested from the text."""

import io
import sys

from speechbrain_emofilm import cli
from speechbrain_emofilm.dataio.markup import MarkupError, parse_markup
from speechbrain_emofilm.inference.suggester import (
    LexiconSuggester,
    TransformersSuggester,
    make_suggest,
    suggest_marks,
    write_marks,
)

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

EMOTIONS = ["neutral", "angry", "happy", "sad", "surprise"]


@pytest.fixture(scope="module")
def lexicon():
    return LexiconSuggester()


@pytest.fixture
def model(tmp_path):
    """Folder of a model, with the hparams that suggestions need."""
    path = tmp_path / "model" / "synthesizer.yaml"
    path.parent.mkdir()
    path.write_text(
        "emotions: [neutral, angry, happy, sad, surprise]\n"
        "modules: !new:there.is.no.such.Module\n"
    )
    return path.parent


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        (
            "We won! But he left.",
            "<happy intensity=0.6>We won!</> But he left.",
        ),
        ("I am not happy.", "<sad intensity=0.5>I am not happy.</>"),
        ("I’m not angry.", "I’m not angry."),
        ("That is not bad at all.", "That is not bad at all."),
        ("How dare you!", "<angry intensity=0.5>How dare you!</>"),
        ("He was scared.", "He was scared."),
        ("The door is green.", "The door is green."),
        (
            "I'm not sad, I'm furious.",
            "<angry intensity=0.7>I'm not sad, I'm furious.</>",
        ),
        (
            "Suddenly it was gone, but I love Mr. Smith.",
            "<surprise intensity=0.5>Suddenly it was gone,</> "
            "<happy intensity=0.6>but I love Mr. Smith.</>",
        ),
    ],
)
def test_clauses_get_the_emotion_of_their_words(lexicon, text, marks):
    assert write_marks(lexicon.suggest(text, EMOTIONS)) == marks
    assert parse_markup(marks, EMOTIONS).text == text


def test_stronger_words_give_more_intensity(lexicon):
    strengths = [
        lexicon.judge([text])[0][1]
        for text in ("It is good.", "It is very good!", "It is GREAT, love it!")
    ]
    assert strengths == sorted(set(strengths))


def test_marks_and_breaks_of_the_user_stay(lexicon):
    text = "<sad intensity=0.2>I love</> <break time=0.3s/>you &amp; them!"
    marked = lexicon.suggest(text, EMOTIONS)
    assert write_marks(marked) == (
        "<sad intensity=0.2>I love</> "
        "<happy intensity=0.7><break time=0.3s/>you &amp; them!</>"
    )


def test_tags_are_no_words(lexicon):
    tags = ["[laughter]", "<strong>"]
    text = "I love [laughter] it, <strong>now."
    marks = write_marks(lexicon.suggest(text, EMOTIONS, tags), tags)
    assert marks == "<happy intensity=0.6>I love [laughter] it, <strong>now.</>"
    assert parse_markup(marks, EMOTIONS, tags=tags).text == text


def test_emotions_that_the_model_lacks_are_not_suggested(lexicon):
    text = "We won! How dare you!"
    marked = lexicon.suggest(text, ["Neutral", "Angry"])
    assert (
        write_marks(marked) == "We won! <Angry intensity=0.5>How dare you!</>"
    )
    with pytest.raises(ValueError, match="the model has calm, whisper"):
        lexicon.suggest(text, ["calm", "whisper"])


def test_what_the_lexicon_cannot_read_is_refused(lexicon):
    with pytest.raises(ValueError, match="English only.*TransformersSuggester"):
        lexicon.suggest("我们赢了。", EMOTIONS)
    with pytest.raises(MarkupError, match="not closed"):
        lexicon.suggest("<happy>We won!", EMOTIONS)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vader", None)
    with pytest.raises(ImportError, match=r"emofilm\[suggest\]"):
        LexiconSuggester()


def test_the_suggester_is_one_line_of_the_hparams(model):
    path = model / "synthesizer.yaml"
    assert "<happy" in suggest_marks("It is good.", path)
    name = "speechbrain_emofilm.inference.suggester.LexiconSuggester"
    with path.open("a") as file:
        file.write(f"suggester: !new:{name} {{threshold: 0.9}}\n")
    assert suggest_marks("It is good.", path) == "It is good."


def test_files_that_describe_no_model_are_named(model):
    path = model / "synthesizer.yaml"
    for content in ("emotions: [", "- a", "modules: {}"):
        path.write_text(content)
        with pytest.raises(ValueError, match="synthesizer.yaml does not"):
            suggest_marks("We won!", path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has no synthesizer.yaml"):
        suggest_marks("We won!", path)


def test_the_suggester_of_a_loaded_model():
    class Synthesizer:
        class hparams:
            suggester = LexiconSuggester(positive="surprise")

        emotions, tags = EMOTIONS, ["[breath]"]

    marked = make_suggest(Synthesizer())("We [breath] won!")
    assert write_marks(marked, ["[breath]"]).startswith("<surprise")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny classifier that finds joy in "good" and else nothing."""
    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "day", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    network = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            hidden_dropout_prob=0.0,
            id2label={0: "neutral", 1: "Joy", 2: "anger"},
            label2id={"neutral": 0, "Joy": 1, "anger": 2},
        )
    )
    data = torch.tensor([[2, 5, 6, 7, 3], [2, 6, 6, 7, 3]])
    target = torch.tensor([1, 0])
    network.eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = network(data, labels=target).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    network.save_pretrained(folder)
    return folder


def test_a_classifier_of_transformers_suggests(classifier):
    suggester = TransformersSuggester(str(classifier))
    marked = suggester.suggest("Good day. Day day.", EMOTIONS)
    assert [word.probs[2] for word in marked.words] == [1, 1, 0, 0]
    assert all(0.5 <= word.intensity <= 1 for word in marked.words[:2])
    # The labels are the user's to map.
    suggester = TransformersSuggester(str(classifier), {"joy": "surprise"})
    marked = suggester.suggest("Good day.", EMOTIONS)
    assert marked.words[0].probs[4] == 1


def test_classifiers_that_do_not_fit_are_named(classifier, tmp_path):
    suggester = TransformersSuggester(str(tmp_path))
    with pytest.raises(ValueError, match="not a text classifier"):
        suggester.judge(["Good day."])
    suggester = TransformersSuggester(str(classifier), {"fury": "angry"})
    with pytest.raises(ValueError, match="neutral, Joy, anger, none of which"):
        suggester.judge(["Good day."])


def test_the_command_prints_marked_text(model, capsys, monkeypatch):
    assert cli.main(["suggest", "We won!", "--model", str(model)]) == 0
    assert capsys.readouterr().out == "<happy intensity=0.6>We won!</>\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("We won!\n"))
    assert cli.main(["suggest", "-", "--model", str(model)]) == 0
    assert capsys.readouterr().out == "<happy intensity=0.6>We won!</>\n"
    for text in (" ", "<happy>We won!"):
        assert cli.main(["suggest", text, "--model", str(model)]) == 2
        output = capsys.readouterr()
        assert not output.out and len(output.err.splitlines()) == 1
