// Encodes in this browser, if the model can: only packets are sent then.

import { CameraStream, EdgeEncoder } from "./splitreg-edge.js";
import { edgeModel, hasToken } from "./service.js";

const loaded = new Map(); // model id -> encoder, or null where the server encodes

/** The encoder of a model; null if this browser or the server has none. */
export async function encoderOf(model) {
  if (!loaded.has(model)) {
    let encoder = null;
    try {
      const code = await edgeModel(model);
      if (code.byteLength) encoder = await EdgeEncoder.load(code); // none: the server encodes
    } catch (error) {
      if (error.status === 401) throw error;
      if (error.status === 0 || error.seconds) return null; // ask again later
    }
    loaded.set(model, encoder);
  }
  return loaded.get(model);
}

const pixelsOf = (source, width, height) => {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(source, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height);
};

let stream = null; // of the camera
let streamKey = ""; // model and heads of the stream
let refused = false; // the server accepts no streams, for instance behind a proxy without WebSockets

/** The camera's stream; null where frames go in single requests. */
export function streamOf(encoder, heads) {
  if (stream?.failed && !stream.connections) refused = true;
  if (!encoder || refused || hasToken()) return null; // a browser cannot send a token with a WebSocket
  const key = JSON.stringify([encoder.modelId, heads]);
  if (stream && streamKey !== key) closeStream();
  stream ??= new CameraStream(new URL(".", location.href).href, encoder, { heads });
  streamKey = key;
  return stream;
}

export function closeStream() {
  stream?.close();
  stream = null;
}

/** Encode a canvas as the next frame of a stream and send it; see `CameraStream.send`. */
export const sendFrame = (to, source, rate) => to.send(pixelsOf(source, source.width, source.height), { rate: rate === null ? null : Number(rate) });

/** Encode an image or a canvas; returns the packet and the milliseconds. */
export function encodeHere(encoder, source, rate) {
  const pixels = pixelsOf(source, source.width, source.height);
  const start = performance.now();
  const packet = encoder.encode(pixels, { rate: rate === null ? null : Number(rate) });
  return { packet, deviceMs: performance.now() - start, files: null };
}

/** Sizes of JPEG and WebP files with the pixels that the network reads: as the server's comparison, computed here. */
export async function compareHere(encoder, source, packetBytes) {
  const [height, width] = encoder.inputSize;
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  const files = { size: [height, width] };
  for (const kind of ["jpeg", "webp"]) {
    const bytes = async (quality) => (await canvas.convertToBlob({ type: `image/${kind}`, quality: quality / 100 })).size;
    const usual = 75;
    let [low, high] = [1, 95];
    while (low < high) { // the largest quality that is not larger than the packet
      const middle = Math.ceil((low + high) / 2);
      if ((await bytes(middle)) <= packetBytes) low = middle;
      else high = middle - 1;
    }
    files[kind] = { nearest: { quality: low, bytes: await bytes(low) }, usual: { quality: usual, bytes: await bytes(usual) } };
  }
  return files;
}
