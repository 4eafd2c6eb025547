"""One HTML page that shows and plays what a model speaks.

Everything is inside the page: sound as FLAC, pictures as PNG. It can be sent
by mail and opened from disk, without a network.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_emofilm.dataio.alignments import Word
from speechbrain_emofilm.processing.prosody import FRAME_RATE, prosody_track
from speechbrain_emofilm.utils.files import atomic_path

import jinja2
import numpy as np
import soundfile
from scipy.signal import spectrogram

TEMPLATES = Path(__file__).parents[1] / "assets" / "report"
#: Colours of the emotions, in the order of the taxonomy: the first suits
#: `neutral`, the next ESD's other four.
COLORS = (
    "#8b8d98", "#e5484d", "#f5a524", "#3e8ede", "#a463d8",
    "#12a594", "#e93d82", "#99a811", "#ad7f58",
)  # fmt: skip
#: A grey that can be read on a light and on a dark page.
INK = "#7d838c"
PICTURE_SIZE = (6.4, 2.8)  # inches
N_LINES = 2  # of words above a spectrogram
WORD_SIZE = 7.5  # points
HIGHEST_HZ = 5000
F0_RANGE = (60, 600)  # Hz
DYNAMIC_RANGE = 65  # dB below the loudest


@dataclass(frozen=True)
class AskedWord:
    """A word and the emotion that it is to have.

    Arguments
    ---------
    text : str
        The word.
    emotion : str or None
        None where none was asked for.
    intensity : float
        0 to 1.
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
        Its name.
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Samples per second.
    words : sequence of Word
        When each word is spoken; empty if that is not known.
    note : str
        Shown beside the name.
    asked : sequence of AskedWord, optional
        What was asked of this take, where it differs from its sample.
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
        Its heading.
    words : sequence of AskedWord
        What was asked for.
    takes : sequence of Take
        The systems that speak it.
    """

    title: str
    words: Sequence[AskedWord]
    takes: Sequence[Take]


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its 95 % interval.

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
class Figure:
    """A row of the table.

    Arguments
    ---------
    name : str
        What is measured.
    meaning : str
        What it tells, in one line.
    values : dict
        System to Estimate.
    format : str
        Of the values.
    highest : float
        Where the bars end; they begin at 0.
    """

    name: str
    meaning: str
    values: Mapping[str, Estimate]
    format: str = "{:.2f}"
    highest: float = 1.0


@dataclass(frozen=True)
class Picture:
    """A picture with its explanation.

    Arguments
    ---------
    title : str
        Its heading.
    png : bytes
        The image.
    caption : str
        What it shows.
    """

    title: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Finding:
    """Whether a system has a known failure.

    Arguments
    ---------
    system : str
        Heading of the system.
    failure : str
        Its name.
    verdict : str
        "found", "not found" or "untested".
    figures : sequence of str
        Beside their limits.
    remedies : sequence of str
        What to change.
    """

    system: str
    failure: str
    verdict: str
    figures: Sequence[str] = ()
    remedies: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The content of a page.

    Arguments
    ---------
    title : str
        The page's heading.
    introduction : sequence of str
        Paragraphs.
    systems : dict
        Name of each system to its heading.
    emotions : sequence of str
        The taxonomy.
    figures : sequence of Figure
        Rows of the table.
    samples : sequence of Sample
        The first is shown at the top of the page.
    pictures : sequence of Picture
        Shown below the table.
    findings : sequence of Finding
        Rows of a table below the figures.
    details : dict
        Heading to what was used, a dict or a text; shown at the end.
    note : str
        What must not be overlooked.
    figures_note : str
        How the figures are to be read.
    findings_note : str
        How the findings are to be read.
    samples_note : str
        How the samples were chosen.
    """

    title: str
    introduction: Sequence[str]
    systems: Mapping[str, str]
    emotions: Sequence[str]
    figures: Sequence[Figure]
    samples: Sequence[Sample]
    pictures: Sequence[Picture] = ()
    findings: Sequence[Finding] = ()
    details: Mapping[str, Mapping[str, object] | str] = field(
        default_factory=dict
    )
    note: str = ""
    figures_note: str = ""
    findings_note: str = ""
    samples_note: str = ""


