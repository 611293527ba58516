"""Importing torch quickly: a command imports it after it has checked what was typed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Check what was typed and import torch within: another core links torch's library meanwhile, and the garbage
    collector rests.

    Linking takes C 0.2 s of `import torch`, without Python's lock; the collector would look through what imports make
    again and again, which takes a fifth of their time.
    """

    def link() -> None:
        with contextlib.suppress(Exception):  # `import torch` will say what is wrong
            package = importlib.util.find_spec("torch").origin  # type: ignore[union-attr]
            library = Path(str(package)).with_name("lib") / "libtorch_cpu.so"
            ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_LAZY)

    thread = threading.Thread(target=link)
    gc.disable()
    if sys.platform == "linux":
        thread.start()
    try:
        yield
    finally:
        gc.enable()
        if thread.ident:
            thread.join()
