"""Command line of ``emofilm``: speech from marked-up text.

``emofilm say "<happy>We won!</happy> <sad>but he left.</sad>" -o out.wav``

``emofilm say --file FILE --output-folder FOLDER`` speaks every line of a text
file, or every row of a CSV table, see
:mod:`speechbrain_emofilm.inference.batch`. ``-`` reads the text or the lines
from standard input.

``emofilm voice add NAME FILE`` adds the voice of a recording to a CosyVoice2
model, ``emofilm voice list`` lists a model's voices, and ``emofilm tags`` its
tags, such as ``[laughter]``. ``emofilm serve`` opens a page in the browser and
serves an interface that OpenAI's clients know.

``emofilm suggest TEXT`` prints the text with suggested marks, and ``emofilm
label FILE -o FILE`` writes the emotion of each word of a recording, see
:mod:`speechbrain_emofilm.inference.suggester` and
:mod:`speechbrain_emofilm.inference.labeling`.

Every command that loads a model takes ``--device``, ``--precision`` and
``--threads``, see
:meth:`~speechbrain_emofilm.inference.trained_model.TrainedModel.from_hparams`.

The exit code is 0, 1 if items of a list could not be spoken or labelled, or 2
for invalid input. Messages and progress go to standard error.
"""

import argparse
import codecs
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechbrain_emofilm import __version__
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import atomic_path

#: Precisions of the language model.
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
#: Default output folder of trainings, relative to the current folder.
RESULTS = "results"
#: Exit code for invalid input, the same as that of argparse.
BAD_INPUT = 2
#: Exit code if some items of a list could not be spoken or labelled.
SOME_FAILED = 1
_HPARAMS_FILE = "synthesizer.yaml"
#: Speech tokens of a voice's recording.
TOKENS_PER_SECOND = 25
#: Model shipped in the package.
SHIPPED_MODEL = f"speechbrain_emofilm/assets/mini/{_HPARAMS_FILE}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Arguments
    ---------
    arguments : list of str, optional
        Command-line arguments; those of ``sys.argv`` if None.

    Returns
    -------
    int
        Exit code: 0, 1 if items of a list failed, or 2 with one line on
        stderr for invalid input.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows its number instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, ImportError) as error:
        # A list of items has one line for each that is invalid.
        for problem in getattr(error, "problems", [str(error)]):
            print(f"emofilm: {' '.join(problem.split())}", file=sys.stderr)
        return BAD_INPUT


def find_model(results: str | Path = RESULTS) -> Path:
    """Find the default model.

    Arguments
    ---------
    results : str or Path
        Folder that contains the output folders of trainings.

    Returns
    -------
    Path
        Folder of the newest trained model below `results`, or of the model
        shipped in the package.

    Raises
    ------
    FileNotFoundError
        If neither exists.
    """
    trained = Path(results).glob(f"**/{_HPARAMS_FILE}")
    newest = max(trained, key=lambda p: p.stat().st_mtime, default=None)
    if newest is not None:
        return newest.parent
    try:
        return find_file(SHIPPED_MODEL).parent
    except FileNotFoundError:
        raise FileNotFoundError(
            f"No trained E-FiLM was found below {Path(results).resolve()}: "
            "run `make demo`, or give the output folder of a training "
            "with --model."
        ) from None


def _list_speakers(options: argparse.Namespace) -> None:
    """Print the names of the model's speakers, the default first."""
    synthesizer = _load(_model_folder(options), options)
    print("\n".join(synthesizer.speakers))


def _list_tags(options: argparse.Namespace) -> None:
    """Print the tags that the model's text may hold."""
    synthesizer = _load(_model_folder(options), options)
    print("\n".join(synthesizer.tags) or "This model knows no tags.")


def _add_voice(options: argparse.Namespace) -> None:
    """Add the voice of a recording to the model's folder."""
    synthesizer = _load(_model_folder(options), options)
    voice = synthesizer.add_voice(
        options.name, options.recording, options.text, save=True
    )
    seconds = len(voice.prompt_tokens) / TOKENS_PER_SECOND
    print(f"{options.name}: {seconds:.1f} s, {voice.transcript!r}")


