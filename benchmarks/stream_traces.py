"""A stream with a budget of time over recorded cellular links: how many frames keep it.

The frames of a clip arrive in real time, newest first, as from a camera. The link replays recorded
delivery times (``splitreg.link_emulator.LinkTrace``) in both directions, with 25 ms of delay each way and
no loss: the recordings show retransmissions as pauses. A frame keeps the budget if its predictions
are there that many milliseconds after the frame was taken.

    python benchmarks/stream_traces.py --root SPLITREG_DATA --budget-ms 300 --seconds 60 > result.json

Everything runs on this machine, one thread each side. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from end_to_end import Serving

from splitreg import imaging
from splitreg.edge import EdgeEncoder, frames
from splitreg.edge.stream_client import StreamClient, StreamClientOptions
from splitreg.edge.stream_control import Budget
from splitreg.evaluation.report import hardware, versions
from splitreg.link_emulator import Link, LinkTrace, Profile


def in_real_time(images, fps: float, seconds: float):
    """Yield the newest image at the time at which it is asked for, until the time is over."""
    began, last = time.monotonic(), -1
    while (number := int((time.monotonic() - began) * fps)) < seconds * fps:
        if number == last:
            time.sleep(max(0.0, began + (number + 1) / fps - time.monotonic()))
            continue
        last = number
        yield f"frame {number}", images[number % len(images)]


def measure(url: str, encoder, images, heads, options) -> dict:
    """Return what happened to the frames of one stream."""
    budget = Budget(fps=options.fps, ms=options.budget_ms if options.controlled else None)
    client = StreamClient(
        url, encoder, heads=tuple(heads), options=StreamClientOptions(budget=budget, resolution="1/4", deadline_s=60)
    )
    answers = []
    report = client.run(in_real_time(images, options.fps, options.seconds), answers.append)
    times = sorted(answer.total_ms for answer in answers)
    kept = sum(ms <= options.budget_ms for ms in times) / (len(times) + report.lost)
    return {
        "frames": len(times), "lost": report.lost, "kept": round(kept, 4),
        "median_ms": round(statistics.median(times), 1), "p95_ms": round(times[int(0.95 * len(times))], 1),
        "sent_kbps": round(report.sent_bytes * 8 / 1000 / report.seconds, 2),
        "fps": round(len(times) / report.seconds, 2),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--heads", default="seg,det")
    parser.add_argument("--budget-ms", type=float, default=300)
    parser.add_argument("--fps", type=float, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--free", dest="controlled", action="store_false", help="measure against the budget, but do not keep it"
    )
    options = parser.parse_args()
    heads = options.heads.split(",")
    clip = frames(options.root / "video" / "one-by-one-person-detection.mp4", every=2)
    images = [imaging.read(image) for _, (_, image) in zip(range(300), clip, strict=False)]
    encoder, serving = EdgeEncoder.open(options.bundle), Serving(options.bundle, heads)
    results = {}
    try:
        for up in sorted((options.root / "traces").glob("*.up")):
            profile = Profile(
                up_bps=1,
                down_bps=1,
                delay_s=0.025,
                up_trace=LinkTrace.read(up),
                down_trace=LinkTrace.read(up.with_suffix(".down")),
            )
            with Link(serving.address, profile, seed=0) as link:
                results[up.stem] = measure(link.url, encoder, images, heads, options)
    finally:
        serving.process.terminate()
        serving.process.wait()
    print(json.dumps({
        "what": "frames whose predictions are there in time", "bundle": options.bundle, "budget_ms": options.budget_ms,
        "fps": options.fps, "seconds": options.seconds, "controlled": options.controlled, "traces": results,
        "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
