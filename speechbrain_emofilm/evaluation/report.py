"""Evaluation report: one HTML page that shows and plays a model's speech.

The page embeds everything, sound as FLAC and pictures as PNG, so it can be
sent by mail and opened from disk, without a network. It looks as the page of
``emofilm serve`` does, whose styles and drawing code it embeds.
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.metrics.row_stats import write_csv
from speechbrain_emofilm.processing.prosody import FRAME_RATE, prosody_track
from speechbrain_emofilm.utils.colors import emotion_colors
from speechbrain_emofilm.utils.files import atomic_path

import jinja2
import numpy as np
import soundfile
from scipy.signal import spectrogram

TEMPLATES = Path(__file__).parents[1] / "assets" / "report"
#: Files that the report shares with the page of ``emofilm serve``.
SHARED = Path(__file__).parents[1] / "serve" / "static"
#: A grey that is legible on a light and on a dark page.
INK = "#7d838c"
PICTURE_SIZE = (6.4, 2.8)  # inches
N_LINES = 2  # of words above a spectrogram
WORD_SIZE = 7.5  # points
HIGHEST_HZ = 5000
F0_RANGE = (60, 600)  # Hz
DYNAMIC_RANGE = 65  # dB below the loudest


@dataclass(frozen=True)
class AskedWord:
    """A word and the emotion asked of it.

    Arguments
    ---------
    text : str
        The word.
    emotion : str or None
        Asked emotion, if any.
    intensity : float
        Asked intensity, 0 to 1.
    """

    text: str
    emotion: str | None = None
    intensity: float = 1.0


@dataclass(frozen=True)
class Take:
    """A sentence spoken by one system.

    Arguments
    ---------
    system : str
        Name of the system.
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sample rate in Hz.
    words : sequence of Word
        Times of the words; empty if unknown.
    note : str
        Note shown next to the name.
    asked : sequence of AskedWord, optional
        Emotions asked of this take, where they differ from its sample's.
    """

    system: str
    wav: np.ndarray
    sample_rate: int
    words: Sequence[Word] = ()
    note: str = ""
    asked: Sequence[AskedWord] | None = None


@dataclass(frozen=True)
class Sample:
    """A sentence to listen to.

    Arguments
    ---------
    title : str
        Heading.
    words : sequence of AskedWord
        Words with their asked emotions.
    takes : sequence of Take
        The sentence spoken by each system.
    """

    title: str
    words: Sequence[AskedWord]
    takes: Sequence[Take]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Arguments
    ---------
    value : float
        The value.
    low : float
        Lower bound.
    high : float
        Upper bound.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """A row of the table of scores.

    Arguments
    ---------
    name : str
        Name of the score.
    meaning : str
        Explanation in one line.
    values : dict
        System to Estimate.
    format : str
        Format of the values.
    highest : float
        Value at the end of the bars, which begin at 0.
    """

    name: str
    meaning: str
    values: Mapping[str, Estimate]
    format: str = "{:.2f}"
    highest: float = 1.0

    def written(self, estimate: Estimate) -> str:
        """Write a value with its interval.

        Arguments
        ---------
        estimate : Estimate
            The value.

        Returns
        -------
        str
            Such as ``"3.00 [2.50, 3.50]"``.
        """
        low, high = map(self.format.format, (estimate.low, estimate.high))
        # The unit stands behind the value only.
        low, high = (re.sub(r" \w+$", "", end) for end in (low, high))
        return f"{self.format.format(estimate.value)} [{low}, {high}]"


@dataclass(frozen=True)
class Picture:
    """A picture with its explanation.

    Arguments
    ---------
    title : str
        Heading.
    png : bytes
        The image.
    caption : str
        Explanation of the image.
    """

    title: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Finding:
    """Verdict on a known failure of a system.

    Arguments
    ---------
    system : str
        Heading of the system.
    failure : str
        Name of the failure.
    verdict : str
        "found", "not found" or "untested".
    scores : sequence of str
        Scores with the limits that they were compared with.
    remedies : sequence of str
        Hyperparameters to change.
    """

    system: str
    failure: str
    verdict: str
    scores: Sequence[str] = ()
    remedies: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """Content of a page.

    Arguments
    ---------
    title : str
        Heading of the page.
    introduction : sequence of str
        Paragraphs at the top.
    systems : dict
        Name of each system to its heading.
    emotions : sequence of str
        The taxonomy.
    scores : sequence of Score
        Rows of the table of scores.
    samples : sequence of Sample
        Sentences to listen to, the first at the top of the page.
    pictures : sequence of Picture
        Pictures below the table.
    findings : sequence of Finding
        Rows of the table of failures.
    details : dict
        Heading to a dict of options or a text; shown at the end.
    note : str
        Warning that must not be overlooked.
    scores_note : str
        Explanation of the scores.
    findings_note : str
        Explanation of the findings.
    samples_note : str
        Explanation of the choice of samples.
    """

    title: str
    introduction: Sequence[str]
    systems: Mapping[str, str]
    emotions: Sequence[str]
    scores: Sequence[Score]
    samples: Sequence[Sample]
    pictures: Sequence[Picture] = ()
    findings: Sequence[Finding] = ()
    details: Mapping[str, Mapping[str, object] | str] = field(
        default_factory=dict
    )
    note: str = ""
    scores_note: str = ""
    findings_note: str = ""
    samples_note: str = ""


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page.

    Arguments
    ---------
    path : str or Path
        Path of the HTML file.
    report : Report
        Content of the page.

    Returns
    -------
    Path
        `path`.

    Example
    -------
    >>> take = Take("efilm", np.sin(np.arange(12000) / 20), 24000)
    >>> sample = Sample("Hello", [AskedWord("hello", "happy")], [take])
    >>> report = Report(
    ...     "A test", [], {"efilm": "E-FiLM"}, ["neutral", "happy"], [],
    ...     [sample],
    ... )
    >>> path = write_report(getfixture("tmp_path") / "report.html", report)
    >>> "data:audio/flac;base64," in path.read_text()
    True
    """
    colors = emotion_colors(report.emotions)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        **vars(report) | {"systems": list(report.systems)},
        labels=report.systems,
        colors=colors,
        theme=(SHARED / "theme.css").read_text(encoding="utf-8"),
        drawing=_inlined(SHARED / "drawing.js"),
        times=_word_times,
        audio=lambda take: audio_uri(take.wav, take.sample_rate),
        picture=lambda sample, take: png_uri(draw_take(sample, take, colors)),
        png=png_uri,
        percent=_percent,
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def write_score_table(
    folder: str | Path, scores: Sequence[Score], systems: Mapping[str, str]
) -> str:
    """Write a table of scores as ``scores.csv`` and ``scores.md``.

    Arguments
    ---------
    folder : str or Path
        Folder of the two files.
    scores : sequence of Score
        Rows of the table.
    systems : dict
        Name of each system to its heading, in the order of the columns.

    Returns
    -------
    str
        The Markdown table.

    Example
    -------
    >>> score = Score("MOS", "1 to 5.", {"efilm": Estimate(3.0, 2.5, 3.5)})
    >>> systems = {"backbone": "Floor", "efilm": "E-FiLM"}
    >>> folder = getfixture("tmp_path")
    >>> print(write_score_table(folder, [score], systems))
    | | Floor | E-FiLM |
    |---|---|---|
    | MOS | | 3.00 [2.50, 3.50] |
    >>> (folder / "scores.csv").read_text().splitlines()[1]
    'MOS,efilm,3.0,2.5,3.5'
    """
    lines = [["", *systems.values()]]
    rows = []
    for score in scores:
        cells = [score.name]
        for system in systems:
            e = score.values.get(system)
            if e is not None:
                rows.append({"score": score.name, "system": system, **vars(e)})
                cells.append(score.written(e))
            else:
                cells.append("")
        lines.append(cells)
    text = markdown_table(lines)
    write_csv(Path(folder) / "scores.csv", rows)
    with atomic_path(Path(folder) / "scores.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Arguments
    ---------
    lines : sequence of sequence of str
        Cells of each line, the headings first.

    Returns
    -------
    str
        The table.

    Example
    -------
    >>> print(markdown_table([["", "a"], ["b", "1"]]))
    | | a |
    |---|---|
    | b | 1 |
    """
    head, *rows = (
        "|" + "|".join(f" {c} ".replace("  ", " ") for c in cells) + "|"
        for cells in lines
    )
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rows])


def audio_uri(wav: np.ndarray, sample_rate: int) -> str:
    """Encode sound as a data URI that a browser plays.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Sample rate in Hz.

    Returns
    -------
    str
        URI of 16-bit FLAC, about half the size of a wav.

    Example
    -------
    >>> audio_uri(np.zeros(2400), 24000)[:27]
    'data:audio/flac;base64,Zkxh'
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate, "PCM_16", format="FLAC")
    return _uri("audio/flac", buffer.getvalue())


