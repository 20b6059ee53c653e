// Keeps the files of the knock page, so that it opens without a network and says so.
//
// Only these files: no answer of the server about an address, a token or a grant is ever kept.

const CACHE = "knockpipe-page";

const FILES = [
  "./",
  "manifest.webmanifest",
  "page/base.css",
  "page/knock.css",
  "page/app.js",
  "page/client.js",
  "page/dom.js",
  "page/form.js",
  "page/machine.js",
  "page/storage.js",
  "page/view.js",
  "page/words.js",
  "page/icon.svg",
  "page/icon-192.png",
];

/** Longest wait for the network while there is a copy. */
const PATIENCE = 3_000;

const addresses = new Set(FILES.map((file) => new URL(file, self.registration.scope).href));

self.addEventListener("install", (event) => {
  const fresh = FILES.map((file) => new Request(file, { cache: "no-cache" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(fresh)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && addresses.has(withoutQuery(request.url))) {
    event.respondWith(served(request));
  }
});

function withoutQuery(url) {
  return url.split(/[?#]/)[0];
}

/** The newest file where the network answers in time, or else the copy. */
async function served(request) {
  const name = withoutQuery(request.url);
  const copy = await caches.match(name, { cacheName: CACHE });
  try {
    const limit = copy ? { signal: AbortSignal.timeout(PATIENCE) } : {};
    const answer = await fetch(name, { cache: "no-cache", credentials: "omit", ...limit });
    if (answer.ok) {
      const cache = await caches.open(CACHE);
      await cache.put(name, answer.clone());
    }
    return answer.ok || !copy ? answer : copy;
  } catch (error) {
    if (copy) {
      return copy;
    }
    throw error;
  }
}
