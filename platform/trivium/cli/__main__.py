"""`python -m trivium.cli`: the same as `python -m trivium`."""

import sys

import trivium.__main__  # noqa: F401  which takes the working directory off the path before more is imported
from trivium.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
