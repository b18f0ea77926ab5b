// A dialogue by @openai/agents-realtime, as it comes, in a page of the server's origin that has tests/browser/probe.js.
//
// dialogue(job) gives what the client was told, and in `sound` its spoken answers: 24 kHz mono int16, base64.
// `job`: `transport` (webrtc or websocket), `host`, `key`, `questions` and `human` (wav files, base64), `picture` (a data
// URL).

import {
  OpenAIRealtimeWebRTC,
  OpenAIRealtimeWebSocket,
  RealtimeAgent,
  RealtimeSession,
  tool,
} from "./openai-realtime-agents.mjs";

const PATIENCE_MS = 120_000;
const RATE = 24_000;
const INTO_THE_ANSWER_MS = 1500;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The events of a session as the client passes them on, in order. */
class Talk {
  seen = [];
  errors = [];
  /** Events that the package's own schemas refuse: nothing but the raw event is passed on. */
  refused = [];
  #read = 0;
  #wake = () => {};

  constructor(session) {
    this.session = session;
    const known = new Set();
    session.on("transport_event", (event) => {
      // What is understood is passed on once more, under its own name, right after this.
      if (!known.has(event.type)) {
        known.add(event.type);
        session.transport.on(event.type, () => this.refused.at(-1)?.type === event.type && this.refused.pop());
      }
      this.refused.push(event);
      this.seen.push(event);
      this.#wake();
    });
    session.on("error", ({ error }) => this.errors.push(error?.error ?? { message: String(error) }));
  }

