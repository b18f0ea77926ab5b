/** How loud a track is just now. */

/** One per page: browsers allow few audio contexts. */
export class Loudness {
  /** @type {AudioContext | null} */
  #context = null;

  /** Must first be called from a key press or a click, or the context stays suspended. */
  wake() {
    this.#context ??= new AudioContext({ latencyHint: "interactive" });
    void this.#context.resume();
  }

  /** Delay between the browser's output and the loudspeaker, 0 where the browser does not say. */
  get outputLatencyMs() {
    return 1000 * (this.#context?.outputLatency || 0);
  }

  /**
   * @param {MediaStreamTrack | null} track
   * @returns {Meter}
   */
  of(track) {
    this.wake();
    return new Meter(/** @type {AudioContext} */ (this.#context), track);
  }
}

const FLOOR_DB = -60;
const CEILING_DB = -12;

export class Meter {
  /** @type {MediaStreamAudioSourceNode | null} */
  #source = null;
  #analyser;
  #samples;
  #level = 0;

  /**
   * @param {AudioContext} context
   * @param {MediaStreamTrack | null} track
   */
  constructor(context, track) {
    this.#analyser = context.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#samples = new Float32Array(this.#analyser.fftSize);
    if (!track) return;
    this.#source = context.createMediaStreamSource(new MediaStream([track]));
    this.#source.connect(this.#analyser);
  }

  /** @returns {number} 0 (silence) to 1 (loud): rises at once, falls softly */
  level() {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let power = 0;
    for (const sample of this.#samples) power += sample * sample;
    const db = 10 * Math.log10(power / this.#samples.length + 1e-12);
    const loud = Math.min(1, Math.max(0, (db - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
    this.#level = Math.max(loud, this.#level * 0.85);
    return this.#level;
  }

  stop() {
    this.#source?.disconnect();
  }
}
