// The state of the knock page: state + event -> state + effects.
//
// Pure: no clock, no randomness, no network, no document. An event brings the time (`now`, in
// milliseconds) and, where a pause is drawn, a random number (`random`, from 0 to 1). Effects are
// carried out by app.js:
//
//   { type: "send", question }     ask the server; the answer comes back as an event
//   { type: "wake", at }           send "timer" at that moment; null: no more
//   { type: "keep", kept }         keep this in the browser's storage; null: keep nothing
//   { type: "focus", field }       lead the user to a field
//
// There is one question at a time. What fails is asked again after a pause that doubles, and not
// for ever; what the server refuses is not asked again.

/** First pause before another attempt, and the longest. */
export const FIRST_PAUSE = 2_000;
export const LONGEST_PAUSE = 300_000;

/** Attempts before the page gives up. */
export const MOST_ATTEMPTS = 10;

/** Shortest time between two looks at the state that nobody asked for. */
export const LOOK_PAUSE = 30_000;

/** Longest label that a server takes, in bytes. */
export const MOST_LABEL = 64;

/** Longest time that can be asked for: ten years. */
export const MOST_SECONDS = 315_360_000;

export const NO_WISH = { seconds: null, address: "", label: "" };

export const START = {
  token: "",
  wish: NO_WISH,
  keep: false,
  onLoad: false,
  online: true,
  /** The question under way: { what, serial, token, body, asked }. */
  question: null,
  serial: 0,
  attempts: 0,
  /** The next attempt of a question that failed: { what, at }; at null waits for the user, or for
   * a network. */
  retry: null,
  /** The address of this client, and the longest grant of the token, as the server said. */
  address: null,
  most: null,
  /** { address, label, endsAt, seconds, asked, given }; endsAt is null where there is no end. */
  grant: null,
  /** Why the last grant is gone: "ended" or "left". */
  gone: null,
  /** { kind, text, field }. */
  problem: null,
  lookedAt: null,
};

/** Takes an event. Returns { state, effects }. */
export function step(state, event) {
  const handler = HANDLERS[event.type];
  if (!handler) {
    throw new Error(`there is no event ${event.type}`);
  }
  const result = handler(state, event);
  return { state: result.state, effects: [...result.effects, wake(result.state)] };
}

const HANDLERS = {
  start: onStart,
  knock: onKnock,
  leave: onLeave,
  answered: onAnswered,
  failed: onFailed,
  timer: onTimer,
  online: onOnline,
  offline: (state) => stay({ ...state, online: false }),
  seen: onSeen,
  "try now": onTryNow,
  stop: (state) => stay({ ...state, retry: null, attempts: 0, problem: null }),
  settings: onSettings,
};

function stay(state, ...effects) {
  return { state, effects };
}

/** The page has to be woken for the next attempt, and for the end of the grant. */
function wake(state) {
  const moments = [state.retry?.at, state.grant?.endsAt].filter((at) => typeof at === "number");
  return { type: "wake", at: moments.length > 0 ? Math.min(...moments) : null };
}

// --- what the user does ---

/** The page is there, with what was kept: { token, wish, onLoad } or null. */
function onStart(state, { kept, online, now }) {
  if (!kept) {
    return stay({ ...state, online });
  }
  const { token, wish, onLoad } = kept;
  const known = { ...state, online, token, wish: { ...NO_WISH, ...wish }, keep: true, onLoad };
  return ask(known, onLoad ? "knock" : "look", now);
}

/** A first knock, or one that extends the grant. */
function onKnock(state, { token, wish, now }) {
  if (state.question) {
    return stay(state);
  }
  const asked = { ...state, token: token.trim(), wish, attempts: 0, retry: null };
  const problem = mistake(asked);
  if (problem) {
    return stay({ ...asked, problem }, { type: "focus", field: problem.field });
  }
  return ask(asked, "knock", now);
}

/** A mistake that the server need not be asked about. */
function mistake({ token, wish }) {
  const input = (field, text) => ({ kind: "input", field, text });
  if (token === "") {
    return input("token", "Enter a token.");
  }
  if (!/^[\x20-\x7e]+$/.test(token)) {
    return input("token", "This is no token: it has characters that no token has.");
  }
  const { seconds } = wish;
  if (seconds !== null && !(Number.isInteger(seconds) && seconds >= 1 && seconds <= MOST_SECONDS)) {
    return input("amount", "Enter a time between a minute and ten years.");
  }
  if (wish.address !== "" && !/^[0-9a-f:.]+(\/[0-9]{1,3})?$/i.test(wish.address)) {
    return input("address", "This is no address; enter one such as 203.0.113.7.");
  }
  if (new TextEncoder().encode(wish.label).length > MOST_LABEL) {
    return input("label", `Enter at most ${MOST_LABEL} bytes: fewer letters.`);
  }
  return null;
}