def _model_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the model that was asked for."""
    model = Path(options.model) if options.model else find_model()
    if not model.is_dir():
        raise FileNotFoundError(
            f"{model} is not a folder: give the output folder of a training."
        )
    return model


def _load(model: Path, options: argparse.Namespace) -> Any:
    """Load a model.

    The import is late so that --help and errors do not wait for SpeechBrain.
    """
    from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer

    print(f"model: {model}", file=sys.stderr)
    where = {
        name: getattr(options, name)
        for name in ("device", "precision", "threads")
        if getattr(options, name) is not None
    }
    return EmoFiLMSynthesizer.from_hparams(model, **where)


def _check_writable(output: Path) -> None:
    """Make sure, before the long work, that a file can be written."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder: give the name of a wav file.")
    # The folders that are missing are made when the file is written.
    folder = next(p for p in output.absolute().parents if p.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: Exception) -> OSError:
    """Return the error for a file that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    return OSError(
        f"{output} cannot be written ({reason}): give a file in a folder "
        "that you may write to."
    )


def _say(options: argparse.Namespace) -> int:
    """Synthesize a text, or a list of texts; return the exit code."""
    if options.list_speakers:
        _list_speakers(options)
        return 0
    if options.file is not None or options.output_folder is not None:
        return _say_list(options)
    if options.text is None or not (options.output or options.stream):
        raise ValueError(
            "Give a text and the file to write: emofilm say TEXT -o FILE; or "
            "hear it: emofilm say TEXT --stream."
        )
    if options.overwrite:
        raise ValueError(
            "--overwrite is for --file: -o always writes its file."
        )
    if options.stream:
        if options.candidates is not None or options.retry is not None:
            raise ValueError(
                "--candidates and --retry choose among whole readings: leave "
                "them out with --stream, which is heard while it is made."
            )
        _say_streaming(options)
    else:
        _say_one(options)
    return 0


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is asked for besides text and speaker."""
    asked = {
        name: getattr(options, name)
        for name in (
            "seed",
            "guidance",
            "unmarked",
            "intensity",
            "instruction",
            "prompting",
        )
    }
    # Only passed on if given: a model of fixed speed need not know it.
    for name in ("speed", "candidates", "retry"):
        if getattr(options, name) is not None:
            asked[name] = getattr(options, name)
    return asked


def _say_streaming(options: argparse.Namespace) -> None:
    """Play or write speech while it is made; print words as they begin."""
    from speechbrain_emofilm.inference import sinks

    to_pipe = options.output == "-"
    report = sys.stderr if to_pipe else sys.stdout
    player: Sequence[str] = ()
    if options.output is None:
        player = sinks.find_player()
    elif not to_pipe:
        _check_output(Path(options.output))
    text = _pieces_of_stdin() if options.text == "-" else options.text
    if isinstance(text, str) and not text.strip():
        raise ValueError("The text is empty: give at least one word.")
    model = _model_folder(options)
    synthesizer = _load(model, options)
    chunks = synthesizer.stream(
        text,
        speaker=_take_on_voice(synthesizer, options),
        **_asked(options),
    )
    rate = synthesizer.mods.token_to_wav.sample_rate
    if to_pipe:
        sink = sinks.to_pipe(sys.stdout.buffer, rate)
    elif player:
        sink = sinks.to_player(player, rate)
    else:
        sink = sinks.to_file(Path(options.output), rate)
    n_words, n_samples, source = 0, 0, "estimated"
    with sink as write:
        for chunk in chunks:
            source = chunk.word_times_source
            write(chunk.wav)
            n_samples += len(chunk.wav)
            for word in chunk.words[n_words:]:
                print(
                    f"{word.start:7.2f}  {word.text}", file=report, flush=True
                )
            n_words = len(chunk.words)
    print(f"{n_samples / rate:.2f} s, word times: {source}", file=report)


