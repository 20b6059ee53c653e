// What the knock page says in a state: state + time -> words.
//
// Pure, as machine.js is.

import { span } from "./words.js";

/** Part of a grant's time below which the page says that it ends soon. */
const SOON = 0.1;

/** Returns { phase, grade, headline, detail, left, share, notices, next, actions, title }. */
export function view(state, now) {
  const phase = phaseOf(state);
  return {
    phase,
    ...WORDS[phase](state, now),
    left: state.grant ? timeLeft(state.grant, now) : "",
    share: state.grant ? shareLeft(state.grant, now) : 0,
    notices: notices(state),
    next: nextTry(state, now),
    actions: actions(state, phase),
    title: titleOf(state, phase),
  };
}

/** `knocking`, `in`, `refused`, `offline` or `out`. */
function phaseOf({ question, grant, problem, retry }) {
  if (question && question.what !== "look") {
    return "knocking";
  }
  if (grant) {
    return "in";
  }
  if (question) {
    return "looking";
  }
  if (problem?.kind === "offline") {
    return "offline";
  }
  return ["token", "refused"].includes(problem?.kind) ? "refused" : retry ? "waiting" : "out";
}

const WORDS = {
  knocking: ({ question }) => ({
    grade: "",
    headline: question.what === "leave" ? "Leaving…" : "Knocking…",
    detail: "",
  }),
  looking: () => ({ grade: "", headline: "Looking…", detail: "" }),
  in: ({ grant }, now) => ({
    grade: isSoon(grant, now) ? "warn" : "good",
    headline: isSoon(grant, now) ? "You are in, not for long" : "You are in",
    detail:
      grant.endsAt === null
        ? `${grant.address}, without an end`
        : `${grant.address} until ${moment(grant.endsAt, now)}`,
  }),
  refused: ({ problem }) => ({
    grade: "bad",
    headline: "Refused",
    detail:
      problem.kind === "token"
        ? "This token is not accepted. Check it, or ask for a new one."
        : "The server does not allow that.",
  }),
  offline: ({ retry }) => ({
    grade: "warn",
    headline: "You are offline",
    detail:
      retry?.what === "knock"
        ? "The page knocks as soon as there is a network."
        : "The page goes on as soon as there is a network.",
  }),
  waiting: () => ({ grade: "warn", headline: "Not in yet", detail: "" }),
  out: ({ gone, address }) => ({
    grade: "",
    headline: { ended: "Your time is over", left: "You have left" }[gone] ?? "You are not in",
    detail: address ? `${address} is not let in.` : "Knock to be let in for a while.",
  }),
};

function isSoon(grant, now) {
  return grant.endsAt !== null && shareLeft(grant, now) < SOON;
}

function shareLeft({ endsAt, seconds }, now) {
  return endsAt === null ? 1 : Math.max(0, Math.min(1, (endsAt - now) / (seconds * 1_000)));
}

/** The time left as a clock has it: 4:05, 11:59:32, or 3 d 4 h. */
export function timeLeft({ endsAt }, now) {
  if (endsAt === null) {
    return "∞";
  }
  const left = Math.max(0, Math.ceil((endsAt - now) / 1_000));
  if (left >= 2 * 86_400) {
    return span(left);
  }
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, seconds] = [Math.floor(left / 3_600), Math.floor(left / 60) % 60, left % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

/** A moment: the time of day, and the date if it is not within a day. */
function moment(at, now) {
  const time = { hour: "2-digit", minute: "2-digit" };
  const isNear = at - now < 20 * 3_600_000;
  const form = isNear ? time : { weekday: "short", day: "numeric", month: "short", ...time };
  return new Date(at).toLocaleString([], form);
}

/** What the user has to know besides: [{ grade, text }]. It does not change with the time, so that
 * it is read aloud once. */
function notices(state) {
  const { grant, problem } = state;
  const all = [];
  if (grant?.asked && grant.given < grant.asked - 1) {
    const [asked, given] = [span(grant.asked), span(grant.given)];
    all.push({ grade: "warn", text: `You asked for ${asked}. The server gives ${given} at most.` });
  }
  if (!state.online && grant && !problem) {
    all.push({ grade: "warn", text: "You are offline. Your time goes on." });
  }
  if (problem) {
    all.push({ grade: problem.kind === "offline" ? "warn" : "bad", text: problemText(problem, grant) });
  }
  return all.filter(({ text }) => text !== "");
}

/** When the page tries again. */
function nextTry({ retry, question, problem }, now) {
  if (!retry || question || problem?.kind === "offline") {
    return "";
  }
  if (retry.at === null) {
    return "The page has stopped trying.";
  }
  return `Next try in ${span(Math.max(1, Math.ceil((retry.at - now) / 1_000)))}.`;
}

function problemText({ kind, text }, grant) {
  const said = text === "" ? "" : ` The server says: ${text}`;
  const words = {
    input: text,
    offline: grant ? "You are offline. The page goes on as soon as there is a network." : "",
    token: text === "" ? "" : `The server says: ${text}`,
    refused: text === "" ? "The server refuses, and does not say why." : `The server says: ${text}`,
    locked: `Too many attempts from your network.${said}`,
    failed: `The server cannot do it now.${said}`,
    unreachable: "The server does not answer.",
    foreign: "What answers is not knockpipe.",
  };
  return words[kind];
}

/** The buttons that are there. */
function actions({ question, grant, retry, token }, phase) {
  const isBusy = question !== null && phase !== "in";
  return {
    isBusy,
    knock: !grant || token === "",
    extend: grant !== null && grant.endsAt !== null && token !== "",
    leave: grant !== null && grant.endsAt !== null && token !== "",
    tryNow: retry !== null && question === null && phase !== "offline",
    stop: retry !== null && question === null,
  };
}

function titleOf({ grant }, phase) {
  if (phase === "in" && grant.endsAt !== null) {
    const time = new Date(grant.endsAt).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    return `In until ${time}`;
  }
  return { in: "In", refused: "Refused", offline: "Offline" }[phase] ?? "Knock";
}
