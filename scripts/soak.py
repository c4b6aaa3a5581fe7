"""Mixed honest and hostile clients against a server for minutes, with faults; prints JSON, plots an SVG.

    python scripts/soak.py --bundle zoo:camvid-small --minutes 20 --plot docs/images/soak.svg > soak.json
    python scripts/soak.py --bundle zoo:camvid-small --attacks > attacks.json

Without ``--attacks``: honest clients (requests and a stream) run all the time, and hostile ones take turns. A quarter
of the way a worker is killed, then the bundles are reloaded, then the worker is stopped for 6 seconds, then the disk of
the log is full for a while (a small file system, where that may be mounted). With ``--attacks``: latency and memory
under each attack against those at rest, with an honest client on the same machine.

Hostile clients come from 127.0.0.1, honest ones from 127.0.0.2: limits per client are a part of what is measured.
"""

import argparse
import contextlib
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
_ORDINARY = ("request", "request refused", "client disconnected")
PACKET = "application/vnd.splitreg.packet"
#: Attacks that take turns: name in tests/support/attacks.py -> options.
ATTACKS = {
    "upgrades_with_body": {"count": 60}, "silent_connections": {"count": 200}, "unfinished_messages": {}, "tiny_chunks": {},
    "tiny_fragments": {}, "empty_pings": {}, "unread_pongs": {}, "pipelined_requests": {}, "many_headers": {},
    "unfinished_bodies": {}, "silent_readers": {"packet": "LARGE"}, "slow_images": {"image": "IMAGE"},
}  # fmt: skip


class Server:
    """``splitreg serve`` with one worker, and what an honest client sees of it."""

    def __init__(self, bundle, folder):
        self.log = open(folder / "stderr", "wb")
        command = [sys.executable, "-W", "ignore", "-m", "splitreg", "serve", bundle, "--port", "0", "--page",
                   "--threads", "1", "--log-file", str(folder / "disk" / "log")]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=one_thread(), text=True)
        self.port = urlparse(json.loads(self.process.stdout.readline())["url"]).port

    def ask(self, method, path, body=None, headers=(), timeout=30):
        """Send a request on a new connection; return the status, or the name of an error."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=timeout, source_address=("127.0.0.2", 0)
        )
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, dict(headers))
                answer = connection.getresponse()
                return answer.status, answer.read()
            except OSError as error:
                return type(error).__name__, b""
            except http.client.HTTPException as error:
                return type(error).__name__, b""

    def memory(self):
        """MiB of the front process, of the workers with their manager, and of the encoder."""
        return {"front": resident(self.process.pid), "others": sum(map(resident, descendants(self.process.pid)))}

    def workers(self):
        """Process ids of the workers: the grandchildren, of which one may be missing for a moment."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            pids = [pid for child in children(self.process.pid) for pid in children(child)]
            if pids:
                return pids
            time.sleep(0.05)
        raise SystemExit("the server has no worker")

    def stop(self):
        """End it; return seconds and exit status."""
        start = time.monotonic()
        self.process.terminate()
        status = self.process.wait(60)
        self.log.close()
        return time.monotonic() - start, status


def one_thread():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(names, "1"),
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }


def children(pid):
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def descendants(pid):
    return [each for child in children(pid) for each in (child, *descendants(child))]


