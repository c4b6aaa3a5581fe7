"""``DatasetWrapper``: the base of datasets that change a part of another one."""

from __future__ import annotations

from typing import Any


class DatasetWrapper:
    """Has the length and all attributes of another dataset that a subclass does not define.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)
