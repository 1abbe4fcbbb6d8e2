// The playground: a client of the realtime protocol like any other, with a short-lived secret.
import { Microphone, Speaker, base64, peak, unbase64 } from "./audio.js";
import { Captions } from "./captions.js";
import { showTurn } from "./turns.js";

const root = document.getElementById("playground");
const $ = (id) => document.getElementById(id);
const captions = new Captions($("transcript"));
let socket, speaker, microphone, current = null, calls = [], muted = false;

const MOODS = { "Not connected.": "off", "Ended.": "off", "Listening …": "listening", "Thinking …": "thinking", "Speaking …": "speaking" };
function say(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
  $("orb").dataset.mood = bad ? "bad" : (MOODS[text] ?? (socket ? "ready" : "off"));
}
const send = (event) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(event));
const update = (session) => send({ type: "session.update", session: { type: "realtime", ...session } });
const chosenAgent = () => $("agent").selectedOptions[0];

const handlers = {
  "session.created": (e) => {
    say("Connected. Speak, type, or let a clip speak for you.");
    if (!$("instructions").value) $("instructions").value = e.session.instructions;
    update({ audio: { input: { transcription: { model: "whisper-1" } } } });
    if ($("voice").value) changeVoice();
    if ($("instructions").value !== chosenAgent().dataset.instructions) changeInstructions();
  },
  "input_audio_buffer.speech_started": () => {
    say("Listening …");
    interrupt();
  },
  "input_audio_buffer.speech_stopped": () => say("Thinking …"),
  "conversation.item.added": (e) => {
    if (e.item.type === "message" && e.item.role === "user") captions.set(e.item.id, "user", e.item.content.map((p) => p.text ?? p.transcript ?? "…").join(" "));
  },
  "conversation.item.input_audio_transcription.delta": (e) => captions.add(e.item_id, "user", e.delta),
  "conversation.item.input_audio_transcription.completed": (e) => captions.set(e.item_id, "user", e.transcript || "(nothing understood)"),
  "conversation.item.input_audio_transcription.failed": (e) => captions.set(e.item_id, "user", `(not understood: ${e.error.message})`),
  "conversation.item.truncated": (e) => send({ type: "conversation.item.retrieve", item_id: e.item_id }),
  "conversation.item.retrieved": (e) => captions.cut(e.item.id, (e.item.content ?? []).map((p) => p.transcript ?? p.text ?? "").join(" ") || "…"),
  "response.created": (e) => {
    current = e.response.id;
    calls = [];
  },
  "response.output_audio_transcript.delta": (e) => captions.add(e.item_id, "assistant", e.delta),
  "response.output_text.delta": (e) => captions.add(e.item_id, "assistant", e.delta),
  "response.output_audio.delta": (e) => {
    say("Speaking …");
    speaker.play(e.item_id, unbase64(e.delta));
    document.dispatchEvent(new CustomEvent("vivavoce:audio", { detail: { item: e.item_id } }));
  },
  "response.function_call_arguments.done": (e) => {
    calls.push(e.call_id);
    captions.call(e.item_id, e.name, e.arguments, (output) => answerCall(e.call_id, output));
  },
  "response.done": (e) => {
    current = null;
    const { status, status_details: details } = e.response;
    if (status === "failed") say(`The answer failed: ${details?.error?.message ?? "no reason given"}`, true);
    else if (calls.length) say("The agent calls a function: say what it answers.");
    else if (!speaker?.heard.waiting) say("Your turn.");
  },
  "ext.response.timing": (e) => showTurn($("waterfall"), $("median"), e),
  error: (e) => {
    if (e.error.code !== "response_cancel_not_active") say(e.error.message, true);
  },
};

function answerCall(id, output) {
  send({ type: "conversation.item.create", item: { type: "function_call_output", call_id: id, output } });
  calls = calls.filter((other) => other !== id);
  if (!calls.length) send({ type: "response.create" });
}

// The loudspeaker falls silent at once; the server is told how much of the item was really heard.
function interrupt() {
  if (!speaker?.heard.waiting) return;
  speaker.clear();
  speaker.heard.waiting = 0;
}
function tellHeard({ item, ms, waiting }) {
  if (waiting) send({ type: "conversation.item.truncate", item_id: item, content_index: 0, audio_end_ms: Math.max(0, Math.round(ms - speaker.latencyMs)) });
}

function changeVoice() {
  update({ audio: { output: { voice: $("voice").value || chosenAgent().dataset.voice } } });
}
function changeInstructions() {
  update({ instructions: $("instructions").value });
}

