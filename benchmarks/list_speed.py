"""`splitreg list` against the least that could do it: import click and entrypoints and read one group.

    python benchmarks/list_speed.py

Rounds are interleaved; prints medians in seconds and the median of the rounds' ratios as JSON.
"""

import json
import statistics
import subprocess
import sys
import time

BASE = [sys.executable, "-c", "import click, entrypoints; entrypoints.get_group_all('x')"]
OURS = [sys.executable, "-m", "splitreg", "list"]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    seconds(BASE), seconds(OURS)
    rounds = [(seconds(BASE), seconds(OURS)) for _ in range(25)]
    print(json.dumps({
        "base_s": round(statistics.median(a for a, _ in rounds), 4),
        "list_s": round(statistics.median(b for _, b in rounds), 4),
        "ratio": round(statistics.median(b / a for a, b in rounds), 3),
        "rounds": len(rounds),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
