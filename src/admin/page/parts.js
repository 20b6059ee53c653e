// The parts of a service behind its figures: targets, gate, pool, knocks, reasons.

import { element, KeyedList, setAttribute, setText } from "./dom.js";
import { meter } from "./drawing.js";
import { count, span } from "./words.js";

/** Most warm tunnels that are drawn one by one. */
const DRAWN = 64;

/** A part with a heading, which is hidden while `show(service)` returns false. */
function part(name, body, show) {
  const node = element("section", { class: "part" }, element("h4", {}, name), ...body);
  const update = (service) => {
    node.hidden = !show(service);
  };
  return { node, update };
}

/** Names with values. `update` takes pairs. */
function pairs() {
  const node = element("dl", { class: "pairs" });
  let shown = "";
  const update = (all) => {
    const kept = all.filter(([, value]) => value !== null);
    const now = JSON.stringify(kept);
    if (now !== shown) {
      shown = now;
      const cells = ([name, value]) => [element("dt", {}, name), element("dd", {}, value)];
      node.replaceChildren(...kept.flatMap(cells));
    }
  };
  return { node, update };
}

/** Targets with their health. */
export function targetsPart() {
  const list = element("ul");
  const keyOf = (target) => `${target.service ?? ""}=${target.target}`;
  const targets = new KeyedList(list, keyOf, targetLine);
  return part("Targets", [list], (service) => {
    targets.show(service.targets);
    return service.targets.length > 0;
  });
}

function targetLine() {
  const address = element("span", { class: "address mono" });
  const state = element("span", { class: "state" });
  const error = element("span", { class: "error" });
  const node = element("li", { class: "target" }, address, state, error);
  const update = (target) => {
    const health = healthOf(target);
    setText(address, target.service ? `${target.service} = ${target.target}` : target.target);
    setAttribute(state, "data-grade", health.grade);
    setText(state, health.words);
    setText(error, health.error);
    error.hidden = health.error === "";
  };
  return { node, update };
}

function healthOf({ state, since_s: since, failing_s: failing, in_use: isInUse, last_error: error }) {
  const use = isInUse ? ", in use" : "";
  if (typeof failing === "number") {
    return { grade: "bad", words: `failing for ${span(failing)}`, error: error ?? "" };
  }
  if (!state) {
    return { grade: "", words: `not checked${use}`, error: "" };
  }
  const grade = { up: "good", down: "bad" }[state] ?? "";
  const time = typeof since === "number" ? ` for ${span(since)}` : "";
  return { grade, words: `${state}${time}${use}`, error: (state === "down" && error) || "" };
}

const STANCES = { fresh: "good", stale: "warn", open: "warn", closed: "bad" };

/** The gate: whether its store is read, and what it did. */
export function gatePart() {
  const stance = element("span", { class: "state" });
  const why = element("p", { class: "notice", "data-grade": "warn" });
  const facts = pairs();
  return part("Gate", [stance, why, facts.node], ({ gate }) => {
    if (!gate) {
      return false;
    }
    const read = gate.since_read_s;
    setAttribute(stance, "data-grade", STANCES[gate.stance] ?? "warn");
    setText(stance, gate.stance);
    setText(why, gate.unavailable ?? "");
    why.hidden = !gate.unavailable;
    facts.update([
      ["Store read", typeof read === "number" ? `${span(read)} ago` : "never"],
      ["Addresses", count(gate.addresses)],
      ["Networks", count(gate.networks)],
      ["Bans", count(gate.bans)],
      ["Denied", count(gate.denied)],
      ["Revoked", count(gate.revoked)],
      ["Strikes", count(gate.strikes)],
      ["Bans made", count(gate.bans_made)],
    ]);
    return true;
  });
}

/** Warm tunnels. */
export function poolPart() {
  const dots = element("ul", { class: "warm", "aria-hidden": "true" });
  const facts = pairs();
  return part("Warm tunnels", [dots, facts.node], ({ pool }) => {
    if (!pool) {
      return false;
    }
    showDots(dots, pool);
    facts.update([
      ["Warm", `${count(pool.warm)} of ${count(pool.size)}`],
      ["Taken", count(pool.taken)],
      ["Missed", count(pool.missed)],
      ["Failed", count(pool.failed)],
    ]);
    return true;
  });
}

function showDots(dots, { warm, size }) {
  const wanted = size > DRAWN ? 0 : size;
  while (dots.children.length > wanted) {
    dots.lastChild.remove();
  }
  while (dots.children.length < wanted) {
    dots.append(element("li"));
  }
  [...dots.children].forEach((dot, place) => dot.toggleAttribute("data-warm", place < warm));
}

/** The receiver of knocks. */
export function knocksPart() {
  const facts = pairs();
  return part("Knocks", [facts.node], ({ knocks }) => {
    if (!knocks) {
      return false;
    }
    const results = Object.entries(knocks.results).map(([name, number]) => [name, count(number)]);
    const none = results.length === 0 ? [["Datagrams", "none yet"]] : results;
    facts.update([["Received at", knocks.listeners.join(", ")], ...none]);
    return true;
  });
}

/** Knocks that an encrypt end sends. */
export function sentKnocksPart() {
  const facts = pairs();
  return part("Knocks sent", [facts.node], ({ knocks_sent: knocks }) => {
    if (!knocks) {
      return false;
    }
    const sent = Object.entries(knocks.sent).map(([reason, number]) => [reason, count(number)]);
    const unsent = knocks.failed > 0 ? [["not sent", count(knocks.failed)]] : [];
    const all = [...sent, ...unsent];
    facts.update(all.length === 0 ? [["Knocks", "none yet"]] : all);
    return true;
  });
}

/** Counts by reason, the most frequent first. */
export function reasonsPart(name, of) {
  const list = element("ul");
  const reasons = new KeyedList(list, (reason) => reason.name, reasonLine);
  return part(name, [list], (service) => {
    const all = Object.entries(of(service)).map(([reason, number]) => ({ name: reason, number }));
    all.sort((one, two) => two.number - one.number);
    const most = all.length > 0 ? all[0].number : 0;
    reasons.show(all.map((reason) => ({ ...reason, most })));
    return all.length > 0;
  });
}

function reasonLine() {
  const name = element("span", { class: "name" });
  const bar = meter();
  const number = element("span", { class: "number" });
  const node = element("li", { class: "reason" }, name, bar.node, number);
  const update = (reason) => {
    setText(name, reason.name);
    setText(number, count(reason.number));
    // One more than the largest: a reason is no limit that is reached.
    bar.update({ now: reason.number, most: 0, limit: reason.most * 1.12 });
  };
  return { node, update };
}

/** Words in one line. */
export function listPart(name, of) {
  const text = element("p", { class: "mono" });
  return part(name, [text], (service) => {
    const all = of(service);
    setText(text, all.join(", "));
    return all.length > 0;
  });
}
