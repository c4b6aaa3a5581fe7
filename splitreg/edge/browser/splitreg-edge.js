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

/** The connection of a stream was lost, or there is none. */
export class StreamClosed extends EdgeError {}

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
    const info = new Int32Array(exports.memory.buffer, exports.info(), 7);
    /** Id of the model, eight hexadecimal digits. */
    this.modelId = (info[0] >>> 0).toString(16).padStart(8, "0");
    /** Height and width of the network's input. */
    this.inputSize = [info[1], info[2]];
    /** Whether the model has several rates. */
    this.hasRates = info[3] !== 0;
    /** Channels, height and width of the latent. */
    this.latentShape = [info[4], info[5], info[6]];
    this.frameSize = null; // of the stream
  }

  /**
   * Encode an image.
   * @param {{width: number, height: number, data: Uint8Array|Uint8ClampedArray}} image an ImageData: RGBA; alpha is ignored
   * @param {{rate?: number|null}} options rate: 0 (fewest bytes) to 1 (most)
   * @returns {Uint8Array} the packet
   */
  encode(image, { rate = null } = {}) {
    return this.#packet(image, rate, (position) => this.code.encode(image.width, image.height, FORMAT_RGBA, position));
  }

  /**
   * Begin a stream of images of one size; an encoder has one at a time.
   * @param {number} number of the stream, in its key frames
   * @returns {string} what the server must know: the parameter `video` of its stream
   */
  beginStream(width, height, number = Math.floor(Math.random() * 2 ** 31)) {
    this.code.begin(number);
    this.frameSize = [width, height];
    const sizes = [[height, width], this.inputSize, this.latentShape].map((size) => size.join("x"));
    return [this.modelId, ...sizes, number].join("-");
  }

  /**
   * Encode the next frame of a stream, given the ones before.
   * @param {{rate?: number|null, key?: boolean}} options key: code it alone, because the server has lost its state
   * @returns {Uint8Array} the packet; its first byte is odd if the frame was coded alone
   */
  encodeFrame(image, { rate = null, key = false } = {}) {
    const { width, height } = image;
    if (this.frameSize?.[0] !== width || this.frameSize[1] !== height) {
      throw new EdgeError(`the images of this stream have ${this.frameSize?.join("x") ?? "no"} pixels, this one has ${width}x${height}; begin another stream`);
    }
    return this.#packet(image, rate, (position) => this.code.frame(width, height, FORMAT_RGBA, position, key ? 1 : 0));
  }

  #packet({ width, height, data }, rate, run) {
    if (data.length !== 4 * width * height) throw new EdgeError(`${data.length} bytes are not ${width}x${height} pixels of RGBA`);
    if (rate !== null && !(rate >= 0 && rate <= 1)) throw new EdgeError(`rate must be 0 to 1, got ${rate}`);
    const at = this.code.input(data.length);
    if (!at) throw new EdgeError(`no memory for an image of ${width}x${height} pixels`);
    new Uint8Array(this.code.memory.buffer, at, data.length).set(data);
    const length = run(rate === null ? -1 : Math.round(rate * 255));
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
   * @param {{heads?: string[], masks?: string, maxInFlight?: number, video?: string}} options video: from `beginStream`, if
   *   the packets are frames
   */
  constructor(server, { heads = null, masks = "png", maxInFlight = 4, video = null } = {}) {
    const url = new URL("v1/stream", server.endsWith("/") ? server : `${server}/`);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ answers: "json", masks, ...(heads ? { heads: heads.join(",") } : {}), ...(video ? { video } : {}) });
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
    this.closed = new Promise((resolve) => {
      this.socket.onclose = () => {
        this.#fail(new StreamClosed("the stream was closed"));
        resolve();
      };
    });
  }

  /** Whether another packet may be sent now; otherwise drop the frame. */
  get ready() {
    return this.socket.readyState === 1 && this.waiting.size < this.maxInFlight;
  }

  /** Send a packet; resolves to its answer: head -> prediction. */
  async send(packet) {
    if (this.socket.readyState !== 1) await this.opened; // else at once, so that frames stay in order
    const number = ++this.count;
    const message = new Uint8Array(8 + packet.length);
    new DataView(message.buffer).setBigUint64(0, BigInt(number), true);
    message.set(packet, 8);
    return new Promise((resolve, reject) => {
      if (this.socket.readyState !== 1) throw new StreamClosed("the stream was closed");
      this.waiting.set(number, { resolve, reject });
      this.socket.send(message);
    });
  }

  close() {
    this.socket.close();
    this.#fail(new StreamClosed("the stream was closed"));
  }

  #onAnswer(text) {
    const answer = JSON.parse(text);
    const promise = this.waiting.get(answer.request);
    this.waiting.delete(answer.request);
    if (!answer.error) return promise?.resolve(answer.answers[0]);
    const error = new EdgeError(answer.error.message);
    error.type = answer.error.type;
    error.retryAfter = answer.error.retry_after_s ?? null;
    promise?.reject(error);
  }

  #fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}

