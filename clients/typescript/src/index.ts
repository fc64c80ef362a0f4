/** TypeScript client of hope-server: sessions whose memory learns while it is served. */

export { DEFAULT_TARGET, HopeClient } from "./client.js";
export type { ClientOptions, Content, IngestOptions, TurnOptions } from "./client.js";
export * from "./errors.js";
export type { GenerateEvent, IngestEvent, Resuming } from "./events.js";
export { FinishReason, Role, Status } from "./generated/hope/v1/inference.js";
export type {
  GenerateResult,
  IngestProgress,
  IngestResult,
  Message,
  Sampling,
  ScoreResponse,
  StatusUpdate,
  TextDelta,
  Usage,
} from "./generated/hope/v1/inference.js";
export type { GetServerInfoResponse } from "./generated/hope/v1/admin.js";
export { Guard, Speaker } from "./generated/hope/v1/sessions.js";
export type * from "./generated/hope/v1/sessions.js";
export { RESUME, RETRY } from "./retry.js";
export type { RetryPolicy } from "./retry.js";
export { Sessions } from "./sessions.js";
export type { DocumentFile, DocumentSource } from "./sources.js";
export type { Token } from "./transport.js";
