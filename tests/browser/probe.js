// Runs in the page before the page's own code. It watches and records, and can speak in the microphone's place:
//   events     server events of every call, each with `at`: milliseconds of the recording when the page took it
//   busy(ms)   keeps the page's thread from its work for so long, again and again
//   pcm(a, b)  what the loudspeaker got between two such times: 24 kHz mono int16, base64
//   peers      the peer connections
//   filled()   how much audible sound the browser has put in of its own where none came in time, or taken away: ms
//   scriptMicrophone(), say(wav)   a microphone that is silent until it is told what to say
//   leak(db, ms)                   from now on it also hears the loudspeaker, so much fainter and later
{
  const RATE = 24000;
  const probe = (window.probe = { events: [], peers: [], send: null });
  const chunks = [];
  let recorded = 0;
  let gain = null;
  /** The sound's own clock, and where on it the recording begins: what the page's thread got of it may be behind. */
  let clock = null;
  let began = 0;
  const loudspeaker = { volume: 1, muted: false };

  const WORKLET = `registerProcessor("tape", class extends AudioWorkletProcessor {
    constructor() { super(); this.buffer = new Float32Array(1024); this.used = 0; this.begun = false; }
    process([[mono]]) {
      if (!mono) return true;
      if (!this.begun) this.port.postMessage(currentTime);
      this.begun = true;
      this.buffer.set(mono, this.used);
      this.used += mono.length;
      if (this.used === 1024) { this.port.postMessage(this.buffer.slice()); this.used = 0; }
      return true;
    }
  });`;

  let voice = null;

  async function record(track) {
    voice = track;
    const context = new AudioContext({ sampleRate: RATE });
    const module = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
    await context.audioWorklet.addModule(module);
    gain = context.createGain();
    applyLoudspeaker();
    const tape = new AudioWorkletNode(context, "tape", { channelCount: 1, channelCountMode: "explicit" });
    context.createMediaStreamSource(new MediaStream([track])).connect(gain).connect(tape);
    tape.connect(context.destination);
    tape.port.onmessage = ({ data }) => {
      if (typeof data === "number") {
        [clock, began] = [context, data - recorded / RATE];
        return;
      }
      chunks.push(Int16Array.from(data, (x) => Math.max(-1, Math.min(1, x)) * 32767));
      recorded += data.length;
    };
  }

  function applyLoudspeaker() {
    if (gain) gain.gain.value = loudspeaker.muted ? 0 : loudspeaker.volume;
  }

  for (const name of ["volume", "muted"]) {
    const original = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, name);
    Object.defineProperty(HTMLMediaElement.prototype, name, {
      ...original,
      set(value) {
        original.set.call(this, value);
        if (this instanceof HTMLAudioElement) {
          loudspeaker[name] = value;
          applyLoudspeaker();
        }
      },
    });
  }

  probe.now = () => (clock ? 1000 * (clock.currentTime - began) : 0);
  probe.recorded = () => (1000 * recorded) / RATE;
  probe.busy = (ms) => {
    setInterval(() => {
      for (const end = performance.now() + ms; performance.now() < end; );
    }, ms + 50);
  };
  probe.pcm = (from, to) => {
    const all = new Int16Array(recorded);
    let at = 0;
    for (const chunk of chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    const piece = all.slice((Math.max(0, from) * RATE) / 1000, (to * RATE) / 1000);
    const bytes = new Uint8Array(piece.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
  };

  const Peer = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Peer {
    constructor(...options) {
      super(...options);
      probe.peers.push(this);
      this.addEventListener("track", ({ track }) => {
        if (track.kind === "audio") void record(track);
      });
    }
    createDataChannel(label, options) {
      const channel = super.createDataChannel(label, options);
      if (label === "oai-events") {
        channel.addEventListener("message", ({ data }) => probe.events.push({ ...JSON.parse(data), at: probe.now() }));
        probe.send = (event) => channel.send(JSON.stringify(event));
      }
      if (label === "omni-moments") {
        channel.addEventListener("message", ({ data }) => probe.events.push({ ...JSON.parse(data), at: probe.now() }));
      }
      return channel;
    }
  };

  probe.filled = async () => {
    let samples = 0;
    for (const peer of probe.peers) {
      for (const entry of (await peer.getStats()).values()) {
        if (entry.type !== "inbound-rtp" || entry.kind !== "audio") continue;
        samples += entry.concealedSamples - entry.silentConcealedSamples;
        samples += entry.insertedSamplesForDeceleration - entry.removedSamplesForAcceleration;
      }
    }
    return (1000 * samples) / 48000;
  };

  probe.scriptMicrophone = () => {
    const context = new AudioContext({ sampleRate: 48000 });
    const out = context.createMediaStreamDestination();
    const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (constraints) =>
      constraints.audio ? new MediaStream(out.stream.getAudioTracks().map((track) => track.clone())) : original(constraints);
    probe.say = async (wav) => {
      await context.resume();
      const bytes = Uint8Array.from(atob(wav), (char) => char.charCodeAt(0));
      const source = context.createBufferSource();
      source.buffer = await context.decodeAudioData(bytes.buffer);
      source.connect(out);
      source.start();
      await new Promise((resolve) => (source.onended = resolve));
    };
    probe.leak = async (db, ms) => {
      await context.resume();
      const delay = new DelayNode(context, { delayTime: ms / 1000 });
      const fainter = new GainNode(context, { gain: 10 ** (db / 20) });
      context.createMediaStreamSource(new MediaStream([voice])).connect(delay).connect(fainter).connect(out);
    };
  };
}
