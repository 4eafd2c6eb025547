"""How readings are ranked and paired, and which judges may judge them."""

import sys
from pathlib import Path
from unittest import mock

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.dataio.labels import UtteranceLabels, WordLabel
from speechbrain_emofilm.evaluation.measuring import Measurement
from speechbrain_emofilm.evaluation.systems import Utterance

import numpy as np
import pytest
import torch

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
# Other recipes have a module called train, too.
_train = sys.modules.pop("train", None)
with mock.patch.object(sys, "path", [str(RECIPE), *sys.path]):
    import evaluate_preference
    import preference_judge
    import sample_pairs
sys.modules.pop("train")
if _train is not None:
    sys.modules["train"] = _train


def reading(score, lost=0, found=True):
    return {"score": score, "lost": lost, "found": found}


# --- Pairs ----------------------------------------------------------------


def test_the_best_reading_is_chosen_and_the_worst_rejected():
    readings = {"a": reading(0.2), "b": reading(0.9), "c": reading(0.6)}
    assert sample_pairs.choose_pairs(readings, 0.1, 9) == [("b", "a")]


def test_no_reading_is_in_two_pairs():
    readings = {n: reading(s) for n, s in zip("abcd", (0.1, 0.2, 0.8, 0.9))}
    pairs = sample_pairs.choose_pairs(readings, 0.1, 9)
    assert pairs == [("d", "a"), ("c", "b")]
    assert sample_pairs.choose_pairs(readings, 0.1, 1) == [("d", "a")]


def test_a_small_lead_makes_no_pair():
    readings = {"a": reading(0.5), "b": reading(0.6)}
    assert sample_pairs.choose_pairs(readings, 0.2, 9) == []


def test_a_reading_that_lost_more_words_is_never_chosen():
    readings = {
        "emotional": reading(0.9, lost=2),
        "whole": reading(0.5, lost=0),
        "poor": reading(0.1, lost=3),
    }
    pairs = sample_pairs.choose_pairs(readings, 0.1, 9)
    assert pairs == [("emotional", "poor")]
    readings["poor"]["lost"] = 1
    assert sample_pairs.choose_pairs(readings, 0.1, 9) == [("whole", "poor")]


def test_a_reading_without_its_words_is_never_chosen():
    readings = {"a": reading(0.9, found=False), "b": reading(0.1)}
    assert sample_pairs.choose_pairs(readings, 0.1, 9) == []


def utterance(name, text="We won it.", emotion="happy", speaker="0011"):
    words = [
        WordLabel(word.strip("."), 0.1 * i, 0.1 * i + 0.1, emotion)
        for i, word in enumerate(text.split())
    ]
    return Utterance(
        name, f"{name}.wav", speaker, text, emotion, UtteranceLabels(words)
    )


class Loudness:
    """A judge to which words of a high feature are happy."""

    emotions = ["happy", "sad"]

    def posteriors(self, speaker, measured, neutral):
        if measured.words is None:
            return None
        happy = float(measured.features.mean())
        return np.array([[happy, 1 - happy]] * len(measured.words))


def measurement(level, recognised="we won it", found=True):
    words = [Word(w, 0.0, 0.1) for w in ("We", "won", "it")]
    return Measurement(
        words=words if found else None,
        recognised=recognised,
        features=torch.full((3, 1), level),
    )


WEIGHTS = {"emotion": 1.0, "recognised": 0.5, "coverage": 0.25}


def test_a_score_has_emotion_recognised_words_and_coverage():
    u = utterance("a")
    measured = {
        "a@0": measurement(0.8),
        "a@1": measurement(0.8, "we lost"),
        "a@2": measurement(0.8, found=False),
    }
    scored = sample_pairs.score_readings(
        dict.fromkeys(measured, u),
        measured,
        {("0011", sample_pairs.place_of(u)[1]): None},
        Loudness(),
        WEIGHTS,
        {"a@0": 0, "a@1": 1, "a@2": 0},
    )
    assert scored["a@0"]["score"] == pytest.approx(0.8 + 0.5 + 0.25)
    assert scored["a@1"]["lost"] == 2 + 1
    assert scored["a@1"]["score"] == pytest.approx(
        0.8 + 0.5 / 3 + 0.25 * 2 / 3, abs=1e-3
    )
    assert (scored["a@2"]["emotion"], scored["a@2"]["found"]) == (0, False)


