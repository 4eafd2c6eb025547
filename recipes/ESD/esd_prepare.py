"""Prepare ESD, the Emotional Speech Dataset, or a corpus in its layout.

Reads transcripts and audio headers, and writes ``train.json``, ``valid.json``
and ``test.json``. The corpus folder is only read. Both layouts in use are
understood::

    <data_folder>/0011/0011.txt                           id, text, emotion
    <data_folder>/0011/Angry/0011_000351.wav              flat
    <data_folder>/0011/Angry/evaluation/0011_000351.wav   with split folders

ESD: https://hltsingapore.github.io/ESD/
"""

import codecs
import csv
import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from speechbrain_emofilm.dataio.audio import audio_info, load_audio
from speechbrain_emofilm.utils.files import read_json, write_json
from speechbrain_emofilm.utils.skipped import check_share, report_skipped

from speechbrain.utils.logger import get_logger
from speechbrain.utils.parallel import parallel_map

logger = get_logger(__name__)

PathLike = str | Path

SPLITS = ("train", "valid", "test")
#: Split folders of the corpus.
SPLIT_FOLDERS = {"train": "train", "evaluation": "valid", "test": "test"}
#: The official split of the 350 sentences of a speaker and emotion, in the
#: order of their numbers: 20 for evaluation, 30 for test, 300 for training.
OFFICIAL_VALID, OFFICIAL_TEST, OFFICIAL_TOTAL = 20, 30, 350
#: Speakers up to this number speak Mandarin, the others English.
LAST_MANDARIN_SPEAKER = 10
LANGUAGES = {"en": ("en",), "zh": ("zh",), "both": ("en", "zh")}
LANGUAGE_NAMES = {"en": "English", "zh": "Mandarin"}
#: How folders and transcripts spell the emotions, in lower case.
EMOTION_WORDS = {
    "neutral": "neutral",
    "中立": "neutral",
    "中性": "neutral",
    "angry": "angry",
    "生气": "angry",
    "愤怒": "angry",
    "happy": "happy",
    "快乐": "happy",
    "开心": "happy",
    "高兴": "happy",
    "sad": "sad",
    "伤心": "sad",
    "悲伤": "sad",
    "surprise": "surprise",
    "surprised": "surprise",
    "惊喜": "surprise",
    "惊讶": "surprise",
}

#: Raised when the same corpus gives other manifests than before.
VERSION = 2
STATE_FILE = "esd_prepare.json"
SKIPPED_FILE = "skipped.json"

_SPEAKER = re.compile(r"\d{4}")
#: Id, its file ending, and a separator that is no tab, as some copies of the
#: corpus have them; then text and emotion.
_LINE = re.compile(r"(\d{4}_\d{6})(\.\w+)?( *[,;|])?\s*(.*)")
_LAST_WORD = re.compile(r"(.*\W)(\w+)")
_HAN = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True)
class Wav:
    """Audio file, with the emotion and split that its folders give.

    ``path`` is relative to the corpus folder, ``split`` is None in the flat
    layout, and ``problem`` tells why the file cannot be used.
    """

    path: str
    emotion: str
    split: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Line:
    """One line of a transcript.

    ``emotion`` is None where the line does not end in one; ``problem`` tells
    why the line cannot be used, naming file, line and fix.
    """

    text: str
    emotion: str | None = None
    problem: str | None = None


@dataclass
class Utterance:
    """Entry of a manifest; the duration is in seconds."""

    id: str
    wav: Wav
    text: str
    split: str
    duration: float = 0.0

    @property
    def speaker(self) -> str:
        """Speaker folder, for instance "0011"."""
        return self.id[:4]


