"""What evaluate.py does with a corpus that has no truth about its words."""

import sys
from pathlib import Path

from speechbrain_emofilm.evaluation import systems
from speechbrain_emofilm.evaluation.measuring import Measurement
from speechbrain_emofilm.evaluation.scores import SystemScores
from speechbrain_emofilm.utils.files import read_json, write_json

import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))
import evaluate  # noqa: E402

sys.path.remove(str(RECIPE))

EMOTIONS = ["neutral", "angry"]
TEXTS = ["We won it.", "He left us.", "Come and see."]


@pytest.fixture
def hparams(tmp_path):
    """A test manifest of two speakers, and one sentence without emotion."""
    manifest = {
        f"{speaker}_{emotion}_{index}": {
            "wav": f"{{data_root}}/{speaker}_{emotion}_{index}.wav",
            "speaker": speaker,
            "text": text,
            "emotion": emotion,
        }
        for speaker in ("0011", "0012")
        for emotion in EMOTIONS
        for index, text in enumerate(TEXTS)
    }
    manifest["mixed"] = {**manifest["0011_angry_0"], "emotion": None}
    write_json(tmp_path / "test.json", manifest)
    return {
        "data_folder": str(tmp_path),
        "test_manifests": [tmp_path / "test.json"],
        "emotions": EMOTIONS,
        "baseline_emotion": "neutral",
        "scores": [],
        "predict_mos": False,
        "asr": None,
    }


def load(hparams):
    return evaluate.load_utterances(hparams["test_manifests"], hparams)


def test_words_are_asked_for_the_emotion_of_their_sentence(hparams, caplog):
    utterances = load(hparams)
    assert len(utterances) == 12
    assert "the first is mixed" in caplog.text
    angry = utterances["0012_angry_1"]
    assert angry.emotions == ["angry"] * 3
    assert angry.asked == ()


def test_a_trial_has_all_emotions_speakers_and_sentences(hparams):
    utterances = load(hparams)
    neutral = evaluate.neutral_readings(utterances, "neutral")
    for n in (4, 6):
        chosen = evaluate.choose_utterances(
            utterances, neutral, {**hparams, "max_utterances": n}
        )
        assert len(chosen) == n
        assert len({(u.speaker, u.emotion) for u in chosen}) == 4
        assert {u.text for u in chosen} == set(TEXTS)
    everything = evaluate.choose_utterances(utterances, neutral, hparams)
    assert {u.id for u in everything} == set(utterances)


def test_an_empty_choice_names_the_manifests(hparams):
    with pytest.raises(ValueError, match="test.json have no sentence"):
        evaluate.choose_utterances({}, {}, hparams)


def test_the_summary_says_what_was_left_out_and_why(hparams):
    chosen = list(load(hparams).values())[:2]
    heard = {u.id: Measurement(recognised=u.text, mos=4.0) for u in chosen}
    entry = evaluate.summarise_sentences(chosen, heard, hparams)
    assert entry["wer"]["wer"] == 0
    assert entry["mos"]["mos"] == 4
    assert "not_aligned" not in entry  # no score needed an aligner
    assert set(entry["left_out"]) == set(evaluate.CONTROL_SCORES)
    assert set(entry["left_out"].values()) == {
        "no truth_file and no asked_file"
    }
    entry["scores"] = {"transitions": None, "mos": None, "wer": {}}
    evaluate.explain_gaps(entry)
    assert entry["left_out"]["transitions"] == "no switch of emotion to measure"
    assert entry["left_out"]["mos"] == "no measuring tool"
    assert "wer" not in entry["left_out"]


def test_transitions_of_nothing_are_no_score(hparams):
    class Judge:
        emotions, extractor = EMOTIONS, type("E", (), {})
        extractor.frame_rate, extractor.frame_offset = 50.0, 0.01

    utterances = load(hparams)
    name = "0011_angry_0"
    scores = SystemScores(
        ["transitions", "leakage"], utterances, {name: Measurement()}, Judge()
    )
    scores.add(name, Measurement())
    assert scores.summarize() == {"transitions": None, "leakage": None}
    assert [row["id"] for row in scores.utterance_rows()] == [name]


def test_emo_sim_is_told_by_the_emotion_of_the_sentence(hparams):
    utterances = load(hparams)

    class Judge:
        emotions, extractor = EMOTIONS, None

        def scaled(self, frames, speaker):
            return frames

    heard = {n: Measurement(features=torch.ones(4, 2)) for n in utterances}
    scores = SystemScores(["emo_sim"], utterances, heard, Judge())
    for name, measurement in heard.items():
        scores.add(name, measurement)
    by_emotion = scores.summarize()["emo_sim"]["by_emotion"]
    assert {e: own["measured"] for e, own in by_emotion.items()} == {
        "angry": 6,
        "neutral": 6,
    }


def test_what_only_training_uses_makes_no_other_system():
    torch.manual_seed(0)
    module = torch.nn.ModuleDict({"speech": torch.nn.Linear(2, 2)})
    before = systems.fingerprint(module)
    module["emotion_loss"] = torch.nn.Linear(2, 2)
    assert systems.fingerprint(module) == before
    module["speech"].bias.data += 1
    assert systems.fingerprint(module) != before


def test_voices_of_a_fixed_speaker_cannot_be_exchanged():
    class Fixed:
        mods = type("Mods", (), {"token_to_wav": torch.nn.Identity()})

    model = Fixed()
    assert systems.with_voices(model, None, "cpu") is model
    with pytest.raises(ValueError, match="leave references empty"):
        systems.with_voices(model, "voices.safetensors", "cpu")


def test_a_compared_model_cannot_end_like_a_kind_of_voices(tmp_path):
    with pytest.raises(ValueError, match="such as _matched"):
        systems.load_compared({"efilm_matched": tmp_path}, "cpu")


def test_readings_of_a_sentence_may_be_written_differently(hparams, tmp_path):
    manifest = read_json(tmp_path / "test.json")
    manifest["0011_neutral_0"]["text"] = "we won it"
    write_json(tmp_path / "test.json", manifest)
    utterances = load(hparams)
    neutral = evaluate.neutral_readings(utterances, "neutral")

    class Pool:
        def measure(self, readings, folder, description):
            return {name: reading.wav for name, reading in readings.items()}

    measured = evaluate.measure_neutral(
        Pool(),
        list(utterances.values()),
        {"neutral_reading": neutral},
        {**hparams, "reference_folder": tmp_path},
    )["neutral_reading"]
    assert len(measured) == 6
    assert measured["0011_angry_0"] == f"{tmp_path}/0011_neutral_0.wav"
