/** What can go wrong, in words a person can act on. */

/**
 * @typedef {"insecure" | "unsupported" | "no-microphone" | "microphone-refused" | "microphone-in-use"
 *   | "no-camera" | "camera-refused" | "camera-in-use" | "screen-refused"
 *   | "server-gone" | "busy" | "no-key" | "refused" | "no-route" | "lost" | "ended-by-server" | "unexpected"} FailureCode
 * @typedef {{title: string, text: string, typing: boolean}} Explanation
 *   `typing`: a call without a microphone is a way on.
 */

/** @type {Record<FailureCode, Explanation>} */
const EXPLANATIONS = {
  insecure: {
    title: "The microphone needs a secure address",
    text: "Browsers allow the microphone only on https addresses and on localhost. Open this page that way, or continue by typing.",
    typing: true,
  },
  unsupported: {
    title: "This browser cannot make calls",
    text: "It has no WebRTC, or WebRTC is switched off. A current Chrome, Edge, Firefox or Safari can.",
    typing: false,
  },
  "no-microphone": {
    title: "No microphone was found",
    text: "Plug one in or switch it on, then try again. You can also continue by typing.",
    typing: true,
  },
  "microphone-refused": {
    title: "The microphone is not allowed",
    text: "Allow it for this page: usually by the icon beside the address, or in the system's privacy settings. Then try again, or continue by typing.",
    typing: true,
  },
  "microphone-in-use": {
    title: "The microphone could not be opened",
    text: "Another program may be using it. Close that program or choose another microphone under Devices.",
    typing: true,
  },
  "no-camera": {
    title: "No camera was found",
    text: "Plug one in, or choose it under Devices.",
    typing: false,
  },
  "camera-refused": {
    title: "The camera is not allowed",
    text: "Allow it for this page, usually by the icon beside the address, and press Camera again.",
    typing: false,
  },
  "camera-in-use": {
    title: "The camera could not be opened",
    text: "Another program may be using it. Close that program or choose another camera under Devices.",
    typing: false,
  },
  "screen-refused": {
    title: "The screen is not shared",
    text: "Nothing was chosen, or the system does not allow it.",
    typing: false,
  },
  "server-gone": {
    title: "The server does not answer",
    text: "It may have been stopped, or this device is offline. Check that omni_rt is running, then try again.",
    typing: false,
  },
  busy: {
    title: "All places are taken",
    text: "The assistant is talking with as many people as it can. Try again in a moment.",
    typing: false,
  },
  "no-key": {
    title: "This server asks for a key",
    text: "Who runs it has made one for you. It is kept until you close this tab. The server said:",
    typing: false,
  },
  refused: {
    title: "The server refused the call",
    text: "It gave this reason:",
    typing: false,
  },
  "no-route": {
    title: "Sound cannot get through",
    text: "The server answered, but no media connection came about. A firewall between here and there may block UDP.",
    typing: false,
  },
  lost: {
    title: "The connection was lost",
    text: "Nothing has come from the server for some time. Check the network, then start again.",
    typing: false,
  },
  "ended-by-server": {
    title: "The server ended the call",
    text: "Start again to talk on.",
    typing: false,
  },
  unexpected: {
    title: "Something went wrong",
    text: "The browser gave this reason:",
    typing: false,
  },
};

/** A failure with a code of the table above; `detail` is the reason as the server or the browser gave it. */
export class CallFailure extends Error {
  /**
   * @param {FailureCode} code
   * @param {string} [detail]
   */
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
    this.detail = detail;
  }

  /** @returns {Explanation} */
  explain() {
    const { title, text, typing } = EXPLANATIONS[this.code];
    const reasoned = ["no-key", "refused", "unexpected"].includes(this.code);
    if (this.code === "ended-by-server" && this.detail) return { title, text: `${this.detail} ${text}`, typing };
    return { title, text: reasoned ? `${text} ${this.detail || "none"}` : text, typing };
  }
}

/**
 * @param {unknown} error
 * @returns {CallFailure}
 */
export function asFailure(error) {
  if (error instanceof CallFailure) return error;
  return new CallFailure("unexpected", error instanceof Error ? error.message : String(error));
}
