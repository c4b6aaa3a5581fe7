"""Runs the examples of the documentation and compares tables with the code that they describe."""

import doctest
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples"
PAGES = sorted(
    path
    for pattern in ["*.md", "docs/**/*.md", "plugins/*/README.md", "model_zoo/README.md"]
    for path in ROOT.glob(pattern)
    if not {"build", "site"} & set(path.parts)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return [body for fence, body in FENCE.findall(text) if fence == language]


def name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.integration
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """All blocks of a page, one after the other, in a folder that holds photo.jpg."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240)).save("photo.jpg")
    module = type(sys)(f"page_{page.stem.replace('-', '_')}")  # specs in a page name their classes by this module
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, python block {number + 1}", "exec"), vars(module))
    printed = capsys.readouterr().out.strip()
    assert printed
    if page.name == "plugins.md":
        assert printed.splitlines()[-1] == "[]", "the codec of docs/plugins.md fails checks"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name)
def test_toml_blocks_are_recipes(page):
    from splitreg.recipe import Recipe

    for block in blocks(page, "toml"):
        table = tomllib.loads(block)
        if "backbone" in table:
            Recipe.from_mapping(table)


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them; mkdocs checks those of the site."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        if anchor and target.parent != ROOT / "docs" / "api":  # whose anchors are generated from docstrings
            assert anchor in anchors(target), f"{name(page)} links to {link}"


def test_the_plugins_that_the_readme_shows_are_listed_so():
    text = (ROOT / "README.md").read_text()
    block = text.split("$ splitreg list\n")[1].split("...\n")[0].splitlines()
    from splitreg.registry import discover

    listed = {tuple(row[key] for key in ("kind", "name", "package", "summary")) for row in discover().catalogue()}
    shown = [tuple(re.split(r" {2,}", line)) for line in block[2:]]
    assert len(shown) == 7 and set(shown) <= listed


def test_the_cli_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_cli_docs", ROOT / "scripts" / "make_cli_docs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    current = script.page()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == current, "run python scripts/make_cli_docs.py"


# --- docs/recipes.md against the dataclasses


def recipe_tables():
    """Return heading -> key -> default, as on the page."""
    tables, table = {}, None
    for line in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            table = tables.setdefault(line.lstrip("# "), {})
        elif line.startswith("| `"):
            key, rest, *_ = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            table[key.strip("`")] = rest
    return tables


def default(cell):
    """Return the value in a cell of the default column; None for what is required or has none."""
    return None if cell in ("required", "none") else json.loads(cell.strip("`"))


def test_every_key_of_a_recipe_is_documented_with_its_default():
    from splitreg.recipe import BottleneckPart, DataPart, HeadPart, Input, Part, Recipe, Stage, TeacherPart

    tables = recipe_tables()
    assert set(tables["Recipe"]) == set(Recipe.__dataclass_fields__)
    minimal = Recipe.from_mapping({"backbone": "b", "heads": ["h"]})
    documented = {key: default(cell) for key, cell in tables["Recipe"].items()}
    defaults = {key: value for key, value in documented.items() if value is not None}
    assert Recipe.from_mapping({**defaults, "backbone": "b", "heads": ["h"]}) == minimal

    assert set(tables["Stage"]) == set(Stage.__dataclass_fields__)
    assert Stage.parse({key: default(cell) for key, cell in tables["Stage"].items()}, "") == Stage()
    assert set(tables["Input"]) == set(Input.__dataclass_fields__)
    assert Input.parse({key: default(cell) for key, cell in tables["Input"].items()}, "") == Input()

    assert set(tables["Teacher"]) == set(TeacherPart.__dataclass_fields__)
    assert TeacherPart.parse({"bundle": "x", "start": default(tables["Teacher"]["start"])}, "") == TeacherPart(
        bundle="x"
    )

    for heading, part in (("Bottleneck", BottleneckPart), ("Head", HeadPart), ("Data", DataPart)):
        # every documented key is the part's own, any other one is an option of the plugin
        valid = {"from": "image", "labels": ["x"], "unknown_classes": "ignore"}
        valid |= {"classes": ["x"], "balance": 0.5, "share": 1.0, "targets": {"x": "y"}}
        table = {key: valid.get(key, "x") for key in tables[heading]}
        fields = [getattr(part.parse(table, ""), field) for field in part.__dataclass_fields__ if field != "options"]
        assert all(fields) and not part.parse(table, "").options
        assert len(tables[heading]) == len(fields)
        known = {key: default(cell) for key, cell in tables[heading].items() if default(cell) is not None}
        assert part.parse({"name": "x", **known}, "") == part.parse("x", "")
    assert set(Part.__dataclass_fields__) == {"name", "options"}


def documented_options(cell):
    """Return option -> default of a cell like "`lr` 0.001, `betas` [0.9, 0.999]"."""
    pairs = re.findall(r"`(\w+)` ((?:\[[^]]*\])|[^\s,]+)", cell)
    return {key: json.loads(value) for key, value in pairs}


def signature(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: json.loads(json.dumps(p.default)) for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_optimizers_schedules_and_augmentations_are_documented_with_their_defaults():
    from splitreg.data.transforms import Augment
    from splitreg.training.optimizers import OPTIMIZERS, optimizer_options
    from splitreg.training.schedules import SCHEDULES

    tables = recipe_tables()
    assert {key: documented_options(cell) for key, cell in tables["Schedule"].items()} == {
        key: signature(function) for key, function in SCHEDULES.items()
    }
    assert tables["Optimizer"].keys() == OPTIMIZERS.keys()
    for key, cell in tables[
        "Optimizer"
    ].items():  # the options of torch's class that matter most, and all of our defaults
        documented, options = documented_options(cell), json.loads(json.dumps(optimizer_options(key)))
        assert documented.items() <= options.items() and OPTIMIZERS[key][1].keys() <= documented.keys()
    assert {key: default(cell) for key, cell in tables["Augment"].items()} == signature(Augment)


def test_the_packet_page_states_the_limits_of_the_code():
    from splitreg.assembly.server import MAX_CODED_PIXELS
    from splitreg.coding import MAX_PACKET_BYTES

    text = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")
    assert f"{MAX_CODED_PIXELS:,} pixels" in text and f"{MAX_PACKET_BYTES // 2**20} MiB" in text


def installed(kind):
    from splitreg.registry import discover

    return [entry.name for entry in discover()[kind].values() if entry.package == "splitreg"]


@pytest.mark.parametrize("kind", ["backbone", "bottleneck", "codec", "head", "dataset", "objective", "target"])
def test_the_page_of_built_in_plugins_lists_all_of_them(kind):
    text = (ROOT / "docs" / "builtin.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"\n## {kind.capitalize()}s\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == sorted(installed(kind))


def test_every_codec_has_its_payload_described():
    text = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8").partition("## Payloads")[2]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == sorted(installed("codec"))


def test_every_first_party_plugin_folder_has_a_readme_that_names_its_plugins():
    from splitreg.registry import discover

    for kind, names in discover().items():
        for entry in names.values():
            if entry.package == "splitreg" and not entry.module.startswith("splitreg."):
                text = (ROOT / "plugins" / entry.module.split(".")[0] / "README.md").read_text(encoding="utf-8")
                assert re.search(rf"\b{entry.name}\b", text), f"{kind}:{entry.name}"


def modules_with_examples():
    folders = [ROOT / "splitreg", *(ROOT / "plugins").glob("splitreg_*")]
    for folder in folders:
        for module in pkgutil.walk_packages([str(folder)], f"{folder.name}."):
            path = folder.parent / (module.name.replace(".", "/") + ".py")
            if path.exists() and "tests" not in path.parts and ">>>" in path.read_text(encoding="utf-8"):
                yield module.name


@pytest.mark.parametrize("module", sorted(modules_with_examples()))
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed
