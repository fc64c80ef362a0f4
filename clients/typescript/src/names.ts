/**
 * Resource names: short forms that people type, full names that the wire carries.
 *
 * Knows the shape `users/{user}/sessions/{session}` and nothing else; which characters are allowed
 * is the server's to say.
 */

/** The caller, on a server that asks for credentials and so knows which user they name. */
export const ME = "@me";

/** `local` and `users/local` both name the user `users/local`. */
export function userName(user: string): string {
  return user.includes("/") ? user : `users/${user}`;
}

/** Full name: `diary` is a session of `user`; anything with a slash is taken as it is. */
export function sessionName(session: string, user: string): string {
  return session.includes("/") ? session : `${userName(user)}/sessions/${session}`;
}

/** Parent (`users/{user}`) and last part (`diary`) of a full session name; undefined for another. */
export function splitSessionName(name: string): { parent: string; id: string } | undefined {
  const [users, user, sessions, id, ...rest] = name.split("/");
  if (users !== "users" || sessions !== "sessions" || id === undefined || rest.length > 0) {
    return undefined;
  }
  return { parent: `users/${user}`, id };
}
