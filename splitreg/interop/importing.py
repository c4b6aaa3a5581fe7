"""Import checkpoints of other projects into a model that is assembled here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitreg.assembly.building import assemble
from splitreg.assembly.labels import class_names
from splitreg.assembly.model import SplitModel
from splitreg.assembly.planning import plan
from splitreg.checkpoints import read_checkpoint, weights_file
from splitreg.errors import CheckpointError
from splitreg.interop.layouts import LAYOUTS, SPLIT, CheckpointLayout
from splitreg.recipe import HeadPart, Recipe
from splitreg.registry import Registry

#: Beginning of the SHA-256 of torchvision's weights for COCO that it uses with an epsilon of 0.
ZERO_EPSILON = ("258fb6c6", "bf2d0c1e", "fc266e95", "9f466800")
_KEPT = "in the model, keeps its initial value"
#: Keypoints of a person in COCO.
COCO_POINTS = 17
#: Keys of a recipe for training, which an imported model has not seen.
_TRAINING_KEYS = ("data", "augment", "teacher", "stages", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """One tensor that does not fit.

    Args:
        kind: ``unused`` (not in the model), ``missing`` (not in the checkpoint), ``shape``,
            ``values`` (not finite floats), ``differs`` (two checkpoints differ; the first is used), or
            ``new`` (of a bottleneck that is inserted into a whole model, no fault).
        name: name in the checkpoint; for ``missing``, in the model.
        detail: what is there and what was expected.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a checkpoint fits a model.

    Args:
        layout: name of the layout.
        used: number of the checkpoints' tensors in the model.
        derived: number of the checkpoints' tensors that are computed here: constants, counters,
            integer tables.
        misfits: all tensors that do not fit.
    """

    layout: str
    used: int
    derived: int
    misfits: tuple[Misfit, ...]

    def check(self) -> None:
        """Check that every tensor fits, but for those of a new bottleneck.

        Raises:
            CheckpointError: a tensor does not.
        """
        faults = [misfit for misfit in self.misfits if misfit.kind != "new"]
        if faults:
            kinds = [misfit.kind for misfit in faults]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            first = faults[0]
            raise CheckpointError(
                f"{len(kinds)} tensors do not fit ({counts}), for instance {first.name}: {first.detail}; without strict, the "
                "others are imported"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        rows = [{"kind": m.kind, "name": m.name, "detail": m.detail} for m in self.misfits]
        return {"layout": self.layout, "used": self.used, "derived": self.derived, "misfits": rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The ``model``, in eval mode, and how the checkpoints ``fit`` it."""

    model: SplitModel
    fit: Fit


def import_checkpoint(
    checkpoints: str | Path | Sequence[str | Path],
    recipe: Recipe | None = None,
    *,
    overrides: Sequence[str] = (),
    strict: bool = False,
    registry: Registry | None = None,
    **keys: Any,
) -> Imported:
    """Assemble a model with the weights of another project's checkpoints; see ``interop.layouts``.

    Args:
        checkpoints: files of ``torch.save``. Several are heads on one bitstream; if more than one has
            a tensor, the first is used.
        recipe: recipe of the model; keys for training and data are ignored. Heads without labels get
            the number of classes of the checkpoint.
        overrides: as in ``Recipe.read``.
        strict: fail unless every tensor fits.
        registry: the installed plugins, by default.
        keys: keys of a recipe, which override the recipe's. Without a recipe, the sizes of the
            bottleneck and the heads come from the checkpoint.

    Raises:
        CheckpointError: a file cannot be read; less than half of it or of the bottleneck fits; the
            bottlenecks of two checkpoints differ; or a tensor does not fit and ``strict`` is set.
        PlanError: the recipe's parts do not fit together.
    """
    paths = [Path(checkpoints)] if isinstance(checkpoints, str | Path) else [Path(path) for path in checkpoints]
    if not paths:
        raise CheckpointError("no checkpoint was given; pass at least one file of torch.save")
    states = [(path, read_checkpoint(path)) for path in paths]
    names = [name for _, tensors in states for name in tensors]
    layout = max(LAYOUTS, key=lambda candidate: sum(_known(candidate, name) for name in names))
    shapes = {layout.plain(name): value.shape for _, tensors in reversed(states) for name, value in tensors.items()}
    whole = {} if layout.whole is None or recipe is not None else layout.whole(shapes)
    if "backbone" in keys:  # with stages of other names
        whole = {key: value for key, value in whole.items() if key not in ("backbone", "cut")}
    elif "backbone" in whole and _uses_zero_epsilon(paths):
        whole["backbone"]["norm_eps"] = 0.0
    planned = plan(_recipe(layout, shapes, recipe, {**whole, **keys}, overrides), registry=registry)
    model = assemble(planned, weights=False)
    fit = _fill(model.state_dict(keep_vars=True), states, layout, planned.recipe.heads)
    if strict:
        fit.check()
    model.trained = all(misfit.kind not in ("missing", "shape", "values", "new") for misfit in fit.misfits)
    return Imported(model=model.eval(), fit=fit)


