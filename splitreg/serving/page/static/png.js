// Decodes the PNGs of answers exactly: a canvas would round depth to 8 bits and may convert colours.

const COLOURS = { 0: 1, 2: 3 }; // colour type -> channels

/**
 * Decode an unfiltered PNG, greyscale (8 or 16 bits) or RGB (8 bits), as the server writes it.
 * @param {string} base64
 * @returns {Promise<{width: number, height: number, channels: number, data: Uint8Array|Uint16Array}>}
 */
export async function readPng(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const [width, height, bits, colours] = [view.getUint32(16), view.getUint32(20), bytes[24], bytes[25]];
  const channels = COLOURS[colours];
  const parts = [];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const row = (width * channels * bits) / 8;
  if (raw.length !== height * (row + 1)) throw new Error("the size of a PNG in the answer does not match its header");
  const packed = new Uint8Array(height * row);
  for (let y = 0; y < height; y++) {
    if (raw[y * (row + 1)] !== 0) throw new Error("a PNG in the answer uses filters, which this page does not support");
    packed.set(raw.subarray(y * (row + 1) + 1, (y + 1) * (row + 1)), y * row);
  }
  if (bits === 8) return { width, height, channels, data: packed };
  const wide = new DataView(packed.buffer);
  return { width, height, channels, data: Uint16Array.from({ length: packed.length / 2 }, (_, i) => wide.getUint16(2 * i)) };
}
