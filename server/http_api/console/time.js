// The time machine: versions on a rail, what each was taught, and ways back.

import { call, pathOf } from "./api.js";
import { ago, asked, button, byId, confirmed, count, failed, h, icon, nats, notice, percent } from "./dom.js";
import { compareWith } from "./compare.js";
import { guardText, speedOf } from "./learning.js";
import { loadSessions, on, refresh, state } from "./state.js";

let box, rail, detail;
let chosen = null; // a version that somebody chose; otherwise the newest is shown
let selected = null;

export function showTime() {
  box = byId("view-time");
  rail = h("ol", { class: "rail" });
  detail = h("div", { class: "detail", "aria-live": "polite" });
  box.replaceChildren(
    h("header", { class: "view-head" }, h("h2", {}, "Time machine"),
      h("p", {}, "Every time it learns, a version is kept. Look at what each was taught, ask it, or go back to it.")),
    h("div", { class: "time-grid" }, rail, detail));
  on("chosen", () => { chosen = selected = null; rail.replaceChildren(); detail.replaceChildren(); });
  on("session", paint);
}

/** Show a version. */
export function openVersion(version) {
  chosen = version;
  location.hash = `#/${encodeURIComponent(state.id)}/time`;
  paint();
}

function paint() {
  const versions = [...state.versions].reverse();
  selected = versions.some((each) => each.version === chosen) ? chosen : versions[0]?.version;
  rail.replaceChildren(...versions.map((info) => {
    const learnt = consolidationsOf(info.version);
    const guards = learnt.flatMap((each) => each.guards ?? []);
    const present = info.version === state.session.version;
    return h("li", { class: `stop ${present ? "present" : ""}` },
      h("button", {
        type: "button", class: "stop-button", "aria-pressed": String(info.version === selected),
        on: { click: () => { chosen = info.version; paint(); } },
      },
      h("span", { class: "stop-name" }, info.version === 0 ? "The base model" : `Version ${info.version}`,
        present ? h("span", { class: "badge good" }, "now") : null,
        ...info.snapshots.map((name) => h("span", { class: "badge" }, name))),
      h("span", { class: "figures" }, [ago(info.create_time),
        ...learnt.filter((each) => each.tokens).slice(0, 1).map((each) => `surprise ${nats(each.surprise_before_nats)} → ${nats(each.surprise_after_nats)}`)].join(" · ")),
      guards.length ? h("span", { class: "guard" }, icon("shield"), guardText(guards[0].guard)) : null));
  }));
  paintDetail().catch(failed);
}

const consolidationsOf = (version) =>
  state.records.filter((record) => record.kind === "consolidation" && Number(record.memory_version) === version);

async function paintDetail() {
  const info = state.versions.find((each) => each.version === selected);
  if (!info) return;
  const version = info.version;
  const present = version === state.session.version;
  const taught = h("div", { class: "taught" });
  detail.replaceChildren(
    h("h3", {}, version === 0 ? "The base model" : `Version ${version}`),
    h("div", { class: "row wrap" },
      button("Ask it", () => compareWith("", present ? [] : [version]), { glyph: "columns" }),
      present ? button("Name it", snapshot, { glyph: "mark" }) : button("Roll back to it", () => rollback(version), { glyph: "clock" }),
      button("Fork", () => fork(version), { glyph: "plus" })),
    ...consolidationsOf(version).map((each) => h("p", { class: "figures" },
      `${speedOf(each.level ?? 0)} level: ${count(each.tokens ?? 0)} tokens, surprise ${nats(each.surprise_before_nats)} → ${nats(each.surprise_after_nats)}${each.drift ? `, drift ${percent(each.drift.relative_norm)}` : ""}`)),
    taught);
  if (version === 0) {
    taught.append(h("p", { class: "hint" }, "It knows what the model was trained on, and nothing of you."));
    return;
  }
  const parent = info.parent_version;
  if (parent === null || !state.versions.some((each) => each.version === parent)) {
    taught.append(h("p", { class: "hint" }, "The version before it is no longer kept, so there is nothing to compare it with."));
    return;
  }
  const found = await call("GET", pathOf(state.id, `/diff?from=${parent}&to=${version}&page_size=100`));
  if (selected !== version) return;
  const texts = found.taught.filter((each) => !each.taken_back);
  taught.replaceChildren(
    h("h4", {}, texts.length ? "What it was told since version " + parent : "Nothing new was said: it learnt more of what came before."),
    h("ul", {}, texts.map((each) => h("li", {},
      h("p", {}, each.excerpt + (each.truncated ? "…" : "")),
      h("p", { class: "figures" }, [each.document || "said by you", `${count(Number(each.learnable_tokens))} tokens`,
        each.surprise_nats === undefined ? null : `surprise ${nats(each.surprise_nats)}`].filter(Boolean).join(" · "))))));
}

async function rollback(version) {
  const before = state.session.version;
  const yes = await confirmed(`Go back to ${version ? `version ${version}` : "the base model"}?`,
    "What was said and learnt after it is no longer part of the memory. You can undo this.", "Roll back");
  if (!yes) return;
  try {
    await call("POST", pathOf(state.id, "/rollback"), { version });
    await refresh();
    chosen = null;
    paint();
    notice(`Rolled back to ${version ? `version ${version}` : "the base model"}.`, {
      action: "Undo", seconds: 20,
      listener: () => call("POST", pathOf(state.id, "/rollback"), { version: before })
        .then(() => notice("As it was before.")).catch(failed),
    });
  } catch (error) {
    failed(error);
  }
}

async function snapshot() {
  const name = await asked("Name this version", "Name", { hint: "A version with a name is kept for as long as it has one.", pattern: "[A-Za-z0-9_.\\-]{1,64}" });
  if (!name) return;
  await call("POST", pathOf(state.id, "/snapshots"), { snapshot_id: name }).then(() => refresh()).catch(failed);
}

async function fork(version) {
  const name = await asked("Fork", "Name of the new memory", {
    value: `${state.id}-v${version}`.slice(0, 64), yes: "Fork", pattern: "[A-Za-z0-9_.\\-]{1,64}",
    hint: "It begins with this version, and goes its own way.",
  });
  if (!name) return;
  try {
    await call("POST", pathOf(state.id, "/fork"), { session_id: name, version });
    await loadSessions();
    location.hash = `#/${encodeURIComponent(name)}/chat`;
  } catch (error) {
    failed(error);
  }
}
