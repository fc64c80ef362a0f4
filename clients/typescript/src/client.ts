/**
 * HopeClient: what a program does with a server, one method per thing.
 *
 * Knows how requests are put together; how turns run is in `generate.ts` and `ingest.ts`, sessions
 * are in `sessions.ts`, deadlines in `transport.ts` and retries in `retry.ts`.
 */

import { randomUUID } from "node:crypto";

import type { ChannelCredentials } from "@grpc/grpc-js";
import type { Client } from "nice-grpc";
import { HealthDefinition } from "nice-grpc-server-health";

import { InternalError } from "./errors.js";
import type { GenerateEvent, IngestEvent } from "./events.js";
import { generateEvents, reproducible } from "./generate.js";
import { AdminServiceDefinition } from "./generated/hope/v1/admin.js";
import type { GetServerInfoResponse } from "./generated/hope/v1/admin.js";
import { InferenceServiceDefinition, IngestStart, Role } from "./generated/hope/v1/inference.js";
import type {
  GenerateResult,
  IngestResult,
  Message,
  Sampling,
  ScoreResponse,
} from "./generated/hope/v1/inference.js";
import { Ingest } from "./ingest.js";
import { RESUME, RETRY } from "./retry.js";
import type { RetryPolicy } from "./retry.js";
import { wide } from "./session_calls.js";
import type { Version } from "./session_calls.js";
import { Sessions } from "./sessions.js";
import { MAX_CHUNK_BYTES, nameOf, openSource } from "./sources.js";
import type { DocumentSource } from "./sources.js";
import { Transport } from "./transport.js";
import type { Token } from "./transport.js";

export const DEFAULT_TARGET = "127.0.0.1:50051";

/** Content of a turn: the user's text, or messages of which the last is the user's. */
export type Content = string | readonly Message[];

export interface ClientOptions {
  /** Whose sessions short names mean; "@me" is whom the credentials name. Default: "local". */
  user?: string;
  /** For each call, its retries included; ingests are exempt, they take as long as their document. */
  timeoutSeconds?: number;
  /** For a server with TLS, `ChannelCredentials.createSsl(...)`; without, in clear text. */
  credentials?: ChannelCredentials;
  /** Bearer token that says who the user is; without TLS it goes to this machine only. */
  token?: Token;
  /** When the server is unavailable, for calls that may be repeated. */
  retry?: Partial<RetryPolicy>;
  /** The same for an ingest, counted from its last progress. */
  resume?: Partial<RetryPolicy>;
}

export interface TurnOptions {
  /** Window over the session; a new name starts empty, with the same memory. */
  conversation?: string;
  /** Whether the memory may learn from the turn; undefined leaves it to the server. */
  learn?: boolean;
  /** Keep nothing of the turn at all. */
  ephemeral?: boolean;
  sampling?: Partial<Sampling>;
  /** The same id later gives the stored reply again; made up if empty. */
  requestId?: string;
  /**
   * Answer with the memory as it was then, 0 being the base model, and keep nothing of the turn; it
   * needs no conversation and no requestId.
   */
  atVersion?: Version;
  /** Cancels the turn, which then leaves no trace, and throws its reason. */
  signal?: AbortSignal;
}

export interface IngestOptions {
  /** Name of the document; a file gives its own, anything else must be named. */
  document?: string;
  conversation?: string;
  learn?: boolean;
  /**
   * The most tokens that learning may run forward and backward for each of the document's;
   * undefined: as the session's policy says (`Session.documentBudget`).
   */
  budget?: number;
  /**
   * Leaves the reading to the server, which goes on when the client is gone; the result comes once
   * it has the text (`Session.job` tells how far it is).
   */
  detach?: boolean;
  /** False leaves the document open for more. */
  endOfDocument?: boolean;
  /** Where in the document the source begins: 0, or its `committedBytes` for the next piece. */
  sourceOffsetBytes?: number;
  /** Start here instead, because what comes before is committed (`sessions.document` tells). */
  resumeAtBytes?: number;
  /** Size of the messages, 1 byte to 1 MiB. */
  chunkBytes?: number;
  /** Ends the ingest and throws its reason; what was committed stays. */
  signal?: AbortSignal;
}

/**
 * Client of one server, for one user.
 *
 * ```ts
 * const client = new HopeClient();
 * await client.sessions.getOrCreate("diary");
 * console.log((await client.say("diary", "My cat is called Ada.")).text);
 * client.close();
 * ```
 */
export class HopeClient implements AsyncDisposable {
  readonly sessions: Sessions;
  readonly #transport: Transport;
  readonly #resume: RetryPolicy;
  readonly #inference: Client<InferenceServiceDefinition>;
  readonly #admin: Client<AdminServiceDefinition>;
  readonly #health: Client<typeof HealthDefinition>;

