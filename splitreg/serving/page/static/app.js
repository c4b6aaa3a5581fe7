// The page: an image from a file or the camera is encoded, sent and drawn with its predictions.

import { draw, makeLayers } from "./draw.js";
import { closeStream, compareHere, encodeHere, encoderOf, sendFrame, streamOf } from "./edge.js";
import { StreamClosed } from "./splitreg-edge.js";
import { Canceled, Refused, encode, infer, models, setToken } from "./service.js";
import { describe, make, showBytes, showHeads, showPredictions, showTimes } from "./show.js";

const MAX_SIDE = 1600; // pixels; larger images are scaled down, far above any network's input size
const CAMERA_SIDE = 640; // pixels of the longer side of camera images
const MIN_INTERVAL_MS = 200; // between two camera images that the server encodes
const FRAME_MS = 33; // between two that are encoded here
const SLOW_MS = 700; // then progress is shown, and a button to cancel
const COMPARE_EVERY = 10; // camera images per comparison with JPEG and WebP
const ACCEPTED_TYPES = ["image/jpeg", "image/png", "image/webp"];

const $ = (id) => document.getElementById(id);
const [canvas, model, rate, score, opacity] = ["canvas", "model", "rate", "score", "opacity"].map($);

let served = []; // entries of /v1/models
let hidden = new Set(); // heads that are not selected
let image = null; // { blob, bitmap, note }
let answer = null; // { bitmap, layers }
let files = null;
let camera = null; // { stream }
let [busy, sendAgain, answers] = [false, false, 0];
let controller = null; // ends the request that runs
let wake = () => {}; // ends a pause before a retry

const selectedModel = () => served.find((entry) => entry.id === model.value);

function showStatus(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function showError(error) {
  showStatus(error.message, true);
  if (error.status !== 401) return;
  stopCamera();
  $("token-form").hidden = false;
  $("token").focus();
}

async function load() {
  try {
    served = await models();
  } catch (error) {
    showError(error);
    return false;
  }
  $("token-form").hidden = true;
  const before = model.value;
  model.replaceChildren(...served.map((one) => make("option", { value: one.id, text: `${one.name} (${one.id})` })));
  if (served.some((one) => one.id === before)) model.value = before;
  changeModel();
  return true;
}

function changeModel() {
  answer = null;
  hidden = new Set(Object.entries(selectedModel()?.heads ?? {}).filter(([, { task }]) => task === "reconstruction").map(([head]) => head));
  $("rate-field").hidden = !selectedModel()?.rates;
  if (selectedModel()) showHeads(selectedModel(), hidden, (head, ticked) => { hidden[ticked ? "delete" : "add"](head); redraw(); });
}

function redraw() {
  if (!image) return;
  const layers = answer?.layers ?? [];
  const shown = new Set(layers.map(({ head }) => head).filter((head) => !hidden.has(head)));
  draw(canvas, answer?.bitmap ?? image.bitmap, layers, { shown, score: Number(score.value), opacity: Number(opacity.value) });
  showPredictions(layers, Number(score.value));
  canvas.setAttribute("aria-label", describe(layers.filter(({ head }) => shown.has(head)), Number(score.value)));
}

const wantedHeads = (entry) => Object.keys(entry.heads).filter((head) => !camera || !hidden.has(head));

// One image is in flight at a time; changes made meanwhile are sent once it has been answered.
async function send() {
  if (camera?.streams) return; // the next frame has the new settings
  if (busy) {
    sendAgain = true;
    wake();
    return;
  }
  busy = true;
  $("main").setAttribute("aria-busy", "true");
  const slow = setTimeout(() => { $("cancel").hidden = false; }, SLOW_MS);
  do {
    sendAgain = false;
    controller = new AbortController();
    try {
      await sendOnce();
    } catch (error) {
      if (error instanceof Canceled) {
        stopCamera();
        if (!sendAgain) showStatus("Canceled.");
      } else {
        showError(error);
        if (camera && error instanceof Refused && error.seconds !== null) await pause(1000 * error.seconds);
        else stopCamera();
      }
    }
  } while (sendAgain);
  clearTimeout(slow);
  $("cancel").hidden = $("progress").hidden = true;
  busy = false;
  $("main").setAttribute("aria-busy", "false");
}

/** Wait, or until another image is to be sent. */
function pause(milliseconds) {
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, milliseconds);
  });
}