def png_uri(png: bytes) -> str:
    """Encode a PNG as a data URI that a browser shows.

    Arguments
    ---------
    png : bytes
        The image.
    """
    return _uri("image/png", png)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def figure_png(figure, dpi: int = 110, n_colors: int = 128) -> bytes:
    """Render a Matplotlib figure as a small PNG with transparent background.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    dpi : int
        Resolution in dots per inch.
    n_colors : int
        Size of the palette, which shrinks a spectrogram to a third.

    Returns
    -------
    bytes
        The image.
    """
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=dpi, transparent=True)
    image = Image.open(full).convert("RGBA")
    image.quantize(n_colors, Image.Quantize.FASTOCTREE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()


def draw_take(sample: Sample, take: Take, colors: Mapping[str, str]) -> bytes:
    """Draw spectrogram, F0 and the emotion asked of each word.

    Arguments
    ---------
    sample : Sample
        The sentence; its takes share the time axis.
    take : Take
        Take to draw.
    colors : dict
        Emotion to colour.

    Returns
    -------
    bytes
        PNG.
    """
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=PICTURE_SIZE, layout="constrained")
    band, axes = canvas.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [N_LINES, 10]}
    )
    _draw_spectrogram(axes, take)
    _draw_f0(axes.twinx(), take)
    _draw_words(band, axes, take.asked or sample.words, take, colors)
    axes.set_xlim(0, _longest(sample))
    _write_words(canvas, band, sample.words, take)
    axes.set_xlabel("s", color=INK, fontsize=8, labelpad=0)
    return figure_png(canvas)


