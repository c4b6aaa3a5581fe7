"""Spec of dataset ``scenes``; imports no torch."""

from __future__ import annotations

from splitreg.specs import ComponentSpec

SCENES = ComponentSpec(
    kind="dataset", name="scenes", api=1, target="splitreg_scenes.dataset:Scenes",
    summary="Procedural rooms with solids: classes, boxes, masks, semantic labels and depth; needs no files.",
    source="this project; factors of mode=single from Burgess and Kim 2018",
)  # fmt: skip
