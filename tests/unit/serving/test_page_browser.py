"""The page in headless Chromium, before the real server."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from support import chromium
from support.page_toys import HOSTILE, LABELS, picture
from support.serving_toys import StubFleet, running, stub

from splitreg import drawing
from splitreg.assembly import ServerModel
from splitreg.edge import EdgeEncoder
from splitreg.serving.page import routes
from splitreg.serving.pool import Fleet
from splitreg.wire import protocol, to_json

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed")
CANVAS = "document.getElementById('canvas')"


@pytest.fixture(scope="module")
def server(page_bundle):
    with running(Fleet, token="right", bundles=(str(page_bundle),), page=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def said(page_bundle):
    """The packet of a picture and what the heads say of it, in this process."""
    data = picture()
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


def tick(browser, *heads):
    """Tick these heads and no others."""
    browser.run(f"document.querySelectorAll('.head').forEach((one) => {{const box = one.querySelector('input');"
                f"if (box.checked !== {json.dumps(heads)}.includes(one.dataset.head)) box.click()}})")  # fmt: skip


def answered(browser, count):
    browser.until(f"{CANVAS}.dataset.answers === '{count}' && document.getElementById('main').ariaBusy === 'false'")


@pytest.fixture(scope="module")
def page(server, browser, said, tmp_path_factory):
    """The page with a token and an answered picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "picture.png").write_bytes(said[0])
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
    assert browser.complaints() == refused and refused  # the only thing that went wrong was asked for
    browser.events.clear()
    browser.choose("#file", folder / "picture.png")
    answered(browser, 1)
    return browser


def test_it_shows_what_was_sent_and_how_long_it_took(page, said):
    _, sent, _ = said
    assert text(page, "bytes-summary").startswith(f"{len(sent):,} bytes sent; JPEG 75 at 96\u00d764 has ")
    assert text(page, "bars").startswith(f"Packet: {len(sent):,} bytes") and "WebP, quality 75" in text(page, "bars")
    assert all(text(page, f"{part}-ms").endswith(" ms") for part in ("device", "link", "server"))
    lora = 20 + 8000 * len(sent) / 37500
    assert text(page, "links").startswith(f"LoRa, 37.5 kbit/s{lora:.0f} ms")
    assert page.run(
        "[...document.querySelectorAll('#split span')].reduce((sum, s) => sum + parseFloat(s.style.width), 0)"
    ) == (pytest.approx(100, abs=0.1))


def test_the_answer_is_read_exactly(page, said):
    """Masks, depth and pixels come out of the page's reader as they are in this process."""
    wanted = to_json([said[2]], "png")[0]
    for head, attribute in (("seg", "mask"), ("depth", "depth"), ("recon", "image")):
        found = page.run(f"import('/page/png.js').then(async (m) => {{const p = await m.readPng('{wanted[head]['png']}');"
                         "return [p.width, p.height, p.channels, Array.from(p.data)]})")  # fmt: skip
        array = getattr(said[2][head], attribute)
        assert found[:2] == [90, 60] and found[2] == (3 if head == "recon" else 1)
        if head == "depth":
            array = (array * 1000).round().clip(0, 65535)
        np.testing.assert_array_equal(np.array(found[3]).reshape(array.shape), array)


def test_colours_are_those_of_the_drawings(page):
    found = page.run("import('/page/draw.js').then((m) => Array.from({length: 60}, (_, i) => m.colourOf(i)))")
    assert np.abs(np.array(found) - drawing.palette(60).astype(int)).max() <= 1
    depths = np.array([[0.0, 0.5, 1.0, 1.7, 3.0, 9.0, 20.0]])
    found = page.run(f"import('/page/draw.js').then((m) => {depths[0].tolist()}.map((d) => m.colourOfDepth(d, 1, 9)))")
    assert np.abs(np.array(found) - drawing.depth_colours(depths, 1.0, 9.0)[0].astype(int)).max() <= 1