def _draw_spectrogram(axes, take: Take) -> None:
    window = take.sample_rate // 40
    hertz, seconds, power = spectrogram(
        take.wav, take.sample_rate, "hann", window, window * 4 // 5, 1024
    )
    level = 10 * np.log10(power[hertz <= HIGHEST_HZ] + 1e-12)
    axes.imshow(
        level,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=level.max() - DYNAMIC_RANGE,
        vmax=level.max(),
        extent=(seconds[0], seconds[-1], 0, HIGHEST_HZ / 1000),
        interpolation="bilinear",
    )
    axes.set_ylabel("kHz", color=INK, fontsize=8)
    _quiet(axes)


def _draw_f0(axes, take: Take) -> None:
    log_f0 = prosody_track(take.wav, take.sample_rate).log_f0
    axes.plot(
        np.arange(len(log_f0)) / FRAME_RATE,
        np.exp(log_f0),
        color="#7df9ff",
        linewidth=1.8,
    )
    axes.set_yscale("log")
    axes.set_ylim(*F0_RANGE)
    axes.set_yticks([100, 200, 400], ["100", "200", "400"])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("F0, Hz", color=INK, fontsize=8)
    _quiet(axes)


def _draw_words(band, axes, asked_words, take: Take, colors) -> None:
    """Draw a strip with the words' times in the colours of their emotions."""
    for asked, word in zip(asked_words, take.words):
        color = _pale(colors.get(asked.emotion, "#ffffff"), _strength(asked))
        band.axvspan(word.start, word.end, facecolor=color, edgecolor="white")
        for boundary in (word.start, word.end):
            axes.axvline(boundary, color="white", alpha=0.25, linewidth=0.6)
    band.set_ylim(N_LINES, 0)
    band.set_yticks([])
    _quiet(band)
    band.tick_params(bottom=False)


