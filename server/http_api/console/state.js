// What the page knows: the sessions, the chosen one, its log as it grows. Views listen to it.

import { call, eventsOf, pathOf, request } from "./api.js";
import { failed, notice } from "./dom.js";

export const state = {
  sessions: [],
  id: null, // of the chosen session
  session: null,
  versions: [],
  records: [], // {kind, seq, ...}, as far as they were told
  learning: null, // {level, since} while something is being learnt
  instance: null, // which server process answers
};

const bus = new EventTarget();
/** Call `listener` whenever `name` happens: view, sessions, chosen, session, record, learning, intact. */
export const on = (name, listener) => bus.addEventListener(name, (event) => listener(event.detail));
export const tell = (name, detail) => bus.dispatchEvent(new CustomEvent(name, { detail }));

const RETRY_MS = [500, 1000, 2000, 4000];
let watching = null;

export async function loadSessions() {
  const found = [];
  let token = "";
  do {
    const page = await call("GET", `/v1/sessions?page_size=1000&page_token=${encodeURIComponent(token)}`);
    found.push(...page.sessions);
    token = page.next_page_token;
  } while (token);
  state.sessions = found.map(shown);
  tell("sessions");
  return state.sessions;
}

/** Choose a session, or none, and follow it from now on. */
export function choose(id) {
  if (id === state.id && watching) return;
  watching?.abort();
  watching = null;
  Object.assign(state, { id, session: null, versions: [], records: [], learning: null });
  tell("chosen");
  if (!id) return;
  watching = new AbortController();
  watch(id, watching.signal).catch((error) => {
    failed(error);
    if (error.status === 404) location.hash = "#/"; // deleted, or never there
  });
}

/** Read the session again: its figures, and its versions. */
export async function refresh(id = state.id) {
  const [{ session }, { versions }] = await Promise.all([
    call("GET", pathOf(id)), call("GET", pathOf(id, "/versions")),
  ]);
  if (id !== state.id) return;
  state.session = shown(session);
  state.versions = versions;
  const at = state.sessions.findIndex((each) => each.id === id);
  if (at >= 0) state.sessions[at] = state.session;
  tell("session");
}

async function watch(id, signal) {
  let last = null;
  let tries = 0;
  for (;;) {
    try {
      const headers = last === null ? {} : { "last-event-id": last };
      const response = await request("GET", pathOf(id, "/events"), { headers, signal });
      for await (const { event, data, id: number } of eventsOf(response)) {
        if (!event || signal.aborted) continue;
        tries = 0;
        last = number ?? last;
        await take(id, event, JSON.parse(data), number);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500) throw error;
    }
    if (signal.aborted) return;
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]));
    tries += 1;
  }
}

async function take(id, event, data, number) {
  if (event === "hello") {
    const before = state.session?.memory_hash;
    const restarted = state.instance !== null && state.instance !== data.instance;
    state.instance = data.instance;
    if (restarted && before) {
      await refresh(id);
      if (state.session?.memory_hash === before) tell("intact");
    }
  } else if (event === "changed") await refresh(id);
  else if (event === "learning") {
    const since = state.learning?.level === data.level ? state.learning.since : Date.now();
    state.learning = { ...data, since };
    tell("learning");
  } else if (event === "idle") {
    state.learning = null;
    tell("learning");
  } else if (event === "error") notice(data.error.message, { kind: "bad" });
  else {
    const record = { kind: event, seq: Number(number), ...data };
    // What was forgotten is not shown either.
    if (event === "forget") state.records = state.records.filter((each) => !record.log_records.includes(each.seq));
    state.records.push(record);
    tell("record", record);
  }
}

/** A session's message with numbers as numbers. */
function shown(session) {
  const id = session.name.split("/").pop();
  return {
    ...session,
    id,
    title: session.display_name || id,
    version: Number(session.memory_version),
    learnable: Number(session.learnable_tokens),
    pending: Number(session.pending_tokens),
    frozen: session.levels.length > 0 && session.levels.every((level) => level.frozen),
  };
}
