"""Frames per second of the page's camera: a browser encodes, and a server on the same machine answers.

    python benchmarks/browser_camera.py [--bundle zoo:splitreg-camvid] [--seconds 20]

Headless Chromium with its generated camera opens the page of ``splitreg serve --page``, as a phone-sized window. A frame counts
when its answer is drawn. The rates are set by the page's slider.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import chromium
from support.serving_toys import running

from splitreg.bundle import Bundle
from splitreg.serving.local import LocalBackend
from splitreg.serving.page import edge

COUNT = "Number(document.getElementById('canvas').dataset.frames)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zoo:splitreg-camvid")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    edge._compile(bundle)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as stack,
        chromium.Browser(folder, seconds=180) as browser,
    ):
        server = stack.enter_context(running(LocalBackend, bundles=(options.bundle,), page=True))
        browser.size(390, 844)
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.getElementById('model').options.length === 1")
        browser.run("document.getElementById('camera').click()")
        browser.until(f"{COUNT} >= 5")
        for rate in (0.0, 0.5, 1.0):
            slider = f"Object.assign(document.getElementById('rate'), {{value: {rate}}})"
            browser.run(f"{slider}.dispatchEvent(new Event('input'))")
            first = browser.run(COUNT)
            browser.until(f"{COUNT} >= {first + 5}")
            before, start = browser.run(COUNT), time.perf_counter()
            time.sleep(options.seconds)
            frames, seconds = browser.run(COUNT) - before, time.perf_counter() - start
            rows.append({"rate": rate, "frames": frames, "frames_per_s": frames / seconds})
        device = browser.run("document.getElementById('canvas').dataset.device")
    print(json.dumps({"bundle": options.bundle, "cores": os.cpu_count(), "encoded_by": device, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
