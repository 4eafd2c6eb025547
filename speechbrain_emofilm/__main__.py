"""Run the command line: ``python -m speechbrain_emofilm say ...``."""

import sys

from speechbrain_emofilm.cli import main

if __name__ == "__main__":
    sys.exit(main())
