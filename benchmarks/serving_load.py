"""A server beyond its capacity, then with idle streams: what is answered, what is refused, and what memory it takes.

    python benchmarks/serving_load.py --seconds 60 --clients 64 --idle 10000 > result.json

``--clients`` connections ask for all heads of a small untrained bundle (or ``--bundle``) without a pause, and 20 ms after a
refusal whatever its Retry-After says. Latencies are of accepted requests, seen by the client. Memory is the proportional
set size (PSS) of the front and of the worker processes together, from /proc. Then another server holds idle WebSockets, one
a connection; at the end a packet goes through the last of them.
"""

import argparse
import asyncio
import base64
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

import serving

HEAD = "POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.splitreg.packet\r\nContent-Length: {}\r\n{}\r\n"
UPGRADE = (
    "GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: {}\r\n\r\n"
)


class Server:
    """A server in processes of its own."""

    def __init__(self, bundle, log, *options):
        arguments = ["serve", bundle, "--port", 0, "--threads", 1, "--log-file", log, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "splitreg", *map(str, arguments)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, **serving.ONE},
        )  # fmt: skip
        place = urlparse(json.loads(self.process.stdout.readline())["url"])
        self.address = place.hostname, place.port

    def memory(self):
        """MiB of the front, and of those that it started."""
        workers = [pid for child in children(self.process.pid) for pid in (child, *children(child))]
        return {"front_mib": pss([self.process.pid]), "workers_mib": pss(workers)}

    def end(self):
        begun = time.perf_counter()
        self.process.terminate()
        return {"exit": self.process.wait(), "seconds": round(time.perf_counter() - begun, 2)}


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss(pids):
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return round(sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024, 1)


async def client(address, packet, deadline_ms, end, found):
    """Ask until the end; note (status, seconds, whether a refusal said when to come back)."""
    reader = writer = None
    request = HEAD.format(len(packet), f"X-Splitreg-Deadline-Ms: {deadline_ms}\r\n").encode() + packet
    while time.perf_counter() < end:
        begun = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(*address)
            writer.write(request)
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower()
            await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        except (OSError, EOFError, TimeoutError) as error:
            found.append((type(error).__name__, time.perf_counter() - begun, False))
            writer = None
            continue
        status = int(head.split()[1])
        found.append((status, time.perf_counter() - begun, "retry-after: " in head))
        if "connection: close" in head:
            writer.close()
            writer = None
        if status != 200:
            await asyncio.sleep(0.02)
    if writer is not None:
        writer.close()


async def load(server, packet, asked):
    """Return what happened to the requests, and the memory over time."""
    found, memory, begun = [], [], time.perf_counter()
    end = begun + asked.seconds
    clients = [
        asyncio.create_task(client(server.address, packet, asked.deadline_ms, end, found)) for _ in range(asked.clients)
    ]
    while not all(task.done() for task in clients):
        memory.append({"second": round(time.perf_counter() - begun, 1), **server.memory()})
        await asyncio.wait(clients, timeout=max(1.0, asked.seconds / 10))
    accepted = sorted(seconds for status, seconds, _ in found if status == 200)
    refused = [(status, says) for status, _, says in found if status in (429, 503)]
    return {
        "requests": len(found), "statuses": {str(status): n for status, n in Counter(f[0] for f in found).items()},
        "refusals_without_retry_after": sum(not says for _, says in refused),
        "accepted_per_s": round(len(accepted) / asked.seconds, 1), "deadline_ms": asked.deadline_ms,
        "accepted_p50_ms": round(1000 * statistics.median(accepted), 1) if accepted else None,
        "accepted_p99_ms": round(1000 * accepted[min(len(accepted) - 1, int(0.99 * len(accepted)))], 1) if accepted else None,
        "memory": memory,
    }  # fmt: skip


async def hold(server, packet, count, seconds):
    """Open streams, hold them, and ask through the last one."""
    before, begun, streams = server.memory(), time.perf_counter(), []

    async def open_one():
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(UPGRADE.format(base64.b64encode(os.urandom(16)).decode()).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            raise SystemExit(head.decode())
        streams.append((reader, writer))

    for start in range(0, count, 100):
        await asyncio.gather(*(open_one() for _ in range(min(100, count - start))))
    opened = time.perf_counter() - begun
    await asyncio.sleep(seconds)
    after = server.memory()
    reader, writer = streams[-1]
    message = (7).to_bytes(8, "little") + packet
    length = (
        bytes([0x80 | 126]) + len(message).to_bytes(2, "big") if len(message) > 125 else bytes([0x80 | len(message)])
    )
    writer.write(b"\x82" + length + b"\0\0\0\0" + message)
    answered = (await asyncio.wait_for(reader.read(100), 30))[:1] != b""
    for _, writer in streams:
        writer.close()
    return {
        "streams": count, "opened_in_s": round(opened, 1), "held_s": seconds, "before": before, "after": after,
        "front_kib_a_stream": round(1024 * (after["front_mib"] - before["front_mib"]) / count, 2),
        "last_one_answered": answered,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--packet", type=Path, help="of that bundle")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--deadline-ms", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=500, help="requests a second of one client address")
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--idle-seconds", type=float, default=30)
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        folder, bundle, packet = Path(name), asked.bundle, asked.packet
        if bundle is None:
            subprocess.run(
                serving.command("make", folder, 192, 256, True), check=True, env={**os.environ, **serving.ONE}
            )
            bundle, packet = folder / "bundle", folder / "0.packet"
        data = packet.read_bytes()
        server = Server(bundle, folder / "load.log", "--rate", asked.rate)
        result = {"cpu": serving.cpu(), "clients": asked.clients, "seconds": asked.seconds, "packet_bytes": len(data)}
        result["load"] = asyncio.run(load(server, data, asked))
        time.sleep(1)
        result["load"]["memory_at_rest"] = server.memory()
        result["load"]["end"] = server.end()
        server = Server(bundle, folder / "idle.log", "--rate", 0, "--connections", asked.idle + 100)
        result["idle"] = asyncio.run(hold(server, data, asked.idle, asked.idle_seconds))
        result["idle"]["end"] = server.end()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
