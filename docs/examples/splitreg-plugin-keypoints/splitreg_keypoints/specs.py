"""Specs of this package's plugins; the classes are imported on first use."""

from splitreg.specs import ComponentSpec

# api is a literal: the version of the interfaces that the class was written for, not the installed one.
KEYPOINTS = ComponentSpec(
    kind="head",
    name="keypoints",
    api=1,
    target="splitreg_keypoints.head:KeypointHead",
    summary="Named points of one object: one heatmap per point, decoded by argmax or soft-argmax.",
    source="Sun et al. 2018, arXiv:1711.08229",
)
AVERAGE = ComponentSpec(
    kind="bottleneck",
    name="average",
    api=1,
    target="splitreg_keypoints.average:Average",
    summary="Averages neighbouring cells and sends a few quantised channels; small, simple, lossy.",
)
CORNERS = ComponentSpec(
    kind="dataset",
    name="corners",
    api=1,
    target="splitreg_keypoints.corners:Corners",
    summary="Procedural images of a tilted square, with its corners as points; needs no files.",
)
