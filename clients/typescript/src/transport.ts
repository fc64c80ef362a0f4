/**
 * The channel, and the calls made through it.
 *
 * Knows gRPC; knows no sessions and no text. A call that might be applied twice is not repeated:
 * the caller of this module says which calls may be, `Attempts` which errors.
 */

import { isIPv4 } from "node:net";

import type { ChannelCredentials, ChannelOptions } from "@grpc/grpc-js";
import { createChannel, createClientFactory } from "nice-grpc";
import type { Channel, Client, CompatServiceDefinition } from "nice-grpc";
import { ClientError, Metadata } from "nice-grpc-common";
import type { CallOptions } from "nice-grpc-common";
import { errorDetailsClientMiddleware } from "nice-grpc-error-details";

import { ClientClosedError, DeadlineExceededError, fromClientError } from "./errors.js";
import { Attempts, sleep } from "./retry.js";
import type { RetryPolicy } from "./retry.js";
import { SESSION_HEADER, sessionHeader, sessionOf } from "./routing.js";

const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;

const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  // A turn may be silent for minutes while a session learns; pings tell that from a dead peer.
  "grpc.keepalive_time_ms": 60_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.keepalive_permit_without_calls": 0,
  // gRPC's own wait between connections grows to two minutes; a client that resumes an ingest
  // should find a restarted server sooner.
  "grpc.initial_reconnect_backoff_ms": 200,
  "grpc.max_reconnect_backoff_ms": 5_000,
};

/** A bearer token, or a function that gives the present one before each call. */
export type Token = string | (() => string);

/** One attempt at a call: its options, and the reason why it ended. */
export class Call {
  readonly options: CallOptions & { signal: AbortSignal };
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #closing: AbortSignal;
  #late = false;

  constructor(
    metadata: Metadata,
    closing: AbortSignal,
    remainingSeconds: number | undefined,
    signal: AbortSignal | undefined,
  ) {
    const signals = [this.#controller.signal, closing];
    this.options = { metadata, signal: AbortSignal.any(signal ? [...signals, signal] : signals) };
    this.#closing = closing;
    this.#signal = signal;
    if (remainingSeconds !== undefined) {
      this.#timer = setTimeout(() => {
        this.#late = true;
        this.#controller.abort();
      }, remainingSeconds * 1000);
    }
  }

  /** The error of this package for what gRPC threw, or the caller's reason to cancel. */
  error(cause: unknown): unknown {
    if (this.#closing.aborted) {
      return new ClientClosedError();
    }
    if (this.#signal?.aborted) {
      return this.#signal.reason;
    }
    if (this.#late) {
      return new DeadlineExceededError("the time allowed for the call ran out", { cause });
    }
    return cause instanceof ClientError ? fromClientError(cause) : cause;
  }

  /** Cancels what still runs of it. */
  end(): void {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

type Unary<Request, Response> = (request: Request, options: CallOptions) => Promise<Response>;
type ServerStream<Request, Response> = (
  request: Request,
  options: CallOptions,
) => AsyncIterable<Response>;

/** A channel with a deadline, a token and a retry policy for the calls made through it. */
export class Transport {
  readonly #channel: Channel;
  readonly #closing = new AbortController();
  readonly #token: Token | undefined;
  readonly #timeoutSeconds: number | undefined;
  readonly #retry: RetryPolicy;

  constructor(
    target: string,
    credentials: ChannelCredentials | undefined,
    token: Token | undefined,
    timeoutSeconds: number | undefined,
    retry: RetryPolicy,
  ) {
    if (token && credentials === undefined && !isNear(target)) {
      throw new TypeError("a token is only sent over TLS; pass credentials as well");
    }
    this.#token = token;
    this.#timeoutSeconds = timeoutSeconds;
    this.#retry = retry;
    this.#channel = createChannel(target, credentials, CHANNEL_OPTIONS);
  }

  /** A service's methods over this connection. */
  stub<Service extends CompatServiceDefinition>(service: Service): Client<Service> {
    return createClientFactory().use(errorDetailsClientMiddleware).create(service, this.#channel);
  }

  /** Ends the connection; whoever waits for a call on it gets a ClientClosedError. */
  close(): void {
    this.#closing.abort();
    this.#channel.close();
  }

  /** Attempts of a new operation. */
  attempts(repeatable: boolean): Attempts {
    return new Attempts(this.#retry, this.#timeoutSeconds, repeatable);
  }

  /** Begins an attempt at a call about the session of this name, or about none (""). */
  begin(session: string, remainingSeconds?: number, signal?: AbortSignal): Call {
    if (this.#closing.signal.aborted) {
      throw new ClientClosedError();
    }
    signal?.throwIfAborted();
    const token = typeof this.#token === "function" ? this.#token() : this.#token;
    const metadata = new Metadata();
    if (token) {
      metadata.set("authorization", `Bearer ${token}`);
    }
    const header = sessionHeader(session, token);
    if (header !== undefined) {
      metadata.set(SESSION_HEADER, header);
    }
    return new Call(metadata, this.#closing.signal, remainingSeconds, signal);
  }

  /**
   * One unary call. `attempts` says whether it may be repeated, and tells afterwards whether it was.
   */
  async call<Request extends object, Response>(
    method: Unary<Request, Response>,
    request: Request,
    attempts: Attempts = this.attempts(false),
  ): Promise<Response> {
    for (;;) {
      const call = this.begin(sessionOf(request), attempts.remainingSeconds());
      let error: unknown;
      try {
        return await method(request, call.options);
      } catch (cause) {
        error = call.error(cause);
      } finally {
        call.end();
      }
      await sleep(attempts.delayAfter(error));
    }
  }

  /** The answers of one call that changes nothing; it is repeated until the first answer. */
  async *stream<Request extends object, Response>(
    method: ServerStream<Request, Response>,
    request: Request,
  ): AsyncGenerator<Response, void, undefined> {
    const attempts = this.attempts(true);
    let answered = false;
    for (;;) {
      const call = this.begin(sessionOf(request), attempts.remainingSeconds());
      let error: unknown;
      try {
        for await (const response of method(request, call.options)) {
          answered = true;
          yield response;
        }
        return;
      } catch (cause) {
        error = call.error(cause);
      } finally {
        call.end();
      }
      if (answered) {
        throw error;
      }
      await sleep(attempts.delayAfter(error));
    }
  }

  /** One call about `session` with a row of requests, which is not repeated: they come once. */
  async send<Request, Response>(
    method: (requests: AsyncIterable<Request>, options: CallOptions) => Promise<Response>,
    requests: AsyncIterable<Request>,
    session: string,
  ): Promise<Response> {
    const call = this.begin(session, this.#timeoutSeconds);
    try {
      return await method(requests, call.options);
    } catch (cause) {
      throw call.error(cause);
    } finally {
      call.end();
    }
  }
}

/** Whether what goes to the target stays on this machine. */
function isNear(target: string): boolean {
  const address = target.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
  return (
    address === "localhost" || address === "::1" || (isIPv4(address) && address.startsWith("127."))
  );
}
