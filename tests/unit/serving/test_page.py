"""The page without a browser: its files, its route, its limits, the comparison with files."""

import asyncio
import contextlib
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.page_toys import image_file, make_page_bundle
from support.serving_toys import packet, running, stub, until

from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder
from splitreg.errors import BadRequest
from splitreg.imaging import Preprocess
from splitreg.link_emulator import PRESETS
from splitreg.serving.page import comparison, device, routes
from splitreg.wire import protocol

pytestmark = pytest.mark.integration

FILES = {name: content.decode() for name, (content, _) in routes.static_files().items()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}


def backend_of(*folders):
    """A stub backend with the models of these bundles."""
    ids = [json.loads((folder / "config.json").read_text())["model_id"] for folder in folders]

    def describe(self):
        return {model_id: {"id": model_id, "name": "page", "heads": {"cls": {}}} for model_id in ids}

    return stub(describe=describe)


@pytest.fixture(scope="module")
def server(page_bundle):
    limits = {"max_body_bytes": 200_000, "max_request_pixels": 300_000, "body_timeout_seconds": 1.0}
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True, **limits) as server:
        yield server


def encode(server, body, query="", kind="image/png", **more):
    return server.ask(path=routes.ENCODE + query, body=body, kind=kind, **more)


def test_the_page_and_its_files(server):
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert {"index.html", "app.js", "style.css"} <= set(FILES)
    for name, text in FILES.items():
        path = "/" if name == "index.html" else f"/page/{name}"
        for method in ("GET", "HEAD"):
            status, headers, body = server.ask(method, path)
            assert status == 200 and headers.get_content_type() == kinds[name.rpartition(".")[2]]
            assert body == (text.encode() if method == "GET" else b"")
            policy = headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy.replace("'wasm-unsafe-eval'", "")  # this one allows WebAssembly, no scripts
            assert headers["X-Content-Type-Options"] == "nosniff"
        assert server.ask("POST", path, body=b"x")[0] == 405


def test_no_other_file_is_served(server):
    for path in ("/page/", "/page/__init__.py", "/page/../routes.py", "/page/..%2froutes.py", "/page/%2e%2e/app.py", "/index.html",
                 "/page//app.js", "/page/app.js/", "/page/app.js%00", "//etc/passwd", "/page/" + "a" * 3000):  # fmt: skip
        assert server.ask("GET", path)[0] == 404


def test_without_the_option_there_is_no_page():
    with running() as server:
        for path in ("/", "/page/app.js", routes.ENCODE):
            assert server.ask("GET", path)[0] == 404


def test_only_the_page_needs_no_token(page_bundle):
    with running(backend_of(page_bundle), token="right", bundles=(str(page_bundle),), page=True) as server:
        for token in (None, "wrong"):
            server.token = token
            assert server.ask("GET", "/")[0] == server.ask("GET", "/page/app.js")[0] == 200
            for method, path in [("POST", routes.ENCODE), ("GET", protocol.MODELS), ("POST", protocol.INFER), ("GET", "/page/no.js"),
                                 ("GET", "/page"), ("POST", protocol.RELOAD), ("GET", protocol.METRICS)]:  # fmt: skip
                body = image_file() if method == "POST" else None
                status, headers, _ = server.ask(method, path, body=body, kind="image/png")
                assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        server.token = "right"
        assert encode(server, image_file())[0] == 200
    with running(token="right", page=True, max_requests_per_s=3.0) as server:
        assert 429 in {server.ask("GET", "/")[0] for _ in range(40)}  # the rate limit applies


def test_packets_equal_those_of_the_device(server, page_bundle):
    encoder = EdgeEncoder.open(page_bundle)
    for kind, options in [("PNG", {}), ("JPEG", {"quality": 90}), ("WEBP", {"quality": 80})]:
        data = image_file(kind, **options)
        status, headers, body = encode(server, data, kind=f"image/{kind.lower()}")
        assert status == 200 and headers["Content-Type"] == protocol.PACKET and body == encoder.encode(data)[0]
        assert float(headers[routes.ENCODE_MS]) > 0 and routes.FILES not in headers
    sizes = []
    for rate in (0, 0.5, 1):
        _, _, body = encode(server, data, f"?rate={rate}&model={encoder.coding.model_id:08x}")
        assert body == encoder.encode(data, rate=rate)[0] and server.ask(body=body)[0] == 200
        sizes.append(len(body))
    assert sizes == sorted(sizes)


