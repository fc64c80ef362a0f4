/**
 * Sessions: making, finding, versioning and moving them.
 *
 * Knows SessionService; what is about learning is in `session_learning.ts`, turns are in
 * `generate.ts` and `ingest.ts`. Answers are the messages of the wire, whose fields are documented in
 * hope/v1/sessions.proto.
 */

import { AlreadyExistsError, InvalidRequestError, NotFoundError } from "./errors.js";
import type {
  Document,
  ImportSessionRequest,
  Session,
  Snapshot,
} from "./generated/hope/v1/sessions.js";
import { userName } from "./names.js";
import { ignore, pick, present, wide } from "./session_calls.js";
import type { Listed, Version } from "./session_calls.js";
import { SessionLearning } from "./session_learning.js";
import { inPieces, MAX_CHUNK_BYTES } from "./sources.js";

interface Guarded {
  /** Of the session when it was read; a session that has changed since is left alone. */
  etag?: string;
}

/**
 * Sessions of one user, as `HopeClient.sessions` gives them.
 *
 * Wherever a session is named, `diary` stands for `users/{user}/sessions/diary`. Every method throws
 * HopeClientError. When the server is unavailable, a call is repeated where that cannot change
 * anything twice: reading, erasing, learning what waits, and making something under a name that was
 * picked here. Any other change is repeated only if the server refused to look at it; otherwise its
 * answer may be what was lost, and the session tells whether it was.
 */
export class Sessions extends SessionLearning {
  /** Makes an empty session; without a name one is picked. */
  async create(
    session = "",
    { displayName = "", policy = "" }: { displayName?: string; policy?: string } = {},
  ): Promise<Session> {
    const { parent, id, picked } = this.newName(session);
    const request = { parent, sessionId: id, displayName, policy };
    try {
      const made = await this.call(this.stub.createSession, request, picked);
      return present(made.session);
    } catch (error) {
      if (!picked || !(error instanceof AlreadyExistsError)) {
        throw error;
      }
      return this.get(`${parent}/sessions/${id}`);
    }
  }

  /** The session as it stands. */
  async get(session: string): Promise<Session> {
    const found = await this.call(this.stub.getSession, { name: this.name(session) }, true);
    return present(found.session);
  }

  /** The session, made when it is missing, and whether it was. */
  async getOrCreate(session: string): Promise<{ session: Session; created: boolean }> {
    try {
      return { session: await this.get(session), created: false };
    } catch (error) {
      ignore(error, NotFoundError);
    }
    try {
      return { session: await this.create(session), created: true };
    } catch (error) {
      ignore(error, AlreadyExistsError); // somebody was quicker
      return { session: await this.get(session), created: false };
    }
  }

  /** Reading state of a document; undefined if the session never saw it. */
  async document(session: string, document: string): Promise<Document | undefined> {
    return (await this.get(session)).documents.find(({ name }) => name === document);
  }

  /** Sessions of `user` (default: the client's) by name, page after page on demand. */
  async *list(user = "", { pageSize = 0 }: Listed = {}): AsyncGenerator<Session, void, undefined> {
    const request = { parent: userName(user || this.user), pageSize };
    for await (const page of this.pages(this.stub.listSessions, request)) {
      yield* page.sessions;
    }
  }

  /** Erases the session: memory, log, every version. */
  async delete(session: string, { etag = "" }: Guarded = {}): Promise<void> {
    await this.erase(this.stub.deleteSession, { name: this.name(session), etag });
  }

  /** A second session with the memory that `session` has, or had at `version`. */
  async fork(
    session: string,
    newSession = "",
    { version }: { version?: Version } = {},
  ): Promise<Session> {
    const name = this.name(session);
    const { parent, id, picked } = this.newName(newSession);
    const owner = name.slice(0, Math.max(0, name.lastIndexOf("/sessions/")));
    if (!picked && parent !== owner) {
      throw new InvalidRequestError(
        `a fork must belong to the same user as ${name}, not to ${parent}`,
        { field: "session_id" },
      );
    }
    const request = { name, sessionId: id, version: wide(version) };
    try {
      return present((await this.call(this.stub.forkSession, request, picked)).session);
    } catch (error) {
      if (!picked || !(error instanceof AlreadyExistsError)) {
        throw error;
      }
      return this.get(`${owner}/sessions/${id}`);
    }
  }

