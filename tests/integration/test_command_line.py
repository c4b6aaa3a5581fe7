"""The command line as a user meets it: results on stdout, exit codes, one-line errors."""

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitreg.cli.main import main

TINY = [
    "--backbone", "test_resnet", "--heads", "cls,seg", "--input", "64x64", "--set", "bottleneck.channels=4",
    "--set", "bottleneck.hidden=8", "--set", "bottleneck.decoder_hidden=8",
]  # fmt: skip


@dataclass
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


def run(*arguments, check=True, stdin=b""):
    """Run the command as ``main`` does, in this process: importing torch for every call would take minutes."""
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.TextIOWrapper(io.BytesIO(), write_through=True)
    fed = io.TextIOWrapper(io.BytesIO(stdin))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["splitreg", *map(str, arguments)])
        for name, stream in (("stdout", out), ("stderr", err), ("stdin", fed)):
            patch.setattr(sys, name, stream)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    done = Done(code, out.buffer.getvalue(), err.buffer.getvalue())
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "bundle"
    run("build", *TINY, "-o", folder)
    return folder


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_folder")
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"p{index}.png")
    return folder


RECIPE = """
backbone = "test_resnet"
bottleneck = { name = "fp", encoder = "light", channels = 4, blocks = 1 }
heads = ["cls"]
input = { size = [64, 64] }
data = { name = "scenes", size = 64 }
[[stages]]
batch_size = 8
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A recipe, how to train it in a few steps, and the bundle."""
    folder = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(folder / "cache"))
        recipe = folder / "cls.toml"
        recipe.write_text(RECIPE)
        options = ["--set", "data.count=16", "--quiet", "--validate-every", "0", "--device", "cpu"]
        run("train", recipe, *options, "--run", folder / "run", "-o", folder / "bundle")
        yield recipe, options, folder / "bundle"


@pytest.fixture(scope="module")
def packet_of_p0(bundle, image_folder, tmp_path_factory):
    """The packet of the first image."""
    folder = tmp_path_factory.mktemp("packet")
    run("encode", bundle, image_folder / "p0.png", "-o", folder)
    return (folder / "p0.splitreg").read_bytes()


def refused(done, *facts, code=1):
    """Check an expected error: the exit status, no traceback, and the facts in the message."""
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    assert "Traceback" not in text
    for fact in facts:
        assert fact in text, text
    return text


def test_list_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom splitreg.cli.main import cli\n"
        "print(CliRunner().invoke(cli, ['list']).output)\n"
        "print([m for m in ('torch', 'timm', 'compressai', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "det-fasterrcnn" in done.stdout


