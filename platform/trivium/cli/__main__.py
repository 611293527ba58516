"""`python -m trivium.cli`: the same as `python -m trivium`."""

import sys

from trivium.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