function onLeave(state, { now }) {
  const isFree = state.grant && !state.question && state.token !== "";
  return isFree ? ask({ ...state, attempts: 0, retry: null }, "leave", now) : stay(state);
}

/** Changes what is kept. Nothing is kept of a token that was not accepted. */
function onSettings(state, { keep, onLoad }) {
  const changed = { ...state, keep, onLoad: keep && onLoad };
  return stay(changed, ...(keep && !isAccepted(state) ? [] : [kept(changed)]));
}

function isAccepted(state) {
  return state.most !== null || state.grant !== null;
}

function kept({ keep, token, wish, onLoad }) {
  return { type: "keep", kept: keep ? { token, wish, onLoad } : null };
}

// --- questions ---

/** Asks the server, or waits until there is a network. */
function ask(state, what, now) {
  const { token, wish } = state;
  const address = what === "leave" ? state.grant.address : wish.address;
  const isOwn = address === "" || address === state.address;
  if (!state.online) {
    const problem = { kind: "offline", text: "" };
    return stay({ ...state, question: null, retry: { what, at: null }, problem });
  }
  const body = {};
  if (what === "knock" && wish.seconds !== null) {
    body.ttl = Math.max(wish.seconds, secondsLeft(state, address, now));
  }
  if (what === "knock" && wish.label !== "") {
    body.label = wish.label;
  }
  if (what !== "look" && !isOwn) {
    body.ip_address = address;
  }
  const serial = state.serial + 1;
  const question = { what, serial, token, body, asked: wish };
  const lookedAt = what === "look" ? now : state.lookedAt;
  return stay({ ...state, serial, question, retry: null, lookedAt }, { type: "send", question });
}

/**
 * What is left of the page's own grant of this address: a knock that extends it never shortens it.
 * An end that the server tells of may be that of others, and is nothing to ask for.
 */
function secondsLeft({ grant, address: own }, address, now) {
  const isOurs = grant !== null && grant.given !== null && grant.endsAt !== null;
  const isSame = isOurs && grant.address === (address || own);
  return isSame ? Math.ceil((grant.endsAt - now) / 1_000) : 0;
}

function onTimer(state, { now }) {
  const { retry, grant } = state;
  if (grant && grant.endsAt !== null && grant.endsAt <= now) {
    return onTimer({ ...state, grant: null, gone: "ended" }, { now });
  }
  return retry && retry.at !== null && retry.at <= now ? ask(state, retry.what, now) : stay(state);
}

function onTryNow(state, { now }) {
  return state.retry && !state.question ? ask(state, state.retry.what, now) : stay(state);
}

function onOnline(state, { now }) {
  const online = { ...state, online: true };
  if (state.question || !state.retry) {
    return state.problem?.kind === "offline" ? stay({ ...online, problem: null }) : stay(online);
  }
  // A lock that the server has announced is waited for with a network, too.
  const isLocked = state.problem?.kind === "locked" && state.retry.at !== null;
  return isLocked ? stay(online) : ask({ ...online, attempts: 0 }, state.retry.what, now);
}

/** The page is looked at again, perhaps after hours in a pocket. */
function onSeen(state, event) {
  const { state: current, effects } = onTimer(state, event);
  const isFree = current.online && current.question === null && current.retry === null;
  const isKnown = isAccepted(current) && current.token !== "" && current.wish.address === "";
  const isDue = current.lookedAt === null || event.now - current.lookedAt >= LOOK_PAUSE;
  return isFree && isKnown && isDue ? ask(current, "look", event.now) : stay(current, ...effects);
}

// --- answers ---

/** No answer came: the network, the server, or a proxy between. */
function onFailed(state, { serial, now, random }) {
  if (state.question?.serial !== serial) {
    return stay(state);
  }
  if (!state.online) {
    return ask(state, state.question.what, now);
  }
  return again(state, { kind: "unreachable", text: "" }, 0, { now, random });
}

