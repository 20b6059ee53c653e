// Cases of the state machine. Returns a promise of { cases, failures }.

return import("/page/machine.js").then(({ START, NO_WISH, step, ...limits }) => {
  const failures = [];
  let cases = 0;

  const TOKEN = "a-token";
  const grant = (seconds) => ({ whitelisted_entry: "192.0.2.1", expires_in_seconds: seconds });
  const sent = (effects) => effects.find((effect) => effect.type === "send")?.question ?? null;
  const kept = (effects) => effects.find((effect) => effect.type === "keep");

  /** Runs events from the start, each { now: 0, random: 0.5 } unless it says otherwise. */
  function run(...events) {
    return events.reduce(
      ({ state }, event) => step(state, { now: 0, random: 0.5, serial: state.serial, ...event }),
      { state: START, effects: [] },
    );
  }

  function check(name, isTrue) {
    cases += 1;
    if (!isTrue) {
      failures.push(name);
    }
  }

  const knock = { type: "knock", token: TOKEN, wish: { ...NO_WISH, seconds: 60 } };
  const answer = (status, body, retryAfter = null) => ({ type: "answered", status, body, retryAfter });
  const start = (rest) => ({ type: "start", online: true, kept: { token: TOKEN, wish: {}, ...rest } });

  {
    const { state, effects } = run(knock);
    check("a knock asks", sent(effects)?.body.ttl === 60 && state.question !== null);
    check("a second knock waits", sent(step(state, { ...knock, now: 1 }).effects) === null);
  }
  {
    const { state, effects } = run(knock, answer(200, grant(60)));
    check("a grant ends by the clock of the page", state.grant.endsAt === 60_000);
    check("the page is woken at its end", effects.some((it) => it.type === "wake" && it.at === 60_000));
    const over = step(state, { type: "timer", now: 60_000 });
    check("it is over then", over.state.grant === null && over.state.gone === "ended");
    const early = step(state, { type: "timer", now: 59_999 });
    check("and not before", early.state.grant !== null);
  }
  {
    const { effects } = run({ type: "settings", keep: true, onLoad: false }, knock);
    check("nothing is kept of a token that was not accepted", !kept(effects));
    const accepted = run({ type: "settings", keep: true, onLoad: false }, knock, answer(200, grant(9)));
    check("an accepted token is kept if asked", kept(accepted.effects)?.kept.token === TOKEN);
    const unasked = run(knock, answer(200, grant(9)));
    check("and is not otherwise", !kept(unasked.effects));
  }
  {
    const { state, effects } = run(start({ onLoad: true }), answer(401, { error: "no" }));
    check("a wrong token is forgotten", kept(effects)?.kept === null && !state.onLoad && !state.keep);
    check("and not tried again", state.retry === null && sent(effects) === null);
  }
  {
    const looked = run(start({ onLoad: false }));
    check("a remembered token looks", sent(looked.effects)?.what === "look");
    const knocked = run(start({ onLoad: true }));
    check("and knocks where it is to", sent(knocked.effects)?.what === "knock");
  }
  {
    let { state } = run(knock);
    let now = 0;
    const pauses = [];
    while (state.question) {
      ({ state } = step(state, { type: "failed", serial: state.serial, now, random: 0.5 }));
      if (state.retry.at !== null) {
        pauses.push(state.retry.at - now);
        now = state.retry.at;
      }
      ({ state } = step(state, { type: "timer", now, random: 0.5 }));
    }
    const doubles = pauses.every((pause, place) => place === 0 || pause >= pauses[place - 1]);
    check("pauses grow", doubles && pauses[0] === 2_000 && pauses.at(-1) === limits.LONGEST_PAUSE);
    check("and end", pauses.length === limits.MOST_ATTEMPTS - 1 && state.retry.at === null);
    const again = step(state, { type: "try now", now });
    check("until the user says so", sent(again.effects)?.what === "knock");
  }
  {
    const { state } = run(knock, answer(429, { error: "wait" }, 600));
    check("a lock is waited for", state.retry.at >= 600_000 && state.problem.kind === "locked");
    const online = step(state, { type: "online", now: 5 });
    check("also when a network comes", sent(online.effects) === null);
  }
  {
    const { state, effects } = run({ type: "offline" }, knock);
    check("nothing is asked without a network", sent(effects) === null && state.question === null);
    const { effects: later } = step(state, { type: "online", now: 5 });
    check("and once there is one", sent(later)?.what === "knock");
  }
  {
    const { state } = run(knock, answer(200, grant(60)));
    const late = step(state, { ...answer(401, {}), serial: state.serial - 1, now: 1 });
    check("a late answer changes nothing", late.state === state);
    const leaving = step(state, { type: "leave", now: 1 });
    check("leaving names no own address", Object.keys(sent(leaving.effects).body).length === 0);
    const left = step(leaving.state, { ...answer(200, { removed: true }), serial: 2, now: 2 });
    check("the grant is gone", left.state.grant === null && left.state.gone === "left");
    check("whether others let it in is looked at", sent(left.effects)?.what === "look");
    const out = { address: "192.0.2.1", allowed: false, expires_in_seconds: null, label: null };
    const looked = step(left.state, { ...answer(200, out), serial: left.state.serial, now: 3 });
    check("who left stays out", looked.state.grant === null && looked.state.gone === "left");
    const still = step(leaving.state, { ...answer(200, { removed: false }), serial: 2, now: 2 });
    check("what was not ours is looked at", sent(still.effects)?.what === "look");
  }
  {
    const longer = { ...knock, wish: { ...NO_WISH, seconds: 500 } };
    const { state } = run(longer, answer(200, grant(500)));
    const shorter = step(state, { ...knock, now: 1_000 });
    check("extending never shortens", sent(shorter.effects).body.ttl === 499);
    const seen = { address: "192.0.2.1", allowed: true, expires_in_seconds: 9_000, label: null };
    const others = run(start({}), answer(200, seen)).state;
    check("what others granted is not asked for", sent(step(others, knock).effects).body.ttl === 60);
    const elsewhere = { ...knock, wish: { ...knock.wish, address: "192.0.2.9" }, now: 1_000 };
    check("another address is another grant", sent(step(state, elsewhere).effects).body.ttl === 60);
  }
  {
    const { state } = run(knock, answer(200, "<html>"));
    check("what is no answer is asked again", state.problem.kind === "foreign" && state.retry !== null);
  }
  {
    const { state } = run(knock, answer(200, grant(60)));
    const soon = step(state, { type: "seen", now: 10 });
    check("who looks twice asks once", sent(soon.effects) === null);
    const later = step(state, { type: "seen", now: limits.LOOK_PAUSE });
    check("and later again", sent(later.effects)?.what === "look");
  }
  return { cases, failures };
});
