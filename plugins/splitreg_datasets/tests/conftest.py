import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def picture(tmp_path):
    """Write an (H, W) or (H, W, 3) array, or a colour of a size, as a picture below tmp_path."""

    def write(name, values=(200, 30, 10), size=(8, 12), **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(values, np.uint8)
        Image.fromarray(values if values.ndim > 1 else np.broadcast_to(values, (*size, 3)).copy()).save(path, **options)
        return path

    return write


@pytest.fixture
def write_json(tmp_path):
    def write(name, value):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return write
