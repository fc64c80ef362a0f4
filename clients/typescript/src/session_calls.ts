/**
 * Calls of SessionService that the methods of `Sessions` are made of: repeated, paged, watched, or erasing.
 */

import { randomUUID } from "node:crypto";

import type { Client } from "nice-grpc";
import type { CallOptions } from "nice-grpc-common";

import { InternalError, InvalidRequestError, NotFoundError } from "./errors.js";
import type { HopeClientError } from "./errors.js";
import { SessionServiceDefinition } from "./generated/hope/v1/sessions.js";
import type { Session } from "./generated/hope/v1/sessions.js";
import { runJob } from "./jobs.js";
import type { OnJob } from "./jobs.js";
import { sessionName, splitSessionName, userName } from "./names.js";
import type { Transport } from "./transport.js";

export type Version = bigint | number;

export interface Listed {
  /** Items of a page; 0 leaves it to the server. */
  pageSize?: number;
}

type Unary<Request, Response> = (request: Request, options: CallOptions) => Promise<Response>;

/** Calls about the sessions of one user. */
export abstract class SessionCalls {
  protected readonly transport: Transport;
  protected readonly user: string;
  protected readonly stub: Client<SessionServiceDefinition>;

  constructor(transport: Transport, user: string) {
    this.transport = transport;
    this.user = user;
    this.stub = transport.stub(SessionServiceDefinition);
  }

  /** The session as it stands. */
  abstract get(session: string): Promise<Session>;

  /** Full name of a session given in short or full. */
  name(session: string): string {
    return sessionName(session, this.user);
  }

  /** One call; `repeatable` if it may be carried out twice without harm. */
  protected call<Request extends object, Response>(
    method: Unary<Request, Response>,
    request: Request,
    repeatable = false,
  ): Promise<Response> {
    return this.transport.call(method, request, this.transport.attempts(repeatable));
  }

  protected job<Request extends { name: string }>(
    method: Parameters<typeof runJob<Request>>[1],
    request: Request,
    onProgress: OnJob,
  ): Promise<Session> {
    return runJob(this.transport, method, request, (name) => this.get(name), onProgress);
  }

  /** Pages of a list, each fetched on demand. */
  protected async *pages<Request extends object, Page extends { nextPageToken: string }>(
    method: Unary<Request & { pageToken: string }, Page>,
    request: Request,
  ): AsyncGenerator<Page, void, undefined> {
    let pageToken = "";
    do {
      const page = await this.call(method, { ...request, pageToken }, true);
      yield page;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  protected async erase<Request extends object>(
    method: Unary<Request, object>,
    request: Request,
  ): Promise<void> {
    const attempts = this.transport.attempts(true);
    try {
      await this.transport.call(method, request, attempts);
    } catch (error) {
      // An attempt whose answer was lost may have erased it; either way it is gone.
      if (!attempts.failures) {
        throw error;
      }
      ignore(error, NotFoundError);
    }
  }

  /**
   * Parent and last part of the name for a new session, and whether it was picked here rather than
   * by the server, so that a repeated call cannot make two.
   */
  protected newName(session: string): { parent: string; id: string; picked: boolean } {
    if (!session) {
      return { parent: userName(this.user), id: pick(), picked: true };
    }
    const parts = splitSessionName(this.name(session));
    if (parts === undefined) {
      throw new InvalidRequestError(
        `'${session}' is not a session name; the form is users/USER/sessions/SESSION`,
        { field: "session_id" },
      );
    }
    return { ...parts, picked: false };
  }
}

/** A name that nothing else has. */
export function pick(): string {
  return randomUUID().replaceAll("-", "");
}

export function wide(version: Version | undefined): bigint | undefined {
  return version === undefined ? undefined : BigInt(version);
}

/** A message that every answer has, although the wire could leave it out. */
export function present<T>(message: T | undefined): T {
  if (message === undefined) {
    throw new InternalError("the server's answer is empty");
  }
  return message;
}

/** Throws the error unless it is of this kind. */
export function ignore(error: unknown, kind: typeof HopeClientError): void {
  if (!(error instanceof kind)) {
    throw error;
  }
}
