/**
 * What sessions learn: bringing it about, looking at it, and taking it back.
 *
 * Knows the part of SessionService that is about this; the rest is in `sessions.ts`.
 */

import type {
  ConsolidateResponse,
  Consolidation,
  DiffVersionsResponse,
  EndConversationResponse,
  Session,
  Statement,
} from "./generated/hope/v1/sessions.js";
import type { OnJob } from "./jobs.js";
import { present, SessionCalls } from "./session_calls.js";
import type { Listed, Version } from "./session_calls.js";

/** What statements are listed. */
export interface Narrowed {
  document?: string;
  rehearsedOnly?: boolean;
}

/** The methods of `Sessions` about what is learnt. */
export abstract class SessionLearning extends SessionCalls {
  /**
   * Learns now what waits for a boundary; answers when that is done. An answer that comes after a
   * broken connection leaves out what was learnt before it.
   */
  async consolidate(session: string): Promise<ConsolidateResponse> {
    return this.call(this.stub.consolidate, { name: this.name(session) }, true);
  }

  /** Closes a conversation, which is when it is learnt; `wait` for that, or not. */
  async endConversation(
    session: string,
    conversation = "",
    { wait = true }: { wait?: boolean } = {},
  ): Promise<EndConversationResponse> {
    const request = { name: this.name(session), conversation, wait };
    return this.call(this.stub.endConversation, request, true);
  }

  /** Consolidations of the session in the order of its log, fetched page by page. */
  async *consolidations(
    session: string,
    { pageSize = 0 }: Listed = {},
  ): AsyncGenerator<Consolidation, void, undefined> {
    const request = { parent: this.name(session), pageSize };
    for await (const page of this.pages(this.stub.listConsolidations, request)) {
      yield* page.consolidations;
    }
  }

  /**
   * Statements that the session was taught, in the order of its log, fetched page by page; with
   * `query` those in which a word begins with each of its words, with `document` those of one
   * document, with `rehearsedOnly` those that were practised and not merely read.
   */
  async *statements(
    session: string,
    query = "",
    { document = "", rehearsedOnly = false, pageSize = 0 }: Listed & Narrowed = {},
  ): AsyncGenerator<Statement, void, undefined> {
    const request = { parent: this.name(session), query, document, rehearsedOnly, pageSize };
    for await (const page of this.pages(this.stub.listStatements, request)) {
      yield* page.statements;
    }
  }

  /** Change of each level between two kept versions, and a page of what only one was taught. */
  async diff(
    session: string,
    before: Version,
    after: Version,
    { pageSize = 0, pageToken = "" }: Listed & { pageToken?: string } = {},
  ): Promise<DiffVersionsResponse> {
    const request = {
      name: this.name(session),
      fromVersion: BigInt(before),
      toVersion: BigInt(after),
      pageSize,
      pageToken,
    };
    return this.call(this.stub.diffVersions, request, true);
  }

  /**
   * The session as if it had never read `document`. Everything else is learnt again, as a job of the
   * server that goes on without this client; the same call joins it again.
   */
  async forgetDocument(
    session: string,
    document: string,
    onProgress: OnJob = () => {},
  ): Promise<Session> {
    const request = { name: this.name(session), document };
    return this.job(this.stub.forgetDocument, request, onProgress);
  }

  /**
   * The session as if it had never been told the statements with these ids. A job, like
   * `forgetDocument`.
   */
  async forgetStatements(
    session: string,
    ids: readonly string[],
    onProgress: OnJob = () => {},
  ): Promise<Session> {
    const request = { name: this.name(session), ids: [...ids] };
    return this.job(this.stub.forgetStatements, request, onProgress);
  }

  /**
   * The session as if it had learnt under `policy` from the beginning (default: its own, as the
   * server knows it now). A job, like `forgetDocument`.
   */
  async migrate(session: string, policy = "", onProgress: OnJob = () => {}): Promise<Session> {
    return this.job(this.stub.migrateSession, { name: this.name(session), policy }, onProgress);
  }

  /** Ends what a forgetting or `migrate` began; the session is as it was before. */
  async cancelJob(session: string): Promise<Session> {
    const request = { name: this.name(session) };
    return present((await this.call(this.stub.cancelJob, request)).session);
  }
}
