/** The page as a whole: what a press or a server event changes, and what is shown, said and sent for it. */

import { Call } from "./call.js";
import { Captions } from "./captions.js";
import { Conversation } from "./conversation.js";
import { Devices } from "./devices.js";
import { asFailure, CallFailure } from "./failures.js";
import { Loudness } from "./meter.js";
import { Network } from "./network.js";
import { element } from "./page.js";
import { Playout } from "./playout.js";
import { Senses } from "./senses.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Timing } from "./timing.js";

const SESSION = {
  type: "realtime",
  output_modalities: ["audio"],
  audio: { input: { turn_detection: { type: "semantic_vad" }, transcription: {} } },
};
const FRAME_MS = 33;
const NO_ANSWER_MS = 12000;
/** Answers of the server to a press that came a moment too late; nothing to tell anybody. */
const HARMLESS = ["response_cancel_not_active"];
/** Errors after which the server ends the call. */
const PARTING = ["session_idle", "session_expired"];

export class App {
  devices = new Devices();
  loudness = new Loudness();
  senses = new Senses(this.devices);
  settings = new Settings(this.devices, this.loudness);
  stage = new Stage();
  captions = new Captions(
    element("log", HTMLElement),
    element("lines", HTMLOListElement),
    element("empty", HTMLElement),
  );
  timing = new Timing(element("timing-rows", HTMLElement), element("timing-network", HTMLElement));
  conversation = new Conversation();
  voice = element("voice", HTMLAudioElement);
  volume = 1;

  /** Set while a call is on or coming up. @type {AbortController | null} */
  attempt = null;
  /** @type {import("./stage.js").Scene} */
  setup = "connecting";
  /** @type {{call: Call, playout: Playout, network: Network} | null} */
  line = null;
  /** @type {CallFailure | null} */
  failure = null;
  /** Why the server will end the call, if it said so. */
  parting = "";
  #patience = 0;

  /** @returns {import("./stage.js").Scene} */
  get scene() {
    if (this.failure) return "failed";
    if (!this.attempt) return "idle";
    if (!this.line) return this.setup;
    if (this.line.network.verdict !== "steady") return "unsteady";
    const phase = this.conversation.phase;
    if (phase === "speaking" || phase === "thinking") return phase;
    const { hearing } = this.senses;
    if (hearing === "live") return phase;
    return hearing === "muted" ? "muted" : "ready";
  }

  render() {
    this.stage.show(this.scene);
    this.stage.dock(this.senses.hearing, this.senses.sight);
    this.captions.show(this.conversation.entries);
  }

  /** @param {{typing: boolean}} options  `typing`: without a microphone */
  async begin({ typing }) {
    if (this.attempt) return;
    const attempt = (this.attempt = new AbortController());
    this.setup = typing ? "connecting" : "asking";
    this.conversation = new Conversation();
    this.timing.clear();
    this.parting = "";
    this.fail(null);
    this.notice("");
    this.loudness.wake();
    try {
      if (!("RTCPeerConnection" in window)) throw new CallFailure("unsupported");
      if (!typing) await this.senses.openMicrophone();
      if (attempt.signal.aborted) {
        if (!this.attempt) this.senses.close();
        return;
      }
      this.setup = "connecting";
      this.render();
      await this.connect(attempt.signal);
      this.announce(typing ? "Connected. Type a message." : "Connected. The assistant is listening.");
    } catch (error) {
      if (!attempt.signal.aborted) this.end(asFailure(error));
    }
  }

  /** @param {AbortSignal} signal */
  async connect(signal) {
    const call = new Call(this.senses.microphone);
    signal.addEventListener("abort", () => call.close());
    call.addEventListener("event", (event) => this.heed(/** @type {CustomEvent} */ (event).detail));
    call.addEventListener("moments", (event) => this.timing.note(/** @type {CustomEvent} */ (event).detail));
    const playout = new Playout(this.voice, call.receiver, call.playoutChannel, () => this.loudness.outputLatencyMs);
    playout.setVolume(this.volume);
    const network = new Network(call.peer, call.receiver);
    network.addEventListener("figures", (event) => this.timing.network(/** @type {CustomEvent} */ (event).detail));
    network.addEventListener("verdict", () => this.judge(network));
    signal.addEventListener("abort", () => {
      playout.stop();
      network.stop();
    });
    await call.connect(SESSION, signal);
    call.addEventListener("closed", () => this.farEndGone());
    this.senses.attach(call);
    this.line = { call, playout, network };
    playout.start(() => this.notice("The browser holds the sound back. Press any key to hear the assistant."));
    network.start();
    void this.keepAwake(signal);
    this.render();
    this.draw();
  }

  /** @param {AbortSignal} signal */
  async keepAwake(signal) {
    const lock = await navigator.wakeLock?.request("screen").catch(() => null);
    signal.addEventListener("abort", () => void lock?.release());
  }

