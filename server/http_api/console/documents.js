// Files that come into the page: documents to learn, and memories to open.

import { call, eventsOf, pathOf, request } from "./api.js";
import { asked, failed, h, notice } from "./dom.js";
import { loadSessions, on, state } from "./state.js";

/** Documents on their way: {session, name, committed, total, pieces: [{text, nats}], waits, error}. */
export const reading = [];
const bus = new EventTarget();
export const onReading = (listener) => bus.addEventListener("reading", listener);
const told = () => bus.dispatchEvent(new Event("reading"));

const KINDS = ".txt,.md,.markdown,.html,.htm,.pdf,.docx,text/*";
// Pieces of a document that stay in the page.
const MOST_PIECES = 60;

/** Let people choose documents. */
export function pickDocuments() {
  const input = h("input", { type: "file", multiple: true, accept: KINDS });
  input.addEventListener("change", () => takeFiles([...input.files]).catch(failed));
  input.click();
}

/** Teach documents one after the other, and open memories. */
export async function takeFiles(files) {
  for (const file of files) {
    if (file.name.endsWith(".hope")) await openMemory(file);
    else if (state.id) await read(state.id, file);
    else notice("Make a memory first, then teach it documents.", { kind: "bad" });
  }
}

async function openMemory(file) {
  const name = await asked("Open a memory", "Name for it here", {
    value: file.name.replace(/( \(\d+\))?\.hope$/, "").replace(/[^A-Za-z0-9_.-]/g, "-").slice(0, 64),
    yes: "Open", pattern: "[A-Za-z0-9_.\\-]{1,64}",
    hint: "It becomes a memory of yours, with the same hash and the same answers.",
  });
  if (!name) return;
  const headers = { "content-type": "application/octet-stream" };
  await request("POST", `/v1/sessions/import?session=${encodeURIComponent(name)}`, { body: file, headers });
  await loadSessions();
  location.hash = `#/${encodeURIComponent(name)}/chat`;
  notice(`Opened “${name}”.`);
}

async function read(session, file) {
  const entry = {
    session, name: file.name, committed: 0, total: 0, pieces: [], surprises: new Map(),
    waits: "Opening the file …", error: null, done: false,
  };
  reading.unshift(entry);
  told();
  const form = new FormData();
  form.append("file", file, file.name);
  try {
    const response = await request("POST", pathOf(session, "/documents"), { body: form });
    for await (const { event, data } of eventsOf(response)) {
      const content = data ? JSON.parse(data) : {};
      if (event === "error") throw new Error(content.error.message);
      if (event === "opened") Object.assign(entry, { total: content.total_bytes, waits: "Reading …" });
      if (event === "learning") entry.waits = "Learning what it has read …";
      if (event === "progress") measured(entry, content);
      if (event === "result") Object.assign(entry, { done: true, waits: "", committed: entry.total, tokens: content.tokens, nats: content.surprise_nats });
      told();
    }
  } catch (error) {
    entry.error = error.message;
    failed(error);
  }
  told();
}

/** Text that was read stands in the log before it is learnt: it is shown at once. */
on("record", (record) => {
  const entry = reading.find((each) => each.name === record.document && each.session === state.id && !each.done);
  if (record.kind !== "document" || !entry) return;
  const text = record.said.map((each) => each.text).join("");
  entry.committed = Math.max(entry.committed, record.committed_bytes);
  entry.pieces.push({ text, end: record.committed_bytes, nats: entry.surprises.get(record.committed_bytes) ?? null });
  entry.pieces.splice(0, Math.max(0, entry.pieces.length - MOST_PIECES));
  told();
});

/** How much a piece surprised the memory is told when it was learnt. */
function measured(entry, progress) {
  entry.waits = "";
  entry.committed = Math.max(entry.committed, progress.committed_bytes);
  entry.surprises.set(progress.committed_bytes, progress.surprise_nats);
  for (const piece of entry.pieces) if (piece.end === progress.committed_bytes) piece.nats = progress.surprise_nats;
}

/** The session as a file of the reader's. */
export async function save(session) {
  const response = await request("GET", pathOf(session, "/export"));
  const url = URL.createObjectURL(await response.blob());
  const link = h("a", { href: url, download: `${session}.hope` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Learn everything again without a document; `progress` gets the share that is done. */
export async function forget(session, document_, progress = () => {}) {
  const response = await request("DELETE", pathOf(session, `/documents/${document_.split("/").map(encodeURIComponent).join("/")}`));
  await followJob(response, progress);
  notice(`Forgot ${document_}.`);
}

/** Wait for the end of a job; `progress` gets the share that is done. */
export async function followJob(response, progress) {
  for await (const { event, data } of eventsOf(response)) {
    const content = data ? JSON.parse(data) : {};
    if (event === "error") throw new Error(content.error.message);
    if (event === "job") progress(Number(content.folded_records) / Math.max(1, Number(content.total_records)));
  }
}

export const remove = (session) => call("DELETE", pathOf(session));
