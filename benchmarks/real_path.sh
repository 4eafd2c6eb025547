#!/usr/bin/env bash
# Runs the README's CosyVoice2 commands in order, from a corpus to speech, in a
# fresh environment with the extra `cosyvoice` alone.
#
#   benchmarks/real_path.sh                    # makes an environment by pip
#   benchmarks/real_path.sh --python .venv/bin/python   # uses an existing one
#
# The released weights are replaced by random ones in the same files, with the
# same names and the same width (the language model has 2 of its 24 layers,
# --layers); the text tokenizer has Qwen2's own vocabulary. ESD is replaced by
# buzzes in its layout. Prints one line for each command, and stops at the first
# that fails, with its last lines. `--help` lists the options.
exec "${PYTHON:-python3}" "$(dirname "$0")/common/real_path.py" "$@"
