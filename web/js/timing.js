/** The display of named moments: when things happened after the person stopped speaking, and how the line is doing. */

/**
 * @typedef {import("./network.js").Figures} Figures
 * @typedef {Record<string, number>} Moments  name to milliseconds on the session's timeline
 */

/** Rows: the moment, the moments it may be counted from (the first that is known), and its words. */
const ROWS = /** @type {const} */ ([
  ["turn_end_decided", ["user_speech_end"], "End of turn decided"],
  ["first_text", ["user_speech_end", "turn_end_decided"], "First words written"],
  ["first_audio_sent", ["user_speech_end", "turn_end_decided"], "First sound sent"],
  ["first_audio_played", ["user_speech_end", "turn_end_decided"], "First sound heard"],
  ["output_silent", ["interrupt_onset"], "Silence after interruption"],
]);

export class Timing {
  /** @type {Map<string, Moments>} by response */
  #replies = new Map();
  /** @type {string | null} */
  #last = null;

  /**
   * @param {HTMLElement} rows
   * @param {HTMLElement} line
   */
  constructor(rows, line) {
    this.rows = rows;
    this.line = line;
    this.#render();
  }

  clear() {
    this.#replies.clear();
    this.#last = null;
    this.line.textContent = "";
    this.#render();
  }

  /** @param {{response_id: string, moments: Moments}} report  may come several times for a reply, and grows */
  note(report) {
    const known = this.#replies.get(report.response_id) ?? {};
    this.#replies.set(report.response_id, { ...known, ...report.moments });
    this.#last = report.response_id;
    this.#render();
  }

  /** @param {Figures} figures */
  network(figures) {
    const parts = [
      figures.rttMs === null ? null : `round trip ${Math.round(figures.rttMs)} ms`,
      figures.jitterBufferMs === null ? null : `jitter buffer ${Math.round(figures.jitterBufferMs)} ms`,
      figures.lostPercent === null ? null : `${figures.lostPercent.toFixed(1)} % of packets lost`,
    ];
    this.line.textContent = parts.filter(Boolean).join(" · ");
  }

  #render() {
    this.rows.replaceChildren(
      ...ROWS.map(([name, bases, label]) => {
        const spans = [...this.#replies.values()].map((moments) => span(moments, name, bases));
        const last = this.#last === null ? null : span(this.#replies.get(this.#last) ?? {}, name, bases);
        const known = spans.filter((value) => value !== null);
        const row = document.createElement("tr");
        row.dataset.moment = name;
        const heading = cell("th", label);
        heading.scope = "row";
        row.append(heading, cell("td", show(last)), cell("td", `${show(median(known))}${count(known.length)}`));
        return row;
      }),
    );
  }
}

/**
 * @param {Moments} moments
 * @param {string} name
 * @param {readonly string[]} bases
 * @returns {number | null}
 */
function span(moments, name, bases) {
  const base = bases.find((candidate) => moments[candidate] !== undefined);
  return base === undefined || moments[name] === undefined ? null : moments[name] - moments[base];
}

/** @param {number[]} values */
function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** @param {number | null} ms */
function show(ms) {
  return ms === null ? "–" : String(Math.round(ms));
}

/** @param {number} n */
function count(n) {
  return n > 1 ? ` (${n})` : "";
}

/**
 * @param {"th" | "td"} kind
 * @param {string} text
 */
function cell(kind, text) {
  const element = /** @type {HTMLTableCellElement} */ (document.createElement(kind));
  element.textContent = text;
  return element;
}
