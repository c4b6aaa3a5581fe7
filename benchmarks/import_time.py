"""CPU time of short commands against their floor: what importing the libraries costs them.

    python benchmarks/import_time.py --rounds 7

``infer`` and ``build`` are compared with ``import torch``, ``list`` with reading entry points and
click alone. Rounds are interleaved. Times are user plus system CPU seconds of one process on one
thread, which other load on the machine changes little. Prints medians, and the median of the
ratios within a round, as JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BUNDLE = "zoo:splitreg-camvid"


def python(code: str) -> list[str]:
    """Return the command that runs one line of Python."""
    return [sys.executable, "-c", code]


def splitreg(*arguments: str | Path) -> list[str | Path]:
    """Return the command that runs splitreg."""
    return [sys.executable, "-m", "splitreg", *arguments]


def cpu_seconds(command: list[str | Path]) -> float:
    """Run a command and return its CPU time, user plus system."""
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return usage.ru_utime + usage.ru_stime


def write_packet(folder: Path) -> Path:
    """Encode one grey image with the bundle and return its packet."""
    from PIL import Image

    Image.new("RGB", (480, 360), (90, 120, 150)).save(folder / "grey.png")
    command = splitreg("encode", BUNDLE, folder / "grey.png", "-o", folder / "packets")
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    return next((folder / "packets").glob("*.splitreg"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        packet = write_packet(Path(name))
        commands = {
            "import torch": python("import torch"),
            "import click, entrypoints": python("import click, entrypoints; entrypoints.get_group_all('x')"),
            "infer": splitreg("infer", BUNDLE, packet),
            "build": splitreg("build", "--backbone", "resnet50", "--heads", "det,seg", "--dry-run"),
            "list": splitreg("list"),
        }
        for command in commands.values():  # fills the disk's cache, compiles bytecode
            cpu_seconds(command)
        rounds = [{key: cpu_seconds(command) for key, command in commands.items()} for _ in range(options.rounds)]
    floors = {"infer": "import torch", "build": "import torch", "list": "import click, entrypoints"}
    print(json.dumps({
        "cpu_s": {key: round(statistics.median(r[key] for r in rounds), 3) for key in commands},
        "ratio": {
            key: round(statistics.median(r[key] / r[floor] for r in rounds), 2) for key, floor in floors.items()
        },
        "rounds": options.rounds, "threads": 1, "python": sys.version.split()[0],
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
