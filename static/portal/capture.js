// Microphone to PCM16 at 24 kHz, in blocks of 40 ms, whatever the rate of the context it runs in.
const RATE = 24000;
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(960);
    this.filled = 0;
    this.step = sampleRate / RATE; // input samples an output sample takes
    this.at = 0; // place of the next output sample, in input samples of this call
    this.last = 0; // the sample before this call's first
  }
  put(value) {
    this.block[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
    if (this.filled === this.block.length) {
      this.port.postMessage(this.block.buffer.slice(0));
      this.filled = 0;
    }
  }
  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    if (this.step === 1) {
      for (const sample of channel) this.put(sample);
      return true;
    }
    for (; this.at < channel.length; this.at += this.step) {
      const index = Math.floor(this.at);
      const before = index ? channel[index - 1] : this.last;
      this.put(before + (channel[index] - before) * (this.at - index));
    }
    this.at -= channel.length;
    this.last = channel[channel.length - 1];
    return true;
  }
}
registerProcessor("capture", Capture);