const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 10_000;

/**
 * Sends the frames of a camera, each coded given the ones before. A lost connection is opened again, with growing pauses,
 * and goes on with a key frame; so does a stream whose server has lost its state, and one whose images change their size.
 */
export class CameraStream {
  /**
   * @param {string} server base URL, http(s) or ws(s)
   * @param {EdgeEncoder} encoder used by this stream alone for frames
   * @param {{heads?: string[], masks?: string, maxInFlight?: number, keySeconds?: number, deadlineSeconds?: number}} options
   *   keySeconds: between frames that are coded alone; deadlineSeconds: without an answer, after which the connection is given up
   */
  constructor(server, encoder, { keySeconds = 10, deadlineSeconds = 10, ...options } = {}) {
    [this.server, this.encoder, this.options] = [server, encoder, options];
    [this.keyMs, this.deadlineMs] = [1000 * keySeconds, 1000 * deadlineSeconds];
    /** How many connections were opened; 0 after `failed`: the server accepts none. */
    this.connections = 0;
    /** Whether the connection is lost, or could not be opened. */
    this.failed = false;
    this.client = null;
    [this.needKey, this.lastKey, this.answeredAt] = [true, 0, 0];
    [this.pause, this.retryAt] = [FIRST_PAUSE_MS, 0];
  }

  /** Whether a frame may be sent now; otherwise drop it. Opens the connection if there is none and the pause is over. */
  get ready() {
    const now = performance.now();
    if (this.client?.waiting.size && now - this.answeredAt > this.deadlineMs) this.#lose(this.client);
    return now >= this.retryAt && (this.client === null || this.client.ready);
  }

  /**
   * Encode an image and send it.
   * @param {{rate?: number|null}} options
   * @returns {Promise<{answer: object, bytes: number, key: boolean, deviceMs: number, linkMs: number}>} linkMs: from packet
   *   to answer; rejects with a StreamClosed if the connection is lost, and with an EdgeError if the server refuses the frame
   */
  async send(image, { rate = null } = {}) {
    if (this.client !== null && this.size !== `${image.width}x${image.height}`) this.#drop();
    if (this.client === null) await this.#connect(image);
    const [client, start] = [this.client, performance.now()];
    if (client === null || !client.ready) throw new StreamClosed("the stream is not ready");
    const packet = this.encoder.encodeFrame(image, { rate, key: this.needKey || start - this.lastKey > this.keyMs });
    const [key, sent] = [(packet[0] & 1) === 1, performance.now()];
    if (key) this.lastKey = start;
    this.needKey = false;
    if (!client.waiting.size) this.answeredAt = sent;
    try {
      const answer = await client.send(packet);
      this.answeredAt = performance.now();
      [this.failed, this.pause] = [false, FIRST_PAUSE_MS];
      return { answer, bytes: packet.length, key, deviceMs: sent - start, linkMs: this.answeredAt - sent };
    } catch (error) {
      this.answeredAt = performance.now();
      if (client === this.client) this.needKey = true; // the server may have lost its state
      if (error.retryAfter) this.retryAt = this.answeredAt + 1000 * error.retryAfter;
      throw error;
    }
  }

  close() {
    this.#drop();
  }

  async #connect(image) {
    this.size = `${image.width}x${image.height}`;
    const video = this.encoder.beginStream(image.width, image.height);
    const client = this.client = new StreamClient(this.server, { ...this.options, video });
    client.closed.then(() => this.#lose(client));
    try {
      await client.opened;
    } catch (error) {
      throw new StreamClosed(error.message);
    }
    this.connections += 1;
    this.needKey = true;
  }

  #lose(client) {
    if (client !== this.client) return;
    this.#drop();
    this.failed = true;
    this.retryAt = performance.now() + this.pause;
    this.pause = Math.min(MAX_PAUSE_MS, 2 * this.pause);
  }

  #drop() {
    const client = this.client;
    this.client = null;
    client?.close();
  }
}
