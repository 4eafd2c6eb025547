"""Command line of ``emofilm``: speech from marked-up text.

``emofilm say "<happy>We won!</happy> <sad>but he left.</sad>" -o out.wav``

``emofilm voice add NAME FILE`` adds the voice of a recording to a CosyVoice2
model, ``emofilm voice list`` lists a model's voices, and ``emofilm tags`` its
tags, such as ``[laughter]``. ``emofilm serve`` opens a page in the browser and
serves an interface that OpenAI's clients know.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechbrain_emofilm import __version__
from speechbrain_emofilm.utils.assets import find_file
from speechbrain_emofilm.utils.files import atomic_path

#: Default output folder of trainings, relative to the current folder.
RESULTS = "results"
#: Exit code for invalid input, the same as that of argparse.
BAD_INPUT = 2
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
        Exit code: 0, or 2 with one line on stderr for invalid input.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows its number instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"emofilm: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    return 0


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
    synthesizer = _load(_model_folder(options))
    print("\n".join(synthesizer.speakers))


def _list_tags(options: argparse.Namespace) -> None:
    """Print the tags that the model's text may hold."""
    synthesizer = _load(_model_folder(options))
    print("\n".join(synthesizer.tags) or "This model knows no tags.")


def _add_voice(options: argparse.Namespace) -> None:
    """Add the voice of a recording to the model's folder."""
    synthesizer = _load(_model_folder(options))
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


def _load(model: Path) -> Any:
    """Load a model.

    The import is late so that --help and errors do not wait for SpeechBrain.
    """
    from speechbrain_emofilm.inference.synthesizer import EmoFiLMSynthesizer

    print(f"model: {model}", file=sys.stderr)
    return EmoFiLMSynthesizer.from_hparams(model)


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


def _say(options: argparse.Namespace) -> None:
    """Synthesize a text to a file and print the times of its words."""
    if options.list_speakers:
        _list_speakers(options)
        return
    if options.text is None or options.output is None:
        raise ValueError(
            "Give a text and the file to write: emofilm say TEXT -o FILE."
        )
    output = Path(options.output)
    if output.suffix.lower() != ".wav":
        raise ValueError(
            f"{output} is not a wav file: use a name that ends in .wav."
        )
    text = sys.stdin.read() if options.text == "-" else options.text
    if not text.strip():
        raise ValueError("The text is empty: give at least one word.")
    model = _model_folder(options)
    _check_writable(output)
    import soundfile

    synthesizer = _load(model)
    speaker = options.speaker
    if speaker not in (None, *synthesizer.speakers) and Path(speaker).is_file():
        recording, speaker = speaker, Path(speaker).stem
        synthesizer.add_voice(speaker, recording, options.voice_text)
    result = synthesizer.synthesize(
        text,
        speaker=speaker,
        seed=options.seed,
        guidance=options.guidance,
        unmarked=options.unmarked,
        intensity=options.intensity,
        instruction=options.instruction,
        prompting=options.prompting,
    )
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


def _serve(options: argparse.Namespace) -> None:
    """Serve a model and its page."""
    try:
        from speechbrain_emofilm.serve.app import Settings
        from speechbrain_emofilm.serve.server import (
            check_address,
            check_token,
            serve,
        )
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
        threads=getattr(options, "threads", None),
    )
    # Before the long work.
    check_token(settings.token)
    check_address(settings.host, options.port)
    synthesizer = _load(_model_folder(options))
    serve(synthesizer, settings, options.port, options.browser)


def _positive(number: str) -> int:
    """Read an integer of 1 or more."""
    if int(number) < 1:
        raise ValueError
    return int(number)


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
    for command in (say, add, listing, tags, serve):
        command.add_argument(
            "--model",
            metavar="FOLDER",
            help="output folder of a training (default: the newest below "
            f"./{RESULTS}, else the one shipped in the package)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
