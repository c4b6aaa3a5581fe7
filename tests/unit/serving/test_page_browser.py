"""The page in headless Chromium, with a real server."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from support import chromium
from support.page_toys import HOSTILE, LABELS, image_file
from support.serving_toys import gated, running, stub

from splitreg import drawing
from splitreg.assembly import ServerModel
from splitreg.edge import EdgeEncoder
from splitreg.errors import Unavailable
from splitreg.serving import security
from splitreg.serving.local import LocalBackend
from splitreg.serving.page import edge, routes
from splitreg.wire import protocol, to_json

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed"),
]
CANVAS = "document.getElementById('canvas')"


@pytest.fixture(scope="module", autouse=True)
def the_server_encodes():
    """These are the tests of the server's encoder; test_page_edge.py has those of the browser's."""

    def no_model(bundle):
        raise Unavailable("the server encodes in these tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge, "_compile", no_model)
        yield


@pytest.fixture(scope="module")
def server(page_bundle):
    with running(LocalBackend, token="right", bundles=(str(page_bundle),), page=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def local(page_bundle):
    """An image file, its packet, and the predictions of this process."""
    data = image_file()
    packet = EdgeEncoder.open(page_bundle).encode(data, rate=0.5)[0]
    return data, packet, ServerModel.load(page_bundle).infer(packet)[0]


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').textContent")


def pixel(browser, x, y):
    return browser.run(f"Array.from({CANVAS}.getContext('2d').getImageData({x}, {y}, 1, 1).data)")[:3]


def set_slider(browser, name, value):
    browser.run(
        f"{{const s = document.getElementById('{name}'); s.value = {value}; s.dispatchEvent(new Event('input'))}}"
    )


def select(browser, *heads):
    """Select these heads and no others."""
    browser.run(f"document.querySelectorAll('.head').forEach((one) => {{const box = one.querySelector('input');"
                f"if (box.checked !== {json.dumps(heads)}.includes(one.dataset.head)) box.click()}})")  # fmt: skip


def wait_for_answer(browser, count):
    browser.until(f"{CANVAS}.dataset.answers === '{count}' && document.getElementById('main').ariaBusy === 'false'")


@pytest.fixture(scope="module")
def page(server, browser, local, tmp_path_factory):
    """The page with a token and an answered image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "image.png").write_bytes(local[0])
    browser.size(1200)
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.until("!document.getElementById('token-form').hidden")
    for token in ("wrong", "right"):
        assert "token" in text(browser, "status")
        browser.run(
            f"document.getElementById('token').value = '{token}'; document.querySelector('#token-form button').click()"
        )
    browser.until(
        "document.getElementById('model').options.length === 1 && document.getElementById('token-form').hidden"
    )
    refused = [c for c in browser.complaints() if "401" in c.get("entry", {}).get("text", "")]
    assert browser.complaints() == refused and refused  # the refused token is the only error
    browser.events.clear()
    browser.choose("#file", folder / "image.png")
    wait_for_answer(browser, 1)
    return browser


def test_bytes_and_times_are_shown(page, local):
    _, sent, _ = local
    summary, bars = text(page, "bytes-summary"), text(page, "bars")
    assert summary.startswith(f"{len(sent):,} ") and "JPEG 75" in summary and "96\u00d764" in summary
    assert f"{len(sent):,}" in bars and bars.count("75") >= 2 and "JPEG" in bars and "WebP" in bars
    assert all(text(page, f"{part}-ms").endswith(" ms") for part in ("device", "link", "server"))
    lora = 20 + 8000 * len(sent) / 37500
    assert text(page, "links").startswith(f"LoRa, 37.5 kbit/s{lora:.0f} ms")
    assert page.run(
        "[...document.querySelectorAll('#split span')].reduce((sum, s) => sum + parseFloat(s.style.width), 0)"
    ) == (pytest.approx(100, abs=0.1))


def test_arrays_are_decoded_exactly(page, local):
    """Masks, depth and pixels decoded by the page equal those of this process."""
    wanted = to_json([local[2]], "png")[0]
    for head, attribute in (("seg", "mask"), ("depth", "depth"), ("recon", "image")):
        actual = page.run(f"import('/page/png.js').then(async (m) => {{const p = await m.readPng('{wanted[head]['png']}');"
                         "return [p.width, p.height, p.channels, Array.from(p.data)]})")  # fmt: skip
        array = getattr(local[2][head], attribute)
        assert actual[:2] == [90, 60] and actual[2] == (3 if head == "recon" else 1)
        if head == "depth":
            array = (array * 1000).round().clip(0, 65535)
        np.testing.assert_array_equal(np.array(actual[3]).reshape(array.shape), array)


