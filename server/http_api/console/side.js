// The list of memories: choose one, make one, open one from a file.

import { call } from "./api.js";
import { asked, button, byId, failed, h, icon } from "./dom.js";
import { loadSessions, on, state } from "./state.js";
import { takeFiles } from "./documents.js";

const THEMES = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

export function showSide(showKeys) {
  const files = h("input", { type: "file", accept: ".hope", hidden: true, on: { change: () => {
    takeFiles([...files.files]).catch(failed);
    files.value = "";
  } } });
  const theme = button("", nextTheme, { kind: "quiet small", glyph: "sun", label: THEMES[chosenTheme()] });
  theme.id = "theme";
  byId("side").replaceChildren(
    h("div", { class: "brand" }, h("img", { src: "console/icon.svg", alt: "", width: 26, height: 26 }), h("span", {}, "hope")),
    h("div", { class: "side-head" }, h("h2", {}, "Memories"),
      button("", () => make().catch(failed), { kind: "quiet small", glyph: "plus", label: "New memory" })),
    h("ul", { class: "sessions", id: "sessions" }),
    h("div", { class: "side-foot" },
      button("Open a memory file", () => files.click(), { kind: "quiet", glyph: "up" }), files,
      h("div", { class: "row" }, theme,
        button("?", showKeys, { kind: "quiet small", label: "Keyboard" }))),
  );
  for (const name of ["sessions", "session", "chosen", "learning"]) on(name, paint);
}

function paint() {
  const rows = state.sessions.map((session) => {
    const learning = session.id === state.id && state.learning;
    return h("li", {}, h("a", {
      class: "session", href: `#/${encodeURIComponent(session.id)}/chat`,
      "aria-current": session.id === state.id ? "true" : null,
    }, h("span", { class: "session-name" }, session.title),
    learning ? h("span", { class: "pulse" }, h("span", { class: "visually-hidden" }, "learning")) : null,
    h("span", { class: "session-version" }, session.version ? `v${session.version}` : "new")));
  });
  byId("sessions").replaceChildren(...rows);
}

/** Make a memory, and go there. */
export async function make() {
  const name = await asked("New memory", "Name", {
    yes: "Create", pattern: "[A-Za-z0-9_.\\-]{1,64}", value: "",
    hint: "Letters, digits, “-”, “_” and “.”. It is private, starts as the plain base model, and keeps what you teach it.",
  });
  if (!name) return;
  await call("POST", "/v1/sessions", { session_id: name });
  await loadSessions();
  location.hash = `#/${encodeURIComponent(name)}/chat`;
}

/** The page where there is no memory yet. */
export function welcome() {
  return h("div", { class: "welcome" },
    h("img", { src: "console/icon.svg", alt: "", width: 52, height: 52 }),
    h("h2", {}, "A model that remembers"),
    h("p", {}, "A memory is a private copy of what the model knows, and it learns while you talk to it. Make one, tell it something, and ask again tomorrow."),
    button("Create a memory", () => make().catch(failed), { kind: "primary", glyph: "plus" }),
    h("p", { class: "hint" }, "Or drop a .hope file here to open a memory that somebody gave you."));
}

function chosenTheme() {
  return localStorage.getItem("hope.theme") ?? "system";
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(chosenTheme()) + 1) % names.length];
  localStorage.setItem("hope.theme", next);
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  const theme = byId("theme");
  theme.setAttribute("aria-label", THEMES[next]);
  theme.title = THEMES[next];
  theme.replaceChildren(icon("sun"));
}
