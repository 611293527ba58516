"""`python -m trivium.cli`: see `trivium.__main__`."""

import sys

from trivium.cli import main

if __name__ == "__main__":
    sys.exit(main())
