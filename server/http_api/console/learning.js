// The panel that shows learning: levels and their boundaries, documents as they are read, what each
// consolidation did, what guards decided.

import { call, pathOf } from "./api.js";
import { announce, bytes, button, byId, confirmed, count, failed, h, icon, nats, notice, percent, toggle } from "./dom.js";
import { forget, onReading, pickDocuments, reading, remove, save } from "./documents.js";
import { choose, loadSessions, on, state } from "./state.js";

const SPEEDS = ["Fast", "Medium", "Slow"];
const MOST_ENTRIES = 60;
const GUARDS = {
  spans_skipped: "Some text surprised it beyond reason and was not learnt",
  update_clipped: "The change was too large and was shrunk",
  level_decayed: "The level had grown too far and was scaled back",
  consolidation_rejected: "It harmed other knowledge, so nothing of it was kept",
  level_frozen: "Too many rejections in a row: the level is frozen",
  level_is_frozen: "The level is frozen, so this passed by",
  consolidation_diverged: "Learning diverged, so nothing of it was kept",
  surprise_changed: "What it is taught surprises it more, or less, than before",
  probes_changed: "It does more, or less, to other texts than before",
};
let box, levels, status, documents, feed, head, timer;

export const speedOf = (level) => SPEEDS[level] ?? `Level ${level}`;
export const guardText = (guard) => GUARDS[guard] ?? guard;

export function showLearning() {
  box = byId("learning");
  head = h("div", { class: "panel-head" });
  status = h("p", { class: "status", role: "status" });
  levels = h("ul", { class: "levels" });
  documents = h("div", { class: "documents" });
  feed = h("ol", { class: "feed" });
  box.replaceChildren(
    head, status, levels,
    h("div", { class: "section-head" }, h("h3", {}, "Documents"),
      button("Add", pickDocuments, { kind: "quiet small", glyph: "plus", label: undefined })),
    documents,
    h("div", { class: "section-head" }, h("h3", {}, "What happened")), feed,
    h("div", { class: "panel-foot" },
      button("Save as a file", () => save(state.id).catch(failed), { kind: "quiet", glyph: "down" }),
      button("Delete", erase, { kind: "quiet", glyph: "trash" })),
  );
  on("chosen", () => { feed.replaceChildren(); paint(); });
  on("session", paint);
  on("learning", () => {
    paintStatus();
    if (state.learning) announce("Learning began.");
  });
  on("record", (record) => {
    const entry = shown(record);
    if (!entry) return;
    feed.prepend(entry);
    while (feed.children.length > MOST_ENTRIES) feed.lastChild.remove();
  });
  onReading(paintDocuments);
}

function paint() {
  box.classList.toggle("hidden", !state.id);
  const session = state.session;
  if (!session) return;
  head.replaceChildren(
    h("h2", {}, "Learning"),
    toggle(session.frozen ? "Off" : "On", !session.frozen, (now) => {
      call("POST", pathOf(state.id, "/freeze"), { frozen: !now })
        .then(() => notice(now ? "It learns again." : "Learning is off: what is said meanwhile passes by."))
        .catch((error) => { failed(error); paint(); });
    }, { "aria-label": "Learning of this memory" }),
  );
  levels.replaceChildren(...session.levels.map((level, index) => shownLevel(session, level, index)));
  paintStatus();
  paintDocuments();
}

function shownLevel(session, level, index) {
  const period = Number(level.period_tokens);
  // A flush learns before the boundary; what waits is what the bar holds.
  const filled = index === 0 ? Math.min(session.pending, period) : session.learnable % period;
  const share = Math.min(1, filled / period);
  const bar = h("div", {
    class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": period, "aria-valuenow": filled,
    "aria-label": `${speedOf(index)} level: ${filled} of ${period} tokens to its next boundary`,
  }, h("span", {}));
  bar.style.setProperty("--share", share);
  const before = level.surprise_before_nats;
  const after = level.surprise_after_nats;
  return h("li", { class: `level ${state.learning?.level === index ? "busy" : ""}` },
    h("div", { class: "level-head" }, h("span", { class: "level-name" }, speedOf(index)),
      h("span", { class: "figures" }, level.frozen ? "frozen" : `${count(filled)} / ${count(period)} tokens`)),
    bar,
    h("div", { class: "figures" }, Number(level.updates)
      ? `drift ${percent(level.relative_norm)} · surprise ${nats(before)} → ${nats(after)}`
      : "has not learnt yet"));
}

function paintStatus() {
  clearInterval(timer);
  const tick = () => {
    if (state.learning) {
      const seconds = Math.round((Date.now() - state.learning.since) / 1000);
      const { fraction } = state.learning;
      status.replaceChildren(
        h("span", { class: "pulse", "aria-hidden": "true" }), `${speedOf(state.learning.level)} level learns`,
        h("span", { class: "figures", "aria-hidden": "true" }, ` ${fraction === null ? "" : `${percent(fraction)} · `}${seconds} s`));
      return;
    }
    const waiting = state.session?.pending ?? 0;
    status.replaceChildren(
      h("span", {}, waiting ? `${count(waiting)} tokens wait to be learnt` : "Everything it was told is learnt"),
      waiting && !state.session.frozen ? button("Learn now", learnNow, { kind: "quiet tiny" }) : "");
  };
  tick();
  if (state.learning) timer = setInterval(tick, 1000);
  for (const [index, item] of [...levels.children].entries()) item.classList.toggle("busy", state.learning?.level === index);
}

function learnNow() {
  call("POST", pathOf(state.id, "/consolidate"), {}).catch(failed);
}

