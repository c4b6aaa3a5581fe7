"""A plugin's own prediction travels, with and without its package on the client."""

import numpy as np
import pytest
from support import third_party

from splitreg.errors import CorruptAnswer
from splitreg.predictions import Detections, GenericPrediction
from splitreg.registry import discover, extensions
from splitreg.wire import AnswerFormat, pack, unpack
from splitreg.wire.answers import to_json
from splitreg.wire.compact import CompactReader, CompactWriter
from splitreg.wire.protocol import ANSWERS

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from splitreg.predictions import Prediction

@dataclass(frozen=True, kw_only=True)
class Line(Prediction):
    ends: np.ndarray
    names: tuple[str, ...]
    width: float = 1.5
    extra: np.ndarray | None = None
    type_name: ClassVar[str] = "line"

    def __post_init__(self):
        if self.ends.shape != (2, 2):
            raise ValueError("two ends")

    def restore(self, geometry): return self
    def to_json(self): return {"task": "lines", "width": self.width}
    def arrays(self):
        return {"ends": self.ends} if self.extra is None else {"ends": self.ends, "extra": self.extra}
    def shapes(self): return [{"points": self.ends.tolist(), "label": "line", "colour": 3}]
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    third_party.write_package(tmp_path, {"lines": SOURCE}, {"prediction": {"line": "lines:Line"}})
    monkeypatch.syspath_prepend(str(tmp_path))
    for cache in (discover, extensions):
        cache.cache_clear()
    yield tmp_path
    for cache in (discover, extensions):
        cache.cache_clear()
    third_party.forget()


@pytest.fixture
def line(package):
    from acme_split.lines import Line

    return Line(ends=np.array([[5, 5], [60, 30]], np.float32), names=("a", "b"))


def remove(package, monkeypatch):
    monkeypatch.syspath_prepend("")
    import sys

    sys.path[:] = [folder for folder in sys.path if folder != str(package)]
    extensions.cache_clear()


def through_compact(prediction):
    return CompactReader().read(CompactWriter().write({"head": prediction}))["head"]


@pytest.mark.parametrize("travel", [lambda p: unpack(pack([{"head": p}]))[0]["head"], through_compact])
def test_the_class_is_found_on_both_sides(line, travel):
    received = travel(line)
    assert type(received) is type(line)
    assert (received.names, received.width, received.extra) == (line.names, 1.5, None)
    assert np.array_equal(received.ends, line.ends) and received.ends.dtype == np.float32


def test_a_client_without_the_package_draws_and_names_it(line, package, monkeypatch):
    blob, compact = pack([{"head": line}]), CompactWriter().write({"head": line})
    remove(package, monkeypatch)
    for received in (unpack(blob)[0]["head"], CompactReader().read(compact)["head"]):
        assert isinstance(received, GenericPrediction)
        assert "'line'" in received.note and "pip install acme-split" in received.note
        assert received.to_json()["note"] == received.note and received.to_json()["width"] == 1.5
        blank = np.zeros((300, 300, 3), np.uint8)
        assert received.draw(blank)[:300].any() and len(received.draw(blank)) > 300  # the line, and the note below
        assert not blank.any()
        assert pack([{"head": received}]) == blob  # a server in between changes nothing


def test_the_answer_of_heads_that_are_joined_is_the_same(line):
    form = AnswerFormat(media=ANSWERS)
    assert form.join_heads({"head": form.write_head("head", [line])}) == form.write([{"head": line}])


def test_the_page_gets_the_shapes(line):
    shapes = to_json([{"head": line}], "png")[0]["head"]["shapes"]
    assert shapes == [{"points": [[5, 5], [60, 30]], "label": "line", "colour": 3}]


def test_what_the_class_refuses_is_a_corrupt_answer(line):
    meta, arrays = line.meta(), {"ends": np.zeros((3, 2), np.float32)}
    from splitreg.wire import from_parts

    with pytest.raises(CorruptAnswer, match=r"acme-split.*two ends.*acme_split/lines\.py"):
        from_parts(meta, arrays)
    for damage in ({"type": 3}, {"fields": []}, {"fields": {"no_such": 1}}):
        with pytest.raises(CorruptAnswer):
            from_parts({**meta, **damage}, line.arrays())


@pytest.mark.parametrize("package_name", ["; rm -rf /", "a\nb", None])
def test_a_package_name_from_the_network_is_not_repeated_unless_it_is_one(package_name):
    prediction = GenericPrediction(json_data={}, array_data={}, origin={"type": "x", "package": package_name})
    assert "pip install" not in prediction.note and "'x'" in prediction.note


def test_shapes_from_the_network_that_are_not_valid_are_left_out():
    bad = [7, {}, {"points": []}, {"points": [[1]]}, {"points": [[float("nan"), 1]]}, {"points": "ab"}, {"points": 3}]
    prediction = GenericPrediction(json_data={"shapes": bad}, array_data={})
    assert not prediction.draw(np.zeros((300, 300, 3), np.uint8)).any()


@pytest.mark.parametrize("travel", [lambda p: unpack(pack([{"head": p}]))[0]["head"], through_compact])
def test_identities_of_detections_travel(travel):
    tracked = Detections(
        boxes=np.array([[0, 0, 5, 5], [1, 1, 9, 9]], np.float32), scores=np.array([0.9, 0.5], np.float32),
        labels=np.array([0, 0]), names=("cat",), identities=np.array([7, 3]),
    )  # fmt: skip
    assert travel(tracked).identities.tolist() == [7, 3]
    assert travel(Detections(**{**vars_of(tracked), "identities": None})).identities is None


def vars_of(prediction):
    return {name: getattr(prediction, name) for name in prediction.__dataclass_fields__}


def test_identities_of_another_length_are_refused():
    from splitreg.wire import from_parts

    arrays = {"boxes": np.zeros((2, 4), np.float32), "scores": np.zeros(2, np.float32), "labels": np.zeros(2, np.int64)}
    with pytest.raises(CorruptAnswer, match="identities"):
        from_parts({"kind": "detection", "names": ["a"]}, {**arrays, "identities": np.zeros(3, np.int64)})
