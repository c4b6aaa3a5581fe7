"""``splitreg serve --check``, and the log: its files, and a reader that does not read."""

import datetime
import json
import logging
import os
import subprocess
import sys
import threading
import time

import pytest
from support.serving_toys import until

from splitreg.errors import RecipeError
from splitreg.serving import logs, preflight
from splitreg.serving.config import ServeConfig

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates by the days that they are valid: 400, 3, and one that has expired."""
    folder = tmp_path_factory.mktemp("tls")
    pairs = {}
    for days in (400, 3, -1):
        cert, key = folder / f"{days}.pem", folder / f"{days}.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                   "/CN=localhost", "-days", str(days), "-keyout", str(key), "-out", str(cert)]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True)
        except OSError:
            pytest.skip("openssl is not installed")
        if done.returncode == 0:
            pairs[days] = {"tls_cert": str(cert), "tls_key": str(key)}
    return pairs


def outcomes(bundle, **options):
    config = ServeConfig(**{"bundles": (str(bundle),), "port": 0, **options})
    return {check.name: check for check in preflight.check_deployment(config)}


def test_a_deployment_that_works(bundle, certificates, tmp_path):
    checks = outcomes(bundle, log_file=str(tmp_path / "new" / "log"), max_connections=50, **certificates[400])
    assert [name for name, check in checks.items() if not check.ok] in ([], ["memory"])
    assert checks["certificate"].facts["days"] > 390 and checks["bundles"].facts["models"]
    assert not (tmp_path / "new").exists()


def test_certificates_that_end(bundle, certificates):
    check = outcomes(bundle, **certificates[3])["certificate"]
    assert not check.ok and "days" in check.message and check.facts["expires"]
    if -1 in certificates:
        assert "expired" in outcomes(bundle, **certificates[-1])["certificate"].message
    wrong = {"tls_cert": certificates[3]["tls_cert"], "tls_key": certificates[400]["tls_key"]}
    assert not outcomes(bundle, **wrong)["certificate"].ok


def test_what_does_not_work_is_reported_at_once(bundle, tmp_path, monkeypatch):
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)).date().isoformat()
    (tmp_path / "tokens").write_text(f"0123456789abcdef name=cam expires={soon}\n")
    (tmp_path / "tokens").chmod(0o600)
    monkeypatch.setattr(preflight, "usable_descriptors", lambda wanted: (10, 5))
    monkeypatch.setattr(preflight, "_available_bytes", lambda: 1000)
    checks = outcomes(tmp_path / "none", token_file=str(tmp_path / "tokens"))
    assert "cam" in checks["tokens"].message and "10 of 16000" in checks["open files"].message
    assert not checks["bundles"].ok and not checks["memory"].ok
    checks = outcomes(bundle)
    assert "1000" in checks["memory"].message and checks["bundles"].ok


def test_the_command_prints_a_line_per_check(bundle):
    command = [sys.executable, "-m", "splitreg", "serve", str(bundle), "--check", "--port", "0", "--connections", "10"]
    done = subprocess.run([*command], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["check"] for line in lines} >= {"address", "bundles", "memory", "open files"}
    assert done.returncode == (0 if all(line["ok"] for line in lines) else 1)
    damaged = subprocess.run([*command[:4], "gone", *command[5:]], capture_output=True, text=True)
    assert damaged.returncode == 1 and any(not json.loads(line)["ok"] for line in damaged.stdout.splitlines())


def test_a_reader_of_the_log_that_does_not_read_stops_nothing():
    reader, writer = os.pipe()
    dropped = []
    pipe = os.fdopen(writer, "w")
    handler = logs.DroppingHandler(logging.StreamHandler(pipe), lambda: dropped.append(1))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    start = time.monotonic()
    for number in range(20_000):
        logger.info("a line that nobody reads %d", number)
    assert dropped and time.monotonic() - start < 20
    lines = []

    def read():
        with os.fdopen(reader) as file:
            lines.extend(1 for _ in file)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    until(lambda: handler._lines.empty())
    handler.close()
    pipe.close()
    thread.join(30)
    assert len(lines) + len(dropped) == 20_000


def test_log_files_are_for_their_owner_only(tmp_path):
    names = ("splitreg.serve", "asyncio", "websockets")
    before = [(list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names]
    config = ServeConfig(bundles=("b",), log_file=str(tmp_path / "log"), max_log_bytes=300)
    handler = logs.open_log(config)
    try:
        for _ in range(10):
            logs.log("something", detail="x" * 40)
    finally:
        handler.close()
        for name, (handlers, propagate) in zip(names, before, strict=True):
            logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = handlers, propagate
    files = list(tmp_path.iterdir())
    assert len(files) > 2 and {file.stat().st_mode & 0o777 for file in files} == {0o600}
    with pytest.raises(RecipeError, match="log"):
        logs.open_log(ServeConfig(bundles=("b",), log_file=str(tmp_path / "log" / "no")))
