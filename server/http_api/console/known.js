// What it knows: the sentences that it was taught, where each is from, and forgetting them.

import { call, pathOf, request } from "./api.js";
import { ago, button, byId, confirmed, count, failed, h, notice, percent } from "./dom.js";
import { followJob } from "./documents.js";
import { on, state } from "./state.js";

const WAIT_MS = 200;
let box, search, list, more, timer;
let asked = 0; // the newest question; answers to older ones are dropped

export function showKnown() {
  box = byId("view-known");
  search = h("input", {
    type: "search", id: "known-search", placeholder: "Search", autocomplete: "off",
    on: { input: () => { clearTimeout(timer); timer = setTimeout(paint, WAIT_MS); } },
  });
  list = h("ul", { class: "statements" });
  more = h("div", {});
  box.replaceChildren(
    h("header", { class: "view-head" }, h("h2", {}, "What it was taught"),
      h("p", {}, "Every sentence that it may learn from. What you forget here is unlearnt, as if it had never been said.")),
    h("div", { class: "ask-form" }, h("label", { for: "known-search", class: "visually-hidden" }, "Search what it was taught"), search),
    list, more);
  on("chosen", () => { asked += 1; search.value = ""; list.replaceChildren(); more.replaceChildren(); });
  on("session", paint);
  on("view", paint);
}

function paint() {
  if (byId("app").dataset.view === "known" && state.session) load("").catch(failed);
}

async function load(token) {
  const mine = (asked += 1);
  const query = new URLSearchParams({ query: search.value.trim(), page_size: 100, page_token: token });
  const found = await call("GET", pathOf(state.id, `/statements?${query}`));
  if (mine !== asked) return;
  const rows = found.statements.map(shown);
  if (token) list.append(...rows);
  else if (rows.length) list.replaceChildren(...rows);
  else list.replaceChildren(h("li", { class: "empty" }, search.value.trim() ? "Nothing that it was taught has these words." : "Nothing yet. Tell it something in the chat, or drop a document here."));
  more.replaceChildren(found.next_page_token ? button("Show more", () => load(found.next_page_token).catch(failed)) : "");
}

function shown(statement) {
  const version = Number(statement.memory_version);
  const figures = [
    statement.document || "said by you",
    statement.create_time ? ago(Date.parse(statement.create_time) / 1000) : null,
    version ? `learnt in version ${version}` : statement.levels.length ? "learnt" : "waits to be learnt",
    statement.superseded_by ? "corrected since" : null,
    `${count(Number(statement.learnable_tokens))} tokens`,
  ].filter(Boolean).join(" · ");
  return h("li", { class: statement.superseded_by ? "superseded" : "" },
    h("div", {}, h("p", {}, statement.text.trim() + (statement.truncated ? "…" : "")), h("p", { class: "figures" }, figures)),
    button("Forget", (event) => forget(statement, event.target.closest("button")), { kind: "quiet tiny", "aria-label": `Forget: ${statement.text.trim()}` }));
}

async function forget(statement, element) {
  const text = "Everything else is learnt again as if this had never been said, which takes as long as learning it did. Conversations begin with an empty window.";
  if (!(await confirmed(`Forget “${statement.text.trim().slice(0, 60)}”?`, text, "Forget it"))) return;
  element.disabled = true;
  try {
    const response = await request("POST", pathOf(state.id, "/forget"), { json: { ids: [statement.id] } });
    await followJob(response, (share) => { element.textContent = percent(share); });
    notice("Forgotten.");
  } catch (error) {
    failed(error);
    element.disabled = false;
  }
}
