// The browser's side of sound: a speaker that knows what was heard, a microphone, clips. PCM16 mono at 24 kHz on all of them.
export const RATE = 24000;

export function base64(buffer) {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
export const unbase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

export function peak(buffer) {
  let top = 0;
  for (const sample of new Int16Array(buffer)) top = Math.max(top, Math.abs(sample));
  return top / 32768;
}

export class Speaker {
  static async open(worklet) {
    const speaker = new Speaker();
    speaker.context = new AudioContext({ sampleRate: RATE });
    await speaker.context.audioWorklet.addModule(worklet);
    speaker.node = new AudioWorkletNode(speaker.context, "playback", { outputChannelCount: [1] });
    speaker.node.connect(speaker.context.destination);
    speaker.node.port.onmessage = ({ data }) => {
      speaker.heard = data;
      if (data.cleared) speaker.onCleared?.(data);
      else if (!data.waiting) speaker.onDone?.();
    };
    await speaker.context.resume();
    return speaker;
  }
  heard = { item: null, ms: 0, waiting: 0 };

  play(item, pcm) {
    this.heard.waiting++;
    this.node.port.postMessage({ item, pcm }, [pcm]);
  }
  // Stop at once; onCleared is told {item, ms, waiting}: ms of the item that left the loudspeaker.
  clear() {
    this.node.port.postMessage({ clear: true });
  }
  get latencyMs() {
    return 1000 * (this.context.outputLatency || this.context.baseLatency || 0);
  }
  async decode(url) {
    const decoded = await this.context.decodeAudioData(await (await fetch(url)).arrayBuffer());
    const samples = decoded.getChannelData(0);
    const pcm = new Int16Array(samples.length + RATE); // a second of silence ends the utterance
    samples.forEach((s, i) => (pcm[i] = Math.max(-1, Math.min(1, s)) * 32767));
    return pcm;
  }
  close() {
    this.context.close().catch(() => {});
  }
}

export class Microphone {
  // onBlock gets 40 ms of PCM16 as an ArrayBuffer. Throws what getUserMedia throws.
  static async open(worklet, onBlock) {
    if (!navigator.mediaDevices?.getUserMedia) throw Object.assign(new Error(), { name: "InsecureError" });
    const microphone = new Microphone();
    microphone.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } });
    const [context, source] = Microphone.source(microphone.stream);
    microphone.context = context;
    await context.audioWorklet.addModule(worklet);
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onBlock(data);
    source.connect(node);
    await context.resume();
    return microphone;
  }
  // Some browsers take a microphone into a context of its own rate only; the worklet resamples there.
  static source(stream) {
    const context = new AudioContext({ sampleRate: RATE });
    try {
      return [context, context.createMediaStreamSource(stream)];
    } catch {
      context.close();
      const own = new AudioContext();
      return [own, own.createMediaStreamSource(stream)];
    }
  }
  close() {
    this.stream.getTracks().forEach((track) => track.stop());
    this.context?.close().catch(() => {});
  }
}
