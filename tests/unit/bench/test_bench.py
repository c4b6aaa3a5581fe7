"""Curves of toy bundles and their baselines: measured once, compared, written."""

import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support import toys

from splitreg.assembly import build, save
from splitreg.bench import BenchOptions, Point, Sent, image_points, run
from splitreg.bench.chart import Trace, chart
from splitreg.bench.curves import Series, axes, compare, default_anchor
from splitreg.errors import BundleError, RecipeError
from splitreg.recipe import DataPart, Recipe

DATA = DataPart(name="toys", options={"count": 8})


@pytest.fixture(scope="module")
def registry():
    return toys.registry()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, registry):
    """Toy bundles of two widths; untrained is good enough to be measured."""
    folder = tmp_path_factory.mktemp("bundles")
    for channels in (1, 2):
        keys = {**toys.KEYS, "bottleneck": {"name": "toy", "channels": channels, "from": "feature"}}
        save(build(Recipe.from_mapping(keys), registry=registry), folder / f"c{channels}")
    return folder


def point(size, **metrics):
    return Point(
        label=f"{size}", bytes=size, metrics={"cls": metrics}, primary={"cls": (next(iter(metrics)), False)}, parameters=1,
        macs=2, report={"images": 4},
    )  # fmt: skip


def test_bundles_and_baselines_become_curves(bundles, registry, tmp_path):
    series = {
        "toy": [bundles / "c1", bundles / "c2"], **image_points(bundles / "c1", ["png", "webp:80", "webp:10"]),
        "local": [Sent(bundle=bundles / "c1", how="local")],
    }  # fmt: skip
    seen = []
    found = run(
        series,
        tmp_path,
        data=DATA,
        registry=registry,
        options=BenchOptions(on_point=lambda name, p: seen.append((name, p.label, p.cached))),
    )
    assert [name for name, _, _ in seen] == ["toy", "toy", "png", "webp", "webp", "local"]
    by_name = {line.name: line for line in found.series}
    small, large = by_name["toy"].points
    assert 0 < small.bytes < large.bytes and small.macs > 0 and small.parameters > 0
    (local,) = by_name["local"].points
    assert local.bytes == 0 and local.macs > small.macs and local.metrics == small.metrics
    assert by_name["webp"].points[0].bytes > by_name["webp"].points[1].bytes and by_name["webp"].points[0].macs == 0
    assert (found.anchor, found.images, found.dataset) == ("toy", 8, "toys val")
    table = json.loads((tmp_path / "bench.json").read_text())
    assert table["series"]["toy"][1]["bytes"] == large.bytes and table["comparisons"][0]["metric"] == "top1"
    text = (tmp_path / "bench.md").read_text()
    assert "| webp " in text and "![toy-top1](toy-top1.svg)" in text and str(found) in text
    ElementTree.parse(tmp_path / "toy-top1.svg")
    macs = (tmp_path / "toy-top1-macs.svg").read_text()
    ElementTree.fromstring(macs)
    assert (
        f"{small.macs:,} multiply-accumulates" in macs and f"{local.macs:,} multiply" in macs and ">webp<" not in macs
    )


def test_what_was_measured_is_not_measured_again(bundles, registry, tmp_path, monkeypatch):
    from splitreg.bench import points

    series = {"a": [bundles / "c1"], **image_points(bundles / "c1", ["webp:50"])}
    first = run(series, tmp_path, data=DATA, registry=registry)
    with monkeypatch.context() as patch:
        patch.setattr(points, "load", None)  # nothing is loaded any more
        again = run(
            {**series, "local": [Sent(bundle=bundles / "c1", how="local")]}, tmp_path, data=DATA, registry=registry
        )
    assert [p.cached for line in again.series for p in line.points] == [True] * 3
    assert again.series[0].points[0].metrics == first.series[0].points[0].metrics
    for change in (
        {"options": BenchOptions(limit=3)},
        {"data": DataPart(name="toys", options={"count": 9})},
    ):  # other images
        other = run({"a": series["a"]}, tmp_path, **{"data": DATA, "registry": registry, **change})
        assert not other.series[0].points[0].cached and other.images in (3, 9)
    for path in (tmp_path / "points").iterdir():  # damaged: measured again
        path.write_text(path.read_text()[:-40])
    assert not run({"a": series["a"]}, tmp_path, data=DATA, registry=registry).series[0].points[0].cached


def test_a_failure_keeps_the_points_before_it(bundles, registry, tmp_path):
    with pytest.raises(BundleError):
        run({"a": [bundles / "c1"], "b": [bundles / "c9"]}, tmp_path, data=DATA, registry=registry)
    assert len(list((tmp_path / "points").iterdir())) == 1


