"""The page encodes in headless Chromium: only packets are sent, also from the camera, and it opens without the server."""

import base64
import contextlib

import pytest
from support import chromium
from support.serving_toys import running

from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder
from splitreg.errors import MissingExtra
from splitreg.serving.local import LocalBackend
from splitreg.serving.page import edge

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed"),
]
ZOO = "zoo:camvid-small"
CANVAS = "document.getElementById('canvas')"
#: Bytes of the page, the module and the model that a browser loads.
MAX_DOWNLOAD = 1_500_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def page(cache, tmp_path_factory):
    """The page with the answer to the zoo's test image; the compiler's time is not part of a browser's patience."""
    from splitreg.bundle import Bundle

    bundle = Bundle.open(ZOO)
    try:
        edge._compile(bundle)
    except Exception as error:
        if isinstance(error.__cause__, MissingExtra):
            pytest.skip(str(error))
        raise
    with (
        contextlib.ExitStack() as stack,
        chromium.Browser(tmp_path_factory.mktemp("chromium"), seconds=180) as browser,
    ):
        server = stack.enter_context(running(LocalBackend, bundles=(ZOO,), page=True))
        browser.size(390, 844)  # a phone
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.getElementById('model').options.length === 1")
        browser.choose("#file", bundle.folder / "testvectors" / "image.png")
        browser.until(f"{CANVAS}.dataset.answers === '1'")
        browser.server, browser.bundle, browser.stop_server = server, bundle, stack.close
        yield browser


def bodies(browser):
    """Bodies of all requests that have one, as (path, bytes)."""
    found = []
    for event in browser.events:
        if event["method"] != "Network.requestWillBeSent":
            continue
        request = event["params"]["request"]
        assert request["url"].startswith((f"http://127.0.0.1:{browser.server.port}/", "blob:", "data:")), request["url"]
        if request["method"] != "GET":
            entries = request.get("postDataEntries", [])
            data = b"".join(base64.b64decode(entry.get("bytes", "")) for entry in entries)
            found.append((request["url"].split("?")[0].split("/", 3)[3], data))
    return found


def test_only_packets_are_sent(page):
    sent = bodies(page)
    assert page.run(f"{CANVAS}.dataset.device") == "browser"
    assert sent and {path for path, _ in sent} == {"v1/infer"}
    expected = EdgeEncoder.open(ZOO).encode(page.bundle.folder / "testvectors" / "image.png")[0]
    summary = page.run("document.getElementById('bytes-summary').textContent")
    assert summary.startswith(f"{len(expected):,} ")
    for _, data in sent:
        if data:  # Chromium leaves out bodies of binary data in some versions
            assert data == expected
    assert page.complaints() == []


def test_the_download_is_small(page):
    sizes = page.run(
        "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        ".map((e) => [e.name.split('/').pop().split('?')[0], e.decodedBodySize])"
    )
    loaded = dict(sizes)
    assert "edge" in loaded and loaded["edge"] > 50_000
    assert sum(loaded.values()) < MAX_DOWNLOAD, loaded


def test_nothing_is_wider_than_a_phone(page):
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")


def test_packets_equal_those_of_python(page):
    """The module itself, on pixels that JavaScript computes."""
    import numpy as np

    packet = page.run(
        "import('/page/edge.js').then(async ({encoderOf}) => {"
        "const encoder = await encoderOf(document.getElementById('model').value);"
        "const data = new Uint8ClampedArray(4 * 90 * 70);"
        "for (let i = 0; i < 90 * 70; i++) data.set([i % 251, (i * 7) % 256, (i / 90) * 3, 255], 4 * i);"
        "return Array.from(encoder.encode({width: 90, height: 70, data}));})"
    )
    i = np.arange(90 * 70)
    blue = np.rint(i / 90 * 3)
    image = np.stack([i % 251, (i * 7) % 256, np.clip(blue, 0, 255)], -1).astype(np.uint8).reshape(70, 90, 3)
    encoder = EdgeEncoder.open(ZOO)
    expected = encoder.coding.decode(Packet.parse(encoder.encode(image)[0]).streams, (24, 24, 32))
    decoded = encoder.coding.decode(Packet.parse(bytes(packet)).streams, (24, 24, 32))
    assert np.mean(~np.isclose(decoded, expected, atol=0.01)) < 0.005


def test_the_camera_sends_packets(page):
    page.events.clear()
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    page.run("document.getElementById('camera').click()")
    page.until(f"Number({CANVAS}.dataset.answers) >= {before + 4}")
    page.run("document.getElementById('camera').click()")
    page.until("document.getElementById('camera').getAttribute('aria-pressed') === 'false'")
    assert {path for path, _ in bodies(page)} == {"v1/infer"}


def test_the_page_opens_and_encodes_without_the_server(page):
    page.until("navigator.serviceWorker.controller !== null")
    url = page.run("location.href")
    page.open(url)  # the worker stores what it serves
    page.until("document.getElementById('model').options.length === 1")
    page.choose("#file", page.bundle.folder / "testvectors" / "image.png")
    page.until(f"{CANVAS}.dataset.answers === '1'")
    page.stop_server()
    page.open(url)
    page.until("document.getElementById('model').options.length === 1")
    page.choose("#file", page.bundle.folder / "testvectors" / "image.png")
    page.until(f"{CANVAS}.dataset.device === 'browser'")
    page.until("document.getElementById('status').classList.contains('wrong')")  # there is nobody to answer
