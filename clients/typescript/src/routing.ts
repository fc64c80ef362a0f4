/**
 * The header by which a proxy sends all calls about a session to the same server.
 *
 * Any server can serve any session; the one that served it last has its memory and its window ready.
 * The header is a hint, never looked at by servers: names come from the requests.
 */

import { createHash } from "node:crypto";

import { ME } from "./names.js";

export const SESSION_HEADER = "hope-session";

// Names that servers accept; anything else they refuse, wherever it goes.
const NAME = /^users\/(@me|[A-Za-z0-9_.%-]{1,768})\/sessions\/[A-Za-z0-9_.-]{1,64}/;

/**
 * Value of the header for calls about the session of this name, or about something of it.
 *
 * `users/@me` is made a user's own by the token, so that not everybody's sessions of one name go to
 * the same server.
 */
export function sessionHeader(name: string, token = ""): string | undefined {
  const match = NAME.exec(name);
  if (match === null) {
    return undefined;
  }
  if (match[1] !== ME) {
    return match[0];
  }
  const tag = createHash("sha256").update(subjectOf(token)).digest("hex").slice(0, 16);
  return match[0].replace(ME, tag);
}

/**
 * Identity that stays the same when a user's token is replaced; of no token that is read here is
 * anything believed.
 */
function subjectOf(token: string): string {
  try {
    const body = Buffer.from(token.split(".")[1] ?? "", "base64url").toString("utf8");
    const claims: unknown = JSON.parse(body);
    const subject = (claims as { sub?: unknown } | null)?.sub;
    return subject === undefined ? "" : String(subject);
  } catch {
    return "";
  }
}

/** Name of the session that a request is about, or of something that it has; "" for none. */
export function sessionOf(request: object): string {
  const { session, name, parent, sessionId } = request as Record<string, unknown>;
  if (typeof session === "string" && session) {
    return session;
  }
  if (typeof name === "string" && name) {
    return name;
  }
  if (typeof parent !== "string") {
    return "";
  }
  // The session that is to be made.
  return sessionId ? `${parent}/sessions/${String(sessionId)}` : parent;
}
