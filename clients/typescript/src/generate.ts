/**
 * One generate turn: from request to stream of events, across as many calls as it takes.
 *
 * Knows InferenceService.Generate; `client.ts` knows how a request looks to a caller. The requestId
 * makes repeats harmless: a turn that the server committed is answered from what it stored, one
 * that it did not commit left no trace and runs again.
 */

import { createHash } from "node:crypto";

import type { Client } from "nice-grpc";

import { HopeClientError, InternalError } from "./errors.js";
import type { GenerateEvent } from "./events.js";
import { GenerateRequest } from "./generated/hope/v1/inference.js";
import type {
  GenerateResult,
  InferenceServiceDefinition,
  Sampling,
  TextDelta,
} from "./generated/hope/v1/inference.js";
import { sleep } from "./retry.js";
import type { Transport } from "./transport.js";

/**
 * `sampling` with a seed, where chance decides and none was given.
 *
 * It follows from the requestId: the server would draw another one for every call, and so a turn
 * that runs again would contradict what was shown of it.
 */
export function reproducible(
  sampling: Partial<Sampling> | undefined,
  requestId: string,
): Partial<Sampling> | undefined {
  if (!sampling?.temperature || sampling.seed !== undefined) {
    return sampling;
  }
  const seed = createHash("sha256").update(requestId).digest().readBigUInt64BE() >> 1n;
  return { ...sampling, seed };
}

/** The text of a turn as its reader has seen it, whichever call it came from. */
class Reply {
  #shown = { text: "", tokens: 0 };
  #told = { text: "", tokens: 0 }; // by the present call

  beginCall(): void {
    this.#told = { text: "", tokens: 0 };
  }

  /** Events for `delta`: none, if its text was shown before. */
  *events(delta: TextDelta): Generator<GenerateEvent> {
    const inStep = this.#told.text === this.#shown.text;
    const told = {
      text: this.#told.text + delta.text,
      tokens: this.#told.tokens + delta.tokens,
    };
    this.#told = told;
    if (this.#shown.text.startsWith(told.text)) {
      return;
    }
    if (!told.text.startsWith(this.#shown.text)) {
      yield { type: "restarted" };
      this.#shown = { text: "", tokens: 0 };
    }
    const { text, tokens } = this.#shown;
    yield {
      type: "delta",
      text: told.text.slice(text.length),
      tokens: Math.max(0, told.tokens - tokens),
      // Those of a piece that was shown in part cannot be told apart.
      logprobs: inStep ? delta.logprobs : [],
    };
    this.#shown = { text: told.text, tokens: Math.max(told.tokens, tokens) };
  }

  /** Events for the end of the present call's text. */
  *end(): Generator<GenerateEvent> {
    if (this.#shown.text !== this.#told.text) {
      // It stopped earlier than what was shown.
      this.#shown = this.#told;
      yield { type: "restarted" };
      yield { type: "delta", ...this.#told, logprobs: [] };
    }
  }
}

/**
 * Events of the turn `request`, which carries a requestId.
 *
 * A call that breaks, before or after some text was shown, is made again under that id; the reader
 * gets the rest of the text, or hears that it is another one. Throws HopeClientError when the turn
 * was refused, or the attempts or the time are used up.
 */
export async function* generateEvents(
  transport: Transport,
  stub: Client<InferenceServiceDefinition>,
  partial: Parameters<typeof GenerateRequest.fromPartial>[0],
  signal?: AbortSignal,
): AsyncGenerator<GenerateEvent, void, undefined> {
  const request = GenerateRequest.fromPartial(partial);
  const attempts = transport.attempts(true);
  const reply = new Reply();
  for (;;) {
    reply.beginCall();
    let result: GenerateResult | undefined;
    let error: unknown;
    const call = transport.begin(request.session, attempts.remainingSeconds(), signal);
    try {
      for await (const { event } of stub.generate(request, call.options)) {
        switch (event?.$case) {
          case "status":
            yield { type: "status", ...event.value };
            break;
          case "delta":
            yield* reply.events(event.value);
            break;
          case "result":
            result = event.value;
        }
      }
      error = new InternalError("the server ended the stream without a result");
    } catch (cause) {
      error = call.error(cause);
    } finally {
      call.end();
    }
    // Once the turn was acknowledged, how the stream closed does not matter.
    if (result !== undefined) {
      yield* reply.end();
      yield { type: "result", ...result };
      return;
    }
    const delay = attempts.delayAfter(error);
    yield { type: "resuming", error: error as HopeClientError, delaySeconds: delay };
    await sleep(delay, signal);
  }
}
