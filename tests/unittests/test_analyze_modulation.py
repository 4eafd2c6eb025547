"""What analyze_modulation.py reads from an E-FiLM, and what it says of it."""

import sys
from pathlib import Path

from speechbrain_emofilm.lobes.deep_fusion import DeepFiLM, SteeringFusion
from speechbrain_emofilm.lobes.efilm import (
    AdditiveFusion,
    ConcatenationFusion,
    EFiLM,
    EmotionEncoder,
    FiLM,
    NoFusion,
)

import numpy as np
import pytest
import torch
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "ESD" / "emotional_tts"
sys.path.insert(0, str(RECIPE))
import analyze_modulation  # noqa: E402

sys.path.remove(str(RECIPE))

EMOTIONS = ["neutral", "angry", "happy", "sad"]
TEXT_DIM, SCALE = 6, 0.1


def make_efilm(fusion, seed=0):
    """One whose encoder tells emotions apart, as after training."""
    torch.manual_seed(seed)
    encoder = EmotionEncoder(len(EMOTIONS), dim=4)
    torch.nn.init.normal_(encoder.output_layer.weight)
    return EFiLM(encoder, fusion)


def film():
    return FiLM(4, TEXT_DIM, bound=0.5, text_scale=SCALE)


def analyze(efilm):
    text = SCALE * torch.randn(7, TEXT_DIM)
    return analyze_modulation.analyze(efilm, EMOTIONS, text)


@pytest.mark.parametrize(
    "fusion", [film(), AdditiveFusion(4, TEXT_DIM, SCALE)], ids=["film", "add"]
)
def test_gamma_and_beta_are_what_the_fusion_does(fusion):
    efilm = make_efilm(fusion)
    points, _ = analyze_modulation.list_points(EMOTIONS)
    modulation = analyze_modulation.read_modulation(
        efilm, points, EMOTIONS, TEXT_DIM
    )
    text = SCALE * torch.randn(1, len(points), TEXT_DIM)
    weights = torch.tensor(
        [[point.weights.get(k, 0.0) for k in EMOTIONS] for point in points]
    )
    intensity = torch.tensor([point.intensity for point in points])
    emotion = efilm.encoder(weights[None], intensity[None])
    expected = fusion(text, emotion)[0]
    said = modulation.gamma * text[0] + modulation.beta
    assert torch.allclose(said, expected, atol=1e-5)
    if isinstance(fusion, AdditiveFusion):
        ones = torch.ones_like(modulation.gamma)
        assert torch.allclose(modulation.gamma, ones, atol=1e-4)


def test_a_fusion_without_gamma_and_beta_is_refused():
    efilm = make_efilm(ConcatenationFusion(4, TEXT_DIM, 8, SCALE))
    with pytest.raises(ValueError, match="ConcatenationFusion has no gamma"):
        analyze(efilm)


@pytest.mark.parametrize(
    "fusion, n_depths",
    [
        (DeepFiLM(4, TEXT_DIM, [0, 0.5], bound=0.5), 2),
        (SteeringFusion(4, TEXT_DIM), 1),
    ],
    ids=["film_deep", "steering"],
)
def test_fusions_inside_the_language_model_are_analysed(fusion, n_depths):
    efilm = make_efilm(fusion)
    if n_depths == 1:
        for vectors in efilm.encoder.parameters():
            torch.nn.init.normal_(vectors)
    modulation, scores = analyze(efilm)
    assert modulation.gamma.shape[1] == n_depths * TEXT_DIM
    sizes = {
        row["intensity"]: row["modulation_ratio"]
        for row in scores["points"]
        if row["name"] == "sad"
    }
    assert sizes[1.0] != sizes[0.5] > 0
    # The script and the training measure the same.
    text = torch.randn(1, 7, TEXT_DIM)
    out = efilm(
        text,
        torch.zeros(1, 7, dtype=torch.long),
        torch.eye(len(EMOTIONS))[None, 3:],
        torch.ones(1, 1),
    )
    pure, _ = analyze_modulation.list_points(EMOTIONS)
    said = analyze_modulation.read_modulation(efilm, pure, EMOTIONS, TEXT_DIM)
    assert said.ratios(text[0])[-1] == pytest.approx(
        out.modulation_ratio.item(), rel=1e-3
    )


@pytest.mark.parametrize(
    "efilm",
    [
        make_efilm(NoFusion()),
        EFiLM(EmotionEncoder(len(EMOTIONS), dim=4), film()),
        EFiLM(
            EmotionEncoder(len(EMOTIONS), dim=4), SteeringFusion(4, TEXT_DIM)
        ),
    ],
    ids=["none", "untrained", "untrained_steering"],
)
def test_a_model_that_ignores_the_emotion_is_refused(efilm):
    with pytest.raises(ValueError, match="the same for every emotion"):
        analyze(efilm)


def test_one_emotion_cannot_be_compared():
    with pytest.raises(ValueError, match="knows 1 emotion"):
        analyze_modulation.analyze(
            make_efilm(film()), ["happy"], torch.ones(1, TEXT_DIM)
        )


def test_each_emotion_has_ten_intensities_and_neutral_has_none():
    pure, mixtures = analyze_modulation.list_points(EMOTIONS)
    found = [point.intensity for point in pure if point.name == "sad"]
    assert found == pytest.approx(np.arange(1, 11) / 10)
    assert [p.intensity for p in pure if p.name == "neutral"] == [0.0]
    assert len(mixtures) == 6
    assert {point.intensity for point in mixtures} == {0.5, 1.0}


