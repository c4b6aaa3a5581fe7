"""Energy counters, on a copy of sysfs."""

import time

import pytest

from splitreg.bench.energy import Energy, Rapl, Sampled, jetson, meters


def zone(sysfs, name, label, energy, limit=1_000_000):
    folder = sysfs / "class" / "powercap" / name
    folder.mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", energy), ("max_energy_range_uj", limit)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_packages_and_memory_are_added_and_wrap(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 50_000)  # part of the package
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 900_000)
    zone(tmp_path, "intel-rapl:1", "psys", 7)  # contains the package
    meter = Rapl.find(tmp_path)
    results = []
    with meter.measure(results):
        (first / "energy_uj").write_text("350000")
        (memory / "energy_uj").write_text("50000")  # wrapped at 1,000,000
        (tmp_path / "class/powercap/intel-rapl:0:0/energy_uj").write_text("90000")
    (found,) = results
    assert found.joules == pytest.approx(0.25 + 0.15) and found.meter == "rapl" and found.seconds > 0


def test_counters_that_may_not_be_read(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", "")
    assert Rapl.find(tmp_path) is None and Rapl.find(tmp_path / "nothing") is None


def test_the_rail_of_a_jetson_is_integrated(tmp_path):
    folder = tmp_path / "class" / "hwmon" / "hwmon2"
    folder.mkdir(parents=True)
    for name, value in (("in1_label", "VDD_CPU"), ("in2_label", "VDD_IN"), ("in2_input", 5000), ("curr2_input", 1200)):
        (folder / name).write_text(f"{value}\n")
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = jetson(tmp_path)
    assert [m.name for m in meters(tmp_path)] == ["jetson"]  # the rail includes everything
    results = []
    with meter.measure(results):
        time.sleep(0.1)
    assert results[0].joules / results[0].seconds == pytest.approx(6.0, rel=0.5)
    (folder / "in2_label").write_text("VDD_SOC")
    assert jetson(tmp_path) is None


def test_an_error_in_the_block_ends_the_measurement():
    meter, results = Sampled("test", lambda: 2.0), []
    with pytest.raises(ZeroDivisionError), meter.measure(results):
        raise ZeroDivisionError
    assert isinstance(results[0], Energy) and results[0].meter == "test"
