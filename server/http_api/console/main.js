// The page as a whole: which memory and which view, the header, keys, drops.

import { call } from "./api.js";
import { button, byId, failed, h, icon, notice, openDialog } from "./dom.js";
import { choose, loadSessions, on, state, tell } from "./state.js";
import { showSide } from "./side.js";
import { focusComposer, newConversation, showChat, stopReply } from "./chat.js";
import { showKnown } from "./known.js";
import { showLearning } from "./learning.js";
import { showCompare } from "./compare.js";
import { showTime } from "./time.js";
import { takeFiles } from "./documents.js";

const VIEWS = [
  ["chat", "Chat", "chat"],
  ["known", "Taught", "list"],
  ["compare", "Compare", "columns"],
  ["time", "Time machine", "clock"],
  ["learning", "Learning", "spark"],
];
const app = byId("app");

function showTop() {
  const links = VIEWS.map(([view, text, glyph], index) =>
    h("a", { class: `tab tab-${view}`, href: hrefOf(view), "data-view": view, "aria-keyshortcuts": `Alt+${index + 1}` },
      icon(glyph), h("span", {}, text)));
  const menu = button("", openSide, { kind: "quiet menu-button", glyph: "menu", label: "Memories" });
  menu.setAttribute("aria-controls", "side");
  byId("top").replaceChildren(
    menu,
    h("div", { class: "title" }, h("h1", { id: "title" }), h("span", { class: "badge", id: "version" }), h("span", { class: "badge good", id: "intact", hidden: true })),
    h("nav", { class: "tabs", "aria-label": "Views" }, links),
  );
  paintTop();
}

function hrefOf(view) {
  return state.id ? `#/${encodeURIComponent(state.id)}/${view}` : "#/";
}

function paintTop() {
  const view = app.dataset.view;
  byId("title").textContent = state.session?.title ?? state.id ?? "hope";
  const version = byId("version");
  version.hidden = !state.session;
  version.textContent = state.session?.version ? `version ${state.session.version}` : "nothing learnt yet";
  for (const link of document.querySelectorAll(".tab")) {
    link.href = hrefOf(link.dataset.view);
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = state.session ? `${state.session.title} · hope` : "hope";
}

function openSide() {
  app.classList.add("side-open");
  byId("side").querySelector("a, button")?.focus();
}

function closeSide() {
  if (!app.classList.contains("side-open")) return;
  app.classList.remove("side-open");
  document.querySelector(".menu-button").focus();
}

/** Show what the address names; the first memory where it names none. */
function route() {
  if (location.hash && !location.hash.startsWith("#/")) return; // a place in the page
  const [, id = "", view = "chat"] = location.hash.split("/").map(decodeURIComponent);
  const known = VIEWS.some(([name]) => name === view) ? view : "chat";
  if (!id && state.sessions.length) {
    const [latest] = [...state.sessions].sort((one, other) => (one.update_time < other.update_time ? 1 : -1));
    location.replace(`#/${encodeURIComponent(latest.id)}/${known}`);
    return;
  }
  closeSide();
  app.dataset.view = known;
  app.classList.toggle("no-memory", !id);
  for (const name of ["chat", "known", "compare", "time"]) byId(`view-${name}`).hidden = name !== (known === "learning" ? "chat" : known);
  choose(id || null);
  paintTop();
  tell("view");
}

const KEYS = [
  ["?", "This list"], ["/", "Write a message"], ["Esc", "Stop a reply"],
  ["Alt + N", "New conversation"], ["Alt + M", "Memories"], ["Alt + 1 … 5", "Chat, Taught, Compare, Time machine, Learning"],
  ["Enter, Shift + Enter", "Send, new line"],
];

function showKeys() {
  openDialog("Keyboard", h("dl", { class: "keys" },
    KEYS.flatMap(([key, text]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, text)])));
}

function pressed(event) {
  const writing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    closeSide();
    stopReply();
  } else if (event.altKey && /^Digit[1-5]$/.test(event.code) && state.id) {
    event.preventDefault();
    location.hash = hrefOf(VIEWS[Number(event.code[5]) - 1][0]);
  } else if (event.altKey && event.code === "KeyN" && state.id) {
    event.preventDefault();
    newConversation();
  } else if (event.altKey && event.code === "KeyM") {
    event.preventDefault();
    openSide();
  } else if (writing || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  else if (event.key === "/" && state.id) {
    event.preventDefault();
    location.hash = hrefOf("chat");
    focusComposer();
  } else if (event.key === "?") showKeys();
}

function acceptDrops() {
  const veil = byId("drop");
  let depth = 0;
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (holdsFiles(event)) { depth += 1; veil.hidden = false; } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); veil.hidden = depth === 0; });
  addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    takeFiles([...event.dataTransfer.files]).catch(failed);
  });
}

async function start() {
  showTop();
  showSide(showKeys);
  showChat();
  showKnown();
  showCompare();
  showTime();
  showLearning();
  acceptDrops();
  addEventListener("hashchange", route);
  addEventListener("keydown", pressed);
  byId("scrim").addEventListener("click", closeSide);
  for (const name of ["chosen", "session", "sessions"]) on(name, paintTop);
  on("chosen", () => { byId("intact").hidden = true; });
  on("intact", () => {
    const badge = byId("intact");
    badge.hidden = false;
    badge.textContent = "restarted, memory intact";
    notice("The server was restarted. The memory is the same, bit for bit.");
  });
  await call("GET", "/v1/models"); // asks for a token first, where one is needed
  await loadSessions();
  route();
}

start().catch(failed);
