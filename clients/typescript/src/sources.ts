/**
 * Sources of a document's bytes that can go back to what was not committed.
 *
 * Knows bytes, files and streams; knows nothing of the wire. Offsets count bytes of the document. A
 * source that can seek goes back at will; one that cannot keeps what it handed out until it is
 * released, and no more than a bound.
 */

import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename } from "node:path";

import { ContentDigest } from "./content.js";
import { DataLossError } from "./errors.js";

/** A file by path; its base name is the document's name unless another is given. */
export interface DocumentFile {
  path: string;
}

type Pieces = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Text, UTF-8 bytes, a file, or a stream of pieces, such as a Readable. */
export type DocumentSource = string | Uint8Array | DocumentFile | Pieces;

/** The most that one message carries. */
export const MAX_CHUNK_BYTES = 1024 * 1024;

/** A stream may run at most this far ahead of what the server has committed. */
const MAX_HELD_BYTES = 8 * 1024 * 1024;

const READ_BYTES = 64 * 1024;

/** A source does not reach as far as the document was read. */
export class SourceEndsError extends Error {
  constructor(readonly bytes: number) {
    super(`the source ends at byte ${bytes}`);
  }
}

/** Bytes of a document, readable again from the last released offset on. */
export interface ByteSource {
  /** Up to `limit` bytes from `offset` on; empty at the end. One reader at a time. */
  read(offset: number, limit: number, signal: AbortSignal): Promise<Uint8Array>;
  /**
   * Digest of all bytes of the document before `offset`, which is at least the last released one;
   * empty when the source begins behind the document's first byte. Throws SourceEndsError when the
   * source has fewer bytes.
   */
  digest(offset: number, signal: AbortSignal): Promise<Uint8Array>;
  /** Bytes before `offset` will not be asked for again. */
  release(offset: number): void;
  /** Lets go of what the source opened itself. */
  close(): Promise<void>;
}

/** Bytes in memory or in a regular file. `begin` is the document offset of the first one. */
class SeekableSource implements ByteSource {
  constructor(
    private readonly bytes: (offset: number, limit: number) => Promise<Uint8Array>,
    private readonly begin: number,
    private readonly file?: FileHandle,
  ) {}

  async read(offset: number, limit: number): Promise<Uint8Array> {
    return this.bytes(offset - this.begin, limit);
  }

  async digest(offset: number): Promise<Uint8Array> {
    if (this.begin > 0) {
      return new Uint8Array(0);
    }
    // Read again every time: the file may have been changed since.
    const content = new ContentDigest();
    for (let at = 0; at < offset;) {
      const piece = await this.bytes(at, Math.min(READ_BYTES, offset - at));
      if (piece.length === 0) {
        throw new SourceEndsError(at);
      }
      content.update(piece);
      at += piece.length;
    }
    return content.digest();
  }

  release(): void {}

  async close(): Promise<void> {
    await this.file?.close();
  }
}

/** Pieces that come once. `begin` is the document offset of the first one. */
class StreamSource implements ByteSource {
  readonly #pieces: AsyncIterator<Uint8Array> | Iterator<Uint8Array>;
  // Of what came before the held bytes, unless the document did so elsewhere.
  readonly #content: ContentDigest | undefined;
  #held: Uint8Array = new Uint8Array(0);
  #begin: number; // document offset of the first held byte
  #released: number;
  #pending: Promise<IteratorResult<Uint8Array>> | undefined;
  #exhausted = false;
  #makeRoom = (): void => {};

  constructor(pieces: Pieces, begin: number) {
    this.#pieces =
      Symbol.asyncIterator in pieces ? pieces[Symbol.asyncIterator]() : pieces[Symbol.iterator]();
    this.#begin = this.#released = begin;
    this.#content = begin > 0 ? undefined : new ContentDigest();
  }

  get #end(): number {
    return this.#begin + this.#held.length;
  }

  async read(offset: number, limit: number, signal: AbortSignal): Promise<Uint8Array> {
    if (offset < this.#begin) {
      throw new DataLossError(
        `the server asks for byte ${offset} again, but everything before byte ${this.#begin} ` +
          "was already committed and released; start again with a new source",
      );
    }
    while (offset >= this.#end && !this.#exhausted) {
      this.#drop(Math.min(this.#released, offset));
      if (this.#held.length >= MAX_HELD_BYTES) {
        await unlessAborted(new Promise<void>((resolve) => (this.#makeRoom = resolve)), signal);
      } else {
        await this.#pull(signal);
      }
    }
    const start = offset - this.#begin;
    return this.#held.subarray(start, start + limit);
  }

  async digest(offset: number, signal: AbortSignal): Promise<Uint8Array> {
    if (this.#content === undefined) {
      return new Uint8Array(0);
    }
    while (this.#end < offset) {
      if ((await this.read(this.#end, 1, signal)).length === 0) {
        throw new SourceEndsError(this.#end);
      }
    }
    return this.#content.digest(this.#held.subarray(0, offset - this.#begin));
  }

  release(offset: number): void {
    this.#released = Math.max(this.#released, offset);
    this.#drop(this.#released);
    this.#makeRoom();
  }

  async close(): Promise<void> {
    // A generator that waits for its next piece would answer only after that.
    void Promise.resolve(this.#pieces.return?.()).catch(() => undefined);
  }

  #drop(offset: number): void {
    const dropped = Math.max(0, Math.min(offset - this.#begin, this.#held.length));
    this.#content?.update(this.#held.subarray(0, dropped));
    this.#held = this.#held.subarray(dropped);
    this.#begin += dropped;
  }

  async #pull(signal: AbortSignal): Promise<void> {
    // Remembered: a piece on its way when a call breaks must reach the next call, or the document
    // would have a hole.
    this.#pending ??= Promise.resolve(this.#pieces.next());
    const piece = await unlessAborted(this.#pending, signal);
    this.#pending = undefined;
    if (piece.done) {
      this.#exhausted = true;
    } else {
      this.#held = Buffer.concat([this.#held, piece.value]);
    }
  }
}

/** What `promise` gives, unless `signal` is aborted before. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let abort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason);
    signal.addEventListener("abort", abort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}

/** Name that a source gives its document, "" for none. */
export function nameOf(source: DocumentSource): string {
  return isFile(source) ? basename(source.path) : "";
}

/** The source, whose first byte is byte `begin` of the document. */
export async function openSource(source: DocumentSource, begin: number): Promise<ByteSource> {
  if (typeof source === "string" || source instanceof Uint8Array) {
    const bytes = typeof source === "string" ? Buffer.from(source, "utf8") : source;
    return new SeekableSource(
      async (offset, limit) => bytes.subarray(offset, offset + limit),
      begin,
    );
  }
  if (!isFile(source)) {
    return new StreamSource(source, begin);
  }
  if (!(await stat(source.path)).isFile()) {
    return new StreamSource(createReadStream(source.path, { highWaterMark: READ_BYTES }), begin);
  }
  const file = await open(source.path);
  return new SeekableSource(
    async (offset, limit) => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(limit), 0, limit, offset);
      return buffer.subarray(0, bytesRead);
    },
    begin,
    file,
  );
}

function isFile(source: DocumentSource): source is DocumentFile {
  return (
    typeof source === "object" &&
    "path" in source &&
    typeof source.path === "string" &&
    !(Symbol.asyncIterator in source)
  );
}

/** `pieces`, cut so that none is longer than `limit`. */
export async function* inPieces(pieces: Pieces, limit: number): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    for (let begin = 0; begin < piece.length; begin += limit) {
      yield piece.subarray(begin, begin + limit);
    }
  }
}
