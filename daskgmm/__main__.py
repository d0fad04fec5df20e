"""``python -m daskgmm``: the terminal's interface."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