def resident(pid):
    """Return the MiB of a process that no other shares."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        _, pages, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
        return (int(pages) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def make_clients(bundle):
    """Return an honest packet, one that asks for large answers, and a slow image."""
    import numpy as np
    from PIL import Image

    from splitreg.coding import Packet
    from splitreg.edge import EdgeEncoder

    encoder = EdgeEncoder.open(bundle)
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((480, 360), Image.Resampling.BICUBIC))
    packet = encoder.encode(pixels)[0]
    parsed = Packet.parse(packet)
    large = Packet(
        model_id=parsed.model_id, original=(7071, 7071), coded=parsed.coded, streams=parsed.streams
    ).to_bytes()
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((3000, 2000)).save(stream, "JPEG", progressive=True, quality=90)
    return packet, large, stream.getvalue()


@contextlib.contextmanager
def attack(name, port, files):
    """Run hostile clients while the block runs."""
    options = [f"{key}={files.get(value, value)}" for key, value in ATTACKS[name].items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.attacks", name, str(port), *options], cwd=TESTS, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def measure(server, packet, seconds):
    """Return the 95th percentile of the seconds of /healthz and of an inference, and the statuses."""
    times, statuses, end = {"healthz": [], "infer": []}, [], time.monotonic() + seconds
    while time.monotonic() < end or len(times["infer"]) < 20:
        for kind, request in (
            ("healthz", ("GET", "/healthz")), ("infer", ("POST", "/v1/infer", packet, {"Content-Type": PACKET})),
        ):  # fmt: skip
            start = time.monotonic()
            statuses.append(server.ask(*request)[0])
            times[kind].append(time.monotonic() - start)
            time.sleep(0.01)
    return {kind: percentile(values, 0.95) for kind, values in times.items()}, statuses


def attacks(bundle, folder, seconds):
    """Return a row per attack: latency and memory at rest and under it."""
    packet, large, image = make_clients(bundle)
    (folder / "image").write_bytes(image)
    files = {"LARGE": large.hex(), "IMAGE": str(folder / "image")}
    rows = []
    for name in ATTACKS:
        server = Server(bundle, folder)
        try:
            measure(server, packet, 1)
            server.ask("POST", "/v1/encode", image, {"Content-Type": "image/jpeg"})
            quiet, _ = measure(server, packet, seconds)
            before, most = server.memory()["front"], 0.0
            with attack(name, server.port, files):
                time.sleep(2)
                busy, statuses = measure(server, packet, seconds)
                most = max(most, server.memory()["front"])
        finally:
            ended = server.stop()
        rows.append({
            "attack": name, "accepted": round(sum(status == 200 for status in statuses) / len(statuses), 4),
            **{f"{kind}_p95_ms": [round(1000 * quiet[kind], 1), round(1000 * busy[kind], 1)] for kind in quiet},
            "front_mib": round(most - before, 1), "exit": [round(ended[0], 1), ended[1]],
        })  # fmt: skip
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


class Sampler:
    """Honest clients, and samples of what they see."""

    def __init__(self, server, packet):
        self.server, self.packet, self.start = server, packet, time.monotonic()
        self.rows, self.memory, self.events, self.stopping = [], [], [], threading.Event()
        self.threads = [
            threading.Thread(target=self._ask, args=("healthz", "GET", "/healthz", None), daemon=True),
            threading.Thread(target=self._ask, args=("infer", "POST", "/v1/infer", packet), daemon=True),
            threading.Thread(target=self._ask, args=("infer", "POST", "/v1/infer", packet), daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def now(self):
        return time.monotonic() - self.start

    def event(self, name):
        self.events.append((round(self.now(), 1), name))
        print(json.dumps(self.events[-1]), file=sys.stderr, flush=True)

    def _ask(self, kind, method, path, body):
        while not self.stopping.is_set():
            start = time.monotonic()
            status = self.server.ask(method, path, body, {"Content-Type": PACKET} if body else {})[0]
            self.rows.append((kind, self.now(), time.monotonic() - start, status))
            time.sleep(0.1)

    def _watch(self):
        while not self.stopping.is_set():
            self.memory.append((self.now(), self.server.memory()))
            time.sleep(1)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


@contextlib.contextmanager
def small_disk(folder):
    """Mount a file system of 8 MB for the log; yields a function that fills it, or None without permission."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode == 0
    )

    def fill():
        with contextlib.suppress(OSError), open(disk / "other", "ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    try:
        yield fill if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=False)


def soak(bundle, folder, minutes):
    """Return the samples and the summary."""
    packet, large, image = make_clients(bundle)
    (folder / "image").write_bytes(image)
    files = {"LARGE": large.hex(), "IMAGE": str(folder / "image")}
    with small_disk(folder) as fill:
        server = Server(bundle, folder)
        sampler = Sampler(server, packet)
        total = 60 * minutes
        faults = [
            (0.25, "kill a worker"),
            (0.4, "reload"),
            (0.55, "stop the worker"),
            (0.7, "full disk"),
            (0.8, "free disk"),
        ]
        turn, names = total / (len(ATTACKS) + 2), list(ATTACKS)
        time.sleep(turn)  # quiet
        for name in names:
            sampler.event(name)
            with attack(name, server.port, files):
                end = sampler.start + turn * (names.index(name) + 2)
                while time.monotonic() < end:
                    if faults and sampler.now() > faults[0][0] * total:
                        fault = faults.pop(0)[1]
                        sampler.event(fault)
                        cause(fault, server, fill, folder)
                    time.sleep(0.2)
        sampler.event("quiet")
        time.sleep(turn)
        sampler.stop()
        metrics = server.ask("GET", "/metrics")[1].decode()
        ended = server.stop()
        log = (folder / "disk" / "log").read_text().splitlines()
        events = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}")]
    sampler.log = [event for event in events if event["event"] not in _ORDINARY]
    return sampler, summary(sampler, turn, metrics, ended)


def cause(fault, server, fill, folder):
    if fault == "kill a worker":
        os.kill(server.workers()[0], signal.SIGKILL)
    elif fault == "reload":
        server.process.send_signal(signal.SIGHUP)
    elif fault == "stop the worker":
        pid = server.workers()[0]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(6)
        os.kill(pid, signal.SIGCONT)
    elif fault == "full disk" and fill is not None:
        fill()
    elif fault == "free disk":
        (folder / "disk" / "other").unlink(missing_ok=True)


