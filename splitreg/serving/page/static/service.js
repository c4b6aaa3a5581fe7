// Requests to the server. The token is stored only in this module.

let token = "";

export const setToken = (value) => { token = value; };

/** An error response of the server. */
export class Refused extends Error {
  constructor(status, message, seconds) {
    super(message);
    this.status = status;
    this.seconds = seconds; // before a retry; null if a retry is useless
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Refused(0, "The server is unreachable.", null);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const after = response.headers.get("Retry-After");
  throw new Refused(response.status, body?.error?.message ?? `The server answered ${response.status}.`, after === null ? null : Number(after));
}

export const models = async () => (await (await ask("v1/models")).json()).models;

/** Encode an image; returns the packet, the milliseconds, and if requested the sizes of JPEG and WebP files. */
export async function encode(image, { model, rate, files }) {
  const query = new URLSearchParams({ model, ...(rate === null ? {} : { rate }), files: files ? 1 : 0 });
  const response = await ask(`v1/encode?${query}`, { method: "POST", body: image, headers: { "Content-Type": image.type } });
  const filesJson = response.headers.get("X-Splitreg-Files");
  return {
    packet: await response.arrayBuffer(),
    deviceMs: Number(response.headers.get("X-Splitreg-Encode-Ms")),
    files: filesJson === null ? null : JSON.parse(filesJson),
  };
}

/** Send a packet; returns the predictions, and the milliseconds of the server and of the link. */
export async function infer(packet, heads) {
  const query = new URLSearchParams({ masks: "png", ...(heads ? { heads: heads.join(",") } : {}) });
  const start = performance.now();
  const headers = { "Content-Type": "application/vnd.splitreg.packet" };
  const response = await ask(`v1/infer?${query}`, { method: "POST", body: packet, headers });
  const text = await response.text();
  const total = performance.now() - start;
  const serverMs = ["X-Splitreg-Queue-Ms", "X-Splitreg-Compute-Ms"].reduce((sum, name) => sum + Number(response.headers.get(name)), 0);
  return { predictions: JSON.parse(text).answers[0], serverMs, linkMs: Math.max(0, total - serverMs) };
}
