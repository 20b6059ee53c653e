// The status page: asks the process every two seconds, and shows what it says.
//
// It asks nothing while nobody sees it, and more and more rarely while no answer comes.

import { element, KeyedList, setAttribute, setText } from "./dom.js";
import { figure, rateFigure } from "./figure.js";
import { countersOf, gradeOf, History, sorted } from "./history.js";
import { serviceCard } from "./service.js";
import { bytes, capital, clock, count, perSecond, span } from "./words.js";

const INTERVAL_MS = 2_000;
const LONGEST_PAUSE_MS = 30_000;
const PATIENCE_MS = 10_000;

/** Services up to this number show their details from the start, and need no filter. */
const FEW = 4;

const byId = (id) => document.getElementById(id);

/** Rates of each service by its name, and of all together under no name. */
const histories = new Map();
const state = { isPaused: false, failures: 0, timer: null, asked: 0, last: null, answeredAt: null };

const cards = new KeyedList(byId("list"), (service) => service.name, (service) =>
  serviceCard(service, histories, state.last.tunnels.length <= FEW),
);
const sessions = new KeyedList(byId("sessions-list"), (session) => session.id, sessionRow);
const totals = totalFigures();

byId("place").textContent = location.host;
byId("pause").addEventListener("click", () => setPaused(!state.isPaused));
byId("wanted").addEventListener("input", () => state.last && showServices(state.last));
byId("problems").addEventListener("change", () => state.last && showServices(state.last));
document.addEventListener("visibilitychange", () => askAgainIn(document.hidden ? null : 0));
askAgainIn(0);

function setPaused(isPaused) {
  state.isPaused = isPaused;
  setAttribute(byId("pause"), "aria-pressed", String(isPaused));
  setText(byId("pause"), isPaused ? "Go on" : "Pause");
  askAgainIn(isPaused ? null : 0);
  showUpdated();
}

/** Plans the next question; null plans none. */
function askAgainIn(ms) {
  clearTimeout(state.timer);
  if (ms !== null && !state.isPaused && !document.hidden) {
    state.timer = setTimeout(ask, ms);
  }
}