def _known(layout: CheckpointLayout, name: str) -> bool:
    return layout.target(layout.plain(name), {plugin: plugin for plugin in layout.classes}) is not None


def _recipe(
    layout: CheckpointLayout,
    shapes: Mapping[str, Sequence[int]],
    recipe: Recipe | None,
    keys: Mapping[str, Any],
    overrides: Sequence[str],
) -> Recipe:
    """Return the recipe with bottleneck sizes, heads and class counts from the checkpoints' shapes."""
    options = dict(keys).get("options", {})
    table = {**(recipe.to_mapping() if recipe else {}), **keys}
    table.pop("options", None)
    table = {key: value for key, value in table.items() if key not in _TRAINING_KEYS}
    if recipe is None:
        table.setdefault("input", {"mode": "resize"})
    if "backbone" not in table:
        raise CheckpointError(
            f"the backbone of this checkpoint, in the layout of {layout.name}, is not known; name it: --backbone resnet50"
        )
    if recipe is None and "bottleneck" not in table:
        sizes = {
            option: int(shapes[name][axis])
            for option, (name, axis) in layout.sizes.items()
            if name in shapes and len(shapes[name]) > axis
        }
        table["bottleneck"] = {"name": "fp", "encoder": "gdn", "from": "image", **sizes}
    if "heads" not in table:
        table["heads"] = _heads_in(layout, shapes)
        if not table["heads"]:
            raise CheckpointError(
                f"the checkpoint has none of the heads {', '.join(layout.classes)} in the layout of {layout.name}; name the "
                "heads of the model, as in --heads cls, which stay untrained"
            )
    complete = Recipe.from_mapping(table, overrides)
    return replace(complete, heads=tuple(_head(layout, shapes, head, options) for head in complete.heads))


