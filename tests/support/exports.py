"""Exports of labelling tools, as ``scripts/record_exports.py`` has recorded them, as folders again."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from PIL import Image

from support import six

HERE = Path(__file__).resolve().parent.parent / "exports"
NAMES = sorted(path.stem for path in HERE.glob("*.json"))


def restore(name, folder):
    """Write a recorded export into a folder, with its images; returns it."""
    files = json.loads((HERE / f"{name}.json").read_text())["files"]
    for place, content in files.items():
        path = Path(folder) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("image:"):
            Image.fromarray(six.pixels(content.removeprefix("image:"))).save(path)
        elif content.startswith("base64:"):
            path.write_bytes(base64.b64decode(content.removeprefix("base64:")))
        else:
            path.write_text(content, newline="")
    return Path(folder)
