// When did it learn this? A text under every kept version, and the sentences that taught it.

import { call, pathOf } from "./api.js";
import { button, failed, h, nats, openDialog } from "./dom.js";
import { forget } from "./documents.js";
import { state } from "./state.js";
import { openVersion } from "./time.js";

/** Find where the memory has `text` from, which it said after `context`. */
export async function showOrigin(text, context) {
  const body = h("div", { class: "origin" }, h("p", { class: "thinking", role: "status" }, "Reading it under every version …"));
  const dialog = openDialog("When did it learn this?", [h("blockquote", { tabindex: 0 }, text), body], { wide: true });
  try {
    const found = await call("POST", pathOf(state.id, "/origin"), { text, context });
    body.replaceChildren(...shown(found, dialog));
  } catch (error) {
    dialog.close();
    failed(error);
  }
}

function shown(found, dialog) {
  const most = Math.max(...found.scores.map((score) => score.nats), 0.01);
  const known = found.learnt_in !== null;
  const [best] = found.passages;
  const source = best ? ` from ${best.document || "what you said"}` : "";
  return [
    h("p", { class: "verdict", role: "status" }, known ? `Learnt in version ${found.learnt_in}${source}.` : "No kept version made this much likelier: it is how the model talks, or the version is no longer kept."),
    h("ul", { class: "scores" }, found.scores.map((score) => {
      const bar = h("span", { class: "score-bar", "aria-hidden": "true" }, h("span", {}));
      bar.style.setProperty("--share", score.nats / most);
      return h("li", { class: score.version === found.learnt_in ? "jump" : "" },
        h("span", {}, score.version ? `Version ${score.version}` : "Base model"), bar,
        h("span", { class: "figures" }, `${nats(score.nats)} nats`));
    })),
    h("p", { class: "hint" }, "How much each version is surprised by it; shorter is better known."),
    ...(found.passages.length ? [h("h3", {}, "It was told"), h("ul", { class: "passages" }, found.passages.map((passage) => h("li", {},
      h("p", {}, passage.text),
      h("p", { class: "figures" }, passage.document || "said by you"))))] : []),
    known ? h("div", { class: "row end wrap" },
      best?.document ? button(`Forget ${best.document}`, () => {
        dialog.close();
        forget(state.id, best.document).catch(failed);
      }, { kind: "quiet", glyph: "trash" }) : null,
      button(`Open version ${found.learnt_in}`, () => { dialog.close(); openVersion(found.learnt_in); }, { kind: "primary", glyph: "clock" })) : "",
  ];
}
