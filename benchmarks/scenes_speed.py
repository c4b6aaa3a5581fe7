"""Images a second that the procedural scenes render at 128x128, in one process and in two; prints JSON.

python benchmarks/scenes_speed.py [images]
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from splitreg_scenes.cache import SHARD, SceneCache

SIZE = (128, 128)


def images_per_second(count: int, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        cache = SceneCache(mode="multi", split="train", size=SIZE, count=count, folder=Path(folder))
        begin = time.perf_counter()
        cache.fill(workers=workers)
        return count / (time.perf_counter() - begin)


def main() -> None:
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    count = -(-asked // SHARD) * SHARD  # whole shards are rendered
    speed = {f"{workers}_process": round(images_per_second(count, workers), 1) for workers in (1, 2)}
    print(json.dumps({"benchmark": "scenes_speed", "size": SIZE, "images": count, "images_per_second": speed}))


if __name__ == "__main__":
    main()
