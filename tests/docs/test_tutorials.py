"""The commands of the tutorials run in the order of the page, with small models; pip and data of others are left out."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
SHELL = """
set -euo pipefail
splitreg() { python -m splitreg "$@"; }
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"""
#: What is replaced so that a page runs in a minute.
FASTER = (
    (r"^splitreg init .*$", r"\g<0> --backbone test_resnet"),
    (r"^(splitreg train (?:.*\\\n)*.*)$", r"\1 --epochs 1 --quiet"),
    # python itself, not the function, whose shell would leave it running when it is killed
    (
        r"^splitreg (serve .*) &$",
        r"python -m splitreg \1 --port PORT > ready & until grep -q ready ready; do sleep 0.2; done",
    ),
    (r"127\.0\.0\.1:8080", "127.0.0.1:PORT"),
    (r"^pip install .*$", ""),
    (r"^python -m pytest$", ""),  # of a generated package: test_new_plugin.py
)


def shell(*pages):
    """Return the commands of pages as one script."""
    text = "\n".join((TUTORIALS / page).read_text() for page in pages)
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for pattern, replacement in FASTER:
        script = re.sub(pattern, replacement, script, flags=re.MULTILINE)
    return SHELL + script.replace("PORT", port)


def run(script, folder, **variables):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=env, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.integration
def test_own_photos_to_a_served_model_and_a_late_head(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"^```python\n(.*?)^```$", (TUTORIALS / "own-photos.md").read_text(), re.MULTILINE | re.DOTALL)
    exec(code.group(1), {})
    out = run(shell("own-photos.md", "late-head.md"), tmp_path)
    assert "webp 20" in (tmp_path / "report.html").read_text()
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert "recon" in answers[-1]["predictions"] and "same" in out.splitlines()


@pytest.mark.integration
def test_the_edge_half_on_a_device(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240)).save(tmp_path / "photo.jpg")
    out = run(shell("device.md"), tmp_path)
    assert (tmp_path / "packets" / "photo.splitreg").stat().st_size > 100 and "multilabel" in out


@pytest.mark.integration
def test_a_plugin_from_scaffold_to_list(tmp_path):
    """The package is installed into a folder of its own, so that the environment stays as it is."""
    script = shell("plugin.md").replace(
        "cd splitreg-plugin-run-length\n",
        "cd splitreg-plugin-run-length\n"
        "python -m pip install -q --no-deps --no-index --no-build-isolation --target ../site .\n"
        "export PYTHONPATH=$PWD/../site\n",
    )
    out = run(script, tmp_path)
    assert re.search(r"codec\s+run-length\s+splitreg-plugin-run-length", out)
    assert (tmp_path / "splitreg-plugin-run-length" / "try" / "config.json").is_file()


def small_camvid(root):
    """A folder in CamVid's layout: 4 noisy images of which every pixel is road, with a car in each."""
    for folder in ("val", "valannot"):
        (root / folder).mkdir(parents=True)
    images, boxes = [], []
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "val" / f"{number}.png")
        Image.fromarray(np.full((96, 128), 3, np.uint8)).save(root / "valannot" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 96})
        box = {"bbox": [8, 8, 64, 40], "area": 2560, "iscrowd": 0, "segmentation": [[8, 8, 72, 8, 72, 48, 8, 48]]}
        boxes.append({"id": number, "image_id": number, "category_id": 1, **box})
    names = ("car", "pedestrian", "bicyclist")
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    table = {"images": images, "annotations": boxes, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(table))


@pytest.mark.integration
def test_plans_of_choosing_a_split(tmp_path):
    script = "\n".join(line for line in shell("choosing.md").splitlines() if "--dry-run" in line)
    assert run(SHELL + script, tmp_path).count("latent") >= 2


@pytest.mark.slow
def test_choosing_a_split_to_the_end(tmp_path):
    small_camvid(tmp_path / "camvid")
    script = shell("choosing.md").replace("--times", "--times --rounds 3").replace("seg.mIoU=.55", "seg.mIoU=0")
    out = run(script.replace("--budget-ms 300", "--budget-ms 30000"), tmp_path)
    assert out.count("best: ") == 2 and "is faster below" in out
    assert (tmp_path / "lora.svg").read_text().startswith("<svg")


def test_every_tutorial_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert all(f"tutorials/{page.name}" in navigation for page in TUTORIALS.glob("*.md"))


@pytest.mark.integration
@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda page: page.name)
def test_notebooks_run_cell_by_cell(page, tmp_path, monkeypatch):
    """As Jupyter would: all cells in one namespace; the value of a last expression is not shown."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(page.read_text())
    assert notebook["nbformat"] == 4
    namespace = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{page.name}, cell {number + 1}", "exec"), namespace)
