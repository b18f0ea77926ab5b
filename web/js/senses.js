/** What the assistant is given of the person: the microphone, and one picture of camera or screen. */

import { asFailure } from "./failures.js";

/**
 * @typedef {import("./call.js").Call} Call
 * @typedef {import("./devices.js").Devices} Devices
 */

/** Fires `change` after every change, `failure` with a CallFailure, and `silent` when the system cuts the microphone off. */
export class Senses extends EventTarget {
  /** @type {MediaStreamTrack | null} */
  microphone = null;
  /** @type {MediaStreamTrack | null} */
  picture = null;
  /** @type {import("./stage.js").Sight | null} */
  sight = null;
  muted = false;
  /** @type {Call | null} */
  #call = null;

  /** @param {Devices} devices */
  constructor(devices) {
    super();
    this.devices = devices;
  }

  /** @returns {import("./stage.js").Microphone} */
  get hearing() {
    if (this.microphone === null) return "none";
    return this.muted ? "muted" : "live";
  }

  /** @param {Call} call  whose lines carry microphone and picture from now on */
  attach(call) {
    this.#call = call;
  }

  /** Opens the chosen microphone, or another one in its place. @throws {CallFailure} */
  async openMicrophone() {
    const track = await this.devices.openMicrophone();
    this.microphone?.stop();
    this.microphone = track;
    track.enabled = !this.muted;
    track.addEventListener("ended", () => {
      if (this.microphone === track) void this.#closeMicrophone();
    });
    track.addEventListener("mute", () => {
      if (this.microphone === track) this.dispatchEvent(new Event("silent"));
    });
    await this.#call?.setMicrophone(track);
    this.#changed();
  }

  /** Mutes, unmutes, or opens the microphone that was left out. */
  async toggleMicrophone() {
    if (this.microphone === null) {
      this.muted = false;
      await this.#guard(() => this.openMicrophone());
      return;
    }
    this.muted = !this.muted;
    this.microphone.enabled = !this.muted;
    this.#changed();
  }

  /** @param {import("./stage.js").Sight} sight  shown from now on, or no more if it is shown already */
  async toggleSight(sight) {
    if (this.sight === sight) await this.#show(null, null);
    else await this.#open(sight);
  }

  /** Opens a device anew because another one was chosen. @param {"audioinput" | "videoinput"} kind */
  async reopen(kind) {
    if (kind === "audioinput" && this.microphone) await this.#guard(() => this.openMicrophone());
    if (kind === "videoinput" && this.sight === "camera") await this.#open("camera");
  }

  /** Lets go of all devices. */
  close() {
    this.#call = null;
    this.microphone?.stop();
    this.picture?.stop();
    this.microphone = this.picture = this.sight = null;
    this.muted = false;
    this.#changed();
  }

  async #closeMicrophone() {
    this.microphone = null;
    await this.#call?.setMicrophone(null);
    this.#changed();
    this.dispatchEvent(new Event("silent"));
  }

  /** @param {import("./stage.js").Sight} sight */
  async #open(sight) {
    const call = this.#call;
    await this.#guard(async () => {
      const track = sight === "camera" ? await this.devices.openCamera() : await this.devices.openScreen();
      if (this.#call !== call || call === null) {
        track.stop();
        return;
      }
      track.addEventListener("ended", () => {
        if (this.picture === track) void this.#show(null, null);
      });
      await this.#show(track, sight);
    });
  }

  /**
   * @param {MediaStreamTrack | null} track
   * @param {import("./stage.js").Sight | null} sight
   */
  async #show(track, sight) {
    this.picture?.stop();
    this.picture = track;
    this.sight = sight;
    await this.#call?.setVideo(track);
    this.#changed();
  }

  /** @param {() => Promise<void>} action */
  async #guard(action) {
    try {
      await action();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("failure", { detail: asFailure(error) }));
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