def test_without_coverage_the_recogniser_alone_counts_lost_words():
    u = utterance("a")
    scored = sample_pairs.score_readings(
        {"a@0": u},
        {"a@0": measurement(0.5, "we won")},
        {sample_pairs.place_of(u): None},
        Loudness(),
        WEIGHTS,
    )
    assert scored["a@0"]["lost"] == 1


def test_a_larger_number_adds_to_the_same_sentences():
    candidates = {f"s{i}": utterance(f"s{i}") for i in range(20)}
    hparams = {"seed": 3, "n_mixed": 5, "n_single": 4}
    chosen = sample_pairs.choose_sampled(candidates, hparams)
    assert len(chosen) == 4
    assert list(sample_pairs.choose_sampled(candidates, hparams)) == list(
        chosen
    )


# --- Judges ---------------------------------------------------------------


def test_the_judges_share_no_sentence():
    texts = ["We won.", "we won!", "He left.", "Come here.", "Go away."]
    utterances = {f"u{i}": utterance(f"u{i}", t) for i, t in enumerate(texts)}
    halves = preference_judge.sentence_halves(utterances)
    assert set(halves[0]) | set(halves[1]) == set(utterances)
    assert not set(halves[0]) & set(halves[1]) and all(halves)
    assert ("u0" in halves[0]) == ("u1" in halves[0])


def test_judges_that_share_utterances_are_refused():
    one = preference_judge.judge_record(["whisper_encoder"], ["a", "b"])
    other = preference_judge.evaluation_record(["b", "c"])
    with pytest.raises(ValueError, match="share 1 utterances, such as b,"):
        preference_judge.check_independence(one, other)


def test_judges_that_share_features_are_refused():
    class Prosody:
        model_name = "whisper_prosody"
        config = {"prosody": ["log_f0", "voicing"]}

    one = preference_judge.judge_record(
        preference_judge.feature_names(Prosody), ["a"]
    )
    other = preference_judge.evaluation_record(["b"])
    with pytest.raises(ValueError, match="share 1 features, such as f0,"):
        preference_judge.check_independence(one, other)


def test_independent_judges_are_accepted():
    class Encoder:
        model_name = "whisper_encoder"
        config = {"padding": 1.0}

    one = preference_judge.judge_record(
        preference_judge.feature_names(Encoder), ["a"]
    )
    preference_judge.check_independence(
        one, preference_judge.evaluation_record(["b"])
    )


class LevelFeatures:
    frame_rate, frame_offset = 50.0, 0.0
    model_name, config = "level", {}


def natural(level, n_words=3):
    return Measurement(
        features=torch.full((20, 1), level),
        words=[Word("w", 0.1 * i, 0.1 * i + 0.1) for i in range(n_words)],
    )


@pytest.fixture
def judge(monkeypatch):
    """A judge that has heard one happy and one sad sentence."""
    monkeypatch.setattr(preference_judge, "ALPHA", 1e-3)
    trained = preference_judge.RewardJudge(LevelFeatures(), ["happy", "sad"])
    utterances = {
        name: utterance(name, text, emotion)
        for name, text, emotion in (
            ("h", "We won it.", "happy"), ("s", "He left us.", "sad"),
        )
    }  # fmt: skip
    neutral = {
        sample_pairs.place_of(u): utterance(f"n{u.id}", u.text, "neutral")
        for u in utterances.values()
    }
    levels = {"h": 5.0, "nh": 4.0, "s": 8.0, "ns": 9.0}
    trained.learn(
        utterances, neutral, {n: natural(v) for n, v in levels.items()}
    )
    return trained