  /** @param {CallFailure | null} failure */
  end(failure = null) {
    const inDock = element("dock", HTMLElement).contains(document.activeElement);
    this.attempt?.abort();
    this.attempt = this.line = null;
    this.conversation.sounding = false;
    this.senses.close();
    this.notice("");
    this.fail(failure);
    if (inDock) this.stage.orb.focus();
    if (!failure) this.announce("The call has ended.");
  }

  /** @param {CallFailure | null} failure */
  fail(failure) {
    this.failure = failure;
    this.stage.fail(failure);
    this.render();
  }

  async farEndGone() {
    if (!this.line) return;
    const alive = await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(3000) }).then(
      () => true,
      () => false,
    );
    if (this.line) this.end(alive ? new CallFailure("ended-by-server", this.parting) : new CallFailure("server-gone"));
  }

  /** @param {Network} network */
  judge(network) {
    const { verdict } = network;
    if (verdict === "lost" || verdict === "server-gone") {
      this.end(new CallFailure(verdict));
      return;
    }
    this.announce(verdict === "steady" ? "The connection is back." : "The connection is unsteady.");
    this.render();
  }

  /** @param {any} event  of the server */
  heed(event) {
    this.conversation.apply(event);
    if (event.type === "output_audio_buffer.started") this.line?.playout.speak();
    if (event.type === "output_audio_buffer.cleared") this.line?.playout.hush();
    if (event.type === "conversation.item.truncated") {
      this.announce("The answer was interrupted.");
      if (event.transcript === undefined) {
        this.line?.call.send({ type: "conversation.item.retrieve", item_id: event.item_id });
      }
    }
    if (event.type === "error" && PARTING.includes(event.error.code)) this.parting = event.error.message;
    if (event.type === "error" && !HARMLESS.includes(event.error.code)) this.notice(event.error.message);
    if (event.type === "response.done") this.explainEnd(event.response);
    if (this.conversation.waiting) this.wait();
    this.render();
  }

  /** @param {any} response */
  explainEnd({ status, status_details: details }) {
    if (status === "failed") this.notice(`The assistant could not answer. ${details?.error?.message ?? ""}`);
    if (status === "incomplete") this.notice("The answer was cut off because it became too long.");
  }

  /** A turn may turn out to be empty, and then nothing follows it. */
  wait() {
    clearTimeout(this.#patience);
    this.#patience = window.setTimeout(() => {
      if (this.conversation.waiting) this.conversation.giveUpWaiting();
      this.render();
    }, NO_ANSWER_MS);
  }

  interrupt() {
    if (!this.line) return;
    const { response, sounding } = this.conversation;
    if (response !== null) this.line.call.send({ type: "response.cancel", response_id: response });
    if (response !== null || sounding) {
      this.line.call.send({ type: "output_audio_buffer.clear" });
      this.line.playout.hush();
    }
  }

  /** @param {string} text */
  async say(text) {
    if (!this.attempt) await this.begin({ typing: true });
    if (!this.line) return false;
    this.notice("");
    this.interrupt();
    const { call } = this.line;
    const content = [{ type: "input_text", text }];
    call.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
    call.send({ type: "response.create" });
    this.conversation.awaitResponse();
    this.wait();
    this.render();
    return true;
  }

  press() {
    switch (this.scene) {
      case "idle":
      case "failed":
        return void this.begin({ typing: false });
      case "asking":
      case "connecting":
      case "unsteady":
        return this.end();
      case "thinking":
      case "speaking":
        return this.interrupt();
      default:
        return void this.toggleMicrophone();
    }
  }

  async toggleMicrophone() {
    await this.senses.toggleMicrophone();
    this.announce(this.senses.hearing === "live" ? "The microphone is on." : "The microphone is off.");
  }

  /** @param {import("./stage.js").Sight} sight */
  async toggleSight(sight) {
    await this.senses.toggleSight(sight);
    const { sight: shown } = this.senses;
    this.announce(shown ? `The assistant sees your ${shown}.` : "The assistant sees nothing.");
  }

  /** @param {string} sentence  for screen readers; not what the assistant says, which would be spoken twice */
  announce(sentence) {
    element("announcer", HTMLElement).textContent = sentence;
  }

  /** @param {string} text  a sentence, or nothing to take the last one away */
  notice(text) {
    const place = element("notice", HTMLElement);
    place.textContent = text;
    place.hidden = text === "";
  }

  /** Draws loudness as long as the call lasts. */
  draw() {
    const { line } = this;
    const voice = this.loudness.of(line?.call.receiver.track ?? null);
    let own = this.loudness.of(this.senses.microphone);
    let ownTrack = this.senses.microphone;
    let last = 0;
    /** @param {number} now */
    const frame = (now) => {
      if (this.line !== line) {
        this.stage.loudness(0, 0);
        voice.stop();
        own.stop();
        return;
      }
      requestAnimationFrame(frame);
      if (now - last < FRAME_MS) return;
      last = now;
      if (ownTrack !== this.senses.microphone) {
        own.stop();
        ownTrack = this.senses.microphone;
        own = this.loudness.of(ownTrack);
      }
      const person = own.level();
      this.stage.loudness(this.scene === "speaking" ? voice.level() : person, person);
    };
    requestAnimationFrame(frame);
  }
}
