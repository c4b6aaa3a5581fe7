// What is asked of the server, with the token that was typed, which stays in this module.

let token = "";

export const setToken = (value) => { token = value; };

/** What the server said instead of an answer. */
export class Refused extends Error {
  constructor(status, message, seconds) {
    super(message);
    this.status = status;
    this.seconds = seconds; // until it is worth another try; null: never
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Refused(0, "The server cannot be reached.", null);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const after = response.headers.get("Retry-After");
  throw new Refused(response.status, body?.error?.message ?? `The server answered ${response.status}.`, after === null ? null : Number(after));
}

export const models = async () => (await (await ask("v1/models")).json()).models;

/** The device's part: picture to packet, its milliseconds, and (if asked for) the bytes of ordinary files. */
export async function encode(picture, { model, rate, files }) {
  const query = new URLSearchParams({ model, ...(rate === null ? {} : { rate }), files: files ? 1 : 0 });
  const response = await ask(`v1/encode?${query}`, { method: "POST", body: picture, headers: { "Content-Type": picture.type } });
  const said = response.headers.get("X-Splitreg-Files");
  return {
    packet: await response.arrayBuffer(),
    deviceMs: Number(response.headers.get("X-Splitreg-Encode-Ms")),
    files: said === null ? null : JSON.parse(said),
  };
}

/** The link and the server's part: packet to answer. */
export async function infer(packet, heads) {
  const query = new URLSearchParams({ masks: "png", ...(heads ? { heads: heads.join(",") } : {}) });
  const begun = performance.now();
  const headers = { "Content-Type": "application/vnd.splitreg.packet" };
  const response = await ask(`v1/infer?${query}`, { method: "POST", body: packet, headers });
  const text = await response.text();
  const total = performance.now() - begun;
  const serverMs = ["X-Splitreg-Queue-Ms", "X-Splitreg-Compute-Ms"].reduce((sum, name) => sum + Number(response.headers.get(name)), 0);
  return { found: JSON.parse(text).answers[0], serverMs, linkMs: Math.max(0, total - serverMs) };
}
