/** How the connection is doing: figures once a second, and a verdict when nothing arrives any more. */

/**
 * @typedef {{rttMs: number | null, jitterBufferMs: number | null, lostPercent: number | null}} Figures
 * @typedef {"steady" | "unsteady" | "server-gone" | "lost"} Verdict
 */

const EVERY_MS = 1000;
const UNSTEADY_MS = 2500;
const LOST_MS = 15000;
const PROBE_MS = 3000;

/**
 * Watches a call. Fires `figures` each second and `verdict` when it changes.
 * The server sends sound all the time, silence included, so no packets means no connection.
 */
export class Network extends EventTarget {
  /** @type {Verdict} */
  verdict = "steady";
  #timer = 0;
  #packets = -1;
  #arrivedAt = performance.now();
  #emitted = 0;
  #delay = 0;
  #probing = false;

  /**
   * @param {RTCPeerConnection} peer
   * @param {RTCRtpReceiver} receiver
   */
  constructor(peer, receiver) {
    super();
    this.peer = peer;
    this.receiver = receiver;
  }

  start() {
    this.#arrivedAt = performance.now();
    this.#timer = window.setInterval(() => this.#look(), EVERY_MS);
  }

  stop() {
    window.clearInterval(this.#timer);
    this.#timer = 0;
  }

  async #look() {
    const reports = [...(await this.peer.getStats()).values()];
    if (this.#timer === 0) return;
    const inbound = reports.find((report) => report.type === "inbound-rtp" && report.kind === "audio");
    const pair = reports.find((report) => report.type === "candidate-pair" && report.nominated);
    this.dispatchEvent(new CustomEvent("figures", { detail: this.#figures(inbound, pair) }));
    const packets = inbound?.packetsReceived ?? 0;
    if (packets > this.#packets) {
      this.#packets = packets;
      this.#arrivedAt = performance.now();
      this.#judge("steady");
      return;
    }
    const missing = performance.now() - this.#arrivedAt;
    if (missing > LOST_MS) this.#judge("lost");
    else if (missing > UNSTEADY_MS) {
      this.#judge("unsteady");
      await this.#probe();
    }
  }

  /** Asks the server itself, to tell a stopped server from a broken way for sound. */
  async #probe() {
    if (this.#probing) return;
    this.#probing = true;
    try {
      await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(PROBE_MS) });
    } catch {
      if (this.#timer !== 0 && this.verdict === "unsteady") this.#judge("server-gone");
    } finally {
      this.#probing = false;
    }
  }

  /**
   * @param {any} inbound
   * @param {any} pair
   * @returns {Figures}
   */
  #figures(inbound, pair) {
    const emitted = inbound?.jitterBufferEmittedCount ?? 0;
    const delay = inbound?.jitterBufferDelay ?? 0;
    const fresh = emitted - this.#emitted;
    const jitterBufferMs = fresh > 0 ? (1000 * (delay - this.#delay)) / fresh : null;
    this.#emitted = emitted;
    this.#delay = delay;
    const lost = Math.max(0, inbound?.packetsLost ?? 0);
    const all = lost + (inbound?.packetsReceived ?? 0);
    return {
      rttMs: pair?.currentRoundTripTime === undefined ? null : 1000 * pair.currentRoundTripTime,
      jitterBufferMs,
      lostPercent: all > 0 ? (100 * lost) / all : null,
    };
  }

  /** @param {Verdict} verdict */
  #judge(verdict) {
    if (verdict === this.verdict) return;
    this.verdict = verdict;
    this.dispatchEvent(new CustomEvent("verdict", { detail: verdict }));
  }
}
