/** Starts the page: every control and what it does. */

import { App } from "./app.js";
import { askForKey } from "./key.js";
import { element } from "./page.js";

/** @typedef {import("./failures.js").CallFailure} CallFailure */

const app = new App();
const message = element("message", HTMLInputElement);

/**
 * @param {string} id
 * @param {() => void} action
 */
function onPress(id, action) {
  element(id, HTMLElement).addEventListener("click", (event) => {
    // The second click of a double click would undo the first.
    if (event.detail < 2) action();
  });
}

onPress("orb", () => app.press());
onPress("mute", () => void app.toggleMicrophone());
onPress("camera", () => void app.toggleSight("camera"));
onPress("screen", () => void app.toggleSight("screen"));
onPress("end", () => app.end());
onPress("failure-retry", () => {
  app.stage.orb.focus();
  void app.begin({ typing: false });
});
onPress("failure-text-only", () => {
  message.focus();
  void app.begin({ typing: true });
});
askForKey(() => void app.begin({ typing: false }));
onPress("timing-toggle", () => {
  const panel = element("timing", HTMLElement);
  panel.hidden = !panel.hidden;
  element("timing-toggle", HTMLElement).setAttribute("aria-expanded", String(!panel.hidden));
});
element("composer", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (text === "") return;
  message.value = "";
  if (!(await app.say(text)) && message.value === "") message.value = text;
});
document.addEventListener("keydown", (event) => {
  const open = element("settings", HTMLDialogElement).open;
  if (event.key === "Escape" && !open && app.scene === "speaking") app.interrupt();
});
app.senses.addEventListener("change", () => {
  app.stage.selfview(app.senses.picture, app.senses.sight);
  app.render();
});
app.senses.addEventListener("failure", (event) => {
  const { title, text } = /** @type {CustomEvent<CallFailure>} */ (event).detail.explain();
  app.notice(`${title}. ${text}`);
});
app.senses.addEventListener("silent", () => {
  app.notice("No sound comes from the microphone any more. It may be unplugged, or switched off by the system.");
});
app.settings.addEventListener("volume", (event) => {
  app.volume = /** @type {CustomEvent<number>} */ (event).detail;
  app.line?.playout.setVolume(app.volume);
});
app.settings.addEventListener("device", (event) => {
  const kind = /** @type {CustomEvent<import("./devices.js").Kind>} */ (event).detail;
  if (kind === "audiooutput") void app.devices.routeSpeaker(app.voice);
  else void app.senses.reopen(kind);
});
window.addEventListener("pagehide", () => {
  if (app.attempt) app.end();
});
void app.devices.routeSpeaker(app.voice);
app.render();
