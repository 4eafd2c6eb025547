"""Colours of the emotions, on the page of ``emofilm serve`` and in reports."""

from collections.abc import Sequence

#: In the order of the taxonomy: the first suits `neutral`, the next ESD's
#: other four.
COLORS = (
    "#8b8d98", "#e5484d", "#f5a524", "#3e8ede", "#a463d8",
    "#12a594", "#e93d82", "#99a811", "#ad7f58",
)  # fmt: skip


def emotion_colors(emotions: Sequence[str]) -> dict[str, str]:
    """Assign a colour to each emotion.

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