def prepare_esd(
    data_folder: PathLike,
    save_folder: PathLike,
    language: str = "en",
    split: str = "official",
    speakers: Sequence[str] | None = None,
    emotions: Sequence[str] | None = None,
    valid_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
    valid_sentences: int = 20,
    test_sentences: int = 30,
    max_duration: float = 30.0,
    max_bad_share: float = 0.01,
    check_audio: bool = False,
    emotion_words: Mapping[str, str] | None = None,
    seed: int = 0,
    n_workers: int = 8,
    skip_prep: bool = False,
) -> None:
    """Write ``{train,valid,test}.json`` into ``save_folder``.

    A manifest holds, by utterance id: ``wav`` (``{data_root}/...``),
    ``duration`` (s), ``speaker``, ``language``, ``text`` and ``emotion``. It
    is meant for ``DynamicItemDataset.from_json(replacements={"data_root":
    ...})``; braces in a text are doubled, as that function requires.

    Utterances that cannot be used (bad line or audio file) are left out,
    counted and listed in ``skipped.json``. Speakers that ``language`` leaves
    out are counted in the log. Nothing is done when the manifests were made
    with the same options from the same files.

    Arguments
    ---------
    data_folder : str or Path
        Folder of the speaker folders 0001 to 0020, or some of them.
    save_folder : str or Path
        Where the manifests go; not inside ``data_folder``.
    language : str
        "en" (speakers from 0011 on), "zh" (0001 to 0010) or "both".
    split : str
        "official": by split folder where there is one; elsewhere by file
        number, of each speaker and emotion the first 20 in 350 for
        validation, the next 30 for test, the others for training.
        "speakers": ``valid_speakers`` and ``test_speakers`` are held out.
        "sentences": sentences are held out over all speakers and emotions,
        so that no text occurs in two splits (up to case, spaces and
        punctuation).
    speakers : list of str, optional
        Speakers to use; default: all of the language.
    emotions : list of str, optional
        Emotions to use; default: all.
    valid_speakers : list of str
        Validation speakers of ``split="speakers"``.
    test_speakers : list of str
        Test speakers of ``split="speakers"``.
    valid_sentences : int
        Validation sentences per language of ``split="sentences"``.
    test_sentences : int
        Test sentences per language of ``split="sentences"``.
    max_duration : float
        Longest utterance in seconds; longer ones are skipped.
    max_bad_share : float
        Largest share of utterances that may be skipped, 0 to 1.
    check_audio : bool
        Whether to read every file to its end, which finds NaN; slow.
    emotion_words : dict, optional
        Further spellings in folders and transcripts, for instance
        ``{"Disgust": "disgust"}``.
    seed : int
        Chooses the sentences of ``split="sentences"``.
    n_workers : int
        Threads that read audio files.
    skip_prep : bool
        Skip this step.

    Raises
    ------
    FileNotFoundError
        If the corpus folder or a transcript is missing.
    ValueError
        If an option or the layout is wrong, a transcript cannot be read, a
        split is empty, or more than ``max_bad_share`` of the utterances are
        bad. The message names file, item and fix.
    """
    if skip_prep:
        return
    options = dict(
        language=language,
        split=split,
        speakers=None if speakers is None else sorted(speakers, key=str),
        emotions=None if emotions is None else sorted(emotions, key=str),
        valid_speakers=sorted(valid_speakers, key=str),
        test_speakers=sorted(test_speakers, key=str),
        valid_sentences=valid_sentences,
        test_sentences=test_sentences,
        max_duration=max_duration,
        max_bad_share=max_bad_share,
        check_audio=check_audio,
        emotion_words=dict(emotion_words or {}),
        seed=seed,
    )
    data_folder, save_folder = Path(data_folder), Path(save_folder)
    _check_options(options)
    words = {**EMOTION_WORDS, **options["emotion_words"]}
    words = {word.casefold(): emotion for word, emotion in words.items()}
    _check_known("emotions", emotions or (), set(words.values()))
    chosen = _choose_speakers(data_folder, save_folder, options)

    files = {speaker: _list_files(data_folder, speaker) for speaker in chosen}
    # The language only chooses the speakers: a corpus of one language has the
    # same manifests with "both", and is not prepared again.
    fixed = {k: value for k, value in options.items() if k != "language"}
    state = {"version": VERSION, "options": fixed}
    state["files"] = _fingerprint(files)
    if _is_prepared(save_folder, state):
        logger.info("%s is up to date, nothing to prepare.", save_folder)
        return
    (save_folder / STATE_FILE).unlink(missing_ok=True)

    utterances, bad = [], {}
    for speaker in chosen:
        found, problems = _match_speaker(
            data_folder, speaker, files[speaker], words, emotions
        )
        utterances += found
        bad |= problems
    total = len(utterances) + len(bad)
    utterances, problems = _read_audio(
        data_folder, utterances, max_duration, check_audio, n_workers
    )
    report_skipped(
        bad | problems, total, max_bad_share, save_folder / SKIPPED_FILE
    )

    _assign_splits(utterances, options)
    _write_manifests(save_folder, utterances)
    write_json(save_folder / STATE_FILE, state)


