/** What was said, and whose turn it is, read from the server's events. No DOM. */

/**
 * @typedef {"listening" | "hearing" | "thinking" | "speaking"} Phase
 * @typedef {object} Entry
 * @property {string} id
 * @property {"user" | "assistant"} role
 * @property {string} text
 * @property {"partial" | "final" | "cut"} state  `cut`: interrupted, and `text` is what was heard
 * @property {boolean} kept  part of the server's history, not just overheard
 */

export class Conversation {
  /** @type {Entry[]} in the order of the talk */
  entries = [];
  /** The id of the response under way. @type {string | null} */
  response = null;
  /** The assistant can be heard. */
  sounding = false;
  #hearing = false;
  #awaited = false;

  /** @returns {Phase} */
  get phase() {
    if (this.sounding) return "speaking";
    if (this.#hearing) return "hearing";
    return this.response !== null || this.#awaited ? "thinking" : "listening";
  }

  /** A turn was sent that no response followed. */
  get waiting() {
    return this.#awaited && this.response === null;
  }

  giveUpWaiting() {
    this.#awaited = false;
  }

  awaitResponse() {
    this.#awaited = true;
  }

  /** @param {any} event  a server event; those that say nothing about the talk are passed over */
  apply(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.#hearing = true;
        this.#dropOverheard(event.item_id);
        this.#entry(event.item_id, "user");
        break;
      case "input_audio_buffer.speech_stopped":
        this.#hearing = false;
        break;
      case "input_audio_buffer.committed":
        this.#hearing = false;
        this.#awaited = true;
        this.#entry(event.item_id, "user").kept = true;
        break;
      case "conversation.item.added":
      case "conversation.item.done":
        this.#item(event.item, event.previous_item_id);
        break;
      case "conversation.item.retrieved":
        this.#correct(event.item);
        break;
      case "conversation.item.deleted":
        this.entries = this.entries.filter((entry) => entry.id !== event.item_id);
        break;
      case "conversation.item.truncated":
        this.#heard(event.item_id, event.transcript);
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.#say(event.item_id, "user", event.delta);
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.#finish(event.item_id, "user", event.transcript);
        break;
      case "conversation.item.input_audio_transcription.failed":
        this.#finish(event.item_id, "user", "(not understood)");
        break;
      case "response.created":
        this.response = event.response.id;
        this.#awaited = false;
        this.#dropOverheard(null);
        break;
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta":
        this.#say(event.item_id, "assistant", event.delta);
        break;
      case "response.output_audio_transcript.done":
        this.#finish(event.item_id, "assistant", event.transcript);
        break;
      case "response.output_text.done":
        this.#finish(event.item_id, "assistant", event.text);
        break;
      case "response.done":
        this.response = null;
        for (const item of event.response.output ?? []) this.#settle(item.id);
        break;
      case "output_audio_buffer.started":
        this.sounding = true;
        break;
      case "output_audio_buffer.stopped":
      case "output_audio_buffer.cleared":
        this.sounding = false;
        break;
      case "error":
        this.#awaited = false;
        break;
    }
  }

  /**
   * @param {any} item
   * @param {string | null | undefined} previous
   */
  #item(item, previous) {
    if (item.type !== "message" || item.role === "system") return;
    const known = this.entries.some((entry) => entry.id === item.id);
    const entry = this.#entry(item.id, item.role);
    entry.kept = true;
    if (!known && previous) this.#place(entry, previous);
    const words = wordsOf(item);
    if (words && entry.state === "partial") entry.text = words;
    if (words && item.status !== "in_progress" && entry.state === "partial") entry.state = "final";
  }

  /**
   * @param {Entry} entry
   * @param {string} previous  the id of the entry it follows
   */
  #place(entry, previous) {
    const at = this.entries.findIndex((other) => other.id === previous);
    if (at < 0) return;
    this.entries = this.entries.filter((other) => other !== entry);
    this.entries.splice(at + 1, 0, entry);
  }

  /**
   * @param {string} id
   * @param {"user" | "assistant"} role
   * @returns {Entry}
   */
  #entry(id, role) {
    const found = this.entries.find((entry) => entry.id === id);
    if (found) return found;
    /** @type {Entry} */
    const entry = { id, role, text: "", state: "partial", kept: role === "assistant" };
    this.entries.push(entry);
    return entry;
  }

  /**
   * @param {string} id
   * @param {"user" | "assistant"} role
   * @param {string | undefined} delta
   */
  #say(id, role, delta) {
    const entry = this.#entry(id, role);
    if (entry.state === "partial") entry.text += delta ?? "";
  }

  /**
   * @param {string} id
   * @param {"user" | "assistant"} role
   * @param {string} text
   */
  #finish(id, role, text) {
    const entry = this.#entry(id, role);
    if (entry.state === "cut") return;
    entry.text = text;
    entry.state = "final";
  }

  /**
   * @param {string} id
   * @param {string | undefined} text  what was heard; undefined when the server does not say
   */
  #heard(id, text) {
    const entry = this.entries.find((other) => other.id === id);
    if (!entry) return;
    entry.state = "cut";
    if (text !== undefined) entry.text = text;
  }

  /** @param {any} item  as the server remembers it; asked for when a cut came without words */
  #correct(item) {
    const entry = this.entries.find((other) => other.id === item.id);
    if (entry?.state === "cut") entry.text = wordsOf(item);
  }

  /** @param {string} id  of an item whose response has ended */
  #settle(id) {
    const entry = this.entries.find((other) => other.id === id);
    if (entry?.state === "partial" && entry.text) entry.state = "final";
  }

  /**
   * Speech that never became a turn (a cough, an "mm-hm") leaves no line behind.
   * @param {string | null} spared
   */
  #dropOverheard(spared) {
    this.entries = this.entries.filter((entry) => entry.kept || entry.id === spared);
  }
}

/**
 * @param {any} item
 * @returns {string}
 */
function wordsOf(item) {
  const parts = item.content ?? [];
  return parts.map((/** @type {any} */ part) => part.text ?? part.transcript ?? "").join("");
}