function watch(what, share) {
  if ($("cancel").hidden) return; // the link is fast
  $("progress").hidden = false;
  $("progress").value = share;
  showStatus(`${what} ${Math.round(100 * share)} %`);
}

async function sendOnce() {
  const [entry, sent] = [selectedModel(), image];
  if (!entry || !sent) return;
  const wanted = wantedHeads(entry);
  const compare = !camera || answers % COMPARE_EVERY === 0 || files === null;
  const chosen = entry.rates ? rate.value : null;
  const encoder = await encoderOf(entry.id);
  showDevice(encoder);
  let encoded;
  if (encoder) {
    encoded = encodeHere(encoder, sent.bitmap, chosen);
    if (compare) encoded.files = await compareHere(encoder, sent.bitmap, encoded.packet.length);
  } else {
    sent.blob ??= await asJpeg(sent.bitmap);
    encoded = await encode(sent.blob, { model: entry.id, rate: chosen, files: compare, watch, signal: controller.signal });
  }
  if (encoded.files) files = encoded.files;
  const { predictions, serverMs, linkMs } = await infer(encoded.packet, wanted.length ? wanted : null, { watch, signal: controller.signal });
  const layers = await makeLayers(predictions, entry);
  if (selectedModel() !== entry || sendAgain) return; // outdated
  showAnswer(sent.bitmap, layers);
  showBytes(encoded.packet.byteLength, files);
  showTimes({ device: encoded.deviceMs, link: linkMs, server: serverMs });
  redraw();
  if (!camera) showStatus(`Answered: ${encoded.packet.byteLength.toLocaleString("en")} bytes sent.${sent.note ?? ""}`);
}

function showAnswer(bitmap, layers) {
  answer = { bitmap, layers };
  answers += 1;
  canvas.dataset.answers = answers;
}

/** Send a camera image over a stream, unless too many are without an answer; false where single requests are sent. */
async function sendInStream(bitmap, current) {
  const entry = selectedModel();
  if (!entry) return false;
  const [encoder, wanted] = [await encoderOf(entry.id), wantedHeads(entry)];
  const stream = streamOf(encoder, wanted.length ? wanted : null);
  current.streams = stream !== null;
  if (!stream?.ready) return current.streams;
  showDevice(encoder, true);
  const number = ++current.sent;
  sendFrame(stream, bitmap, entry.rates ? rate.value : null).then(
    (frame) => onFrame(frame, { current, number, entry, encoder, bitmap }), (error) => onFrameError(error, stream, current),
  );
  return true;
}

async function onFrame(frame, { current, number, entry, encoder, bitmap }) {
  const layers = await makeLayers(frame.answer, entry);
  if (camera !== current || selectedModel() !== entry || number < current.shown) return; // outdated
  current.shown = number;
  image = { bitmap };
  showAnswer(bitmap, layers);
  canvas.dataset.frames = Number(canvas.dataset.frames ?? 0) + 1;
  showBytes(frame.bytes, files);
  showTimes({ device: frame.deviceMs, link: frame.linkMs, server: null });
  redraw();
  showStatus("The camera is on; its packets are sent as a stream.");
  if (answers % COMPARE_EVERY && files) return;
  const { packet } = encodeHere(encoder, bitmap, entry.rates ? rate.value : null);
  files = await compareHere(encoder, bitmap, packet.length);
}

function onFrameError(error, stream, current) {
  if (camera !== current || error.type === "KeyFrameNeeded" || error.retryAfter) return; // the next frame may be accepted
  if (!(error instanceof StreamClosed)) {
    showError(error);
    stopCamera();
  } else if (stream.failed && stream.connections) showStatus("The connection was lost; it is opened again.", true);
}

