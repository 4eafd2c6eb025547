#!/usr/bin/env python3
"""Analyze what E-FiLM has learned: gamma and beta by emotion and intensity.

> python analyze_modulation.py results/emotional_tts/mini/1986

reads the modulation h' = gamma(e) * h + beta(e) of every emotion at the
intensities 0.1 to 1.0 and of every mixture of two emotions, and measures

* whether each emotion makes a cluster: silhouette, and adjusted Rand index of
  k-means, which is not told the emotions. The emotion is an input, which
  makes clusters even without training, so the silhouette of the same weights
  in random order is reported as a baseline;
* whether a mixture lies between its two emotions;
* how large the modulation is relative to the text, by emotion and intensity,
  and how it grew during the training.

A fusion inside the language model has a gamma and a beta at each of its
depths, side by side here; beta is in units of the hidden state, in whose place
the text embedding stands.

It writes, to the model's folder or to `--output_folder`:

* `modulation.safetensors`: `gamma` and `beta`, a row for each point;
* `modulation.json`: the points, with their coordinates in the plot, and scores;
* `modulation.png`: two principal components, and the size of the modulation.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from speechbrain_emofilm.dataio.labels import full_intensity
from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer
from speechbrain_emofilm.lobes.cosyvoice2.modulation import ModulatedEmbeddings
from speechbrain_emofilm.utils.colors import emotion_colors
from speechbrain_emofilm.utils.files import atomic_path, write_json

import numpy as np
import torch
from evaluation_report import read_train_log
from safetensors.torch import save_file

N_SHUFFLES = 5
INTENSITIES = tuple(n / 10 for n in range(1, 11))
TEXT = "We won the game today, but my old friend has left the town."


@dataclass(frozen=True)
class Point:
    """An emotion or a mixture of weights that sum to 1, at an intensity."""

    weights: dict[str, float]
    intensity: float

    @property
    def name(self) -> str:
        """Its emotions, such as ``"happy"`` or ``"happy + sad"``."""
        return " + ".join(self.weights)


@dataclass(frozen=True)
class Modulation:
    """Effect of the fusion on a text embedding h of C elements.

    Arguments
    ---------
    gamma : torch.Tensor
        Factor of h at each of N points, (N, C); of several depths, side by
        side, (N, depths C).
    beta : torch.Tensor
        Offset added to h, of the same shape.
    text_scale : float
        Unit of beta: the root mean square of the elements of h.
    own_scale : bool
        Whether the unit of beta is that of each h instead.
    """

    gamma: torch.Tensor
    beta: torch.Tensor
    text_scale: float = 1.0
    own_scale: bool = False

    @property
    def features(self) -> np.ndarray:
        """Deviations of gamma and beta from no change, (N, 2 C).

        In units that move an embedding equally far.
        """
        beta = self.beta / self.text_scale
        return torch.cat([self.gamma - 1, beta], 1).double().numpy()

    def ratios(self, text_embeddings: torch.Tensor) -> list[float]:
        """Average ||h' - h|| / ||h|| over embeddings (T, C), for each point.

        Example
        -------
        >>> modulation = Modulation(torch.full((1, 4), 1.5), torch.zeros(1, 4))
        >>> modulation.ratios(torch.ones(3, 4))
        [0.5]
        """
        if self.own_scale:
            scale = text_embeddings.square().mean(-1, keepdim=True).sqrt()
            text_embeddings = text_embeddings / scale
        n_depths = self.gamma.shape[1] // text_embeddings.shape[1]
        text_embeddings = text_embeddings.repeat(1, n_depths)
        change = (self.gamma - 1)[:, None] * text_embeddings
        change = change + self.beta[:, None]
        norms = text_embeddings.norm(dim=-1)
        return (change.norm(dim=-1) / norms).mean(1).tolist()


def list_points(emotions: Sequence[str]) -> tuple[list[Point], list[Point]]:
    """List the pure emotions and the mixtures to analyze.

    Each emotion comes at each intensity, neutral once since it has no degrees;
    each pair of emotions comes in equal parts, at full intensity.

    Example
    -------
    >>> pure, mixtures = list_points(["neutral", "happy", "sad"])
    >>> len(pure), [point.name for point in mixtures]
    (21, ['neutral + happy', 'neutral + sad', 'happy + sad'])
    """
    full = dict(
        zip(
            emotions,
            full_intensity(torch.eye(len(emotions)), emotions).tolist(),
        )
    )
    pure = [
        Point({emotion: 1.0}, intensity)
        for emotion in emotions
        for intensity in (INTENSITIES if full[emotion] else (0.0,))
    ]
    mixtures = [
        Point({one: 0.5, other: 0.5}, (full[one] + full[other]) / 2)
        for one, other in combinations(emotions, 2)
    ]
    return pure, mixtures


@torch.no_grad()
def read_modulation(
    efilm: torch.nn.Module,
    points: Sequence[Point],
    emotions: Sequence[str],
    text_dim: int,
) -> Modulation:
    """Read gamma and beta of emotions.

    Raises
    ------
    ValueError
        If the fusion has no gamma and beta: if its output is not affine in the
        text embedding, or is not changed by the emotion.
    """
    device = next(efilm.parameters()).device
    weights = torch.tensor(
        [
            [point.weights.get(name, 0.0) for name in emotions]
            for point in points
        ]
    )
    intensity = torch.tensor([point.intensity for point in points])
    # One utterance with one word of one token for each point.
    emotion = efilm.encoder(
        weights[None].to(device), intensity[None].to(device)
    )

    def fuse(value):
        text = torch.full((1, len(points), text_dim), value, device=device)
        return efilm.fusion(text, emotion)

    kind = type(efilm.fusion).__name__
    inside = fuse(0.0)
    if isinstance(inside, ModulatedEmbeddings):
        modulation = read_depths(inside)
    else:
        scale = float(getattr(efilm.fusion, "text_scale", 1.0))
        beta, above, below = (
            fuse(value)[0].double().cpu() for value in (0.0, scale, -scale)
        )
        gamma = (above - beta) / scale
        tolerance = 1e-4 * scale
        if not torch.allclose(below, beta - gamma * scale, atol=tolerance):
            raise ValueError(
                f"{kind} has no gamma and beta, since it is not affine in the "
                "text: analyse a model trained with FiLM or AdditiveFusion."
            )
        modulation = Modulation(gamma.float(), beta.float(), scale)
    if np.ptp(modulation.features, axis=0).max() < 1e-6:
        raise ValueError(
            f"{kind} does the same for every emotion: train it first, or "
            "analyse a model whose fusion reads the emotion."
        )
    return modulation


def read_depths(text: ModulatedEmbeddings) -> Modulation:
    """Put gamma and beta of all depths of one utterance side by side."""
    shifts = [m.shift[0] for m in text.modulations.values()]
    scales = [
        torch.zeros_like(m.shift[0]) if m.scale is None else m.scale[0]
        for m in text.modulations.values()
    ]
    gamma, beta = 1 + torch.cat(scales, -1), torch.cat(shifts, -1)
    return Modulation(gamma.float().cpu(), beta.float().cpu(), own_scale=True)


def shuffle_weights(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Copy a module, with the elements of each parameter in random order."""
    shuffled = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    for parameter in shuffled.parameters():
        order = torch.randperm(parameter.numel(), generator=generator)
        values = parameter.data.flatten()[order.to(parameter.device)]
        parameter.data = values.view_as(parameter)
    return shuffled


