// The knock page: carries events to the machine, its effects to the browser, and its state to the
// document.

import { send } from "./client.js";
import { element, KeyedList, setAttribute, setText } from "./dom.js";
import { entered, fill, showOther } from "./form.js";
import { START, step } from "./machine.js";
import * as storage from "./storage.js";
import { view } from "./view.js";
import { span } from "./words.js";

/** Longest time that a browser's timer can wait. */
const LONGEST_TIMER = 2_000_000_000;

/** The address of the page itself. A gate shows it in place of what was asked for as well. */
const HOME = new URL("..", import.meta.url).href;
const IS_IN_PLACE = !location.href.startsWith(HOME);

const byId = (id) => document.getElementById(id);

let state = START;
let timer = null;
let ticking = null;

const notices = new KeyedList(byId("notices"), (notice) => notice.text, noticeLine);

const EFFECTS = {
  send: ({ question }) => carry(question),
  wake: ({ at }) => wakeAt(at),
  keep: ({ kept }) => storage.write(kept),
  focus: ({ field }) => leadTo(field),
};

function happen(event) {
  const result = step(state, { now: Date.now(), random: Math.random(), ...event });
  const wasIn = state.grant !== null;
  state = result.state;
  show();
  if (!wasIn && state.grant !== null) {
    makeRoom();
  }
  result.effects.forEach((effect) => EFFECTS[effect.type](effect));
}

async function carry(question) {
  const { serial } = question;
  try {
    happen({ type: "answered", serial, ...(await send(question)) });
  } catch {
    happen({ type: "failed", serial });
  }
}

function wakeAt(at) {
  clearTimeout(timer);
  if (at !== null) {
    const pause = Math.min(Math.max(0, at - Date.now()), LONGEST_TIMER);
    timer = setTimeout(() => happen({ type: "timer" }), pause);
  }
}

function leadTo(field) {
  if (field === "address" || field === "label") {
    byId("more").open = true;
  }
  if (field !== null) {
    byId("settings").open = true;
    byId(field).focus();
  }
}

/** Once the user is in, the settings are out of the way. */
function makeRoom() {
  const settings = byId("settings");
  const hadFocus = settings.contains(document.activeElement);
  settings.open = false;
  if (hadFocus) {
    byId("headline").focus();
  }
}

function show() {
  const seen = view(state, Date.now());
  document.title = `${seen.title} · ${location.host}`;
  setAttribute(byId("door"), "data-phase", seen.phase);
  setAttribute(byId("door"), "data-grade", seen.grade);
  setText(byId("headline"), seen.headline);
  setText(byId("detail"), seen.detail);
  setText(byId("left"), seen.left);
  setAttribute(byId("left"), "data-long", seen.left.length > 6 ? "" : null);
  setAttribute(byId("part"), "stroke-dashoffset", (100 - seen.share * 100).toFixed(2));
  notices.show(seen.notices);
  setText(byId("next"), seen.next);
  showActions(seen.actions);
  showFields();
  keepTicking(state.grant !== null || state.retry?.at != null);
}

function showActions(actions) {
  byId("knock").hidden = !actions.knock;
  byId("extend").hidden = !actions.extend;
  byId("leave").hidden = !actions.leave;
  byId("open").hidden = !(IS_IN_PLACE && state.grant !== null);
  byId("try-now").hidden = !actions.tryNow;
  byId("stop").hidden = !actions.stop;
  for (const id of ["knock", "extend", "leave"]) {
    // Not disabled: that would take the focus away.
    setAttribute(byId(id), "aria-disabled", actions.isBusy ? "true" : null);
  }
}

function showFields() {
  const wrong = state.problem?.field ?? (state.problem?.kind === "token" ? "token" : null);
  for (const id of ["token", "amount", "address", "label"]) {
    setAttribute(byId(id), "aria-invalid", id === wrong ? "true" : null);
  }
  byId("keep").checked = state.keep;
  byId("on-load").checked = state.onLoad;
  byId("on-load").disabled = !state.keep;
  const hint = state.most === null ? "" : `This token gives up to ${span(state.most)}.`;
  setText(byId("most"), hint);
  setAttribute(byId("address"), "placeholder", state.address ?? "this device");
}

/** Counts down while somebody looks. */
function keepTicking(isWanted) {
  const shallTick = isWanted && !document.hidden;
  if (shallTick && ticking === null) {
    ticking = setInterval(show, 1_000);
  } else if (!shallTick && ticking !== null) {
    clearInterval(ticking);
    ticking = null;
  }
}

function noticeLine() {
  const node = element("li", { class: "notice" });
  const update = ({ grade, text }) => {
    setAttribute(node, "data-grade", grade);
    setText(node, text);
  };
  return { node, update };
}

function listen() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    happen({ type: "knock", ...entered() });
  });
  byId("leave").addEventListener("click", () => happen({ type: "leave" }));
  byId("try-now").addEventListener("click", () => happen({ type: "try now" }));
  byId("stop").addEventListener("click", () => happen({ type: "stop" }));
  for (const id of ["keep", "on-load"]) {
    byId(id).addEventListener("change", () => {
      happen({ type: "settings", keep: byId("keep").checked, onLoad: byId("on-load").checked });
    });
  }
  byId("durations").addEventListener("change", showOther);
  byId("show").addEventListener("click", showToken);
  addEventListener("online", () => happen({ type: "online" }));
  addEventListener("offline", () => happen({ type: "offline" }));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      happen({ type: "seen" });
    } else {
      keepTicking(false);
    }
  });
}

function showToken() {
  const isShown = byId("token").type === "text";
  byId("token").type = isShown ? "password" : "text";
  setText(byId("show-word"), isShown ? "Show" : "Hide");
}

/** Lets the page open without a network. */
function registerWorker() {
  if (IS_IN_PLACE) {
    return;
  }
  const file = new URL("sw.js", HOME).href;
  const createScriptURL = (url) => {
    if (url !== file) {
      throw new TypeError("there is one worker");
    }
    return url;
  };
  const policy = globalThis.trustedTypes?.createPolicy("knockpipe-worker", { createScriptURL });
  const url = policy ? policy.createScriptURL(file) : file;
  navigator.serviceWorker?.register(url, { updateViaCache: "none" }).catch(() => {
    // Without encryption there is none, and the page works all the same.
  });
}

byId("place").textContent = location.host;
listen();
const kept = storage.read();
happen({ type: "start", kept, online: navigator.onLine });
fill(state);
byId("settings").open = state.token === "";
showFields();
registerWorker();
