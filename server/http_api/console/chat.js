// The conversation: what was said, a reply as it comes, and the field to write in.

import { call, eventsOf, pathOf, request } from "./api.js";
import { announce, button, byId, count, failed, h, icon, nats, notice, toggle } from "./dom.js";
import { on, state } from "./state.js";
import { pickDocuments } from "./documents.js";
import { showOrigin } from "./origin.js";
import { compareWith } from "./compare.js";
import { welcome } from "./side.js";

// What may be told, and what may be asked once it was.
const EXAMPLES = [
  ["My cat is called Bruno.", "What is my cat called?"],
  ["I work as a bookbinder.", "What do I work as?"],
  ["My sister is called Clara.", "What is my sister called?"],
];

let conversation = null;
let turns = []; // {seq, user, reply, learn, tokens, nats, version}; seq is null until it is durable
let stopping = null;
let learns = true;
let box, log, list, composer, send, select, status;

export function showChat() {
  box = byId("view-chat");
  on("chosen", begin);
  on("session", () => {
    paintConversations();
    if (!conversation) resume();
    else if (!turns.length) paint();
  });
  on("record", (record) => {
    if (record.kind === "turn" && record.conversation === conversation) taken(record);
    if (record.kind === "forget" && conversation) open(conversation);
  });
  on("learning", paintStatus);
}

function begin() {
  conversation = null;
  turns = [];
  stopReply();
  if (!state.id) {
    box.replaceChildren(welcome());
    return;
  }
  list = h("ol", { class: "turns" });
  log = h("div", { class: "log", tabindex: 0, role: "region", "aria-label": "Conversation" }, list);
  composer = h("textarea", {
    rows: 1, id: "composer", placeholder: "Tell it something, or ask",
    "aria-label": "Message", on: { input: grow, keydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        submit();
      }
    } },
  });
  send = button("", () => (stopping ? stopReply() : submit()), { kind: "primary round", glyph: "send", label: "Send" });
  select = h("select", { "aria-label": "Conversation", on: { change: () => open(select.value) } });
  status = h("p", { class: "chat-status", role: "status" });
  box.replaceChildren(
    h("div", { class: "chat-bar" },
      select,
      button("New conversation", newConversation, { kind: "quiet", glyph: "plus", "aria-keyshortcuts": "Alt+N" })),
    log, status,
    h("div", { class: "composer" },
      composer,
      h("div", { class: "composer-row" },
        button("", pickDocuments, { kind: "quiet small", glyph: "clip", label: "Add a document" }),
        toggle("Learn from this", learns, (now) => { learns = now; }),
        h("span", { class: "grow" }), send)),
  );
  paint();
}

/** Go on with the conversation that was used last. */
function resume() {
  open(conversations()[0] ?? fresh());
}

/** Conversations that have a window, the last one first. Those that only documents were read in hold
 * nothing to show. */
function conversations() {
  const kinds = (name) => new Set(state.records.filter((record) => record.conversation === name).map((record) => record.kind));
  return (state.session?.conversations ?? []).filter((name) => {
    const found = kinds(name);
    return found.has("turn") || !found.has("document");
  }).reverse();
}

const fresh = () => `chat-${Math.random().toString(36).slice(2, 8)}`;

function open(name) {
  conversation = name;
  turns = [];
  for (const record of state.records) if (record.kind === "turn" && record.conversation === name) taken(record, false);
  paintConversations();
  paint();
}

/** Close the conversation, which is learnt then, and begin another one with an empty window. */
export async function newConversation() {
  const before = conversation;
  open(fresh());
  focusComposer();
  if (!state.session?.conversations.includes(before)) return;
  try {
    await call("POST", pathOf(state.id, "/end_conversation"), { conversation: before, wait: false });
    if (state.session.pending) notice("The conversation is over: what it taught is being learnt.");
  } catch (error) {
    failed(error);
  }
}

export function focusComposer() {
  composer?.focus();
}

export function stopReply() {
  stopping?.abort();
}

/** A turn of the log: one that was just sent, or one that somebody else made. */
function taken(record, paints = true) {
  const said = record.said.filter((each) => each.speaker === "user");
  const reply = record.said.findLast((each) => each.speaker === "assistant");
  const user = said.length ? said[said.length - 1].text : "";
  let turn = turns.find((each) => each.seq === null && each.user === user);
  if (!turn) turns.push((turn = { user, reply: "", nats: null, version: null }));
  Object.assign(turn, { seq: record.seq, reply: reply?.text || turn.reply, tokens: record.learnable_tokens, learn: record.learnable_tokens > 0 });
  if (paints) paint();
}

async function submit() {
  const text = composer.value.trim();
  if (!text || stopping) return;
  if (!conversation) open(fresh()); // sent before the session was read
  const before = turns.flatMap((turn) => [{ role: "user", content: turn.user }, { role: "assistant", content: turn.reply }]);
  const turn = { seq: null, user: text, reply: "", learn: learns, tokens: null, nats: null, version: null, busy: true };
  turns.push(turn);
  composer.value = "";
  grow();
  stopping = new AbortController();
  paint();
  const { signal } = stopping;
  const mine = turns;
  try {
    const response = await request("POST", "/v1/chat/completions", {
      signal,
      json: {
        model: `hope/${state.id}`, stream: true,
        messages: [...before.filter((message) => message.content), { role: "user", content: text }],
        hope: { conversation, learn: learns },
      },
    });
    await read(response, turn);
  } catch (error) {
    failed(error);
    // Nothing happened if nothing came: the message goes back to its writer.
    if (!turn.reply && mine === turns) {
      turns.splice(turns.indexOf(turn), 1);
      composer.value ||= text;
      grow();
    }
  } finally {
    turn.busy = false;
    stopping = null;
    paint();
  }
}

