"""Tensors in files of their own: safetensors, whole or not there, and checked when they are read, because torch says
nothing of a flipped bit. Nothing is unpickled.
"""

import hashlib
import json
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from svhn_vae.errors import Damaged
from svhn_vae.runs.files import replacing


def save_tensors(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    """A safetensors file with the checksum of its content."""
    content = save(tensors)
    with replacing(path) as beside:
        beside.write_bytes(save(tensors, {"sha256": hashlib.sha256(content).hexdigest(), **metadata}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Raises Damaged if its content is not what was written."""
    content = path.read_bytes()
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    expected = metadata.get("sha256")  # older files have none
    if expected not in (None, hashlib.sha256(save(tensors)).hexdigest()):
        raise Damaged(path, "its checksum is another")
    return tensors
