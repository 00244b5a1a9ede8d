"""Images and features on disk that are read as if they were in memory: the operating system holds what is in use.

A source's images are decoded once, into a file that all processes of the machine share.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from svhn_vae.data.mat import LabelledImages
from svhn_vae.data.sources import Dataset, Source
from svhn_vae.errors import Damaged
from svhn_vae.runs.files import replacing

FORMAT = 1  # to be raised with any change of how images are drawn, decoded or divided, so that older files are not read
PARTS = ("train", "val", "test")
PIECE = 2**20


@dataclass(frozen=True)
class Mapped:
    """A source whose images are mapped from a file in `folder`, which the first `load` writes.

    They are checked against their digest at every load: a pass over the file in pieces, not in memory.
    """

    source: Source
    folder: Path

    def load(self) -> Dataset:
        name = hashlib.sha256(self.source.fingerprint().encode()).hexdigest()[:16]
        path = self.folder / f"images-{FORMAT}-{name}.safetensors"
        try:
            return opened(path)
        except FileNotFoundError:
            pass
        except Damaged as error:
            print(f"  {error}: decoded anew", flush=True)
        write(self.source.load(), path)
        return opened(path)


def write(dataset: Dataset, path: Path) -> None:
    tensors = {
        f"{part}.{kind}": array.contiguous()
        for part in PARTS
        for kind, array in getattr(dataset, part)._asdict().items()
    }
    metadata = {"name": dataset.name, "synthetic": str(dataset.is_synthetic), "digest": dataset.digest}
    with replacing(path) as beside:
        save_file(tensors, beside, {**metadata, "train_digest": dataset.train_digest})


def opened(path: Path) -> Dataset:
    """The dataset in a file that `write` wrote, its arrays mapped. Raises FileNotFoundError or Damaged."""
    try:
        found = digest_of(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            parts = {part: LabelledImages(*(file.get_tensor(f"{part}.{kind}") for kind in LabelledImages._fields))
                     for part in PARTS}  # fmt: skip
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a parser makes of any bytes
        raise Damaged(path, error) from None
    if found != metadata.get("digest"):
        raise Damaged(path, f"its digest is {found}")
    dataset = Dataset(metadata["name"], metadata["synthetic"] == "True", **parts)
    vars(dataset).update(digest=found, train_digest=metadata["train_digest"])  # else all would be read again for them
    return dataset


def digest_of(path: Path) -> str:
    """`dataset.digest` of a file's three parts."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for part in PARTS:
            sha.update(header[f"{part}.labels"]["shape"][0].to_bytes(8, "little"))
            for kind in LabelledImages._fields:
                begin, end = header[f"{part}.{kind}"]["data_offsets"]
                file.seek(8 + length + begin)
                for start in range(begin, end, PIECE):
                    sha.update(file.read(min(PIECE, end - start)))
    return sha.hexdigest()[:16]


def room_on_disk(shape: Sequence[int], folder: Path) -> Tensor:
    """A float32 tensor to be filled, in a file without a name: it goes with the tensor, or with a killed process."""
    size = torch.Size(shape).numel()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="features-") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, 4 * size))  # a disk that is full later ends the process
        return torch.from_file(file.name, shared=True, size=size, dtype=torch.float32).view(*shape)