def test_a_word_is_judged_by_its_change_from_the_neutral_reading(judge):
    def best(level, baseline):
        posteriors = judge.posteriors("0011", natural(level), natural(baseline))
        return [judge.emotions[i] for i in posteriors.argmax(1)]

    assert best(3.0, 2.0) == ["happy"] * 3
    assert best(3.0, 4.0) == ["sad"] * 3
    assert judge.record == {
        "features": ["level"],
        "utterances": ["h", "nh", "ns", "s"],
    }


def test_words_that_are_not_found_are_not_judged(judge):
    lost = Measurement(features=torch.ones(20, 1))
    assert judge.posteriors("0011", lost, natural(1.0)) is None
    assert judge.posteriors("0011", natural(1.0), lost) is None
    assert judge.posteriors("0011", natural(1.0, 2), natural(1.0)) is None


def test_missing_emotions_are_named():
    judge = preference_judge.RewardJudge(LevelFeatures(), ["happy", "sad"])
    u = utterance("h")
    baseline = utterance("n", emotion="neutral")
    with pytest.raises(ValueError, match="learns from has no sad"):
        judge.learn(
            {"h": u},
            {sample_pairs.place_of(u): baseline},
            {"h": natural(1.0), "n": natural(0.0)},
        )


# --- Before and after -----------------------------------------------------


def moved(**directions):
    """Differences with intervals above 0, below it, or around it."""
    return {
        name: {
            "difference": 0.1 * way,
            "low": 0.1 * way - 0.05,
            "high": 0.1 * way + 0.05,
        }
        for name, way in directions.items()
    }


@pytest.mark.parametrize(
    "directions, verdict",
    [
        ({"independent_judge": 1, "reward_judge": 1}, "gain: "),
        ({"independent_judge": 0, "reward_judge": 1}, "reward hacking: "),
        ({"independent_judge": -1, "reward_judge": 1}, "reward hacking: "),
        ({"independent_judge": 0, "reward_judge": 0}, "no gain: "),
        ({"independent_judge": -1, "reward_judge": 0}, "loss: "),
        (
            {"independent_judge": 1, "reward_judge": 1, "wer": 1, "mos": -1},
            "worse: Word error rate, Predicted MOS",
        ),
        ({"independent_judge": 1, "wer": -1, "mos": 1}, "hears it"),
    ],
)
def test_a_verdict_names_gain_hacking_and_cost(directions, verdict):
    found = evaluate_preference.judge_gain(moved(**directions))
    assert verdict in found
    assert ("worse" in found) == (
        directions.get("wer", 0) > 0
        or directions.get("mos", 0) < 0
        or directions.get("independent_judge", 0) < 0
    )


def test_differences_are_of_pairs_of_utterances():
    hard_and_easy = {"hard": (0, 10), "easy": (10, 10)}
    before = {u: {"wer": np.array(s)} for u, s in hard_and_easy.items()}
    after = {
        u: {"wer": np.array([right + 1, n])}
        for u, (right, n) in hard_and_easy.items()
    }
    found = evaluate_preference.compare(after, before)["wer"]
    assert found["difference"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(0.1) == found["high"]


def test_a_sentence_whose_words_are_lost_has_none_as_asked():
    class Prosody:
        def predict(self, changes):
            return ["happy"] * len(changes)

    u = utterance("a")
    for found, right in ((True, 3), (False, 0)):
        m = measurement(0.9, found=found)
        if found:
            m = Measurement(**{**vars(m), "change": [[0.0] * 6] * 3})
        sums = evaluate_preference.score_utterance(
            u, m, None, m, Loudness(), Prosody()
        )
        assert sums["independent_judge"] == sums["reward_judge"] == (right, 3)
        assert sums["not_found"] == (float(not found), 1)
        assert sums["wer"] == (0, 3) and "mos" not in sums
