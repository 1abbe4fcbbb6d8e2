// @openai/agents-realtime against the gateway: a text turn, a spoken one, an interruption, a tool call. Prints what happened as JSON.
// `node agents.mjs WS_URL KEY QUESTION.pcm`
import { readFileSync } from "node:fs";
import { RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";
import { z } from "zod";

const [url, key, question] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const called = [], errors = [];
const getWeather = tool({
  name: "get_weather", description: "Weather of a city.", parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => { called.push(city); return "sunny, 21 degrees"; },
});
const agent = new RealtimeAgent({ name: "Assistant", instructions: "You are a friendly voice assistant. Answer briefly.", tools: [getWeather] });
const session = new RealtimeSession(agent, { transport: "websocket", config: { audio: { input: { transcription: { model: "gpt-4o-mini-transcribe" } } } } });
let bytes = 0, history = [];
session.on("audio", (event) => { bytes += event.data.byteLength; });
session.on("history_updated", (items) => { history = items; });
session.on("error", (error) => errors.push(JSON.stringify(error.error ?? error)));

const spoken = () => history.filter((i) => i.role === "assistant").map((i) => i.content.map((p) => p.transcript ?? p.text ?? "").join(""));
const heard = () => history.filter((i) => i.role === "user").map((i) => i.content.map((p) => p.transcript ?? p.text ?? "").join(""));
async function until(test, seconds = 20) {
  for (let i = 0; i < seconds * 20; i++) { if (test()) return; await sleep(50); }
  throw new Error(`waited ${seconds} s: ${JSON.stringify({ spoken: spoken(), heard: heard(), errors })}`);
}

const found = {};
await session.connect({ url, apiKey: key });
session.sendMessage("What is seven plus five?");
await until(() => spoken().at(-1) === "Seven plus five is twelve." && bytes > 40000);
found.text = { text: spoken().at(-1), bytes };

bytes = 0;
const pcm = Buffer.concat([readFileSync(question), Buffer.alloc(96000)]);
for (let at = 0; at < pcm.length; at += 960) {
  const part = pcm.subarray(at, at + 960);
  session.sendAudio(part.buffer.slice(part.byteOffset, part.byteOffset + part.length));
  await sleep(20);
}
await until(() => spoken().length >= 2 && bytes > 40000);
await sleep(500);
found.audio = { text: spoken().at(-1), bytes };

bytes = 0;
session.sendMessage("Tell me a story.");
await until(() => bytes > 48000);
session.interrupt();
await sleep(1000);
const stopped = bytes;
await sleep(1000);
found.interrupted = { bytes: stopped, later: bytes - stopped };

session.sendMessage("What is the weather in Paris today?");
await until(() => /degrees/.test(spoken().at(-1)));
found.result = { text: spoken().at(-1) };
session.close();
console.log(JSON.stringify({ ...found, called, heard: heard(), errors }));
process.exit(0);
