"""`python -m trivium`: the command `trivium`."""

import os
import sys

# `-m` puts the working directory first: a file there would hide an installed module, and a stranger's would be run.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from trivium.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
