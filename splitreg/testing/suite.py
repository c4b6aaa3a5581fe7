"""What the six suites share: finding the plugin, saying what is wrong, and checks that fit every kind."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import SkipTest

from splitreg.registry import Registry, discover
from splitreg.specs import ComponentSpec


def expect(fine: Any, message: str) -> None:
    """Fail the check with a message unless ``fine``."""
    if not fine:
        raise AssertionError(message)


def skip(reason: str) -> None:
    """Leave the check out; pytest and ``run`` both report it as skipped."""
    raise SkipTest(reason)


@contextmanager
def refused(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Fail unless the block raises one of ``errors``."""
    names = " or ".join(error.__name__ for error in errors)
    try:
        yield
    except errors:
        return
    except Exception as error:
        raise AssertionError(f"{what} must raise {names}, it raised {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise {names}, it raised nothing")


class Suite:
    """Checks of one plugin; every ``test_*`` method is one.

    Attributes:
        component: name of the plugin, or of a family's member (``"resnet18"``, ``"timm:resnet18"``).
        options: options for its constructor; choose small ones.
        registry: where to find it; what is installed by default.
    """

    kind: ClassVar[str]
    interface: ClassVar[type[Any]]
    #: Leading constructor arguments that are not options.
    leading: ClassVar[int] = 0
    component: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    registry: ClassVar[Registry | None] = None

    def found(self) -> tuple[ComponentSpec, str | None]:
        """Return the spec, and the member's name for a family."""
        return (self.registry or discover()).resolve(self.kind, self.component)

    def load(self) -> type[Any]:
        """Return the class."""
        return (self.registry or discover()).load(self.found()[0])

    def test_class_keeps_the_contract(self) -> None:
        """The class implements the interface, and its constructor takes named options only."""
        made = self.load()
        expect(
            issubclass(made, self.interface), f"{made.__name__} is not a splitreg.interfaces.{self.interface.__name__}"
        )
        missing = ", ".join(sorted(getattr(made, "__abstractmethods__", ())))
        expect(not missing, f"{made.__name__} lacks {missing}")
        parameters = list(inspect.signature(made).parameters.values())
        for parameter in parameters:
            expect(
                parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL),
                f"the constructor takes *{parameter.name}: a misspelt option would not be noticed",
            )
        leading = self.leading + (self.found()[1] is not None)
        for parameter in parameters[leading:]:
            expect(parameter.kind == parameter.KEYWORD_ONLY, f"option {parameter.name} must be keyword-only")
            expect(parameter.default is not parameter.empty, f"option {parameter.name} needs a default")

    def test_listing_is_cheap(self) -> None:
        """The module of the spec imports no torch and no compressai."""
        registry = self.registry or discover()
        spec, _ = self.found()
        entry = registry[self.kind][spec.name]
        if entry.package == "(given)":
            skip("the spec was given, not installed")
        heavy = ("torch", "timm", "compressai")
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; import {entry.module}; "
            f"print([m for m in {heavy!r} if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == 0, f"{entry.module} does not import on its own: {done.stderr.strip()[-300:]}")
        expect(done.stdout.strip() == "[]", f"importing {entry.module} imports {done.stdout.strip()}")