def test_the_exif_orientation_is_applied(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    body = encode(server, image_file("JPEG", (40, 90), exif=exif), kind="image/jpeg")[2]
    assert Packet.parse(body).original == (90, 40)


def test_files_of_the_same_pixels(server):
    data = image_file(size=(120, 60))
    status, headers, body = encode(server, data, "?files=1")
    comparison_json = json.loads(headers[routes.FILES])
    assert status == 200 and comparison_json["size"] == [64, 32]  # the letterbox without its borders
    small = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 64), Image.Resampling.BILINEAR)
    for kind in ("jpeg", "webp"):
        sizes = {}
        for quality in range(1, 96):
            stream = io.BytesIO()
            small.save(stream, kind, quality=quality, **comparison.FORMATS[kind])
            sizes[quality] = stream.tell()
        usual, nearest = comparison_json[kind]["usual"], comparison_json[kind]["nearest"]
        assert usual == {"quality": 75, "bytes": sizes[75]} and sizes[nearest["quality"]] == nearest["bytes"]
        best = min(abs(size - len(body)) for size in sizes.values())
        assert abs(nearest["bytes"] - len(body)) <= best + 20  # sizes do not always grow with the quality


@given(st.lists(st.integers(0, 3000), min_size=95, max_size=95), st.integers(0, 3500))
def test_the_nearest_quality(sizes, wanted):
    sizes.sort()
    quality, size = comparison.nearest_quality(lambda quality: sizes[quality - 1], wanted)
    assert size == sizes[quality - 1] and abs(size - wanted) == min(abs(one - wanted) for one in sizes)


def test_files_of_any_shape():
    for shape in ((1, 1, 3), (1, 3000, 3), (3000, 1, 3)):
        for mode in ("resize", "letterbox"):
            files = comparison.compare_files(np.zeros(shape, np.uint8), Preprocess(size=(32, 48), mode=mode), 10)
            assert files["jpeg"]["nearest"]["bytes"] <= files["jpeg"]["usual"]["bytes"]