/** Draw an image on a canvas, scaled down to at most `maxSide` pixels per side. */
function scaleDown(source, width, height, maxSide) {
  const factor = Math.min(1, maxSide / Math.max(width, height));
  const frame = new OffscreenCanvas(Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor)));
  const pen = frame.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, frame.width, frame.height);
  pen.drawImage(source, 0, 0, frame.width, frame.height);
  return frame;
}

const asJpeg = (frame) => frame.convertToBlob({ type: "image/jpeg", quality: 0.95 });

/** State where images are encoded, and how they are sent. */
function showDevice(encoder, streams = false) {
  canvas.dataset.device = encoder ? "browser" : "server";
  canvas.dataset.link = streams ? "stream" : "request";
  $("device-note").textContent = encoder
    ? "Images are encoded in this browser: only packets are sent."
    : "Images are sent to this server, which encodes them on one thread.";
}

async function sendFile(file) {
  stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    showStatus("This browser cannot read the file as an image.", true);
    return;
  }
  const large = Math.max(bitmap.width, bitmap.height) > MAX_SIDE;
  const keep = !large && ACCEPTED_TYPES.includes(file.type);
  const note = large ? ` The image was scaled to ${MAX_SIDE} pixels.` : "";
  image = keep ? { blob: file, bitmap } : { bitmap: scaleDown(bitmap, bitmap.width, bitmap.height, MAX_SIDE), note };
  [answer, files] = [null, null];
  redraw();
  showStatus("Sending …");
  await send();
}

async function startCamera() {
  const video = make("video", { muted: true, playsInline: true });
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: CAMERA_SIDE } }, audio: false });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    const reason = error.name === "NotAllowedError" ? "The browser denied access to the camera." : "No camera is available.";
    stream?.getTracks().forEach((track) => track.stop());
    showStatus(reason, true);
    return;
  }
  stream.getTracks().forEach((track) => track.addEventListener("ended", stopCamera));
  const current = camera = { stream, streams: false, sent: 0, shown: 0 };
  files = null;
  $("camera").setAttribute("aria-pressed", "true");
  $("camera").textContent = "Stop camera";
  showStatus("The camera is on; its images are sent.");
  while (camera === current) {
    const start = performance.now();
    if (!document.hidden && !busy) {
      const bitmap = scaleDown(video, video.videoWidth, video.videoHeight, CAMERA_SIDE);
      if (!(await sendInStream(bitmap, current)) && camera === current) {
        image = { bitmap };
        await send();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(5, interval() - (performance.now() - start))));
  }
}

const interval = () => (canvas.dataset.device === "browser" ? FRAME_MS : MIN_INTERVAL_MS);

function stopCamera() {
  if (!camera) return;
  camera.stream.getTracks().forEach((track) => track.stop());
  camera = null;
  closeStream();
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Start camera";
  if (!$("status").classList.contains("wrong")) showStatus("The camera is off.");
}

$("cancel").addEventListener("click", () => { controller?.abort(); wake(); });
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) sendFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
$("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
if (!navigator.mediaDevices?.getUserMedia) {
  $("camera").disabled = true; // only over HTTPS or on this machine
  $("camera").title = "Browsers allow the camera only over HTTPS or on this machine";
}
model.addEventListener("change", () => { changeModel(); files = null; redraw(); send(); });
for (const slider of [rate, score, opacity]) {
  slider.addEventListener("input", () => {
    $(`${slider.id}-value`).textContent = Number(slider.value).toFixed(2);
    if (slider === rate) send();
    else redraw();
  });
}
$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  if (await load()) {
    showStatus(image ? "Sending …" : "No image selected.");
    await send();
  }
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", name === "dragover");
    const file = name === "drop" ? [...event.dataTransfer.files].find((one) => one.type.startsWith("image/")) : null;
    if (file) sendFile(file);
  });
}
navigator.serviceWorker?.register("page/sw.js", { scope: "./" }).catch(() => {}); // not over plain HTTP from another machine
load();
