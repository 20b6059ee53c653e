// Small drawings: a line of rates, a bar of a limit.

import { drawn, setAttribute } from "./dom.js";
import { KEPT } from "./history.js";

const HEIGHT = 36;

/** A line of the last rates. `update(rates, label)` draws them; the label says them. */
export function sparkline(grade) {
  const base = drawn("path", { class: "base", d: `M 0 ${HEIGHT} H ${KEPT - 1}` });
  const area = drawn("path", { class: "area" });
  const curve = drawn("path", { class: "curve" });
  const node = drawn(
    "svg",
    {
      class: "spark",
      viewBox: `0 0 ${KEPT - 1} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "data-grade": grade,
    },
    base,
    area,
    curve,
  );
  const update = (rates, label) => {
    const line = path(rates);
    setAttribute(node, "aria-label", label);
    setAttribute(curve, "d", line);
    const first = KEPT - rates.length;
    setAttribute(area, "d", line && `${line} V ${HEIGHT} H ${first} Z`);
  };
  update([], "no rates yet");
  return { node, update };
}

/** The newest rate is at the right end, so that the line moves to the left. */
function path(rates) {
  const highest = Math.max(...rates, 1e-9);
  const first = KEPT - rates.length;
  const points = rates.map((rate, place) => {
    const y = HEIGHT - 2 - (rate / highest) * (HEIGHT - 6);
    return `${first + place} ${y.toFixed(2)}`;
  });
  return points.length > 1 ? `M ${points.join(" L ")}` : "";
}

/** A bar of what is used of a limit, with a mark at its peak. */
export function meter() {
  const part = drawn("rect", { class: "part", height: 8, rx: 4 });
  const peak = drawn("rect", { class: "peak", y: 0, width: 0.6, height: 8 });
  const whole = drawn("rect", { class: "whole", width: 100, height: 8, rx: 4 });
  const node = drawn(
    "svg",
    { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    whole,
    part,
    peak,
  );
  const update = ({ now, most, limit }) => {
    const share = (number) => (limit > 0 ? Math.min(100, (number / limit) * 100) : 0);
    setAttribute(part, "width", share(now));
    setAttribute(peak, "x", Math.min(99.4, share(most)));
    setAttribute(peak, "visibility", most > now ? "visible" : "hidden");
    const grade = now >= limit ? "bad" : now * 10 > limit * 9 ? "warn" : "good";
    setAttribute(node, "data-grade", limit > 0 ? grade : "good");
  };
  return { node, update };
}