def _check_options(options):
    """Raise ValueError for values that no corpus could satisfy."""
    _check_known("language", [options["language"]], LANGUAGES)
    _check_known(
        "split", [options["split"]], ("official", "speakers", "sentences")
    )
    for name in ("speakers", "emotions"):
        if options[name] == []:
            raise ValueError(
                f"{name}: the list is empty; leave it out to use all."
            )
    check_share(options["max_bad_share"])
    if options["split"] == "speakers":
        valid = set(options["valid_speakers"])
        test = set(options["test_speakers"])
        if not valid or not test or valid & test:
            raise ValueError(
                "split='speakers' needs valid_speakers and test_speakers, "
                f"different ones; they are {options['valid_speakers']} and "
                f"{options['test_speakers']}."
            )
    if options["split"] == "sentences":
        for name in ("valid_sentences", "test_sentences"):
            if options[name] < 1:
                raise ValueError(
                    f"{name}: {options[name]} sentences leave the split "
                    "empty; give at least 1."
                )


def _check_known(name, values, known):
    """Raise ValueError for values that are not among the known ones."""
    for value in values:
        if value not in known:
            hint = "" if isinstance(value, str) else ", as a quoted string"
            raise ValueError(
                f"{name}: {value!r} is unknown; choose from "
                f"{', '.join(sorted(known))}{hint}."
            )


def _language(speaker):
    return "zh" if int(speaker) <= LAST_MANDARIN_SPEAKER else "en"


def _choose_speakers(data_folder, save_folder, options):
    """Check the folders, and return the speakers to use, sorted."""
    found = _find_speakers(data_folder)
    corpus, target = data_folder.resolve(), save_folder.resolve()
    if corpus == target or corpus in target.parents:
        raise ValueError(
            f"save_folder {save_folder} is inside the corpus {data_folder}, "
            "which is only read; choose another save_folder."
        )
    languages = LANGUAGES[options["language"]]
    known = [s for s in found if _language(s) in languages]
    if not known:
        raise ValueError(
            f"{data_folder}: no speaker of language {options['language']!r}, "
            f"only {', '.join(found)}; set language to 'en', 'zh' or 'both'."
        )
    chosen = known
    if options["speakers"]:
        _check_known("speakers", options["speakers"], known)
        chosen = options["speakers"]
    elif len(known) < len(found):
        _report_left_out(data_folder, sorted({*found} - {*known}), options)
    for speaker in chosen:
        problem = _broken_link(data_folder / speaker)
        if problem:
            raise ValueError(
                f"{data_folder / speaker}: {problem}; copy the folder from "
                "ESD, or choose other speakers."
            )
    if options["split"] == "speakers":
        _check_known("valid_speakers", options["valid_speakers"], chosen)
        _check_known("test_speakers", options["test_speakers"], chosen)
    return chosen


def _report_left_out(data_folder, speakers, options):
    """Say in one line whom the language leaves out."""
    logger.warning(
        "%s: %d %s speakers (%s to %s) are left out by language: %s; set "
        "language to both to include them.",
        data_folder,
        len(speakers),
        LANGUAGE_NAMES[_language(speakers[0])],
        speakers[0],
        speakers[-1],
        options["language"],
    )


