"""The prediction of head ``embed``; no torch, because clients read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from splitreg import drawing
from splitreg.imaging import Geometry
from splitreg.predictions import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Prediction):
    """A vector of length 1: the cosine of two images is the product of their vectors.

    Args:
        vector: (D,) float32.
    """

    vector: NDArray[np.float32]
    type_name: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        if self.vector.ndim != 1 or not 1 <= len(self.vector) <= 65536 or not np.isfinite(self.vector).all():
            raise ValueError(f"an embedding has finite numbers, shape (D,); got shape {self.vector.shape}")

    def similarity(self, other: Embedding) -> float:
        """Return the cosine of two embeddings, -1 to 1."""
        return float(self.vector.astype(np.float64) @ other.vector.astype(np.float64))

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: a vector has no position."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the size of the vector and its first numbers below the image."""
        first = ", ".join(f"{value:.2f}" for value in self.vector[:4])
        return drawing.legend(drawing.enlarge(image)[0], [f"vector of {len(self.vector)}: {first}, ..."])

    def to_json(self) -> dict[str, Any]:
        """Return the vector, with six digits."""
        return {"task": "embedding", "vector": [round(float(value), 6) for value in self.vector]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``vector``."""
        return {"vector": self.vector}
