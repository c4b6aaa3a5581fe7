import concurrent.futures
import errno
import json
import os
import shutil
import stat

import numpy as np
import pytest
import torch
from support.bundles import seal
from support.toys import KEYS, registry

import splitreg
from splitreg.assembly import load, load_edge, load_server, save
from splitreg.assembly.weights import parse_tensors, write_tensors
from splitreg.bundle import hash_folder
from splitreg.bundle.config import FORMAT
from splitreg.bundle.writing import new_folder
from splitreg.errors import BundleError, PlanError
from splitreg.publishing import PublishOptions, publish, verify


@pytest.fixture
def model():
    return splitreg.build(registry=registry(), **KEYS)


@pytest.fixture
def bundle(model, tmp_path):
    return save(model, tmp_path / "bundle")


def image():
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
    packet = model.edge.encode(image())
    assert loaded.edge.encode(image()) == packet
    before, after = model.server.infer(packet)[0]["toy"], loaded.server.infer(packet)[0]["toy"]
    assert np.array_equal(before.scores, after.scores)


def test_saving_twice_gives_the_same_bytes(model, bundle, tmp_path):
    again = save(load(bundle, registry=registry()), tmp_path / "x" / "bundle")
    assert hash_folder(again) == hash_folder(bundle)


def test_each_half_needs_only_its_own_files(model, bundle, tmp_path):
    edge_only, server_only = tmp_path / "edge", tmp_path / "server"
    for folder, names in ((edge_only, ["edge.safetensors"]), (server_only, ["server.safetensors", "heads"])):
        folder.mkdir()
        for name in ["config.json", *names]:
            source = bundle / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    packet = load_edge(edge_only, registry=registry()).encode(image())
    assert packet == model.edge.encode(image())
    prediction = load_server(server_only, registry=registry()).infer(packet)[0]["toy"]
    assert np.array_equal(prediction.scores, model.server.infer(packet)[0]["toy"].scores)


def test_verify_passes_and_names_what_is_wrong(bundle):
    assert all(check.passed for check in verify(bundle, registry=registry()))
    (bundle / "heads" / "toy.safetensors").unlink()
    failed = {check.name: check.detail for check in verify(bundle, registry=registry()) if not check.passed}
    assert "heads/toy.safetensors" in failed["hashes"] and "server half" in failed


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
    tensors = parse_tensors(path.read_bytes(), "toy")
    tensors["head.extra"] = torch.zeros(1)
    tensors["head.out.bias"] = torch.zeros(5)
    del tensors["head.mix.bias"]
    write_tensors(path, tensors)
    seal(bundle)
    with pytest.raises(BundleError) as caught:
        load(bundle, registry=registry())
    for part in ("head.mix.bias", "head.extra", "head.out.bias", "(5,)"):
        assert part in str(caught.value)


def test_something_else_in_the_way_is_not_overwritten(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="notes"):
        save(model, tmp_path / "notes", overwrite=True)
    save(model, tmp_path / "bundle")
    with pytest.raises(BundleError, match="overwrite"):
        save(model, tmp_path / "bundle")
    save(model, tmp_path / "bundle", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "notes"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027], ids=oct)