async function read(response, turn) {
  let spoken = 0;
  for await (const { data, comment } of eventsOf(response)) {
    if (comment) turn.waits = comment;
    if (!data || data === "[DONE]") continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    turn.reply += chunk.choices[0]?.delta.content ?? "";
    if (chunk.hope) {
      Object.assign(turn, {
        version: chunk.hope.memory_version, tokens: chunk.hope.learnable_tokens,
        nats: chunk.hope.surprise_nats, behind: chunk.hope.learning,
      });
    }
    // Sentence by sentence: a screen reader cannot follow tokens.
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => turn.reply.lastIndexOf(mark)));
    if (end > spoken) {
      announce(turn.reply.slice(spoken, end + 1));
      spoken = end + 1;
    }
    paintReply(turn);
  }
  announce(turn.reply.slice(spoken) || "The reply is empty.");
}

function paintConversations() {
  if (!select) return;
  const names = conversations();
  if (conversation && !names.includes(conversation)) names.unshift(conversation);
  select.replaceChildren(...names.map((name) => h("option", { value: name }, titleOf(name))));
  select.value = conversation ?? "";
}

/** A conversation by what it began with, since its name says little. */
function titleOf(name) {
  const first = state.records.find((record) => record.kind === "turn" && record.conversation === name);
  const text = first?.said.find((each) => each.speaker === "user")?.text;
  if (text) return text.length > 44 ? `${text.slice(0, 42)}…` : text;
  return name === conversation && name.startsWith("chat-") ? "New conversation" : name;
}

function paint() {
  if (!state.id || !list) return;
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  if (turns.length) list.replaceChildren(...turns.map(shown));
  else list.replaceChildren(h("li", { class: "empty-chat" }, emptyChat()));
  const busy = Boolean(stopping);
  send.setAttribute("aria-label", busy ? "Stop the reply" : "Send");
  send.title = busy ? "Stop the reply" : "Send";
  send.replaceChildren(icon(busy ? "stop" : "send"));
  paintStatus();
  if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

function emptyChat() {
  const told = new Set(state.records.flatMap((record) => (record.said ?? []).map((each) => each.text)));
  const knows = state.session?.learnable > 0;
  const questions = EXAMPLES.filter(([statement]) => told.has(statement)).map(([, question]) => question);
  const examples = questions.length ? questions : knows ? [] : EXAMPLES.map(([statement]) => statement);
  return h("div", {},
    h("h2", {}, knows ? "An empty window, the same memory" : "Teach it something"),
    h("p", {}, knows
      ? "Nothing of earlier conversations is in the prompt. What it answers here, it has learnt."
      : "Tell it a fact about yourself, begin a new conversation, and ask. It answers from memory: nothing is looked up."),
    h("ul", { class: "examples" }, examples.map((text) => h("li", {}, button(text, () => {
      composer.value = text;
      grow();
      focusComposer();
    }, { kind: "example" })))));
}

function shown(turn) {
  const reply = h("div", { class: "reply-text" });
  turn.element = reply;
  const quiet = turn.learn === false;
  const figures = [
    turn.version !== null ? `version ${turn.version}` : null,
    turn.learn ? (turn.tokens ? `${count(turn.tokens)} tokens to learn` : null) : "not learnt",
    turn.nats !== null && turn.learn ? `surprise ${nats(turn.nats)}` : null,
    turn.behind ? "still learning when it answered" : null,
  ].filter(Boolean).join(" · ");
  const item = h("li", { class: `turn ${quiet ? "side-call" : ""}` },
    h("div", { class: "said" }, h("span", { class: "visually-hidden" }, "You: "), turn.user),
    h("div", { class: "reply" }, h("span", { class: "visually-hidden" }, "Memory: "), reply,
      turn.busy ? null : h("div", { class: "turn-foot" }, h("span", { class: "figures" }, figures),
        turn.reply ? button("When did it learn this?", () => origin(turn), { kind: "quiet tiny" }) : null,
        button("Without memory?", () => compareWith(turn.user), { kind: "quiet tiny" }))));
  paintReply(turn);
  return item;
}

function origin(turn) {
  const chosen = String(getSelection()).trim();
  showOrigin(chosen && turn.reply.includes(chosen) ? chosen : turn.reply.trim(), turn.user);
}

function paintReply(turn) {
  if (!turn.element) return;
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  const waits = { learning: "Learning what you taught it before …", waiting: "Waiting …" }[turn.waits] ?? "";
  if (turn.reply) turn.element.textContent = turn.reply;
  else turn.element.replaceChildren(h("span", { class: "thinking" }, turn.busy ? waits || "…" : "(no reply)"));
  if (wasAtEnd) log.scrollTop = log.scrollHeight;
}

function paintStatus() {
  if (!status) return;
  status.textContent = state.learning ? "Learning what you taught it. You can go on writing." : "";
}

function grow() {
  composer.style.height = "auto";
  composer.style.height = `${Math.min(composer.scrollHeight, 200)}px`;
}
