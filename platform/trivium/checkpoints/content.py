"""From the bytes of a checkpoint's file to the state in it: data only, no larger than the bytes, nothing is run.

`torch.load(weights_only=True)` runs no code, but fills the memory if it is told to: an archive may be compressed, and a
pickle may call for a gigabyte. What `torch.save` writes for nested dicts and lists of dense tensors, numbers and texts
is neither, and anything else is refused, when a learner first saves it as well.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from typing import Any

import torch
from torch import Tensor

from trivium.boundary.untrusted import Refused, inside

MAX_DEPTH = 64
UNFOLDS = 64  # how many times larger than its file a state may be: what occurs again is written once
CALLED = {  # what a pickle may name, besides kinds of storage and dtypes: none of these allocates what it is asked for
    "_codecs encode",
    "__builtin__ complex",
    "__builtin__ set",
    "builtins complex",
    "builtins set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.nn.parameter Parameter",
    "torch.storage TypedStorage",
    "torch.storage UntypedStorage",
}


def loads(content: bytes) -> Any:
    """The state that `torch.save` wrote.

    Raises:
        Refused: it holds anything but data, or unfolds to far more than its bytes.
    """
    _check_archive(content)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a stranger's bytes may cause
        raise Refused(_without_advice(error)) from error
    if _size(state, {}, set()) > UNFOLDS * len(content) + 1_000_000:
        raise Refused(f"its {len(content):,} bytes unfold to more than {UNFOLDS} times as many")
    return state


def _check_archive(content: bytes) -> None:
    try:
        # The list of files ends the archive: elsewhere, torch might find another than Python does.
        if content[-22:-18] != b"PK\5\6":
            raise Refused("it is no archive of torch's")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            for entry in entries:
                inside(entry.filename)
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > len(content):
                raise Refused("its archive is compressed: it may unfold to any size")
            (pickled,) = (entry for entry in entries if entry.filename.endswith("/data.pkl"))
            for opcode, argument, _ in pickletools.genops(archive.read(pickled)):
                if opcode.name == "GLOBAL" and not _may_name(str(argument)):
                    raise Refused(f"it names {str(argument).replace(' ', '.')}, which is no data")
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"it is no archive of torch's ({type(error).__name__})") from error


def _may_name(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    of_torch = getattr(torch, attribute, None) if module == "torch" and attribute.isidentifier() else None
    return name in CALLED or isinstance(of_torch, torch.dtype) or (module == "torch" and attribute.endswith("Storage"))


def _without_advice(error: Exception) -> str:
    """What torch says is wrong, and not that one could load the file all the same, by running what it holds."""
    said = re.search(r"WeightsUnpickler error:\s*(\S.*)", str(error)) or re.match(
        r"(?!Weights only load)\s*(\S.*)", str(error)
    )
    return said[1] if said else "it holds something else"


def _size(node: Any, known: dict[int, int], within: set[int]) -> int:
    """The bytes of a state, roughly, if each thing were there as often as it is referred to.

    Args:
        known: the sizes of the containers that were counted, by their id.
        within: the ids of those that this one is in.

    Raises:
        Refused: it is nested deeper than `MAX_DEPTH`, or in itself.
    """
    if isinstance(node, Tensor):
        return node.numel() * node.element_size()
    if isinstance(node, str | bytes):
        return len(node)
    if not isinstance(node, dict | list | tuple | set):
        return 8
    if id(node) not in known:
        if id(node) in within or len(within) == MAX_DEPTH:
            raise Refused(f"it is nested deeper than {MAX_DEPTH} levels")
        within.add(id(node))
        children = [*node, *node.values()] if isinstance(node, dict) else node
        known[id(node)] = 8 + sum(8 if type(c) in (int, float) else _size(c, known, within) for c in children)
        within.remove(id(node))
    return known[id(node)]
