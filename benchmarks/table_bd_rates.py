"""BD-rates of the packets in the results' first table against the image files in it.

::

    python benchmarks/table_bd_rates.py docs/results.md

The rows of image files need networks whose training takes hours; those of packets change with the coding alone. Prints JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from splitreg.bench.bjontegaard import Curve, bd_rate

#: Series, setting, bytes, mIoU and box mAP of a row.
ROW = re.compile(r"^\| (.+?) \| (?:rate|quality) [\d.]+ \| ([\d,]+) \| (\.\d+) \| (\.\d+) \|")
PACKETS = "**splitreg**, the zoo's model"


def main(page: str) -> None:
    """Print the BD-rates in percent."""
    table = Path(page).read_text(encoding="utf-8").partition("#### Packets compared with JPEG and WebP")[2]
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for line in table.partition("####")[0].splitlines():
        if match := ROW.match(line):
            size, masks, boxes = match.group(2, 3, 4)
            rows.setdefault(match[1], []).append((float(size.replace(",", "")), float(masks), float(boxes)))

    def curve(name: str, column: int) -> Curve:
        return Curve.through([row[0] for row in rows[name]], [row[column] for row in rows[name]])

    print(json.dumps({
        name: {
            metric: round(100 * bd_rate(curve(PACKETS, column), curve(name, column)), 1)
            for column, metric in ((1, "mIoU"), (2, "box mAP"))
        }
        for name in rows if name != PACKETS
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
