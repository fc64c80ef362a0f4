// Elements, notices and dialogs. Text is always set as text: no string becomes markup.

export const byId = (id) => document.getElementById(id);

/** An element: properties are attributes, `on` holds listeners, `class` is its classes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const PATHS = {
  plus: "M10 4v12M4 10h12",
  menu: "M3 6h14M3 10h14M3 14h14",
  send: "M10 16V5M5 9.5 10 4.5l5 5",
  stop: "M6 6h8v8H6z",
  clip: "m14.5 9.5-5 5a3 3 0 0 1-4.3-4.3l6-6a2 2 0 0 1 2.9 2.9l-6 6a1 1 0 0 1-1.5-1.4l5-5",
  clock: "M10 5.5V10l3 2M17 10a7 7 0 1 1-14 0 7 7 0 0 1 14 0Z",
  columns: "M3.5 4.5h5v11h-5zM11.5 4.5h5v11h-5z",
  list: "M7.5 5.5H17M7.5 10H17M7.5 14.5H17M3.5 5.5h.1M3.5 10h.1M3.5 14.5h.1",
  chat: "M3.5 5.5h13v8.5h-7l-3.5 3v-3H3.5z",
  spark: "M10 3v4M10 13v4M3 10h4M13 10h4M5.5 5.5l2 2M12.5 12.5l2 2M14.5 5.5l-2 2M7.5 12.5l-2 2",
  down: "M10 3.5v9M6 9l4 4 4-4M4 16.5h12",
  up: "M10 13V4M6 7.5l4-4 4 4M4 16.5h12",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  shield: "M10 2.8 16 5v5c0 3.6-2.5 6-6 7.3C6.5 16 4 13.6 4 10V5z",
  close: "M5 5l10 10M15 5 5 15",
  trash: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6",
  mark: "M5.5 3.5h9v13L10 13l-4.5 3.5z",
};

/** An icon; what it stands for is said by the text beside it, or the label of its button. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button: with a text, or with an icon alone and a label for those who do not see it. */
export function button(text, listener, { kind = "", glyph, label, ...more } = {}) {
  return h(
    "button",
    { type: "button", class: `button ${kind}`, "aria-label": label, title: text ? undefined : label, on: { click: listener }, ...more },
    glyph ? icon(glyph) : null,
    text ? h("span", {}, text) : null,
  );
}

/** A switch with its text; `listener` gets whether it is on. */
export function toggle(text, on, listener, more = {}) {
  const element = h(
    "button",
    {
      type: "button", class: "switch", role: "switch", "aria-checked": String(on), ...more,
      on: { click: () => {
        const now = element.getAttribute("aria-checked") !== "true";
        element.setAttribute("aria-checked", String(now));
        listener(now);
      } },
    },
    h("span", { class: "switch-track", "aria-hidden": "true" }),
    h("span", { class: "switch-text" }, text),
  );
  return element;
}

/** Say something to screen readers. */
export function announce(text) {
  byId("live").textContent = text;
}

/** Show a notice for a while, with an action if there is one. */
export function notice(text, { kind = "", action, listener, seconds = 7 } = {}) {
  const close = () => element.remove();
  const element = h(
    "div",
    { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" },
    h("p", {}, text),
    action ? button(action, () => { close(); listener(); }, { kind: "quiet" }) : null,
    button("", close, { kind: "quiet small", glyph: "close", label: "Dismiss" }),
  );
  byId("toasts").append(element);
  if (seconds) setTimeout(close, seconds * 1000);
  return element;
}

/** Show what went wrong. Whoever stopped something knows that already. */
export function failed(error) {
  if (error.name !== "AbortError") notice(error.message, { kind: "bad", seconds: 12 });
}

/** Open a dialog with this content; it goes away when it is closed. */
export function openDialog(title, content, { wide = false } = {}) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const dialog = h(
    "dialog",
    { class: `dialog ${wide ? "wide" : ""}`, "aria-labelledby": "dialog-title" },
    h("header", {}, heading, button("", () => dialog.close(), { kind: "quiet small", glyph: "close", label: "Close" })),
    h("div", { class: "dialog-body" }, content),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask for a yes; true when it is given. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    let answer = false;
    const dialog = openDialog(title, [
      h("p", {}, text),
      h("div", { class: "row end" },
        button("Cancel", () => dialog.close(), { kind: "quiet" }),
        button(yes, () => { answer = true; dialog.close(); }, { kind: "primary" })),
    ]);
    dialog.addEventListener("close", () => resolve(answer));
  });
}

/** Ask for a line of text; null when nobody gives one. */
export function asked(title, label, { value = "", hint = "", yes = "Save", pattern, type = "text" } = {}) {
  return new Promise((resolve) => {
    let answer = null;
    const input = h("input", { id: "asked", type, value, pattern, required: true, autocomplete: "off", spellcheck: "false" });
    const form = h(
      "form",
      { on: { submit: (event) => { event.preventDefault(); answer = input.value.trim(); dialog.close(); } } },
      h("label", { for: "asked" }, label), input, hint ? h("p", { class: "hint" }, hint) : null,
      h("div", { class: "row end" },
        button("Cancel", () => dialog.close(), { kind: "quiet" }),
        h("button", { class: "button primary" }, yes)),
    );
    const dialog = openDialog(title, form);
    dialog.addEventListener("close", () => resolve(answer));
    input.select();
  });
}

export const count = (number) => Number(number).toLocaleString("en");
export const nats = (number) => (number === undefined || number === null ? "–" : Number(number).toFixed(2));
export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
export const bytes = (size) => (size < 1024 ? `${size} B` : size < 1 << 20 ? `${Math.round(size / 1024)} kB` : `${(size / (1 << 20)).toFixed(1)} MB`);

/** A moment, as people say it. */
export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  if (past < 45) return "just now";
  if (past < 3000) return `${Math.max(1, Math.round(past / 60))} min ago`;
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}
