"""What this package offers, as data; the classes are imported on first use."""

from splitreg.specs import ComponentSpec

# api is written out: it says for which version of the contracts the class was written, not which one is installed.
KEYPOINTS = ComponentSpec(
    kind="head",
    name="keypoints",
    api=1,
    target="splitreg_keypoints.head:KeypointHead",
    summary="Named points of one object: a heatmap a point, read by argmax or soft-argmax.",
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
    summary="Procedural pictures of one tilted square, whose four corners are the points; needs no files.",
)
