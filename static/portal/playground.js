// The playground: a client of the realtime protocol like any other, with a short-lived secret.
const root = document.getElementById("playground");
const $ = (id) => document.getElementById(id);
const RATE = 24000;
let socket, audio, player, microphone, heard = { item: null, ms: 0, waiting: 0 }, lines = new Map(), current = null;

const say = (text, bad = false) => {
  $("state").textContent = text;
  $("state").classList.toggle("warn", bad);
};
const send = (event) => socket?.readyState === WebSocket.OPEN && socket.send(JSON.stringify(event));
const base64 = (buffer) => {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
};
const unbase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

function line(id, role, text, append = false) {
  let row = lines.get(id);
  if (!row) {
    row = document.createElement("li");
    row.className = role;
    const who = document.createElement("b");
    who.textContent = role === "user" ? "You " : role === "assistant" ? "Agent " : `${role} `;
    row.append(who, document.createElement("span"));
    $("transcript").append(row);
    lines.set(id, row);
  }
  const span = row.querySelector("span");
  span.textContent = append ? span.textContent + text : text;
  row.scrollIntoView({ block: "nearest" });
}

function waterfall(timing) {
  const total = timing.first_audio_ms || 1;
  const table = document.createElement("table");
  const caption = table.createCaption();
  caption.textContent = `${total.toFixed(0)} ms from the end of your words to the first sound`;
  let before = 0;
  for (const { name, ms } of timing.segments) {
    const row = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name.replaceAll("_", " ");
    const bar = document.createElement("td");
    bar.className = "bar";
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 4");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("x", (before / total) * 100);
    rect.setAttribute("width", Math.max(0.5, (ms / total) * 100));
    rect.setAttribute("height", 4);
    svg.append(rect);
    bar.append(svg);
    row.append(head, bar);
    row.insertCell().textContent = `${ms.toFixed(1)} ms`;
    before += ms;
  }
  $("waterfall").replaceChildren(table);
}

const handlers = {
  "session.created": (e) => {
    say("Connected. Speak, type, or let a clip speak for you.");
    if (!$("instructions").value) $("instructions").value = e.session.instructions;
    send({ type: "session.update", session: { type: "realtime", audio: { input: { transcription: { model: "whisper-1" } } } } });
    if ($("voice").value) changeVoice();
  },
  "input_audio_buffer.speech_started": () => {
    say("Listening …");
    interrupted();
  },
  "input_audio_buffer.speech_stopped": () => say("Thinking …"),
  "conversation.item.added": (e) => {
    if (e.item.type === "message" && e.item.role === "user") line(e.item.id, "user", e.item.content.map((p) => p.text ?? p.transcript ?? "…").join(" "));
    if (e.item.type === "function_call") line(e.item.id, "tool", `${e.item.name} …`);
  },
  "conversation.item.input_audio_transcription.completed": (e) => line(e.item_id, "user", e.transcript || "(nothing understood)"),
  "conversation.item.input_audio_transcription.failed": (e) => line(e.item_id, "user", `(not understood: ${e.error.message})`),
  "response.created": (e) => (current = e.response.id),
  "response.output_audio_transcript.delta": (e) => line(e.item_id, "assistant", e.delta, true),
  "response.output_text.delta": (e) => line(e.item_id, "assistant", e.delta, true),
  "response.output_audio.delta": (e) => {
    say("Speaking …");
    const pcm = unbase64(e.delta);
    player.port.postMessage({ item: e.item_id, pcm }, [pcm]);
    document.dispatchEvent(new CustomEvent("vivavoce:audio", { detail: { item: e.item_id } }));
  },
  "response.function_call_arguments.done": (e) => line(e.item_id, "tool", `${e.name}(${e.arguments})`),
  "response.done": (e) => {
    current = null;
    const { status, status_details: details } = e.response;
    if (status === "failed") say(`The answer failed: ${details?.error?.message ?? "no reason given"}`, true);
    else say("Your turn.");
  },
  "ext.response.timing": waterfall,
  error: (e) => {
    if (e.error.code !== "response_cancel_not_active") say(e.error.message, true);
  },
};

function interrupted() {
  if (!heard.waiting && !current) return;
  player?.port.postMessage({ clear: true });
  if (heard.item && heard.waiting) send({ type: "conversation.item.truncate", item_id: heard.item, content_index: 0, audio_end_ms: heard.ms });
  heard.waiting = 0;
}

