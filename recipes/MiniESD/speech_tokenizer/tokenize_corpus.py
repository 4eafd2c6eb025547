#!/usr/bin/env python3
"""Tokenise a pretraining corpus with a trained mini speech tokenizer.

python tokenize_corpus.py CORPUS [--speech_tokenizer FILE]

By default the tokenizer is the one that the package ships, so that a part of
the mini backbone can be trained anew without the rest. Writes ``tokens.npy``
(int16, all utterances in order) to the corpus.
"""

import argparse
import logging
import sys
from pathlib import Path

from speechbrain_emofilm.lobes.mini.speech_tokenizer import FSQSpeechTokenizer
from speechbrain_emofilm.utils.assets import load_safetensors

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pretraining_data import PretrainingCorpus  # noqa: E402
from train import tokenise_corpus  # noqa: E402

SHIPPED = "speechbrain_emofilm/assets/mini/speech_tokenizer.safetensors"


def main():
    """Tokenise the corpus named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus_folder", type=Path)
    parser.add_argument("--speech_tokenizer", default=SHIPPED)
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--n_blocks", type=int, default=4)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = load_safetensors(
        FSQSpeechTokenizer(channels=args.channels, n_blocks=args.n_blocks),
        args.speech_tokenizer,
    )
    tokenise_corpus(tokenizer, PretrainingCorpus(args.corpus_folder))


if __name__ == "__main__":
    main()
