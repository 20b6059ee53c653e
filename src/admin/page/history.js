// Rates out of counters: what changed between two looks, and the last minutes of it.
//
// Nothing here reads a clock or the document.

/** Looks that are kept: two minutes at one in two seconds. */
export const KEPT = 60;

/** Counters of one service over time. */
export class History {
  #last = null;
  /** Rates in a second by the name of the counter, oldest first. */
  rates = new Map();

  /** Notes `counters` (name to number) at `at`, in milliseconds. A counter that became smaller
   * belongs to a process that began anew: what was before it is forgotten. */
  note(at, counters) {
    const last = this.#last;
    this.#last = { at, counters };
    if (last === null || at <= last.at) {
      return;
    }
    const names = Object.keys(counters);
    if (names.some((name) => counters[name] < (last.counters[name] ?? 0))) {
      this.rates.clear();
      return;
    }
    for (const name of names) {
      const rate = ((counters[name] - (last.counters[name] ?? 0)) * 1000) / (at - last.at);
      const rates = this.rates.get(name) ?? [];
      rates.push(rate);
      this.rates.set(name, rates.slice(-KEPT));
    }
  }

  /** The rates of a counter, oldest first. */
  of(name) {
    return this.rates.get(name) ?? [];
  }
}

/** What of a service is counted. */
export function countersOf(service) {
  return {
    accepted: service.accepted,
    sent: service.sent,
    received: service.received,
    refused: sum(service.refused),
  };
}

/** The sum of counts by reason. */
export function sum(byReason) {
  return Object.values(byReason).reduce((all, one) => all + one, 0);
}

/** The grade of a service: `bad` if new connections do not get through, `warn` if something else
 * is wrong. */
export function gradeOf(service) {
  if (service.wrong.some((fault) => fault.broken)) {
    return "bad";
  }
  return service.wrong.length > 0 || service.state !== "serving" ? "warn" : "good";
}

const RANK = { bad: 0, warn: 1, good: 2 };

/** Services with the worst first; equals stay in the order of their names. */
export function sorted(services) {
  return [...services].sort((one, two) => RANK[gradeOf(one)] - RANK[gradeOf(two)]);
}
