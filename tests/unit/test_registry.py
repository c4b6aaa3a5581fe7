"""A folder ``x.dist-info/entry_points.txt`` on ``sys.path`` is an installed plugin: no test here installs anything."""

import os
import subprocess
import sys
import textwrap
from types import MappingProxyType

import pytest

from splitreg.errors import (
    ApiMismatch,
    BrokenComponent,
    DuplicateComponent,
    MissingExtra,
    RegistryError,
    UnknownComponent,
)
from splitreg.registry import Entry, Registry, discover
from splitreg.specs import KINDS, ComponentSpec


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return ``install(package, module_source, group={name: attribute})``; the plugin's module is named after the package."""
    discover.cache_clear()
    monkeypatch.delenv("SPLITREG_PLUGINS", raising=False)
    names = []

    def install(package, source="", folder="site", **groups):
        place = tmp_path / folder
        module = package.replace("-", "_")
        info = place / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = []
        for kind, entries in groups.items():
            lines += [f"[splitreg.{kind}]", *(f"{name} = {module}:{attribute}" for name, attribute in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (place / f"{module}.py").write_text("from splitreg.specs import ComponentSpec\n" + textwrap.dedent(source))
        names.append(module)
        if str(place) not in sys.path:
            monkeypatch.syspath_prepend(str(place))
        return place

    yield install
    discover.cache_clear()
    for name in names:
        sys.modules.pop(name, None)


CODEC = "SPEC = ComponentSpec(kind='codec', name={name!r}, api={api}, target={target!r}, summary='Fake.')"


def codec(name, api=1, target="collections:OrderedDict"):
    return CODEC.format(name=name, api=api, target=target)


FAMILY = """
FAMILY = ComponentSpec(kind="backbone", name={name!r}, api=1, target="collections:OrderedDict", summary="Many.",
                       family=True, members="{module}:members")
def members():
    return {members!r}
"""


def family(name, module, *members):
    return FAMILY.format(name=name, module=module, members=members)


def test_an_installed_plugin_is_found_and_loaded(install):
    install("fake-plugin", codec("fake"), codec={"fake": "SPEC"})
    registry = discover()
    assert registry["codec"]["fake"].package == "fake-plugin"
    spec, member = registry.resolve("codec", "fake")
    assert (spec.summary, member) == ("Fake.", None)
    assert registry.load(spec).__name__ == "OrderedDict"


def test_first_party_plugins_come_through_the_same_door(install):
    packages = {entry.package for kind in KINDS for entry in discover()[kind].values()}
    assert packages == {"splitreg"}


def test_two_packages_with_one_name_are_both_named(install):
    install("one-plugin", codec("same"), codec={"same": "SPEC"})
    install("other-plugin", codec("same"), codec={"same": "SPEC"})
    with pytest.raises(DuplicateComponent, match=r"one-plugin.*other-plugin|other-plugin.*one-plugin"):
        discover().resolve("codec", "same")


def test_an_editable_install_seen_twice_is_no_duplicate(install):
    install("one-plugin", codec("same"), codec={"same": "SPEC"})
    install("one-plugin", codec("same"), folder="again", codec={"same": "SPEC"})
    assert discover().spec("codec", "same").summary == "Fake."


def test_a_broken_plugin_does_not_stop_the_others(install):
    install(
        "broken-plugin", "raise ZeroDivisionError('no luck')", codec={"broken": "SPEC"}, backbone={"sick": "FAMILY"}
    )
    install(
        "good-plugin",
        codec("good") + family("well", "good_plugin", "tall"),
        codec={"good": "SPEC"},
        backbone={"well": "FAMILY"},
    )
    registry = discover()
    assert registry.spec("codec", "good")
    assert registry.resolve("backbone", "tall")[0].name == "well"  # asking the families steps over the broken one
    with pytest.raises(BrokenComponent, match=r"codec:broken.*broken-plugin.*no luck \(broken_plugin.py:2\)"):
        registry.spec("codec", "broken")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "SPEC"),
        ("SPEC = 'codec'", "sick_plugin:SPEC.*ComponentSpec"),
        (codec("another"), "codec:another"),
        ("SPEC = ComponentSpec(kind='codec', name='Bad Name', api=1, target='a:b', summary='')", "'Bad Name'"),
        ("import surely_not_installed", "surely_not_installed"),
        ("x = (", "SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(install, source, reason):
    install("sick-plugin", source, codec={"sick": "SPEC"})
    with pytest.raises(BrokenComponent, match=reason):
        discover().spec("codec", "sick")


@pytest.mark.parametrize(("api", "upgrade"), [(0, "sick-plugin"), (2, "splitreg")])
def test_another_api_says_which_side_to_upgrade(install, api, upgrade):
    install("sick-plugin", codec("old", api=api), codec={"old": "SPEC"})
    with pytest.raises(ApiMismatch, match=rf"\b{api}\b.*\b1\b.*upgrade {upgrade}$"):
        discover().spec("codec", "old")


def test_an_unreadable_entry_points_file_is_named(install):
    place = install("good-plugin", codec("good"), codec={"good": "SPEC"})
    (place / "good_plugin-1.0.dist-info" / "entry_points.txt").write_text("no section = here\n")
    with pytest.raises(RegistryError, match="good_plugin-1.0.dist-info"):
        discover()


def test_unknown_names_get_near_names(install):
    install("good-plugin", codec("good"), codec={"good": "SPEC"})
    registry = discover()
    with pytest.raises(UnknownComponent, match="codec.*'goood'.*'good'"):
        registry.spec("codec", "goood")
    with pytest.raises(RegistryError, match="'codek'.*'codec'"):
        registry["codek"]
    with pytest.raises(UnknownComponent, match="splitreg list codec"):
        registry.resolve("codec", "qqqqqq")


def test_the_environment_limits_discovery(install, monkeypatch):
    install("one-plugin", codec("one"), codec={"one": "SPEC"})
    install("other-plugin", codec("other"), codec={"other": "SPEC"})
    monkeypatch.setenv("SPLITREG_PLUGINS", "One-Plugin, unheard-of")
    assert list(discover()["codec"]) == ["one"]
    assert list(discover()["head"]) == []
    discover.cache_clear()
    monkeypatch.setenv("SPLITREG_PLUGINS", "")
    assert not any(discover()[kind] for kind in KINDS)


def test_families(install):
    source = family("big", "one_plugin", "tall", "wide") + (
        "\nEXACT = ComponentSpec(kind='backbone', name='wide', api=1, target='collections:Counter', summary='Exact.')\n"
    )
    install("one-plugin", source, backbone={"big": "FAMILY", "wide": "EXACT"})
    install("other-plugin", family("small", "other_plugin", "tall", "tiny"), backbone={"small": "FAMILY"})
    registry = Registry(tuple(e for e in discover()["backbone"].values() if e.package != "splitreg"))

    assert registry.resolve("backbone", "tiny")[0].name == "small"
    assert registry.resolve("backbone", "tiny.a1_in1k") == (registry.spec("backbone", "small"), "tiny.a1_in1k")
    assert registry.resolve("backbone", "wide") == (registry.spec("backbone", "wide"), None)  # exact names come first
    assert registry.resolve("backbone", "big:wide") == (registry.spec("backbone", "big"), "wide")
    assert registry.members("backbone", "big") == ("tall", "wide")
    with pytest.raises(DuplicateComponent, match="big:tall or small:tall"):
        registry.resolve("backbone", "tall")
    with pytest.raises(UnknownComponent, match="'tinny'.*'tiny'"):
        registry.resolve("backbone", "tinny")
    with pytest.raises(UnknownComponent, match="'tinny'.*small.*'tiny'"):
        registry.resolve("backbone", "small:tinny")
    with pytest.raises(UnknownComponent, match="backbone:big.*big:tall"):
        registry.resolve("backbone", "big")
    with pytest.raises(UnknownComponent, match="backbone:wide"):
        registry.resolve("backbone", "wide:tall")


def test_a_family_whose_library_is_missing_does_not_hide_the_others(install):
    install("one-plugin", family("far", "surely_not_installed", "x"), backbone={"far": "FAMILY"})
    install("other-plugin", family("near", "other_plugin", "tiny"), backbone={"near": "FAMILY"})
    registry = Registry(tuple(e for e in discover()["backbone"].values() if e.package != "splitreg"))
    assert registry.resolve("backbone", "tiny")[0].name == "near"
    with pytest.raises(BrokenComponent, match="backbone:far"):
        registry.resolve("backbone", "resnet50")  # the silent family might have answered


def test_a_family_that_cannot_list_its_members_says_what_is_missing(install):
    source = family("far", "one_plugin") + "    import surely_not_installed\n"
    install("one-plugin", source.replace("return ()", "pass"), backbone={"far": "FAMILY"})
    registry = Registry(tuple(e for e in discover()["backbone"].values() if e.package != "splitreg"))
    with pytest.raises(MissingExtra, match="backbone:far.*surely_not_installed"):
        registry.resolve("backbone", "resnet50")


def test_a_missing_library_names_the_extra(install):
    source = codec("needy", target="needy_plugin_code:Codec")
    place = install("needy-plugin", source, codec={"needy": "SPEC"})
    (place / "needy_plugin_code.py").write_text("import surely_not_installed\n")
    registry = discover()
    with pytest.raises(MissingExtra, match=r"codec:needy.*surely_not_installed.*splitreg\[full\]"):
        registry.load(registry.spec("codec", "needy"))


@pytest.mark.parametrize("target", ["needy_plugin:Absent", "needy_plugin_absent:Codec"])
def test_a_target_that_is_not_there_is_the_plugins_fault(install, target):
    install("needy-plugin", codec("needy", target=target), codec={"needy": "SPEC"})
    registry = discover()
    with pytest.raises(BrokenComponent, match="codec:needy"):
        registry.load(registry.spec("codec", "needy"))


def test_a_registry_is_immutable():
    registry = Registry.of(ComponentSpec(kind="codec", name="a", api=1, target="x:Y", summary=""))
    assert isinstance(registry["codec"], MappingProxyType) and not hasattr(registry, "__setitem__")
    with pytest.raises(AttributeError):
        registry["codec"]["a"].name = "b"
    more = registry.extended(ComponentSpec(kind="codec", name="b", api=1, target="x:Y", summary=""))
    assert list(more["codec"]) == ["a", "b"] and list(registry["codec"]) == ["a"]
    assert set(registry) == set(KINDS) and len(registry) == len(KINDS)


def test_given_specs_stand_before_installed_ones():
    entry = Entry(kind="codec", name="a", package="p", module="surely_not_installed", attribute="A")
    spec = ComponentSpec(kind="codec", name="a", api=1, target="x:Y", summary="")
    assert Registry((entry,)).extended(spec).spec("codec", "a") is spec


@pytest.mark.parametrize(
    "code",
    [
        "import splitreg.registry as r; x = r.discover(); [x.spec(k, n) for k in x for n in x[k]]",
        "from click.testing import CliRunner; from splitreg.cli.main import cli; "
        "x = CliRunner().invoke(cli, ['list']); assert x.exit_code == 0 and 'broken' not in x.output, x.output",
    ],
)
def test_discovery_and_listing_import_nothing_heavy(code):
    heavy = ("torch", "torchvision", "timm", "compressai", "numpy", "PIL")
    code += f"; import sys; print([m for m in {heavy} if m in sys.modules])"
    env = {key: value for key, value in os.environ.items() if key != "SPLITREG_PLUGINS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_extended_registry_still_knows_who_quarrels():
    one, two = (Entry(kind="codec", name="a", package=package, module="x", attribute="Y") for package in ("one", "two"))
    spec = ComponentSpec(kind="codec", name="b", api=1, target="x:Y", summary="")
    with pytest.raises(DuplicateComponent, match="one.*two"):
        Registry((one, two)).extended(spec).spec("codec", "a")


def test_the_catalogue_has_broken_plugins_and_members(install):
    install("broken-plugin", "raise ZeroDivisionError('no luck')", codec={"broken": "SPEC"})
    install("fresh-plugin", family("well", "fresh_plugin", "tall", "small"), backbone={"well": "FAMILY"})
    rows = {row["name"]: row for row in discover().catalogue()}
    assert rows["broken"]["status"] == "broken" and "no luck" in rows["broken"]["summary"]
    assert rows["well"] == {
        "kind": "backbone", "name": "well", "package": "fresh-plugin", "summary": "Many.", "status": "ok",
    }  # fmt: skip
    registry = Registry(tuple(e for e in discover()["backbone"].values() if e.package != "splitreg"))
    assert [row["name"] for row in registry.catalogue("backbone", members=True)] == ["tall", "small", "well"]
    with pytest.raises(RegistryError, match="'codek'"):
        registry.catalogue("codek")


def test_a_plugin_is_described_with_its_options():
    plugin = discover().describe("codec:zstd")
    assert plugin["key"] == "codec:zstd" and plugin["package"] == "splitreg" and "level" in plugin["options"]
    assert discover().describe("bottleneck:fp")["options"].keys().isdisjoint({"source", "target"})
    with pytest.raises(UnknownComponent, match="'zsdt'"):
        discover().describe("codec:zsdt")