def test_permissions_follow_the_umask(model, tmp_path, umask):
    before = os.umask(umask)
    try:
        bundle = save(model, tmp_path / "bundle")
        save(model, bundle, overwrite=True)
    finally:
        os.umask(before)
    for path in (bundle, *bundle.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_leaves_nothing_behind(model, tmp_path, monkeypatch):
    before = save(model, tmp_path / "bundle")
    hashes = hash_folder(before)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("splitreg.assembly.saving.card", full)
    with pytest.raises(BundleError, match=os.strerror(errno.ENOSPC)):
        save(model, tmp_path / "bundle", overwrite=True)
    with pytest.raises(BundleError, match=os.strerror(errno.ENOSPC)):
        save(model, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"] and hash_folder(before) == hashes


def test_loading_needs_no_dataset(tmp_path):
    keys = {**KEYS, "heads": ["toy"], "data": {"name": "toys"}, "stages": [{"epochs": 1}]}
    bundle = save(splitreg.build(registry=registry(), **keys), tmp_path / "b")
    bare = registry()
    from splitreg.registry import Registry

    without = Registry.of(*(bare.spec(k, n) for k in ("backbone", "bottleneck", "codec", "head") for n in bare[k]))
    assert load(bundle, registry=without).recipe.heads[0].labels == ("dark", "bright")


def test_training_after_freezing_is_not_saved_with_old_tables(model, tmp_path):
    model.freeze_tables()
    before = model.edge.coding.model_id
    with torch.no_grad():
        model.bottleneck.encoder.weight.add_(0.1)
    bundle = save(model, tmp_path / "bundle")
    assert load(bundle, registry=registry()).edge.coding.model_id == model.edge.coding.model_id != before


def test_the_edge_half_needs_no_plugin_of_a_head(bundle):
    from splitreg.registry import Registry

    whole = registry()
    headless = Registry.of(*(whole.spec(kind, n) for kind, names in whole.items() for n in names if kind != "head"))
    with pytest.raises(BundleError, match="head.*'toy'"):
        load_server(bundle, registry=headless)
    assert load_edge(bundle, registry=headless).encode(image()) == load_edge(bundle, registry=registry()).encode(
        image()
    )


@pytest.mark.parametrize(
    "changes",
    [{"model_id": None}, {"model_id": 7}, {"model_id": "x"}, {"files": None}, {"files": [1]}, {"trained": None},
     {"recipe": 3}, {"recipe": {}}, {"plugins": 3}, {"preprocess": {}}, {"preprocess": {"mean": [0], "std": [1, 1, 1]}}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("read", [load, load_edge, load_server])
def test_a_config_of_another_form_is_refused(read, changes, bundle):
    seal(bundle, **changes)
    with pytest.raises(BundleError):
        read(bundle, registry=registry())


def test_the_normalisation_comes_from_the_bundle(bundle):
    stored = json.loads((bundle / "config.json").read_text())["preprocess"]
    seal(bundle, preprocess={**stored, "mean": [0.0, 0.0, 0.0]})
    assert load_edge(bundle, registry=registry()).coding.preprocess.mean == (0.0, 0.0, 0.0)


def test_replacing_a_bundle_fails_with_the_old_one_in_place(model, bundle, monkeypatch):
    rename, before = os.rename, (bundle / "config.json").read_bytes()

    def fails(source, target):
        if target == bundle and source.name != "bundle":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(BundleError, match=os.strerror(errno.EIO)):
        save(model, bundle, overwrite=True)
    assert (bundle / "config.json").read_bytes() == before and list(bundle.parent.iterdir()) == [bundle]


def test_publishing_again_keeps_results_and_images(model, tmp_path):
    first = save(model, tmp_path / "first", metrics={"evaluations": []}, images={"examples.jpg": b"jpeg"})
    second = publish(first, tmp_path / "second", registry=registry())
    assert (second / "examples.jpg").read_bytes() == b"jpeg" and "examples.jpg" in (second / "README.md").read_text()
    assert json.loads((second / "metrics.json").read_text()) == {"evaluations": []}


def test_publishing_with_another_codec_keeps_the_weights(model, tmp_path):
    first = save(model, tmp_path / "first", metrics={"evaluations": [], "training": []})
    second = publish(first, tmp_path / "second", PublishOptions(codec="other"), registry=registry())
    old, new = load(first, registry=registry()), load(second, registry=registry())
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert old.edge.coding.model_id != new.edge.coding.model_id and type(new.edge.coding.codec) is not type(
        old.edge.coding.codec
    )
    np.testing.assert_array_equal(old.edge.latent_of(image)[0], new.edge.latent_of(image)[0])
    assert json.loads((second / "metrics.json").read_text()) == {"training": []}
    with pytest.raises(PlanError, match="nonsense"):
        publish(first, tmp_path / "third", PublishOptions(codec="nonsense"), registry=registry())


def test_an_edited_card_is_no_altered_model(bundle):
    with (bundle / "README.md").open("a") as file:
        file.write("\nLicence: MIT\n")
    checks = {check.name: check for check in verify(bundle, registry=registry())}
    assert all(check.passed for check in checks.values()) and "README.md" in checks["card"].detail
    assert load(bundle, registry=registry()).heads
    corrupt_altered(bundle, None)
    checks = {check.name: check for check in verify(bundle, registry=registry())}
    assert not checks["hashes"].passed and "edge.safetensors" in checks["hashes"].detail and checks["card"].passed
    (bundle / "README.md").unlink()
    checks = {check.name: check for check in verify(bundle, registry=registry())}
    assert not checks["card"].passed and "README.md" in checks["card"].detail


def test_the_second_of_two_processes_is_refused_at_the_end(tmp_path, model, bundle):
    """Both found the path free when they started."""
    place = tmp_path / "shared"
    with pytest.raises(BundleError, match="shared.*overwrite"), new_folder(place, overwrite=False) as late:
        (late / "config.json").write_text("{}")
        first = save(model, place)
    assert load(first, registry=registry()).heads
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_processes_may_replace_one_bundle_at_the_same_time(tmp_path, bundle):
    def replace(number):
        for _ in range(5):
            with new_folder(bundle, overwrite=True) as folder:
                (folder / "config.json").write_text(json.dumps({"format": FORMAT, "by": number}))
        return True

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(replace, range(4)))
    assert json.loads((bundle / "config.json").read_text())["by"] in range(4)
