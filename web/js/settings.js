/** The dialog in which devices and the volume are chosen. */

import { canChooseSpeaker } from "./devices.js";
import { asFailure } from "./failures.js";
import { element } from "./page.js";

/**
 * @typedef {import("./devices.js").Devices} Devices
 * @typedef {import("./devices.js").Kind} Kind
 * @typedef {import("./meter.js").Loudness} Loudness
 */

/** @type {[Kind, string, string][]} */
const PICKERS = [
  ["audioinput", "microphone-choice", "Microphone"],
  ["audiooutput", "speaker-choice", "Loudspeaker"],
  ["videoinput", "camera-choice", "Camera"],
];

/** Fires `device` with the kind that was changed, and `volume` with 0 to 1. */
export class Settings extends EventTarget {
  #dialog = element("settings", HTMLDialogElement);
  #note = element("settings-note", HTMLElement);
  #volume = element("volume", HTMLInputElement);
  /** @type {MediaStreamTrack | null} */
  #checked = null;

  /**
   * @param {Devices} devices
   * @param {Loudness} loudness
   */
  constructor(devices, loudness) {
    super();
    this.devices = devices;
    this.loudness = loudness;
    element("speaker-row", HTMLElement).hidden = !canChooseSpeaker;
    element("settings-open", HTMLElement).addEventListener("click", () => this.#open());
    element("check", HTMLElement).addEventListener("click", () => this.#check());
    this.#dialog.addEventListener("close", () => this.#endCheck());
    devices.addEventListener("change", () => this.#fill());
    for (const [kind, id] of PICKERS) {
      const picker = element(id, HTMLSelectElement);
      picker.addEventListener("change", () => {
        devices.choose(kind, picker.value);
        if (kind === "audioinput" && this.#checked) void this.#check();
        this.dispatchEvent(new CustomEvent("device", { detail: kind }));
      });
    }
    this.#volume.value = "100";
    this.#volume.addEventListener("input", () => {
      this.dispatchEvent(new CustomEvent("volume", { detail: Number(this.#volume.value) / 100 }));
    });
  }

  #open() {
    this.#note.textContent = "";
    void this.#fill();
    this.#dialog.showModal();
  }

  async #fill() {
    for (const [kind, id, noun] of PICKERS) {
      const found = await this.devices.list(kind);
      const options = found
        .filter(({ deviceId }) => deviceId !== "default")
        .map(({ deviceId, label }, index) => new Option(label || `${noun} ${index + 1}`, deviceId));
      const picker = element(id, HTMLSelectElement);
      picker.replaceChildren(new Option("Chosen by the system", ""), ...options);
      picker.value = this.devices.chosen(kind);
      if (picker.selectedIndex < 0) picker.selectedIndex = 0;
    }
  }

  async #check() {
    this.#endCheck();
    try {
      this.#checked = await this.devices.openMicrophone();
    } catch (error) {
      const { title, text } = asFailure(error).explain();
      this.#note.textContent = `${title}. ${text}`;
      return;
    }
    void this.#fill();
    this.#note.textContent = `Speak: the bar moves with the sound of ${this.#checked.label || "the microphone"}.`;
    const meter = this.loudness.of(this.#checked);
    const track = this.#checked;
    const bar = element("check-bar", HTMLElement);
    const draw = () => {
      const open = this.#checked === track;
      bar.style.setProperty("--level", open ? meter.level().toFixed(3) : "0");
      if (open) requestAnimationFrame(draw);
      else meter.stop();
    };
    draw();
  }

  #endCheck() {
    this.#checked?.stop();
    this.#checked = null;
  }
}
