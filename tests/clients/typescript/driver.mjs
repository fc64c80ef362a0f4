// Runs methods of the TypeScript client as lines of JSON ask for them:
//   node driver.mjs CLIENT_MODULE TARGET OPTIONS
// OPTIONS are those of the client; `caFile` stands for credentials that trust the file's authorities.
// Each line {id, method, args, take} is answered by {id, value} or {id, error}; of a stream, value is
// the list of what it gave, or of the first `take`.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [, , module, target, line] = process.argv;
const { HopeClient } = await import(module);
const { caFile, ...options } = JSON.parse(line);
if (caFile !== undefined) {
  const { ChannelCredentials } = createRequire(module)("@grpc/grpc-js");
  options.credentials = ChannelCredentials.createSsl(readFileSync(caFile));
}
const client = new HopeClient(target, options);

/** Arguments that JSON has no form for: bytes, a stream of pieces, a signal that is aborted. */
function revive(_key, value) {
  if (value?.$bytes !== undefined) {
    return Buffer.from(value.$bytes, "base64");
  }
  if (value?.$pieces !== undefined) {
    return (async function* () {
      yield* value.$pieces;
    })();
  }
  return value?.$aborted !== undefined ? AbortSignal.abort(new Error(value.$aborted)) : value;
}

function plain(key, value) {
  const whole = this[key];
  if (whole instanceof Uint8Array) {
    return { $bytes: Buffer.from(whole).toString("base64") };
  }
  if (whole instanceof Error) {
    const { name, message, code, reason, field, retryAfterSeconds } = whole;
    return { name, message, code, reason, field, retryAfterSeconds };
  }
  return typeof value === "bigint" ? Number(value) : value;
}

async function run({ method, args, take }) {
  const path = method.split(".");
  const owner = path.slice(0, -1).reduce((part, name) => part[name], client);
  const outcome = owner[path.at(-1)](...args);
  if (outcome?.[Symbol.asyncIterator] === undefined) {
    return await outcome;
  }
  const items = [];
  for await (const item of outcome) {
    items.push(item);
    if (items.length === take) {
      break;
    }
  }
  return items;
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line, revive);
  // Not awaited: calls run side by side, as a program's do.
  run(call)
    .then((value) => ({ id: call.id, value: value ?? null }))
    .catch((error) => ({ id: call.id, error }))
    .then((answer) => process.stdout.write(`${JSON.stringify(answer, plain)}\n`));
}
client.close();
