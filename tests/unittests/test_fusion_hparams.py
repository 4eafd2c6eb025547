"""A recipe swaps its fusion by one line of hparams."""

from pathlib import Path

from speechbrain_emofilm.lobes.deep_fusion import DeepFiLM, SteeringFusion
from speechbrain_emofilm.lobes.efilm import (
    AdditiveFusion,
    ConcatenationFusion,
    EmotionEncoder,
    FiLM,
    NoFusion,
)

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml

FOLDER = Path(__file__).parents[2] / "hparams" / "fusion"
FUSIONS = {
    "film": FiLM,
    "addition": AdditiveFusion,
    "concatenation": ConcatenationFusion,
    "none": NoFusion,
    "steering": SteeringFusion,
    "film_deep": DeepFiLM,
}
SIZES = "emotion_dim: !ref <emotion_dim>, text_dim: !ref <text_dim>"
RECIPE = """
emotion_dim: 8
text_dim: 16
backbone: {{text_dim: !ref <text_dim>}}
emotion_encoder: !new:speechbrain_emofilm.lobes.efilm.EmotionEncoder
    n_emotions: 5
    dim: !ref <emotion_dim>
fusion: !include:../{file} {{{options}}}
efilm: !new:speechbrain_emofilm.lobes.efilm.EFiLM
    encoder: !ref <emotion_encoder>
    fusion: !ref <fusion>
"""


@pytest.fixture
def load(tmp_path):
    """Loads a recipe's hparams that lie two folders from the fusion's."""
    (tmp_path / "recipe").mkdir()
    (tmp_path / "fusion").symlink_to(FOLDER)
    path = tmp_path / "recipe" / "train.yaml"

    def load(file, options=SIZES, arguments=()):
        file = f"fusion/{file}"
        path.write_text(RECIPE.format(file=file, options=options))
        _, _, overrides = sb.parse_arguments([str(path), *arguments])
        with open(path) as hparams_file:
            return load_hyperpyyaml(hparams_file, overrides)

    return load


def test_every_fusion_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(FUSIONS)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_included_file_is_the_fusion(name, load):
    hparams = load(f"{name}.yaml")
    fusion = hparams["fusion"]
    assert type(fusion) is FUSIONS[name]
    assert hparams["efilm"].fusion is fusion
    text = torch.randn(2, 3, 16)
    out = hparams["efilm"](
        text, torch.zeros(2, 3).long(), torch.rand(2, 1, 5), torch.ones(2, 1)
    )
    assert out.text_embeddings.shape == text.shape


def test_an_option_is_set_in_the_line(load):
    assert load("film.yaml", SIZES + ", bound: 0.25")["fusion"].bound == 0.25
    unbounded = load("film.yaml", SIZES + ", bound: null")["fusion"]
    assert unbounded.bound is None


def test_the_depths_of_deep_fusions_are_set_in_the_line(load):
    fusion = load("film_deep.yaml", SIZES + ", depths: [0, 0.9]")["fusion"]
    assert fusion.depths == (0, 0.9) and len(fusion.films) == 2
    assert load("steering.yaml", SIZES + ", depth: 0.9")["fusion"].depth == 0.9


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_takes_the_line_of_the_recipe(name, load):
    """It gives a text_scale, too."""
    hparams = load(f"{name}.yaml", SIZES + ", text_scale: 0.03")
    assert type(hparams["fusion"]) is FUSIONS[name]
    assert hparams["efilm"].encoder.n_emotions == 5
    is_usual = type(hparams["efilm"].encoder) is EmotionEncoder
    assert is_usual == (name != "steering")


def test_a_misspelled_option_is_an_error(load):
    with pytest.raises(TypeError, match="bond"):
        load("film.yaml", SIZES + ", bond: 0.25")


def test_a_missing_size_is_an_error(load):
    with pytest.raises(ValueError, match="text_dim.*PLACEHOLDER"):
        load("film.yaml", "emotion_dim: 8")


def test_sizes_follow_the_command_line(load):
    fusion = load("film.yaml", arguments=["--text_dim=24"])["fusion"]
    assert fusion(torch.randn(1, 2, 24), torch.randn(1, 2, 8)).shape[-1] == 24


def test_the_command_line_swaps_the_fusion(load):
    """As film.yaml's comment says."""
    argument = (
        "--fusion=!new:speechbrain_emofilm.lobes.efilm.AdditiveFusion "
        '[!ref "<emotion_dim>", !ref "<backbone[text_dim]>"]'
    )
    hparams = load("film.yaml", arguments=[argument])
    assert type(hparams["fusion"]) is AdditiveFusion
    assert hparams["efilm"].fusion is hparams["fusion"]
