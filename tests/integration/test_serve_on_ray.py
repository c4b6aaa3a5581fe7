"""The command on a local Ray cluster: exact answers, and no request is lost when replicas are killed."""

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import splitreg
from splitreg.assembly import EdgeModel, ServerModel, save
from splitreg.wire import pack, protocol

pytest.importorskip("ray.serve")

FILE = """
bundles = ["{bundle}"]
heads = ["cls", "seg"]

[ingress]
port = 0
drain_seconds = 20
load_timeout_seconds = 150
deadline_seconds = 80

[ray]
application = "test"
local_cpus = 2
object_store_bytes = 100_000_000

[body]
replicas = 2
cpus = 0.4

[head]
cpus = 0.4
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    heads = [{"name": "cls", "labels": 3}, {"name": "seg", "labels": 4}, {"name": "depth"}]
    bottleneck = {"name": "fp", "channels": 6, "hidden": 8, "from": "image"}
    model = splitreg.build(backbone="test_resnet", bottleneck=bottleneck, heads=heads, input={"size": [64, 96]})
    return save(model, tmp_path_factory.mktemp("ray") / "bundle")


def title(pid):
    """The title that Ray gives a process: its deployment and its current task."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().split("\0")[0]
    except OSError:
        return ""


def replicas(word):
    """Processes of a deployment of this test."""
    pattern = re.compile(rf"ray::ServeReplica:test-[0-9a-f]+:{word}\b(?!-)")
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and pattern.match(title(entry))]


def kill_at_work(word):
    """Kill a replica in the middle of a request."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        for pid in replicas(word):
            if "handle_request" in title(pid):
                os.kill(pid, signal.SIGSTOP)
                if "handle_request" in title(pid):
                    return os.kill(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)
    raise AssertionError(f"no replica of {word} is ever at work")


def listening(pid):
    """Addresses (IPv4, or the end of an IPv6 address) on which a process and its descendants listen.

    Ray Serve's replicas have a port of their own on all interfaces; it requires the token.
    """
    sockets = {}
    for each in descendants(pid):
        for entry in glob.glob(f"/proc/{each}/fd/*"):
            with contextlib.suppress(OSError):
                sockets[os.readlink(entry).removeprefix("socket:[").removesuffix("]")] = title(each)
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                word = words[1].partition(":")[0][-8:]
                address = ".".join(str(int(word[i : i + 2], 16)) for i in (6, 4, 2, 0))
                if not (address == "0.0.0.0" and sockets[words[9]].startswith("ray::ServeReplica")):
                    addresses.add(address)
    return addresses


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


@pytest.mark.slow
def test_from_start_to_sigterm_on_ray(bundle, tmp_path):
    """Exact answers, a reload, replicas of a body and a head killed under load, SIGTERM."""
    (tmp_path / "cluster.toml").write_text(FILE.format(bundle=bundle))
    errors = (tmp_path / "errors").open("w")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "splitreg", "serve", "--on", "ray", "--config", tmp_path / "cluster.toml"],
        stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""},
    )  # fmt: skip
    errors.close()
    try:
        line = child.stdout.readline()
        assert line, (tmp_path / "errors").read_text()[-2000:]
        url = json.loads(line)["url"]
        assert listening(child.pid) == {"127.0.0.1"}
        edge, local = EdgeModel.load(bundle), ServerModel.load(bundle, ("cls", "seg"))
        random = np.random.default_rng(0)
        packets = [edge.encode(random.integers(0, 256, (50 + i, 70, 3), np.uint8))[0] for i in range(4)]
        for heads in (None, ("cls",)):
            for packet in packets:
                assert ask(url, packet, heads) == pack(local.infer(packet, heads))

        pids = replicas("body") + replicas("head-cls")
        child.send_signal(signal.SIGHUP)
        wait(lambda: '"reloaded"' in (tmp_path / "errors").read_text())
        wanted = [pack(local.infer(packet)) for packet in packets]
        assert ask(url, packets[0]) == wanted[0]
        assert replicas("body") + replicas("head-cls") == pids  # the bundle has not changed, so it was left alone
        correct, stop = [], threading.Event()

        def load(number):
            while not stop.is_set():
                correct.append(ask(url, packets[number]) == wanted[number])

        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait(lambda: len(correct) > 8)
        assert (len(replicas("body")), len(replicas("head-seg"))) == (2, 1)
        kill_at_work("body")
        kill_at_work("head-seg")
        before = len(correct)
        wait(lambda: len(correct) > before + 12, 90)
        stop.set()
        for thread in threads:
            thread.join()
        assert all(correct)
        child.send_signal(signal.SIGTERM)
        assert child.wait(40) == 0
        entries = [json.loads(line) for line in (tmp_path / "errors").read_text().splitlines() if line.startswith("{")]
        assert "replica lost" in [entry["event"] for entry in entries]
        wait(lambda: not replicas("body") and not replicas("head-cls"), 20)
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(40)
        child.stdout.close()


@pytest.mark.slow
def test_a_cluster_without_resources(bundle, tmp_path):
    """The command fails after the timeout, instead of waiting for CPUs that the cluster does not have."""
    text = FILE.format(bundle=bundle).replace("load_timeout_seconds = 150", "load_timeout_seconds = 15")
    (tmp_path / "cluster.toml").write_text(text.replace("replicas = 2\ncpus = 0.4", "cpus = 64"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "splitreg", "serve", "--on", "ray", "--config", tmp_path / "cluster.toml"],
        capture_output=True, text=True, timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""},
    )  # fmt: skip
    assert done.returncode == 1 and not done.stdout
    assert "Error: " in done.stderr and "load_timeout_seconds=15" in done.stderr and "Traceback" not in done.stderr


def ask(url, packet, heads=None):
    """Return the exact answer; retry requests that were refused with a Retry-After."""
    query = f"?heads={','.join(heads)}" if heads else ""
    headers = {"Content-Type": protocol.PACKET, "Accept": protocol.ANSWERS}
    while True:
        try:
            request = urllib.request.Request(url + protocol.INFER + query, packet, headers)
            with urllib.request.urlopen(request, timeout=90) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            assert error.code == 503 and error.headers["Retry-After"], error.read()
            time.sleep(0.5)


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)
