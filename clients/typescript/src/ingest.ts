/**
 * Reading a document into a session, across as many connections as it takes.
 *
 * Knows InferenceService.Ingest and how to resume it; `sources.ts` knows where bytes come from. The
 * server is the judge of what is durable: after a broken call it is asked how far the document came,
 * and the next call starts there.
 */

import type { Client } from "nice-grpc";

import { ContentDigest } from "./content.js";
import {
  AbortedError,
  FailedPreconditionError,
  HopeClientError,
  InternalError,
  InvalidRequestError,
  OutOfRangeError,
} from "./errors.js";
import type { IngestEvent } from "./events.js";
import type {
  InferenceServiceDefinition,
  IngestRequest,
  IngestStart,
} from "./generated/hope/v1/inference.js";
import { IngestResult } from "./generated/hope/v1/inference.js";
import { Attempts, sleep } from "./retry.js";
import type { RetryPolicy } from "./retry.js";
import type { Sessions } from "./sessions.js";
import { SourceEndsError } from "./sources.js";
import type { ByteSource } from "./sources.js";
import type { Transport } from "./transport.js";

/** Reason of a refusal: under that name the session read something else. */
const DIFFERS = "DOCUMENT_DIFFERS";

/** One document on its way into a session. */
export class Ingest {
  readonly #transport: Transport;
  readonly #stub: Client<InferenceServiceDefinition>;
  readonly #sessions: Sessions;
  readonly #start: IngestStart;
  readonly #source: ByteSource;
  readonly #keepOpen: boolean;
  readonly #chunkBytes: number;
  readonly #signal: AbortSignal | undefined;

  constructor(
    transport: Transport,
    stub: Client<InferenceServiceDefinition>,
    sessions: Sessions,
    options: {
      start: IngestStart;
      source: ByteSource;
      keepOpen: boolean;
      chunkBytes: number;
      signal: AbortSignal | undefined;
    },
  ) {
    this.#transport = transport;
    this.#stub = stub;
    this.#sessions = sessions;
    this.#start = options.start;
    this.#source = options.source;
    this.#keepOpen = options.keepOpen;
    this.#chunkBytes = options.chunkBytes;
    this.#signal = options.signal;
  }

  /**
   * Events of reading the source from the start's offset to its end.
   *
   * `tokens` in the events count from the first call on. Those that the server committed but could
   * not report before a call broke are not among them.
   */
  async *events(retry: RetryPolicy): AsyncGenerator<IngestEvent, void, undefined> {
    const attempts = new Attempts(retry, undefined, true);
    const start = this.#start;
    let committed = start.offsetBytes;
    let earlierTokens = 0n; // of broken calls
    let tokens = 0n; // of the present one
    for (;;) {
      this.#source.release(Number(committed));
      start.offsetBytes = committed;
      start.contentDigest = await this.#committedDigest(Number(committed));
      let error: unknown;
      try {
        for await (const event of this.#oneCall()) {
          if (event.type === "progress") {
            tokens = event.tokens;
            if (event.committedBytes > committed) {
              committed = event.committedBytes;
              this.#source.release(Number(committed));
              attempts.succeeded();
            }
          }
          yield event.type === "status" || event.type === "resuming"
            ? event
            : { ...event, tokens: event.tokens + earlierTokens };
        }
        return;
      } catch (cause) {
        error = cause;
      }
      // After a failure the offset may be behind what the lost call committed.
      const refused = attempts.failures > 0 && refusesOffset(error);
      for (;;) {
        const delay = attempts.delayAfter(error, refused);
        yield { type: "resuming", error: error as HopeClientError, delaySeconds: delay };
        await sleep(delay, this.#signal);
        try {
          const document = await this.#sessions.document(start.session, start.document);
          if (document !== undefined) {
            if (refused && document.committedBytes === start.offsetBytes && !document.ended) {
              // The offset was right, so it was something else that was refused.
              throw new Refusal(error);
            }
            committed = document.committedBytes;
            earlierTokens += tokens;
            tokens = 0n;
            if (document.ended || (this.#keepOpen && (await this.#reachesNoFurther(committed)))) {
              yield await this.#lostResult(committed, earlierTokens, document.ended);
              return;
            }
          }
          break;
        } catch (lookup) {
          // The server may not be back yet.
          if (lookup instanceof Refusal) {
            throw lookup.cause;
          }
          error = lookup;
        }
      }
    }
  }

  /** The result of an ingest whose acknowledgement was lost, and nothing else. */
  async #lostResult(committed: bigint, tokens: bigint, ended: boolean): Promise<IngestEvent> {
    const { memoryVersion } = await this.#sessions.get(this.#start.session);
    const lost = { committedBytes: committed, tokens, memoryVersion, ended };
    return { type: "result", ...IngestResult.fromPartial(lost) };
  }

  async #reachesNoFurther(committed: bigint): Promise<boolean> {
    const next = await this.#source.read(Number(committed), 1, this.#patience());
    return next.length === 0;
  }

