"""Models of other projects: a checkpoint's tensors, by its family's layout, in a model that is assembled here."""

from __future__ import annotations

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
from splitreg.errors import CheckpointError
from splitreg.interop.checkpoints import read_checkpoint
from splitreg.interop.layouts import LAYOUTS, CheckpointLayout
from splitreg.recipe import HeadPart, Recipe
from splitreg.registry import Registry

#: Keys of a recipe that say how a model is trained: an imported one was not trained so.
_TRAINING = ("data", "augment", "teacher", "stages", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """One tensor that does not fit.

    Args:
        kind: ``unused`` (the checkpoint's, without a place here), ``missing`` (the model's, not in the checkpoint),
            ``shape``, ``values`` (no finite floats), or ``differs`` (two checkpoints do not agree; the first counts).
        name: in the checkpoint; for ``missing``, in the model.
        detail: what is there and what is wanted.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a checkpoint fits a model.

    Args:
        layout: name of the layout.
        used: tensors of the checkpoints that the model has now.
        derived: tensors of the checkpoints that are computed anew here: constants, counters, integer tables.
        misfits: all that does not fit.
    """

    layout: str
    used: int
    derived: int
    misfits: tuple[Misfit, ...]

    def check(self) -> None:
        """Say that something does not fit.

        Raises:
            CheckpointError: something does not.
        """
        if self.misfits:
            kinds = [misfit.kind for misfit in self.misfits]
            counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
            first = self.misfits[0]
            raise CheckpointError(
                f"{len(kinds)} tensors do not fit ({counts}), such as {first.name}: {first.detail}; without strict the rest "
                "is imported"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        rows = [{"kind": m.kind, "name": m.name, "detail": m.detail} for m in self.misfits]
        return {"layout": self.layout, "used": self.used, "derived": self.derived, "misfits": rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A ``model`` in eval mode, to be saved; and how the checkpoints ``fit`` it."""

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
    """Assemble a model and give it the weights of other projects' checkpoints; see ``layouts`` for which.

    Args:
        checkpoints: files of ``torch.save``. Several are heads on one bitstream: the first that has a tensor counts.
        recipe: how the model is made; what it says of training and data is left out. Heads without labels get as many
            as the checkpoint has.
        overrides: as in ``Recipe.read``.
        strict: refuse what does not fit as a whole.
        registry: the installed plugins, by default.
        keys: keys of a recipe, over the recipe's own. Without a recipe and ``bottleneck`` or ``heads``, the sizes of the
            bottleneck are the checkpoint's, and the heads are those that it has.

    Raises:
        CheckpointError: a file cannot be read; less than half of it or of the bottleneck fits; the bottlenecks of two
            checkpoints are not the same; or something does not fit and ``strict`` is set.
        PlanError: the recipe's parts do not fit.
    """
    paths = [Path(checkpoints)] if isinstance(checkpoints, str | Path) else [Path(path) for path in checkpoints]
    if not paths:
        raise CheckpointError("no checkpoint was given; give at least one file that torch.save wrote")
    read = [(path, read_checkpoint(path)) for path in paths]
    layout = max(LAYOUTS, key=lambda one: sum(_known(one, name) for _, tensors in read for name in tensors))
    shapes = {layout.plain(name): value.shape for _, tensors in reversed(read) for name, value in tensors.items()}
    planned = plan(_recipe(layout, shapes, recipe, keys, overrides), registry=registry)
    model = assemble(planned, weights=False)
    fit = _fill(model.state_dict(keep_vars=True), read, layout, planned.recipe.heads)
    if strict:
        fit.check()
    model.trained = all(misfit.kind not in ("missing", "shape", "values") for misfit in fit.misfits)
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
    """Return the recipe with what the checkpoints' shapes tell: the bottleneck's sizes, heads, numbers of classes."""
    table = {**(recipe.to_mapping() if recipe else {}), **keys}
    table = {key: value for key, value in table.items() if key not in _TRAINING}
    if recipe is None:
        table.setdefault("input", {"mode": "resize"})
    if recipe is None and "bottleneck" not in table:
        sizes = {
            option: int(shapes[name][axis])
            for option, (name, axis) in layout.sizes.items()
            if name in shapes and len(shapes[name]) > axis
        }
        table["bottleneck"] = {"name": "fp", "encoder": "gdn", "from": "image", **sizes}
    found = [plugin for plugin, (_, name, _) in layout.classes.items() if name in shapes]
    if "heads" not in table:
        if not found:
            raise CheckpointError(
                f"the checkpoint has none of the heads {', '.join(layout.classes)} (as {layout.name} names them): say which "
                "the model shall have, as in --heads cls; they stay untrained"
            )
        table["heads"] = found
    made = Recipe.from_mapping(table, overrides)
    return replace(made, heads=tuple(_head(layout, shapes, head) for head in made.heads))


def _head(layout: CheckpointLayout, shapes: Mapping[str, Sequence[int]], head: HeadPart) -> HeadPart:
    task, name, others = layout.classes.get(head.plugin, ("", "", 0))
    if not shapes.get(name):
        return head
    labels = head.labels or class_names(task, int(shapes[name][0]) - others)
    return replace(head, labels=labels, options={**layout.options.get(head.plugin, {}), **head.options})


def _fill(
    state: Mapping[str, Tensor],
    read: Sequence[tuple[Path, dict[str, Tensor]]],
    layout: CheckpointLayout,
    heads: Sequence[HeadPart],
) -> Fit:
    """Copy every tensor that fits to its place.

    Raises:
        CheckpointError: less than half of a checkpoint or of the bottleneck fits, or two bottlenecks differ.
    """
    names = {head.plugin: head.name for head in reversed(heads)}  # of two of a plugin, the first
    labels = {head.name: head.labels or () for head in heads}
    filled: dict[str, Tensor] = {}
    misfits: list[Misfit] = []
    derived = used = 0
    for path, tensors in read:
        fitting = learned = 0
        for name, value in tensors.items():
            target = layout.target(layout.plain(name), names)
            if layout.is_derived(name):
                derived += 1
                continue
            learned += 1
            problem = _problem(state, target, value)
            if problem is None and target is not None:
                fitting += 1
                own_labels = labels.get(target.split(".")[1], ()) if target.startswith("branches.") else ()
                ready = layout.convert(target, value, own_labels).to(state[target].dtype)
                if filled.setdefault(target, ready) is not ready and not torch.equal(filled[target], ready):
                    apart = float((filled[target].double() - ready.double()).abs().max())
                    problem = "differs", f"up to {apart:.2g} from {read[0][0].name}, which counts"
                    if target.startswith("bottleneck."):
                        raise CheckpointError(
                            f"{path} has another bottleneck than {read[0][0]}: {name} is {problem[1]}; heads on one "
                            "bitstream share it, import the others one by one"
                        )
            if problem is not None:
                misfits.append(Misfit(kind=problem[0], name=name, detail=problem[1]))
        used += fitting
        _check_share(path, fitting, learned, layout)
    wanted = [name for name in state if not layout.is_derived(name)]
    own = [name for name in wanted if name.startswith("bottleneck.")]
    _check_share(read[0][0], sum(name in filled for name in own), len(own), layout, " of the bottleneck")
    misfits += [
        Misfit(kind="missing", name=name, detail=f"the model has {_size(state[name])}, left as it was initialised")
        for name in wanted
        if name not in filled
    ]
    with torch.no_grad():
        for name, value in filled.items():
            state[name].copy_(value)
    return Fit(layout=layout.name, used=used, derived=derived, misfits=tuple(misfits))


def _problem(state: Mapping[str, Tensor], target: str | None, value: Tensor) -> tuple[str, str] | None:
    """Return kind and detail of what keeps a value from its place, None where nothing does."""
    if target is None or target not in state:
        return "unused", "the model has no such part" if target is None else f"the model has no {target}"
    if value.shape != state[target].shape:
        return "shape", f"{_size(value)}, the model wants {_size(state[target])}"
    if not value.is_floating_point() or not bool(torch.isfinite(value.float()).all()):
        return "values", "not finite" if value.is_floating_point() else f"{value.dtype}, wanted floats"
    return None


def _check_share(path: Path, fitting: int, all_of: int, layout: CheckpointLayout, what: str = "") -> None:
    if 2 * fitting < all_of or not all_of:
        raise CheckpointError(
            f"{path} does not hold this model: {fitting} of {all_of} tensors{what} fit "
            f"({100 * fitting / max(1, all_of):.0f} %), read as {layout.name}; check backbone, cut and the bottleneck's sizes"
        )


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
