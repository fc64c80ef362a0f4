/** Events of a running turn or ingest. Knows the wire messages and nothing that makes them. */

import type { HopeClientError } from "./errors.js";
import type {
  GenerateResult,
  IngestProgress,
  IngestResult,
  StatusUpdate,
  TextDelta,
} from "./generated/hope/v1/inference.js";

/**
 * The call broke; after `delaySeconds` the turn is taken up again.
 *
 * An ingest goes on where the server's memory ends. A generate turn is asked for again under its
 * requestId, so that it is learnt once whatever became of the first call.
 */
export interface Resuming {
  error: HopeClientError;
  delaySeconds: number;
}

/**
 * Events of a turn: that it waits, a piece of text, that the connection broke, or (last) that the
 * turn is durable. After `restarted` the text shown so far is void and follows from its beginning:
 * the turn ran again and reads differently. That is rare, because a turn that runs again has the
 * same memory and the same seed.
 */
export type GenerateEvent =
  | ({ type: "status" } & StatusUpdate)
  | ({ type: "delta" } & TextDelta)
  | ({ type: "resuming" } & Resuming)
  | { type: "restarted" }
  | ({ type: "result" } & GenerateResult);

/** Events of an ingest: that it waits, how far it is, that it reconnects, or (last) its end. */
export type IngestEvent =
  | ({ type: "status" } & StatusUpdate)
  | ({ type: "progress" } & IngestProgress)
  | ({ type: "resuming" } & Resuming)
  | ({ type: "result" } & IngestResult);
