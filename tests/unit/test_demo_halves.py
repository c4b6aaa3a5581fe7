"""The demo compares the predictions of two processes up to rounding."""

import numpy as np
import pytest

from splitreg.demo.halves import agree
from splitreg.masks import encode_mask


def prediction(box=60.06, score=0.9, label="cat", pixels=500, count=1):
    mask = np.zeros((64, 64), bool)
    mask.flat[:pixels] = True
    objects = [{"label": label, "score": score, "box": [box, 1.0]}] * count
    return {"det": {"objects": objects}, "seg": {"classes": [{"label": "sky", "mask": encode_mask(mask)}]}}


@pytest.mark.parametrize("change", [{}, {"box": 60.07}, {"score": 0.9001}, {"pixels": 503}])
def test_rounding_is_no_difference(change):
    assert agree(prediction(), prediction(**change))


@pytest.mark.parametrize("change", [
    {"box": 60.2}, {"score": 0.95}, {"label": "dog"}, {"pixels": 520}, {"count": 2}, {"box": None},
])  # fmt: skip
def test_anything_else_is(change):
    assert not agree(prediction(), prediction(**change)) and not agree(prediction(**change), prediction())
    assert not agree(prediction(), {"det": prediction()["det"]})
