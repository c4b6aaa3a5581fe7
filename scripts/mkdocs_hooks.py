"""MkDocs hooks: show files from outside ``docs/`` on the site, and rewrite links that leave ``docs/``.

The README of every plugin package, the model zoo's README and the community files become pages. Links keep the form
that works on GitHub: a path relative to the file they are written in.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {  # path in the repository -> page of the site
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "model_zoo/README.md": "model-zoo.md",
    **{
        path.relative_to(ROOT).as_posix(): f"builtin/{path.parent.name.removeprefix('splitreg_')}.md"
        for path in sorted(ROOT.glob("plugins/*/README.md"))
    },
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)(?=[)#])")


def on_files(files: Files, *, config: Any) -> Files:
    """Add one page for each file in ``PAGES``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite relative links to files outside ``docs/``: to their page if they have one, else to the repository."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def rewrite(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), match[1]))
        if target in PAGES:
            target = f"docs/{PAGES[target]}"
        elif not target.startswith("docs/") and (ROOT / target).exists():
            return f"{config.repo_url.rstrip('/')}/blob/main/{target}"
        return os.path.relpath(target, os.path.dirname(f"docs/{here}"))

    return LINK.sub(rewrite, markdown)
