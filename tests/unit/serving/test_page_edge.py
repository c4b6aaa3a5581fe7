"""The page encodes in headless Chromium: only packets are sent, also from the camera, and it opens without the server."""

import base64
import contextlib
import json
import urllib.parse
import urllib.request

import numpy as np
import pytest
from support import chromium
from support.serving_toys import running

from splitreg.coding import STREAM_HEADER_BYTES, FrameDecoder, Packet, StreamFormat, StreamPacket
from splitreg.edge import EdgeEncoder, StreamOptions
from splitreg.errors import MissingExtra
from splitreg.serving.local import LocalBackend
from splitreg.serving.page import edge

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed"),
]
ZOO = "zoo:splitreg-camvid"
#: Of its latents.
SHAPE = (24, 24, 32)
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
    expected = encoder.coding.decode(Packet.parse(encoder.encode(image)[0]).streams, SHAPE)
    decoded = encoder.coding.decode(Packet.parse(bytes(packet)).streams, SHAPE)
    assert np.mean(~np.isclose(decoded, expected, atol=0.01)) < 0.005


def frames(browser):
    """Sent messages of the last WebSocket, and the parameters that it was opened with."""
    sockets = [event["params"] for event in browser.events if event["method"] == "Network.webSocketCreated"]
    url = urllib.parse.urlsplit(sockets[-1]["url"])
    assert (url.netloc, url.path) == (f"127.0.0.1:{browser.server.port}", "/v1/stream")
    sent = [
        base64.b64decode(event["params"]["response"]["payloadData"])
        for event in browser.events
        if event["method"] == "Network.webSocketFrameSent" and event["params"]["response"]["opcode"] == 2
        if event["params"]["requestId"] == sockets[-1]["requestId"]
    ]
    return sent, dict(urllib.parse.parse_qsl(url.query))


def answered(page, count):
    """Wait for further answers to frames."""
    before = int(page.run(f"{CANVAS}.dataset.frames") or 0)
    page.until(f"Number({CANVAS}.dataset.frames) >= {before + count}")


def decoder_of(query):
    """The decoder of a stream, and its format."""
    form = StreamFormat.parse(query["video"])
    return FrameDecoder(EdgeEncoder.open(ZOO).coding, form.latent, stream=form.number), form


def test_the_camera_sends_a_stream_of_packets(page):
    page.events.clear()
    page.run("document.getElementById('camera').click()")
    answered(page, 4)
    page.run("Object.assign(document.getElementById('rate'), {value: 0.1}).dispatchEvent(new Event('input'))")
    answered(page, 6)
    page.run("document.getElementById('camera').click()")
    page.until("document.getElementById('camera').getAttribute('aria-pressed') === 'false'")
    assert page.run(f"{CANVAS}.dataset.link") == "stream"
    assert bodies(page) == []
    sent, query = frames(page)
    decoder, form = decoder_of(query)
    rates, keys = [], []
    for message in sent:
        decoder.decode(message[8:])  # so each message is a packet that continues the one before
        rates.append(round(decoder.coding.variable.rate_of(decoder.streams()), 2))
        keys.append(StreamPacket.parse(message[8:]).key)
        assert len(decoder.packet(form)) + 8 > len(message) - 16
    assert rates == sorted(rates, reverse=True) and set(rates) == {0.5, 0.1}
    assert keys[0] and sum(keys) < len(keys) / 2
    assert page.complaints() == []


def answer_of(page, packet):
    """The answer to a packet in a request of its own."""
    url = f"http://127.0.0.1:{page.server.port}/v1/infer?heads=det,seg&masks=rle"
    request = urllib.request.Request(url, packet, {"Content-Type": "application/vnd.splitreg.packet"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["answers"][0]


def test_frames_equal_those_of_python(page):
    """A clip with a square that moves and then stops, coded in the browser and answered as a stream."""
    size = (96, 128)
    clip = np.full((6, *size, 3), 90, np.uint8)
    for i, frame in enumerate(clip):
        left = 10 * min(i, 3)
        frame[20:50, left : left + 30] = [250, 40, 10]
    result = page.run(
        "import('/page/edge.js').then(async ({encoderOf}) => {"
        "const {StreamClient} = await import('/page/splitreg-edge.js');"
        "const encoder = await encoderOf(document.getElementById('model').value);"
        "const video = encoder.beginStream(128, 96, 7);"
        "const stream = new StreamClient(location.href, {video, heads: ['det', 'seg'], masks: 'rle'});"
        "const [frames, answers] = [[], []];"
        "for (let i = 0; i < 6; i++) {"
        "const data = new Uint8ClampedArray(4 * 96 * 128);"
        "for (let y = 0; y < 96; y++) for (let x = 0; x < 128; x++) {"
        "const left = 10 * Math.min(i, 3), inside = y >= 20 && y < 50 && x >= left && x < left + 30;"
        "data.set(inside ? [250, 40, 10, 255] : [90, 90, 90, 255], 4 * (y * 128 + x));}"
        "const packet = encoder.encodeFrame({width: 128, height: 96, data}, {rate: 0.5});"
        "frames.push(Array.from(packet)); answers.push(await stream.send(packet));}"
        "stream.close(); return {video, frames, answers};})"
    )
    encoder = EdgeEncoder.open(ZOO)
    stream = encoder.stream(StreamOptions(key_interval_s=0, rate=0.5), number=7)
    packets = [stream.encode(frame) for frame in clip]
    assert str(stream.format) == result["video"]
    if [bytes(frame) for frame in result["frames"]] == packets:  # else a value was rounded to another symbol
        assert result["answers"] == [answer_of(page, encoder.encode(frame, rate=0.5)[0]) for frame in clip]
    decoder, form = decoder_of({"video": result["video"]})
    for frame, image in zip(result["frames"], clip, strict=True):
        expected = encoder.coding.decode(Packet.parse(encoder.encode(image, rate=0.5)[0]).streams, form.latent)
        assert np.mean(~np.isclose(decoder.decode(bytes(frame)), expected, atol=0.01)) < 0.005
    sizes = [len(frame) for frame in result["frames"]]
    assert sizes[-1] == sizes[-2] == STREAM_HEADER_BYTES < min(sizes[:-2])


def test_a_stream_recovers_with_key_frames(page):
    """After a lost frame, a lost connection and images of another size."""
    kinds = page.run(
        "import('/page/edge.js').then(async ({encoderOf}) => {"
        "const {CameraStream} = await import('/page/splitreg-edge.js');"
        "const encoder = await encoderOf(document.getElementById('model').value);"
        "const stream = new CameraStream(location.href, encoder, {heads: ['det']});"
        "const pixels = (width) => ({width, height: 64, data: new Uint8ClampedArray(4 * 64 * width).fill(99)});"
        "const kinds = [];"
        "const send = (width = 64) => stream.send(pixels(width)).then("
        "(frame) => kinds.push(frame.key ? 'key' : 'frame'), (error) => kinds.push(error.type ?? error.constructor.name));"
        "await send(); await send();"
        "encoder.encodeFrame(pixels(64)); await send(); await send(); await send();"
        "const waiting = send(); stream.client.socket.close(); await waiting;"
        "while (!stream.ready) await new Promise((resolve) => setTimeout(resolve, 20));"
        "await send(); await send(); await send(80); await send(80);"
        "kinds.push(stream.connections); stream.close(); return kinds;})"
    )
    lost = kinds.pop(5)
    assert lost in ("StreamClosed", "frame")  # its answer may arrive while the connection is closed
    assert kinds == ["key", "frame", "KeyFrameNeeded", "key", "frame", "key", "frame", "key", "frame", 3]


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
