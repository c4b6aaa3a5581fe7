"""``config.json`` of a bundle, typed: ``BundleConfig.parse`` checks it, ``dump`` is the inverse.

Standard library only: a device and ``splitreg list`` read it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.errors import BundleError

if TYPE_CHECKING:
    from typing import Self

FORMAT, VERSION = "splitreg-bundle", 1
#: Name of the file.
CONFIG = "config.json"
#: Value of ``BundleConfig.without_onnx`` where nobody asked for ``edge.onnx``.
NOT_REQUESTED = "not requested"

#: Limits of a config, far above any model: what is larger would take gigabytes to load.
MAX_CONFIG_BYTES, MAX_LABELS, MAX_INPUT_PIXELS = 16 << 20, 100_000, 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecEntry:
    """The codec: ``name`` of the plugin, and its ``options``."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadEntry:
    """A head: its ``name``, its ``plugin``, and its class names as ``labels`` (may be empty)."""

    name: str
    plugin: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessEntry:
    """The preprocessing; ``splitreg.imaging.Preprocess`` has the same fields."""

    size: tuple[int, int]
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEntry:
    """Properties of ``edge.onnx``.

    Args:
        dynamic: whether it accepts any input size.
        compared_at: (height, width) at which it was compared with torch, the model's size first.
        fixed_because: why it accepts one size only; empty if it accepts any.
        int8: measurements of the 8-bit edge half, see ``splitreg.publishing.quantise_edge``; None
            if there is none.
    """

    dynamic: bool
    compared_at: tuple[tuple[int, int], ...] = ()
    fixed_because: str = ""
    int8: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Self:
        """Read the table ``edge`` of a config."""
        int8 = table.get("int8")
        return cls(
            dynamic=table.get("dynamic") is True,
            compared_at=tuple((height, width) for height, width in table.get("compared_at", ())),
            fixed_because=str(table.get("fixed_because", "")),
            int8=int8 if isinstance(int8, dict) else None,
        )

    def dump(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        table: dict[str, Any] = {"dynamic": self.dynamic, "compared_at": [list(size) for size in self.compared_at]}
        if self.fixed_because:
            table["fixed_because"] = self.fixed_because
        return table if self.int8 is None else {**table, "int8": dict(self.int8)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleConfig:
    """The content of ``config.json``.

    Args:
        model_id: 32-bit id in the model's packets.
        trained: whether the weights were trained.
        plugins: ``kind:name`` -> package of the plugin.
        without_onnx: why there is no ``edge.onnx``; empty if there is one.
        graph: properties of ``edge.onnx``; None if there is none.
        recipe: the resolved recipe, read by ``splitreg.recipe.Recipe.from_mapping``.
        codec: the codec, from the recipe.
        heads: the heads, from the recipe.
        preprocess: the preprocessing.
        versions: package -> version that wrote the bundle.
        files: relative name -> SHA-256 of every other file.
    """

    model_id: int
    trained: bool
    plugins: Mapping[str, str]
    recipe: Mapping[str, Any]
    preprocess: PreprocessEntry
    files: Mapping[str, str] = field(default_factory=dict)
    graph: GraphEntry | None = None
    without_onnx: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    codec: CodecEntry = field(init=False)
    heads: tuple[HeadEntry, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", _codec(self.recipe))
        object.__setattr__(self, "heads", _heads(self.recipe))

    @property
    def id(self) -> str:
        """The model id as eight hexadecimal digits."""
        return f"{self.model_id:08x}"

    @property
    def variable_rate(self) -> bool:
        """Whether the model has several rates."""
        bottleneck = self.recipe.get("bottleneck")
        return isinstance(bottleneck, dict) and bottleneck.get("rates", 1) != 1

    @property
    def digest(self) -> str:
        """SHA-256 of the config, which covers all files that it lists."""
        digest: str = self.dump()["digest"]
        return digest

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read and check the ``config.json`` of a folder.

        Raises:
            BundleError: it is missing, not a config, of another version, or altered.
        """
        path = folder / CONFIG
        try:
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise BundleError(f"{path} has {path.stat().st_size} bytes, a config has at most {MAX_CONFIG_BYTES}")
            table = json.loads(path.read_text(encoding="utf-8"))
        except OSError as cause:
            raise BundleError(f"no bundle in {folder}: cannot read {path.name}: {cause.strerror or cause}") from cause
        except (ValueError, RecursionError) as cause:
            raise BundleError(f"{path} is not valid JSON: {cause}") from cause
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: Any, name: str = CONFIG) -> Self:
        """Read the JSON value of a config.

        Args:
            table: result of ``json.loads``.
            name: name of the file, for messages.

        Raises:
            BundleError: not a config, of another version, altered, or a field is missing or of another type.
        """
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise BundleError(f"{name} is not the config of a splitreg bundle: its format is not {FORMAT!r}")
        if table.get("version") != VERSION:
            raise BundleError(
                f"{name} has bundle version {table.get('version')!r}, this splitreg reads version {VERSION}; upgrade "
                "splitreg"
            )
        body = {key: value for key, value in table.items() if key != "digest"}
        if table.get("digest") != _digest(body):
            raise BundleError(f"{name} is altered: its digest does not match its content")
        try:
            graph = body.get("edge")
            return cls(
                model_id=_model_id(body["model_id"]), trained=_typed(body["trained"], bool),
                plugins=_strings(body["plugins"]), recipe=_typed(body["recipe"], dict), files=_strings(body["files"]),
                preprocess=_preprocess(body["preprocess"]), graph=GraphEntry.parse(graph) if isinstance(graph, dict) else None,
                without_onnx=_typed(body.get("without_onnx", ""), str), versions=_strings(body.get("versions", {})),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as cause:
            reason = f"missing key {cause}" if isinstance(cause, KeyError) else str(cause)
            raise BundleError(f"{name} is not a valid bundle config: {reason}") from cause

    def dump(self) -> dict[str, Any]:
        """Return the JSON value that ``parse`` reads."""
        table: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "model_id": self.id, "trained": self.trained,
            "plugins": dict(self.plugins), "without_onnx": self.without_onnx, "recipe": dict(self.recipe),
            "preprocess": {
                "size": list(self.preprocess.size), "mode": self.preprocess.mode, "mean": list(self.preprocess.mean),
                "std": list(self.preprocess.std),
            },
            "versions": dict(self.versions), "files": dict(self.files),
        }  # fmt: skip
        if self.graph is not None:
            table["edge"] = self.graph.dump()
        return {**table, "digest": _digest(table)}


def _digest(table: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a config without its digest."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _codec(recipe: Mapping[str, Any]) -> CodecEntry:
    table = recipe.get("codec")
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ValueError("its recipe has no codec with a name")
    return CodecEntry(name=table["name"], options={key: value for key, value in table.items() if key != "name"})


def _heads(recipe: Mapping[str, Any]) -> tuple[HeadEntry, ...]:
    tables = recipe.get("heads")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError("its recipe has no list of heads")
    heads = tuple(
        HeadEntry(
            name=_typed(table["as"], str),
            plugin=_typed(table["name"], str),
            labels=tuple(_typed(label, str) for label in _typed(table.get("labels") or [], list)),
        )
        for table in tables
    )
    for head in heads:
        if len(head.labels) > MAX_LABELS:
            raise ValueError(f"head {head.name!r} may have at most {MAX_LABELS} labels, got {len(head.labels)}")
    return heads


def _preprocess(table: Mapping[str, Any]) -> PreprocessEntry:
    height, width = (_typed(side, int) for side in table["size"])
    if height * width > MAX_INPUT_PIXELS:
        raise ValueError(f"the input may have at most {MAX_INPUT_PIXELS} pixels, got {height}x{width}")
    (m0, m1, m2), (s0, s1, s2) = (tuple(map(float, table[key])) for key in ("mean", "std"))
    return PreprocessEntry(size=(height, width), mode=_typed(table["mode"], str), mean=(m0, m1, m2), std=(s0, s1, s2))


def _model_id(value: Any) -> int:
    if not (isinstance(value, str) and len(value) == 8 and set(value) <= set("0123456789abcdef")):
        raise ValueError(f"model_id must be eight hexadecimal digits, got {value!r}")
    return int(value, 16)


def _strings(value: Any) -> dict[str, str]:
    table: dict[str, str] = _typed(value, dict)
    for item in table.values():
        _typed(item, str)
    return table


def _typed(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {kind.__name__}, got {value!r:.80}")
    return value