  /** The next event that `fits` and that no earlier call has returned or passed over. */
  async until(what, fits = (event) => event.type === what) {
    const patience = setTimeout(() => this.#wake("late"), PATIENCE_MS);
    try {
      for (;;) {
        while (this.#read < this.seen.length) {
          const event = this.seen[this.#read++];
          if (fits(event)) return event;
        }
        if ((await new Promise((resolve) => (this.#wake = resolve))) === "late") throw new Error(this.#inVain(what));
      }
    } finally {
      clearTimeout(patience);
    }
  }

  #inVain(what) {
    const last = this.seen.slice(-30).map(({ type }) => type);
    return `waited in vain for ${what} after ${last.join(", ")}; errors: ${JSON.stringify(this.errors)}`;
  }

  /** The next response that was finished and says something. */
  async answer() {
    const says = ({ type, response }) =>
      type === "response.done" && response.status === "completed" && response.output.some(isMessage);
    const { response } = await this.until("an answer", says);
    const parts = response.output.filter(isMessage).flatMap(({ content }) => content);
    return { id: response.id, text: parts.map(({ text, transcript }) => text ?? transcript).join(" ") };
  }

  send(event) {
    this.session.transport.sendEvent(event);
  }

  update(session) {
    this.send({ type: "session.update", session: { type: "realtime", ...session } });
  }

  /** What was heard of an item that was cut, by the last word on it. */
  lastCut(id) {
    const cuts = this.seen.filter(({ type, item_id }) => type === "conversation.item.truncated" && item_id === id);
    const { transcript, audio_end_ms } = cuts.at(-1);
    return { heard: transcript, heard_ms: audio_end_ms };
  }

  /** The conversation as the client has it. */
  texts() {
    const messages = this.session.history.filter(({ type }) => type === "message");
    return messages.flatMap(({ role, content }) => content.map((part) => `${role}: ${part.text ?? part.transcript}`));
  }
}

const isMessage = ({ type }) => type === "message";

/** The client has the microphone and the loudspeaker; what comes out of this one is recorded. */
class OverWebRTC {
  constructor({ host }) {
    this.layer = new OpenAIRealtimeWebRTC({ baseUrl: `http://${host}/v1/realtime/calls` });
  }

  async open() {}

  began = ({ type }) => type === "output_audio_buffer.started";

  /** Returns when the answer was played. */
  async sound(talk, { id }) {
    const events = probe.events.filter(({ response_id }) => response_id === id);
    const from = events.find(this.began).at;
    const ends = ({ type, response_id }) =>
      ["output_audio_buffer.stopped", "output_audio_buffer.cleared"].includes(type) && response_id === id;
    let end = probe.events.find(ends);
    if (!end) {
      await talk.until("the end of the sound", ends);
      end = probe.events.find(ends);
    }
    while (probe.recorded() < end.at + 600) await pause(100);
    return probe.pcm(from - 200, end.at + 600);
  }
}

/** The client has neither: the page sends what the microphone hears, and keeps what there is to play. */
class OverWebSocket {
  #chunks = [];

  constructor({ host }) {
    this.layer = new OpenAIRealtimeWebSocket({ url: `ws://${host}/v1/realtime?model=local` });
  }

  async open(session) {
    session.on("audio", ({ data, responseId }) => this.#chunks.push({ data, responseId }));
    const context = new AudioContext({ sampleRate: RATE });
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" })));
    const tap = new AudioWorkletNode(context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    context.createMediaStreamSource(await navigator.mediaDevices.getUserMedia({ audio: true })).connect(tap);
    tap.port.onmessage = ({ data }) => session.sendAudio(Int16Array.from(data, (x) => x * 32767).buffer);
  }

  began = ({ type }) => type === "response.output_audio.delta";

  async sound(_, { id }) {
    const bytes = await new Blob(
      this.#chunks.filter(({ responseId }) => responseId === id).map(({ data }) => data),
    ).arrayBuffer();
    return base64(new Uint8Array(bytes));
  }
}

const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  constructor() { super(); this.buffer = new Float32Array(2400); this.used = 0; }
  process([[mono]]) {
    for (const x of mono ?? new Float32Array(128)) {
      this.buffer[this.used++] = Math.max(-1, Math.min(1, x));
      if (this.used === this.buffer.length) { this.port.postMessage(this.buffer.slice()); this.used = 0; }
    }
    return true;
  }
});`;

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

export async function dialogue(job) {
  const told = {};
  const weather = tool({
    name: "get_weather",
    description: "Tells the weather of a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
    async execute(args) {
      told.tool = args;
      talk.update({ tool_choice: "none" });
      return JSON.stringify({ city: args.city, sky: "heavy snow", celsius: -7 });
    },
  });
  const agent = new RealtimeAgent({ name: "assistant", instructions: "Answer briefly.", tools: [weather] });
  const over = job.transport === "webrtc" ? new OverWebRTC(job) : new OverWebSocket(job);
  const session = new RealtimeSession(agent, { transport: over.layer, model: "local" });
  const talk = new Talk(session);
  const heard = async (answer) => ({ ...answer, sound: await over.sound(talk, answer) });
  probe.scriptMicrophone();

  await session.connect({ apiKey: job.key });
  told.session = (await talk.until("session.updated")).session;
  await over.open(session);

  await probe.say(job.questions.capital);
  told.question = await heard(await talk.answer());

  talk.update({ tool_choice: "required" });
  session.sendMessage("What is the weather in Paris?");
  told.told_of_tool = await heard(await talk.answer());

  session.sendMessage({
    type: "message",
    role: "user",
    content: [
      { type: "input_image", image: job.picture },
      { type: "input_text", text: "Which animal is in this picture?" },
    ],
  });
  told.picture = await heard(await talk.answer());

  session.sendMessage("Name the twelve months of the year in order, one after the other.");
  const cut = { id: (await talk.until("sound", over.began)).response_id };
  await pause(INTO_THE_ANSWER_MS);
  await probe.say(job.human);
  const { item_id } = await talk.until("conversation.item.truncated");
  told.after_interruption = await heard(await talk.answer());
  told.interruption = { ...talk.lastCut(item_id), ...(await heard(cut)) };

  session.sendMessage("Count from one to thirty, one number after the other.");
  await talk.until("sound", over.began);
  await pause(INTO_THE_ANSWER_MS);
  session.interrupt();
  const stopped = await talk.until("conversation.item.truncated");

  talk.send({ type: "conversation.item.delete", item_id: "nowhere", event_id: "on_purpose" });
  await talk.until("error");

  talk.update({ output_modalities: ["text"] });
  session.sendMessage("What is the capital of Italy?");
  told.text = await talk.answer();

  told.stopped = talk.lastCut(stopped.item_id);
  told.errors = talk.errors;
  told.refused = talk.refused.map(({ type, item }) => [type, ...(item?.content ?? []).map((part) => part.type)]);
  told.history = talk.texts();
  session.close();
  return told;
}
