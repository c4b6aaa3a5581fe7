"""Output files of commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from splitreg.errors import ImageError
    from splitreg.predictions import Prediction


def write_output(path: Path, data: bytes) -> None:
    """Write a file as a whole, and create its folder.

    Raises:
        SplitregError: the disk is full, or the file cannot be written; an older file is unchanged.
    """
    from splitreg.errors import SplitregError
    from splitreg.files import write_atomic

    try:
        write_atomic(path, data, sync=False)
    except OSError as cause:
        raise SplitregError(f"cannot write {path}: {cause.strerror or cause}") from cause


def write_drawings(
    folder: Path, stem: str, image: NDArray[np.uint8], predictions: Mapping[str, Prediction]
) -> Iterator[Path]:
    """Draw predictions on an image, write one PNG per head, and yield the files.

    Args:
        folder: of the files.
        stem: beginning of their names.
        image: (H, W, 3) uint8.
        predictions: head -> prediction.

    Raises:
        SplitregError: the disk is full, or a file cannot be written.
    """
    from splitreg.wire import write_png

    for head, prediction in predictions.items():
        path = folder / f"{stem}-{head}.png"
        write_output(path, write_png(prediction.draw(image)))
        yield path


def check_failures(failures: Sequence[ImageError], count: int) -> None:
    """Raise what was wrong with some images, after all others were processed.

    Args:
        failures: one error per image.
        count: number of all images.

    Raises:
        ImageError: names the images.
    """
    from splitreg.errors import ImageError

    if not failures:
        return
    if count == 1:
        raise failures[0]
    rest = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
    raise ImageError(f"{len(failures)} of {count} images failed: {'; '.join(map(str, failures[:5]))}{rest}")


def stem_of(name: str) -> str:
    """Return the file name for an image without its suffix; a frame of a video keeps its number.

    >>> stem_of("photo.jpg"), stem_of("clip.mp4#000012")
    ('photo', 'clip-000012')
    """
    first, mark, number = name.partition("#")
    return Path(first).stem + (f"-{number}" if mark else "")