def test_colours_equal_those_of_drawing(page):
    actual = page.run("import('/page/draw.js').then((m) => Array.from({length: 60}, (_, i) => m.colourOf(i)))")
    assert np.abs(np.array(actual) - drawing.palette(60).astype(int)).max() <= 1
    depths = np.array([[0.0, 0.5, 1.0, 1.7, 3.0, 9.0, 20.0]])
    actual = page.run(f"import('/page/draw.js').then((m) => {depths[0].tolist()}.map((d) => m.colourOfDepth(d, 1, 9)))")
    assert np.abs(np.array(actual) - drawing.depth_colours(depths, 1.0, 9.0)[0].astype(int)).max() <= 1


def test_selected_heads_are_drawn(page, local):
    data, _, predictions = local
    set_slider(page, "opacity", 0.55)
    factor = page.run(f"{CANVAS}.width") // 90
    assert page.run(f"[{CANVAS}.width, {CANVAS}.height]") == [90 * factor, 60 * factor] and 90 * factor >= 640
    image = np.asarray(Image.open(io.BytesIO(data)))
    palette = drawing.palette(len(LABELS))
    select(page)
    seen = {(row, column): pixel(page, int((column + 0.5) * factor), int((row + 0.5) * factor))
            for row in (3, 30, 55) for column in (4, 45, 80)}  # fmt: skip
    for place, actual in seen.items():
        assert np.abs(np.array(actual) - image[place]).max() <= 1
    select(page, "seg")
    tinted = drawing.overlay(image, predictions["seg"].mask, palette)
    for row, column in seen:
        actual = pixel(page, int((column + 0.5) * factor), int((row + 0.5) * factor))
        assert np.abs(np.array(actual) - tinted[row, column].astype(int)).max() <= 2
    set_slider(page, "opacity", 1)
    select(page, "recon")
    assert np.abs(np.array(pixel(page, factor // 2, factor // 2)) - predictions["recon"].image[0, 0]).max() <= 1
    set_slider(page, "opacity", 0.55)
    select(page, "cls", "multilabel", "seg", "det", "depth")


def test_labels_are_shown_as_text(page):
    assert HOSTILE in text(page, "heads") and page.run("document.title") == "splitreg"
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    assert "seg: " in page.run(f"{CANVAS}.ariaLabel")
    objects = [{"label": LABELS[i % 2], "score": i / 10, "box": [0, 0, 9, 9]} for i in range(11)]
    layer = json.dumps({"head": "det", "task": "detection", "labels": LABELS[:2], "prediction": {"objects": objects}})
    counted = f"import('/page/draw.js').then((m) => m.objectsOf({layer}, 0.35).map((o) => [o.index, o.score]))"
    assert page.run(counted) == [[i % 2, i / 10] for i in range(4, 11)]


def test_shapes_of_a_plugins_prediction_are_drawn(page):
    """The server sends them with predictions of types that the page does not know."""
    shapes = [{"points": [[100, 100]], "colour": 2}, {"points": [[300, 50], [300, 350]], "closed": True, "label": "a"}]
    layer = json.dumps({"head": "own", "task": "own", "labels": [], "layer": None, "prediction": {"shapes": shapes}})
    drawn = page.run(
        "import('/page/draw.js').then((m) => { const bitmap = new OffscreenCanvas(640, 400); bitmap.getContext('2d');"
        "const canvas = document.createElement('canvas');"
        f"m.draw(canvas, bitmap, [{layer}], {{shown: new Set(['own']), score: 0, opacity: 1}});"
        "const pen = canvas.getContext('2d');"
        "return [[100, 100], [300, 200], [500, 300]].map((p) => [...pen.getImageData(...p, 1, 1).data].slice(0, 3)) })"
    )
    colours = drawing.palette(3).astype(int)
    assert np.abs(np.array(drawn) - [colours[2], colours[0], [255, 255, 255]]).max() <= 2


def test_changing_the_rate_sends_the_image_again(page, local, page_bundle):
    assert not page.run("document.getElementById('rate-field').hidden")
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    for step, rate in enumerate((1, 0), start=1):
        set_slider(page, "rate", rate)
        wait_for_answer(page, before + step)
        wanted = len(EdgeEncoder.open(page_bundle).encode(local[0], rate=rate)[0])
        assert text(page, "bytes-summary").startswith(f"{wanted:,} ") and text(page, "rate-value") == f"{rate}.00"
    assert [url.partition("rate=")[2] for url in page.requested() if routes.ENCODE in url][-2:] == [
        "1&files=1",
        "0&files=1",
    ]


def test_an_image_is_dropped_scaled_or_refused(page, tmp_path):
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    page.run("""const large = new OffscreenCanvas(2000, 1000);
    large.getContext('2d').fillRect(0, 0, 50, 50);
    large.convertToBlob().then((blob) => {
      const carried = new DataTransfer();
      carried.items.add(new File([blob], 'large.png', {type: 'image/png'}));
      document.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, cancelable: true}));
    })""")
    wait_for_answer(page, before + 1)
    assert "1600" in text(page, "status") and page.run(f"[{CANVAS}.width, {CANVAS}.height]") == [1600, 800]
    (tmp_path / "small.bmp").write_bytes(image_file("BMP"))
    page.choose("#file", tmp_path / "small.bmp")  # a format that the server does not accept
    wait_for_answer(page, before + 2)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    page.choose("#file", tmp_path / "broken.png")
    page.until("document.getElementById('status').classList.contains('wrong')")
    assert text(page, "status") and page.run(f"{CANVAS}.dataset.answers") == str(before + 2)


def test_the_camera(page):
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    select(page, "seg")
    page.run("document.getElementById('camera').click()")
    page.until(f"Number({CANVAS}.dataset.answers) >= {before + 3}")
    assert page.run("document.getElementById('camera').ariaPressed") == "true"
    page.run("document.getElementById('camera').click()")
    page.until(
        "document.getElementById('camera').ariaPressed === 'false' && document.getElementById('main').ariaBusy === 'false'"
    )
    asked = [url for url in page.requested() if protocol.INFER in url]
    assert asked[-1].endswith("heads=seg") and "heads=cls" in asked[0]
    select(page, "cls", "seg", "det", "depth")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone(page, dark):
    page.dark(dark)
    page.size(360, 740)
    assert page.run("document.documentElement.scrollWidth") <= 360
    bodies = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    letters = page.run("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
    assert (
        (np.mean(bodies) < 60 and np.mean(letters) > 200) if dark else (np.mean(bodies) > 200 and np.mean(letters) < 60)
    )
    page.size(1200)


def test_all_controls_are_reachable_by_keyboard(page):
    page.run("document.activeElement.blur()")
    seen = []
    for _ in range(30):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(page.run("document.activeElement.id"))
    assert {"file", "camera", "model", "rate", "score", "opacity", "head-0"} <= set(seen)
    names = page.run(
        "[...document.querySelectorAll('main input, main select')].filter((one) => !one.labels?.length).length"
    )
    assert names == 0


def test_no_request_to_other_sites_and_no_errors(page, server):
    own = f"http://127.0.0.1:{server.port}/"
    others = [url for url in page.requested() if not url.startswith(own)]
    assert others == [] and page.complaints() == []
    assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert not any("right" in url for url in page.requested())


def test_an_unreachable_server_is_reported(page, tmp_path):
    entry = {"id": "00000001", "name": "gone", "heads": {}, "size": [64, 96], "rates": False}

    with running(stub(describe=lambda self: {entry["id"]: entry}), page=True) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.until("document.getElementById('model').options.length === 1")
    (tmp_path / "image.png").write_bytes(image_file())
    page.choose("#file", tmp_path / "image.png")
    page.until("document.getElementById('status').classList.contains('wrong')")
    assert text(page, "status")


def test_an_image_chosen_while_the_camera_waits_for_a_retry_is_sent(page_bundle, browser, tmp_path):
    """The server refuses camera images for a long time; a chosen image does not wait for it."""
    (tmp_path / "image.png").write_bytes(image_file())
    with running(LocalBackend, bundles=(str(page_bundle),), page=True) as server:
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.getElementById('model').options.length === 1")
        limit = server.service.rate_limit
        server.service.rate_limit = security.RateLimit(0.02)
        browser.run("document.getElementById('camera').click()")
        browser.until("document.getElementById('status').classList.contains('wrong')")
        server.service.rate_limit = limit
        browser.choose("#file", tmp_path / "image.png")
        browser.until(f"Number({CANVAS}.dataset.answers) >= 1 && document.getElementById('main').ariaBusy === 'false'")


def test_a_slow_request_can_be_canceled(page_bundle, browser, tmp_path):
    (tmp_path / "image.png").write_bytes(image_file())
    backend, gate = gated()
    ids = [json.loads((page_bundle / "config.json").read_text())["model_id"]]
    backend.describe = lambda self: {ids[0]: {"id": ids[0], "name": "page", "heads": {"cls": {}}, "rates": False}}
    with running(backend, bundles=(str(page_bundle),), page=True) as server:
        browser.open(f"http://127.0.0.1:{server.port}/")
        browser.until("document.getElementById('model').options.length === 1")
        browser.choose("#file", tmp_path / "image.png")
        browser.until("!document.getElementById('cancel').hidden")
        browser.run("document.getElementById('cancel').click()")
        browser.until("document.getElementById('main').ariaBusy === 'false'")
        assert "anceled" in text(browser, "status") and browser.run("document.getElementById('cancel').hidden")
        gate.set()
