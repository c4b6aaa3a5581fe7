"""What a bundle asks of a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.files import check_file, read_config
from splitreg.zoo import find_bundle


def describe(bundle: str | Path) -> dict[str, Any]:
    """Return what the edge half of a bundle is, as plain data; loads no graph.

    Returns:
        ``model_id``; ``input`` (height, width) and ``mode``; ``any_size``, whether ``EdgeEncoder.open`` takes another
        size; ``codec``; ``bytes`` on disk of each graph and of ``edge.safetensors``; ``int8``, what was measured of the
        8-bit graph, where there is one.

    Raises:
        BundleError: the config or one of these files is missing or altered.
    """
    folder = find_bundle(bundle)
    config = read_config(folder)
    edge = config.get("edge")
    edge = edge if isinstance(edge, dict) else {}
    names = [name for name in ("edge.safetensors", *EdgeEncoder.FILES.values()) if name in config["files"]]
    codec = config["recipe"].get("codec")
    return {
        "model_id": config["model_id"],
        "input": config["preprocess"].get("size"),
        "mode": config["preprocess"].get("mode"),
        "any_size": edge.get("dynamic") is True,
        "codec": codec.get("name") if isinstance(codec, dict) else None,
        "bytes": {name: check_file(folder, name, config["files"]).stat().st_size for name in names},
        **({"int8": edge["int8"]} if "int8" in edge else {}),
    }
