"""For all tests: one thread per process, the tiers, and the markers that must be asked for."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

#: Folder of tests that run whole commands, servers and trainings.
INTEGRATION = Path(__file__).parent / "tests" / "integration"
#: Markers of tests that run only if ``-m`` names the marker.
ON_REQUEST = ("slow", "realdata")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of the integration tier, and deselect those that must be asked for."""
    expression = config.getoption("markexpr")
    hidden = [name for name in ON_REQUEST if name not in expression]
    selected, deselected = [], []
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker("integration")
        (deselected if any(item.get_closest_marker(name) for name in hidden) else selected).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = selected
