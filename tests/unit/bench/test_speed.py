"""Times of toy bundles, and a slowdown that is really there."""

import numpy as np
import pytest
from support import toys

from splitreg.assembly import build, save
from splitreg.bench import BenchOptions, SpeedOptions, measure_speed, run
from splitreg.bench.compare import compare_results, timings
from splitreg.bench.timing import measure
from splitreg.errors import BenchError
from splitreg.recipe import DataPart, Recipe

QUICK = SpeedOptions(rounds=3, batches=(1, 2), codecs=("jpeg:50", "png"), processes=False)


@pytest.fixture(scope="module")
def registry():
    return toys.registry()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, registry):
    folder = tmp_path_factory.mktemp("speed") / "toy"
    save(build(Recipe.from_mapping(toys.KEYS), registry=registry), folder)
    return folder


def test_every_part_has_a_time(bundle, registry):
    images = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(2)]
    result = measure_speed({"toy": bundle}, images, QUICK, registry=registry)
    names = [name for name, _ in timings(result)]
    for part in ("edge prepare", "edge code", "torch network", "torch encode", "server decode", "server body",
                 "heads toy", "server write", "server infer", "local"):  # fmt: skip
        assert any(part in name for name in names), part
    assert {"jpeg:50: encode", "jpeg:50: decode", "png: encode", "png: decode"} <= set(names)
    assert all(
        timing["ms"] > 0 and timing["low_ms"] <= timing["ms"] <= timing["high_ms"] for _, timing in timings(result)
    )
    toy = result["bundles"]["toy"]
    assert toy["bytes"]["packet"] > 20 and set(toy["throughput"]) == {"1", "2"} and result["machine"]["hardware"]
    with pytest.raises(BenchError):
        measure_speed({"toy": bundle}, [], QUICK, registry=registry)


def test_times_and_intervals_are_in_the_result(bundle, registry, tmp_path):
    data = DataPart(name="toys", options={"count": 8})
    result = run({"toy": [bundle]}, tmp_path, data=data, registry=registry,
                 options=BenchOptions(resamples=20, speed=QUICK))  # fmt: skip
    plain = result.to_json()
    interval = plain["series"]["toy"][0]["intervals"]["toy"]["top1"]
    assert len(interval["values"]) == 20
    assert interval["low"] <= plain["series"]["toy"][0]["metrics"]["toy"]["top1"] <= interval["high"]
    assert "toy, torch" in result.markdown() and not compare_results(plain, plain).regressions


def test_15_percent_more_work_is_seen():
    """Processor time relative to the reference right before, so that other load does not matter."""
    numbers = np.random.default_rng(1).standard_normal(1 << 14)

    def work(times):
        def run(_):
            for _ in range(times):
                np.sort(np.abs(np.fft.rfft(numbers)))

        return run

    times, reference = measure({"a": work(20), "b": work(23)}, rounds=15)
    assert times["b"].ratio / times["a"].ratio == pytest.approx(1.15, abs=0.08)
    assert reference.ratio == 1


def test_a_pause_follows_an_untimed_run_of_the_same_task(monkeypatch):
    events = []
    monkeypatch.setattr("splitreg.bench.timing.time.sleep", lambda seconds: events.append(seconds))
    measure({"a": lambda n: events.append(("a", n))}, rounds=2, pause_s=0.25)
    assert events == [
        event for n in range(3) for event in (0.25, ("a", n), 0.25, ("a", n))
    ]  # the reference pauses first


def test_a_slow_run_among_four_changes_neither_ratio_nor_median(monkeypatch):
    """A task is run untimed, then four times; what disturbs one of the runs is left out."""
    now, count = 0.0, 0

    def take(seconds):
        nonlocal now
        now += seconds

    def run(_):
        nonlocal count
        count += 1
        take(0.03 if count % 5 in (1, 3) else 0.01)  # slow: the untimed run and the second of four

    for clock in ("perf_counter", "process_time"):
        monkeypatch.setattr(f"splitreg.bench.timing.time.{clock}", lambda: now)
    monkeypatch.setattr("splitreg.bench.timing._reference", lambda: lambda _: take(0.002))
    times, reference = measure({"a": run}, rounds=5)
    assert count == 6 * 5
    assert times["a"].cpu_ms == times["a"].ms == pytest.approx(10) and times["a"].ratio == pytest.approx(5)
    assert reference.cpu_ms == pytest.approx(2) and reference.ratio == 1
