// SPDX-License-Identifier: Apache-2.0
// One case of the official clients for Node, unmodified: argument 1 is its name; what it found is printed as JSON.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const base = process.env.BASE_URL;
const apiKey = process.env.API_KEY;
const openai = new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });
const claude = new Anthropic({ baseURL: base, apiKey, maxRetries: 0 });
const says = (content) => [{ role: "user", content }];

async function gather(stream, pick) {
  const found = { text: "" };
  try {
    for await (const event of stream) found.text += pick(event) ?? "";
  } catch (error) {
    return { ...found, ...told(error) };
  }
  return found;
}

function told(error) {
  return {
    raised: error.constructor.name,
    apiError: error instanceof OpenAI.APIError || error instanceof Anthropic.APIError,
    status: error.status ?? null,
    code: error.code ?? null,
    message: error.message,
  };
}

async function raisedBy(call) {
  try {
    await call();
  } catch (error) {
    return told(error);
  }
  return { raised: null };
}

const chat = (model, content, more = {}) =>
  openai.chat.completions.create({ model, messages: says(content), max_tokens: 20, temperature: 0, ...more });
const chatText = (chunk) => chunk.choices[0]?.delta?.content;
const messageText = (event) => (event.type === "content_block_delta" ? event.delta.text : "");
const responseText = (event) => (event.type === "response.output_text.delta" ? event.delta : "");
const message = (model, content, more = {}) =>
  claude.messages.create({ model, max_tokens: 20, messages: says(content), ...more });

const OCEAN = "Write one sentence about the ocean.";
const cases = {
  async models() {
    const ids = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    return { ids };
  },
  chat: async () => ({ text: (await chat("smollm2", OCEAN)).choices[0].message.content }),
  chatStream: async () => gather(await chat("smollm2", OCEAN, { stream: true }), chatText),
  responses: async () => ({
    text: (await openai.responses.create({ model: "smollm2", input: OCEAN, max_output_tokens: 20 })).output_text,
  }),
  responsesStream: async () =>
    gather(
      await openai.responses.create({ model: "smollm2", input: OCEAN, max_output_tokens: 20, stream: true }),
      responseText,
    ),
  embeddings: async () => ({
    length: (await openai.embeddings.create({ model: "minilm", input: "A cat." })).data[0].embedding.length,
  }),
  messages: async () => ({ text: (await message("smollm2", OCEAN)).content[0].text }),
  messagesStream: async () => gather(await message("smollm2", OCEAN, { stream: true }), messageText),
  countTokens: async () => claude.messages.countTokens({ model: "smollm2", messages: says("Hello") }),
  notFound: async () => raisedBy(() => chat("smolm2", "x")),
  messagesNotFound: async () => raisedBy(() => message("smolm2", "x")),
  unknownKey: async () =>
    raisedBy(() => new OpenAI({ baseURL: `${base}/v1`, apiKey: "fk-nobody", maxRetries: 0 }).models.list()),
  tooLarge: async () => raisedBy(() => openai.completions.create({ model: "smollm2", prompt: "x".repeat(20000) })),
  unavailable: async () => raisedBy(() => chat("broken", "x")),
  brokenChat: async () => gather(await chat("double", "tokens=9 break=3", { stream: true }), chatText),
  brokenResponses: async () =>
    gather(await openai.responses.create({ model: "double", input: "tokens=9 break=3", stream: true }), responseText),
  brokenMessages: async () => gather(await message("double", "tokens=9 break=3", { stream: true }), messageText),
  brokenPlain: async () => raisedBy(() => chat("double", "tokens=9 break=1")),
};

const found = {};
for (const [name, run] of Object.entries(cases)) {
  try {
    found[name] = await run();
  } catch (error) {
    found[name] = { unexpected: told(error) };
  }
}
console.log(JSON.stringify(found));
