"""A process from nothing to the bytes of its first picture: splitreg.edge against the peer; time and peak memory.

Wall time ends when the bytes are there; CPU time and peak memory are the whole process's, its end included.

Rounds take turns. ``--edge-python`` is the interpreter of ours: by default the one that runs this, better one that has
``pip install 'splitreg[edge]'`` alone, as a device has. ``--peer-python`` has sc2bench (else compressai's layers are
taken, which the result says).

    python benchmarks/cold_start.py --rounds 9 --edge-python device/bin/python --peer-python peer/bin/python
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ladon  # and nothing large: a child's peak memory begins with its parent's

OURS = """
import sys
from splitreg.edge import EdgeEncoder
packet = EdgeEncoder.open(sys.argv[1], precision=sys.argv[3]).encode(sys.argv[2])[0]
print(len(packet), flush=True)
"""


def cold(command):
    """Return wall seconds to the first packet, CPU seconds and peak megabytes of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **ladon.ONE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = process.stdout.readline()
    wall = time.perf_counter() - begun
    complaint = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or not said:
        sys.exit(complaint.decode())
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def ask(python, code):
    """Return what a line of Python prints in another interpreter; nothing where it fails."""
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=416, help="side of the network's input")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="graph of ours")
    parser.add_argument("--edge-python", default=sys.executable)
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    size = (options.size, options.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (picture,) = ladon.prepare(folder, [], size)
        commands = {
            "ours": [options.edge_python, "-c", OURS, folder / "bundle", picture, options.precision],
            "peer": ladon.command(options.peer_python, "once", "peer", picture, folder / "peer.npz", *size),
        }
        for command in commands.values():  # bytecode and the disk's cache
            cold(command)
        rounds = [{who: cold(command) for who, command in commands.items()} for _ in range(options.rounds)]
    names = (
        "from importlib.metadata import version as v; print('sc2bench', v('sc2bench'), 'compressai', v('compressai'))"
    )
    count = "import importlib.metadata as m; print(len({d.name for d in m.distributions()}))"
    from splitreg.evaluation.report import hardware, versions

    print(json.dumps({
        "what": f"a process from nothing to the first picture's bytes, {options.size}x{options.size}, one thread",
        "peer": ask(options.peer_python, names) or "compressai's layers (sc2bench is not installed)",
        **{
            f"times_less_{what}": round(statistics.median(r["peer"][index] / r["ours"][index] for r in rounds), 1)
            for index, what in enumerate(("wall_time", "cpu_time", "peak_memory"))
        },
        **{
            what: {who: round(statistics.median(r[who][index] for r in rounds), 3) for who in commands}
            for index, what in enumerate(("wall_s", "cpu_s", "peak_mb"))
        },
        "installed_packages": {"ours": int(ask(options.edge_python, count)), "peer": int(ask(options.peer_python, count))},
        "precision": options.precision,
        "rounds": options.rounds, "threads": 1, "seed": 0, "hardware": hardware(), "versions": versions(),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
