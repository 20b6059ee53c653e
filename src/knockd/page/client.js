// Questions to the server. The token travels in a header, and nowhere else.

/** The address for all questions, wherever the page is shown. */
const KNOCK = new URL("../knock", import.meta.url);

/** Longest wait for an answer. */
const PATIENCE = 15_000;

const METHODS = { knock: "POST", look: "GET", leave: "DELETE" };

/** Asks. Returns { status, body, retryAfter }; body is null where it is no JSON. Throws where no
 * answer comes. */
export async function send({ what, token, body }) {
  const hasBody = what !== "look";
  const headers = { "X-Api-Key": token };
  if (hasBody) {
    headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(KNOCK, {
    method: METHODS[what],
    headers,
    body: hasBody ? JSON.stringify(body) : undefined,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(PATIENCE),
  });
  const retryAfter = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  return {
    status: answer.status,
    body: await answer.json().catch(() => null),
    retryAfter: Number.isNaN(retryAfter) ? null : retryAfter,
  };
}
