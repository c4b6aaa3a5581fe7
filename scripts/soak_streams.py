"""Many video streams on one server: memory of the server, answers, and what faults cost.

    python scripts/soak_streams.py zoo:camvid-small --root SPLITREG_DATA/video --streams 200 --seconds 60

Starts ``splitreg serve`` on loopback and opens the streams. Each sends the frames of a clip, one after
the other, each when the one before is answered. Of the packets, ``--loss`` are dropped, repeated or
swapped with the next one; a stream that is told so sends a key frame. Halfway, the worker is killed.
Prints JSON with memory over time (resident bytes of the server and its workers).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from splitreg.coding import FrameEncoder, StreamFormat
from splitreg.edge import EdgeEncoder, frames
from splitreg.wire.protocol import STREAM, read_answer, write_request


def memory(pid: int) -> dict[str, int]:
    """Return the resident bytes of a process and of all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    todo, below = [pid], []
    while todo:
        todo = [child for parent in todo for child in children.get(parent, [])]
        below += todo
    return {"server": resident(pid), "workers": sum(map(resident, below)), "pids": below}


def resident(pid: int) -> int:
    """Return the resident bytes of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Stream:
    """One client."""

    def __init__(self, number: int, encoder: EdgeEncoder, latents, stream: StreamFormat, loss: float) -> None:
        self._encoder = FrameEncoder(encoder.coding, stream.latent, stream=number)
        self._latents, self._loss, self._random = itertools.cycle(latents), loss, random.Random(number)
        self.counts = {"answered": 0, "key frames needed": 0, "other errors": 0, "connections": 0}
        self.query = f"?answers=compact&resolution=1/8&video={stream}"

    async def run(self, url: str, until: float) -> None:
        """Send frames until a time of the monotonic clock."""
        for _ in range(self._random.randrange(20)):
            next(self._latents)
        while time.monotonic() < until:
            try:
                async with connect(url + STREAM + self.query, compression=None, max_size=None, proxy=None) as socket:
                    self.counts["connections"] += 1
                    await self._send(socket, until)
            except (OSError, ConnectionClosed, TimeoutError):
                await asyncio.sleep(0.5)

    async def _send(self, socket, until: float) -> None:
        key = True
        for number in itertools.count():
            if time.monotonic() > until:
                return
            packets = [self._encoder.encode(next(self._latents), key=key)]
            if not key and self._random.random() < self._loss:
                second = self._encoder.encode(next(self._latents))
                packets = self._random.choice([[second], [packets[0], packets[0], second], [second, packets[0]]])
            for packet in packets:
                await socket.send(write_request(number, packet))
            key = False
            for _ in packets:
                _, status, blob = read_answer(await asyncio.wait_for(socket.recv(), 60))
                if status == 200:
                    self.counts["answered"] += 1
                    continue
                kind = json.loads(blob)["error"]["type"]
                self.counts["key frames needed" if kind == "KeyFrameNeeded" else "other errors"] += 1
                key = True


async def soak(options, process, url: str, streams: list[Stream]) -> list[dict]:
    """Run the streams and return the memory over time."""
    began = time.monotonic()
    tasks = [asyncio.create_task(stream.run(url, began + options.seconds)) for stream in streams]
    samples, killed = [], False
    while time.monotonic() < began + options.seconds:
        await asyncio.sleep(options.seconds / 30)
        now = memory(process.pid)
        seconds = time.monotonic() - began
        samples.append({"seconds": round(seconds, 1), "server": now["server"], "workers": now["workers"]})
        if not killed and seconds > options.seconds / 2:
            os.kill(now["pids"][-1], signal.SIGKILL)
            killed = True
    await asyncio.gather(*tasks)
    return samples


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--loss", type=float, default=0.02)
    options = parser.parse_args()
    encoder = EdgeEncoder.open(options.bundle)
    latents, geometry = [], None
    for _, (_, image) in zip(
        range(40), frames(options.root / "one-by-one-person-detection.mp4", every=6), strict=False
    ):
        latent, geometry = encoder.latent_of(image)
        latents.append(latent.copy())
    assert geometry is not None
    command = [
        sys.executable,
        "-m",
        "splitreg",
        "serve",
        options.bundle,
        "--port",
        "0",
        "--threads",
        "1",
        "--rate",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"].replace("http", "ws", 1)
        streams = [
            Stream(number, encoder, latents, StreamFormat(
                model_id=encoder.coding.model_id, original=geometry.original, coded=geometry.coded,
                latent=latents[0].shape, number=number,
            ), options.loss)
            for number in range(options.streams)
        ]  # fmt: skip
        samples = asyncio.run(soak(options, process, url, streams))
        process.terminate()
    totals = {name: sum(stream.counts[name] for stream in streams) for name in streams[0].counts}
    steady = [sample["server"] for sample in samples[len(samples) // 3 :]]
    print(json.dumps({
        "streams": options.streams, "seconds": options.seconds, "loss": options.loss, "bundle": options.bundle, **totals,
        "streams_answered_at_the_end": sum(stream.counts["answered"] > 0 for stream in streams),
        "server_mib": {"first": round(steady[0] / 2**20, 1), "largest": round(max(steady) / 2**20, 1),
                       "last": round(steady[-1] / 2**20, 1)},
        "growth_mib_per_minute": round(60 * np.polyfit(
            [sample["seconds"] for sample in samples[len(samples) // 3 :]], steady, 1)[0] / 2**20, 2),
        "samples": samples,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