  #patience(): AbortSignal {
    return this.#signal ?? new AbortController().signal;
  }

  /** Digest of what the source has of the committed bytes. */
  async #committedDigest(committed: number): Promise<Uint8Array> {
    try {
      return committed > 0
        ? await this.#source.digest(committed, this.#patience())
        : new Uint8Array(0);
    } catch (error) {
      if (!(error instanceof SourceEndsError)) {
        throw error;
      }
      throw new FailedPreconditionError(
        `the session has a different document '${this.#start.document}' with ${committed} ` +
          `committed bytes; this one has ${error.bytes}`,
        { reason: DIFFERS },
      );
    }
  }

  /** One Ingest call from the start's offset on. */
  async *#oneCall(): AsyncGenerator<IngestEvent, void, undefined> {
    const call = this.#transport.begin(this.#start.session, undefined, this.#signal);
    let result: IngestResult | undefined;
    try {
      const requests = this.#requests(call.options.signal);
      for await (const { event } of this.#stub.ingest(requests, call.options)) {
        switch (event?.$case) {
          case "status":
            yield { type: "status", ...event.value };
            break;
          case "progress":
            yield { type: "progress", ...event.value };
            break;
          case "result":
            result = event.value;
        }
      }
    } catch (cause) {
      // Once it was acknowledged, how the stream closed does not matter.
      if (result === undefined) {
        throw call.error(cause);
      }
    } finally {
      call.end();
    }
    if (result === undefined) {
      throw new InternalError("the server ended the stream without a result");
    }
    yield { type: "result", ...result };
  }

  async *#requests(signal: AbortSignal): AsyncGenerator<IngestRequest> {
    yield { part: { $case: "start", value: this.#start } };
    let offset = Number(this.#start.offsetBytes);
    for (;;) {
      const chunk = await this.#source.read(offset, this.#chunkBytes, signal);
      if (chunk.length === 0) {
        break;
      }
      yield { part: { $case: "chunk", value: chunk } };
      offset += chunk.length;
    }
    // Without it the server would take the end of the stream for a broken connection.
    const contentDigest = await this.#source.digest(offset, signal).catch((error: unknown) => {
      if (error instanceof SourceEndsError) {
        return new ContentDigest().digest(); // cut off meanwhile, so that it is another one
      }
      throw error;
    });
    yield { part: { $case: "end", value: { keepOpen: this.#keepOpen, contentDigest } } };
  }
}

/** Passes the error of a call through the wait for the server to come back. */
class Refusal extends Error {
  constructor(cause: unknown) {
    super("refused", { cause });
  }
}

/** Whether a server may refuse an offset so, depending on what it compared it with. */
function refusesOffset(error: unknown): boolean {
  return (
    (error instanceof AbortedError ||
      error instanceof FailedPreconditionError ||
      error instanceof InvalidRequestError ||
      error instanceof OutOfRangeError) &&
    error.reason !== DIFFERS
  );
}
