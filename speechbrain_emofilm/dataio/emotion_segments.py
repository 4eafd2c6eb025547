"""Recordings whose emotions are annotated in time, as segments.

Two sources are read into the same :class:`SegmentedRecording`: the Zaion
Emotion Dataset (:func:`read_zed`), and CSV or JSON lines of any other corpus
(:func:`read_segments`). Time outside of the segments is neutral.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from speechbrain_emofilm.dataio.labels import UtteranceLabels
from speechbrain_emofilm.dataio.tables import read_table, read_text
from speechbrain_emofilm.utils.files import read_json

ZED_FILE = "ZED.json"
#: Folder name that stands for the corpus folder in the paths of ZED.json.
ZED_PLACEHOLDER = "datafolder"
#: Seconds by which segments may overlap or exceed the recording: annotations
#: are rounded, and so are stated durations.
TOLERANCE = 0.1
_TIME_COLUMNS = ("start", "end", "emotion")


@dataclass(frozen=True)
class EmotionSegment:
    """A stretch of time with one emotion.

    Arguments
    ---------
    start, end : float
        Start and end, in seconds.
    emotion : str
        The emotion.
    """

    start: float
    end: float
    emotion: str


@dataclass(frozen=True)
class SegmentedRecording:
    """A recording with its annotated emotions.

    Arguments
    ---------
    id : str
        Name of the recording, unique in its corpus.
    audio : Path
        The audio file; whether it exists is not checked.
    segments : tuple of EmotionSegment
        Segments in order of time, without overlap.
    text : str or None
        Transcript, None if there is none.
    duration : float or None
        Stated duration in seconds, None if there is none.
    """

    id: str
    audio: Path
    segments: tuple[EmotionSegment, ...]
    text: str | None = None
    duration: float | None = None


def read_zed(folder: str | Path) -> list[SegmentedRecording]:
    """Read the Zaion Emotion Dataset.

    ``ZED.json`` maps each id to ``wav``, ``duration``, ``emotion`` (a list of
    ``emo``, ``start``, ``end``) and, optionally, ``transcription``. A ``wav``
    that begins with ``datafolder``, or is relative, is sought in the folder.

    Arguments
    ---------
    folder : str or Path
        Folder that holds ``ZED.json``.

    Returns
    -------
    list of SegmentedRecording
        One for each id, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no ``ZED.json``.
    ValueError
        If an entry is wrong: the message names the file, the recording and
        the correction.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "ZED.json").write_text(json.dumps({"a": {
    ...     "wav": "datafolder/speaker1/a.wav", "duration": 3.0,
    ...     "emotion": [{"emo": "happy", "start": 1.0, "end": 2.5}]}}))
    >>> recording, = read_zed(folder)
    >>> recording.segments
    (EmotionSegment(start=1.0, end=2.5, emotion='happy'),)
    >>> str(recording.audio.relative_to(folder))
    'speaker1/a.wav'
    """
    path = Path(folder) / ZED_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {ZED_FILE}: give the folder of the unpacked "
            "Zaion Emotion Dataset."
        )
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(
            f"{path} holds no recordings: it must be an object with an entry "
            "for each recording; unpack the dataset again."
        )
    recordings = []
    for name, entry in content.items():
        place = f"{path}, recording {name}"
        _check_object(entry, ("wav", "duration", "emotion"), place)
        wav = PurePosixPath(_text(entry["wav"], "wav", place))
        if wav.parts[0] == ZED_PLACEHOLDER:
            wav = PurePosixPath(*wav.parts[1:])
        duration = _seconds(entry["duration"], "duration", place)
        segments = _segments(entry["emotion"], "emotion", "emo", place)
        _check_end(segments, duration, place)
        text = entry.get("transcription")
        if text is not None:
            text = _text(text, "transcription", place, empty=True)
        recordings.append(
            SegmentedRecording(
                name, Path(folder) / wav, segments, text or None, duration
            )
        )
    return recordings


def read_segments(
    path: str | Path, audio_folder: str | Path | None = None
) -> list[SegmentedRecording]:
    r"""Read annotated recordings from CSV or JSON lines.

    A CSV file has a row for each segment, with the columns ``audio``,
    ``start``, ``end``, ``emotion`` and, optionally, ``text``; a row with an
    empty ``start``, ``end`` and ``emotion`` declares a recording without
    segments. JSON lines (``.jsonl``) have an object for each recording, with
    ``audio``, ``segments`` (a list of ``start``, ``end``, ``emotion``) and,
    optionally, ``text``. Times are in seconds.

    Arguments
    ---------
    path : str or Path
        File to read, ``.csv``, ``.tsv`` or ``.jsonl``.
    audio_folder : str or Path, optional
        Folder of relative audio paths; by default that of `path`.

    Returns
    -------
    list of SegmentedRecording
        One for each audio file, in the order of their first mention. The id
        is the audio path as it is written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, empty, or holds a wrong entry: the
        message names the file, the line and the correction.

    Example
    -------
    >>> path = getfixture("tmp_path") / "segments.csv"
    >>> _ = path.write_text(
    ...     "audio,start,end,emotion,text\n"
    ...     "a.wav,0.5,1.0,happy,We won\n"
    ...     "a.wav,1.0,2.0,sad,\n"
    ... )
    >>> recording, = read_segments(path)
    >>> [segment.emotion for segment in recording.segments], recording.text
    (['happy', 'sad'], 'We won')
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        entries = _csv_entries(path)
    elif suffix == ".jsonl":
        entries = _jsonl_entries(path)
    else:
        raise ValueError(
            f"{path}: segments are read from .csv, .tsv or .jsonl, not from "
            f"{suffix or 'a file without suffix'}; convert or rename the file."
        )
    if not entries:
        raise ValueError(f"{path} holds no recordings: add some.")
    folder = Path(path).parent if audio_folder is None else Path(audio_folder)
    return [
        SegmentedRecording(
            audio,
            folder / audio,
            _segments(entry["segments"], "segments", "emotion", entry["place"]),
            entry["text"] or None,
        )
        for audio, entry in entries.items()
    ]