  constructor(target: string = DEFAULT_TARGET, options: ClientOptions = {}) {
    const { user = "local", credentials, token, timeoutSeconds, retry, resume } = options;
    const policy = { ...RETRY, ...retry };
    this.#transport = new Transport(target, credentials, token, timeoutSeconds, policy);
    this.#resume = { ...RESUME, ...resume };
    this.#inference = this.#transport.stub(InferenceServiceDefinition);
    this.#admin = this.#transport.stub(AdminServiceDefinition);
    this.#health = this.#transport.stub(HealthDefinition);
    this.sessions = new Sessions(this.#transport, user);
  }

  /**
   * Closes the connection and cancels what still runs on it, which then throws ClientClosedError, as
   * does every later call.
   */
  close(): void {
    this.#transport.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /**
   * Runs a turn and streams its events; the last one is the result.
   *
   * Leaving the loop early, or aborting the signal, cancels the turn, which then leaves no trace. A
   * broken connection does not end the turn: it is taken up again (`resuming`) within the client's
   * retry policy and timeout, and learnt once.
   */
  generate(
    session: string,
    content: Content,
    options: TurnOptions = {},
  ): AsyncGenerator<GenerateEvent, void, undefined> {
    const { conversation = "", learn, ephemeral = false, sampling, signal, atVersion } = options;
    // The answer of a kept version may be asked for again as it is: nothing comes of it.
    const requestId = options.requestId || (atVersion === undefined ? randomUUID() : "");
    const messages =
      typeof content === "string" ? [{ role: Role.ROLE_USER, content }] : [...content];
    const request = {
      session: this.sessions.name(session),
      conversation,
      messages,
      sampling: reproducible(sampling, requestId || randomUUID()),
      learnOptions: { learn, ephemeral: ephemeral || undefined },
      requestId,
      atVersion: wide(atVersion),
    };
    return generateEvents(this.#transport, this.#inference, request, signal);
  }

  /** `generate` for those who want the whole reply at once. */
  async say(session: string, content: Content, options: TurnOptions = {}): Promise<GenerateResult> {
    for await (const event of this.generate(session, content, options)) {
      if (event.type === "result") {
        return event;
      }
    }
    throw new InternalError("the turn ended without a result");
  }

  /**
   * Reads a document into a session and streams progress; the last event is the result.
   *
   * A broken connection is taken up again where the server's memory ends. Throws TypeError for a
   * document without a name, RangeError for a size out of range.
   */
  async *ingestEvents(
    session: string,
    source: DocumentSource,
    options: IngestOptions = {},
  ): AsyncGenerator<IngestEvent, void, undefined> {
    const { conversation = "", learn, budget, detach = false, endOfDocument = true, signal } = options;
    const { sourceOffsetBytes = 0, chunkBytes = 32 * 1024 } = options;
    const document = options.document || nameOf(source);
    const offset = options.resumeAtBytes ?? sourceOffsetBytes;
    if (!document) {
      throw new TypeError("a document that is not a file needs a name; pass document");
    }
    if (!(chunkBytes >= 1 && chunkBytes <= MAX_CHUNK_BYTES)) {
      throw new RangeError(
        `chunkBytes must be between 1 and ${MAX_CHUNK_BYTES}, not ${chunkBytes}`,
      );
    }
    if (offset < sourceOffsetBytes) {
      throw new RangeError("resumeAtBytes lies before the beginning of the source");
    }
    const start = IngestStart.fromPartial({
      session: this.sessions.name(session),
      conversation,
      document,
      offsetBytes: BigInt(offset),
      learnOptions: { learn, budget },
      detach,
    });
    const opened = await openSource(source, sourceOffsetBytes);
    const ingest = new Ingest(this.#transport, this.#inference, this.sessions, {
      start,
      source: opened,
      keepOpen: !endOfDocument,
      chunkBytes,
      signal,
    });
    try {
      yield* ingest.events(this.#resume);
    } finally {
      await opened.close();
    }
  }

  /** `ingestEvents` for those who want the end; `onProgress` gets every other event. */
  async ingest(
    session: string,
    source: DocumentSource,
    options: IngestOptions & { onProgress?: (event: IngestEvent) => void } = {},
  ): Promise<IngestResult> {
    for await (const event of this.ingestEvents(session, source, options)) {
      if (event.type === "result") {
        return event;
      }
      options.onProgress?.(event);
    }
    throw new InternalError("the ingest ended without a result");
  }

  /**
   * Surprise of `text` after `context`, for the memory, for the one that there was `atVersion` (0 is
   * the base model) or for the `frozen` base model.
   */
  async score(
    session: string,
    text: string,
    options: { context?: string; frozen?: boolean; atVersion?: Version } = {},
  ): Promise<ScoreResponse> {
    const { context = "", frozen = false } = options;
    const atVersion = wide(options.atVersion);
    const request = { session: this.sessions.name(session), context, text, frozen, atVersion };
    return this.#transport.call(this.#inference.score, request, this.#transport.attempts(true));
  }

  /** Model, engine and versions of the server; needs a target where AdminService listens. */
  async serverInfo(): Promise<GetServerInfoResponse> {
    return this.#transport.call(this.#admin.getServerInfo, {}, this.#transport.attempts(true));
  }

  /**
   * Whether the server, or one of its services, takes calls; asks for no credential. A server that
   * drains does not.
   */
  async serving(service = ""): Promise<boolean> {
    const answer = await this.#transport.call(this.#health.check, { service });
    return answer.status === SERVING;
  }
}

// HealthCheckResponse.ServingStatus, which nice-grpc-server-health does not export.
const SERVING = 1;
