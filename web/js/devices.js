/** Microphone, camera, screen and loudspeaker: opening them, listing them, remembering the choice. */

import { CallFailure } from "./failures.js";

/** @typedef {"audioinput" | "audiooutput" | "videoinput"} Kind */

const STORE = "omni_rt.devices";
const CAMERA = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 15, max: 30 } };

export const canShareScreen = Boolean(navigator.mediaDevices?.getDisplayMedia);
export const canChooseSpeaker = "setSinkId" in HTMLMediaElement.prototype;

/** The devices of this machine. Fires `change` when one comes or goes. */
export class Devices extends EventTarget {
  /** @type {Partial<Record<Kind, string>>} */
  #chosen = recall();

  constructor() {
    super();
    navigator.mediaDevices?.addEventListener("devicechange", () => this.dispatchEvent(new Event("change")));
  }

  /**
   * @param {Kind} kind
   * @returns {string} a device id; empty for the system's choice
   */
  chosen(kind) {
    return this.#chosen[kind] ?? "";
  }

  /**
   * @param {Kind} kind
   * @param {string} id
   */
  choose(kind, id) {
    this.#chosen[kind] = id;
    try {
      localStorage.setItem(STORE, JSON.stringify(this.#chosen));
    } catch {
      // Storage may be forbidden; the choice then lasts as long as the page.
    }
  }

  /**
   * Labels stay empty until a permission was given.
   * @param {Kind} kind
   * @returns {Promise<MediaDeviceInfo[]>}
   */
  async list(kind) {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all.filter((device) => device.kind === kind && device.deviceId !== "");
  }

  /**
   * @returns {Promise<MediaStreamTrack>}
   * @throws {CallFailure}
   */
  async openMicrophone() {
    const audio = {
      deviceId: { ideal: this.chosen("audioinput") },
      echoCancellation: true,
      noiseSuppression: true,
      autoGainControl: true,
      channelCount: 1,
    };
    const stream = await capture("microphone", (media) => media.getUserMedia({ audio }));
    return stream.getAudioTracks()[0];
  }

  /**
   * @returns {Promise<MediaStreamTrack>}
   * @throws {CallFailure}
   */
  async openCamera() {
    const video = { deviceId: { ideal: this.chosen("videoinput") }, ...CAMERA };
    const stream = await capture("camera", (media) => media.getUserMedia({ video }));
    return stream.getVideoTracks()[0];
  }

  /**
   * @returns {Promise<MediaStreamTrack>}
   * @throws {CallFailure}
   */
  async openScreen() {
    const video = { frameRate: { ideal: 5, max: 15 } };
    const stream = await capture("screen", (media) => media.getDisplayMedia({ video, audio: false }));
    const track = stream.getVideoTracks()[0];
    track.contentHint = "detail";
    return track;
  }

  /**
   * Plays `element` on the chosen loudspeaker. One that is gone gives way to the system's choice.
   * @param {HTMLMediaElement} element
   */
  async routeSpeaker(element) {
    if (!canChooseSpeaker) return;
    await element.setSinkId(this.chosen("audiooutput")).catch(() => element.setSinkId("").catch(() => {}));
  }
}

/**
 * @param {"microphone" | "camera" | "screen"} what
 * @param {(media: MediaDevices) => Promise<MediaStream>} open
 * @returns {Promise<MediaStream>}
 */
async function capture(what, open) {
  if (!navigator.mediaDevices) throw new CallFailure(isSecureContext ? "unsupported" : "insecure");
  try {
    return await open(navigator.mediaDevices);
  } catch (error) {
    const { name, message } = /** @type {DOMException} */ (error);
    if (what === "screen") throw new CallFailure("screen-refused", message);
    if (name === "NotAllowedError" || name === "SecurityError") throw new CallFailure(`${what}-refused`, message);
    if (name === "NotFoundError" || name === "OverconstrainedError") throw new CallFailure(`no-${what}`, message);
    if (name === "NotReadableError" || name === "AbortError") throw new CallFailure(`${what}-in-use`, message);
    throw error;
  }
}

/** @returns {Partial<Record<Kind, string>>} */
function recall() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    return stored !== null && typeof stored === "object" ? stored : {};
  } catch {
    return {};
  }
}
