"""Make docs/images/page.png: a screenshot of ``splitreg serve --page`` with an image and its predictions.

python scripts/page_screenshot.py IMAGE --bundle zoo:camvid-small -o docs/images/page.png
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.chromium import Browser  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--bundle", action="append", default=[])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    command = [sys.executable, "-m", "splitreg", "serve", *(args.bundle or ["zoo:camvid-small"])]
    command += ["--port", "0", "--page", "--threads", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    try:
        url = json.loads(server.stdout.readline())["url"]
        with tempfile.TemporaryDirectory() as folder, Browser(folder) as browser:
            browser.size(args.width, args.height)
            browser.dark(args.dark)
            browser.open(url + "/")
            browser.until("document.getElementById('model').options.length > 0")
            for number in range(1, 6):  # the first answer is slower than the others
                browser.choose("#file", args.image.resolve())
                browser.until(f"document.getElementById('canvas').dataset.answers === '{number}'")
            raw = Path(folder) / "page.png"
            browser.screenshot(raw, whole=True)
            screenshot = Image.open(io.BytesIO(raw.read_bytes())).convert("RGB")
    finally:
        server.terminate()
        server.wait(60)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    screenshot.quantize(256).save(args.out, optimize=True)
    print(json.dumps({"screenshot": str(args.out), "size": screenshot.size, "bytes": args.out.stat().st_size}))


if __name__ == "__main__":
    main()