def test_what_is_ticked_is_drawn(page, said):
    data, _, predictions = said
    set_slider(page, "opacity", 0.55)
    factor = page.run(f"{CANVAS}.width") // 90
    assert page.run(f"[{CANVAS}.width, {CANVAS}.height]") == [90 * factor, 60 * factor] and 90 * factor >= 640
    image = np.asarray(Image.open(io.BytesIO(data)))
    palette = drawing.palette(len(LABELS))
    tick(page)
    seen = {(row, column): pixel(page, int((column + 0.5) * factor), int((row + 0.5) * factor))
            for row in (3, 30, 55) for column in (4, 45, 80)}  # fmt: skip
    for place, found in seen.items():
        assert np.abs(np.array(found) - image[place]).max() <= 1
    tick(page, "seg")
    tinted = drawing.overlay(image, predictions["seg"].mask, palette)
    for row, column in seen:
        found = pixel(page, int((column + 0.5) * factor), int((row + 0.5) * factor))
        assert np.abs(np.array(found) - tinted[row, column].astype(int)).max() <= 2
    set_slider(page, "opacity", 1)
    tick(page, "recon")
    assert np.abs(np.array(pixel(page, factor // 2, factor // 2)) - predictions["recon"].image[0, 0]).max() <= 1
    set_slider(page, "opacity", 0.55)
    tick(page, "cls", "multilabel", "seg", "det", "depth")


def test_what_the_server_says_is_text(page):
    assert HOSTILE in text(page, "heads") and page.run("document.title") == "splitreg"
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    assert "seg: " in page.run(f"{CANVAS}.ariaLabel")
    objects = [{"label": LABELS[i % 2], "score": i / 10, "box": [0, 0, 9, 9]} for i in range(11)]
    layer = json.dumps({"head": "det", "task": "detection", "labels": LABELS[:2], "said": {"objects": objects}})
    counted = f"import('/page/draw.js').then((m) => m.objectsOf({layer}, 0.35).map((o) => [o.index, o.score]))"
    assert page.run(counted) == [[i % 2, i / 10] for i in range(4, 11)]


def test_the_rate_is_sent_again(page, said, page_bundle):
    assert not page.run("document.getElementById('rate-field').hidden")
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    for step, rate in enumerate((1, 0), start=1):
        set_slider(page, "rate", rate)
        answered(page, before + step)
        wanted = len(EdgeEncoder.open(page_bundle).encode(said[0], rate=rate)[0])
        assert (
            text(page, "bytes-summary").startswith(f"{wanted:,} bytes sent")
            and text(page, "rate-value") == f"{rate}.00"
        )
    assert [url.partition("rate=")[2] for url in page.requested() if routes.ENCODE in url][-2:] == [
        "1&files=1",
        "0&files=1",
    ]


def test_a_picture_is_dropped_scaled_or_refused(page, tmp_path):
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    page.run("""const large = new OffscreenCanvas(2000, 1000);
    large.getContext('2d').fillRect(0, 0, 50, 50);
    large.convertToBlob().then((blob) => {
      const carried = new DataTransfer();
      carried.items.add(new File([blob], 'large.png', {type: 'image/png'}));
      document.dispatchEvent(new DragEvent('drop', {dataTransfer: carried, cancelable: true}));
    })""")
    answered(page, before + 1)
    assert "scaled to 1600" in text(page, "status") and page.run(f"[{CANVAS}.width, {CANVAS}.height]") == [1600, 800]
    (tmp_path / "small.bmp").write_bytes(picture("BMP"))
    page.choose("#file", tmp_path / "small.bmp")  # a kind that the server does not take
    answered(page, before + 2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.choose("#file", tmp_path / "broken.png")
    page.until("document.getElementById('status').classList.contains('wrong')")
    assert "not a picture" in text(page, "status") and page.run(f"{CANVAS}.dataset.answers") == str(before + 2)


def test_the_camera(page):
    before = int(page.run(f"{CANVAS}.dataset.answers"))
    tick(page, "seg")
    page.run("document.getElementById('camera').click()")
    page.until(f"Number({CANVAS}.dataset.answers) >= {before + 3}")
    assert page.run("document.getElementById('camera').ariaPressed") == "true"
    page.run("document.getElementById('camera').click()")
    page.until(
        "document.getElementById('camera').ariaPressed === 'false' && document.getElementById('main').ariaBusy === 'false'"
    )
    asked = [url for url in page.requested() if protocol.INFER in url]
    assert asked[-1].endswith("heads=seg") and "heads=cls" in asked[0]
    tick(page, "cls", "seg", "det", "depth")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_telephone(page, dark):
    page.dark(dark)
    page.size(360, 740)
    assert page.run("document.documentElement.scrollWidth") <= 360
    bodies = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    letters = page.run("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
    assert (
        (np.mean(bodies) < 60 and np.mean(letters) > 200) if dark else (np.mean(bodies) > 200 and np.mean(letters) < 60)
    )
    page.size(1200)


def test_everything_is_reached_by_keyboard(page):
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


def test_nothing_was_asked_of_anybody_else_and_nothing_went_wrong(page, server):
    own = f"http://127.0.0.1:{server.port}/"
    others = [url for url in page.requested() if not url.startswith(own)]
    assert others == [] and page.complaints() == []
    assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert not any("right" in url for url in page.requested())


def test_a_server_that_is_gone_is_said(page, tmp_path):
    entry = {"id": "00000001", "name": "gone", "heads": {}, "size": [64, 96], "rates": False}

    async def start(self):
        await StubFleet.start(self)
        self.models = {entry["id"]: entry}

    with running(stub(start=start), page=True) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.until("document.getElementById('model').options.length === 1")
    (tmp_path / "picture.png").write_bytes(picture())
    page.choose("#file", tmp_path / "picture.png")
    page.until("document.getElementById('status').classList.contains('wrong')")
    assert "cannot be reached" in text(page, "status")