@pytest.mark.parametrize(
    ("status", "kind", "request_"),
    [
        (400, "ImageError", {"body": image_file()[:100]}),
        (400, "ImageError", {"body": b"\xff\xd8\xff" + b"x" * 50}),
        (400, "ImageError", {"body": image_file("WEBP")[:60]}),
        (415, "BadRequest", {"body": b""}),
        (415, "BadRequest", {"body": b"%!PS-Adobe-3.0 EPSF-3.0\n"}),
        (415, "BadRequest", {"body": image_file("BMP")}),
        (415, "BadRequest", {"body": image_file(), "kind": "text/plain"}),
        (415, "BadRequest", {"body": image_file(), "kind": protocol.PACKET}),
        (413, "TooLarge", {"body": image_file(size=(600, 600))}),
        (413, "TooLarge", {"body": b"x" * 200_001}),
        (400, "RecipeError", {"body": image_file(), "query": "?rate=1.5"}),
        (400, "RecipeError", {"body": image_file(), "query": "?rate=nan"}),
        (400, "BadRequest", {"body": image_file(), "query": "?rate=fast"}),
        (400, "BadRequest", {"body": image_file(), "query": "?rate="}),
        (400, "BadRequest", {"body": image_file(), "query": "?rate=0&rate=1"}),
        (400, "BadRequest", {"body": image_file(), "query": "?files=2"}),
        (400, "BadRequest", {"body": image_file(), "query": "?path=/etc/passwd"}),
        (400, "BadRequest", {"body": image_file(), "query": "?model=../../etc"}),
        (400, "BadRequest", {"body": image_file(), "query": "?model=%ff"}),
        (400, "BadRequest", {"body": image_file(), "headers": {protocol.DEADLINE: "soon"}}),
        (504, "DeadlinePassed", {"body": image_file(), "headers": {protocol.DEADLINE: "0"}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_invalid_requests(server, status, kind, request_):
    actual, _, body = encode(server, **request_)
    assert (actual, body["error"]["type"]) == (status, kind), body
    assert (
        body["error"]["message"]
        and "object at" not in body["error"]["message"]
        and "Traceback" not in body["error"]["message"]
    )
    assert server.idle


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_image_and_query(server, data):
    body = bytearray(image_file(data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(body[: data.draw(st.integers(0, len(body)))])
    query = data.draw(
        st.sampled_from(["", "?files=1", "?rate=0"]) | st.text("ratefilsmod=&0.1?%", max_size=12).map("?".__add__)
    )
    status, _, response = encode(server, body, query)
    assert status in (200, 400, 413, 415) and (status != 200 or Packet.parse(response))
    assert status == 200 or response["error"]["type"]


def test_huge_dimensions_are_refused_before_decoding(server):
    huge = bytearray(image_file())
    huge[16:24] = (60_000).to_bytes(4, "big") * 2
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    assert encode(server, bytes(huge))[0] == 413


def test_several_models_need_a_model_id(page_bundle, tmp_path):
    other = make_page_bundle(tmp_path / "other", rates=0, onnx=False, channels=5)
    folders = (page_bundle, other)
    with running(backend_of(*folders), bundles=tuple(map(str, folders)), page=True) as server:
        assert encode(server, image_file())[0] == 400
        first, second = server.service.models
        assert encode(server, image_file(), f"?model={first}")[0] == 200
        status, _, body = encode(server, image_file(), f"?model={second}")
        assert (
            status == 400
            and "splitreg publish" in body["error"]["message"]
            and str(tmp_path) not in body["error"]["message"]
        )
        server.backend.models = {"00000007": {"id": "00000007"}}
        assert encode(server, image_file(), "?model=00000007")[0] == 400  # replaced on disk
        assert encode(server, image_file(), f"?model={first}")[0] == 400


def test_a_reload_opens_the_encoder_again(page_bundle, monkeypatch):
    started, start = [], device.BrowserEncoder._start
    monkeypatch.setattr(device.BrowserEncoder, "_start", lambda self: started.append(1) or start(self))
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True) as server:
        assert {encode(server, image_file())[0] for _ in range(3)} == {200} and len(started) == 1
        server.run(server.service.reload())
        assert encode(server, image_file())[0] == 200 and len(started) == 2


def slow_encoder(monkeypatch):
    """Let encoding wait for an event; returns it and the list of images that started."""
    gate, started = threading.Event(), []

    async def slow(self, model_id, data, options):
        started.append(data)
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return device.EncodedImage(packet=packet(), milliseconds=1.0, files=None)

    monkeypatch.setattr(device.BrowserEncoder, "_encode", slow)
    return gate, started


def ask_from(server, source, body):
    """Send an image from another loopback address; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("POST", routes.ENCODE, body, {"Content-Type": "image/png"})
        return connection.getresponse().status


def test_waiting_images_are_limited(page_bundle, monkeypatch):
    gate, started = slow_encoder(monkeypatch)
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True) as server:
        assert encode(server, image_file(), headers={protocol.DEADLINE: "100"})[0] == 504
        statuses = []

        def send(source):
            statuses.append(ask_from(server, source, image_file()))

        threads = [threading.Thread(target=send, args=(f"127.0.0.{2 + i % 3}",)) for i in range(device.MAX_WAITING + 4)]
        for thread in threads:
            thread.start()
        until(lambda: len(statuses) == 4)
        assert statuses == [503] * 4 and len(started) == 2  # one at a time; the first was given up
        error, headers = server.refused(503, "Unavailable", path=routes.ENCODE, body=image_file(), kind="image/png")
        assert error["retry_after_s"] > 0 and int(headers["Retry-After"]) >= 1
        gate.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * device.MAX_WAITING + [503] * 4
        assert encode(server, image_file())[0] == 200 and server.idle


def test_a_client_has_a_part_of_the_places_and_then_its_turn(page_bundle, monkeypatch):
    gate, started = slow_encoder(monkeypatch)
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True) as server:
        greedy, modest = image_file(), image_file(seed=1)
        threads = [
            threading.Thread(target=ask_from, args=(server, "127.0.0.2", greedy))
            for _ in range(device.MAX_CLIENT_WAITING + 2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: sum(thread.is_alive() for thread in threads) == device.MAX_CLIENT_WAITING)
        threads.append(threading.Thread(target=ask_from, args=(server, "127.0.0.3", modest)))
        threads[-1].start()
        until(lambda: server.service.active_requests == device.MAX_CLIENT_WAITING + 1)
        time.sleep(0.1)
        gate.set()
        for thread in threads:
            thread.join()
        assert started.index(modest) == 1  # after the one that ran


def hostile_jpeg(scans, size=(300, 300)):
    """A progressive JPEG with so many scans: the last one repeated."""
    image = image_file("JPEG", size, progressive=True)
    start = image.rindex(b"\xff\xda")
    return image[:start] + image[start:-2] * scans + image[-2:]


def test_a_jpeg_with_too_many_scans_is_refused_before_it_is_decoded(page_bundle):
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True) as server:
        encode(server, image_file())
        error, _ = server.refused(413, "TooLarge", path=routes.ENCODE, body=hostile_jpeg(150), kind="image/jpeg")
        assert "scans" in error["message"] and "100" in error["message"]
        ordinary = image_file("JPEG", (900, 900), progressive=True)
        assert encode(server, ordinary, kind="image/jpeg")[0] == 200


@pytest.mark.parametrize("limits", [{"encode_seconds": 0.2}, {"max_encode_bytes": 1 << 20}])
def test_an_image_may_not_take_all_time_or_memory(page_bundle, monkeypatch, limits):
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True, **limits) as server:
        assert encode(server, image_file())[0] == 200
        before = server.service.metrics.encoder_kills._value.get()
        large = image_file("JPEG", (5000, 6000), progressive=True)
        error, _ = server.refused(413, "TooLarge", path=routes.ENCODE, body=large, kind="image/jpeg")
        assert "memory" in error["message"]
        if "encode_seconds" in limits:
            assert server.service.metrics.encoder_kills._value.get() == before + 1
        assert encode(server, image_file())[0] == 200


def test_a_draining_server_refuses_images(page_bundle):
    with running(backend_of(page_bundle), bundles=(str(page_bundle),), page=True) as server:
        server.service.draining = True
        assert encode(server, image_file())[0] == 503
        assert server.ask("GET", "/")[0] == 200


@given(st.binary(max_size=60))
def test_any_query(query):
    try:
        options = routes.parse_encode_options(query)
    except BadRequest:
        return
    assert options.model is None or isinstance(options.model, str)
    assert options.rate is None or isinstance(options.rate, float)
    assert options.files in (True, False)


def test_the_server_process_imports_no_torch():
    code = "import sys, splitreg.serving.run, splitreg.serving.page; print([m for m in ('torch', 'timm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# Static checks of the scripts and styles.


def test_nothing_is_inline_or_loaded_from_elsewhere():
    html = FILES["index.html"]
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html)) and "<style" not in html
    assert not re.search(r"\s(?:on\w+|style)\s*=", html)
    links = re.findall(r'(?:src|href|action)="([^"]*)"', html)
    assert links and all(link.removeprefix("page/") in FILES for link in links)
    for name, text in FILES.items():
        assert not re.search(r"//\w|@import|url\(", text.replace("http://www.w3.org/2000/svg", "")), name
    for text in SCRIPTS.values():
        for target in re.findall(r'from "([^"]+)"', text):
            assert target.removeprefix("./") in SCRIPTS


def test_scripts_create_no_markup_and_store_nothing():
    for name, text in SCRIPTS.items():
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", "localStorage",
                     "sessionStorage", "cookie", "DOMParser", "srcdoc"):  # fmt: skip
            assert word not in text, f"{word} in {name}"


def test_elements_of_the_scripts_exist_and_are_labelled():
    html = FILES["index.html"]
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    assert len(ids) == len(re.findall(r'\bid="', html))
    for text in SCRIPTS.values():
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= ids
    labelled = set(re.findall(r'<label[^>]* for="([^"]+)"', html))
    assert set(re.findall(r'<(?:input|select)[^>]* id="([^"]+)"', html)) <= labelled
    assert {
        ref for refs in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', html) for ref in refs.split()
    } <= ids


def test_the_links_are_those_of_the_emulator():
    match = re.search(r"LINKS = (\[\[.*?\]\]);", SCRIPTS["show.js"])
    links = {
        name.lower().replace("-", "") if name == "Wi-Fi" else name.lower(): rest for name, *rest in json.loads(match[1])
    }
    assert links == {name: [profile.up_bps, profile.delay_s] for name, profile in PRESETS.items()}


def test_the_scripts_use_the_names_of_the_protocol():
    text = SCRIPTS["service.js"].lower()
    for name in (routes.ENCODE, protocol.INFER, protocol.MODELS, routes.ENCODE_MS, routes.FILES, protocol.QUEUE_MS,
                 protocol.COMPUTE_MS, protocol.PACKET):  # fmt: skip
        assert name.lower().lstrip("/") in text


def contrast(one, other):
    """The contrast ratio of two colours, #rrggbb (WCAG 2.2)."""

    def luminance(colour):
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return np.dot(
            [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares], [0.2126, 0.7152, 0.0722]
        )

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast():
    style = FILES["style.css"]
    for block in re.findall(r"--back:.*?\}", style, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for name in ("text", "soft", "device", "link", "server", "wrong"):
            assert contrast(colours[name], colours["card"]) >= 4.5, name
        assert contrast(colours["text"], colours["back"]) >= 4.5
