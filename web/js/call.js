/** One call: the peer connection, its three data channels, and the request that sets it up. */

import { CallFailure } from "./failures.js";
import { authorization } from "./key.js";

const CALLS = "v1/realtime/calls";
const ICE_SERVERS = "v1/realtime/ice_servers";
const ANSWER_MS = 15000;
const OPEN_MS = 15000;

/**
 * Fires `event` (a server event), `moments` (times of a reply) and `closed` (the far end is gone), each with `detail`.
 * The video line is in the first offer, so that camera and screen need no second one.
 */
export class Call extends EventTarget {
  peer = new RTCPeerConnection({ iceServers: [] });
  playoutChannel = this.peer.createDataChannel("omni-playout", { ordered: false, maxRetransmits: 0 });
  #events = this.peer.createDataChannel("oai-events", { ordered: true });
  #moments = this.peer.createDataChannel("omni-moments", { ordered: true });
  #audio;
  #video;
  /** @type {string | null} */
  #address = null;
  #over = false;

  /** @param {MediaStreamTrack | null} microphone  null: the audio line sends nothing until a track comes */
  constructor(microphone) {
    super();
    this.#audio = this.peer.addTransceiver(microphone ?? "audio", { direction: "sendrecv" });
    this.#video = this.peer.addTransceiver("video", { direction: "sendonly" });
    this.#events.onmessage = ({ data }) => this.#emit("event", JSON.parse(data));
    this.#moments.onmessage = ({ data }) => this.#emit("moments", JSON.parse(data));
    this.#events.onclose = () => this.#closed();
    this.peer.onconnectionstatechange = () => {
      if (this.peer.connectionState === "failed") this.#closed();
    };
  }

  /** The receiver of the assistant's voice. */
  get receiver() {
    return this.#audio.receiver;
  }

  /**
   * Resolves when events can be sent.
   * @param {object} session  an OpenAI session object
   * @param {AbortSignal} signal
   * @throws {CallFailure}
   */
  async connect(session, signal) {
    const open = this.#opened(signal);
    open.catch(() => {});
    this.peer.setConfiguration({ iceServers: await iceServers(signal) });
    await this.peer.setLocalDescription();
    const form = new FormData();
    form.set("sdp", this.peer.localDescription?.sdp ?? "");
    form.set("session", JSON.stringify(session));
    const response = await request(CALLS, { method: "POST", body: form }, signal);
    if (!response.ok) throw await refusal(response);
    this.#address = `${CALLS}/${response.headers.get("Location")?.split("/").pop()}`;
    await this.peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    await open;
  }

  /** @param {object} event  an OpenAI client event */
  send(event) {
    if (this.#events.readyState === "open") this.#events.send(JSON.stringify(event));
  }

  /** @param {MediaStreamTrack | null} track */
  async setMicrophone(track) {
    await this.#audio.sender.replaceTrack(track);
  }

  /** @param {MediaStreamTrack | null} track  camera or screen */
  async setVideo(track) {
    await this.#video.sender.replaceTrack(track);
  }

  /** Hangs up. Safe to call again, and while the page is being left. */
  close() {
    this.#over = true;
    if (this.#address) {
      const request = { method: "POST", headers: authorization(), keepalive: true };
      void fetch(`${this.#address}/hangup`, request).catch(() => {});
    }
    this.#address = null;
    this.peer.close();
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  #opened(signal) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new CallFailure("no-route")), ANSWER_MS + OPEN_MS);
      this.#events.onopen = () => resolve();
      this.addEventListener("closed", () => reject(new CallFailure("no-route")));
      signal.addEventListener("abort", () => reject(signal.reason));
      this.#events.addEventListener("open", () => clearTimeout(late));
      signal.addEventListener("abort", () => clearTimeout(late));
    });
  }

  #closed() {
    if (this.#over) return;
    this.#over = true;
    this.#emit("closed", null);
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * @param {AbortSignal} signal
 * @returns {Promise<RTCIceServer[]>}
 */
async function iceServers(signal) {
  const response = await request(ICE_SERVERS, { cache: "no-store" }, signal);
  // A server without the list may still take the call.
  if (response.status === 404) return [];
  if (!response.ok) throw await refusal(response);
  return (await response.json()).ice_servers;
}

/**
 * @param {string} path
 * @param {RequestInit} what
 * @param {AbortSignal} signal
 * @returns {Promise<Response>}
 */
async function request(path, what, signal) {
  try {
    return await fetch(path, {
      ...what,
      headers: authorization(),
      signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]),
    });
  } catch (error) {
    signal.throwIfAborted();
    throw new CallFailure("server-gone", String(error));
  }
}

/**
 * @param {Response} response
 * @returns {Promise<CallFailure>}
 */
async function refusal(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  if (response.status === 401) return new CallFailure("no-key", error.message);
  if (error.code === "busy") return new CallFailure("busy", error.message);
  return new CallFailure("refused", error.message ?? `HTTP ${response.status}`);
}
