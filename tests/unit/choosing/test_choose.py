"""Plans and the choice between them, on a result with round numbers."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from support.damage import damaged_copies

from splitreg.choosing import ChooseOptions, choose
from splitreg.cli.main import cli
from splitreg.errors import BenchError, RecipeError

DEVICE = """summary = "slow"
[figures.gmacs_per_s]
value = 1.0
source = "round number"
[figures.active_watts]
value = 2.0
source = "round number"
[figures.idle_watts]
value = 1.0
source = "round number"
"""
LINK = """summary = "round"
[figures.up_bps]
value = 80000
source = "round number"
[figures.down_bps]
value = 800000
source = "round number"
[figures.rtt_s]
value = 0.02
source = "round number"
[figures.active_watts]
value = 0.5
source = "round number"
"""


def ms(value):
    return {"ms": value, "low_ms": value, "high_ms": value, "cpu_ms": value / 2, "ratio": 1.0}


def point(label, size, value, **sent):
    sent = {"how": "packet", "quality": 0, "rate": None, "bundle": "b", "place": "zoo:b", **sent}
    return {
        "label": label, "bytes": size, "metrics": {"seg": {"mIoU": value}}, "sent": sent, "intervals": {},
        "primary": {"seg": {"metric": "mIoU", "lower_is_better": False}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    bundle = {
        "digest": "d1", "costs": {"edge": {"macs": 1e7}, "body": {"macs": 4e8}, "unsplit": {"macs": 9e9}},
        "bytes": {"packet": 580, "answer": 700},
        "edge": {"prepare": ms(1.0), "code": ms(0.5), "runtimes": {"onnxruntime": {"network": ms(1.0), "encode": ms(2.6)}}},
        "server": {"infer": ms(20.0), "write": ms(1.0)}, "local": ms(25.0),
    }  # fmt: skip
    result = {
        "format": "splitreg-bench", "version": 1, "dataset": "d", "images": 4,
        "series": {
            "b": [point("rate 0", 180, 0.50, rate=0.0), point("rate 1", 580, 0.56, rate=1.0)],
            "webp": [point("webp 50", 4580, 0.55, how="webp", quality=50)],
            "local": [point("local", 0, 0.57, how="local")],
        },
        "speed": {"bundles": {"b": bundle}, "codecs": {"webp:50": {"encode": ms(4.0), "decode": ms(1.0)}}},
    }  # fmt: skip
    (tmp_path / "bench.json").write_text(json.dumps(result))
    (tmp_path / "slow.toml").write_text(DEVICE)
    (tmp_path / "round.toml").write_text(LINK)
    return tmp_path


def plan(choice, label):
    return next(plan for plan in choice.plans if plan.label == label)


def test_the_figures_of_a_prediction(folder):
    choice = choose(
        folder, device=folder / "slow.toml", link=folder / "round.toml", options=ChooseOptions(service_ms=3)
    )
    split = plan(choice, "rate 1").costs
    # 1e7 MACs at 1e9 per second; 1.5 ms of other code, 10 times slower than here (1e10 MACs per second).
    assert split.device_ms == pytest.approx(10 + 1.5 * 10)
    assert split.up_bytes == 1000 and split.down_bytes == 1000
    assert split.link_ms == pytest.approx(20 + 100 + 10) and split.server_ms == pytest.approx(24)
    assert split.compute_joules == pytest.approx(2 * 0.025) and split.radio_joules == pytest.approx(0.5 * 0.13)
    assert split.wait_joules == pytest.approx(0.154) and split.joules == pytest.approx(0.05 + 0.065 + 0.154)
    local = plan(choice, "local").costs
    assert local.total_ms == pytest.approx(410 + 10) and local.up_bytes == 0 and local.joules == pytest.approx(0.84)
    offload = plan(choice, "webp 50").costs
    assert offload.device_ms == pytest.approx(40) and offload.server_ms == pytest.approx(1 + 25 + 1 + 3)


def test_the_fastest_feasible_plan_is_chosen(folder):
    def best(**options):
        choice = choose(
            folder, device=folder / "slow.toml", link=folder / "round.toml", options=ChooseOptions(**options)
        )
        return None if choice.best is None else choice.best.label

    assert best() == "rate 0" and best(minimum={"seg.mIoU": 0.55}) == "rate 1"
    assert best(minimum={"seg.mIoU": 0.57}) == "local" and best(minimum={"seg.mIoU": 0.58}) is None
    assert best(budget_ms=100) is None and best(prefer="accuracy") == "local" and best(prefer="bytes") == "local"
    assert best(prefer="accuracy", budget_ms=300) == "rate 1" and best(prefer="energy", budget_joules=0.3) == "rate 0"


def test_the_bandwidth_at_which_the_order_changes(folder):
    choice = choose(folder, device=folder / "slow.toml", link=folder / "round.toml")
    (crossover,) = [c for c in choice.crossovers if "local" in (c.faster_below, c.faster_above)
                    and "rate 0" in (c.faster_below, c.faster_above)]  # fmt: skip
    assert crossover.faster_below == "local"
    # local 420 ms = 25 + 25 + 20 + (600 + 100) * 8 / bps
    assert crossover.up_bps == pytest.approx(700 * 8 / 0.350, rel=1e-3)
    ElementTree.fromstring(choice.svg())


def test_measured_times_of_a_device_are_used(folder):
    (folder / "slow.toml").write_text(DEVICE + '[bundles."d1"]\nprepare = 3.0\nencode = 7.0\nlocal = 90.0\n')
    choice = choose(folder, device=folder / "slow.toml", link=folder / "round.toml")
    assert plan(choice, "rate 1").costs.device_ms == 7 and plan(choice, "local").costs.device_ms == 90
    assert plan(choice, "webp 50").costs.device_ms == pytest.approx(4 * 3)


def test_here_and_the_clock(folder):
    wall = choose(folder, link="wifi")
    assert wall.device == "here" and plan(wall, "rate 1").costs.device_ms == 2.6
    assert plan(wall, "rate 1").costs.joules is None
    cpu = choose(folder, link="wifi", options=ChooseOptions(clock="cpu"))
    assert plan(cpu, "rate 1").costs.device_ms == 1.3


def test_requests_that_cannot_be(folder):
    with pytest.raises(BenchError, match=r"seg\.miou.*seg\.mIoU"):
        choose(folder, link="wifi", options=ChooseOptions(minimum={"seg.miou": 0.5}))
    with pytest.raises(RecipeError, match="'speed'"):
        ChooseOptions(prefer="speed")
    result = json.loads((folder / "bench.json").read_text())
    del result["speed"]
    with pytest.raises(BenchError, match="--times"):
        choose(result, link="wifi")
    with pytest.raises(BenchError, match="tvm.*onnxruntime"):
        choose(folder, link="wifi", options=ChooseOptions(runtime="tvm"))


def test_the_command(folder):
    def call(*arguments):
        return CliRunner().invoke(cli, ["choose", "--bench", str(folder), *map(str, arguments)])

    done = call("--device", folder / "slow.toml", "--link", folder / "round.toml", "--min", "seg.mIoU=.55",
                "--plot", folder / "plot.svg")  # fmt: skip
    assert done.exit_code == 0 and "splitreg send zoo:b IMAGE --to URL --rate 1" in done.output
    assert "0.5000" in done.output and ElementTree.parse(folder / "plot.svg")
    plain = call("--device", "raspberry-pi-4", "--link", "lora", "--json")
    data = json.loads(plain.output)
    assert data["best"]["kind"] in ("local", "split") and data["device"]["figures"]["gmacs_per_s"]["source"]
    none = call("--link", "lora", "--budget-ms", "1")
    assert none.exit_code == 1 and "budget is 1" in none.output
    assert call("--link", "lora", "--min", "seg=1").exit_code == 2 and call().exit_code == 2
    listed = CliRunner().invoke(cli, ["choose", "--profiles"])
    assert listed.exit_code == 0 and "raspberry-pi-4" in listed.output and "lora" in listed.output


def test_a_damaged_result_is_an_error(folder):
    result = json.loads((folder / "bench.json").read_text())
    refused = 0
    for _, _, whole in itertools.islice(damaged_copies(result), 0, None, 6):
        (folder / "bench.json").write_text(json.dumps(whole))
        try:
            json.dumps(choose(folder, link="wifi").to_json())
        except BenchError:
            refused += 1
    assert refused > 10


def test_a_bound_that_is_no_number(folder):
    for bound in ("nan", "NaN"):
        found = CliRunner().invoke(
            cli, ["choose", "--bench", str(folder), "--link", "wifi", "--min", f"seg.mIoU={bound}"]
        )
        assert found.exit_code and isinstance(found.exception, RecipeError), found.output


def test_threads_that_were_not_measured(folder):
    result = json.loads((folder / "bench.json").read_text())
    result["speed"]["threads"] = 2
    assert choose(result, link="wifi", options=ChooseOptions(threads=2)).best
    with pytest.raises(RecipeError, match="2 threads.*7"):
        choose(result, link="wifi", options=ChooseOptions(threads=7))
    assert choose(result, device=folder / "slow.toml", link="wifi", options=ChooseOptions(threads=7)).plans
