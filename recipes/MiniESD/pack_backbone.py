"""Copy the trained parts of the mini backbone to the package's assets.

python pack_backbone.py RESULTS_FOLDER [--bistream] [--output ASSETS_FOLDER]

RESULTS_FOLDER holds the recipes' output folders ``speech_tokenizer``, ``llm``,
``token_decoder`` (for the speakers) and ``token_to_wav``. With ``--bistream``,
the language model of ``llm_bistream`` alone is packed, which shares the other
parts (``assets/mini_bistream``).
"""

import argparse
from pathlib import Path

from speechbrain_emofilm.utils.files import copy_file

FILES = (
    "speech_tokenizer/speech_tokenizer.safetensors",
    "llm/llm.safetensors",
    "token_decoder/speakers.safetensors",
    "token_to_wav/token_decoder.safetensors",
    "token_to_wav/vocoder.safetensors",
    "token_listener/token_listener.safetensors",
)
BISTREAM_FILES = ("llm_bistream/llm.safetensors",)
MAX_BYTES = 15_000_000
ASSETS = Path(__file__).resolve().parents[2] / "speechbrain_emofilm/assets"


def pack(results: Path, output: Path, files: tuple[str, ...] = FILES) -> int:
    """Copy all parts; return their size in bytes."""
    sources = [results / name for name in files]
    for source in sources:
        if not source.exists():
            recipe = source.parent.name.removesuffix("_bistream")
            raise FileNotFoundError(
                f"{source} is missing: run recipes/MiniESD/{recipe}"
                f"/train.py with --output_folder {source.parent}."
            )
    size = sum(source.stat().st_size for source in sources)
    if size > MAX_BYTES:
        raise ValueError(
            f"The backbone in {results} has {size} bytes, more than the "
            f"{MAX_BYTES} that the package ships: make a part smaller."
        )
    for source in sources:
        copy_file(source, output / source.name)
    return size


def main():
    """Pack the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results_folder", type=Path)
    parser.add_argument("--bistream", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    files, name = FILES, "mini"
    if args.bistream:
        files, name = BISTREAM_FILES, "mini_bistream"
    output = args.output or ASSETS / name
    size = pack(args.results_folder, output, files)
    print(f"{size / 1e6:.1f} MB in {output}")


if __name__ == "__main__":
    main()
