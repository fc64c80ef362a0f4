/** The one rule for calling again: which errors are worth it, and how long to wait. */

import { setTimeout as timer } from "node:timers/promises";

import { AbortedError, HopeClientError, UnavailableError } from "./errors.js";

/**
 * Number of attempts and waits between them for calls that are safe to repeat.
 *
 * The wait doubles from `initialSeconds` to `maximumSeconds` and is jittered, so that clients of a
 * restarted server do not all come back at once. There are more than `attempts` as long as
 * `patienceSeconds` have not passed since the first failure in a row.
 */
export interface RetryPolicy {
  readonly attempts: number;
  readonly initialSeconds: number;
  readonly maximumSeconds: number;
  readonly patienceSeconds: number;
}

export const RETRY: RetryPolicy = {
  attempts: 4,
  initialSeconds: 0.25,
  maximumSeconds: 8,
  patienceSeconds: 0,
};

/** Of an ingest. Patient: at least a minute without any progress, enough for a server to restart. */
export const RESUME: RetryPolicy = {
  ...RETRY,
  attempts: 10,
  maximumSeconds: 4,
  patienceSeconds: 60,
};

/** Wait after the `failures`-th failure in a row (from 1), the server's wish included. */
export function delaySeconds(
  policy: RetryPolicy,
  failures: number,
  retryAfterSeconds: number | undefined,
): number {
  const backoff = Math.min(policy.initialSeconds * 2 ** (failures - 1), policy.maximumSeconds);
  return (retryAfterSeconds ?? 0) + backoff * (0.5 + Math.random() / 2);
}

// Reasons to refuse a call before looking at it, so that any call may be made again.
const REFUSED_UNSEEN = new Set(["DRAINING", "SESSION_OWNED_ELSEWHERE"]);

// Another server took the session over while this one worked on it; the turn was not committed.
const SESSION_LOST = "SESSION_LOST";

/** Counts the attempts of one operation, within one deadline for all of them. */
export class Attempts {
  failures = 0;
  readonly #policy: RetryPolicy;
  readonly #deadline: number | undefined;
  readonly #repeatable: boolean;
  #failingSince = 0;

  /**
   * @param repeatable - whether the operation may be carried out twice without harm. If not, it is
   *   repeated only where the server refused it unseen.
   */
  constructor(policy: RetryPolicy, timeoutSeconds: number | undefined, repeatable: boolean) {
    this.#policy = policy;
    this.#deadline = timeoutSeconds === undefined ? undefined : now() + timeoutSeconds;
    this.#repeatable = repeatable;
  }

  /** Time left for the next attempt; undefined without a deadline. */
  remainingSeconds(): number | undefined {
    return this.#deadline === undefined ? undefined : Math.max(0, this.#deadline - now());
  }

  /** Something was achieved: later failures are counted afresh. */
  succeeded(): void {
    this.failures = 0;
  }

  /** Whether the next attempt may succeed and can do no harm. */
  worthRepeating(error: HopeClientError): boolean {
    if (error instanceof UnavailableError) {
      return this.#repeatable || REFUSED_UNSEEN.has(error.reason);
    }
    return error instanceof AbortedError && error.reason === SESSION_LOST && this.#repeatable;
  }

  /**
   * Seconds to wait before the next attempt; `anyway` is for an error that worthRepeating does not
   * know to be harmless, but the caller does. Throws `error` when there is no next attempt.
   */
  delayAfter(error: unknown, anyway = false): number {
    if (!(error instanceof HopeClientError) || !(anyway || this.worthRepeating(error))) {
      throw error;
    }
    if (this.failures === 0) {
      this.#failingSince = now();
    }
    this.failures += 1;
    const failingSeconds = now() - this.#failingSince;
    const patient =
      this.failures < this.#policy.attempts || failingSeconds < this.#policy.patienceSeconds;
    const delay = delaySeconds(this.#policy, this.failures, error.retryAfterSeconds);
    const remaining = this.remainingSeconds();
    if (!patient || (remaining !== undefined && delay > remaining)) {
      throw error;
    }
    return delay;
  }
}

/** Waits; an aborted `signal` ends the wait with its reason. */
export async function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  try {
    await timer(seconds * 1000, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

function now(): number {
  return performance.now() / 1000;
}