def _find_speakers(data_folder):
    """List the speaker folders, sorted; raise an error if there are none."""
    if not data_folder.is_dir():
        raise FileNotFoundError(
            f"data_folder {data_folder}: no such folder; give the folder that "
            "holds ESD's speaker folders 0001 to 0020."
        )
    folders = [
        path
        for path in data_folder.iterdir()
        if path.is_dir() or _broken_link(path)
    ]
    speakers = sorted(p.name for p in folders if _SPEAKER.fullmatch(p.name))
    if speakers:
        return speakers
    for folder in sorted(folders):
        inside = folder.iterdir() if folder.is_dir() else ()
        if any(_SPEAKER.fullmatch(path.name) for path in inside):
            raise ValueError(
                f"data_folder {data_folder}: no speaker folders here, but in "
                f"{folder}; give that folder."
            )
    what = "no speaker folders" if any(data_folder.iterdir()) else "empty"
    raise ValueError(
        f"data_folder {data_folder}: {what}; give the folder that holds ESD's "
        "speaker folders 0001 to 0020."
    )


def _list_files(data_folder, speaker):
    """List (path in the corpus, size, mtime) of a speaker's wavs and texts.

    A link that cannot be followed has the reason in place of the size.
    """
    prefix = len(os.path.join(data_folder, ""))
    files = []
    for path, problem in _walk(os.path.join(data_folder, speaker)):
        stat = os.lstat(path) if problem else os.stat(path)
        name = path[prefix:].replace(os.sep, "/")
        files.append((name, problem or stat.st_size, stat.st_mtime_ns))
    return sorted(files)


