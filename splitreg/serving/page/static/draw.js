// Draws predictions over an image, in the colours of splitreg.drawing.

import { readPng } from "./png.js";

const NEAR_TO_FAR = [[253, 231, 60], [122, 205, 90], [36, 150, 138], [60, 84, 140], [52, 10, 70]];
const MIN_SIDE = 640; // smaller images are enlarged by an integer factor, so that captions are readable

/** Colour [r, g, b] of a class. */
export function colourOf(index) {
  const [hue, saturation, value] = [(index * 0.618034) % 1, index % 3 === 2 ? 0.55 : 0.85, index % 2 ? 0.7 : 1];
  const sector = Math.floor(hue * 6);
  const part = hue * 6 - sector;
  const [p, q, t] = [1 - saturation, 1 - saturation * part, 1 - saturation * (1 - part)].map((x) => x * value);
  const mixed = [[value, t, p], [q, value, p], [p, value, t], [p, q, value], [t, p, value], [value, p, q]][sector % 6];
  return mixed.map((x) => Math.round(x * 255));
}

/** Colour of a depth in metres on a logarithmic scale from near to far; black if it is unknown. */
export function colourOfDepth(metres, near, far) {
  if (!(metres > 0)) return [0, 0, 0];
  const [low, high] = [Math.log(Math.max(near, 1e-6)), Math.log(Math.max(far, near * 1.001, 2e-6))];
  const last = NEAR_TO_FAR.length - 1;
  const place = Math.min(last, Math.max(0, ((Math.log(metres) - low) / (high - low)) * last));
  const step = Math.min(last - 1, Math.floor(place));
  return NEAR_TO_FAR[step].map((x, i) => Math.round(x + (NEAR_TO_FAR[step + 1][i] - x) * (place - step)));
}

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
export const depthScale = () => `linear-gradient(to right, ${NEAR_TO_FAR.map(css).join(", ")})`;

/**
 * Prepare the predictions for drawing; layers are drawn again when other heads are selected.
 * @param {object} predictions an answer of the server: head -> prediction
 * @param {object} model the model's entry of /v1/models
 * @returns {Promise<Array<{head: string, task: string, prediction: object, labels: string[], layer: ?OffscreenCanvas}>>}
 */
export async function makeLayers(predictions, model) {
  return Promise.all(Object.entries(predictions).map(async ([head, prediction]) => ({
    head,
    prediction,
    task: prediction.task,
    labels: model.heads[head]?.labels ?? [],
    layer: prediction.png ? paint(await readPng(prediction.png), prediction) : null,
  })));
}

