// The page: joins connection, keys, fields, frame, window, plots and session list. What is shown is what
// the server said last; nothing is assumed to have worked.

import { Connection } from "./connection.js";
import { FieldControls } from "./fields.js";
import { offerGauges, showGauges } from "./gauges.js";
import { isTyping, Keys } from "./keys.js";
import { Latency } from "./latency.js";
import { SteppedLines } from "./plots.js";
import { SessionList } from "./sessions.js";
import "./theme.js";
import { FrameWindow } from "./window.js";
import { drivable, hintFor, owner, steerable } from "./words.js";

const NOTICE_MS = 6000;
const SILENT_S = 2; // a server that is older news than this is said to be silent
const DRAW_EVERY_MS = 125;
const [RATE_FRAMES, RATE_S] = [16, 8];
const ALIVE = ["running", "paused"];
const QUEUES = {
  in_flight: { label: "steps still in flight", color: "--stage-world-model", width: 3, dash: [] },
  queue_depth: { label: "behind it at the server", color: "--stage-video-decode", width: 2, dash: [6, 6] },
  queued: { label: "waiting for the engine", color: "--warn", width: 1.5, dash: [] },
};

const find = (id) => document.getElementById(id);
let welcome = null;
let state = { sessions: [], viewers: [], server: null, outage: "" };
let connected = false; // to the page's server
let shutdownNotice = ""; // what that said last
let watching = null;
let shownS = []; // when the last frames of this session were shown
let steppedS = null; // when its last step was
let noticeTimer = 0;

const latency = new Latency(find("latency"), find("stages").tBodies[0]);
const queues = new SteppedLines(find("queues"), QUEUES);
const frameWindow = new FrameWindow([0, 1, 2].map((index) => find(`slot-${index}`)), find("facts"));
const list = new SessionList(find("sessions").tBodies[0], {
  watch: (sid) => connection.send("watch", { sid }),
  close: (sid) => connection.send("close", { sid }),
});
const connection = new Connection({
  opened: () => {
    connected = true;
    shutdownNotice = "";
    health("connected", "good");
  },
  lost: () => {
    connected = false;
    health("no connection", "bad");
    keys.releaseAll();
    show();
  },
  event: (message) => ({
    welcome: greet,
    state: update,
    notice: ({ text }) => notice(text),
    ending: ({ text }) => { shutdownNotice = text; },
  })[message.t](message),
  frames: showFrames,
});
const keys = new Keys(document.querySelectorAll(".key"), steer);
const stepInputs = new FieldControls(find("step-inputs"), {
  sliders: true,
  changed: (name, value) => connection.send("set", { sid: watching, name, value }),
});
const sessionInputs = new FieldControls(find("session-inputs"));
const options = new FieldControls(find("options"));

function session() {
  return state.sessions.find(({ sid }) => sid === watching) ?? null;
}

function greet(message) {
  welcome = message;
  find("model").textContent = message.model_id;
  find("weights").textContent = message.weights_sha256.slice(0, 8);
  const [height, width] = message.frame_shape;
  find("shape").textContent = `${width}×${height}, ${message.fps} fps`;
  if (shownS.length === 0) Object.assign(find("frame"), { width, height });
  frameWindow.shape(height, width);
  find("endpoint").textContent = message.endpoint;
  if (!find("seed").value || find("seed").value === "0") find("seed").value = message.first_seed;
  offer(message.prompts);
  build(message);
  const several = message.frames_per_step > 1;
  latency.period((1000 * message.frames_per_step) / message.fps, several ? "step period" : "frame period");
}

/** Controls for what this model takes. */
function build({ step_inputs, keyed, session_inputs, options: offered }) {
  offerGauges(step_inputs, keyed);
  stepInputs.build(step_inputs.filter(({ name }) => !keyed.includes(name)));
  sessionInputs.build(session_inputs);
  options.build(offered);
  find("more").hidden = session_inputs.length + offered.length === 0;
}

