"""A third-party package with plugins, on ``sys.path`` for this process and its children; nothing is installed."""

import sys
import textwrap
from pathlib import Path

PACKAGE = "acme-split"
SPECS = """
from splitreg.specs import ComponentSpec

def spec(kind, name, target):
    return ComponentSpec(kind=kind, name=name, api=1, target="acme_split." + target, summary="A test's.")
"""


def write_package(folder: Path, files: dict[str, str], points: dict[str, dict[str, str]]) -> Path:
    """Write the package ``acme_split`` and its metadata.

    Args:
        folder: a folder of ``sys.path``.
        files: name of a module of the package -> its source.
        points: group, as ``codec`` -> name -> target; ``codec:name`` gets a spec.
    """
    module, info = folder / "acme_split", folder / "acme_split-1.0.dist-info"
    module.mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    lines, specs = [], [SPECS]
    for group, names in points.items():
        lines.append(f"[splitreg.{group}]")
        for name, target in names.items():
            if group in ("backbone", "bottleneck", "codec", "head", "dataset", "objective", "target"):
                attribute = f"{group}_{name}".upper().replace("-", "_")
                specs.append(f"{attribute} = spec({group!r}, {name!r}, {target!r})")
                lines.append(f"{name} = acme_split.specs:{attribute}")
            else:
                lines.append(f"{name} = acme_split.{target}")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (module / "__init__.py").write_text("")
    (module / "specs.py").write_text("\n".join(specs) + "\n")
    for name, source in files.items():
        (module / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


def forget() -> None:
    """Remove the package's modules from this process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_split"]:
        del sys.modules[name]
