"""The SMDG "fundus-pytorch" layout: ``{train,val,test}/{0,1}/*.{png,jpg}``, images of any size."""

from __future__ import annotations

from pathlib import Path

from perfkit.core.errors import PerfkitError
from perfkit.data.images import CLASSES, ImageFiles

SUFFIXES = {".png", ".jpg", ".jpeg"}


class SmdgFolder(ImageFiles):
    """One split of an SMDG folder; label 0 is normal, 1 glaucoma.

    Raises PerfkitError for a missing or empty folder, and as ImageFiles does. The layout has no
    patient ids: photographs of one patient may lie in several splits.
    """

    def __init__(self, root: Path, split: str, *, size: int) -> None:
        folder = root / split
        if not folder.is_dir():
            raise PerfkitError(
                f"--data {root}: has no folder {split!r}; expected "
                "{train,val,test}/{0,1}/*.png as `perfkit synthesize DIR` writes it"
            )
        files = [
            (path, label)
            for label in CLASSES
            for path in sorted((folder / str(label)).glob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise PerfkitError(
                f"--data {root}: {split}/0 and {split}/1 hold no .png or .jpg; put the normal "
                "photographs into the first and the glaucomatous ones into the second"
            )
        super().__init__(root, split, files, size=size, how="folders of the data set")