function paint(pixels, prediction) {
  const { width, height, channels, data } = pixels;
  const image = new ImageData(width, height);
  const unit = prediction.png_unit_m;
  const known = new Set((prediction.classes ?? []).filter(({ label }) => label !== "background").map(({ index }) => index));
  const table = new Map(); // value -> colour; an image has few classes, and a few thousand depths
  for (let i = 0; i < width * height; i++) {
    let colour;
    if (channels === 3) {
      colour = data.subarray(3 * i, 3 * i + 3);
    } else {
      colour = table.get(data[i]);
      if (colour === undefined) {
        colour = unit ? colourOfDepth(data[i] * unit, prediction.near_m, prediction.far_m) : known.has(data[i]) ? colourOf(data[i]) : null;
        table.set(data[i], colour);
      }
    }
    if (colour === null) continue;
    image.data.set(colour, 4 * i);
    image.data[4 * i + 3] = 255;
  }
  const layer = new OffscreenCanvas(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  return layer;
}

/** Objects with at least this score, the highest last, each with the index of its class. */
export function objectsOf(layer, score) {
  return layer.prediction.objects
    .filter((object) => object.score >= score)
    .sort((a, b) => a.score - b.score)
    .map((object) => ({ ...object, index: Math.max(0, layer.labels.indexOf(object.label)) }));
}

/** Draw an image and the selected heads of its answer. */
export function draw(canvas, bitmap, layers, { shown, score, opacity }) {
  const factor = Math.max(1, Math.ceil(MIN_SIDE / Math.max(bitmap.width, bitmap.height)));
  const [width, height] = [bitmap.width * factor, bitmap.height * factor];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // behind transparent pixels, as on the device
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(bitmap, 0, 0, width, height);
  const visible = layers.filter((layer) => shown.has(layer.head));
  const order = ["reconstruction", "depth", "segmentation"]; // the layer with the sharpest edges comes last
  pen.globalAlpha = opacity;
  for (const { layer } of visible.filter((one) => one.layer).sort((a, b) => order.indexOf(a.task) - order.indexOf(b.task))) {
    pen.drawImage(layer, 0, 0, width, height);
  }
  pen.globalAlpha = 1;
  const size = Math.max(11, Math.min(28, Math.max(width, height) / 40));
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const captions = []; // rectangles that are taken
  const names = visible.filter((one) => one.task === "classification" || one.task === "multilabel");
  const lines = names.flatMap((layer) => namesOf(layer).slice(0, 3));
  lines.forEach((line, i) => captions.push(place(pen, line, size * 0.4, size * (0.4 + 1.5 * i), size)));
  for (const shape of visible.flatMap((one) => one.prediction.shapes ?? [])) drawShape(pen, shape, factor, size);
  for (const layer of visible.filter((one) => one.task === "detection")) {
    for (const { label, score: objectScore, box: [x0, y0, x1, y1], index } of objectsOf(layer, score)) {
      pen.lineWidth = Math.max(2, Math.max(width, height) / 300);
      pen.strokeStyle = css(colourOf(index));
      pen.strokeRect(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor);
      const text = `${label} ${objectScore.toFixed(2)}`;
      const above = y0 * factor >= size * 1.3 ? y0 * factor - size * 1.3 : y0 * factor;
      const free = [above, y0 * factor, y1 * factor - size * 1.3, y1 * factor]
        .map((y) => place(pen, text, x0 * factor, y, size))
        .find((one) => captions.every((other) => !overlap(one, other)));
      if (!free) continue; // the box and its colour stay
      captions.push(free);
      caption(pen, text, free, size, colourOf(index));
    }
  }
  lines.forEach((line, i) => caption(pen, line, captions[i], size, [20, 24, 30]));
}

/** Draw a dot, line or polygon of a plugin's prediction, as splitreg.drawing.shapes. */
function drawShape(pen, { points, closed, label, colour = 0 }, factor, size) {
  const scaled = points.map(([x, y]) => [x * factor, y * factor]);
  const paint = colourOf(colour % 60);
  pen.strokeStyle = pen.fillStyle = css(paint);
  pen.lineWidth = Math.max(2, Math.max(pen.canvas.width, pen.canvas.height) / 300);
  pen.beginPath();
  if (scaled.length === 1) {
    pen.arc(...scaled[0], Math.max(3, Math.max(pen.canvas.width, pen.canvas.height) / 64), 0, 2 * Math.PI);
    pen.fill();
  } else {
    for (const [x, y] of scaled) pen.lineTo(x, y);
    if (closed) pen.closePath();
    pen.stroke();
  }
  if (label) caption(pen, label, place(pen, label, scaled[0][0], scaled[0][1] - size * 1.3, size), size, paint);
}

/** The rectangle of a caption, inside of the canvas. */
function place(pen, text, x, y, size) {
  const [width, height] = [pen.measureText(text).width + size * 0.5, size * 1.3];
  const inside = (value, most) => Math.max(0, Math.min(value, most));
  return { x: inside(x, pen.canvas.width - width), y: inside(y, pen.canvas.height - height), width, height };
}

const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

/** Class names with their probabilities, the most probable first. */
export function namesOf({ task, prediction }) {
  const line = (name, share) => (share == null ? name : `${name} ${Math.round(100 * share)} %`);
  if (task === "classification") return prediction.top.map((one) => line(one.label, one.probability));
  return prediction.labels.length ? prediction.labels.map((name) => line(name, prediction.probabilities[name])) : ["(no label)"];
}

function caption(pen, text, { x, y, width, height }, size, colour) {
  pen.fillStyle = css(colour);
  pen.fillRect(x, y, width, height);
  pen.fillStyle = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 ? "black" : "white";
  pen.fillText(text, x + size * 0.25, y + size * 0.15);
}