def _heads_in(layout: CheckpointLayout, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the heads whose tensors are in the checkpoint; of those that share tensors, the one with the most."""
    names = [plugin for plugin, (_, name, _) in layout.classes.items() if name in shapes]
    detectors = [name for name in names if name.endswith("rcnn")]
    return [name for name in names if name not in detectors[1:]]


def _head(
    layout: CheckpointLayout, shapes: Mapping[str, Sequence[int]], head: HeadPart, options: Mapping[str, Any]
) -> HeadPart:
    task, name, others = layout.classes.get(head.plugin, ("", "", 0))
    if not shapes.get(name):
        return head
    count = int(shapes[name][0]) - others
    own = {**layout.options.get(head.plugin, {}), **options.get(head.plugin, {})}
    if head.plugin == "pose-keypointrcnn":  # its tensor has the keypoints
        points, count = int(shapes[name][1]), int(shapes["roi_heads.box_predictor.cls_score.weight"][0]) - 1
        own |= {} if points == COCO_POINTS else {"keypoints": [f"point {index}" for index in range(points)]}
    labels = head.labels or (("person",) if task == "pose" and count == 1 else class_names(task, count))
    return replace(head, labels=labels, options={**own, **head.options})


def _uses_zero_epsilon(places: Sequence[Path]) -> bool:
    """Whether a file is one of the weights that torchvision uses with an epsilon of 0."""
    for place in places:
        with weights_file(str(place)).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest()[:8] in ZERO_EPSILON:
                return True
    return False


def _fill(
    state: Mapping[str, Tensor],
    states: Sequence[tuple[Path, dict[str, Tensor]]],
    layout: CheckpointLayout,
    heads: Sequence[HeadPart],
) -> Fit:
    """Copy every tensor that fits into the model.

    Raises:
        CheckpointError: less than half of a checkpoint or of the bottleneck fits, or two bottlenecks
            differ.
    """
    names = {head.plugin: head.name for head in reversed(heads)}  # the first head of each plugin
    labels = {head.name: head.labels or () for head in heads}
    filled: dict[str, Tensor] = {}
    misfits: list[Misfit] = []
    derived = used = 0
    for path, tensors in states:
        fitting = expected = 0
        for name, value in tensors.items():
            target = layout.target(layout.plain(name), names)
            if target is not None and target.startswith(SPLIT):
                before, after = (part + target.removeprefix(SPLIT) for part in ("prefix.", "body."))
                target = before if before in state else after
            if layout.is_derived(name):
                derived += 1
                continue
            expected += 1
            problem = _problem(state, target, value)
            if problem is None and target is not None:
                fitting += 1
                own_labels = labels.get(target.split(".")[1], ()) if target.startswith("branches.") else ()
                converted = layout.convert(target, value, own_labels).to(state[target].dtype)
                first = filled.setdefault(target, converted)
                if not torch.equal(first, converted):
                    difference = float((first.double() - converted.double()).abs().max())
                    if target.startswith("bottleneck."):
                        raise CheckpointError(
                            f"the bottleneck of {path} differs from that of {states[0][0]}: {name} by up to "
                            f"{difference:.2g}. Heads on one bitstream share the bottleneck; import the others separately"
                        )
                    problem = "differs", f"by up to {difference:.2g} from {states[0][0].name}, which is used"
            if problem is not None:
                misfits.append(Misfit(kind=problem[0], name=name, detail=problem[1]))
        used += fitting
        _check_share(path, fitting, expected, layout)
    required = [name for name in state if not layout.is_derived(name)]
    own = [name for name in required if name.startswith("bottleneck.")]
    if layout.whole is None:
        _check_share(states[0][0], sum(name in filled for name in own), len(own), layout, " of the bottleneck")
    new = () if layout.whole is None else ("bottleneck.",)
    misfits += [
        Misfit(kind="new" if name.startswith(new) else "missing", name=name, detail=f"{_size(state[name])}, {_KEPT}")
        for name in required
        if name not in filled
    ]
    with torch.no_grad():
        for name, value in filled.items():
            state[name].copy_(value)
    return Fit(layout=layout.name, used=used, derived=derived, misfits=tuple(misfits))


def _problem(state: Mapping[str, Tensor], target: str | None, value: Tensor) -> tuple[str, str] | None:
    """Return kind and detail of a misfit; None if the value fits."""
    if target is None or target not in state:
        return "unused", "no such part in the model" if target is None else f"no {target} in the model"
    if value.shape != state[target].shape:
        return "shape", f"{_size(value)}, expected {_size(state[target])}"
    if not value.is_floating_point() or not bool(torch.isfinite(value.float()).all()):
        return "values", "not finite" if value.is_floating_point() else f"{value.dtype}, expected floats"
    return None


def _check_share(path: Path, fitting: int, total: int, layout: CheckpointLayout, part: str = "") -> None:
    if 2 * fitting < total or not total:
        raise CheckpointError(
            f"{path} does not fit this model: {fitting} of {total} tensors{part} fit ({100 * fitting / max(1, total):.0f} %) "
            f"in the layout of {layout.name}; check backbone, cut and the bottleneck's sizes"
        )


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
