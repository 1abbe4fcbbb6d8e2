// Plays queued PCM16 and counts per item what has really been played.
// Tells {item, ms, waiting} every 100 ms and at each item's end; {clear: true} drops the queue and is answered with {cleared: true, item, ms, waiting}.
class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.at = 0;
    this.played = 0;
    this.item = null;
    this.told = 0;
    this.port.onmessage = ({ data }) => {
      if (data.clear) {
        this.tell({ cleared: true });
        this.queue = [];
        this.at = 0;
      } else this.queue.push({ item: data.item, samples: new Int16Array(data.pcm) });
    };
  }
  tell(more) {
    if (this.item) this.port.postMessage({ item: this.item, ms: Math.floor((this.played * 1000) / sampleRate), waiting: this.queue.length, ...more });
  }
  process(_, outputs) {
    const out = outputs[0][0];
    for (let i = 0; i < out.length; i++) {
      const head = this.queue[0];
      if (!head) {
        out[i] = 0;
        continue;
      }
      if (head.item !== this.item) {
        this.item = head.item;
        this.played = 0;
      }
      out[i] = head.samples[this.at++] / 32768;
      this.played++;
      if (this.at >= head.samples.length) {
        this.queue.shift();
        this.at = 0;
        if (!this.queue.length) this.tell();
      }
    }
    for (let c = 1; c < outputs[0].length; c++) outputs[0][c].set(out);
    if (this.queue.length && currentTime - this.told > 0.1) {
      this.told = currentTime;
      this.tell();
    }
    return true;
  }
}
registerProcessor("playback", Playback);
