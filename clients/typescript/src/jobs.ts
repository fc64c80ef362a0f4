/** Jobs of the server, which go on without the client that began them. */

import type { CallOptions } from "nice-grpc-common";

import { AbortedError, InternalError } from "./errors.js";
import type { Job, Session } from "./generated/hope/v1/sessions.js";
import { sleep } from "./retry.js";
import type { Transport } from "./transport.js";

export type OnJob = (job: Job) => void;

interface JobResponse {
  event?: { $case: "job"; value: Job } | { $case: "session"; value: Session } | undefined;
}

/**
 * Begins or joins a job and watches it to its end, across broken connections.
 *
 * `get` reads the session, which tells how a job ended while nobody watched.
 */
export async function runJob<Request extends { name: string }>(
  transport: Transport,
  method: (request: Request, options: CallOptions) => AsyncIterable<JobResponse>,
  request: Request,
  get: (session: string) => Promise<Session>,
  onProgress: OnJob,
): Promise<Session> {
  const attempts = transport.attempts(true);
  const version = (await get(request.name)).memoryVersion;
  let seen = false;
  for (;;) {
    try {
      const now = seen ? await get(request.name) : undefined;
      if (now !== undefined && now.job === undefined) {
        if (now.memoryVersion > version) {
          return now; // it ended while nobody watched
        }
        throw new AbortedError("the job was ended by another call");
      }
      for await (const { event } of transport.stream(method, request)) {
        if (event?.$case === "session") {
          return event.value;
        }
        if (event?.$case === "job") {
          seen = true;
          attempts.succeeded();
          onProgress(event.value);
        }
      }
      throw new InternalError("the server ended the stream before the job ended");
    } catch (error) {
      await sleep(attempts.delayAfter(error));
    }
  }
}