def write_report(path: str | Path, report: Report) -> Path:
    """Writes the page.

    Arguments
    ---------
    path : str or Path
        The HTML file.
    report : Report
        Its content.

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
        word_style=lambda word: _word_style(word, colors),
        audio=lambda take: audio_uri(take.wav, take.sample_rate),
        picture=lambda sample, take: png_uri(draw_take(sample, take, colors)),
        png=png_uri,
        percent=_percent,
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def emotion_colors(emotions: Sequence[str]) -> dict[str, str]:
    """Gives each emotion a colour.

    Arguments
    ---------
    emotions : sequence of str
        The taxonomy.

    Returns
    -------
    dict
        Emotion to ``"#rrggbb"``.

    Example
    -------
    >>> emotion_colors(["neutral", "angry"])
    {'neutral': '#8b8d98', 'angry': '#e5484d'}
    """
    return {
        emotion: COLORS[index % len(COLORS)]
        for index, emotion in enumerate(emotions)
    }


def audio_uri(wav: np.ndarray, sample_rate: int) -> str:
    """Packs sound into an address that a browser plays.

    Arguments
    ---------
    wav : numpy.ndarray
        Sound (T,), within -1 and 1.
    sample_rate : int
        Samples per second.

    Returns
    -------
    str
        Of 16-bit FLAC, about half of a wav's size.

    Example
    -------
    >>> audio_uri(np.zeros(2400), 24000)[:27]
    'data:audio/flac;base64,Zkxh'
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate, "PCM_16", format="FLAC")
    return _uri("audio/flac", buffer.getvalue())


def png_uri(png: bytes) -> str:
    """Packs a PNG into an address that a browser shows.

    Arguments
    ---------
    png : bytes
        The image.
    """
    return _uri("image/png", png)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def figure_png(figure, dpi: int = 110, n_colors: int = 128) -> bytes:
    """Makes a small PNG, with transparent background, of a figure.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    dpi : int
        Dots per inch.
    n_colors : int
        Size of the palette; a spectrogram needs a third of the space so.
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
    """Draws spectrogram, F0 and the emotion asked of each word.

    Arguments
    ---------
    sample : Sample
        The sentence; its takes share the time axis.
    take : Take
        The one to draw.
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
    """A strip of the words' places, in the colour of their emotion."""
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
    """Writes the words where they are spoken, none over another."""
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
    """Finds room for words on a few lines.

    A word that would touch the one before goes to the next line; where all
    lines are taken, it moves to the right.

    Arguments
    ---------
    centres : sequence of float
        Where the words belong, ascending.
    widths : sequence of float
        How much room they take.
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
    """Seconds of the longest take, the width of every picture."""
    return max(len(take.wav) / take.sample_rate for take in sample.takes)


def _quiet(axes) -> None:
    """Lets the picture speak: no frame, small grey numbers."""
    axes.tick_params(colors=INK, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _strength(word: AskedWord) -> float:
    """Opacity of a word's colour."""
    return 0.25 + 0.55 * min(max(word.intensity, 0.0), 1.0)


def _pale(color: str, strength: float) -> tuple[float, ...]:
    """Mixes a colour with white, so that dark text can be read on it."""
    rgb = np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / 255
    return tuple((1 - strength + strength * rgb).tolist())


def _word_style(word: AskedWord, colors: Mapping[str, str]) -> str:
    color = colors.get(word.emotion)
    if color is None:
        return ""
    return f"background: {color}{round(200 * _strength(word)):02x}"


def _percent(figure: Figure, value: float) -> float:
    """Length of a bar in percent of the longest."""
    return round(100 * min(max(value / figure.highest, 0.0), 1.0), 1)
