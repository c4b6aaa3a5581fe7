"""What a new package of each kind of plugin contains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: One line of every README and pyproject.toml, per kind of package.
SUMMARIES: Mapping[str, str] = {
    "backbone": "Four stages of convolutions with batch normalisation.",
    "bottleneck": "Averages cells and sends a few rounded channels.",
    "codec": "Run lengths: a count and a value, one byte each.",
    "head": "One class per image, from the mean of the deepest feature.",
    "dataset": "Noise that is darker or brighter, with its class.",
    "objective": "Power mean of the losses of the heads.",
    "target": "The ONNX graph with a description of its input.",
    "prediction": "A task of its own: one number per image.",
}

_RECIPE = """```toml
backbone = "resnet18"
{lines}
stages = [{{ epochs = 5, batch_size = 16 }}]
```
"""
_SCENES = 'data = ["scenes"]\ninput = { size = [96, 96] }'


def usage(kind: str, name: str) -> str:
    """Return the section "Use it" of a README: a recipe or a command.

    Args:
        kind: kind of package.
        name: name of the plugin.
    """
    recipes = {
        "backbone": f'backbone = "{name}"\ncut = "stage1"\nheads = ["cls"]\n{_SCENES}',
        "bottleneck": f'cut = "layer1"\nbottleneck = {{ name = "{name}", channels = 8 }}\nheads = ["cls"]\n{_SCENES}',
        "codec": f'cut = "layer1"\nbottleneck = "quantise"\ncodec = "{name}"\nheads = ["cls"]\n{_SCENES}',
        "head": f'cut = "layer1"\nheads = ["{name}"]\n{_SCENES}',
        "dataset": f'cut = "layer1"\nheads = ["cls"]\ndata = ["{name}"]\ninput = {{ size = [64, 64] }}',
        "objective": f'cut = "layer1"\nheads = ["cls", "seg"]\nobjectives = ["{name}"]\n{_SCENES}',
        "prediction": f'cut = "layer1"\nheads = ["{name}"]\ndata = ["{name}-images"]\ninput = {{ size = [64, 64] }}',
    }
    if kind == "target":
        return f"```sh\nsplitreg publish my-model -o my-bundle --target {name}\n```\n"
    text = _RECIPE.format(lines=recipes[kind])
    return text.replace('backbone = "resnet18"\n', "", 1) if kind == "backbone" else text


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEntry:
    """A plugin of a new package.

    Args:
        kind: kind of plugin.
        name: name of the plugin.
        module: module of its class.
        cls: name of its class.
    """

    kind: str
    name: str
    module: str
    cls: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageLayout:
    """Files of a new package.

    Args:
        modules: module -> (name of the template, what the README says about it).
        plugins: plugins with a spec and an entry point.
        classes: name in the templates -> name of the class.
    """

    modules: Mapping[str, tuple[str, str]]
    plugins: Sequence[PluginEntry]
    classes: Mapping[str, str]


def layout(kind: str, name: str) -> PackageLayout:
    """Return the files of a package.

    Args:
        kind: kind of package.
        name: name of the plugin.
    """
    if kind == "prediction":
        return _task_layout(name)
    cls = class_name(name, kind)
    return PackageLayout(
        modules={kind: (kind, f"the class `{cls}`")},
        plugins=[PluginEntry(kind=kind, name=name, module=kind, cls=cls)],
        classes={"cls": cls},
    )


def _task_layout(name: str) -> PackageLayout:
    head, dataset = class_name(name, "head"), class_name(name, "dataset")
    prediction, target = class_name(name, "prediction"), class_name(name, "target")
    return PackageLayout(
        modules={
            "prediction": ("prediction", f"the prediction `{prediction}`; no torch, clients import it"),
            "target": ("task_target", f"the target `{target}`: the truth of one image"),
            "head": ("task_head", f"the head `{head}`"),
            "metric": ("task_metric", "the metric of the head"),
            "dataset": ("task_dataset", f"the dataset `{dataset}`, which trains the head"),
        },
        plugins=[
            PluginEntry(kind="head", name=name, module="head", cls=head),
            PluginEntry(kind="dataset", name=f"{name}-images", module="dataset", cls=dataset),
        ],
        classes={"cls": prediction, "target_cls": target, "head_cls": head, "dataset_cls": dataset},
    )


def class_name(name: str, kind: str) -> str:
    """Return the name of a class: the plugin's name in capitals, and the kind.

    >>> class_name("run-length", "codec"), class_name("codec", "codec"), class_name("my-head", "head")
    ('RunLengthCodec', 'CodecCodec', 'MyHead')
    """
    words, suffix = "".join(part.capitalize() for part in name.split("-")), kind.capitalize()
    return words if words.endswith(suffix) and words != suffix else words + suffix