def cluster_scores(features: np.ndarray, names: Sequence[str]) -> dict:
    """Measure how well the emotions make clusters.

    Arguments
    ---------
    features : numpy.ndarray
        (N, D), a row for each point.
    names : list of str
        The emotion of each point.

    Returns
    -------
    dict
        `silhouette`, -1 to 1, the mean over the points, where an emotion with
        a single point counts as 0; `silhouette_by_emotion`;
        `adjusted_rand_index` of as many k-means clusters as there are
        emotions: 1 if they are the emotions, about 0 if they are random.

    Example
    -------
    >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> scores = cluster_scores(features, ["sad", "sad", "happy", "happy"])
    >>> round(scores["silhouette"], 2), scores["adjusted_rand_index"]
    (0.98, 1.0)
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, silhouette_samples

    names = np.array(names)
    values = silhouette_samples(features, names)
    kmeans = KMeans(len(set(names)), n_init=20, random_state=0)
    return {
        "silhouette": float(values.mean()),
        "silhouette_by_emotion": {
            str(name): float(values[names == name].mean())
            for name in dict.fromkeys(names)
        },
        "adjusted_rand_index": float(
            adjusted_rand_score(names, kmeans.fit_predict(features))
        ),
    }


def place_between(
    start: np.ndarray, end: np.ndarray, point: np.ndarray
) -> tuple[float, float]:
    """Project a point on the line through two others; all are (D,).

    Returns
    -------
    position : float
        Nearest position on the line: 0 is `start`, 1 is `end`.
    distance : float
        Distance from the line, in units of the distance of the two.

    Example
    -------
    >>> place_between(np.zeros(2), np.array([2.0, 0.0]), np.array([1.0, 1.0]))
    (0.5, 0.5)
    """
    line = end - start
    position = float((point - start) @ line / (line @ line))
    rest = point - start - position * line
    return position, float(np.linalg.norm(rest) / np.linalg.norm(line))


def principal_components(
    features: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Project points (N, D) on their first two principal components.

    `others` (M, D) are projected alike. The third result is the share of the
    variance of each component.
    """
    mean = features.mean(0)
    _, sizes, axes = np.linalg.svd(features - mean, full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    placed, placed_others = (
        (points - mean) @ axes[:2].T for points in (features, others)
    )
    return placed, placed_others, shares[:2].tolist()


def analyze(
    efilm: torch.nn.Module,
    emotions: Sequence[str],
    text_embeddings: torch.Tensor,
) -> tuple[Modulation, dict]:
    """Compute the modulation and all scores of a model.

    Arguments
    ---------
    efilm : EFiLM
        The trained encoder and fusion.
    emotions : list of str
        The taxonomy, in the model's order.
    text_embeddings : torch.Tensor
        Text (T, C) that the modulation is compared with.

    Returns
    -------
    modulation : Modulation
        That of all points, the mixtures last.
    scores : dict
        Content of modulation.json.
    """
    if len(emotions) < 2:
        raise ValueError(
            f"The model knows {len(emotions)} emotion: the analysis compares "
            "two or more."
        )
    pure, mixtures = list_points(emotions)
    text_dim = text_embeddings.shape[-1]
    modulation = read_modulation(efilm, pure + mixtures, emotions, text_dim)
    features = modulation.features
    n_pure, names = len(pure), [point.name for point in pure]
    shuffled = [
        read_modulation(shuffle_weights(efilm, seed), pure, emotions, text_dim)
        for seed in range(N_SHUFFLES)
    ]
    silhouettes = [
        cluster_scores(other.features, names)["silhouette"]
        for other in shuffled
    ]
    # Without an emotion nothing is changed: this point is the origin.
    placed, others, explained = principal_components(
        features[:n_pure],
        np.concatenate([features[n_pure:], 0 * features[:1]]),
    )
    rows = describe(pure + mixtures, modulation, text_embeddings)
    for row, components in zip(rows, [*placed, *others]):
        row["components"] = np.round(components, 4).tolist()
    # The last point of an emotion has its full intensity.
    strongest = {point.name: index for index, point in enumerate(pure)}
    for index, point in enumerate(mixtures, start=n_pure):
        start, end = (features[strongest[name]] for name in point.weights)
        position, distance = place_between(start, end, features[index])
        rows[index]["position_between"] = round(position, 4)
        rows[index]["distance_from_line"] = round(distance, 4)
    return modulation, {
        "fusion": type(efilm.fusion).__name__,
        "emotions": list(emotions),
        **cluster_scores(features[:n_pure], names),
        "silhouette_shuffled": float(np.mean(silhouettes)),
        "explained_variance": explained,
        "origin": np.round(others[-1], 4).tolist(),
        "points": rows[:n_pure],
        "mixtures": rows[n_pure:],
    }


def describe(
    points: Sequence[Point],
    modulation: Modulation,
    text_embeddings: torch.Tensor,
) -> list[dict]:
    """Measure the size of the modulation at each point.

    `gamma_deviation` and `beta_size` are root mean squares of gamma - 1 and of
    beta, in units of the text.
    """
    deviation = (modulation.gamma - 1).square().mean(1).sqrt()
    shift = modulation.beta.square().mean(1).sqrt() / modulation.text_scale
    return [
        {
            "name": point.name,
            "weights": point.weights,
            "intensity": point.intensity,
            "gamma_deviation": round(float(gamma), 5),
            "beta_size": round(float(beta), 5),
            "modulation_ratio": round(ratio, 5),
        }
        for point, gamma, beta, ratio in zip(
            points, deviation, shift, modulation.ratios(text_embeddings)
        )
    ]


# --- The picture ------------------------------------------------------------


def draw(path: Path, scores: dict) -> None:
    """Draw the points, their sizes and the training as a PNG file."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(13, 4.4), layout="constrained")
    plane, sizes, training = canvas.subplots(1, 3, width_ratios=[1.4, 1, 1])
    colors = emotion_colors(scores["emotions"])
    _draw_plane(plane, scores, colors)
    _draw_sizes(sizes, scores, colors)
    curve = scores["training"]
    training.plot(
        [row["step"] for row in curve],
        [row["modulation_ratio"] for row in curve],
        ".-",
        color="black",
    )
    training.set_title("Modulation through training (validation)", fontsize=10)
    training.set_xlabel("updates")
    training.set_ylim(bottom=0)
    with atomic_path(path) as temporary:
        canvas.savefig(temporary, dpi=130)


def _draw_plane(axes, scores, colors):
    """Plot two principal components: colour by emotion, size by intensity."""
    for emotion, color in colors.items():
        rows = [r for r in scores["points"] if r["name"] == emotion]
        places = np.array([row["components"] for row in rows])
        areas = [20 + 100 * row["intensity"] for row in rows]
        axes.plot(*places.T, color=color, linewidth=0.8, alpha=0.6)
        axes.scatter(*places.T, areas, color=color, alpha=0.8, label=emotion)
    for row in scores["mixtures"]:
        for emotion, marker in zip(row["weights"], ("left", "right")):
            axes.plot(
                *row["components"],
                marker="D",
                markersize=6,
                fillstyle=marker,
                color=colors[emotion],
                markerfacecoloralt="none",
                markeredgecolor="none",
            )
    axes.plot(*scores["origin"], "k+", markersize=10, label="unlabelled")
    first, second = scores["explained_variance"]
    axes.set_xlabel(f"first principal component ({first:.0%})")
    axes.set_ylabel(f"second ({second:.0%})")
    axes.set_title(
        "Gamma and beta; dots grow with intensity, diamonds: mixtures\n"
        f"silhouette {scores['silhouette']:.2f} (weights shuffled: "
        f"{scores['silhouette_shuffled']:.2f}), adjusted Rand index "
        f"{scores['adjusted_rand_index']:.2f}",
        fontsize=10,
    )
    axes.legend(fontsize=8)


def _draw_sizes(axes, scores, colors):
    """Plot the size of the modulation relative to the text, by intensity."""
    for emotion, color in colors.items():
        rows = [r for r in scores["points"] if r["name"] == emotion]
        axes.plot(
            [row["intensity"] for row in rows],
            [row["modulation_ratio"] for row in rows],
            ".-",
            color=color,
        )
    axes.set_title("Modulation relative to the text", fontsize=10)
    axes.set_xlabel("intensity")
    axes.set_ylim(bottom=0)


# --- The script --------------------------------------------------------------


def read_training(log_file: Path) -> list[dict]:
    """Read the validated modulation ratio of each epoch from train_log.txt."""
    curves = read_train_log(log_file)
    if "valid modulation_ratio" not in curves:
        raise FileNotFoundError(
            f"{log_file} tells no modulation_ratio of a validation: give the "
            "output folder of a training by train.py."
        )
    pairs = zip(curves["step"], curves["valid modulation_ratio"])
    return [
        {"step": int(step), "modulation_ratio": float(ratio)}
        for step, ratio in pairs
    ]


def embed(synthesizer: EmoFiLMSynthesizer, text: str) -> torch.Tensor:
    """Embed the tokens of a text's words, (T, C)."""
    units = synthesizer.text_frontend.encode(text)
    ids = torch.tensor(units.ids, device=synthesizer.device)
    with torch.no_grad():
        embeddings = synthesizer.mods.emofilm.llm.embed_text(ids[None])[0]
    return embeddings[torch.tensor(units.word_of_unit) >= 0].float().cpu()


def main(arguments: Sequence[str] | None = None) -> None:
    """Analyze a trained model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("model_folder", type=Path, help="output folder of train.py")
    add("--output_folder", type=Path, help="default: the model folder")
    add("--text", default=TEXT, help="text to compare the modulation with")
    add("--device", default="cpu")
    options = parser.parse_args(arguments)
    folder = options.output_folder or options.model_folder
    training = read_training(options.model_folder / "train_log.txt")
    synthesizer = EmoFiLMSynthesizer.from_hparams(
        options.model_folder, run_opts={"device": options.device}
    )
    modulation, scores = analyze(
        synthesizer.mods.emofilm.efilm,
        synthesizer.emotions,
        embed(synthesizer, options.text),
    )
    scores.update(text=options.text, training=training)
    with atomic_path(folder / "modulation.safetensors") as temporary:
        save_file(
            {"gamma": modulation.gamma, "beta": modulation.beta}, temporary
        )
    write_json(folder / "modulation.json", scores)
    draw(folder / "modulation.png", scores)
    print(
        f"Silhouette {scores['silhouette']:.2f} (weights shuffled: "
        f"{scores['silhouette_shuffled']:.2f}), adjusted Rand index "
        f"{scores['adjusted_rand_index']:.2f}; see "
        f"{folder / 'modulation.json'} and modulation.png."
    )


if __name__ == "__main__":
    main()
