"""Write a view of CamVid that holds one drive out of training, as links: ``train``, ``val`` and ``unseen``.

::

    python benchmarks/camvid_drives.py camvid camvid-0001TP --drive 0001TP

``train`` has the other drives, ``unseen`` the drive itself, ``val`` is unchanged. Masks only.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="CamVid in the layout of the SegNet tutorial")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--drive", default="0001TP", help="first letters of the file names of the drive")
    args = parser.parse_args()
    args.output.mkdir(parents=True)
    for split, source in (("train", "train"), ("unseen", "train"), ("val", "val")):
        for suffix in ("", "annot"):
            (args.output / f"{split}{suffix}").symlink_to((args.root / f"{source}{suffix}").resolve())
    for split in ("train", "val"):
        names = sorted(path.name for path in (args.root / split).iterdir())
        held = [name for name in names if split == "train" and name.startswith(args.drive)]
        write(args.output, split, [name for name in names if name not in held])
        if split == "train":
            write(args.output, "unseen", held)


def write(folder: Path, split: str, names: list[str]) -> None:
    """Write ``<split>.txt``."""
    lines = [f"{split}/{name} {split}annot/{Path(name).stem}.png\n" for name in names]
    (folder / f"{split}.txt").write_text("".join(lines))
    print(f"{split}: {len(names)} images")


if __name__ == "__main__":
    main()