async function ask() {
  const mine = ++state.asked;
  let pause = INTERVAL_MS;
  try {
    const answer = await fetch("status.json", {
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) {
      throw new Error(`status ${answer.status}`);
    }
    const status = await answer.json();
    if (mine !== state.asked) {
      return;
    }
    state.failures = 0;
    state.answeredAt = Date.now();
    note(status);
    show(status);
  } catch {
    state.failures += 1;
    pause = Math.min(LONGEST_PAUSE_MS, INTERVAL_MS * 2 ** state.failures);
  }
  showUpdated();
  askAgainIn(pause);
}

function note(status) {
  const now = performance.now();
  const all = { accepted: 0, sent: 0, received: 0, refused: 0 };
  const names = new Set([""]);
  for (const service of status.tunnels) {
    const counters = countersOf(service);
    Object.keys(all).forEach((name) => (all[name] += counters[name]));
    names.add(service.name);
    historyOf(service.name).note(now, counters);
  }
  historyOf("").note(now, all);
  [...histories.keys()].filter((name) => !names.has(name)).forEach((name) => histories.delete(name));
}

function historyOf(name) {
  if (!histories.has(name)) {
    histories.set(name, new History());
  }
  return histories.get(name);
}

function show(status) {
  state.last = status;
  document.title = `${status.state} · ${location.host} · knockpipe`;
  showState(status);
  showReload(status.reload);
  totals.update(status);
  showServices(status);
  showSessions(status.who);
}

const STATES = { ready: "good", "not ready": "bad", starting: "warn", draining: "warn" };

function showState({ state: word, why }) {
  setAttribute(byId("state"), "data-grade", STATES[word] ?? "warn");
  setText(byId("state"), capital(word));
  setText(byId("why"), capital(why ?? ""));
  byId("why").hidden = !why;
}

function showReload(reload) {
  const line = byId("reload");
  line.hidden = !reload;
  if (reload) {
    setAttribute(line, "data-grade", reload.ok ? null : "bad");
    const result = reload.ok ? "Reloaded" : "The reload failed";
    setText(line, `${result} at ${clock(reload.at * 1000)}: ${reload.message}`);
  }
}

function totalFigures() {
  const process = figure("Process");
  const sessions = figure("Sessions");
  const accepted = rateFigure("Connections");
  const sent = rateFigure("Sent");
  const received = rateFigure("Received");
  const files = figure("Descriptors");
  const all = [process, sessions, accepted, sent, received, files];
  byId("figures").append(...all.map((one) => one.node));
  const update = (status) => {
    const of = (name) => historyOf("").of(name);
    const add = (value) => status.tunnels.reduce((all, service) => all + value(service), 0);
    const { descriptors, descriptor_limit: limit } = status;
    process.update(`up ${span(status.uptime_s)}`, `${status.version}, pid ${status.pid}`);
    sessions.update(count(add((one) => one.sessions.now)), "now, of all services");
    accepted.update(of("accepted"), perSecond, `${count(add((one) => one.accepted))} in all`);
    sent.update(of("sent"), (rate) => `${bytes(rate)}/s`, `${bytes(add((one) => one.sent))} in all`);
    const back = add((one) => one.received);
    received.update(of("received"), (rate) => `${bytes(rate)}/s`, `${bytes(back)} in all`);
    files.update(descriptors === null ? "?" : count(descriptors), `of ${count(limit)}`);
  };
  return { update };
}

function showServices({ tunnels }) {
  byId("filter").hidden = tunnels.length <= FEW;
  const wanted = byId("filter").hidden ? "" : byId("wanted").value.trim().toLowerCase();
  const onlyProblems = !byId("filter").hidden && byId("problems").checked;
  const isShown = (service) =>
    service.name.toLowerCase().includes(wanted) && !(onlyProblems && gradeOf(service) === "good");
  const shown = sorted(tunnels).filter(isShown);
  cards.show(shown);
  byId("none").hidden = shown.length > 0;
  setText(byId("none"), tunnels.length === 0 ? "There is no service yet." : "No service matches.");
  setText(byId("counted"), counted(tunnels));
}

function counted(services) {
  const of = (grade) => services.filter((service) => gradeOf(service) === grade).length;
  const all = [[of("bad"), "broken"], [of("warn"), "degraded"], [of("good"), "serving"]];
  return all.filter(([number]) => number > 0).map(([number, word]) => `${number} ${word}`).join(", ");
}

/** Shows sessions where the process was told to (--status-clients). */
function showSessions(who) {
  byId("sessions").hidden = !who;
  if (who) {
    sessions.show(who.sessions);
    const more = who.more > 0 ? `, and ${count(who.more)} more` : "";
    setText(byId("sessions-counted"), `${count(who.sessions.length)} shown${more}, oldest first`);
  }
}

function sessionRow() {
  const cells = Array.from({ length: 7 }, () => element("td"));
  const name = element("th", { scope: "row" });
  const node = element("tr", {}, name, ...cells);
  const update = (session) => {
    setText(name, session.tunnel);
    const target = session.service ? `${session.service} = ${session.target}` : session.target;
    const { peer, client, key, age_ms: age, sent, received } = session;
    const texts = [peer, client ?? "–", target, key, span(age / 1000), bytes(sent), bytes(received)];
    cells.forEach((cell, place) => setText(cell, texts[place]));
  };
  return { node, update };
}

function showUpdated() {
  const at = state.answeredAt === null ? null : clock(state.answeredAt);
  const isStale = state.failures > 0;
  byId("stale").hidden = !isStale;
  if (isStale) {
    setText(byId("stale"), at === null ? "The process does not answer." : `No answer since ${at}; what you see is old.`);
  }
  const how = state.isPaused ? "paused" : "refreshes every 2 seconds";
  setText(byId("updated"), at === null ? "" : `Last answer at ${at}; ${how}.`);
}