def _csv_entries(path) -> dict[str, dict]:
    """Group the rows of a CSV file by audio."""
    entries: dict[str, dict] = {}
    for line, row in read_table(path, ["audio", *_TIME_COLUMNS]):
        place = f"{path} line {line}"
        audio = _text(row["audio"].strip(), "audio", place)
        place += f" ({audio})"
        entry = entries.setdefault(
            audio, {"segments": [], "text": "", "place": f"{path}, {audio}"}
        )
        text = row.get("text", "").strip()
        if text and entry["text"] not in ("", text):
            raise ValueError(
                f"{place} has the text {text!r}, but {entry['text']!r} in an "
                "earlier line: give one text, in one of the lines."
            )
        entry["text"] = text or entry["text"]
        if any(row[name].strip() for name in _TIME_COLUMNS):
            # Checked here as well, so that the message names the line.
            _segments([row], "segments", "emotion", place)
            entry["segments"].append(row)
    return entries


def _jsonl_entries(path) -> dict[str, dict]:
    """Read the objects of a JSON lines file by audio."""
    entries: dict[str, dict] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{place} is not JSON ({error}): write one object in each line."
            ) from error
        _check_object(entry, ("audio", "segments"), place)
        audio = _text(entry["audio"], "audio", place)
        if audio in entries:
            raise ValueError(
                f"{place} names {audio} again: write all its segments in one "
                "line."
            )
        text = _text(entry.get("text") or "", "text", place, empty=True)
        entries[audio] = {
            "segments": entry["segments"],
            "text": text,
            "place": f"{place} ({audio})",
        }
    return entries


def _check_object(entry: Any, keys: Sequence[str], place: str) -> None:
    """Raise ValueError unless an entry is an object with some keys."""
    missing = [
        key for key in keys if not isinstance(entry, dict) or key not in entry
    ]
    if missing:
        raise ValueError(
            f"{place} has no {missing[0]!r}: write an object with "
            f"{', '.join(keys)}."
        )


