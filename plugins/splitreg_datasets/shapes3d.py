"""3D Shapes as published: ``3dshapes.h5`` with ``images`` (N, 64, 64, 3) uint8 and ``labels`` (N, 6) float64."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from splitreg_scenes.dataset import FACTOR_TARGETS, salt_and_pepper
from splitreg_scenes.rendering import FACTORS, SPLITS, partition

from splitreg.errors import DataError, MissingExtra
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import ClassTarget, Sample
from splitreg_datasets.files import as_image, find_root, no_split
from splitreg_datasets.layout import not_this

FILE = "3dshapes.h5"
#: Factor -> smallest and largest value in the file.
RANGES: Mapping[str, tuple[float, float]] = {
    "floor_hue": (0.0, 0.9),
    "wall_hue": (0.0, 0.9),
    "object_hue": (0.0, 0.9),
    "scale": (0.75, 1.25),
    "shape": (0.0, 3.0),
    "orientation": (-30.0, 30.0),
}


class Shapes3D(Dataset):
    """The published file, with the splits of ``scenes`` in its ``single`` mode.

    ``"test"`` shows only combinations of floor and wall hue that the others never show; ``"val"`` is a tenth of the rest.

    Args:
        root: the folder of ``3dshapes.h5``, or the file; None: ``$SPLITREG_DATA/shapes3d``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        count: use this many, drawn by the seed; 0: all.
        seed: of the order and of the noise.
        noise: part of the pixels that salt-and-pepper noise replaces (MTL-Split: 0.08).

    Raises:
        DataError: another file, no such split, or an option that makes no sense.
        MissingExtra: h5py is not installed.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, count: int = 0, seed: int = 0, noise: float = 0.0
    ) -> None:
        self.targets = self.describe(root)
        if not 0 <= noise <= 1 or count < 0 or seed < 0:
            raise DataError(f"noise is 0 to 1, count and seed 0 or more; got {noise}, {count} and {seed}")
        self._path = _file(root)
        self._open: Any = None
        self._process = 0
        if split not in SPLITS:
            raise no_split("shapes3d", self._path, split, SPLITS)
        self._factors = _indexes(self._path, np.asarray(self._file()["labels"]))
        chosen = partition(self._factors[:, 0], self._factors[:, 1])[split]
        order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(chosen)
        if count > len(order):
            raise DataError(f"{self._path} has {len(order)} images for {split}, not {count}")
        self._rows = order[: count or len(order)]
        self._noise, self._seed, self._split = noise, seed, SPLITS.index(split)

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the six factors.

        Raises:
            DataError: there is no such file.
        """
        _file(root)
        return FACTOR_TARGETS

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line if the file of 3D Shapes is there, else None."""
        file = Path(root) / FILE if Path(root).is_dir() else Path(root)
        if file.name != FILE or not file.is_file():
            return None
        return f"shapes3d: {len(FACTORS)} factors, {file}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = int(self._rows[index])
        image = np.asarray(self._file()["images"][row])
        if self._noise:
            image = salt_and_pepper(image, self._noise, seed=(self._seed, self._split, index))
        factors = zip(FACTORS, self._factors[row], strict=True)
        return Sample(
            image=as_image(image),
            targets={name: ClassTarget(index=int(value)) for name, value in factors},
            name=f"{row:06d}",
        )

    def _file(self) -> Any:
        if self._open is None or self._process != os.getpid():  # HDF5 handles do not survive a fork
            self._open, self._process = _open(self._path), os.getpid()
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def _file(root: str | None) -> Path:
    place = find_root(root, "shapes3d")
    path = place if place.is_file() else place / FILE
    if not path.is_file() or path.suffix not in (".h5", ".hdf5"):
        raise not_this("shapes3d", place, FILE)
    return path


def _open(path: Path) -> Any:
    try:
        import h5py
    except ModuleNotFoundError as cause:
        raise MissingExtra("shapes3d needs h5py, which is not installed; pip install 'splitreg[full]'") from cause
    try:
        file = h5py.File(path, "r")
    except OSError as cause:
        raise DataError(f"{path} is not a whole HDF5 file: {cause}") from cause
    images, labels = file.get("images"), file.get("labels")
    if images is None or labels is None:
        raise DataError(f"{path} is not 3D Shapes: expected datasets 'images' and 'labels', there is {list(file)}")
    rows = images.shape[0] if images.shape else 0
    if images.dtype != np.uint8 or images.shape[1:] != (64, 64, 3) or labels.shape != (rows, len(FACTORS)) or not rows:
        raise DataError(
            f"{path} is not 3D Shapes: expected images (N, 64, 64, 3) uint8 and labels (N, 6), "
            f"there is {images.shape} {images.dtype} and {labels.shape}"
        )
    return file


def _indexes(path: Path, labels: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """(N, 6) values to (N, 6) class indexes.

    Raises:
        DataError: a value that is none of its factor's.
    """
    low, high = (np.array([bounds[i] for bounds in RANGES.values()]) for i in (0, 1))
    steps = np.array([count - 1 for count in FACTORS.values()])
    exact = (labels - low) / (high - low) * steps
    indexes: NDArray[np.float64] = np.rint(exact)
    wrong = ~(np.abs(exact - indexes) < 0.05) | (indexes < 0) | (indexes > steps)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"{path}: label {row} has {labels[row, column]} for {list(FACTORS)[column]}, which has no such value"
        )
    return indexes.astype(np.int64)
