// The edge half of a splitreg model in a browser or in Node: images to packets, and a client of a server's stream.

const FORMAT_RGBA = 1;
const ERRORS = {
  "-1": "the image is empty, or wider than the model was built for",
  "-2": "the network returned NaN, infinite or huge values",
  "-3": "the packet does not fit",
  "-4": "the rate must be 0 to 1, and the model must have several rates",
};

/** An image that cannot be encoded, or an option that is not valid. */
export class EdgeError extends Error {}

async function bytesOf(source) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return source;
  const url = new URL(source, import.meta.url);
  if (url.protocol === "file:") return (await import("node:fs/promises")).readFile(url);
  const response = await fetch(url);
  if (!response.ok) throw new EdgeError(`${url} answered ${response.status}`);
  return response.arrayBuffer();
}

/** Encodes images, one at a time. */
export class EdgeEncoder {
  /** Load a model: the URL or the bytes of its `.wasm` file; by default the one beside this module. */
  static async load(source = "./splitreg-model.wasm") {
    const { instance } = await WebAssembly.instantiate(await bytesOf(source), {});
    return new EdgeEncoder(instance.exports);
  }

  constructor(exports) {
    this.code = exports;
    const info = new Int32Array(exports.memory.buffer, exports.info(), 4);
    /** Id of the model, eight hexadecimal digits. */
    this.modelId = (info[0] >>> 0).toString(16).padStart(8, "0");
    /** Height and width of the network's input. */
    this.inputSize = [info[1], info[2]];
    /** Whether the model has several rates. */
    this.hasRates = info[3] !== 0;
  }

  /**
   * Encode an image.
   * @param {{width: number, height: number, data: Uint8Array|Uint8ClampedArray}} image an ImageData: RGBA; alpha is ignored
   * @param {{rate?: number|null}} options rate: 0 (fewest bytes) to 1 (most)
   * @returns {Uint8Array} the packet
   */
  encode(image, { rate = null } = {}) {
    const { width, height, data } = image;
    if (data.length !== 4 * width * height) throw new EdgeError(`${data.length} bytes are not ${width}x${height} pixels of RGBA`);
    if (rate !== null && !(rate >= 0 && rate <= 1)) throw new EdgeError(`rate must be 0 to 1, got ${rate}`);
    const at = this.code.input(data.length);
    if (!at) throw new EdgeError(`no memory for an image of ${width}x${height} pixels`);
    new Uint8Array(this.code.memory.buffer, at, data.length).set(data);
    const length = this.code.encode(width, height, FORMAT_RGBA, rate === null ? -1 : Math.round(rate * 255));
    if (length < 0) throw new EdgeError(ERRORS[length] ?? `error ${length}`);
    return new Uint8Array(this.code.memory.buffer, this.code.output(), length).slice();
  }
}

let shared = null;

/** Encode an image with the model beside this module; it is loaded with the first call. */
export async function encode(image, options = {}) {
  shared ??= EdgeEncoder.load();
  return (await shared).encode(image, options);
}

/** Sends packets over one WebSocket, and returns the answers as they arrive. A server with tokens does not accept it. */
export class StreamClient {
  /**
   * @param {string} server base URL, http(s) or ws(s)
   * @param {{heads?: string[], masks?: string, maxInFlight?: number}} options
   */
  constructor(server, { heads = null, masks = "png", maxInFlight = 4 } = {}) {
    const url = new URL("v1/stream", server.endsWith("/") ? server : `${server}/`);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ answers: "json", masks, ...(heads ? { heads: heads.join(",") } : {}) });
    this.maxInFlight = maxInFlight;
    this.waiting = new Map(); // number -> functions of its promise
    this.count = 0;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => resolve();
      this.socket.onerror = () => reject(new EdgeError(`${url.origin} does not accept the stream`));
    });
    this.opened.catch(() => {});
    this.socket.onmessage = ({ data }) => this.#onAnswer(data);
    this.socket.onclose = () => this.#fail(new EdgeError("the stream was closed"));
  }

  /** Whether another packet may be sent now; otherwise drop the frame. */
  get ready() {
    return this.socket.readyState === 1 && this.waiting.size < this.maxInFlight;
  }

  /** Send a packet; resolves to its answer: head -> prediction. */
  async send(packet) {
    await this.opened;
    const number = ++this.count;
    const message = new Uint8Array(8 + packet.length);
    new DataView(message.buffer).setBigUint64(0, BigInt(number), true);
    message.set(packet, 8);
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.socket.send(message);
    });
  }

  close() {
    this.socket.close();
  }

  #onAnswer(text) {
    const answer = JSON.parse(text);
    const promise = this.waiting.get(answer.request);
    this.waiting.delete(answer.request);
    if (answer.error) promise?.reject(new EdgeError(answer.error.message));
    else promise?.resolve(answer.answers[0]);
  }

  #fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