function changeVoice() {
  const chosen = $("voice").value || $("agent").selectedOptions[0]?.dataset.voice;
  send({ type: "session.update", session: { type: "realtime", audio: { output: { voice: chosen } } } });
}

async function openAudio() {
  audio = new AudioContext({ sampleRate: RATE });
  await audio.audioWorklet.addModule(root.dataset.playback);
  player = new AudioWorkletNode(audio, "playback", { outputChannelCount: [1] });
  player.port.onmessage = ({ data }) => (heard = data);
  player.connect(audio.destination);
  await audio.resume();
}

async function openMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("This page must be opened over https or on localhost for the browser to give it a microphone.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
  await audio.audioWorklet.addModule(root.dataset.capture);
  microphone = { stream, node: new AudioWorkletNode(audio, "capture", { numberOfOutputs: 0 }) };
  microphone.node.port.onmessage = ({ data }) => {
    send({ type: "input_audio_buffer.append", audio: base64(data) });
    const samples = new Int16Array(data);
    let peak = 0;
    for (const s of samples) peak = Math.max(peak, Math.abs(s));
    $("level").style.width = `${Math.min(100, (peak / 32768) * 140)}%`;
  };
  audio.createMediaStreamSource(stream).connect(microphone.node);
}

const REASONS = {
  NotAllowedError: "The browser refused the microphone: allow it beside the address bar, then connect again. Or connect without a microphone and use the clips.",
  NotFoundError: "There is no microphone here. Connect without one and use the clips, or type.",
  NotReadableError: "Another program holds the microphone. Close it, or connect without one.",
};

async function connect(withMicrophone) {
  busy(true);
  try {
    say("Connecting …");
    await openAudio();
    if (withMicrophone) await openMicrophone();
    const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
    const answer = await fetch(root.dataset.secret, { method: "POST", headers: { "X-CSRFToken": token } });
    if (!answer.ok) throw new Error(`The portal gave no client secret (${answer.status}). Reload the page.`);
    const { value } = await answer.json();
    const query = new URLSearchParams({ assistant: $("agent").value, extensions: "1" });
    socket = new WebSocket(`${root.dataset.ws}?${query}`, ["realtime", `openai-insecure-api-key.${value}`]);
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      handlers[event.type]?.(event);
    };
    socket.onclose = ({ code, reason }) => end(code === 1000 ? "Ended." : `The connection ended: ${reason || code}.`);
    socket.onerror = () => say("The gateway does not answer. Is it running?", true);
  } catch (error) {
    end(REASONS[error.name] ?? error.message, true);
  }
}

function end(text, bad = false) {
  socket?.close(1000);
  microphone?.stream.getTracks().forEach((t) => t.stop());
  audio?.close().catch(() => {});
  socket = audio = player = microphone = current = null;
  busy(false);
  say(text, bad);
}

function busy(on) {
  for (const id of ["connect", "quiet", "agent"]) $(id).disabled = on;
  for (const element of [$("end"), $("text"), $("interrupt"), $("apply"), ...document.querySelectorAll("#type button, .clip")]) element.disabled = !on;
}

async function playClip(url) {
  const bytes = await (await fetch(url)).arrayBuffer();
  const decoded = await audio.decodeAudioData(bytes);
  const samples = decoded.getChannelData(0);
  const pcm = new Int16Array(samples.length + RATE); // a second of silence ends the utterance
  samples.forEach((s, i) => (pcm[i] = s * 32767));
  for (let at = 0; at < pcm.length && socket; at += 960) {
    send({ type: "input_audio_buffer.append", audio: base64(pcm.slice(at, at + 960).buffer) });
    await new Promise((r) => setTimeout(r, 38));
  }
}

$("connect").onclick = () => connect(true);
$("quiet").onclick = () => connect(false);
$("end").onclick = () => end("Ended.");
$("interrupt").onclick = () => {
  send({ type: "response.cancel" });
  interrupted();
};
$("voice").onchange = changeVoice;
$("apply").onclick = () => send({ type: "session.update", session: { type: "realtime", instructions: $("instructions").value } });
$("type").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  if (current) send({ type: "response.cancel" });
  interrupted();
  send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
  send({ type: "response.create" });
};
for (const button of document.querySelectorAll(".clip"))
  button.onclick = () => playClip(button.dataset.clip).catch((error) => say(`The clip did not load: ${error.message}`, true));
$("agent").onchange = () => ($("instructions").value = $("agent").selectedOptions[0]?.dataset.instructions ?? "");
