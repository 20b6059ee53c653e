// Numbers and times as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const WHOLE = new Intl.NumberFormat("en");

/** A number of things: 1,234, or 12.3 M. */
export function count(number) {
  if (number < 100_000) {
    return WHOLE.format(number);
  }
  const [size, unit] = number < 1e6 ? [1e3, "k"] : number < 1e9 ? [1e6, "M"] : [1e9, "G"];
  return `${(number / size).toPrecision(3)} ${unit}`;
}

/** Things in a second: one digit behind the point while there are few. */
export function perSecond(rate) {
  return rate < 10 && rate > 0 ? `${rate.toFixed(1)}/s` : `${count(Math.round(rate))}/s`;
}

/** A number of bytes with a binary unit. */
export function bytes(number) {
  let left = number;
  let unit = 0;
  while (left >= 1000 && unit + 1 < UNITS.length) {
    left /= 1024;
    unit += 1;
  }
  const text = unit === 0 ? String(Math.round(left)) : left.toFixed(left < 10 ? 2 : left < 100 ? 1 : 0);
  return `${text} ${UNITS[unit]}`;
}

/** A duration by its two largest units: 2 d 3 h, 5 min 7 s. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [
    [Math.floor(whole / 86_400), "d"],
    [Math.floor(whole / 3_600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([number]) => number > 0);
  if (first < 0) {
    return "0 s";
  }
  const shown = parts.slice(first, first + 2).filter(([number]) => number > 0);
  return shown.map(([number, unit]) => `${number} ${unit}`).join(" ");
}

/** The time of day of a moment in milliseconds. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** A text that begins with a capital letter. */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