/** Plans another attempt, after `least` milliseconds at least. */
function again(state, problem, least, { now, random }) {
  const attempts = state.attempts + 1;
  const { what } = state.question;
  const failed = { ...state, question: null, attempts, problem };
  if (attempts >= MOST_ATTEMPTS) {
    return stay({ ...failed, retry: { what, at: null } });
  }
  const doubled = Math.min(FIRST_PAUSE * 2 ** (attempts - 1), LONGEST_PAUSE);
  // Between three quarters and five quarters, so that many pages do not come at one moment.
  const pause = Math.max(doubled * (0.75 + random / 2), least);
  return stay({ ...failed, retry: { what, at: now + pause } });
}

function onAnswered(state, event) {
  const { serial, status, body } = event;
  if (state.question?.serial !== serial) {
    return stay(state);
  }
  if (status === 200) {
    const take = { knock: onKnocked, look: onLooked, leave: onLeft }[state.question.what];
    return take(state, event) ?? again(state, { kind: "foreign", text: "" }, 0, event);
  }
  const text = typeof body?.error === "string" ? body.error.slice(0, 200) : "";
  if (status === 429) {
    const least = Math.max(0, event.retryAfter ?? 0) * 1_000;
    return again(state, { kind: "locked", text }, least, event);
  }
  if (status >= 500 || status === 404 || status === 408) {
    return again(state, { kind: status === 404 ? "foreign" : "failed", text }, 0, event);
  }
  return refused(state, status, text);
}

/** What the server refuses is not asked again. A wrong token is not kept either: each visit would
 * count as a guess. */
function refused(state, status, text) {
  const isWrongToken = status === 401;
  const over = { ...state, question: null, retry: null, attempts: 0 };
  const problem = { kind: isWrongToken ? "token" : "refused", text };
  const focus = { type: "focus", field: isWrongToken ? "token" : null };
  if (!isWrongToken) {
    return stay({ ...over, problem }, focus);
  }
  const forgotten = { ...over, problem, keep: false, onLoad: false, most: null, grant: null };
  return stay(forgotten, { type: "keep", kept: null }, focus);
}

/** The state after an answer that was good. */
function served(state) {
  return { ...state, question: null, retry: null, attempts: 0, problem: null, gone: null };
}

function onKnocked(state, { body, now }) {
  const { whitelisted_entry: address, expires_in_seconds: seconds } = body ?? {};
  if (typeof address !== "string" || !(seconds > 0)) {
    return null;
  }
  const asked = state.question.asked;
  const isOwn = !state.question.body.ip_address;
  const grant = {
    address,
    label: asked.label,
    endsAt: now + seconds * 1_000,
    seconds,
    asked: asked.seconds,
    given: seconds,
  };
  const own = isOwn ? address : state.address;
  const known = { ...served(state), grant, address: own, lookedAt: now };
  return stay(known, ...(known.keep ? [kept(known)] : []));
}

function onLooked(state, { body, now }) {
  if (typeof body?.address !== "string" || typeof body.allowed !== "boolean") {
    return null;
  }
  const grant = body.allowed ? seenGrant(state.grant, body, now) : null;
  const before = state.grant ? "ended" : state.gone;
  const gone = grant ? null : before;
  const most = typeof body.max_ttl === "number" ? body.max_ttl : state.most;
  const known = { ...served(state), grant, gone, address: body.address, most };
  return stay(known, ...(known.keep ? [kept(known)] : []));
}

/** The grant that the server tells of. One that the page knows stays what it is. */
function seenGrant(known, { address, label, expires_in_seconds: left }, now) {
  const endsAt = typeof left === "number" ? now + left * 1_000 : null;
  const isSame = known && known.endsAt !== null && endsAt !== null;
  if (isSame && Math.abs(known.endsAt - endsAt) < 5_000) {
    return { ...known, address, endsAt };
  }
  return { address, label: label ?? "", endsAt, seconds: left ?? null, asked: null, given: null };
}

function onLeft(state, event) {
  if (typeof event.body?.removed !== "boolean") {
    return null;
  }
  const isOwn = !state.question.body.ip_address;
  if (isOwn) {
    // Others may still let it in.
    return ask({ ...served(state), grant: null, gone: "left" }, "look", event.now);
  }
  return stay({ ...served(state), grant: null, gone: "left" });
}
