// A figure: a name, a number and a note, and a drawing below where there is one.

import { element, setText } from "./dom.js";
import { meter, sparkline } from "./drawing.js";
import { count } from "./words.js";

/** A figure without a drawing. */
export function figure(name, drawing = null) {
  const value = element("span", { class: "value" });
  const note = element("span", { class: "note" });
  const body = element("dd", {}, value, element("br"), note);
  const node = element("div", { class: "figure" }, element("dt", {}, name), body);
  if (drawing !== null) {
    node.append(element("dd", {}, drawing.node));
  }
  const update = (text, remark = "") => {
    setText(value, text);
    setText(note, remark);
  };
  return { node, update };
}

/** A rate with its line. `update(rates, format, total)` */
export function rateFigure(name, grade = "good") {
  const line = sparkline(grade);
  const shown = figure(name, line);
  const update = (rates, format, total) => {
    const now = rates.length > 0 ? rates[rates.length - 1] : null;
    const highest = Math.max(0, ...rates);
    shown.update(now === null ? "–" : format(now), total);
    const words = now === null ? "no rates yet" : `now ${format(now)}, highest ${format(highest)}`;
    line.update(rates, `${name}: ${words}`);
  };
  return { node: shown.node, update };
}

/** A number against its limit. */
export function levelFigure(name) {
  const bar = meter();
  const shown = figure(name, bar);
  const update = (level) => {
    shown.update(`${count(level.now)} of ${count(level.limit)}`, `peak ${count(level.most)}`);
    bar.update(level);
  };
  return { node: shown.node, update };
}