def _pieces_of_stdin() -> Iterator[str]:
    """Yield what comes on standard input as soon as it comes."""
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # not a real file
        yield sys.stdin.read()
        return
    decoder = codecs.getincrementaldecoder(sys.stdin.encoding or "utf-8")()
    while data := os.read(descriptor, 65536):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _check_output(output: Path) -> None:
    """Refuse a file that is no wav file, or cannot be written."""
    if output.suffix.lower() != ".wav":
        raise ValueError(
            f"{output} is not a wav file: use a name that ends in .wav."
        )
    _check_writable(output)


def _say_one(options: argparse.Namespace) -> None:
    """Synthesize a text to a file and print the times of its words."""
    output = Path(options.output)
    text = sys.stdin.read() if options.text == "-" else options.text
    if not text.strip():
        raise ValueError("The text is empty: give at least one word.")
    model = _model_folder(options)
    _check_output(output)
    import soundfile

    synthesizer = _load(model, options)
    speaker = _take_on_voice(synthesizer, options)
    result = synthesizer.synthesize(text, speaker=speaker, **_asked(options))
    try:
        with atomic_path(output) as temporary:
            soundfile.write(
                temporary, result.wav.numpy(), result.sample_rate, "PCM_16"
            )
    except (OSError, soundfile.LibsndfileError) as error:
        raise _unwritable(output, error) from error
    for word in result.words:
        print(f"{word.start:7.2f} {word.end:7.2f}  {word.text}")
    seconds = len(result.wav) / result.sample_rate
    print(f"{output}: {seconds:.2f} s, word times: {result.word_times_source}")


def _say_list(options: argparse.Namespace) -> int:
    """Synthesize the texts of a file to a folder; return the exit code."""
    if options.file is None or options.output_folder is None:
        raise ValueError(
            "Give a list and the folder to fill: emofilm say --file FILE "
            "--output-folder FOLDER."
        )
    if options.text is not None or options.output is not None:
        raise ValueError(
            "--file and --output-folder are for a list: leave out TEXT and -o."
        )
    if options.batch_size < 1:
        raise ValueError(
            f"--batch-size is {options.batch_size}: give 1 or more."
        )
    from speechbrain_emofilm.inference import batch

    common = batch.Settings(speaker=options.speaker, **_asked(options))
    if options.file == "-":
        items = batch.split_lines(sys.stdin.read(), common, "standard input")
    else:
        items = batch.read_items(options.file, common)
    model = _model_folder(options)
    folder = Path(options.output_folder)
    _check_writable(folder / batch.ITEMS_FILE)
    output = batch.OutputFolder(folder, str(model.resolve()), options.overwrite)
    missing = output.missing(items)
    print(
        f"{len(items)} texts, {len(items) - len(missing)} of them exist",
        file=sys.stderr,
    )
    failed = []
    if missing:
        synthesizer = _load(model, options)
        voice = _take_on_voice(synthesizer, options)
        # The name of a recording's voice is that of its file.
        spoken = [
            replace(item, settings=replace(item.settings, speaker=voice))
            if item.settings.speaker == options.speaker
            else item
            for item in missing
        ]
        batch.check_items(synthesizer, spoken)
        failed = _speak_list(options, synthesizer, output, missing, spoken)
    output.finish(items)
    for place, error in failed:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"emofilm: {place}: {reason}", file=sys.stderr)
    print(f"{folder}: {len(items) - len(failed)} of {len(items)} texts")
    return SOME_FAILED if failed else 0


def _speak_list(
    options: argparse.Namespace,
    synthesizer: Any,
    output: Any,
    items: Sequence[Any],
    spoken: Sequence[Any],
) -> list[tuple[str, Exception]]:
    """Write what a model speaks; return the place and error of failures."""
    from speechbrain_emofilm.inference import batch

    import soundfile
    from tqdm import tqdm

    of_id = {item.id: item for item in items}
    results = batch.speak_items(synthesizer, spoken, options.batch_size)
    failed = []
    # No bar in a log file.
    for item, result in tqdm(
        results, total=len(items), unit="text", file=sys.stderr, disable=None
    ):
        if isinstance(result, Exception):
            failed.append((item.place, result))
            continue
        try:
            output.write(of_id[item.id], result)
        except (OSError, soundfile.LibsndfileError) as error:
            raise _unwritable(output.wav(item), error) from error
    return failed