def test_a_warning_is_one_line_without_source(tmp_path):
    Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)).save(tmp_path / "deep.png")
    arguments = ["edge", "encode", "zoo:camvid-small", str(tmp_path / "deep.png"), "-o", str(tmp_path / "packets")]
    command = [sys.executable, "-m", "splitreg", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: ") and "65535" in line and ".py" not in line


def test_list_json_and_show():
    rows = json.loads(run("list", "codec", "--json").stdout)
    assert {row["name"] for row in rows} >= {"compressai", "zstd", "raw", "png", "jpeg", "webp"}
    assert all(row["status"] == "ok" for row in rows)
    assert b"quality" in run("show", "codec:jpeg").stdout


def test_build_as_the_readme_types_it():
    done = run("build", "--backbone", "resnet50", "--heads", "det,seg", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert plan["costs"]["edge"]["parameters"] == 19_576  # the light encoder
    assert plan["heads"]["det"]["classes"] == 80 and plan["heads"]["seg"]["classes"] == 21


def test_a_batch_is_one_packet_and_inspect_reads_it(bundle, image_folder, tmp_path):
    images = sorted(image_folder.iterdir())
    (row,) = json.loads(run("encode", bundle, *images, "--batch", "-o", tmp_path, "--json").stdout)
    assert row["images"] == [str(path) for path in images] and row["packet"].endswith("batch.splitreg")
    lines = run("infer", bundle, row["packet"], "--json", "--draw", tmp_path).stdout.splitlines()
    assert [json.loads(line)["image"] for line in lines] == [0, 1]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"batch-{i:03d}-{head}.png" for i in range(2) for head in ("cls", "seg")
    }
    run("encode", bundle, *images, "-o", tmp_path)
    single = run("infer", bundle, tmp_path / "p1.splitreg", "--json").stdout
    assert json.loads(single)["predictions"]["cls"] == json.loads(lines[1])["predictions"]["cls"]
    (report,) = json.loads(run("inspect", row["packet"], "--bundle", bundle, "--json").stdout)
    assert report["ok"] and [image["latent"] for image in report["decoded"]] == [report["decoded"][0]["latent"]] * 2
    payload = sum(image["bits"] for image in report["decoded"])
    assert (
        payload == 8 * report["payload_bytes"] and 0 < sum(i["ideal_bits"] for i in report["decoded"]) < 1.1 * payload
    )
    assert str(report["decoded"][0]["ideal_bits"]).encode() in run("inspect", row["packet"], "--bundle", bundle).stdout


def test_inspect_says_why_a_bundle_does_not_decode(bundle, packet_of_p0, tmp_path):
    from splitreg.coding import Packet

    path = tmp_path / "p0.splitreg"
    packet = Packet.parse(packet_of_p0)
    for change, fact in (
        ({"model_id": packet.model_id ^ 1}, f"{packet.model_id ^ 1:08x}"), ({"streams": packet.streams * 2}, "1 stream"),
        ({"streams": (b"x" * 30,)}, "payload"), ({"coded": (9000, 9000)}, "9000x9000"),
    ):  # fmt: skip
        path.write_bytes(replace(packet, **change).to_bytes())
        done = run("inspect", path, "--bundle", bundle, "--json", check=False)
        (report,) = json.loads(done.stdout)
        assert done.returncode == 1 and not report["ok"] and fact in report["problem"]
    assert report["problem"].encode() in run("inspect", path, "--bundle", bundle, check=False).stdout


def test_the_two_halves_in_two_processes(bundle, image_folder, tmp_path):
    rows = json.loads(
        run("encode", bundle, *sorted(image_folder.iterdir()), "-o", tmp_path / "packets", "--json").stdout
    )
    assert [os.path.getsize(row["packet"]) for row in rows] == [row["bytes"] for row in rows]
    packets = [row["packet"] for row in rows]
    lines = run(
        "infer", bundle, *packets, "--json", "--draw", tmp_path / "drawn", "--over", image_folder
    ).stdout.splitlines()
    assert [list(json.loads(line)["predictions"]) for line in lines] == [["cls", "seg"]] * 2
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [
        "p0-cls.png",
        "p0-seg.png",
        "p1-cls.png",
        "p1-seg.png",
    ]
    stream = b"".join(len(data).to_bytes(4, "little") + data for data in (Path(p).read_bytes() for p in packets))
    streamed = run("infer", bundle, "-", "--heads", "cls", "--json", stdin=stream).stdout.splitlines()
    assert [json.loads(a)["predictions"]["cls"] for a in streamed] == [
        json.loads(b)["predictions"]["cls"] for b in lines
    ]
    apart = subprocess.run(
        [sys.executable, "-m", "splitreg", "infer", bundle, "-", "--json"],
        input=stream,
        capture_output=True,
        timeout=300,
    )
    assert [json.loads(a)["predictions"] for a in apart.stdout.splitlines()] == [
        json.loads(b)["predictions"] for b in lines
    ]


def test_verify_and_publish(bundle, tmp_path):
    assert b"FAILED" not in run("verify", bundle).stdout
    run("publish", bundle, "-o", tmp_path / "published")
    assert (tmp_path / "published" / "edge.onnx").stat().st_size > 1000
    assert b"edge.onnx    ok" in run("verify", tmp_path / "published").stdout
    (tmp_path / "published" / "server.safetensors").write_bytes(b"x")
    broken = run("verify", tmp_path / "published", check=False)
    assert broken.returncode == 1 and b"FAILED" in broken.stdout and b"Traceback" not in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["build", "--backbone", "resnet51", "--heads", "det"], ["'resnet51'", "'resnet50'"]),
        (["build", "--backbone", "resnet50", "--heads", "dte"], ["'dte'", "'det'"]),
        (
            ["build", "--backbone", "resnet50", "--heads", "det", "--bottleneck", "raw", "--codec", "jpeg"],
            ["jpeg", "raw"],
        ),
        (["build", "--backbone", "resnet50", "--heads", "det", "--cut", "layer9"], ["'layer9'", "layer4"]),
        (["build", "--backbone", "resnet50", "--heads", "det", "--set", "bottleneck.chanels=3"], ["'channels'"]),
        (["build", "--backbone", "resnet50", "--heads", "det", "--input", "0x64"], ["input", "size", "[0, 64]"]),
        (["show", "head:dte"], ["'dte'", "'det'"]),
        (["verify", "/nonexistent"], []),
        (["infer", "/nonexistent", "x.splitreg"], ["/nonexistent"]),
        (["train", "/nonexistent.toml"], ["/nonexistent.toml"]),
        (["eval", "/nonexistent"], ["/nonexistent"]),
        (["build", "--backbone", "resnet50", "--heads", "det", "--set", "seed=-1"], ["seed", "-1"]),
        (["check", "codec:zzz"], []),
    ],
    ids=lambda value: " ".join(map(str, value))[:60],
)
def test_bad_requests_get_one_line(arguments, facts):
    done = run(*arguments, check=False)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 1 and "Traceback" not in text
    for fact in facts:
        assert fact in text, text


