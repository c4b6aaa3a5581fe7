"""``splitreg sweep`` and ``splitreg bench`` as a user meets them."""

import json

import pytest
from click.testing import CliRunner

from splitreg.cli.main import cli

RECIPE = """
backbone = "mobilenetv3_small_050"
bottleneck = { name = "fp", encoder = "light", channels = 2, blocks = 1 }
heads = ["cls"]
input = { size = [32, 32] }
data = { name = "scenes", size = 32, count = 16 }
sweep = { "bottleneck.channels" = [2, 3] }
[[stages]]
batch_size = 8
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of two points, and what the command printed."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "tiny.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        done = call("sweep", "tiny.toml", "-o", "out", "--jobs", 2, "--device", "cpu", "--json")
        assert done.exit_code == 0, done.output
        yield folder / "out", json.loads(done.stdout), done.stderr


def call(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_a_sweep_ends_with_a_summary_and_its_curve(swept):
    folder, found, talk = swept
    assert [(p["label"], p["status"]) for p in found["points"]] == [
        ("bottleneck.channels=2", "done"),
        ("bottleneck.channels=3", "done"),
    ]
    assert all(p["validation"]["bits"] > 0 and "top1" in p["validation"]["cls"] for p in found["points"])
    sizes = [p["bytes"] for p in found["bench"]["series"]["out"]]
    assert len(sizes) == 2 and all(size > 20 for size in sizes)
    assert (folder / "bench" / "cls-top1.svg").exists() and talk.count("bottleneck.channels=2\t") == 2  # start and end


def test_the_same_command_again_does_nothing_again(swept):
    done = call("sweep", "tiny.toml", "-o", "out", "--jobs", 2, "--device", "cpu")
    assert (
        done.exit_code == 0 and done.output.count("bottleneck.channels=2\t") == 1 and done.output.count("(known)") == 2
    )
    refused = call("sweep", "tiny.toml", "-o", "out", "--set", "seed=3")
    assert refused.exit_code == 1 and "seed" in str(refused.exception)


def test_bench_draws_a_sweep_and_pictures(swept, tmp_path):
    folder, _, _ = swept
    point = folder / "bottleneck.channels=2" / "bundle"
    arguments = ["bench", point, "--series", f"fp={folder}", "--images", "webp:80,webp:5", "--local", point, "--data", "scenes",
                 "--set", "size=32", "--set", "count=8", "-o", tmp_path / "bench"]  # fmt: skip
    done = call(*arguments, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert {name: len(points) for name, points in found["series"].items()} == {
        "bottleneck.channels=2": 1, "fp": 2, "webp": 2, "local": 1,
    }  # fmt: skip
    assert found["anchor"] == "fp" and found["series"]["local"][0]["bytes"] == 0
    again = call(*arguments, "--anchor", "webp")
    assert again.output.count("(known)") == 6 and "webp" in again.output


@pytest.mark.parametrize(
    ("arguments", "code", "fact"),
    [
        ([], 2, "BUNDLE"),
        (["--raw"], 2, "--unsplit"),
        (["zoo:camvid-smal"], 1, "'camvid-small'"),
        (["zoo:camvid-small", "zoo:camvid-small"], 2, "'camvid-small'"),
        (["zoo:camvid-small", "--series", "x"], 2, "NAME=BUNDLE"),
        (["zoo:camvid-small", "--images", "jpg:3"], 1, "'jpg:3'"),
        (["zoo:camvid-small", "--anchor", "x"], 1, "'x'"),
    ],
)
def test_bad_requests(arguments, code, fact, tmp_path):
    done = call("bench", *arguments, "--data", "camvid", "--root", tmp_path, "-o", tmp_path / "out")
    printed = done.output + str(done.exception)
    assert done.exit_code == code and fact in printed, printed
    assert not (tmp_path / "out").exists()


def test_a_model_of_several_rates_is_a_curve_by_itself(swept, tmp_path):
    from splitreg.assembly import build, save
    from splitreg.recipe import Recipe

    recipe = Recipe.read("tiny.toml", ["bottleneck.rates=3", "bottleneck.rate_range=8", "sweep={}"])
    save(build(recipe), tmp_path / "several")
    done = call("bench", tmp_path / "several", swept[0], "--rates", "0,0.5,1", "--data", "scenes", "--set", "size=32", "--set",
                "count=8", "-o", tmp_path / "bench", "--json", "--quiet")  # fmt: skip
    assert done.exit_code == 0, done.output
    series = json.loads(done.output)["series"]
    assert [point["label"] for point in series["several"]] == [
        "several, rate 0",
        "several, rate 0.5",
        "several, rate 1",
    ]
    sizes = [point["bytes"] for point in series["several"]]
    assert sizes[0] < sizes[1] < sizes[2] and len(series["out"]) == 2  # those have one rate each