def _take_on_voice(synthesizer: Any, options: argparse.Namespace) -> str | None:
    """Return the speaker's name; add the voice if it is a recording."""
    speaker = options.speaker
    if speaker not in (None, *synthesizer.speakers) and Path(speaker).is_file():
        recording, speaker = speaker, Path(speaker).stem
        synthesizer.add_voice(speaker, recording, options.voice_text)
    return speaker


def _suggest(options: argparse.Namespace) -> None:
    """Print a text with suggested marks."""
    text = sys.stdin.read() if options.text == "-" else options.text
    from speechbrain_emofilm.inference.suggester import suggest_marks

    print(suggest_marks(text, _model_folder(options) / _HPARAMS_FILE))


def _label(options: argparse.Namespace) -> int:
    """Label a recording, or those of a folder; return the exit code."""
    recording, output = Path(options.recording), Path(options.output)
    if recording.is_dir():
        return _label_folder(options)
    if not recording.is_file():
        raise FileNotFoundError(
            f"{recording} does not exist: give a recording or a folder of "
            "recordings."
        )
    if output.suffix.lower() not in (".textgrid", ".json"):
        raise ValueError(
            f"{output} is neither TextGrid nor JSON: use a name that ends in "
            ".TextGrid or .json."
        )
    if options.one_speaker:
        raise ValueError("--one-speaker is for a folder: leave it out.")
    if options.text is not None and not options.text.strip():
        raise ValueError("The text is empty: give what is said, or no --text.")
    _check_writable(output)
    labeler = _load_labeler(options)
    result = labeler.label_file(recording, options.text)
    try:
        labeler.save(output, {recording.stem: result})
    except OSError as error:
        raise _unwritable(output, error) from error
    _tell_recognized(recording, result)
    for word in result.labels.words:
        numbers = [
            "   -" if number is None else f"{number:4.2f}"
            for number in (word.intensity, word.confidence)
        ]
        print(
            f"{word.start:7.2f} {word.end:7.2f}  {word.emotion or '-':10}"
            f"{'  '.join(numbers)}  {word.word}"
        )
    print(f"{output}: {len(result.labels.words)} words")
    return 0


def _label_folder(options: argparse.Namespace) -> int:
    """Label the recordings of a folder; return the exit code."""
    from speechbrain_emofilm.inference import labeling

    output = Path(options.output)
    if options.text is not None:
        raise ValueError(
            "--text is for one recording: write the text of a.wav to a.txt "
            "beside it."
        )
    if output.is_file():
        raise ValueError(f"{output} is a file: give the folder to fill.")
    labeling.find_recordings(options.recording)
    _check_writable(output / labeling.LABELS_FILE)
    labeler = _load_labeler(options)
    n_labelled, n_failed = 0, 0
    try:
        for path, result in labeling.label_folder(
            labeler, options.recording, output, options.one_speaker
        ):
            if isinstance(result, Exception):
                reason = " ".join(str(result).split())
                print(f"emofilm: {reason}", file=sys.stderr)
                n_failed += 1
                continue
            _tell_recognized(path, result)
            n_labelled += 1
    except OSError as error:
        raise _unwritable(output, error) from error
    print(f"{output}: {n_labelled} of {n_labelled + n_failed} recordings")
    return SOME_FAILED if n_failed else 0


def _load_labeler(options: argparse.Namespace) -> Any:
    """Load the labeler that was asked for; tell what is to be known of it."""
    from speechbrain_emofilm.inference import labeling

    where = {
        name: getattr(options, name)
        for name in ("device", "threads")
        if getattr(options, name) is not None
    }
    folder = options.labeler or labeling.SHIPPED_LABELER
    labeler = labeling.RecordingLabeler(folder, **where)
    print(f"labeler: {labeler.folder}", file=sys.stderr)
    if labeler.note:
        print(f"note: {labeler.note}", file=sys.stderr)
    return labeler


def _tell_recognized(recording: Path, result: Any) -> None:
    """Tell which text was recognised, so that the user can correct it."""
    if result.recognized:
        print(f"{recording}: recognised {result.text!r}", file=sys.stderr)