function offer(prompts) {
  find("start").hidden = prompts.length < 2;
  const choice = find("prompt");
  const kept = prompts.includes(choice.value) ? choice.value : prompts[0];
  choice.replaceChildren(...prompts.map((name) => new Option(name)));
  choice.value = kept;
}

function update(message) {
  state = message;
  const me = state.viewers.find(({ viewer }) => viewer === welcome.viewer);
  if (me && me.watching !== watching) turnTo(me.watching);
  find("room").textContent = `${state.server?.sessions ?? "–"} open at the server, ${welcome.max_sessions} at most`;
  const others = state.viewers.length - 1;
  find("viewers").textContent =
    `viewer ${welcome.viewer}${others ? ` (+${others})` : ""} · ${me?.sent ?? 0} frames, ${me?.dropped ?? 0} dropped`;
  showServer(state.server);
  show();
}

/** Sessions and controls; without a server nothing runs, and nothing can be asked for. */
function show() {
  const away = outage();
  Object.assign(find("outage"), { textContent: away, hidden: !away });
  if (!welcome) return;
  const waiting = ({ state, ...rest }) => ({ ...rest, state: ALIVE.includes(state) ? "waiting" : state });
  list.show(away ? state.sessions.map(waiting) : state.sessions, watching, welcome.viewer, Boolean(away));
  showControls(session(), Boolean(away));
}

function outage() {
  if (connected) return state.outage;
  return shutdownNotice || "The page's server does not answer; trying again. If it has ended, start `sim-stream view` again.";
}

function showServer(server) {
  if (!server) return;
  if (state.outage) health("the server does not answer", "bad");
  else if (server.age_s > SILENT_S) health(`server silent for ${server.age_s.toFixed(0)} s`, "bad");
  else health(`server answers in ${server.answer_ms.toFixed(1)} ms`, "good");
  queues.add({ t: nowS(), queued: server.queued });
}

function showControls(current, away) {
  const mine = current?.driver === welcome.viewer;
  const free = current && current.state !== "foreign" && (mine || current.driver === null);
  find("run").textContent = current?.state === "running" ? "Pause" : "Start";
  find("run").disabled = !free || current.state === "failed" || current.state === "ended";
  find("reset").disabled = !free || current.state === "ended";
  find("fork").disabled = !current || !["running", "paused"].includes(current.state);
  find("wheel").disabled = !drivable(current, welcome);
  find("wheel").textContent = mine ? "Let go" : "Take the wheel";
  find("wheel-owner").textContent = owner(current, mine, welcome);
  find("open").disabled = Boolean(welcome.obstacle);
  stepInputs.show(current?.inputs ?? {});
  stepInputs.disabled = away || !free || current.state === "ended";
  if (away) for (const id of Object.keys(commands)) find(id).disabled = true;
  for (const key of document.querySelectorAll(".key")) key.disabled = away || !steerable(current, welcome);
  hint(away ? "" : hintFor(current, welcome));
}

function turnTo(sid) {
  watching = sid;
  shownS = [];
  steppedS = null;
  latency.clear();
  queues.clear();
  frameWindow.clear();
  keys.releaseAll();
  if (sid === null) find("frame").getContext("2d").clearRect(0, 0, 1e4, 1e4);
}

let drawn = Promise.resolve();

/** One after another: JPEGs are decoded beside this thread and may be ready out of order. */
function showFrames(header, jpegs) {
  const decoded = Promise.all(jpegs.map((jpeg) => createImageBitmap(jpeg)));
  drawn = drawn.then(async () => drawFrames(header, await decoded));
}

/** Those that came together each in its time. */
async function drawFrames(header, bitmaps) {
  if (header.sid !== watching) turnTo(header.sid);
  showGauges(header.inputs);
  plot(header);
  for (const [index, bitmap] of bitmaps.entries()) {
    if (index > 0) await new Promise((go) => { setTimeout(go, 1000 / welcome.fps); });
    if (header.sid !== watching) break; // turned away meanwhile
    drawFrame(header, header.frame_ids[index], bitmap);
  }
  connection.send("seen");
}

