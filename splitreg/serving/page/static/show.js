// Numbers and lists beside the image. Strings from the server become text, never markup.

import { colourOf, css, depthScale, namesOf, objectsOf } from "./draw.js";

// Name, uplink in bits per second, one-way delay in seconds: those of splitreg.testing.PRESETS.
export const LINKS = [["LoRa", 37500, 0.02], ["LTE-M", 375000, 0.05], ["4G", 10e6, 0.025], ["Wi-Fi", 54e6, 0.0015]];

const $ = (id) => document.getElementById(id);
const count = (bytes) => `${bytes.toLocaleString("en")} bytes`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")} ms`;
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

export function make(tag, { text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

/** Milliseconds to send bytes one way over a link. */
export const overLink = (bytes, [, bitsPerSecond, delay]) => 1000 * (delay + (8 * bytes) / bitsPerSecond);

/** Show the size of a packet and of files with the same pixels. */
export function showBytes(bytes, files) {
  const entries = [["Packet", bytes, true]];
  for (const kind of files ? ["jpeg", "webp"] : []) {
    const name = kind === "jpeg" ? "JPEG" : "WebP";
    for (const which of ["nearest", "usual"]) entries.push([`${name}, quality ${files[kind][which].quality}`, files[kind][which].bytes, false]);
  }
  const largest = Math.max(...entries.map(([, size]) => size));
  $("bars").replaceChildren(...entries.flatMap(([name, size, packet]) => {
    const bar = make("span", { className: packet ? "bar packet" : "bar" });
    bar.style.width = `${(100 * size) / largest}%`;
    return [make("dt", { text: `${name}: ${count(size)}` }), make("dd", {}, bar)];
  }));
  const usual = files?.jpeg.usual;
  const [height, width] = files?.size ?? [];
  $("bytes-summary").textContent = files
    ? `${count(bytes)} sent; JPEG ${usual.quality} at ${width}×${height} has ${count(usual.bytes)}, ${(usual.bytes / bytes).toFixed(1)} times as much.`
    : `${count(bytes)} sent.`;
  $("links").replaceChildren(...LINKS.map((link) => make("tr", {},
    make("th", { scope: "row", text: `${link[0]}, ${link[1] < 1e6 ? `${link[1] / 1e3} kbit/s` : `${link[1] / 1e6} Mbit/s`}` }),
    make("td", { text: milliseconds(overLink(bytes, link)) }),
    make("td", { text: usual ? milliseconds(overLink(usual.bytes, link)) : "–" }),
  )));
}

/** Show the milliseconds of device, link and server; null: not known, and part of the link's. */
export function showTimes(times) {
  const total = times.device + times.link + times.server || 1;
  for (const [name, ms] of Object.entries(times)) {
    $(`${name}-ms`).textContent = ms === null ? "part of the link's" : milliseconds(ms);
    $("split").querySelector(`.${name}`).style.width = `${(100 * ms) / total}%`;
  }
}

/** Show a checkbox per head of a model. */
export function showHeads(model, hidden, onChange) {
  $("heads").replaceChildren(...Object.entries(model.heads).map(([head, { task }], index) => {
    const checkbox = make("input", { type: "checkbox", id: `head-${index}`, checked: !hidden.has(head) });
    checkbox.addEventListener("change", () => onChange(head, checkbox.checked));
    const label = make("label", { htmlFor: checkbox.id }, checkbox, task === head ? head : `${head} (${task})`);
    const block = make("div", { className: "head" }, label, make("div"));
    block.dataset.head = head;
    return block;
  }));
}

/** List the predictions with the colours of their classes. */
export function showPredictions(layers, score) {
  const blocks = new Map([...$("heads").children].map((block) => [block.dataset.head, block.lastElementChild]));
  for (const layer of layers) blocks.get(layer.head)?.replaceChildren(listed(layer, score));
}

function listed(layer, score) {
  const { task, prediction } = layer;
  const items = (lines) => make("ul", {}, ...lines.map((line) => make("li", {}, ...line)));
  if (task === "classification" || task === "multilabel") return items(namesOf(layer).map((line) => [line]));
  if (task === "segmentation") return items(prediction.classes.map(({ label, index, share }) => [
    ...(label === "background" ? [] : [swatch(index)]), `${label} ${percent(share)}`]));
  if (task === "detection") {
    const counts = new Map();
    for (const { label, index } of objectsOf(layer, score)) counts.set(label, [index, (counts.get(label)?.[1] ?? 0) + 1]);
    return items(counts.size ? [...counts].map(([label, [index, many]]) => [swatch(index), `${label} × ${many}`]) : [["no object with this score"]]);
  }
  if (task === "depth") {
    const scale = make("span", { className: "scale" });
    scale.style.background = depthScale();
    return items([[`${prediction.near_m.toFixed(2)} m`, scale, `${prediction.far_m.toFixed(2)} m; median ${prediction.median_m.toFixed(2)} m`]]);
  }
  if (task === "reconstruction") return items([["the image as reconstructed from the packet"]]);
  const shapes = (prediction.shapes ?? []).filter(({ label }) => label);
  if (shapes.length) return items(shapes.slice(0, 100).map(({ label, colour = 0 }) => [swatch(colour % 60), label]));
  return make("pre", { text: JSON.stringify(prediction, null, 1).slice(0, 2000) });
}

function swatch(index) {
  const square = make("span", { className: "swatch" });
  square.style.background = css(colourOf(index));
  return square;
}

/** Describe the canvas in one sentence, for screen readers. */
export function describe(layers, score) {
  const parts = layers.map((layer) => `${layer.head}: ${[...listed(layer, score).children].map((item) => item.textContent).join(", ")}`);
  return parts.join(". ").slice(0, 1000) || "The image, without predictions";
}