def summary(sampler, turn, metrics, ended):
    result = {"requests": len(sampler.rows), "exit_status": ended[1], "exit_seconds": round(ended[0], 1)}
    for kind in ("healthz", "infer"):
        rows = [row for row in sampler.rows if row[0] == kind]
        quiet = [seconds for _, at, seconds, _ in rows if at < turn]
        busy = [seconds for _, at, seconds, _ in rows if at >= turn]
        result[kind] = {
            "count": len(rows), "accepted": round(sum(row[3] == 200 for row in rows) / len(rows), 5),
            "p95_ms": [round(1000 * percentile(values, 0.95), 1) for values in (quiet, busy)],
            "max_ms": round(1000 * max(row[2] for row in rows), 1),
        }  # fmt: skip
    for name in ("kill a worker", "reload", "stop the worker", "full disk"):
        at = next((at for at, event in sampler.events if event == name), None)
        if at is not None:
            at += 6 if name == "stop the worker" else 0
            after = [row[3] == 200 for row in sampler.rows if row[0] == "infer" and at + 3 < row[1] < at + 13]
            result[f"accepted 3 to 13 s after: {name}"] = round(statistics.fmean(after), 4) if after else None
    front = [memory["front"] for _, memory in sampler.memory]
    quiet = statistics.median([memory["front"] for at, memory in sampler.memory if at < turn])
    result["front_mib"] = {"quiet": round(quiet, 1), "max": round(max(front), 1), "end": round(front[-1], 1)}
    wanted = ("dropped", "refusals", "restarts", "kills", "slow_readers", "reloads")
    result["metrics"] = [line for line in metrics.splitlines() if line[:1] != "#" and any(word in line for word in wanted)
                         and "_created" not in line]  # fmt: skip
    result["log"] = [{key: event[key] for key in ("time", "event", "reason") if key in event} for event in sampler.log][
        -20:
    ]
    return result


def plot(sampler, path):
    """Write an SVG: the 95th percentile of latencies (logarithmic), and the memory, over time."""
    end, width, height, left = sampler.now(), 900, 150, 60
    x = lambda at: left + (width - left - 10) * at / end  # noqa: E731
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 520" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="520" fill="white"/>']  # fmt: skip
    for top, title, ticks, log in (
        (30, "95th percentile per 5 s, milliseconds", (1, 10, 100, 1000, 10000), True),
        (30 + height + 40, "memory of the server process, MiB", (0, 50, 100, 150, 200), False),
    ):

        def y(value, top=top, ticks=ticks, log=log):
            import math

            low, high = ticks[0], ticks[-1]
            share = math.log(max(low, value) / low) / math.log(high / low) if log else value / high
            return top + height * (1 - min(1, share))

        parts.append(f'<text x="{left}" y="{top - 8}">{title}</text>')
        for tick in ticks:
            parts.append(f'<path d="M{left} {y(tick):.1f}H{width - 10}" stroke="#ddd"/>'
                         f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')  # fmt: skip
        if log:
            for kind, colour in (("healthz", "#1b6ca8"), ("infer", "#b5450b")):
                buckets = {}
                for each, at, seconds, _ in list(sampler.rows):
                    if each == kind:
                        buckets.setdefault(int(at // 5), []).append(1000 * seconds)
                points = " ".join(
                    f"{x(5 * b + 2.5):.1f},{y(percentile(v, 0.95)):.1f}" for b, v in sorted(buckets.items())
                )
                parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        else:
            points = " ".join(f"{x(at):.1f},{y(memory['front']):.1f}" for at, memory in sampler.memory)
            parts.append(f'<polyline points="{points}" fill="none" stroke="#444"/>')
    parts.append(
        '<text x="700" y="22" fill="#1b6ca8">/healthz</text><text x="770" y="22" fill="#b5450b">/v1/infer</text>'
    )
    for at, name in sampler.events:
        label = name.replace("_", " ")
        parts.append(f'<path d="M{x(at):.1f} 30V375" stroke="#999" stroke-dasharray="2 3"/>'
                     f'<text transform="translate({x(at) + 3:.1f} 385) rotate(60)">{label}</text>')  # fmt: skip
    for minute in range(0, int(end // 60) + 1, 2):
        parts.append(f'<text x="{x(60 * minute):.1f}" y="372" text-anchor="middle" fill="#666">{minute} min</text>')
    Path(path).write_text("\n".join([*parts, "</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:camvid-small")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--plot")
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--seconds", type=float, default=4, help="per measurement of --attacks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "disk").mkdir()
        if arguments.attacks:
            print(json.dumps(attacks(arguments.bundle, folder, arguments.seconds), indent=1))
            return
        sampler, result = soak(arguments.bundle, folder, arguments.minutes)
        if arguments.plot:
            plot(sampler, arguments.plot)
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
