/** The API key that this server wants, asked for once it has said so and kept as long as the tab is open. */

import { element } from "./page.js";

const STORE = "omni-rt-key";

/** @returns {Record<string, string>} what a request to the API needs */
export function authorization() {
  const key = sessionStorage.getItem(STORE);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Shown in the failure box.
 * @param {() => void} enter  called when a key was given
 */
export function askForKey(enter) {
  const field = element("key", HTMLInputElement);
  element("key-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    field.value = "";
    // What a header cannot carry is no key.
    if (!/^[\x21-\x7e]+$/.test(key)) return;
    sessionStorage.setItem(STORE, key);
    enter();
  });
}
