"""Emo SIM and discrimination, with known answers."""

import csv
import io
import json

from speechbrain_emofilm.metrics.emotion_similarity import (
    EmotionDiscrimination,
    EmotionSimilarity,
    mean_frame_features,
)

import pytest
import torch


def features(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) + 0.1


def test_identical_speech_has_emo_sim_100():
    similarity = EmotionSimilarity()
    wave = features(3, 20, 8)
    similarity.append(["a", "b", "c"], wave, wave.clone())
    summary = similarity.summarize()
    assert summary["emo_sim"] == pytest.approx(100)
    assert summary["low"] == pytest.approx(100)
    assert summary["measured"] == 3


def test_opposite_features_have_emo_sim_minus_100():
    similarity = EmotionSimilarity()
    similarity.append(["a"], features(1, 5, 3), -features(1, 5, 3))
    assert similarity.summarize("emo_sim") == pytest.approx(-100)


def test_shuffled_words_are_not_seen():
    """The mean knows no order: what the metric misses by design."""
    similarity = EmotionSimilarity()
    wave = features(1, 20, 8)
    similarity.append(["a"], wave, wave[:, torch.randperm(20)])
    assert similarity.summarize("emo_sim") == pytest.approx(100)


def test_padding_does_not_count():
    wave = features(1, 10, 4)
    padded = torch.cat([wave, torch.full((1, 10, 4), torch.nan)], 1)
    mean = mean_frame_features(padded, torch.tensor([0.5]))
    assert torch.allclose(mean, mean_frame_features(wave))


def test_each_emotion_has_its_own_figure():
    similarity = EmotionSimilarity()
    target = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    predict = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    similarity.append(
        ["a", "b"], predict, target, emotions=["neutral", "surprise"]
    )
    by_emotion = similarity.summarize("by_emotion")
    assert by_emotion["neutral"]["emo_sim"] == pytest.approx(100)
    assert by_emotion["surprise"]["emo_sim"] == pytest.approx(0)


def test_silent_and_nan_speech_are_counted_and_not_averaged():
    wave = features(3, 5, 4)
    broken = wave.clone()
    broken[0] = 0.0
    broken[1, 2] = torch.nan
    similarity = EmotionSimilarity()
    similarity.append(["silent", "nan", "good"], broken, wave)
    summary = similarity.summarize()
    assert summary["emo_sim"] == pytest.approx(100)
    assert (summary["utterances"], summary["measured"]) == (3, 1)
    assert summary["failures"] == {
        "silent": "speech silent",
        "nan": "speech not finite",
    }


def test_nothing_measurable_is_none_and_nothing_at_all_an_error():
    similarity = EmotionSimilarity()
    with pytest.raises(ValueError, match="append some"):
        similarity.summarize()
    similarity.append(["a"], torch.zeros(1, 3, 2), features(1, 3, 2))
    assert similarity.summarize("emo_sim") is None


def test_batches_that_do_not_match_are_refused():
    similarity = EmotionSimilarity()
    with pytest.raises(ValueError, match="one of each"):
        similarity.append(["a"], features(2, 3, 4), features(2, 3, 4))
    with pytest.raises(ValueError, match="same features"):
        similarity.append(["a"], features(1, 3, 4), features(1, 3, 5))
    similarity.append(["a"], features(1, 3, 4), features(1, 3, 4))
    with pytest.raises(ValueError, match="a was added before"):
        similarity.append(["a"], features(1, 3, 4), features(1, 3, 4))


def test_rows_and_summary_are_written(tmp_path):
    similarity = EmotionSimilarity()
    wave = features(2, 5, 4)
    broken = wave.clone()
    broken[1] = 0.0
    similarity.append(["a", "b"], broken, wave, emotions=["sad", "sad"])
    similarity.write_rows(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[1]["failure"] == "speech silent" and rows[1]["emo_sim"] == ""
    stream = io.StringIO()
    similarity.write_stats(stream)
    assert json.loads(stream.getvalue())["measured"] == 1


# --- Discrimination -------------------------------------------------------

EMOTIONS = ["neutral", "happy", "sad"]
CANDIDATES = {name: row for name, row in zip(EMOTIONS, torch.eye(3))}


def discriminate(predict, asked):
    discrimination = EmotionDiscrimination()
    ids = [str(index) for index in range(len(asked))]
    discrimination.append(ids, predict, [CANDIDATES] * len(asked), asked)
    return discrimination.summarize()


def test_speech_equal_to_its_reference_is_nearest_to_it():
    summary = discriminate(torch.eye(3)[:, None], EMOTIONS)
    assert summary["accuracy"] == 1.0
    assert summary["chance"] == pytest.approx(1 / 3)
    assert summary["margin"]["margin"] == pytest.approx(100)


def test_swapped_emotions_are_all_wrong():
    summary = discriminate(torch.eye(3)[[1, 0]][:, None], EMOTIONS[:2])
    assert summary["accuracy"] == 0.0
    assert summary["nearest"] == {
        "neutral": {"happy": 1},
        "happy": {"neutral": 1},
    }


def test_a_voice_that_ignores_the_emotion_is_at_chance():
    predict = torch.eye(3)[[0, 0, 0]][:, None]
    assert discriminate(predict, EMOTIONS)["accuracy"] == pytest.approx(1 / 3)


def test_equally_near_is_not_nearest():
    summary = discriminate(torch.ones(1, 1, 3), ["happy"])
    assert summary["accuracy"] == 0.0
    assert summary["margin"]["margin"] == pytest.approx(0)


def test_a_missing_reference_is_counted_as_wrong():
    discrimination = EmotionDiscrimination()
    discrimination.append(
        ["a", "b"],
        torch.eye(3)[:2][:, None],
        [CANDIDATES, {"neutral": torch.eye(3)[0]}],
        ["neutral", "happy"],
    )
    summary = discrimination.summarize()
    assert summary["accuracy"] == 0.5
    assert "no reference in happy" in summary["failures"]["b"]


def test_numbers_must_match():
    with pytest.raises(ValueError, match="one of each"):
        EmotionDiscrimination().append(
            ["a"], torch.ones(1, 1, 3), [CANDIDATES] * 2, ["happy"]
        )
