#!/usr/bin/env python3
"""Prepare the manifests and word times of IEMOCAP.

> python prepare.py hparams/prepare.yaml --data_folder /path/to/IEMOCAP
"""

import sys

import speechbrain_emofilm  # noqa: F401  first: makes torchaudio importable on CPU

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from iemocap_prepare import prepare_iemocap

if __name__ == "__main__":
    hparams_file, _, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    prepare_iemocap(**hparams["prepare_opts"])
    print(f"Manifests written to {hparams['output_folder']}")
