// Microphone to PCM16 at the context's rate (24 kHz), in blocks of 40 ms.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(960);
    this.filled = 0;
  }
  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    for (const sample of channel) {
      this.block[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block.buffer.slice(0));
        this.filled = 0;
      }
    }
    return true;
  }
}
registerProcessor("capture", Capture);
