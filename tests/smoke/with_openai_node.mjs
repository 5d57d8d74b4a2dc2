// `node with_openai_node.mjs BASE_URL PICTURE`: what programs do through openai-node, against a running server.
import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const model = "glimpsed-demo";
const room = { model, max_tokens: 64, temperature: 0 };
const url = `data:image/png;base64,${fs.readFileSync(picture).toString("base64")}`;
const seen = [{ role: "user", content: [{ type: "text", text: "How many?" }, { type: "image_url", image_url: { url } }] }];
const question = [{ role: "user", content: "What shapes are there?" }];

const whole = await client.chat.completions.create({ ...room, messages: seen });
assert(whole.choices[0].message.content && whole.usage.completion_tokens);
let said = "";
let usage;
const stream = await client.chat.completions.create({
  ...room, messages: seen, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  said += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(said, whole.choices[0].message.content);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

const parameters = {
  type: "object", properties: { n: { type: "integer", minimum: 0, maximum: 99 } }, required: ["n"], additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "count", parameters } }];
const asked = { ...room, messages: question, tools, tool_choice: "required", parallel_tool_calls: false };
const [call] = (await client.chat.completions.create(asked)).choices[0].message.tool_calls;
assert.equal(call.function.name, "count");
assert(Number.isInteger(JSON.parse(call.function.arguments).n));
const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);

const schema = {
  type: "object", properties: { colour: { enum: ["red", "blue"] } }, required: ["colour"], additionalProperties: false,
};
const format = { type: "json_schema", json_schema: { name: "colour", schema, strict: true } };
const structured = await client.chat.completions.create({ ...room, messages: question, response_format: format });
assert(["red", "blue"].includes(JSON.parse(structured.choices[0].message.content).colour));

const input = [{ role: "user", content: [{ type: "input_image", image_url: url, detail: "auto" }] }];
const response = await client.responses.create({ model, input, max_output_tokens: 16 });
assert(response.output_text && response.usage.input_tokens_details.image_tokens);
const events = [];
for await (const event of client.responses.stream({ model, input, max_output_tokens: 16, temperature: 0 })) {
  events.push(event.type);
}
assert.equal(events[0], "response.created");
assert(["response.completed", "response.incomplete"].includes(events.at(-1)));
await assert.rejects(client.chat.completions.create({ ...room, model: "nobody", messages: question }), OpenAI.NotFoundError);