def test_misuse_exits_with_two():
    assert run("build", "--backbone", "resnet50", check=False).returncode == 2
    assert run("lst", check=False).returncode == 2
    assert b"'list'" in run("lst", check=False).stderr


@pytest.mark.parametrize("kind", ["empty", "truncated", "flipped", "foreign", "text", "oversized"])
def test_bad_packets(kind, bundle, image_folder, packet_of_p0, tmp_path):
    packet = tmp_path / "p0.splitreg"
    data = bytearray(packet_of_p0)
    if kind == "empty":
        data = b""
    elif kind == "truncated":
        data = data[: len(data) // 2]
    elif kind == "flipped":
        data[len(data) // 2] ^= 16
    elif kind == "text":
        data = b"SR" + b"hello" * 20
    elif kind == "foreign":
        other = tmp_path / "other"
        run("build", *TINY, "--set", "seed=3", "-o", other)
        run("encode", other, image_folder / "p0.png", "-o", tmp_path)
        data = packet.read_bytes()
    if kind == "oversized":
        with packet.open("wb") as file:
            file.truncate(65 * 1024 * 1024)
    else:
        packet.write_bytes(data)
    refused(run("infer", bundle, packet, "--json", check=False), "Error:")


@pytest.mark.parametrize("kind", ["truncated", "text", "missing"])
def test_bad_images_leave_nothing(kind, bundle, image_folder, tmp_path):
    image = tmp_path / "x.png"
    if kind == "truncated":
        data = (image_folder / "p0.png").read_bytes()
        image.write_bytes(data[: len(data) // 2])
    elif kind == "text":
        image.write_text("not an image")
    refused(run("encode", bundle, image, "-o", tmp_path / "out", check=False), "x.png")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_odd_images_work(bundle, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(noise).save(tmp_path / "alpha.png")
    Image.fromarray(noise[..., :3]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(noise[:1, :1, :3]).save(tmp_path / "one.png")
    Image.fromarray(np.repeat(noise[:1, :, :3], 100, axis=1).reshape(1, -1, 3)).save(tmp_path / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    images = sorted(tmp_path.glob("*.*"))
    rows = json.loads(run("encode", bundle, *images, "-o", tmp_path / "out", "--json").stdout)
    lines = run("infer", bundle, *[row["packet"] for row in rows], "--json").stdout.splitlines()
    sizes = {
        os.path.basename(r["image"]): json.loads(line)["predictions"]["seg"]["size"]
        for r, line in zip(rows, lines, strict=True)
    }
    assert sizes == {
        "grey.png": [30, 50], "alpha.png": [30, 50], "cmyk.jpg": [30, 50], "deep.png": [30, 50], "one.png": [1, 1],
        "wide.png": [1, 5000], "turned.jpg": [50, 30],
    }  # fmt: skip


def test_a_late_head_leaves_every_file_of_the_bundle_as_it_was(trained, image_folder, tmp_path):
    recipe, options, bundle = trained
    more = tmp_path / "more.toml"
    more.write_text(recipe.read_text().replace('["cls"]', '["cls", "depth"]'))
    arguments = [more, "--add-head", "depth", "--from", bundle, *options, "--run", tmp_path / "run"]
    run("train", *arguments, "-o", tmp_path / "grown")
    for name in ("edge.safetensors", "server.safetensors", "heads/cls.safetensors"):
        assert (tmp_path / "grown" / name).read_bytes() == (bundle / name).read_bytes()
    heads = json.loads((tmp_path / "grown" / "config.json").read_text())["recipe"]["heads"]
    assert [head["as"] for head in heads] == ["cls", "depth"]
    for model in (bundle, tmp_path / "grown"):
        run("encode", model, image_folder / "p0.png", "-o", tmp_path / model.name)
    assert (tmp_path / "grown" / "p0.splitreg").read_bytes() == (tmp_path / "bundle" / "p0.splitreg").read_bytes()
    refused(run("train", *arguments, "-o", tmp_path / "again", check=False), str(tmp_path / "run"))


def test_resume_needs_no_option_again_and_lists_those_that_changed(trained, tmp_path, monkeypatch):
    recipe, options, _ = trained
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "bundle"
    run("train", recipe, *options, "-o", out, "--epochs", "2", "--lr", "0.01", "--set", "seed=3")
    again = ["train", recipe, "--resume", "--quiet"]  # its folder has the name of the bundle
    refused(run(*again, check=False), str(out), "--overwrite")  # the place of the bundle is remembered
    text = refused(
        run(*again, "--overwrite", "--set", "seed=4", "--batch-size", "4", check=False),
        "seed: was 3, is 4", "batch_size: was 8, is 4",
    )  # fmt: skip
    assert "lr" not in text
    run(*again, "--overwrite", "--epochs", "3")
    run(*again, "--overwrite")  # the third epoch is remembered too
    log = [json.loads(line) for line in Path("runs/bundle/log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log if row["event"] == "epoch"] == [0, 1, 2]


def test_a_sweep_gives_a_bundle_per_point_and_goes_on(trained, tmp_path):
    recipe, options, _ = trained
    arguments = [
        "train",
        recipe,
        *options,
        "--set",
        "sweep={rate_lambda=[0.1, 1]}",
        "--run",
        tmp_path,
        "-o",
        tmp_path / "out",
    ]
    run(*arguments)
    points = sorted((tmp_path / "out").iterdir())
    assert [point.name for point in points] == ["rate_lambda=0.1", "rate_lambda=1"]
    before = (points[0] / "config.json").stat().st_mtime_ns
    (points[1] / "config.json").unlink()
    refused(run(*arguments, "--resume", check=False), str(points[1]))
    assert (points[0] / "config.json").stat().st_mtime_ns == before
    refused(run(*arguments, check=False), "overwrite")


def test_a_folder_that_is_taken_is_refused_before_the_work(trained, tmp_path, monkeypatch):
    import splitreg.evaluation

    recipe, options, bundle = trained
    monkeypatch.setattr(splitreg.evaluation, "evaluate", None)
    refused(
        run("publish", bundle, "-o", tmp_path, "--data", "scenes", "--overwrite", check=False),
        str(tmp_path),
    )
    refused(run("train", recipe, *options, "-o", tmp_path, "--overwrite", check=False), str(tmp_path))
    both = tmp_path / "both"
    refused(run("train", recipe, *options, "-o", both, "--run", both, check=False), str(both), "-o", "--run", code=2)


def test_a_file_that_cannot_be_written_leaves_nothing(bundle, image_folder, packet_of_p0, tmp_path, monkeypatch):
    (tmp_path / "p0.splitreg").write_bytes(packet_of_p0)
    message = os.strerror(errno.ENOSPC)

    def full(source, target):
        raise OSError(errno.ENOSPC, message)

    monkeypatch.setattr("splitreg.files.os.replace", full)
    drawn = tmp_path / "drawn"
    refused(run("infer", bundle, tmp_path / "p0.splitreg", "--draw", drawn, check=False), message, str(drawn))
    refused(run("encode", bundle, image_folder / "p1.png", "-o", drawn, check=False), message, "p1.splitreg")
    assert list(drawn.iterdir()) == []


def test_a_prediction_is_drawn_over_its_own_image_only(bundle, packet_of_p0, tmp_path):
    (tmp_path / "p0.splitreg").write_bytes(packet_of_p0)
    Image.new("RGB", (9, 9)).save(tmp_path / "p0.png")
    arguments = ["infer", bundle, tmp_path / "p0.splitreg", "--draw", tmp_path / "drawn"]
    (tmp_path / "over").mkdir()
    (tmp_path / "p0.png").rename(tmp_path / "over" / "p0.png")
    assert "9x9" in refused(run(*arguments, "--over", tmp_path / "over", check=False), code=2)


@pytest.mark.parametrize(("option", "word"), [("cuont=3", "'count'"), ("count=x", "count")])
def test_wrong_options_of_a_dataset_get_one_line(option, word, trained):
    refused(run("eval", trained[2], "--data", "scenes", "--set", option, check=False), word)
