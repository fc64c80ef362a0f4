/**
 * The digest by which a server tells a document from another one of the same name.
 *
 * `Document.content_digest` in hope/v1/sessions.proto says how it is made.
 */

import { createHash } from "node:crypto";

const BLOCK_BYTES = 64;

/** Digest of bytes that come piece by piece. */
export class ContentDigest {
  #chain: Uint8Array = new Uint8Array(32);
  #rest: Uint8Array = new Uint8Array(0);

  /** Adds bytes, cut in any way. */
  update(data: Uint8Array): void {
    const bytes = Buffer.concat([this.#rest, data]);
    const whole = bytes.length - (bytes.length % BLOCK_BYTES);
    for (let at = 0; at < whole; at += BLOCK_BYTES) {
      this.#chain = sha256(this.#chain, bytes.subarray(at, at + BLOCK_BYTES));
    }
    this.#rest = bytes.subarray(whole);
  }

  /** Digest of everything that was added, and of `more` behind it, which is not added. */
  digest(more: Uint8Array = new Uint8Array(0)): Uint8Array {
    const whole = new ContentDigest();
    whole.#chain = this.#chain;
    whole.#rest = this.#rest;
    whole.update(more);
    return sha256(whole.#chain, whole.#rest);
  }
}

function sha256(first: Uint8Array, second: Uint8Array): Uint8Array {
  return createHash("sha256").update(first).update(second).digest();
}
