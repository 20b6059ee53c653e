// The fields: what the user entered, and what was kept.

const byId = (id) => document.getElementById(id);

/** Seconds of the units of a time. */
const UNITS = { min: 60, h: 3_600, d: 86_400 };

/** Returns the durations that can be chosen. */
function choices() {
  return [...document.querySelectorAll("input[name=duration]")];
}

/** Reads the fields: { token, wish }. */
export function entered() {
  const chosen = choices().find((choice) => choice.checked)?.value ?? "most";
  const amount = Number(byId("amount").value) * UNITS[byId("unit").value];
  const seconds = { most: null, other: amount }[chosen];
  return {
    token: byId("token").value,
    wish: {
      seconds: seconds === undefined ? Number(chosen) : seconds,
      address: byId("address").value.trim(),
      label: byId("label").value.trim(),
    },
  };
}

/** Fills the fields with what was kept. */
export function fill({ token, wish, keep, onLoad }) {
  byId("token").value = token;
  byId("address").value = wish.address;
  byId("label").value = wish.label;
  byId("more").open = wish.address !== "" || wish.label !== "";
  byId("keep").checked = keep;
  byId("on-load").checked = onLoad;
  const value = wish.seconds === null ? "most" : String(wish.seconds);
  const choice = choices().find((one) => one.value === value);
  if (choice) {
    choice.checked = true;
  } else {
    byId("other").checked = true;
    const unit = ["d", "h", "min"].find((name) => wish.seconds % UNITS[name] === 0) ?? "min";
    byId("unit").value = unit;
    byId("amount").value = Math.max(1, Math.round(wish.seconds / UNITS[unit]));
  }
  showOther();
}

/** Shows the fields of another time where it is chosen. */
export function showOther() {
  byId("other-time").hidden = !byId("other").checked;
}