const HELP = { NotAllowedError: "denied", NotFoundError: "missing", NotReadableError: "busy", InsecureError: "insecure" };
function explain(which) {
  for (const part of document.querySelectorAll("#help [data-why]")) part.hidden = part.dataset.why !== which;
  $("help").hidden = !which;
  if (which) $("help").focus();
}

async function connect(withMicrophone) {
  busy(true);
  explain("");
  try {
    say("Connecting …");
    speaker = await Speaker.open(root.dataset.playback);
    speaker.onCleared = tellHeard;
    speaker.onDone = () => !current && socket && say("Your turn.");
    if (withMicrophone) microphone = await Microphone.open(root.dataset.capture, onBlock);
    $("mute").disabled = !withMicrophone;
    socket = new WebSocket(`${root.dataset.ws}?${new URLSearchParams({ assistant: $("agent").value, extensions: "1" })}`,
      ["realtime", `openai-insecure-api-key.${await clientSecret()}`]);
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      handlers[event.type]?.(event);
    };
    socket.onclose = ({ code, reason }) => end(code === 1000 ? "Ended." : `The connection ended: ${reason || code}.`, code !== 1000);
    socket.onerror = () => say("The gateway does not answer. Is it running?", true);
  } catch (error) {
    const why = HELP[error.name];
    end(why ? "No microphone yet: see below." : error.message, true);
    explain(why ?? "");
  }
}

async function clientSecret() {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const answer = await fetch(root.dataset.secret, { method: "POST", headers: { "X-CSRFToken": token } });
  if (!answer.ok) throw new Error(`The portal gave no client secret (${answer.status}). Reload the page.`);
  return (await answer.json()).value;
}

function onBlock(block) {
  if (!muted) send({ type: "input_audio_buffer.append", audio: base64(block) });
  root.style.setProperty("--level", muted ? 0 : Math.min(1, peak(block) * 1.6).toFixed(3));
}

function end(text, bad = false) {
  const closing = socket;
  socket = null;
  if (closing) closing.onclose = closing.onerror = null;
  closing?.close(1000);
  microphone?.close();
  speaker?.close();
  speaker = microphone = current = null;
  root.style.setProperty("--level", 0);
  busy(false);
  say(text, bad);
}

function busy(on) {
  for (const id of ["connect", "quiet", "agent"]) $(id).disabled = on;
  for (const element of [$("end"), $("text"), $("interrupt"), $("apply"), ...document.querySelectorAll("#type button, .clip")]) element.disabled = !on;
  for (const id of ["connect", "quiet"]) $(id).hidden = on;
  for (const id of ["mute", "end"]) $(id).hidden = !on;
  if (!on) $("mute").disabled = true;
}

async function playClip(url) {
  const pcm = await speaker.decode(url);
  for (let at = 0; at < pcm.length && socket; at += 960) {
    send({ type: "input_audio_buffer.append", audio: base64(pcm.slice(at, at + 960).buffer) });
    await new Promise((r) => setTimeout(r, 38));
  }
}

$("connect").onclick = () => connect(true);
$("quiet").onclick = () => connect(false);
$("end").onclick = () => end("Ended.");
$("mute").onclick = () => {
  muted = !muted;
  $("mute").setAttribute("aria-pressed", muted);
  $("mute").textContent = muted ? "Unmute" : "Mute";
};
const stop = () => {
  if (current) send({ type: "response.cancel" });
  if (current || speaker?.heard.waiting) say("Your turn.");
  interrupt();
};
$("interrupt").onclick = stop;
document.addEventListener("keydown", (event) => event.key === "Escape" && socket && stop());
$("voice").onchange = changeVoice;
$("apply").onclick = () => {
  changeInstructions();
  say("The next answer follows the new instructions.");
};
$("type").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  stop();
  send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
  send({ type: "response.create" });
};
for (const button of document.querySelectorAll(".clip"))
  button.onclick = () => playClip(button.dataset.clip).catch((error) => say(`The clip did not load: ${error.message}`, true));
$("agent").onchange = () => ($("instructions").value = chosenAgent()?.dataset.instructions ?? "");
$("agent").onchange();

// Say it before the first click where the browser has refused already.
navigator.permissions?.query({ name: "microphone" }).then((permission) => {
  if (permission.state === "denied") explain("denied");  // else what a click has explained meanwhile stays
  permission.onchange = () => explain(permission.state === "denied" ? "denied" : "");
}, () => {});
if (!navigator.mediaDevices?.getUserMedia) explain("insecure");
busy(false);
