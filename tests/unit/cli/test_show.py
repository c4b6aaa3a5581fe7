"""``splitreg show``: options, where they are documented, and what None means."""

import pytest
from click.testing import CliRunner

from splitreg.cli.show_ import command
from splitreg.components import Component
from splitreg.registry import discover


class Base:
    """A base.

    Args:
        width: channels per image,
            in two lines.
        depth: layers.
    """

    def __init__(self, *, width=3, depth=None):
        pass


class Derived(Base):
    """A derived class that documents one option.

    Args:
        depth: layers; None for all.
        seed: of the weights.
    """

    def __init__(self, *, width=None, depth=None, seed, unknown=None):
        pass


@pytest.mark.parametrize("name", ["head:det", "heads:det", "det"])
def test_a_unique_name_is_enough(name):
    done = CliRunner().invoke(command, [name])
    assert done.exit_code == 0 and done.output.startswith("head:det: ")


def test_a_name_of_several_kinds_is_refused():
    done = CliRunner().invoke(command, ["raw"])  # a bottleneck and a codec
    assert done.exit_code == 2 and "bottleneck:raw or codec:raw" in done.output
    done = CliRunner().invoke(command, ["nothing"])
    assert done.exit_code == 2 and "KIND:NAME" in done.output


def test_inherited_options_and_none():
    component = Component(kind="codec", name="toy", cls=Derived)
    assert component.meanings == {
        "width": "channels per image, in two lines; None: not set",
        "depth": "layers; None for all.",
        "seed": "of the weights.",
        "unknown": "None: not set",
    }
    assert component.required == ("seed",)


def test_every_option_of_a_first_party_plugin_has_a_meaning():
    registry = discover()
    for key in ("bottleneck:mshp", "bottleneck:fp", "head:det", "codec:webp", "codec:rans"):
        plugin = registry.describe(key)
        assert plugin["options"].keys() == plugin["meanings"].keys()
        for name, default in plugin["options"].items():
            assert plugin["meanings"][name], f"{key}: {name}"
            assert default != "None" or "None" in plugin["meanings"][name]
