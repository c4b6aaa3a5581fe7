// The page: a picture from a file or the camera, to a packet, to an answer, drawn over it.

import { draw, makeLayers } from "./draw.js";
import { Refused, encode, infer, models, setToken } from "./service.js";
import { described, make, showBytes, showFound, showHeads, showTimes } from "./show.js";

const LONGEST = 1600; // pixels; longer pictures are scaled down here, far above what a network reads
const LIVE = 640; // pixels of the camera's longer side
const PAUSE_MS = 200; // from one picture of the camera to the next, at least
const FILES_EVERY = 10; // pictures of the camera are compared with files only so often
const SENT_AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp"];

const $ = (id) => document.getElementById(id);
const [canvas, model, rate, score, opacity] = ["canvas", "model", "rate", "score", "opacity"].map($);

let served = []; // entries of /v1/models
let hidden = new Set(); // heads that are not ticked
let picture = null; // { blob, bitmap }
let answer = null; // { bitmap, layers }
let files = null;
let camera = null; // { stream }
let [busy, again, answers] = [false, false, 0];

const chosen = () => served.find((one) => one.id === model.value);

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function fail(error) {
  say(error.message, true);
  if (error.status !== 401) return;
  stopCamera();
  $("token-form").hidden = false;
  $("token").focus();
}

async function load() {
  try {
    served = await models();
  } catch (error) {
    fail(error);
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
  hidden = new Set(Object.entries(chosen()?.heads ?? {}).filter(([, { task }]) => task === "reconstruction").map(([head]) => head));
  $("rate-field").hidden = !chosen()?.rates;
  if (chosen()) showHeads(chosen(), hidden, (head, ticked) => { hidden[ticked ? "delete" : "add"](head); redraw(); });
}

function redraw() {
  if (!picture) return;
  const layers = answer?.layers ?? [];
  const shown = new Set(layers.map(({ head }) => head).filter((head) => !hidden.has(head)));
  draw(canvas, answer?.bitmap ?? picture.bitmap, layers, { shown, score: Number(score.value), opacity: Number(opacity.value) });
  showFound(layers, Number(score.value));
  canvas.setAttribute("aria-label", described(layers.filter(({ head }) => shown.has(head)), Number(score.value)));
}

// One picture is under way at a time; what is asked meanwhile is asked once, when it is back.
async function send() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  $("main").setAttribute("aria-busy", "true");
  try {
    do {
      again = false;
      await sendOnce();
    } while (again);
  } catch (error) {
    fail(error);
    if (camera && error instanceof Refused && error.seconds !== null) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * error.seconds));
    } else {
      stopCamera();
    }
  } finally {
    busy = false;
    $("main").setAttribute("aria-busy", "false");
  }
}

async function sendOnce() {
  const [entry, sent] = [chosen(), picture];
  if (!entry || !sent) return;
  const wanted = Object.keys(entry.heads).filter((head) => !camera || !hidden.has(head));
  const compared = !camera || answers % FILES_EVERY === 0 || files === null;
  const encoded = await encode(sent.blob, { model: entry.id, rate: entry.rates ? rate.value : null, files: compared });
  if (encoded.files) files = encoded.files;
  const { found, serverMs, linkMs } = await infer(encoded.packet, wanted.length ? wanted : null);
  const layers = await makeLayers(found, entry);
  if (chosen() !== entry || again) return; // something else is asked by now
  answer = { bitmap: sent.bitmap, layers };
  answers += 1;
  canvas.dataset.answers = answers;
  showBytes(encoded.packet.byteLength, files);
  showTimes({ device: encoded.deviceMs, link: linkMs, server: serverMs });
  redraw();
  if (!camera) say(`Answered from ${encoded.packet.byteLength.toLocaleString("en")} bytes.${sent.note ?? ""}`);
}

/** Draw something on a canvas with at most so many pixels a side. */
function scaled(source, width, height, most) {
  const factor = Math.min(1, most / Math.max(width, height));
  const frame = new OffscreenCanvas(Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor)));
  const pen = frame.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, frame.width, frame.height);
  pen.drawImage(source, 0, 0, frame.width, frame.height);
  return frame;
}

async function asJpeg(frame, note) {
  const blob = await frame.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  return { blob, bitmap: frame, note };
}

async function take(file) {
  stopCamera();
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    say("This is not a picture that this browser can read.", true);
    return;
  }
  const large = Math.max(bitmap.width, bitmap.height) > LONGEST;
  const keep = !large && SENT_AS_THEY_ARE.includes(file.type);
  const note = large ? ` It was scaled to ${LONGEST} pixels first.` : "";
  picture = keep ? { blob: file, bitmap } : await asJpeg(scaled(bitmap, bitmap.width, bitmap.height, LONGEST), note);
  [answer, files] = [null, null];
  redraw();
  say("Sending …");
  await send();
}

async function startCamera() {
  const video = make("video", { muted: true, playsInline: true });
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: LIVE } }, audio: false });
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    const why = error.name === "NotAllowedError" ? "The camera was not allowed." : "There is no camera that can be used.";
    stream?.getTracks().forEach((track) => track.stop());
    say(why, true);
    return;
  }
  stream.getTracks().forEach((track) => track.addEventListener("ended", stopCamera));
  const mine = camera = { stream };
  files = null;
  $("camera").setAttribute("aria-pressed", "true");
  $("camera").textContent = "Stop the camera";
  say("The camera is on; its pictures are sent.");
  while (camera === mine) {
    const begun = performance.now();
    if (!document.hidden && !busy) {
      picture = await asJpeg(scaled(video, video.videoWidth, video.videoHeight, LIVE));
      if (camera !== mine) break;
      await send();
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(20, PAUSE_MS - (performance.now() - begun))));
  }
}

function stopCamera() {
  if (!camera) return;
  camera.stream.getTracks().forEach((track) => track.stop());
  camera = null;
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Use the camera";
  if (!$("status").classList.contains("wrong")) say("The camera is off.");
}

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
$("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
if (!navigator.mediaDevices?.getUserMedia) {
  $("camera").disabled = true; // browsers give a camera to HTTPS and to this machine alone
  $("camera").title = "Browsers allow the camera over HTTPS, or on this machine";
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
    say(picture ? "Sending …" : "No picture yet.");
    await send();
  }
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", name === "dragover");
    const file = name === "drop" ? [...event.dataTransfer.files].find((one) => one.type.startsWith("image/")) : null;
    if (file) take(file);
  });
}
load();
