"""Command line, result and memory use that all benchmarks share."""

import argparse
import json
import resource
import sys
from pathlib import Path


def make_parser(docstring: str, **options: int | tuple[int, str]):
    """Create a command line parser from a script's docstring.

    An option is an integer: its default, or the default and a help text.
    """
    parser = argparse.ArgumentParser(description=docstring.split("\n\n")[0])
    for name, option in options.items():
        default, text = option if isinstance(option, tuple) else (option, None)
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    return parser


def print_result(benchmark: str, **scores) -> None:
    """Print the result of a benchmark as one line of JSON."""
    print(json.dumps({"benchmark": benchmark, **scores}))


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Return the present memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
