"""What the suites share: loading the plugin, assertions, and checks of every kind."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import SkipTest

from splitreg.registry import Registry, discover
from splitreg.specs import ComponentSpec
from splitreg.testing.without_torch import DeviceReport


def expect(condition: Any, message: str) -> None:
    """Fail the check with a message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def skip(reason: str) -> None:
    """Skip the check; pytest and ``run`` both report it as skipped."""
    raise SkipTest(reason)


def expect_report(report: DeviceReport, message: str) -> None:
    """Fail the check if a process without torch found a problem."""
    if report.problem:
        failure = AssertionError(f"{message}: {report.problem}")
        failure.add_note(report.trace)
        raise failure


@contextmanager
def raises(what: str, *errors: type[Exception]) -> Iterator[None]:
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
    """Checks of one plugin; each ``test_*`` method is one.

    Attributes:
        component: name of the plugin, or of a family's member (``"resnet18"``, ``"timm:resnet18"``).
        options: options of the constructor; choose small sizes.
        registry: the installed plugins, by default.
    """

    kind: ClassVar[str]
    interface: ClassVar[type[Any]]
    #: Number of leading constructor arguments that are not options.
    leading: ClassVar[int] = 0
    component: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    registry: ClassVar[Registry | None] = None

    @functools.cached_property  # pytest collects no class with a constructor
    def remarks(self) -> list[str]:
        """Remarks on the check that ran."""
        return []

    def remark(self, text: str) -> None:
        """Add a remark to the result of a check that passes; ``splitreg check`` shows it."""
        self.remarks.append(text)

    def resolve(self) -> tuple[ComponentSpec, str | None]:
        """Return the spec, and the member's name if it is a family."""
        return (self.registry or discover()).resolve(self.kind, self.component)

    def load(self) -> type[Any]:
        """Return the class."""
        return (self.registry or discover()).load(self.resolve()[0])

    def test_class_and_constructor(self) -> None:
        """The class implements the interface, and its constructor takes keyword options with defaults."""
        cls = self.load()
        expect(
            issubclass(cls, self.interface), f"{cls.__name__} is not a splitreg.interfaces.{self.interface.__name__}"
        )
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        expect(not missing, f"{cls.__name__} does not implement {missing}")
        parameters = list(inspect.signature(cls).parameters.values())
        for parameter in parameters:
            expect(
                parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL),
                f"the constructor takes *{parameter.name}, so a misspelt option is not an error",
            )
        leading = self.leading + (self.resolve()[1] is not None)
        for parameter in parameters[leading:]:
            expect(parameter.kind == parameter.KEYWORD_ONLY, f"option {parameter.name} must be keyword-only")
            expect(parameter.default is not parameter.empty, f"option {parameter.name} needs a default")

    def test_spec_imports_no_torch(self) -> None:
        """The module of the spec imports neither torch, timm nor compressai."""
        registry = self.registry or discover()
        spec, _ = self.resolve()
        entry = registry[self.kind][spec.name]
        if entry.package == "(unpackaged)":
            skip("the spec was passed to the registry, not installed")
        heavy = ("torch", "timm", "compressai")
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; import {entry.module}; "
            f"print([m for m in {heavy!r} if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == 0, f"{entry.module} does not import on its own: {done.stderr.strip()[-300:]}")
        expect(done.stdout.strip() == "[]", f"importing {entry.module} imports {done.stdout.strip()}")
