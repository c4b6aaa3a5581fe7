"""Publish: a bundle again, with its measured results and pictures in the card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg.publishing.bundle import load, save
from splitreg.registry import Registry


def publish(
    bundle: str | Path,
    path: str | Path,
    *,
    metrics: Mapping[str, Any] | None = None,
    images: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> Path:
    """Write a checked copy of a bundle with fresh test vectors, card and results.

    Args:
        bundle: the folder to read.
        path: the folder to make.
        metrics: ``{"evaluations": [...]}`` as ``splitreg.evaluation`` reports them.
        images: file name -> PNG or JPEG, shown in the card.
        overwrite: replace a bundle that is there.
        registry: the installed plugins, by default.
    """
    return save(load(bundle, registry=registry), path, metrics=metrics, images=images, overwrite=overwrite)
