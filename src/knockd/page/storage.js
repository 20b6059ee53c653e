// What the user asked the browser to remember. There is nothing else: no cookie, no address with
// a token in it.

const NAME = "knockpipe";

/** Returns { token, wish, onLoad }, or null where nothing usable is kept. */
export function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME));
    const isOurs = typeof kept?.token === "string" && typeof kept.wish === "object";
    return isOurs ? { token: kept.token, wish: kept.wish ?? {}, onLoad: kept.onLoad === true } : null;
  } catch {
    return null;
  }
}

/** Keeps this, or nothing. */
export function write(kept) {
  try {
    if (kept === null) {
      localStorage.removeItem(NAME);
    } else {
      localStorage.setItem(NAME, JSON.stringify(kept));
    }
  } catch {
    // A browser that keeps nothing: the page works without.
  }
}
