"""``splitreg send`` against a service that misbehaves on request; in an interpreter without torch where that matters."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.fake_service import FakeService

from splitreg.cli.send_ import _WHEN_FULL, command
from splitreg.edge import EdgeEncoder, Outbox, outbox
from splitreg.errors import BundleError, OutboxFull, SplitregError

BUNDLE = "zoo:camvid-small"
HOOK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "compressai", "onnx", "av"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
from splitreg.cli.main import main
main()
"""


@pytest.fixture
def service():
    with FakeService() as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120)).save(folder / f"p{i}.png")
    return folder


def send(service, *arguments, bundle=BUNDLE):
    return CliRunner().invoke(command, [bundle, *map(str, arguments), "--to", service.url])


def rows(done):
    assert done.exception is None, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_needs_no_torch(service, images, tmp_path):
    arguments = [BUNDLE, images, "--to", service.url, "--json", "--draw", tmp_path / "d", "--answers", tmp_path / "a"]
    command_ = [sys.executable, "-c", HOOK, "send", *map(str, arguments), "--outbox", str(tmp_path / "box")]
    done = subprocess.run(command_, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in answers] == ["p0.png", "p1.png", "p2.png"] and not done.stderr
    assert sorted(os.listdir(tmp_path / "d")) == ["p0-cls.png", "p1-cls.png", "p2-cls.png"]
    assert json.loads((tmp_path / "a" / "p1.json").read_text()) == answers[1]
    video = subprocess.run([*command_[:5], "camera:0", *command_[6:]], capture_output=True, text=True)
    assert video.returncode == 1 and "pip install 'splitreg[video]'" in video.stderr and "Traceback" not in video.stderr


def test_importing_it_costs_nothing_heavy():
    code = "import sys, splitreg.cli.send_; print([m for m in ('torch', 'numpy', 'sqlite3', 'ssl', 'http.client') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("options", "fact"), [
    (["clip.mp4", "--draw", "drawn"], "--stream excludes --draw; .*splitreg watch"),
    (["clip.mp4", "--outbox", "o.db"], "--stream excludes --outbox"), ([], "--stream needs a source"),
])  # fmt: skip
def test_what_streams_exclude(options, fact):
    done = CliRunner().invoke(command, [BUNDLE, "--to", "http://127.0.0.1:9", "--stream", *options])
    assert done.exit_code == 2 and re.search(fact, " ".join(done.output.split()))


def test_what_is_printed(service, images):
    done = send(service, images / "p0.png", "--heads", "cls,det")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("p0.png\t") and " bytes\t" in lines[0] and "link" in lines[0]
    assert re.fullmatch(r"p0\.png\tcls\t[abc] 0\.\d\d(, [abc] 0\.\d\d)*", lines[1]) and len(lines) == 2
    assert service.requests[0][0] == "/v1/infer?heads=cls,det"


def test_the_token_comes_from_a_file(service, images, tmp_path):
    (tmp_path / "token").write_text("abc\n")
    send(service, images / "p0.png", "--token-file", tmp_path / "token")
    assert service.requests[0][1]["Authorization"] == "Bearer abc"
    (tmp_path / "empty").write_text("\n")
    for wrong in ("empty", "none"):
        done = send(service, images / "p0.png", "--token-file", tmp_path / wrong)
        assert isinstance(done.exception, SplitregError) and "token" in str(done.exception)


def test_one_image_that_fails_does_not_stop_the_others(service, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    done = send(service, tmp_path / "bad.png", images / "p1.png", "--json")
    assert "bad.png" in done.stderr and re.search(r"\b1\b.*\b2\b", str(done.exception))
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["p1.png"]


@pytest.mark.parametrize("arguments", [(), ("p0.png", "--every", "0"), ("p0.png", "--budget-bytes", "0")], ids=str)
def test_misuse(service, arguments, images, monkeypatch):
    monkeypatch.chdir(images)
    assert send(service, *arguments).exit_code == 2


def test_two_images_of_one_name(service, images, tmp_path):
    done = send(service, images, images / "p0.png", "--answers", tmp_path / "a")
    assert done.exit_code == 2 and re.search(r"\bp0\b", done.stderr)


def test_packets_wait_while_nobody_answers(images, tmp_path):
    box = tmp_path / "box"
    with FakeService() as gone:
        pass
    done = send(gone, images, "--outbox", box, "--deadline-s", "0.3")
    assert re.search(rf"\b3\b.*{box}", str(done.exception)) and not done.stdout
    with FakeService() as service:
        answers = rows(send(service, "--outbox", box, "--json"))
        assert [row["name"] for row in answers] == ["p0.png", "p1.png", "p2.png"]
        assert not rows(send(service, "--outbox", box)) and len(service.requests) == 3


def test_a_refusal_ends_a_run_with_an_outbox(service, images, tmp_path):
    service.script.extend([(401, {})] * 9)
    done = send(service, images, "--outbox", tmp_path / "box")
    assert type(done.exception).__name__ == "Unauthorized"
    service.script.clear()
    with Outbox(tmp_path / "box") as box:
        left = len(box)
    assert left and len(rows(send(service, "--outbox", tmp_path / "box", "--json"))) == left


def test_what_is_refused_is_told(service, images, tmp_path):
    service.script.append((409, {}, json.dumps({"error": {"type": "ForeignPacket", "message": "of another"}}).encode()))
    done = send(service, images, "--outbox", tmp_path / "box")
    assert "p0.png\terror\tof another" in done.stdout and re.search(r"\b0\b.*\b1\b", str(done.exception))


def test_a_full_outbox_refuses_or_drops(images, tmp_path, monkeypatch):
    monkeypatch.setattr(
        outbox.Outbox.__init__, "__kwdefaults__", {"max_packets": 2, "max_bytes": 10**6, "when_full": "refuse"}
    )
    with FakeService() as gone:
        pass
    done = send(gone, images, "--outbox", tmp_path / "box", "--deadline-s", "0.2")
    assert isinstance(done.exception, OutboxFull)
    done = send(gone, images, "--outbox", tmp_path / "box", "--deadline-s", "0.2", "--when-full", "drop-oldest")
    assert re.search(r"\b3\b", done.stderr) and re.search(r"\b2\b", str(done.exception))


def test_the_command_line_offers_what_the_library_has():
    assert _WHEN_FULL == outbox._WHEN_FULL


@pytest.mark.parametrize("extra", [[], ["--stream"]], ids=["images", "stream"])
@pytest.mark.parametrize(("option", "used"), [("--no-context", False), ("--context", True)])
def test_the_context_network_can_be_left_out(extra, option, used, monkeypatch, tmp_path):
    opened = []

    def refuse(bundle, *, context):
        opened.append(context)
        raise BundleError("enough")

    monkeypatch.setattr(EdgeEncoder, "open", refuse)
    (tmp_path / "a.png").touch()
    arguments = ["my-bundle", str(tmp_path / "a.png"), "--to", "http://127.0.0.1:1", option, *extra]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, BundleError) and opened == [used]
