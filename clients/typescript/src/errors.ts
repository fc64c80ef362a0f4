/**
 * Typed errors, made from the status of a gRPC call and its google.rpc details.
 *
 * Knows codes and details; whether to try again is decided in `retry.ts`.
 */

import { ClientError, Status } from "nice-grpc-common";
import { RichClientError } from "nice-grpc-error-details";

export interface ErrorDetails {
  code?: Status;
  reason?: string;
  field?: string;
  retryAfterSeconds?: number | undefined;
  cause?: unknown;
}

/** A call that failed. `message` is one line in the server's words. */
export class HopeClientError extends Error {
  static readonly defaultCode: Status = Status.UNKNOWN;
  /** Canonical status code. */
  readonly code: Status;
  /** ErrorInfo.reason, an UPPER_SNAKE_CASE constant; empty if hope did not say. */
  readonly reason: string;
  /** Path of the request field that is to blame; empty if none is. */
  readonly field: string;
  /** Time that the server asks to wait; undefined if it does not say. */
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code ?? new.target.defaultCode;
    this.reason = details.reason ?? "";
    this.field = details.field ?? "";
    this.retryAfterSeconds = details.retryAfterSeconds;
  }
}

/** The client was closed before, or while, it was asked to do this. */
export class ClientClosedError extends Error {
  constructor() {
    super("the client is closed; create a new one");
    this.name = "ClientClosedError";
  }
}

/** The server, or something on the way, cancelled the call. */
export class CancelledError extends HopeClientError {
  static override readonly defaultCode = Status.CANCELLED;
}

/** A failure that carries no usable code. */
export class UnknownError extends HopeClientError {
  static override readonly defaultCode = Status.UNKNOWN;
}

/** The request can never succeed as it is; `field` names the culprit. */
export class InvalidRequestError extends HopeClientError {
  static override readonly defaultCode = Status.INVALID_ARGUMENT;
}

/** The time allowed for the call ran out. */
export class DeadlineExceededError extends HopeClientError {
  static override readonly defaultCode = Status.DEADLINE_EXCEEDED;
}

/** No such session, or not yours. */
export class NotFoundError extends HopeClientError {
  static override readonly defaultCode = Status.NOT_FOUND;
}

/** The name is taken. */
export class AlreadyExistsError extends HopeClientError {
  static override readonly defaultCode = Status.ALREADY_EXISTS;
}

/** The caller is known but not allowed. */
export class PermissionDeniedError extends HopeClientError {
  static override readonly defaultCode = Status.PERMISSION_DENIED;
}

/** The caller did not say, or prove, who it is. */
export class UnauthenticatedError extends HopeClientError {
  static override readonly defaultCode = Status.UNAUTHENTICATED;
}

/** A quota or the server's capacity is used up; see `retryAfterSeconds`. */
export class ResourceExhaustedError extends HopeClientError {
  static override readonly defaultCode = Status.RESOURCE_EXHAUSTED;
}

/** The session is not in a state that allows this. */
export class FailedPreconditionError extends HopeClientError {
  static override readonly defaultCode = Status.FAILED_PRECONDITION;
}

/** Someone else changed the session meanwhile; read it again. */
export class AbortedError extends HopeClientError {
  static override readonly defaultCode = Status.ABORTED;
}

/** An offset or a version lies outside of what there is. */
export class OutOfRangeError extends HopeClientError {
  static override readonly defaultCode = Status.OUT_OF_RANGE;
}

/** This server does not offer the method. */
export class UnimplementedError extends HopeClientError {
  static override readonly defaultCode = Status.UNIMPLEMENTED;
}

/** A fault of the server. */
export class InternalError extends HopeClientError {
  static override readonly defaultCode = Status.INTERNAL;
}

/** No server could be reached, or it cannot serve right now. */
export class UnavailableError extends HopeClientError {
  static override readonly defaultCode = Status.UNAVAILABLE;
}

/** Bytes that were promised to be kept are gone. */
export class DataLossError extends HopeClientError {
  static override readonly defaultCode = Status.DATA_LOSS;
}

const BY_CODE = new Map<Status, typeof HopeClientError>(
  [
    CancelledError,
    InvalidRequestError,
    DeadlineExceededError,
    NotFoundError,
    AlreadyExistsError,
    PermissionDeniedError,
    UnauthenticatedError,
    ResourceExhaustedError,
    FailedPreconditionError,
    AbortedError,
    OutOfRangeError,
    UnimplementedError,
    InternalError,
    UnavailableError,
    DataLossError,
  ].map((kind) => [kind.defaultCode, kind] as const),
);

/** The typed error for a failed call, with what its details say. */
export function fromClientError(error: ClientError): HopeClientError {
  const details: ErrorDetails = { code: error.code, cause: error };
  for (const detail of error instanceof RichClientError ? error.extra : []) {
    switch (detail.$type) {
      case "google.rpc.ErrorInfo":
        details.reason = detail.reason;
        break;
      case "google.rpc.BadRequest":
        details.field = detail.fieldViolations[0]?.field ?? "";
        break;
      case "google.rpc.RetryInfo":
        details.retryAfterSeconds =
          Number(detail.retryDelay?.seconds ?? 0) + (detail.retryDelay?.nanos ?? 0) / 1e9;
        break;
    }
  }
  const kind = BY_CODE.get(error.code) ?? UnknownError;
  return new kind(oneLine(error.details) || Status[error.code], details);
}

function oneLine(text: string): string {
  return text.split(/\s+/).filter(Boolean).join(" ");
}
