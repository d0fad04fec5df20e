"""Terminal interface as ``python -m daskgmm``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
