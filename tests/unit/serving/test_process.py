"""The command: its output, its signals, TLS, and what it does not import."""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import urllib.request

import pytest
from support.serving_toys import images, until

from splitreg.assembly import EdgeModel
from splitreg.wire import protocol

pytestmark = pytest.mark.integration


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "splitreg", "serve", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_from_start_to_sigterm(bundle, certificate, tmp_path):
    """TLS with a token, SIGHUP with a damaged bundle, draining after SIGTERM; no token in the log."""
    place = tmp_path / "bundle"
    shutil.copytree(bundle, place)
    (tmp_path / "tokens").write_text("# of the devices\ns3cret-token-0123\n\n")
    log = tmp_path / "logs" / "serve.log"
    process = command(
        place, "--port", 0, "--heads", "cls", "--token-file", tmp_path / "tokens", "--log-file", log,
        "--tls-cert", certificate / "cert.pem", "--tls-key", certificate / "key.pem", "--drain-seconds", 10,
    )  # fmt: skip
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready" and ready["url"].startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        packet = EdgeModel.load(bundle).encode(images(1)[0])[0]

        def ask(key):
            request = urllib.request.Request(
                ready["url"] + protocol.INFER, packet,
                {"Content-Type": protocol.PACKET, "Authorization": "Bearer s3cret-token-0123", protocol.IDEMPOTENCY: key},
            )  # fmt: skip
            with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
                return answer.status

        assert ask("a") == 200
        (place / "config.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        until(lambda: '"reload failed"' in log.read_text(), 120)
        assert ask("b") == 200
        statuses = []
        threads = [threading.Thread(target=lambda i=i: statuses.append(ask(f"c{i}"))) for i in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: len(statuses) >= 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        for thread in threads:
            thread.join()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {"ready", "request", "reload failed", "draining", "stopped"} <= {line["event"] for line in lines}
        assert "s3cret" not in log.read_text() and "s3cret" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_sighup_replaces_the_certificate_or_keeps_it(bundle, new_certificate, tmp_path):
    new_certificate(tmp_path)
    log = tmp_path / "serve.log"
    files = "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"
    process = command(bundle, "--port", 0, "--log-file", log, *files)

    def served():
        return ssl.get_server_certificate(("127.0.0.1", port)).strip()

    try:
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        first = (tmp_path / "cert.pem").read_text().strip()
        assert served() == first
        new_certificate(tmp_path)
        second = (tmp_path / "cert.pem").read_text().strip()
        assert first != second
        process.send_signal(signal.SIGHUP)
        until(lambda: served() == second, 60)
        (tmp_path / "cert.pem").write_text("no certificate")
        process.send_signal(signal.SIGHUP)
        until(lambda: '"reload failed"' in log.read_text(), 60)
        assert served() == second and "cert.pem" in log.read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "status", "fact"),
    [
        (("BUNDLE", "--host", "0.0.0.0"), 1, "--insecure"),
        (("nothing", "--port", "0"), 1, "nothing"),
        (("BUNDLE", "--token-file", "gone"), 1, "gone"),
        (("BUNDLE", "--tls-cert", "c"), 1, "--tls-key"),
        (("BUNDLE", "--port", "0", "--tls-cert", "chain.pem", "--tls-key", "k"), 1, "chain.pem"),
        (("BUNDLE", "--host", "203.0.113.7", "--insecure"), 1, "203.0.113.7"),
        (("BUNDLE", "--workers", "0"), 2, "workers"),
        ((), 1, "BUNDLE"),
    ],
    ids=str,
)
def test_an_expected_error_is_one_line(arguments, status, fact, bundle):
    process = command(*[bundle if argument == "BUNDLE" else argument for argument in arguments])
    out, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert process.returncode == status and fact in err and not out
    assert ("Traceback" not in err and len(lines) == 1) or status == 2


def test_the_server_process_imports_no_torch():
    heavy = ("torch", "torchvision", "timm", "compressai", "PIL", "ray", "onnxruntime")
    code = f"import sys, splitreg.serving, splitreg.cli.serve_; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
