// Answers over a picture, in the colours of splitreg.drawing.

import { readPng } from "./png.js";

const NEAR_TO_FAR = [[253, 231, 60], [122, 205, 90], [36, 150, 138], [60, 84, 140], [52, 10, 70]];
const READABLE = 640; // smaller pictures are enlarged by a whole factor, so that captions can be read

/** Colour [r, g, b] of a class. */
export function colourOf(index) {
  const [hue, saturation, value] = [(index * 0.618034) % 1, index % 3 === 2 ? 0.55 : 0.85, index % 2 ? 0.7 : 1];
  const sector = Math.floor(hue * 6);
  const part = hue * 6 - sector;
  const [p, q, t] = [1 - saturation, 1 - saturation * part, 1 - saturation * (1 - part)].map((x) => x * value);
  const mixed = [[value, t, p], [q, value, p], [p, value, t], [p, q, value], [t, p, value], [value, p, q]][sector % 6];
  return mixed.map((x) => Math.round(x * 255));
}

/** Colour of a distance between near and far (metres), on a logarithmic scale; black where it is not known. */
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
 * Make what can be drawn again and again, whatever is ticked.
 * @param {object} found an answer of the server: head -> what it says
 * @param {object} model the model's entry of /v1/models
 * @returns {Promise<Array<{head: string, task: string, said: object, labels: string[], layer: ?OffscreenCanvas}>>}
 */
export async function makeLayers(found, model) {
  return Promise.all(Object.entries(found).map(async ([head, said]) => ({
    head,
    said,
    task: said.task,
    labels: model.heads[head]?.labels ?? [],
    layer: said.png ? paint(await readPng(said.png), said) : null,
  })));
}

function paint(pixels, said) {
  const { width, height, channels, data } = pixels;
  const image = new ImageData(width, height);
  const unit = said.png_unit_m;
  const known = new Set((said.classes ?? []).map((shown) => shown.index));
  const table = new Map(); // a number -> its colour; a picture has few classes, and few thousand distances
  for (let i = 0; i < width * height; i++) {
    let colour;
    if (channels === 3) {
      colour = data.subarray(3 * i, 3 * i + 3);
    } else {
      colour = table.get(data[i]);
      if (colour === undefined) {
        colour = unit ? colourOfDepth(data[i] * unit, said.near_m, said.far_m) : known.has(data[i]) ? colourOf(data[i]) : null;
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

/** The objects of a detection from a score on, the best last, each with its class's index. */
export function objectsOf(layer, score) {
  return layer.said.objects
    .filter((object) => object.score >= score)
    .sort((a, b) => a.score - b.score)
    .map((object) => ({ ...object, index: Math.max(0, layer.labels.indexOf(object.label)) }));
}

/** Draw a picture with what is shown of its answer. */
export function draw(canvas, bitmap, layers, { shown, score, opacity }) {
  const factor = Math.max(1, Math.ceil(READABLE / Math.max(bitmap.width, bitmap.height)));
  const [width, height] = [bitmap.width * factor, bitmap.height * factor];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // under what is transparent, as the device does
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(bitmap, 0, 0, width, height);
  const visible = layers.filter((layer) => shown.has(layer.head));
  const order = ["reconstruction", "depth", "segmentation"]; // an overlay of everything ends with the sharpest edges
  pen.globalAlpha = opacity;
  for (const { layer } of visible.filter((one) => one.layer).sort((a, b) => order.indexOf(a.task) - order.indexOf(b.task))) {
    pen.drawImage(layer, 0, 0, width, height);
  }
  pen.globalAlpha = 1;
  const size = Math.max(11, Math.min(28, Math.max(width, height) / 40));
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const layer of visible.filter((one) => one.task === "detection")) {
    for (const { label, score: sure, box: [x0, y0, x1, y1], index } of objectsOf(layer, score)) {
      pen.lineWidth = Math.max(2, Math.max(width, height) / 300);
      pen.strokeStyle = css(colourOf(index));
      pen.strokeRect(x0 * factor, y0 * factor, (x1 - x0) * factor, (y1 - y0) * factor);
      const y = y0 * factor >= size * 1.3 ? y0 * factor - size * 1.3 : y0 * factor;
      caption(pen, `${label} ${sure.toFixed(2)}`, x0 * factor, y, size, colourOf(index));
    }
  }
  let y = size * 0.4;
  for (const layer of visible.filter((one) => one.task === "classification" || one.task === "multilabel")) {
    for (const line of namesOf(layer).slice(0, 3)) {
      caption(pen, line, size * 0.4, y, size, [20, 24, 30]);
      y += size * 1.5;
    }
  }
}

/** The lines of a class or of labels, the most probable first. */
export function namesOf({ task, said }) {
  const line = (name, share) => (share == null ? name : `${name} ${Math.round(100 * share)} %`);
  if (task === "classification") return said.top.map((one) => line(one.label, one.probability));
  return said.labels.length ? said.labels.map((name) => line(name, said.probabilities[name])) : ["(no label)"];
}

function caption(pen, text, x, y, size, colour) {
  const long = pen.measureText(text).width + size * 0.5;
  const left = Math.max(0, Math.min(x, pen.canvas.width - long));
  pen.fillStyle = css(colour);
  pen.fillRect(left, y, long, size * 1.3);
  pen.fillStyle = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140 ? "black" : "white";
  pen.fillText(text, left + size * 0.25, y + size * 0.15);
}
