// Requests to the server. The token is stored only in this module.

let token = "";

export const setToken = (value) => { token = value; };
export const hasToken = () => token !== "";

/** An error response of the server. */
export class Refused extends Error {
  constructor(status, message, seconds) {
    super(message);
    this.status = status;
    this.seconds = seconds; // before a retry; null if a retry is useless
  }
}

/** Send a request; `watch` gets what is done and the share from 0 to 1, and `signal` ends it. */
function ask(path, { method = "GET", headers = {}, body = null, watch = null, signal = null } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch() does not report how much was sent
    request.open(method, path);
    request.responseType = "arraybuffer";
    for (const [name, value] of Object.entries({ ...headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) })) {
      request.setRequestHeader(name, value);
    }
    const stop = () => request.abort();
    signal?.addEventListener("abort", stop);
    request.upload.onprogress = (event) => watch?.("Sending", event.total ? event.loaded / event.total : 0);
    request.onprogress = (event) => watch?.("Receiving", event.lengthComputable ? event.loaded / event.total : 0);
    request.onloadend = () => signal?.removeEventListener("abort", stop);
    request.onabort = () => reject(new Canceled());
    request.onerror = () => reject(new Refused(0, "The server is unreachable.", null));
    request.onload = () => (request.status < 300 ? resolve(request) : reject(refusal(request)));
    if (signal?.aborted) reject(new Canceled());
    else request.send(body);
  });
}

/** The user has canceled the request. */
export class Canceled extends Error {}

const text = (request) => new TextDecoder().decode(request.response ?? new ArrayBuffer(0));

function refusal(request) {
  const after = request.getResponseHeader("Retry-After");
  let message = `The server answered ${request.status}.`;
  try {
    message = JSON.parse(text(request)).error.message;
  } catch {
    // a proxy may answer anything
  }
  if (request.status === 401) message = token ? "The server does not accept this token." : "Enter the token of this server.";
  return new Refused(request.status, message, after === null ? null : Number(after));
}

/** The edge half of a model as WebAssembly. */
export const edgeModel = async (model) => (await ask(`v1/edge?${new URLSearchParams({ model })}`)).response;

export const models = async () => JSON.parse(text(await ask("v1/models"))).models;

/** Encode an image; returns the packet, the milliseconds, and if requested the sizes of JPEG and WebP files. */
export async function encode(image, { model, rate, files, ...options }) {
  const query = new URLSearchParams({ model, ...(rate === null ? {} : { rate }), files: files ? 1 : 0 });
  const response = await ask(`v1/encode?${query}`, { ...options, method: "POST", body: image, headers: { "Content-Type": image.type } });
  const filesJson = response.getResponseHeader("X-Splitreg-Files");
  return {
    packet: response.response,
    deviceMs: Number(response.getResponseHeader("X-Splitreg-Encode-Ms")),
    files: filesJson === null ? null : JSON.parse(filesJson),
  };
}

/** Send a packet; returns the predictions, and the milliseconds of the server and of the link. */
export async function infer(packet, heads, options = {}) {
  const query = new URLSearchParams({ masks: "png", ...(heads ? { heads: heads.join(",") } : {}) });
  const start = performance.now();
  const headers = { "Content-Type": "application/vnd.splitreg.packet" };
  const response = await ask(`v1/infer?${query}`, { ...options, method: "POST", body: packet, headers });
  const total = performance.now() - start;
  const serverMs = ["X-Splitreg-Queue-Ms", "X-Splitreg-Compute-Ms"].reduce((sum, name) => sum + Number(response.getResponseHeader(name)), 0);
  return { predictions: JSON.parse(text(response)).answers[0], serverMs, linkMs: Math.max(0, total - serverMs) };
}
