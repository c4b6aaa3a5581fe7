"""What a bundle requires of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitreg.bundle import Bundle
from splitreg.edge.encoder import EdgeEncoder


def describe(place: str | Path) -> dict[str, Any]:
    """Describe the edge half of a bundle as plain data, without loading a graph.

    Returns:
        ``model_id``; ``input`` (height, width) and ``mode``; ``any_size``, whether
        ``EdgeEncoder.open`` accepts another size; ``codec``; ``bytes`` on disk of each graph and of
        ``edge.safetensors``; and, if there is an 8-bit graph, its measurements as ``int8``.

    Raises:
        BundleError: the config or one of these files is missing or altered.
    """
    bundle = Bundle.open(place)
    config, graph = bundle.config, bundle.config.graph
    names = [name for name in ("edge.safetensors", *EdgeEncoder.FILES.values()) if name in bundle]
    return {
        "model_id": config.id,
        "input": list(config.preprocess.size),
        "mode": config.preprocess.mode,
        "any_size": graph is not None and graph.dynamic,
        "codec": config.codec.name,
        "bytes": {name: bundle.check(name).stat().st_size for name in names},
        **({"int8": dict(graph.int8)} if graph and graph.int8 is not None else {}),
    }
