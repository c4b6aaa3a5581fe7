"""From a picture to the bytes that are sent: splitreg.edge against the peer, one thread, batch 1, 416x416 by default.

Both have the same encoder weights and the same prior. Every contestant is a process of its own that lives through all
rounds; in a round each encodes the same picture, in an order that turns, once from its file and once from its pixels
(what a camera gives). The peer runs with the C library's usual malloc and with one that keeps large blocks
(``MALLOC_*`` variables), ours with the usual one. CPU time is given beside wall time: on a busy machine it is steadier.

    python benchmarks/image_to_bytes.py --rounds 25 --root kodak --peer-python other-venv/bin/python > result.json

    python benchmarks/image_to_bytes.py --size 192 256 --zoo zoo:splitreg-camvid --root camvid/val > result.json

``--zoo`` adds an encoder of the zoo, by onnxruntime, OpenVINO and the target c: other weights, other bytes.
Without ``--root`` a picture is drawn. ``--peer-python`` is an interpreter that has sc2bench; without sc2bench the peer
is built from compressai's layers, which the result says.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import ladon

TUNED = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
PEERS = ("peer", "peer_malloc_tuned")
KINDS = ("file", "pixels")


class Worker:
    """A contestant."""

    def __init__(self, python, *arguments, env=None):
        self.process = subprocess.Popen(
            ladon.command(python, "serve", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, **ladon.ONE, **(env or {})},
        )  # fmt: skip
        self.what = self.process.stdout.readline().strip()
        self.why_not = "" if self.what else (self.process.stderr.read().strip().splitlines() or ["?"])[-1]

    def encode(self, kind, picture):
        """Return wall seconds, CPU seconds and bytes."""
        self.process.stdin.write(f"{kind} {picture}\n")
        self.process.stdin.flush()
        wall, cpu, size = self.process.stdout.readline().split()
        return float(wall), float(cpu), int(size)


def measure(workers, pictures, rounds):
    """Return kind -> contestant -> what ``encode`` returned, round by round."""
    found = {kind: {who: [] for who in workers} for kind in KINDS}
    for number in range(-3, rounds):  # three rounds warm up
        turn = number % len(workers)
        for kind in KINDS:
            for who in [*workers][turn:] + [*workers][:turn]:
                one = workers[who].encode(kind, pictures[number % len(pictures)])
                if number >= 0:
                    found[kind][who].append(one)
    return found


def summary(found):
    """Return ratios and medians of one kind."""

    def ratios(peer, index):
        return {
            who: round(statistics.median(a[index] / b[index] for a, b in zip(found[peer], found[who], strict=True)), 2)
            for who in found
            if who not in PEERS
        }

    return {
        "times_faster": {peer: {"wall": ratios(peer, 0), "cpu": ratios(peer, 1)} for peer in PEERS},
        "median_wall_ms": {who: round(1000 * statistics.median(x[0] for x in all_), 2) for who, all_ in found.items()},
        "median_cpu_ms": {who: round(1000 * statistics.median(x[1] for x in all_), 2) for who, all_ in found.items()},
        "mean_bytes": {who: round(statistics.mean(x[2] for x in all_)) for who, all_ in found.items()},
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--root", type=Path, default=None, help="folder of PNG pictures (default: SPLITREG_DATA/kodak)")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--size", nargs=2, type=int, default=ladon.SIZE, metavar=("H", "W"))
    parser.add_argument("--zoo", help="a bundle that is measured, too")
    options = parser.parse_args()
    root = options.root or (Path(os.environ["SPLITREG_DATA"]) / "kodak" if "SPLITREG_DATA" in os.environ else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = ladon.prepare(folder, sorted(root.glob("*.png"))[:8] if root else [], options.size)
        weights = ("peer", folder / "peer.npz", *options.size)
        wanted = {
            "peer": Worker(options.peer_python, *weights),
            "peer_malloc_tuned": Worker(options.peer_python, *weights, env=TUNED),
        }
        for runtime in ("onnxruntime", "openvino"):
            for precision in ("fp32", "int8"):
                wanted[f"{runtime}_{precision}"] = Worker(sys.executable, "ours", folder / "bundle", runtime, precision)
        if options.zoo:
            for runtime in ("onnxruntime", "openvino"):
                wanted[f"zoo_{runtime}"] = Worker(sys.executable, "ours", options.zoo, runtime, "fp32")
            wanted["zoo_c"] = Worker(sys.executable, "compiled", options.zoo, *options.size)
        workers = {who: worker for who, worker in wanted.items() if worker.what}
        found = measure(workers, pictures, options.rounds)
        for worker in workers.values():
            worker.process.stdin.close()
            worker.process.wait()
    from splitreg.evaluation.report import hardware, versions

    print(json.dumps({
        "what": f"from a picture to bytes, batch 1, {options.size[1]}x{options.size[0]}, one thread",
        "contestants": {who: worker.what for who, worker in workers.items()},
        "absent": {who: worker.why_not for who, worker in wanted.items() if not worker.what},
        **{f"from_{kind}": summary(found[kind]) for kind in KINDS},
        "rounds": options.rounds, "pictures": len(pictures), "source": root.name if root else "drawn",
        "malloc_tuned": TUNED, "threads": 1, "seed": 0, "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
