// The card of a service: its state, its figures, and the parts behind them.

import { element, KeyedList, setAttribute, setText } from "./dom.js";
import { levelFigure, rateFigure } from "./figure.js";
import { gradeOf, sum } from "./history.js";
import {
  gatePart,
  knocksPart,
  listPart,
  poolPart,
  reasonsPart,
  sentKnocksPart,
  targetsPart,
} from "./parts.js";
import { bytes, capital, count, perSecond } from "./words.js";

const STATES = { bad: "Broken", warn: "Degraded", good: "Serving" };

/** The card of a service; `histories` has its rates, by its name. */
export function serviceCard(service, histories, isOpen) {
  const title = element("h3", {}, service.name);
  const kind = element("span", { class: "kind" });
  const state = element("span", { class: "state" });
  const faults = element("ul", { class: "faults", hidden: "" });
  const figures = figuresOf();
  const parts = partsOf();
  const details = element("details", {}, element("summary", {}, "Details"), parts.node);
  details.open = isOpen;
  const node = element(
    "article",
    { class: "card service" },
    element("header", {}, title, kind, state),
    faults,
    figures.node,
    details,
  );
  const shownFaults = new KeyedList(faults, (fault) => fault.what, faultLine);
  const update = (now) => {
    const grade = gradeOf(now);
    const isDraining = now.state !== "serving" && grade !== "bad";
    setAttribute(node, "data-grade", grade);
    setAttribute(state, "data-grade", grade);
    setText(state, isDraining ? "Draining" : STATES[grade]);
    setText(kind, [now.mode, ...now.listeners].join(" · "));
    shownFaults.show(now.wrong);
    faults.hidden = now.wrong.length === 0;
    figures.update(now, histories.get(now.name));
    parts.update(now);
  };
  return { node, update };
}

function faultLine() {
  const node = element("li", { class: "notice" });
  const update = ({ what, broken, detail }) => {
    setAttribute(node, "data-grade", broken ? "bad" : "warn");
    setText(node, detail ? `${capital(what)}: ${detail}` : capital(what));
  };
  return { node, update };
}

function figuresOf() {
  const sessions = levelFigure("Sessions");
  const accepted = rateFigure("Connections");
  const sent = rateFigure("Sent");
  const received = rateFigure("Received");
  const refused = rateFigure("Refused", "bad");
  const all = [sessions, accepted, sent, received, refused];
  sessions.node.classList.add("wide-on-phone");
  const node = element("dl", { class: "figures" }, ...all.map((one) => one.node));
  const bytesPerSecond = (rate) => `${bytes(rate)}/s`;
  const update = (service, history) => {
    sessions.update(service.sessions);
    const { accepted: all, sent: out, received: back } = service;
    accepted.update(history.of("accepted"), perSecond, `${count(all)} in all`);
    sent.update(history.of("sent"), bytesPerSecond, `${bytes(out)} in all`);
    received.update(history.of("received"), bytesPerSecond, `${bytes(back)} in all`);
    // Knocks over HTTP carry no stream.
    sent.node.hidden = received.node.hidden = service.kind === "knockd";
    refused.update(history.of("refused"), perSecond, `${count(sum(service.refused))} in all`);
  };
  return { node, update };
}

function partsOf() {
  const all = [
    targetsPart(),
    gatePart(),
    poolPart(),
    knocksPart(),
    sentKnocksPart(),
    levelPart("Handshakes", (service) => service.handshakes),
    levelPart("Unopened tunnels", (service) => service.unopened),
    reasonsPart("Refused, by reason", (service) => service.refused),
    reasonsPart("Closed, by reason", (service) => service.closed),
    listPart("Keys", (service) => service.keys),
  ];
  const node = element("div", { class: "parts" }, ...all.map((part) => part.node));
  const update = (service) => all.forEach((part) => part.update(service));
  return { node, update };
}

function levelPart(name, of) {
  const shown = levelFigure(name);
  const list = element("dl", {}, shown.node);
  const node = element("section", { class: "part level" }, list);
  const update = (service) => {
    const level = of(service);
    node.hidden = !level || level.limit === 0;
    if (level) {
      shown.update(level);
    }
  };
  return { node, update };
}
