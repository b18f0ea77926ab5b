/** The lines of the conversation on the page. */

/** @typedef {import("./conversation.js").Entry} Entry */

const NAMES = { user: "You", assistant: "Assistant" };
const NEAR_END_PX = 80;

export class Captions {
  /** @type {Map<string, HTMLLIElement>} */
  #lines = new Map();

  /**
   * @param {HTMLElement} scroller
   * @param {HTMLOListElement} list
   * @param {HTMLElement} empty  shown while nothing was said
   */
  constructor(scroller, list, empty) {
    this.scroller = scroller;
    this.list = list;
    this.empty = empty;
  }

  /** @param {Entry[]} entries  all of them, in order */
  show(entries) {
    const scroller = this.scroller;
    const following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;
    const visible = entries.filter((entry) => entry.text.trim() !== "" || entry.state === "cut");
    const ids = new Set(visible.map((entry) => entry.id));
    for (const [id, line] of this.#lines) {
      if (ids.has(id)) continue;
      line.remove();
      this.#lines.delete(id);
    }
    visible.forEach((entry, index) => {
      const line = this.#line(entry);
      if (this.list.children[index] !== line) this.list.insertBefore(line, this.list.children[index] ?? null);
    });
    this.empty.hidden = visible.length > 0;
    if (following) scroller.scrollTop = scroller.scrollHeight;
  }

  /**
   * @param {Entry} entry
   * @returns {HTMLLIElement}
   */
  #line(entry) {
    const stamp = `${entry.state}:${entry.text}`;
    let line = this.#lines.get(entry.id);
    if (line?.dataset.stamp === stamp) return line;
    line ??= document.createElement("li");
    line.className = "line";
    Object.assign(line.dataset, { id: entry.id, role: entry.role, state: entry.state, stamp });
    line.replaceChildren(block("who", NAMES[entry.role]), words(entry));
    this.#lines.set(entry.id, line);
    return line;
  }
}

/**
 * @param {Entry} entry
 * @returns {HTMLElement}
 */
function words(entry) {
  const heard = document.createElement("span");
  heard.className = "heard";
  heard.textContent = entry.text.trim();
  const paragraph = block("words", "");
  paragraph.append(heard);
  if (entry.state === "cut") {
    const mark = inline("cut", "interrupted");
    mark.ariaHidden = "true";
    paragraph.append(" ", mark, inline("unseen", "Interrupted here, the rest was not heard."));
  }
  return paragraph;
}

/**
 * @param {string} name
 * @param {string} text
 */
function block(name, text) {
  const element = document.createElement("p");
  element.className = name;
  element.textContent = text;
  return element;
}

/**
 * @param {string} name
 * @param {string} text
 */
function inline(name, text) {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}