def test_the_figures_of_a_comparison():
    lines = [
        Series(name="packet", points=(point(50, top1=0.7),)),
        Series(
            name="jpeg", points=tuple(point(b, top1=a) for b, a in ((100, 0.5), (200, 0.7), (400, 0.8), (800, 0.9)))
        ),
        Series(name="half", points=tuple(point(b, top1=a) for b, a in ((50, 0.5), (100, 0.7), (200, 0.8), (400, 0.9)))),
        Series(name="worse", points=(point(90, top1=0.1), point(95, top1=0.2))),
    ]
    (axis,) = axes(lines)
    anchor = default_anchor(lines)
    assert anchor == "jpeg"
    found = compare(axis, lines, anchor)
    rates = {d.series: d.bd_rate for d in found.differences}
    assert rates["half"] == pytest.approx(-0.5) and rates["packet"] is None and rates["worse"] is None
    notes = {d.series: d.note for d in found.differences}
    assert notes["half"] == "" and "1 distinct point" in notes["packet"] and notes["worse"]
    at = {level.value: level for level in found.levels}
    assert at[0.7].bytes == {
        "packet": pytest.approx(50),
        "jpeg": pytest.approx(200),
        "half": pytest.approx(100),
        "worse": None,
    }
    assert (
        at[0.5].bytes["packet"] == pytest.approx(50)
        and at[0.5].at_most == ("packet",)
        and at[0.9].bytes["packet"] is None
    )


def test_errors_are_shown_with_their_own_sign():
    def depth(size, value):
        return Point(
            label="x", bytes=size, metrics={"d": {"abs_rel": value}}, primary={"d": ("abs_rel", True)}, parameters=0, macs=0,
            report={"images": 1},
        )  # fmt: skip

    lines = [
        Series(name=n, points=tuple(depth(f * b, e) for b, e in ((10, 0.4), (20, 0.2))))
        for n, f in (("a", 1), ("b", 3))
    ]
    (axis,) = axes(lines)
    found = compare(axis, lines, "a")
    assert found.differences[0].bd_rate == pytest.approx(2) and "4 recommended" in found.differences[0].note
    assert [level.value for level in found.levels] == [0.2, 0.4]


@pytest.mark.parametrize(
    ("wanted", "word"), [(["jpg:5"], "'jpg:5'.*jpeg"), (["jpeg:0"], "1 to 100"), (["webp:x"], "'webp:x'")]
)
def test_pictures_that_are_none(wanted, word):
    with pytest.raises(RecipeError, match=word):
        image_points(Path("b"), wanted)


def test_requests_that_cannot_be(bundles, tmp_path):
    with pytest.raises(RecipeError, match="'wepb'.*'webp'"):
        run({"webp": [bundles / "c1"]}, tmp_path, data=DATA, options=BenchOptions(anchor="wepb"))
    with pytest.raises(RecipeError, match="series"):
        run({}, tmp_path, data=DATA)
    with pytest.raises(RecipeError, match="'pakcet'.*'packet'"):
        Sent(bundle=bundles, how="pakcet")


def test_charts_are_whole_whatever_is_in_them():
    traces = [Trace(name="a <&> very long name of a series indeed", points=[(10, 0.5, "x & y")])]
    traces += [Trace(name=f"s{i}", points=[(0, 0.1, "l"), (1e6, 0.2, "m"), (1e3, 0.1, "n")]) for i in range(20)]
    for some in (traces, traces[:1], [Trace(name="level", points=[(0, 0.0, "l")])]):
        root = ElementTree.fromstring(chart("t <", "y", some))
        texts = [e for e in root.iter() if e.tag.endswith("text")]
        assert all(0 <= float(e.get("y", 0)) <= float(root.get("height")) for e in texts)


def test_numbers_under_an_axis_do_not_run_into_each_other():
    trace = Trace(name="a", points=[(8e6, 0.1, "p"), (576e6, 0.2, "q")])
    texts = [e for e in ElementTree.fromstring(chart("t", "y", [trace])).iter() if e.tag.endswith("text")]
    numbers = [e for e in texts if e.get("y") == "439"]
    assert [e.text for e in numbers] == ["10 M", "20 M", "50 M", "100 M", "200 M", "500 M"]
    for one, other in itertools.pairwise(numbers):
        assert float(other.get("x")) - float(one.get("x")) > 8 * max(len(one.text), len(other.text))


def test_small_values_leave_room_for_the_name_of_the_axis():
    trace = Trace(name="a", points=[(4, 0.0, "p"), (8, 2.4e-5, "q")])
    texts = [
        e for e in ElementTree.fromstring(chart("t", "y", [trace], "step")).iter() if e.get("text-anchor") == "end"
    ]
    assert len(texts) > 2 and max(len(e.text) for e in texts) <= 7