def _text(value: Any, name: str, place: str, empty: bool = False) -> str:
    """Check that a value is a text."""
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ValueError(
            f"{place} has the {name} {value!r}: write a text in its place."
        )
    return value.strip()


def _seconds(value: Any, name: str, place: str) -> float:
    """Convert a value to a time, at least 0."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(
            f"{place} has the {name} {value!r}: give a time in seconds, at "
            "least 0."
        )
    return seconds


def _segments(
    items: Any, name: str, emotion_key: str, place: str
) -> tuple[EmotionSegment, ...]:
    """Convert the segments of a recording, put them in order and check them."""
    if not isinstance(items, list):
        raise ValueError(
            f"{place} has the {name} {items!r}: write a list of objects with "
            f"{emotion_key}, start and end."
        )
    found = []
    for item in items:
        _check_object(item, (emotion_key, "start", "end"), place)
        segment = EmotionSegment(
            _seconds(item["start"], "start", place),
            _seconds(item["end"], "end", place),
            _text(item[emotion_key], emotion_key, place),
        )
        if segment.end <= segment.start:
            raise ValueError(
                f"{place} has a segment ({segment.emotion}) from "
                f"{segment.start:g} to {segment.end:g} s: its end must come "
                "after its start."
            )
        found.append(segment)
    found.sort(key=lambda segment: segment.start)
    for index, (before, after) in enumerate(zip(found, found[1:])):
        if (
            after.start < before.end - TOLERANCE
            or after.end <= before.end
            or before.start == after.start
        ):
            raise ValueError(
                f"{place} has the segments {before.emotion} from "
                f"{before.start:g} to {before.end:g} s and {after.emotion} "
                f"from {after.start:g} to {after.end:g} s, which overlap: "
                "give one emotion at a time."
            )
        if after.start < before.end:
            found[index + 1] = replace(after, start=before.end)
    return tuple(found)


def _check_end(
    segments: Sequence[EmotionSegment], duration: float, place: str
) -> None:
    """Raise ValueError if a segment ends after the recording."""
    if segments and segments[-1].end > duration + TOLERANCE:
        last = segments[-1]
        raise ValueError(
            f"{place} has the segment {last.emotion} from {last.start:g} to "
            f"{last.end:g} s, but lasts {duration:g} s: correct the segment, "
            "or take the whole recording."
        )


def map_emotions(
    recordings: Sequence[SegmentedRecording],
    known: Sequence[str],
    emotion_map: Mapping[str, str | None] | None = None,
) -> list[SegmentedRecording]:
    """Rename the emotions of a corpus to those of a labeler.

    Arguments
    ---------
    recordings : sequence of SegmentedRecording
        The corpus.
    known : sequence of str
        Emotions of the labeler, and the name of the neutral state.
    emotion_map : mapping, optional
        Emotion of the corpus to that of the labeler; None leaves out the
        recordings that hold it. Emotions without an entry keep their name.

    Returns
    -------
    list of SegmentedRecording
        Recordings with known emotions only.

    Raises
    ------
    ValueError
        If an emotion of the corpus is unknown and not mapped, or the map
        names an emotion that the corpus or the labeler lacks.

    Example
    -------
    >>> anger = EmotionSegment(0.0, 1.0, "anger")
    >>> recordings = [SegmentedRecording("a", Path("a.wav"), (anger,))]
    >>> map_emotions(recordings, ["angry"], {"anger": "angry"})[0].segments
    (EmotionSegment(start=0.0, end=1.0, emotion='angry'),)
    >>> map_emotions(recordings, ["angry"], {"anger": None})
    []
    """
    emotion_map = dict(emotion_map or {})
    holders = {s.emotion: r.id for r in recordings for s in r.segments}
    for emotion, name in emotion_map.items():
        if emotion not in holders:
            raise ValueError(
                f"emotion_map names {emotion!r}, which no recording has: they "
                f"have {', '.join(sorted(holders)) or 'none'}."
            )
        if name is not None and name not in known:
            raise ValueError(
                f"emotion_map maps {emotion!r} to {name!r}, which the labeler "
                f"does not know: it knows {', '.join(known)}."
            )
    for emotion, holder in sorted(holders.items()):
        if emotion not in known and emotion not in emotion_map:
            raise ValueError(
                f"Recording {holder} has the emotion {emotion!r}, which the "
                f"labeler does not know (it knows {', '.join(known)}): map it "
                f"by emotion_map, such as {{{emotion}: {known[0]}}}, or leave "
                f"out its recordings by {{{emotion}: null}}."
            )
    mapped = []
    for recording in recordings:
        names = [
            emotion_map.get(s.emotion, s.emotion) for s in recording.segments
        ]
        if None not in names:
            segments = tuple(
                replace(segment, emotion=name)
                for segment, name in zip(recording.segments, names)
            )
            mapped.append(replace(recording, segments=segments))
    return mapped


def fill_gaps(
    segments: Iterable[EmotionSegment], duration: float, neutral: str
) -> list[EmotionSegment]:
    """Cover a whole recording with segments.

    Arguments
    ---------
    segments : iterable of EmotionSegment
        Segments in order of time, without overlap.
    duration : float
        Duration of the recording in seconds; segments are cut there.
    neutral : str
        Emotion of the gaps.

    Returns
    -------
    list of EmotionSegment
        Segments from 0 to the duration; neighbours differ in their emotion.

    Raises
    ------
    ValueError
        If a segment ends more than 0.1 s after the recording.

    Example
    -------
    >>> [(s.start, s.end, s.emotion) for s in fill_gaps(
    ...     [EmotionSegment(1.0, 2.0, "sad")], 3.0, "neutral"
    ... )]
    [(0.0, 1.0, 'neutral'), (1.0, 2.0, 'sad'), (2.0, 3.0, 'neutral')]
    """
    segments = list(segments)
    _check_end(segments, duration, "The recording")
    filled: list[EmotionSegment] = []

    def add(start: float, end: float, emotion: str) -> None:
        if end <= start:
            return
        if filled and filled[-1].emotion == emotion:
            filled[-1] = replace(filled[-1], end=end)
        else:
            filled.append(EmotionSegment(start, end, emotion))

    position = 0.0
    for segment in segments:
        start = min(max(segment.start, position), duration)
        end = min(segment.end, duration)
        add(position, start, neutral)
        add(start, end, segment.emotion)
        position = max(position, end)
    add(position, duration, neutral)
    return filled


def segments_of_labels(
    labels: UtteranceLabels,
    duration: float,
    neutral: str,
    max_pause: float = 0.5,
) -> list[EmotionSegment]:
    """Turn word labels into segments of a whole recording.

    Arguments
    ---------
    labels : UtteranceLabels
        Labels of the words; a word without an emotion counts as neutral.
    duration : float
        Duration of the recording, in seconds.
    neutral : str
        Emotion of silence.
    max_pause : float
        A pause of up to this many seconds is divided between the words around
        it; longer pauses, the beginning and the end are neutral.

    Returns
    -------
    list of EmotionSegment
        Segments from 0 to the duration; neighbours differ in their emotion.

    Example
    -------
    >>> from speechbrain_emofilm.dataio.labels import WordLabel
    >>> labels = UtteranceLabels([
    ...     WordLabel("We", 0.5, 1.0, "happy"),
    ...     WordLabel("lost", 1.2, 2.0, "sad"),
    ... ])
    >>> [(s.start, s.end, s.emotion) for s in segments_of_labels(
    ...     labels, 2.0, "neutral"
    ... )]
    [(0.0, 0.5, 'neutral'), (0.5, 1.1, 'happy'), (1.1, 2.0, 'sad')]
    """
    words = labels.words
    starts = [word.start for word in words]
    ends = [min(word.end, duration) for word in words]
    for index in range(1, len(words)):
        pause = words[index].start - words[index - 1].end
        if 0 < pause <= max_pause:
            middle = (words[index].start + words[index - 1].end) / 2
            ends[index - 1] = starts[index] = min(middle, duration)
    return fill_gaps(
        [
            EmotionSegment(start, end, word.emotion or neutral)
            for start, end, word in zip(starts, ends, words)
        ],
        duration,
        neutral,
    )