function paintDocuments() {
  const mine = reading.filter((entry) => entry.session === state.id);
  const active = mine.filter((entry) => !entry.done && !entry.error);
  const known = (state.session?.documents ?? []).filter((each) => !active.some((entry) => entry.name === each.name));
  const shownNow = [...active, ...mine.filter((entry) => entry.done).slice(0, 1)];
  documents.replaceChildren(
    ...shownNow.map(shownReading),
    ...(known.length ? [h("ul", { class: "document-list" }, known.map(shownDocument))] : []),
    ...(known.length || shownNow.length ? [] : [h("p", { class: "hint" }, "Drop a PDF, Word, HTML, Markdown or text file anywhere, and watch it being learnt.")]),
  );
  for (const scroller of documents.querySelectorAll(".reading-text")) scroller.scrollTop = scroller.scrollHeight;
}

/** A document on its way: each piece is tinted by how much it surprised the memory. */
function shownReading(entry) {
  const share = entry.total ? entry.committed / entry.total : 0;
  const bar = h("div", {
    class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100,
    "aria-valuenow": Math.round(100 * share), "aria-label": `Reading ${entry.name}`,
  }, h("span", {}));
  bar.style.setProperty("--share", share);
  const text = h("div", { class: "reading-text", tabindex: 0, role: "region", "aria-label": `Text of ${entry.name}` },
    entry.pieces.map((piece) => {
      const span = h("span", { title: piece.nats === null ? "" : `surprise ${nats(piece.nats)} nats per token` }, piece.text);
      span.style.setProperty("--surprise", Math.min(1, (piece.nats ?? 0) / 6).toFixed(2));
      return span;
    }));
  return h("div", { class: `reading ${entry.done ? "done" : ""}` },
    h("div", { class: "level-head" }, h("span", { class: "level-name" }, entry.name),
      h("span", { class: "figures" }, entry.done ? "learnt" : entry.waits || `${bytes(entry.committed)} of ${bytes(entry.total)}`)),
    bar,
    entry.pieces.length ? text : null,
    entry.done ? h("p", { class: "figures" }, `${count(entry.tokens)} tokens, surprise ${nats(entry.nats)} nats a token when it read them`) : null);
}

function shownDocument(each) {
  const forgetting = button("Forget", async (event) => {
    const text = "Everything else is learnt again without it, which takes as long as learning it did.";
    if (!(await confirmed(`Forget ${each.name}?`, text, "Forget it"))) return;
    const element = event.target.closest("button");
    element.disabled = true;
    try {
      await forget(state.id, each.name, (share) => { element.textContent = percent(share); });
    } catch (error) {
      failed(error);
      element.disabled = false;
    }
  }, { kind: "quiet tiny", label: undefined, "aria-label": `Forget ${each.name}` });
  return h("li", {}, h("span", { class: "document-name" }, each.name),
    h("span", { class: "figures" }, each.ended ? bytes(Number(each.committed_bytes)) : "unfinished"), forgetting);
}

async function erase() {
  const id = state.id;
  if (!(await confirmed(`Delete “${state.session.title}”?`, "The memory, its versions and its log are erased. Save it as a file first if you may want it back.", "Delete for good"))) return;
  try {
    await remove(id);
    choose(null);
    await loadSessions();
    location.hash = "#/";
  } catch (error) {
    failed(error);
  }
}

/** An entry of the list; null for a record that says nothing to people. */
function shown(record) {
  switch (record.kind) {
    case "turn": {
      const text = record.said.findLast((each) => each.speaker === "user")?.text ?? "";
      return entry(record.learnable_tokens ? "told" : "quiet", "chat", text,
        record.learnable_tokens ? `${count(record.learnable_tokens)} tokens to learn` : "taught nothing");
    }
    case "document":
      return record.ended ? entry("told", "clip", `Read ${record.document}`, bytes(record.committed_bytes)) : null;
    case "consolidation": return consolidation(record);
    case "rollback": return entry("plain", "clock", `Rolled back to version ${record.version}`, "");
    case "reset": return entry("plain", "clock", "Levels were reset", "");
    case "forget": return entry("plain", "trash", `Forgot ${record.document || "what it was told"}`, "");
    case "freeze": return entry("plain", "stop", "Learning was switched off", "");
    case "unfreeze": return entry("plain", "spark", "Learning was switched on", "");
    default: return null;
  }
}

const entry = (kind, glyph, text, figures, ...more) =>
  h("li", { class: `entry ${kind}` }, icon(glyph), h("div", {}, h("p", { class: "entry-text" }, text), figures ? h("p", { class: "figures" }, figures) : null, ...more));

function consolidation(record) {
  const before = record.surprise_before_nats;
  const after = record.surprise_after_nats;
  const most = Math.max(before ?? 0, after ?? 0, 0.01);
  const bars = before === undefined || !record.tokens ? null : h("div", { class: "before-after", "aria-hidden": "true" },
    ...[["before", before], ["after", after]].map(([name, value]) => {
      const bar = h("span", { class: name });
      bar.style.setProperty("--share", value / most);
      return bar;
    }));
  const drift = record.drift ? ` · change ${percent(record.drift.update_ratio)} · drift ${percent(record.drift.relative_norm)}` : "";
  const text = h("span", {}, h("strong", {}, `Version ${record.memory_version}`), `: the ${speedOf(record.level ?? 0).toLowerCase()} level learnt`);
  return h("li", { class: "entry learnt" }, icon("spark"), h("div", {},
    h("p", { class: "entry-text" }, text),
    h("p", { class: "figures" }, `surprise ${nats(before)} → ${nats(after)} · ${count(record.tokens ?? 0)} tokens${drift}`),
    bars,
    ...(record.guards ?? []).map((each) => h("p", { class: "guard" }, icon("shield"), guardText(each.guard)))));
}
