// Says one thing to a session by openai for Node, at once and by its stream helper:
//   node openai_client.mjs PACKAGE_DIRECTORY BASE_URL REQUEST
// Prints what the server said of its memory in each answer.

import { createRequire } from "node:module";

const [, , directory, baseURL, request] = process.argv;
const { default: OpenAI } = createRequire(`${directory}/`)("openai");
const client = new OpenAI({ baseURL, apiKey: "any" });
const body = JSON.parse(request);

const whole = await client.chat.completions.create(body);
// `hope` comes with the last chunk; the helper keeps what it does not know.
const stream = client.chat.completions.stream(body);
let hope;
for await (const chunk of stream) {
  hope = chunk.hope ?? hope;
}
const { message } = (await stream.finalChatCompletion()).choices[0];
if (message.role !== "assistant") {
  throw new Error(`the helper made the role '${message.role}'`);
}
console.log(JSON.stringify([whole.hope, hope]));
