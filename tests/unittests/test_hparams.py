"""A part that the command line swaps is really swapped, or it is an error."""

from speechbrain_emofilm.utils.hparams import check_overrides

import pytest
from hyperpyyaml import load_hyperpyyaml

FILE = """
dim: 4
fusion: !new:torch.nn.Linear
    in_features: !ref <dim>
    out_features: 2
part: !include:part.yaml
    dim: !ref <dim>
"""


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(FILE)
    (tmp_path / "part.yaml").write_text("dim: 1\n")
    (tmp_path / "other.yaml").write_text("dim: 2\n")
    (tmp_path / "norm.yaml").write_text(
        "!new:torch.nn.LayerNorm\nnormalized_shape: 2\n"
    )

    def load(overrides):
        with open(path) as file:
            hparams = load_hyperpyyaml(file, overrides)
        check_overrides(hparams, path, overrides)
        return hparams

    return load


@pytest.mark.parametrize(
    "overrides",
    [
        "fusion: !new:torch.nn.Bilinear {in_features: 4, out_features: 2}",
        "fusion: !include:norm.yaml {in_features: 4}",
    ],
)
def test_a_part_that_was_merged_is_an_error(load, overrides):
    with pytest.raises(ValueError, match="train.yaml: fusion is still a Lin"):
        load(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "dim: 8",
        "fusion: {out_features: 3}",
        "fusion: !new:torch.nn.LayerNorm [2]",
        "fusion: !new:torch.nn.Linear {out_features: 3}",
        "part: !include:other.yaml",
    ],
)
def test_what_was_swapped_as_asked_is_accepted(load, overrides):
    load(overrides)
