"""The regression gate: planted losses and slowdowns are caught, files that differ are refused."""

import copy
import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.damage import damaged_copies

from splitreg.bench import Tolerances, compare_files
from splitreg.bench.compare import compare_results
from splitreg.cli.main import cli
from splitreg.errors import BenchError

TIME = {"ms": 4.0, "low_ms": 3.9, "high_ms": 4.2, "cpu_ms": 4.0, "ratio": 2.0}


def result():
    values = np.random.default_rng(0).normal(0.55, 0.02, 50).tolist()
    point = {
        "label": "model", "bytes": 500.0, "metrics": {"seg": {"mIoU": 0.55}},
        "intervals": {"seg": {"mIoU": {"low": 0.51, "high": 0.59, "values": values}}},
        "primary": {"seg": {"metric": "mIoU", "lower_is_better": False}},
    }  # fmt: skip
    speed = {
        "machine": {"hardware": "processor"}, "threads": 1, "codecs": {"jpeg:50": {"bytes": 900, "encode": dict(TIME)}},
        "bundles": {"model": {"edge": {"prepare": {**TIME, "ms": 0.1}, "runtimes": {"onnxruntime": {"encode": dict(TIME)}}}}},
    }  # fmt: skip
    return {
        "format": "splitreg-bench", "version": 1, "dataset": "camvid val", "images": 8, "series": {"model": [point]},
        "speed": speed,
    }  # fmt: skip


def changed(change):
    other = copy.deepcopy(result())
    change(other)
    return other


def test_a_result_has_no_regression_against_itself():
    comparison = compare_results(result(), result())
    assert not comparison.regressions and len(comparison.changes) == 4  # bytes, mIoU, two times
    assert all(c.worse == 0 for c in comparison.changes)


def test_a_planted_slowdown_is_found():
    slower = changed(
        lambda r: r["speed"]["bundles"]["model"]["edge"]["runtimes"]["onnxruntime"]["encode"].update(ratio=2.3)
    )
    (found,) = compare_results(result(), slower).regressions
    assert "onnxruntime encode" in found.what and found.worse == pytest.approx(0.15)
    assert not compare_results(result(), slower, Tolerances(time=0.2)).regressions
    assert not compare_results(result(), slower, Tolerances(clock="cpu")).regressions
    assert not compare_results(slower, result()).regressions  # faster


def test_a_planted_loss_of_a_point_is_found_with_its_interval():
    def lose(r):
        point = r["series"]["model"][0]
        point["metrics"]["seg"]["mIoU"] -= 0.01
        interval = point["intervals"]["seg"]["mIoU"]
        interval["values"] = [v - 0.01 for v in interval["values"]]

    (found,) = compare_results(result(), changed(lose)).regressions
    assert "seg mIoU" in found.what and found.worse == pytest.approx(0.01)
    # The same images were drawn in both files: the pairs show a loss far below the width of each interval.
    assert found.low == pytest.approx(0.01) and found.high == pytest.approx(0.01)


def test_errors_are_worse_if_they_grow():
    def depth(value):
        return changed(
            lambda r: r["series"]["model"][0].update(
                metrics={"d": {"rmse": value}}, primary={"d": {"metric": "rmse", "lower_is_better": True}}
            )
        )

    assert [c.what for c in compare_results(depth(0.3), depth(0.4)).regressions] == ["model: d rmse"]
    assert not compare_results(depth(0.4), depth(0.3)).regressions


def test_more_bytes_are_found():
    assert compare_results(result(), changed(lambda r: r["series"]["model"][0].update(bytes=510.0))).regressions


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda r: r.update(images=9), "images.*8.*9"),
        (lambda r: r.update(dataset="coco val"), "coco val"),
        (lambda r: r.update(series={"modle": []}), "'model'.*'modle'"),
        (lambda r: r["series"]["model"].append(r["series"]["model"][0]), "1.*2"),
        (lambda r: r["series"]["model"][0].update(metrics={}), "mIoU.*'seg'"),
        (lambda r: r.pop("speed"), "--no-times"),
        (lambda r: r["speed"]["machine"].update(hardware="another"), "another"),
        (lambda r: r["speed"].update(threads=2), "threads"),
        (lambda r: r["speed"].update(codecs={}), "jpeg:50"),
    ],
)
def test_results_that_cannot_be_compared(change, fact):
    with pytest.raises(BenchError, match=fact):
        compare_results(result(), changed(change))


@pytest.mark.parametrize(
    ("text", "fact"),
    [("{", "read"), ("[]", "format"), ('{"format": "splitreg-bench", "version": 9}', "9"),
     ('{"format": "splitreg-bench", "version": 1}', "series")],
)  # fmt: skip
def test_files_that_are_no_results(tmp_path, text, fact):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(BenchError, match=fact):
        compare_files(tmp_path, tmp_path)
    with pytest.raises(BenchError, match=r"missing\.json"):
        compare_files(tmp_path / "missing.json", tmp_path)


def test_an_unknown_clock():
    with pytest.raises(BenchError, match="'cpus'.*'cpu'"):
        Tolerances(clock="cpus")


def test_the_command_has_an_exit_status(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(result()))
    slower = changed(lambda r: r["speed"]["codecs"]["jpeg:50"].update(encode={**TIME, "ratio": 2.3}))
    (tmp_path / "b.json").write_text(json.dumps(slower))

    def call(*arguments):
        return CliRunner().invoke(cli, ["bench", "compare", *map(str, arguments)])

    same = call(tmp_path / "a.json", tmp_path / "a.json")
    assert same.exit_code == 0, same.output
    worse = call(tmp_path / "a.json", tmp_path / "b.json")
    assert worse.exit_code == 1 and "jpeg:50" in worse.output and "+15.0%" in worse.output
    plain = call(tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert plain.exit_code == 1 and json.loads(plain.output)["passed"] is False
    assert call(tmp_path / "a.json", tmp_path / "b.json", "--no-times").exit_code == 0
    assert call(tmp_path / "a.json", tmp_path / "b.json", "--time", "0.2").exit_code == 0


def test_a_damaged_result_is_an_error_and_never_passes_with_nan(tmp_path):
    good, bad = tmp_path / "a.json", tmp_path / "b.json"
    good.write_text(json.dumps(result()))
    for path, wrong, whole in itertools.islice(damaged_copies(result()), 0, None, 2):
        bad.write_text(json.dumps(whole))
        for pair in ((good, bad), (bad, good)):
            try:
                compare_files(*pair).markdown(everything=True)
            except BenchError:
                continue
            assert not isinstance(wrong, float | int), path


@pytest.mark.parametrize(("before", "after", "worse"), [(0.0, 0.0, 0.0), (0.0, 1.0, float("inf"))])
def test_a_time_of_zero(before, after, worse):
    one, other = (
        changed(lambda r, v=value: r["speed"]["codecs"]["jpeg:50"]["encode"].update(ratio=v))
        for value in (before, after)
    )
    (change,) = (c for c in compare_results(one, other).changes if "jpeg" in c.what)
    assert change.worse == worse
