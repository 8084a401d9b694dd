// The latency plot with its table: what a step's time went to. The stages of one step follow each
// other; what their sum leaves of the round trip is the wire, the client, and waiting in between.

import { color, StackedBars } from "./plots.js";

// In the order of a frame's way; what the server adds later is put behind them.
const ORDER = ["encode", "prefill", "queue", "re_anchor", "world_model", "decode_queue", "video_decode"];
const OTHER = "wire, other";
// Work done ahead for the next step, beside this step's decoding: not part of the stack.
const BESIDE = new Set(["prefill_ahead", "round_trip"]);
const KEPT = 240;

export class Latency {
  constructor(canvas, tbody) {
    this.tbody = tbody;
    this.history = new Map(); // stage -> last values
    this.plot = new StackedBars(canvas, stageColor, { value: 250, label: "" });
  }

  period(ms, label) {
    this.plot.limit = { value: ms, label: `${label} ${ms} ms` };
  }

  clear() {
    this.history.clear();
    this.plot.clear();
    this.tbody.replaceChildren();
  }

  add(header, t, periodS) {
    const timings = header.timings_ms;
    const parts = Object.entries(timings).filter(([name]) => !BESIDE.has(name));
    parts.sort(([a], [b]) => rank(a) - rank(b));
    const sum = parts.reduce((total, [, ms]) => total + ms, 0);
    const total = timings.round_trip ?? sum;
    parts.push([OTHER, Math.max(0, total - sum)]);
    this.plot.add({ t, parts, total, width: Math.min(periodS, 1) });
    for (const [name, ms] of [...parts, ["round trip", total]]) this.keep(name, ms);
    this.table();
  }

  keep(name, ms) {
    const values = this.history.get(name) ?? [];
    values.push(ms);
    if (values.length > KEPT) values.shift();
    this.history.set(name, values);
  }

  table() {
    const names = [...this.history.keys()].sort((a, b) => rank(a) - rank(b));
    this.tbody.replaceChildren(...names.map((name) => row(name, this.history.get(name))));
  }
}

function row(name, values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  const cells = [values.at(-1), at(0.5), at(0.95)].map((ms) => {
    const cell = document.createElement("td");
    cell.textContent = ms.toFixed(ms < 10 ? 2 : 1);
    return cell;
  });
  const head = document.createElement("th");
  const swatch = document.createElement("i");
  swatch.style.background = stageColor(name);
  head.append(swatch, name.replaceAll("_", " "));
  const line = document.createElement("tr");
  line.append(head, ...cells);
  return line;
}

function rank(name) {
  if (name === "round trip") return 100;
  if (name === OTHER) return 99;
  const index = ORDER.indexOf(name);
  return index < 0 ? 50 : index;
}

function stageColor(name) {
  if (name === "round trip") return color("--ink");
  if (name === OTHER) return color("--stage-other");
  return color(`--stage-${name.replaceAll("_", "-")}`) || color("--stage-unknown");
}