function drawFrame(header, frameId, bitmap) {
  const canvas = find("frame");
  const { width, height } = bitmap;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  canvas.dataset.frame = frameId;
  canvas.dataset.step = header.step;
  shownS = [...shownS, nowS()].slice(-RATE_FRAMES);
  find("frame-id").textContent = `frame ${frameId} · step ${header.step}`;
  find("rate").textContent = rate();
  find("badges").replaceChildren(...header.marks.map((mark) => tag(mark)));
  frameWindow.show(header, frameId, bitmap);
}

function plot(header) {
  const t = nowS();
  queues.add({ t, in_flight: header.in_flight, queue_depth: header.queue_depth });
  if (header.step > 0) {
    latency.add(header, t, steppedS === null ? welcome.frames_per_step / welcome.fps : t - steppedS);
  }
  steppedS = t;
}

/** Frames a second over the last ones, as they were shown here. */
function rate() {
  const recent = shownS.filter((t) => nowS() - t < RATE_S);
  if (recent.length < 3) return "";
  return `${((recent.length - 1) / (recent.at(-1) - recent[0])).toFixed(1)} fps`;
}

function steer(held) {
  const current = session();
  if (outage() || !welcome || !steerable(current, welcome)) return;
  const pressed = Object.values(held).some(Boolean);
  if (current.driver !== null && current.driver !== welcome.viewer) {
    if (pressed) notice(`Viewer ${current.driver} has the wheel; T takes it.`);
    return;
  }
  connection.send("keys", { sid: watching, ...held });
}

const commands = {
  run: () => connection.send("run", { sid: watching, running: session().state !== "running" }),
  wheel: () => connection.send("wheel", { sid: watching, take: session().driver !== welcome.viewer }),
  fork: () => connection.send("fork", { sid: watching }),
  reset: () => withStart((start) => connection.send("reset", { sid: watching, ...start })),
  open: () => withStart((start) => connection.send("open", start)),
};

function withStart(go) {
  const input = find("seed");
  if (input.value === "" || !input.checkValidity()) return notice("The seed is a whole number from 0 to 2^53-1.");
  if (!sessionInputs.valid || !options.valid) return notice("A value for New session and Reset is out of its bounds.");
  const [seed, prompt] = [Number(input.value), find("prompt").value];
  return go({ seed, prompt, inputs: sessionInputs.values, options: options.values });
}

for (const [id, go] of Object.entries(commands)) {
  find(id).addEventListener("click", (event) => {
    event.currentTarget.blur(); // else Space would press it again
    go();
  });
}

find("prompt").addEventListener("change", (event) => event.currentTarget.blur()); // else arrows choose

addEventListener("keydown", (event) => {
  const id = { Space: "run", KeyT: "wheel", KeyF: "fork", KeyR: "reset", KeyN: "open" }[event.code];
  if (!id || event.repeat || isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (!find(id).disabled) commands[id]();
});

function notice(text) {
  clearTimeout(noticeTimer);
  Object.assign(find("notice"), { textContent: text, hidden: false });
  noticeTimer = setTimeout(() => { find("notice").hidden = true; }, NOTICE_MS);
}

function hint(text) {
  find("hint").textContent = text;
}

function health(text, kind) {
  Object.assign(find("health"), { textContent: text, className: `pill ${kind}` });
}

function tag(text) {
  const element = document.createElement("span");
  Object.assign(element, { textContent: text, className: "tag warn" });
  return element;
}

function nowS() {
  return performance.now() / 1e3;
}

find("queue-legend").append(...Object.values(QUEUES).map(({ label, color }) => {
  const entry = document.createElement("span");
  const swatch = document.createElement("i");
  swatch.style.background = `var(${color})`;
  entry.append(swatch, label);
  return entry;
}));

let drawnMs = 0;
function draw(ms) {
  if (ms - drawnMs >= DRAW_EVERY_MS) {
    drawnMs = ms;
    latency.plot.draw(nowS());
    queues.draw(nowS());
  }
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);
