"""Images as an operator left them, stored once for many runs.

A set is a folder: ``images.npy``, uint8 [N, 3, size, size], is mapped into memory, and
``about.json``, written last, tells what it is of, who made it and its check sum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import PIL
import torch
import torchvision
from torch import Tensor

from perfkit.core.errors import PerfkitError
from perfkit.core.files import replacing
from perfkit.core.version import __version__
from perfkit.data.images import ImageSource

IMAGES, ABOUT = "images.npy", "about.json"
PIECE = 2**24  # bytes that a check sum takes at a time

Images = npt.NDArray[np.uint8]


class Operator(Protocol):
    """Turns uint8 [N, 3, size, size] into the same."""

    ran: str
    """What ran in the last call in this process."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return what it makes of ``images``."""


class StoredImages:
    """An ImageSource that reads what ``operator`` made of the images of ``source``.

    The set is a folder in ``root`` named by all that changes its bytes: the images of the source,
    their ``size``, ``facts`` (of the operator) and the versions of what decodes and resizes.
    """

    def __init__(
        self,
        source: ImageSource,
        operator: Operator,
        root: Path,
        facts: Mapping[str, Any],
        *,
        size: int,
    ) -> None:
        self.source, self.operator = source, operator
        self.name, self.labels = source.name, source.labels
        self.skipped, self.split = source.skipped, source.split
        versions = [__version__, torch.__version__, torchvision.__version__, PIL.__version__]
        versions.append(np.__version__)
        facts = {**facts, "size": size, "images": source.fingerprint(), "versions": versions}
        self._facts: dict[str, Any] = json.loads(json.dumps(facts))  # as it is read again
        key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
        self.folder = root / key
        self._shape = (len(source), 3, size, size)
        self._images: Images | None = None
        self._made_by: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapping: a loader worker would be sent all the images."""
        return {**self.__dict__, "_images": None}

    def read(self, index: int) -> Tensor:
        """Return image ``index`` as the operator left it: uint8 RGB [3, size, size]."""
        if self._images is None:
            self._images = self._mapped()
        return torch.from_numpy(np.array(self._images[index]))

    @property
    def made_by(self) -> str:
        """What ran the operator when the set was made."""
        if self._made_by is None:
            self._made_by = str(self._about()["made_by"])
        return self._made_by

    def fingerprint(self) -> str:
        """Return what the images follow from."""
        return json.dumps(self._facts, sort_keys=True)

    def problem(self) -> str | None:
        """Return what is wrong with the set as it lies there; None if it is whole."""
        try:
            about = self._about()
            if about["facts"] != self._facts:
                return "is of other images"
            whole = _check_sum(self._mapped()) == about["crc32"]
            return None if whole and isinstance(about["made_by"], str) else "is damaged"
        except FileNotFoundError:
            return "is not there"
        except Exception:  # whatever foreign bytes make a reader raise
            return "is damaged"

    def write(self, batches: Iterable[tuple[Tensor, str]]) -> None:
        """Write (uint8 [n, 3, size, size], what ran) of all images in order, whole or not at all.

        Raises PerfkitError where the files cannot be written.
        """
        written, check_sum, made_by = 0, 0, ""
        try:
            # Not through a mapping: a full disk would end the process by a signal.
            with replacing(self.folder / IMAGES) as temporary, temporary.open("wb") as file:
                for images, ran in batches:
                    pixels, made_by = images.contiguous().numpy(), ran
                    if not written:
                        header = np.lib.format.header_data_from_array_1_0(pixels)
                        header["shape"] = (len(self), *pixels.shape[1:])
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(pixels.data)
                    check_sum = zlib.crc32(pixels.data, check_sum)
                    written += len(pixels)
                if written != len(self):
                    raise ValueError(f"{written} images for a set of {len(self)}")
            about = {"facts": self._facts, "made_by": made_by, "crc32": check_sum}
            with replacing(self.folder / ABOUT) as temporary:
                temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise PerfkitError(
                f"--preprocess offline: {self.folder} cannot be written ({error.strerror}); "
                f"{'make room there' if full else 'move away what is there'}, or name another "
                "folder with --runs"
            ) from None
        self._images = self._made_by = None

    def _about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads((self.folder / ABOUT).read_bytes())
        return about

    def _mapped(self) -> Images:
        images: Images = np.lib.format.open_memmap(self.folder / IMAGES, mode="r")
        if images.dtype != np.uint8 or images.shape != self._shape:
            raise ValueError(f"images are {images.dtype} {images.shape}")
        return images


def _check_sum(images: Images) -> int:
    found = 0
    pixels = images.reshape(-1)
    for first in range(0, pixels.size, PIECE):
        found = zlib.crc32(pixels[first : first + PIECE].data, found)
    return found