def _walk(folder, above=()) -> Iterator[tuple[str, str | None]]:
    """Yield the paths of wavs and texts, and of links with their problems."""
    real = os.path.realpath(folder)
    above = (*(above or map(str, Path(real).parents)), real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            ending = os.path.splitext(entry.name)[1].lower()
            problem = _broken_link(entry.path)
            if problem is None and entry.is_dir():
                if os.path.realpath(entry.path) not in above:
                    yield from _walk(entry.path, above)
                else:
                    yield entry.path, "a link to a folder above it"
            elif ending in (".wav", ".txt") or (problem and not ending):
                yield entry.path, problem


def _broken_link(path):
    """Tell why a link cannot be followed; None if it can, or is no link."""
    if not os.path.islink(path) or os.path.exists(path):
        return None
    target = os.readlink(path)
    return f"a link to {target}, which does not exist or leads back to it"


def _fingerprint(files):
    """Hash the names, sizes and times of all files."""
    return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()


def _is_prepared(save_folder, state):
    """Tell whether the manifests were made from these files and options."""
    outputs = [f"{split}.json" for split in SPLITS] + [STATE_FILE]
    if not all((save_folder / name).is_file() for name in outputs):
        return False
    return read_json(save_folder / STATE_FILE) == state


def _match_speaker(data_folder, speaker, files, words, emotions):
    """Match the audio files and transcript lines of one speaker.

    Returns the utterances, with the official split and without duration, and
    the reasons why items cannot be used, by utterance id or place of the line.
    """
    wavs = _index_wavs(data_folder, speaker, files, words)
    transcript = data_folder / speaker / f"{speaker}.txt"
    lines, bad = read_transcript(transcript, speaker, words)
    for path, problem, _ in files:
        if isinstance(problem, str) and not path.lower().endswith(".wav"):
            place = str(data_folder / path)
            bad[place] = f"{place}: {problem}; copy the files, or remove it."
    by_emotion = defaultdict(list)
    for utterance_id in sorted(wavs.keys() | lines.keys()):
        wav, line = wavs.get(utterance_id), lines.get(utterance_id)
        emotion = wav.emotion if wav else line.emotion
        if emotions is None or emotion in emotions:
            by_emotion[emotion].append((utterance_id, wav, line))

    utterances = []
    for emotion, items in by_emotion.items():
        for rank, (utterance_id, wav, line) in enumerate(items):
            reason = _mismatch(utterance_id, wav, line, transcript, emotion)
            if reason:
                bad[utterance_id] = reason
                continue
            split = wav.split or _official_split(rank, len(items))
            utterances.append(Utterance(utterance_id, wav, line.text, split))
    return utterances, bad


def _index_wavs(data_folder, speaker, files, words):
    """Index a speaker's audio files by utterance id; refuse other layouts."""
    wavs = {}
    for path, size, _ in files:
        if not path.lower().endswith(".wav"):
            continue
        _, *folders, name = path.split("/")
        emotion = words.get(folders[0].casefold()) if folders else None
        split = SPLIT_FOLDERS.get(folders[-1].lower()) if folders[1:] else None
        if emotion is None or len(folders) > 2 or (folders[1:] and not split):
            raise ValueError(
                f"{data_folder / path}: not in ESD's layout, which is "
                f"{speaker}/EMOTION/[train|evaluation|test/]ID.wav; move it, "
                "or name a new emotion in emotion_words."
            )
        utterance_id = os.path.splitext(name)[0]
        if utterance_id in wavs:
            raise ValueError(
                f"{data_folder / path}: {utterance_id} is also at "
                f"{data_folder / wavs[utterance_id].path}; keep one of them."
            )
        problem = None
        if isinstance(size, str):
            problem = f"{data_folder / path}: {size}; copy the file from ESD."
        wavs[utterance_id] = Wav(path, emotion, split, problem)
    if not wavs:
        raise ValueError(
            f"{data_folder / speaker}: no wav files; expected "
            f"{speaker}/Angry/{speaker}_000351.wav or "
            f"{speaker}/Angry/train/{speaker}_000401.wav: unpack ESD again."
        )
    return wavs


def read_transcript(path: Path, speaker: str, words: Mapping[str, str]):
    r"""Read ESD's ``<speaker>.txt``: id, text and emotion, tab-separated.

    In ESD as it is distributed some lines lack a tab or the emotion, which
    the audio file's folder tells as well; such lines are accepted. So are ids
    with the ending ``.wav``, and commas, semicolons or bars in place of tabs
    where the columns are beyond doubt. Returns a :class:`Line` by utterance
    id, and the reason by the place of each line without a usable id.

    Example
    -------
    >>> path = getfixture("tmp_path") / "0011.txt"
    >>> _ = path.write_text("0011_000351\tWe won!\tAngry\n")
    >>> read_transcript(path, "0011", EMOTION_WORDS)[0]["0011_000351"].emotion
    'angry'
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: the transcript of speaker {speaker} is missing; copy it "
            "from ESD."
        )
    lines, bad, others = {}, {}, []
    text = decode_transcript(path.read_bytes(), _language(speaker), words)
    for number, content in enumerate(re.split(r"\r\n?|\n", text), start=1):
        place = f"{path} line {number}"
        match = _LINE.fullmatch(content.strip())
        if match and match[1].startswith(speaker):
            line = _parse_line(*match.groups()[1:], place, words)
            if lines.setdefault(match[1], line).text != line.text:
                problem = f"{place}: a second text of {match[1]}; keep one."
                lines[match[1]] = Line(line.text, line.emotion, problem)
        elif content.strip():
            utterance_id = match[1] if match else ""
            others.append(utterance_id[:4])
            bad[place] = (
                f"{place}: no utterance id of speaker {speaker}; add it."
            )
    if not lines and any(others):
        raise ValueError(
            f"{path}: the transcript of speaker {max(others)}, not {speaker}; "
            f"copy {speaker}.txt from ESD."
        )
    if not lines:
        raise ValueError(
            f"{path}: unreadable, no line starts with an id such as "
            f"{speaker}_000001; save it as UTF-8 text: id, tab, text, tab, "
            "emotion."
        )
    return lines, bad


def decode_transcript(
    raw: bytes, language: str, words: Mapping[str, str] = EMOTION_WORDS
) -> str:
    r"""Decode a transcript of unknown encoding.

    Chinese emotion words in ``words`` tell GB18030 from Windows-1252. Bytes
    that fit no encoding become U+FFFD.

    Example
    -------
    >>> decode_transcript("0001_000001\t你好\t中立".encode("gb18030"), "zh")
    '0001_000001\t你好\t中立'
    >>> decode_transcript(b"0016_000001\tIt\x92s\tSad", "en")
    '0016_000001\tIt’s\tSad'
    >>> decode_transcript("0016_000001\tIt’s\t伤心".encode("gb18030"), "en")
    '0016_000001\tIt’s\t伤心'
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    if b"\0" in raw:  # ids are ASCII, so UTF-16 shows as every second byte
        encoding = "utf-16-be" if raw.startswith(b"\0") else "utf-16-le"
        return raw.decode(encoding, errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("gb18030", errors="replace")
    # A curly apostrophe of Windows-1252 reads as half a Chinese character.
    odd = _HAN.search(text) or "\ufffd" in text
    if language == "en" and odd and not _has_chinese_emotion(text, words):
        text = raw.decode("cp1252", errors="replace")
    return text


def _has_chinese_emotion(text, words):
    """Tell whether a line ends in an emotion that is spelled in Chinese."""
    ends = {line.split()[-1] for line in text.splitlines() if line.strip()}
    return any(word in words and _HAN.search(word) for word in ends)


def _parse_line(ending, separator, rest, place, words):
    """Split the rest of a line, after the id, into text and emotion."""
    emotion, problem = None, None
    fields = _split_columns(separator, rest, words)
    if fields is None or (ending or ".wav").lower() != ".wav":
        problem = (
            f"{place}: the columns are unclear; write id, text and a known "
            "emotion, separated by tabs."
        )
        return Line(rest, None, problem)
    if len(fields) > 1:
        *fields, spelled = fields
        emotion = words.get(spelled.casefold())
        if emotion is None:
            known = ", ".join(sorted(set(words.values())))
            problem = (
                f"{place}: unknown emotion {spelled!r}; correct it to one of "
                f"{known}, or name it in emotion_words."
            )
    text = " ".join(fields)
    match = _LAST_WORD.fullmatch(text)
    # Without a tab the emotion ends the text, with a capital: "to jam.Happy"
    if emotion is None and match and match[2] == match[2].capitalize():
        emotion = words.get(match[2].casefold())
        text = match[1] if emotion else text
    text = unicodedata.normalize("NFC", text).replace("\ufeff", "")
    text = " ".join(text.split())
    if "\ufffd" in text:
        problem = f"{place}: unreadable characters; save the file as UTF-8."
    elif not any(character.isalnum() for character in text):
        problem = f"{place}: no text; write what is said."
    return Line(text, emotion, problem)


def _split_columns(separator, rest, words):
    """Split text and emotion into columns; None if the columns are unclear."""
    if separator is None or "\t" in rest:
        fields = rest.split("\t")
    else:
        separator = separator.strip()
        *texts, last = next(csv.reader([rest], delimiter=separator), [""])
        # A text may have commas, so that only an emotion tells its end.
        if texts and last.strip().casefold() not in words:
            return None
        fields = [separator.join(texts), last]
    fields = [field.strip() for field in fields if field.strip()]
    return None if any("|" in field for field in fields) else fields


def _mismatch(utterance_id, wav, line, transcript, emotion):
    """Tell why an utterance cannot be used; None if it can."""
    if wav is None:
        return (
            f"{transcript}: no wav file of {utterance_id}, which it lists; "
            "copy the file from ESD."
        )
    if wav.problem:
        return wav.problem
    if line is None:
        return (
            f"{transcript}: no line of {utterance_id}, whose wav exists; add "
            "the line."
        )
    if line.problem is None and line.emotion not in (None, emotion):
        return (
            f"{transcript}: {utterance_id} is {line.emotion} here and "
            f"{emotion} by its folder; correct one of them."
        )
    return line.problem


def _official_split(rank, total):
    """Return the split of item ``rank`` of ``total``, in ESD's proportions."""
    n_valid = max(1, round(total * OFFICIAL_VALID / OFFICIAL_TOTAL))
    n_test = max(1, round(total * OFFICIAL_TEST / OFFICIAL_TOTAL))
    if rank < n_valid:
        return "valid"
    return "test" if rank < n_valid + n_test else "train"


def _read_audio(data_folder, utterances, max_duration, check_audio, n_workers):
    """Fill in durations; return usable utterances and reasons for others."""

    def read(utterance):
        path = data_folder / utterance.wav.path
        try:
            utterance.duration = audio_info(path, max_duration).duration
            if check_audio:
                load_audio(path)
        except (OSError, ValueError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(n_workers) as executor:
        problems = list(
            parallel_map(
                read,
                utterances,
                chunk_size=64,
                executor=executor,
                progress_bar_kwargs={
                    "total": len(utterances),
                    "desc": "audio files",
                },
            )
        )
    bad = {u.id: problem for u, problem in zip(utterances, problems) if problem}
    return [u for u in utterances if u.id not in bad], bad


def _assign_splits(utterances, options):
    """Replace the official split where another is asked for."""
    if options["split"] == "speakers":
        held_out = dict.fromkeys(options["valid_speakers"], "valid")
        held_out.update(dict.fromkeys(options["test_speakers"], "test"))
        for utterance in utterances:
            utterance.split = held_out.get(utterance.speaker, "train")
    if options["split"] == "sentences":
        held_out = _held_out_sentences(utterances, options)
        for utterance in utterances:
            key = sentence_key(utterance.text)
            utterance.split = held_out.get(key, "train")


def sentence_key(text: str) -> str:
    """Remove case, spaces and punctuation of a text, to compare sentences.

    Example
    -------
    >>> sentence_key("We won!") == sentence_key("we  won.")
    True
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in text if character.isalnum())


def _held_out_sentences(utterances, options):
    """Map the keys of each language's held-out sentences to their split."""
    n_valid, n_test = options["valid_sentences"], options["test_sentences"]
    by_language = defaultdict(set)
    for utterance in utterances:
        key = sentence_key(utterance.text)
        by_language[_language(utterance.speaker)].add(key)
    held_out = {}
    for language, keys in by_language.items():
        if n_valid + n_test >= len(keys):
            raise ValueError(
                f"valid_sentences + test_sentences = {n_valid + n_test} leave "
                f"none of the {len(keys)} sentences of language {language!r} "
                "for training; lower them."
            )
        # Ordered by a hash, so that one more sentence moves few of the others.
        keys = sorted(
            keys,
            key=lambda key: hashlib.sha256(
                f"{options['seed']} {key}".encode()
            ).digest(),
        )
        held_out.update(dict.fromkeys(keys[:n_valid], "valid"))
        held_out.update(dict.fromkeys(keys[n_valid : n_valid + n_test], "test"))
    return held_out


def _write_manifests(save_folder, utterances):
    """Write one JSON file per split."""
    manifests = {split: {} for split in SPLITS}
    hours = Counter()
    for utterance in sorted(utterances, key=lambda utterance: utterance.id):
        hours[utterance.split] += utterance.duration / 3600
        manifests[utterance.split][utterance.id] = {
            "wav": f"{{data_root}}/{utterance.wav.path}",
            "duration": utterance.duration,
            "speaker": utterance.speaker,
            "language": _language(utterance.speaker),
            # from_json() runs str.format on every string
            "text": utterance.text.replace("{", "{{").replace("}", "}}"),
            "emotion": utterance.wav.emotion,
        }
    for split, manifest in manifests.items():
        if not manifest:
            raise ValueError(
                f"split {split!r} is empty: {len(utterances)} utterances were "
                "found, none of them for it; choose another split, or more "
                "speakers, emotions or sentences."
            )
    for split, manifest in manifests.items():
        write_json(save_folder / f"{split}.json", manifest)
        logger.info(
            "%s: %d utterances, %.2f h", split, len(manifest), hours[split]
        )
