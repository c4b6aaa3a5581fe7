import errno
import json
import shutil

import numpy as np
import pytest
import torch
from toys import KEYS, registry

import splitreg
from splitreg.errors import BundleError
from splitreg.publishing import files, load, load_edge, load_server, save, verify


@pytest.fixture
def model():
    return splitreg.build(registry=registry(), **KEYS)


@pytest.fixture
def bundle(model, tmp_path):
    return save(model, tmp_path / "bundle")


def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def test_the_folder_is_what_the_format_says(bundle):
    names = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    assert names == {
        "config.json", "edge.safetensors", "server.safetensors", "heads/toy.safetensors", "metrics.json", "README.md",
        "testvectors/image.png", "testvectors/packet.bin", "testvectors/predictions.safetensors",
    }  # fmt: skip
    assert "**Untrained**" in (bundle / "README.md").read_text()


def test_round_trip_gives_the_same_packets_and_predictions(model, bundle):
    loaded = load(bundle, registry=registry())
    packet = model.edge.encode(picture())
    assert loaded.edge.encode(picture()) == packet
    mine, theirs = model.server.infer(packet)[0]["toy"], loaded.server.infer(packet)[0]["toy"]
    assert np.array_equal(mine.scores, theirs.scores)


def test_saving_twice_gives_the_same_bytes(model, bundle, tmp_path):
    again = save(load(bundle, registry=registry()), tmp_path / "x" / "bundle")
    assert files.hash_folder(again) == files.hash_folder(bundle)


def test_each_half_needs_only_its_own_files(model, bundle, tmp_path):
    edge_only, server_only = tmp_path / "edge", tmp_path / "server"
    for folder, names in ((edge_only, ["edge.safetensors"]), (server_only, ["server.safetensors", "heads"])):
        folder.mkdir()
        for name in ["config.json", *names]:
            source = bundle / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    packet = load_edge(edge_only, registry=registry()).encode(picture())
    assert packet == model.edge.encode(picture())
    found = load_server(server_only, registry=registry()).infer(packet)[0]["toy"]
    assert np.array_equal(found.scores, model.server.infer(packet)[0]["toy"].scores)


def test_verify_passes_and_names_what_is_wrong(bundle):
    assert all(check.passed for check in verify(bundle, registry=registry()))
    (bundle / "heads" / "toy.safetensors").unlink()
    failed = {check.name: check.detail for check in verify(bundle, registry=registry()) if not check.passed}
    assert "lacks heads/toy.safetensors" in failed["hashes"] and "server half" in failed


def corrupt_missing(bundle, other):
    (bundle / "server.safetensors").unlink()


def corrupt_altered(bundle, other):
    path = bundle / "edge.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def corrupt_swapped(bundle, other):
    shutil.copy(other / "server.safetensors", bundle / "server.safetensors")


def corrupt_config(bundle, other):
    config = json.loads((bundle / "config.json").read_text())
    config["recipe"]["heads"][0]["labels"].reverse()
    (bundle / "config.json").write_text(json.dumps(config))


def corrupt_json(bundle, other):
    (bundle / "config.json").write_text("{")


@pytest.mark.parametrize(
    "corrupt",
    [corrupt_missing, corrupt_altered, corrupt_swapped, corrupt_config, corrupt_json],
    ids=lambda f: f.__name__,
)
def test_a_damaged_bundle_is_refused(corrupt, bundle, tmp_path):
    other = save(splitreg.build(registry=registry(), **{**KEYS, "seed": 9}), tmp_path / "other")
    corrupt(bundle, other)
    with pytest.raises(BundleError):
        load(bundle, registry=registry())
    assert not all(check.passed for check in verify(bundle, registry=registry()))


def test_wrong_tensors_are_all_named(bundle):
    path = bundle / "heads" / "toy.safetensors"
    tensors = files.parse_tensors(path.read_bytes(), "toy")
    tensors["head.extra"] = torch.zeros(1)
    tensors["head.out.bias"] = torch.zeros(5)
    del tensors["head.mix.bias"]
    files.write_tensors(path, tensors)
    config = {k: v for k, v in files.read_config(bundle).items() if k not in ("format", "version", "files")}
    files.write_config(bundle, config)
    with pytest.raises(BundleError) as caught:
        load(bundle, registry=registry())
    for part in ("lacks head.mix.bias", "unexpected head.extra", "head.out.bias of shape (5,)"):
        assert part in str(caught.value)


def test_something_else_in_the_way_is_not_overwritten(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="something else"):
        save(model, tmp_path / "notes", overwrite=True)
    save(model, tmp_path / "bundle")
    with pytest.raises(BundleError, match="already"):
        save(model, tmp_path / "bundle")
    save(model, tmp_path / "bundle", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "notes"]


def test_a_full_disk_leaves_nothing_behind(model, tmp_path, monkeypatch):
    before = save(model, tmp_path / "bundle")
    hashes = files.hash_folder(before)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("splitreg.publishing.bundle.write_card", full)
    with pytest.raises(BundleError, match="No space left"):
        save(model, tmp_path / "bundle", overwrite=True)
    with pytest.raises(BundleError, match="No space left"):
        save(model, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"] and files.hash_folder(before) == hashes


def test_loading_needs_no_dataset(tmp_path):
    keys = {**KEYS, "heads": ["toy"], "data": {"name": "toys"}, "stages": [{"epochs": 1}]}
    bundle = save(splitreg.build(registry=registry(), **keys), tmp_path / "b")
    bare = registry()
    from splitreg.registry import Registry

    without = Registry.of(*(bare.spec(k, n) for k in ("backbone", "bottleneck", "codec", "head") for n in bare[k]))
    assert load(bundle, registry=without).recipe.heads[0].labels == ("dark", "bright")
