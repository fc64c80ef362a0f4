// The server's API: requests with the credential, server-sent events, errors as sentences.

import { asked } from "./dom.js";

const TOKEN = "hope.token";
let signingIn = null;

export class ApiError extends Error {
  constructor(status, { message = "The server cannot be reached.", code = "", param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

/** A response of the server, which must be a success. Asks for a token when it wants one. */
export async function request(method, path, { body, json, headers = {}, signal } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const sent = { ...headers };
    if (token) sent.authorization = `Bearer ${token}`;
    if (json !== undefined) sent["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers: sent, signal, body: json === undefined ? body : JSON.stringify(json) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0);
    }
    if (response.ok) return response;
    const found = await response.json().catch(() => ({}));
    if (response.status !== 401) throw new ApiError(response.status, found.error ?? { message: `The server answered ${response.status}.` });
    await signIn(found.error?.message);
  }
}

/** The JSON that the server answers with. */
export const call = async (method, path, json, more = {}) =>
  (await request(method, path, { json, ...more })).json();

/** The server-sent events of a response: {event, data, id}. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = { event: "", data: "" };
        for (const line of block.split("\n")) {
          const at = line.indexOf(":");
          const name = at ? line.slice(0, at) : "comment";
          fields[name] = line.slice(at + 1).trimStart();
        }
        yield fields;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The path of a session, or of something of it. */
export const pathOf = (session, rest = "") => `/v1/sessions/${encodeURIComponent(session)}${rest}`;

async function signIn(reason) {
  signingIn ??= asked("Sign in", "Token or API key", {
    type: "password", yes: "Sign in", hint: `${reason ?? ""} It is kept until this tab is closed.`,
  }).finally(() => { signingIn = null; });
  const token = await signingIn;
  if (!token) throw new ApiError(401, { message: "This server asks for a token or an API key." });
  sessionStorage.setItem(TOKEN, token);
}