def _write_words(canvas, band, words: Sequence[AskedWord], take: Take) -> None:
    """Write the words at their times without overlap."""
    canvas.draw_without_rendering()  # gives everything its place
    inverse = band.transData.inverted()
    spoken = list(zip(words, take.words))
    texts, widths = [], []
    for asked, _ in spoken:
        text = band.text(
            0, 0, asked.text, color="#1c2024", fontsize=WORD_SIZE, va="center"
        )
        text.set_in_layout(False)  # nothing has to make room for it
        box = text.get_window_extent().get_points()
        widths.append(float(np.diff(inverse.transform(box)[:, 0])[0]))
        texts.append(text)
    centres = [(word.start + word.end) / 2 for _, word in spoken]
    places = place_words(centres, widths)
    n_used = 1 + max((line for _, line in places), default=0)
    for text, (start, line) in zip(texts, places):
        text.set_position((start, N_LINES * (line + 0.5) / n_used))


def place_words(
    centres: Sequence[float], widths: Sequence[float], n_lines: int = N_LINES
) -> list[tuple[float, int]]:
    """Place words on a few lines without overlap.

    A word that would touch the previous one goes to the next line; if all
    lines are taken, it moves to the right.

    Arguments
    ---------
    centres : sequence of float
        Desired centres of the words, ascending.
    widths : sequence of float
        Widths of the words.
    n_lines : int
        Number of lines.

    Returns
    -------
    list of tuple
        Start and line of each word.

    Example
    -------
    >>> place_words([1.0, 1.5, 5.0], [2.0, 2.0, 2.0])
    [(0.0, 0), (0.5, 1), (4.0, 0)]
    """
    ends = [-np.inf] * n_lines
    places = []
    for centre, width in zip(centres, widths):
        start = centre - width / 2
        free = [line for line, end in enumerate(ends) if end <= start]
        line = free[0] if free else int(np.argmin(ends))
        start = float(max(start, ends[line]))
        ends[line] = start + 1.1 * width  # and a space
        places.append((start, line))
    return places


def _longest(sample: Sample) -> float:
    """Return the duration of the longest take in seconds."""
    return max(len(take.wav) / take.sample_rate for take in sample.takes)


def _quiet(axes) -> None:
    """Remove the frame and make the numbers small and grey."""
    axes.tick_params(colors=INK, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _strength(word: AskedWord) -> float:
    """Return the opacity of a word's colour."""
    return 0.25 + 0.55 * min(max(word.intensity, 0.0), 1.0)


def _pale(color: str, strength: float) -> tuple[float, ...]:
    """Mix a colour with white, so that dark text is legible on it."""
    rgb = np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / 255
    return tuple((1 - strength + strength * rgb).tolist())


def _inlined(module: Path) -> str:
    """Read a JavaScript module as a part of another."""
    source = module.read_text(encoding="utf-8")
    return re.sub(r"^export ", "", source, flags=re.MULTILINE)


def _word_times(take: Take) -> str:
    """Write the times of a take's words for the page's script."""
    return json.dumps(
        [
            {"start": round(word.start, 3), "end": round(word.end, 3)}
            for word in take.words
        ]
    )


def _percent(score: Score, value: float) -> float:
    """Return the length of a bar in percent of the longest."""
    return round(100 * min(max(value / score.highest, 0.0), 1.0), 1)