def _speed(text: str) -> float:
    """Read the speed of the speech."""
    speed = float(text)
    if not 0.5 <= speed <= 2:
        raise argparse.ArgumentTypeError(
            f"{text} is not possible: give a number from 0.5 to 2"
        )
    return speed


def _positive(text: str) -> int:
    """Read an integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is not possible: give an integer of 1 or more"
        )
    return number


def _serve(options: argparse.Namespace) -> None:
    """Serve a model and its page."""
    try:
        from speechbrain_emofilm.serve.server import (
            check_address,
            check_token,
            serve,
        )
        from speechbrain_emofilm.serve.service import Settings
    except ImportError as error:
        raise ImportError(
            f"{error}: install what the server needs, pip install "
            "'speechbrain-emofilm[serve]'."
        ) from error
    settings = Settings(
        host=options.host,
        token=options.token or os.environ.get("EMOFILM_TOKEN") or None,
        max_characters=options.max_characters,
        max_jobs=options.max_jobs,
        max_rows=options.max_rows,
        time_limit=options.time_limit,
        keep_voices=options.keep_voices,
        threads=getattr(options, "threads", None),
    )
    # Before the long work.
    check_token(settings.token)
    check_address(settings.host, options.port)
    synthesizer = _load(_model_folder(options), options)
    serve(synthesizer, settings, options.port, options.browser)


def _add_serve(commands: Any) -> argparse.ArgumentParser:
    """Add the command ``serve``."""
    serve = commands.add_parser(
        "serve", help="serve a page and an interface like OpenAI's"
    )
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address (default: this machine)"
    )
    serve.add_argument("--port", type=int, default=8000, help="default: 8000")
    serve.add_argument(
        "--token",
        help="token that requests must bring (default: EMOFILM_TOKEN, or none)",
    )
    serve.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="do not open the page",
    )
    serve.add_argument(
        "--keep-voices",
        action="store_true",
        help="keep added voices in the model's folder (default: until the "
        "server stops)",
    )
    for name, default, text in (
        ("max-characters", 4096, "longest text of a request"),
        ("max-jobs", 128, "requests that wait; more are refused"),
        ("max-rows", 16, "sentences that are spoken together"),
        ("time-limit", 120, "seconds after which a request is given up"),
    ):
        serve.add_argument(
            f"--{name}",
            type=_positive,
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    return serve


def _add_suggest(commands: Any) -> argparse.ArgumentParser:
    """Add the command ``suggest``."""
    suggest = commands.add_parser(
        "suggest", help="print a text with suggested emotion marks"
    )
    suggest.set_defaults(run=_suggest)
    suggest.add_argument(
        "text",
        help="text, in which marks stay as they are; - reads it from standard "
        "input",
    )
    return suggest


def _add_label(commands: Any) -> argparse.ArgumentParser:
    """Add the command ``label``."""
    label = commands.add_parser(
        "label", help="find the emotion of each word of recordings"
    )
    label.set_defaults(run=_label)
    label.add_argument("recording", help="recording, or a folder of them")
    label.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="TextGrid or JSON file to write; a folder for a folder",
    )
    label.add_argument(
        "--text",
        help="what is said (default: a text file of the recording's name "
        "beside it, NAME.txt or NAME.lab, else recognised)",
    )
    label.add_argument(
        "--one-speaker",
        action="store_true",
        help="all recordings of the folder are of one speaker, in various "
        "emotions: the labeler adapts to this voice",
    )
    label.add_argument(
        "--labeler",
        metavar="FOLDER",
        help="output folder of a labeler's training (default: the one shipped "
        "in the package, which has heard synthetic speech only)",
    )
    return label


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emofilm",
        description="Speech synthesis with an emotion for every word.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    say = commands.add_parser("say", help="synthesize a text to a wav file")
    say.add_argument(
        "text",
        nargs="?",
        help="text with emotion marks, such as <happy>We won!</happy> "
        "<sad intensity=0.4>but he left.</sad> <happy=0.7 surprise=0.3>Oh!</>"
        "; - reads it from standard input",
    )
    say.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="wav file to write",
    )
    say.set_defaults(run=_say)
    say.add_argument(
        "--file",
        metavar="FILE",
        help="list of texts: a text file with one a line, or a CSV table with "
        "the columns id, text and, for example, speaker, seed, emotion or "
        "instruction; - reads lines from standard input",
    )
    say.add_argument(
        "--output-folder",
        metavar="FOLDER",
        help="folder for the wav files of --file and items.jsonl, the word "
        "times; what exists there is kept",
    )
    say.add_argument(
        "--overwrite",
        action="store_true",
        help="speak texts of --file again whose wav file exists",
    )
    say.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="texts of --file that are spoken together (default: 16)",
    )
    say.add_argument(
        "--speaker",
        "--voice",
        metavar="NAME|FILE",
        help="name of a speaker, or a recording of 3 to 30 s of the voice "
        "(default: the model's first speaker)",
    )
    say.add_argument(
        "--voice-text",
        metavar="TEXT",
        help="what is said in that recording (default: recognised)",
    )
    say.add_argument(
        "--instruction",
        metavar="TEXT",
        help='how to speak, such as "Speak softly."',
    )
    say.add_argument(
        "--prompting",
        metavar="WAY",
        help="what the language model hears of the voice: zero_shot, "
        "cross_lingual or instruct (default: the model's)",
    )
    say.add_argument(
        "--list-speakers",
        action="store_true",
        help="print the model's speakers and stop",
    )
    say.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    say.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="strength of the emotions, above 1 exaggerated (default: 1)",
    )
    say.add_argument(
        "--unmarked",
        default="unlabelled",
        metavar="EMOTION",
        help="emotion of words outside marks, for example neutral "
        "(default: unlabelled, which leaves it to the model)",
    )
    say.add_argument(
        "--intensity",
        type=float,
        help="intensity of marks that give none, 0 to 1 (default: 1)",
    )
    say.add_argument(
        "--stream",
        action="store_true",
        help="play the speech while it is made, or write it to -o FILE, or to "
        "standard output with -o -; a text from standard input is spoken while "
        "it is written",
    )
    say.add_argument(
        "--speed",
        type=_speed,
        metavar="FACTOR",
        help="speed of the speech, 0.5 (half) to 2 (double) of the model's",
    )
    say.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="read every text N times and keep the reading in which most "
        "words are there and clear (default: the model's, usually 1)",
    )
    say.add_argument(
        "--retry",
        type=int,
        metavar="K",
        help="read a text up to K more times while a word is lost (default: "
        "the model's, usually 0)",
    )
    voice = commands.add_parser("voice", help="add or list voices")
    actions = voice.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add the voice of a recording")
    add.set_defaults(run=_add_voice)
    add.add_argument("name", help="name of the new speaker")
    add.add_argument("recording", help="3 to 30 s of speech by one speaker")
    add.add_argument("--text", help="what is said in it (default: recognised)")
    listing = actions.add_parser("list", help="list the voices of a model")
    listing.set_defaults(run=_list_speakers)
    tags = commands.add_parser("tags", help="list the tags a model knows")
    tags.set_defaults(run=_list_tags)
    serve = _add_serve(commands)
    suggest, label = _add_suggest(commands), _add_label(commands)
    speaking = (say, add, listing, tags, serve)
    for command in (*speaking, suggest):
        command.add_argument(
            "--model",
            metavar="FOLDER",
            help="output folder of a training (default: the newest below "
            f"./{RESULTS}, else the one shipped in the package)",
        )
    for command in (*speaking, label):
        command.add_argument(
            "--device",
            help="where to compute, such as cpu or cuda:1 (default: the GPU "
            "if there is one, else the CPU)",
        )
        command.add_argument(
            "--threads",
            type=_positive,
            metavar="N",
            help="number of CPU threads (default: by the model's size, one "
            "for a small one; OMP_NUM_THREADS if set)",
        )
    for command in speaking:
        command.add_argument(
            "--precision",
            choices=PRECISIONS,
            help="precision of the language model: fp32, bf16, int8 (CPU "
            "only) or fp16 (GPU only) (default: fp32)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
