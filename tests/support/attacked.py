"""A server in a process of its own, hostile clients in others, and what an honest client sees."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from splitreg.wire import protocol

TESTS = Path(__file__).parent.parent
#: What a stub server does: as in ``serving_toys.running``, with ``backend`` and ``limits``.
SERVER = """
import collections, json, resource, sys
sys.path.insert(0, {tests!r})
from support.serving_toys import running, stub
try:
    from splitreg.serving.memory import return_freed_memory
    return_freed_memory()
except ImportError:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
with running(stub(**{backend!r}), **{limits!r}) as server:
    server.backend.batches = collections.deque(maxlen=1)  # a stub would keep all
    print(server.port, flush=True)
    sys.stdin.read()
"""


class Attacked:
    """A server that is attacked.

    Args:
        port: of the server on 127.0.0.1.
        pid: of its front process.
        packet: an honest one.
    """

    def __init__(self, port, pid, packet):
        self.port, self.pid, self.packet = port, pid, packet

    @contextlib.contextmanager
    def attack(self, name, **options):
        """Run hostile clients while the block runs; yields when they have begun."""
        arguments = [f"{key}={value}" for key, value in options.items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "support.attacks", name, str(self.port), *arguments], cwd=TESTS,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep(0.7)
            assert process.poll() is None
            yield
        finally:
            process.kill()
            process.wait()

    def ask(self, method="GET", path=protocol.HEALTHZ, body=None, timeout=60):
        """Send a request on a new connection; return status, headers and body."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=timeout, source_address=("127.0.0.2", 0)
        )
        with contextlib.closing(connection):
            headers = {} if body is None else {"Content-Type": protocol.PACKET}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def seconds(self, kind, duration=1.5, pause=0.01):
        """Return the 95th percentile of the latency of honest requests, each on a new connection.

        Args:
            kind: ``"healthz"`` or ``"infer"``.
            duration: seconds to measure.
            pause: seconds between requests.
        """
        request = {"healthz": ("GET", protocol.HEALTHZ, None), "infer": ("POST", protocol.INFER, self.packet)}[kind]
        times, end = [], time.monotonic() + duration
        while time.monotonic() < end or len(times) < 20:
            start = time.monotonic()
            try:
                status = self.ask(*request)[0]
            except OSError as error:
                status = type(error).__name__
            times.append(time.monotonic() - start)
            assert status == 200, f"{status} after {len(times)} answers"
            time.sleep(pause)
        return sorted(times)[int(0.95 * len(times))]

    def memory(self):
        """MiB of the front process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def metric(self, name):
        """The value of a metric; 0 if it is not there."""
        lines = self.ask(path=protocol.METRICS)[2].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.contextmanager
def attacked(backend=None, files=4096, **limits):
    """Run a server with a stub backend in a process of its own."""
    from support.serving_toys import packet

    code = SERVER.format(tests=str(TESTS), backend=backend or {}, limits=limits, files=files)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        server = Attacked(int(process.stdout.readline()), process.pid, packet(b"honest" * 300))
        for _ in range(3):
            server.ask("POST", protocol.INFER, server.packet)
        yield server
    finally:
        process.kill()
        process.communicate()


def main():
    """Print latency and memory, quiet and under each attack: ``python -m support.attacked NAME ...``."""
    from support import attacks

    for name in sys.argv[1:]:
        with attacked() as server:
            quiet = {kind: server.seconds(kind) for kind in ("healthz", "infer")}
            before = server.memory()
            row = {"attack": name}
            try:
                with server.attack(name):
                    time.sleep(2)
                    for kind, seconds in quiet.items():
                        row[kind] = f"{1000 * seconds:.1f} -> {1000 * server.seconds(kind, 3):.1f} ms"
                    row["MiB"] = round(server.memory() - before, 1)
            except AssertionError as error:
                row["failed"] = str(error)
                row["MiB"] = round(server.memory() - before, 1)
            print(json.dumps(row), flush=True)
    assert attacks


if __name__ == "__main__":
    main()