def test_clusters_that_are_the_emotions_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    names = ["angry", "happy", "sad"] * 10
    apart = np.array([[10.0 * "ahs".index(name[0])] for name in names])
    apart = apart + rng.normal(size=(30, 1))
    scores = analyze_modulation.cluster_scores(apart, names)
    assert scores["silhouette"] > 0.7
    assert scores["adjusted_rand_index"] == 1.0
    assert set(scores["silhouette_by_emotion"]) == set(names)
    mixed = rng.normal(size=(30, 1))
    scores = analyze_modulation.cluster_scores(mixed, names)
    assert scores["silhouette"] < 0.1
    assert scores["adjusted_rand_index"] < 0.2


def test_shuffled_weights_are_the_same_in_another_order():
    efilm = make_efilm(film())
    before = {k: v.clone() for k, v in efilm.state_dict().items()}
    shuffled = analyze_modulation.shuffle_weights(efilm, 0)
    for name, value in shuffled.state_dict().items():
        assert torch.equal(efilm.state_dict()[name], before[name])
        assert torch.equal(
            value.flatten().sort().values, before[name].flatten().sort().values
        )
    assert not torch.equal(
        shuffled.fusion.gamma.weight, efilm.fusion.gamma.weight
    )


def test_emotions_that_are_confused_make_no_cluster():
    efilm = make_efilm(film())
    weight = efilm.encoder.input_layer.weight.data
    # Angry, happy and sad are one to the encoder, and their intensities.
    for columns in (slice(1, 4), slice(5, 8)):
        weight[:, columns] = weight[:, columns].mean(1, keepdim=True)
    _, scores = analyze(efilm)
    assert scores["silhouette"] < 0 < scores["silhouette_shuffled"]
    assert scores["adjusted_rand_index"] < 0.2


def test_mixtures_of_a_linear_model_lie_on_the_line():
    efilm = make_efilm(AdditiveFusion(4, TEXT_DIM, SCALE))
    # A linear encoder: of a class and its intensity, without a bias.
    efilm.encoder.input_layer.bias.data.zero_()
    efilm.encoder.forward = lambda emotions, intensity: (
        efilm.encoder.output_layer(
            efilm.encoder.input_layer(
                torch.cat([emotions, emotions * intensity[..., None]], -1)
            )
        )
    )
    _, scores = analyze(efilm)
    (row,) = [r for r in scores["mixtures"] if r["name"] == "angry + sad"]
    assert row["position_between"] == pytest.approx(0.5, abs=1e-3)
    assert row["distance_from_line"] == pytest.approx(0.0, abs=1e-3)


def test_the_scores_fit_the_vectors_they_describe():
    modulation, scores = analyze(make_efilm(film()))
    rows = scores["points"] + scores["mixtures"]
    assert len(rows) == len(modulation.gamma) == len(modulation.beta)
    index = next(i for i, row in enumerate(rows) if row["name"] == "sad")
    deviation = (modulation.gamma[index] - 1).pow(2).mean().sqrt()
    assert rows[index]["gamma_deviation"] == pytest.approx(
        float(deviation), abs=1e-4
    )
    beta_size = modulation.beta[index].pow(2).mean().sqrt() / SCALE
    assert rows[index]["beta_size"] == pytest.approx(float(beta_size), abs=1e-4)
    first, second = scores["explained_variance"]
    assert 0 <= second <= first <= 1
    places = np.array([row["components"] for row in scores["points"]])
    # Components are centred, and the first varies most.
    assert np.allclose(places.mean(0), 0, atol=1e-3)
    assert places.var(0)[0] >= places.var(0)[1]


def test_the_picture_shows_every_emotion_in_its_colour(tmp_path):
    _, scores = analyze(make_efilm(film()))
    scores["training"] = [
        {"step": step, "modulation_ratio": ratio}
        for step, ratio in [(50, 0.1), (100, 0.2)]
    ]
    path = tmp_path / "modulation.png"
    analyze_modulation.draw(path, scores)
    with Image.open(path) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(2**20)}
    # Dots are a little transparent, lines of the second panel are not.
    for code in analyze_modulation.emotion_colors(EMOTIONS).values():
        wanted = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)])
        nearest = min(np.abs(wanted - color).max() for color in colors)
        assert nearest < 8, code


def test_the_modulation_of_each_epoch_is_read_from_the_log(tmp_path):
    log = tmp_path / "train_log.txt"
    log.write_text(
        "epoch: 1, step: 53 - train loss: 3.7 - valid loss: 3.6, "
        "valid modulation_ratio: 2.5e-01\n"
        "epoch: 2, step: 106 - train loss: 3.6 - valid loss: 3.5, "
        "valid modulation_ratio: 3.2e-01\n"
        "Epoch loaded: 2 - test loss: 3.6, test modulation_ratio: 9.9\n"
    )
    assert analyze_modulation.read_training(log) == [
        {"step": 53, "modulation_ratio": 0.25},
        {"step": 106, "modulation_ratio": 0.32},
    ]


def test_a_folder_without_a_training_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_log.txt tells no"):
        analyze_modulation.main([str(tmp_path)])
