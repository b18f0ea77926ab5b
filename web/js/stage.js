/** The start control, the sentence under it, the failure box, the dock and the self-view. */

import { canShareScreen } from "./devices.js";
import { element } from "./page.js";

/**
 * @typedef {import("./failures.js").CallFailure} CallFailure
 * @typedef {"idle" | "asking" | "connecting" | "listening" | "hearing" | "thinking" | "speaking" | "muted" | "ready"
 *   | "unsteady" | "failed"} Scene
 * @typedef {"live" | "muted" | "none"} Microphone
 * @typedef {"camera" | "screen"} Sight
 */

/** Each scene: the word on the control, what pressing it does, and the sentence below. @type {Record<Scene, string[]>} */
const SCENES = {
  idle: ["Start", "Press and talk", "Press Start and allow the microphone, or type a message."],
  asking: ["Connecting", "Press to cancel", "Waiting for permission to use the microphone."],
  connecting: ["Connecting", "Press to cancel", "Connecting to the assistant."],
  listening: ["Listening", "Press to mute", "Go ahead, the assistant is listening."],
  hearing: ["Listening", "Press to mute", "The assistant hears you."],
  thinking: ["Thinking", "Press to stop", "The assistant is thinking about an answer."],
  speaking: ["Speaking", "Press to interrupt", "You can interrupt at any time, just by talking."],
  muted: ["Muted", "Press to unmute", "Your microphone is off. The assistant does not hear you."],
  ready: ["Ready", "Press to use the microphone", "Type a message. The microphone is not used."],
  unsteady: ["Reconnecting", "Press to end", "Nothing is arriving. Waiting for the connection to come back."],
  failed: ["Not connected", "Press to start", ""],
};

/** Scenes that look alike share a data-state. @type {Partial<Record<Scene, Scene>>} */
const LOOKS = { asking: "connecting" };

export class Stage {
  orb = element("orb", HTMLButtonElement);
  #word = element("orb-word", HTMLElement);
  #action = element("orb-action", HTMLElement);
  #hint = element("hint", HTMLElement);
  #place = /** @type {HTMLElement} */ (this.orb.parentElement);

  constructor() {
    element("screen", HTMLElement).hidden = !canShareScreen;
  }

  /** @param {Scene} scene */
  show(scene) {
    const [word, action, hint] = SCENES[scene];
    this.orb.dataset.state = LOOKS[scene] ?? scene;
    this.#word.textContent = word;
    this.#action.textContent = action;
    this.orb.setAttribute("aria-label", `${word}. ${action}`);
    this.#hint.textContent = hint;
    element("dock", HTMLElement).hidden = scene === "idle" || scene === "failed" || scene === "asking";
  }

  /** @param {CallFailure | null} failure */
  fail(failure) {
    const box = element("failure", HTMLElement);
    if (failure) {
      const { title, text, typing } = failure.explain();
      element("failure-title", HTMLElement).textContent = title;
      element("failure-text", HTMLElement).textContent = text;
      element("failure-text-only", HTMLElement).hidden = !typing;
      element("key-form", HTMLElement).hidden = failure.code !== "no-key";
      box.dataset.code = failure.code;
    }
    box.hidden = failure === null;
    this.#hint.hidden = failure !== null;
  }

  /**
   * @param {Microphone} microphone
   * @param {Sight | null} sight  what the video line carries
   */
  dock(microphone, sight) {
    label("mute", { live: "Mute", muted: "Unmute", none: "Use microphone" }[microphone], microphone === "live");
    label("camera", sight === "camera" ? "Stop camera" : "Camera", sight === "camera");
    label("screen", sight === "screen" ? "Stop sharing" : "Share screen", sight === "screen");
  }

  /**
   * @param {MediaStreamTrack | null} track
   * @param {Sight | null} sight
   */
  selfview(track, sight) {
    const video = element("selfview-video", HTMLVideoElement);
    video.srcObject = track && new MediaStream([track]);
    if (track) video.play().catch(() => {});
    element("selfview-caption", HTMLElement).textContent = sight === "screen" ? "Screen, as sent" : "Camera, as sent";
    element("selfview", HTMLElement).hidden = track === null;
  }

  /**
   * @param {number} orb  loudness of who speaks, 0 to 1
   * @param {number} microphone
   */
  loudness(orb, microphone) {
    this.#place.style.setProperty("--level", orb.toFixed(3));
    element("meter-bar", HTMLElement).style.setProperty("--level", microphone.toFixed(3));
  }
}

/**
 * @param {string} id  of a button of the dock
 * @param {string} text
 * @param {boolean} on
 */
function label(id, text, on) {
  element(`${id}-label`, HTMLElement).textContent = text;
  element(id, HTMLElement).dataset.on = String(on);
}
