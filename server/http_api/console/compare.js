// One question, answered side by side with memory, without it, and by earlier versions.

import { eventsOf, pathOf, request } from "./api.js";
import { announce, button, byId, failed, h } from "./dom.js";
import { on, state } from "./state.js";

const MOST_COLUMNS = 4;
let box, input, chips, columns, ask, running = null;
let chosen = ["memory", "base"];

export function showCompare() {
  box = byId("view-compare");
  input = h("input", { type: "text", id: "compare-prompt", placeholder: "What is my cat called?", autocomplete: "off" });
  chips = h("div", { class: "chips", role: "group", "aria-label": "Who answers" });
  ask = h("button", { class: "button primary" }, h("span", {}, "Ask"));
  columns = h("div", { class: "columns" });
  box.replaceChildren(
    h("header", { class: "view-head" }, h("h2", {}, "With and without memory"),
      h("p", {}, "One question, each answered alone with an empty window. "), h("span", { class: "badge" }, "teaches nothing")),
    h("form", { class: "ask-form", on: { submit: (event) => { event.preventDefault(); run(); } } },
      h("label", { for: "compare-prompt", class: "visually-hidden" }, "Question"), input, ask),
    chips, columns,
    h("p", { class: "hint legend" }, "Tinted words are those that the model was unsure of."),
  );
  on("chosen", () => { stop(); chosen = ["memory", "base"]; columns.replaceChildren(empty()); paintChips(); });
  on("session", paintChips);
}

const empty = () => h("p", { class: "empty" }, "Ask what only this memory can know. The base model answers beside it, and so does any version that you choose.");

/** Ask this, here and now; `versions` are asked beside the memory. */
export function compareWith(prompt, versions = []) {
  location.hash = `#/${encodeURIComponent(state.id)}/compare`;
  input.value = prompt ?? "";
  chosen = ["memory", ...versions.slice(0, MOST_COLUMNS - 2), "base"];
  paintChips();
  if (prompt) run();
  else input.focus();
}

function paintChips() {
  const versions = state.versions.map((each) => each.version).filter((version) => version > 0 && version !== state.session?.version);
  const all = ["memory", ...versions.reverse(), "base"];
  chosen = chosen.filter((column) => all.includes(column));
  chips.replaceChildren(...all.map((column) => {
    const isOn = chosen.includes(column);
    return h("button", {
      type: "button", class: "chip", "aria-pressed": String(isOn), disabled: !isOn && chosen.length >= MOST_COLUMNS,
      on: { click: () => {
        chosen = isOn ? chosen.filter((each) => each !== column) : all.filter((each) => each === column || chosen.includes(each));
        paintChips();
      } },
    }, titleOf(column));
  }));
}

const titleOf = (column) => ({ memory: "Memory", base: "Base model" }[column] ?? `Version ${column}`);

function stop() {
  running?.abort();
  running = null;
}

async function run() {
  const prompt = input.value.trim();
  if (!prompt || !chosen.length) return;
  stop();
  running = new AbortController();
  const { signal } = running;
  const cards = new Map(chosen.map((column) => [typeof column === "number" ? `v${column}` : column, card(column)]));
  columns.replaceChildren(...[...cards.values()].map((each) => each.element));
  columns.style.setProperty("--columns", cards.size);
  ask.disabled = true;
  try {
    const json = { prompt, columns: chosen, max_tokens: 64 };
    const response = await request("POST", pathOf(state.id, "/compare"), { json, signal });
    for await (const { event, data } of eventsOf(response)) {
      const content = data ? JSON.parse(data) : {};
      const each = cards.get(event);
      if (!each) continue;
      if (content.error) each.fail(content.error.message);
      else if (content.memory_version !== undefined) each.began(content.memory_version);
      else if (content.text !== undefined) each.add(content);
      else each.end(content);
    }
    announce([...cards.values()].map((each) => `${each.title}: ${each.text()}`).join(" "));
  } catch (error) {
    failed(error);
  } finally {
    ask.disabled = false;
  }
}

function card(column) {
  const title = titleOf(column);
  const answer = h("p", { class: "answer" }, h("span", { class: "thinking" }, "…"));
  const foot = h("p", { class: "figures" });
  let waiting = true;
  let sum = 0;
  let tokens = 0;
  const element = h("article", { class: `column ${column === "memory" ? "with" : ""}` }, h("h3", {}, title), answer, foot);
  return {
    element, title,
    text: () => answer.textContent,
    began: (version) => { foot.textContent = version ? `version ${version}` : "no memory"; },
    add(content) {
      if (waiting) answer.replaceChildren();
      waiting = false;
      // A token may be part of a character; then the text comes without tints.
      const whole = content.tokens.map(([text]) => text).join("") === content.text;
      for (const [text, logprob] of whole ? content.tokens : [[content.text, 0]]) {
        const span = h("span", {}, text);
        span.style.setProperty("--surprise", Math.min(1, -logprob / 4).toFixed(2));
        answer.append(span);
      }
      for (const [, logprob] of content.tokens) sum += logprob;
      tokens += content.tokens.length;
    },
    end(content) {
      if (waiting) answer.textContent = "(no reply)";
      const sure = tokens ? ` · ${Math.round(100 * Math.exp(sum / tokens))} % sure of a word` : "";
      foot.textContent += `${sure}${content.finish_reason === "length" ? " · cut" : ""}`;
    },
    fail: (message) => { answer.textContent = message; },
  };
}
