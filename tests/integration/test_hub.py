"""Bundles on the Hugging Face Hub, against a small server with its HTTP interface on loopback."""

import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard, constants, file_download
from safetensors.torch import save_file
from support.fake_hub import TOKEN, running_hub

import splitreg
from splitreg.assembly import load, load_edge, load_server, save
from splitreg.bundle import Bundle
from splitreg.cli.publish_ import command
from splitreg.edge import EdgeEncoder
from splitreg.errors import BundleError, HubError
from splitreg.hub import HubPlace, fetch, snapshot_place
from splitreg.publishing import PublishOptions, publish, push, verify

PLACE = "hf:me/tiny"
RESULTS = {
    "evaluations": [
        {
            "sent": "packet", "images": 4, "dataset": "scenes val", "metrics": {"cls": {"top1": 0.75, "top5": None}},
            "bytes": {"mean": 120.5, "p50": 120.0, "p95": 130.0, "header": 20.0},
        }
    ]
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = splitreg.build(
        backbone="test_resnet", bottleneck="quantise", heads=[{"name": "cls", "labels": 3}, {"name": "depth"}],
        input={"size": [64, 64]},
    )  # fmt: skip
    folder = save(model, tmp_path_factory.mktemp("local") / "plain")
    return publish(folder, folder.with_name("tiny"), PublishOptions(metrics=RESULTS))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as server:
        use(monkeypatch, server.url, tmp_path / "cache")
        yield server


def use(monkeypatch, url, cache):
    """What HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN do before the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(file_download, "_DEFAULT_RETRY_ON_EXCEPTIONS", ())  # no waiting for a server that is gone
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def pushed(hub, bundle):
    hub.add("me/tiny", files_of(bundle))
    return hub


def test_push_writes_the_whole_bundle_in_one_commit(hub, bundle):
    place = push(bundle, PLACE)
    commit, files = hub.files("me/tiny")
    assert place == f"{PLACE}@{commit}"
    assert {name: files[name] for name in files if name != ".gitattributes"} == files_of(bundle)
    assert len(hub.repos["me/tiny"][1]) == 2  # that of the new repository, and one
    hub.add("me/tiny", {**files, "heads/old.safetensors": b"left over"})
    push(bundle, PLACE)
    assert "heads/old.safetensors" not in hub.files("me/tiny")[1]
    assert ".gitattributes" in hub.files("me/tiny")[1]


def test_publish_pushes_a_private_bundle_to_a_branch(hub, bundle):
    result = CliRunner().invoke(command, [str(bundle), "--push", f"{PLACE}@dev", "--private"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "me/tiny" in hub.private
    commit, files = hub.files("me/tiny", "dev")
    assert result.stdout.split()[-1] == f"{PLACE}@{commit}" and "config.json" in files
    assert "config.json" not in hub.files("me/tiny")[1]
    assert load(f"{PLACE}@dev").coding.model_id == load(bundle).coding.model_id


def test_the_card_has_results_that_the_hub_parses(bundle):
    data = ModelCard((bundle / "README.md").read_text()).data
    results = {(result.metric_type, result.metric_value) for result in data.eval_results}
    assert results == {("top1", 0.75), ("bytes", 120.5)}
    (first, *_) = data.eval_results
    assert (first.task_type, first.dataset_type, first.dataset_name) == ("image-classification", "scenes", "scenes val")
    assert data.library_name == "splitreg" and data.pipeline_tag == "image-classification"


def test_a_half_fetches_its_own_files_only(pushed, bundle):
    load_edge(PLACE)
    assert pushed.fetched() == {"config.json", "edge.safetensors"}
    EdgeEncoder.open(PLACE)
    assert pushed.fetched() == {"config.json", "edge.safetensors", "edge.onnx"}
    pushed.requests.clear()
    load_server(PLACE, ["cls"])
    assert pushed.fetched() == {"server.safetensors", "heads/cls.safetensors"}  # the config is in the cache
    assert all(check.passed for check in verify(PLACE)), verify(PLACE)


def test_a_revision_is_a_branch_a_tag_or_a_commit(pushed, bundle):
    commit, _ = pushed.files("me/tiny")
    pushed.add("me/tiny", {"README.md": b"gone"})
    with pytest.raises(HubError, match=r"config\.json"):
        Bundle.open(PLACE)
    opened = Bundle.open(f"{PLACE}@{commit}")
    assert snapshot_place(opened.folder) == HubPlace(
        repo="me/tiny", revision=commit, cache=str(opened.folder.parents[2].resolve())
    )
    with pytest.raises(HubError, match=r"me/tiny.*'v9'"):
        Bundle.open(f"{PLACE}@v9")


def test_files_of_one_bundle_come_from_one_commit(pushed):
    opened = Bundle.open(PLACE)
    pushed.add("me/tiny", {"config.json": b"{}"})  # a new commit on main
    assert load_server(opened.folder).heads == ("cls", "depth")


@pytest.mark.parametrize("token", ["hf_wrong", ""])
def test_a_wrong_or_missing_token_is_one_error(pushed, bundle, monkeypatch, token, tmp_path):
    pushed.private.add("me/tiny")
    load_edge(PLACE)
    use(monkeypatch, pushed.url, tmp_path / "other")
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    for attempt in (lambda: load_edge(PLACE), lambda: push(bundle, "hf:me/new")):
        with pytest.raises(HubError, match="HF_TOKEN") as error:
            attempt()
        assert "\n" not in str(error.value)
    assert "me/new" not in pushed.repos
    assert not list((tmp_path / "other").rglob("config.json"))


def test_a_missing_repository_and_an_invalid_name_are_one_error(hub):
    with pytest.raises(HubError, match="me/none"):
        Bundle.open("hf:me/none")
    for place in ("hf:me", "hf:/x", "hf:me/../x", "hf:me/tiny@", "hf:me/a b"):
        with pytest.raises(HubError, match="hf:ORG/NAME"):
            Bundle.open(place)
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open("hf:me/tiny/edge.onnx")


def test_a_damaged_file_is_refused_and_leaves_nothing(pushed, tmp_path):
    pushed.damage.add("edge.safetensors")
    with pytest.raises(HubError, match=r"edge\.safetensors.*SHA-256"):
        load_edge(PLACE)
    assert not list((tmp_path / "cache").rglob("edge.safetensors"))
    pushed.damage.clear()
    assert load_edge(PLACE)


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(pushed, monkeypatch):
    path = Bundle.open(PLACE).check("edge.safetensors")
    path.resolve().write_bytes(b"damaged")
    assert load_edge(PLACE)
    path.resolve().write_bytes(b"damaged")
    offline(monkeypatch)
    with pytest.raises(HubError, match=r"edge\.safetensors.*HF_HUB_OFFLINE"):
        load_edge(PLACE)


def test_a_cut_connection_is_one_error_and_leaves_nothing(pushed, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    pushed.cut.add("edge.safetensors")
    with pytest.raises(HubError, match=r"edge\.safetensors") as error:
        load_edge(PLACE)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("edge.safetensors"))
    pushed.cut.clear()
    assert load_edge(PLACE)


def test_offline_with_and_without_cache(pushed, monkeypatch):
    Bundle.open(PLACE).fetch_all()
    pushed.requests.clear()
    offline(monkeypatch)
    assert load(PLACE).heads
    assert pushed.requests == []
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        load("hf:me/other")


def test_a_server_that_is_gone_is_an_error_without_cache_only(bundle, monkeypatch, tmp_path, caplog):
    with running_hub() as server:
        use(monkeypatch, server.url, tmp_path / "cache")
        server.add("me/tiny", files_of(bundle))
        load_edge(PLACE)
    assert load_edge(PLACE)
    caplog.clear()
    with pytest.raises(HubError, match=r"server\.safetensors"):
        load_server(PLACE)
    assert not caplog.records  # the error says it all


def test_weights_of_a_backbone_come_from_the_hub(hub, tmp_path):
    from splitreg_timm.backbone import TimmBackbone

    torch.manual_seed(2)
    state = {k.removeprefix("net."): v for k, v in TimmBackbone("test_resnet", classifier=True).state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    hub.add("me/weights", {"model.safetensors": (tmp_path / "model.safetensors").read_bytes(), "other.txt": b"no"})
    for place in ("hf:me/weights", "hf:me/weights/model.safetensors@main"):
        own = TimmBackbone("test_resnet", pretrained=place, classifier=True).state_dict()
        assert all(torch.equal(own[f"net.{key}"], value) for key, value in state.items())
    with pytest.raises(HubError, match="me/none"):
        TimmBackbone("test_resnet", pretrained="hf:me/none")
    with pytest.raises(BundleError, match=r"other\.txt"):
        TimmBackbone("test_resnet", pretrained="hf:me/weights/other.txt")
    assert fetch(HubPlace.parse("hf:me/weights/other.txt")).read_bytes() == b"no"


def test_the_environment_of_a_process_is_respected(pushed, tmp_path):
    environment = {
        **os.environ, "HF_ENDPOINT": pushed.url, "HF_HUB_CACHE": str(tmp_path / "env"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    code = "import sys; from splitreg.bundle import Bundle; print(Bundle.open(sys.argv[1]).check('edge.onnx'))"
    run = [sys.executable, "-c", code, PLACE]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith(str(tmp_path / "env")), done.stderr
    pushed.requests.clear()
    again = subprocess.run(run, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300)
    assert again.stdout == done.stdout and pushed.requests == []


def test_commands_print_one_line(hub):
    failed = CliRunner().invoke(command, ["hf:me/none", "-o", "nowhere"])
    assert isinstance(failed.exception, HubError) and "me/none" in str(failed.exception)
