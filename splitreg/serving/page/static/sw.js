// Keeps the page and the models that it has loaded, so that it opens and encodes without the server.

const CACHE = "splitreg-page-1";
const KEPT = /^\/(page\/[\w.-]+|v1\/edge|v1\/models)?$/;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin || !KEPT.test(url.pathname)) return;
  event.respondWith(newest(event.request));
});

/** The server's answer, which is stored; without the server, the stored one. */
async function newest(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request.url, response.clone());
    return response;
  } catch (error) {
    const stored = await cache.match(request.url);
    if (stored) return stored;
    throw error;
  }
}
