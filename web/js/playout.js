/** The assistant's voice on this machine's loudspeaker: playing it, silencing it at once, and reporting where it is. */

const REPORT_MS = 100;
const RAMP = [0.4, 0.1];
const RAMP_STEP_MS = 4;
const HUSH_MS = 1000;

/**
 * The stream plays through an audio element, because browsers cancel the echo only of what elements play.
 * Reports tell the server the RTP time of the sound that is being heard; from them it knows how much of a reply was.
 */
export class Playout {
  #volume = 1;
  #hushed = 0;
  #timer = 0;
  /** @type {(() => void) | null} */
  #unblock = null;

  /**
   * @param {HTMLAudioElement} element
   * @param {RTCRtpReceiver} receiver
   * @param {RTCDataChannel} channel
   * @param {() => number} outputLatencyMs
   */
  constructor(element, receiver, channel, outputLatencyMs) {
    this.element = element;
    this.receiver = receiver;
    this.channel = channel;
    this.outputLatencyMs = outputLatencyMs;
  }

  /**
   * @param {() => void} onBlocked  called when the browser wants a key or a click before it plays sound
   */
  start(onBlocked) {
    this.element.srcObject = new MediaStream([this.receiver.track]);
    this.element.muted = false;
    this.element.volume = this.#volume;
    this.#timer = window.setInterval(() => this.report(), REPORT_MS);
    this.element.play().catch((error) => {
      if (error.name !== "NotAllowedError" || this.#timer === 0) return;
      onBlocked();
      this.#unblock = () => void this.element.play().catch(() => {});
      for (const type of ["pointerup", "keyup"]) document.addEventListener(type, this.#unblock, { once: true });
    });
  }

  stop() {
    window.clearInterval(this.#timer);
    window.clearTimeout(this.#hushed);
    this.#timer = 0;
    if (this.#unblock) {
      for (const type of ["pointerup", "keyup"]) document.removeEventListener(type, this.#unblock);
    }
    this.element.srcObject = null;
  }

  /** @param {number} volume  0 to 1 */
  setVolume(volume) {
    this.#volume = volume;
    if (this.#hushed === 0) this.element.volume = volume;
  }

  /**
   * Silence within 10 ms, and a report. It ends with `speak()`, or by itself when what was still on the way has
   * passed; the event that calls `speak()` may be late on a lossy line, and no word must go missing for that.
   */
  hush() {
    if (this.#hushed === 0) this.report(true);
    window.clearTimeout(this.#hushed);
    RAMP.forEach((gain, step) => window.setTimeout(() => this.#fade(gain), step * RAMP_STEP_MS));
    window.setTimeout(() => this.#fade(0), RAMP.length * RAMP_STEP_MS);
    this.#hushed = window.setTimeout(() => this.speak(), HUSH_MS);
  }

  speak() {
    window.clearTimeout(this.#hushed);
    this.#hushed = 0;
    this.element.volume = this.#volume;
    this.element.muted = false;
  }

  /** @param {number} gain */
  #fade(gain) {
    if (this.#hushed === 0) return;
    this.element.volume = this.#volume * gain;
    // Some systems keep the volume for themselves and ignore the line above.
    this.element.muted = gain === 0;
  }

  /** @param {boolean} silenced  the loudspeaker is made silent here */
  report(silenced = false) {
    const source = this.receiver.getSynchronizationSources()[0];
    if (!source || this.channel.readyState !== "open") return;
    const age = performance.timeOrigin + performance.now() - source.timestamp;
    this.channel.send(
      JSON.stringify({
        rtp: source.rtpTimestamp,
        age_ms: Math.round(age),
        latency_ms: Math.round(this.outputLatencyMs()),
        silenced,
      }),
    );
  }
}