  /** Names the present version, so that it is kept; without a name one is picked. */
  async snapshot(session: string, name = ""): Promise<Snapshot> {
    const snapshotId = name || pick();
    const request = { parent: this.name(session), snapshotId };
    try {
      const { snapshot } = await this.call(this.stub.createSnapshot, request, !name);
      return present(snapshot);
    } catch (error) {
      if (name || !(error instanceof AlreadyExistsError)) {
        throw error;
      }
      for await (const snapshot of this.snapshots(session)) {
        if (snapshot.name.endsWith(`/${snapshotId}`)) {
          return snapshot;
        }
      }
      throw error;
    }
  }

  /** Snapshots of a session by name, page after page on demand. */
  async *snapshots(
    session: string,
    { pageSize = 0 }: Listed = {},
  ): AsyncGenerator<Snapshot, void, undefined> {
    const request = { parent: this.name(session), pageSize };
    for await (const page of this.pages(this.stub.listSnapshots, request)) {
      yield* page.snapshots;
    }
  }

  /** Takes a snapshot's name away; its version is then kept only while it is recent. */
  async deleteSnapshot(session: string, name: string): Promise<void> {
    const request = { name: `${this.name(session)}/snapshots/${name}` };
    await this.erase(this.stub.deleteSnapshot, request);
  }

  /** Returns to `version`, by default the parent of the present one. */
  async rollback(
    session: string,
    version?: Version,
    { etag = "" }: Guarded = {},
  ): Promise<Session> {
    const request = { name: this.name(session), version: wide(version), etag };
    return present((await this.call(this.stub.rollbackSession, request)).session);
  }

  /** Changes the display name. */
  async rename(
    session: string,
    displayName: string,
    { etag = "" }: Guarded = {},
  ): Promise<Session> {
    const request = {
      session: { name: this.name(session), displayName, etag },
      updateMask: ["display_name"],
    };
    // With an etag, a repeat would take its own first attempt for somebody else's change.
    return present((await this.call(this.stub.updateSession, request, !etag)).session);
  }

  /** Returns `levels` (0 is the fastest) to the base model; all of them if none is given. */
  async reset(
    session: string,
    levels: readonly number[] = [],
    { etag = "" }: Guarded = {},
  ): Promise<Session> {
    const request = { name: this.name(session), levels: [...levels], etag };
    return present((await this.call(this.stub.resetLevels, request)).session);
  }

  /** The session's present state and log, piece by piece, for `import` elsewhere. */
  async *export(session: string): AsyncGenerator<Uint8Array, void, undefined> {
    const request = { name: this.name(session) };
    for await (const { chunk } of this.transport.stream(this.stub.exportSession, request)) {
      yield chunk;
    }
  }

  /** Makes `session` out of what `export` gave, cut in any way. */
  async import(
    session: string,
    pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  ): Promise<Session> {
    const name = this.name(session);
    async function* requests(): AsyncGenerator<ImportSessionRequest> {
      yield { part: { $case: "name", value: name } };
      for await (const value of inPieces(pieces, MAX_CHUNK_BYTES)) {
        yield { part: { $case: "chunk", value } };
      }
    }
    const made = await this.transport.send(this.stub.importSession, requests(), name);
    return present(made.session);
  }

  /** Erases every session of `user` (default: the client's), and tells how many there were. */
  async deleteUser(user = ""): Promise<number> {
    const request = { name: userName(user || this.user) };
    return (await this.call(this.stub.deleteUser, request)).sessions;
  }
}
