// Two plots over the last half minute, on canvases: stacked bars and stepped lines. Knows time,
// numbers and colours; what they mean is the caller's business.

export const SPAN_S = 30;
const MARGIN = { left: 40, right: 8, top: 8, bottom: 18 };

class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.samples = []; // {t: seconds, ...}
  }

  clear() {
    this.samples = [];
  }

  add(sample) {
    this.samples.push(sample);
    const oldest = sample.t - SPAN_S - 2;
    while (this.samples[0].t < oldest) this.samples.shift();
  }

  draw(now) {
    const box = this.canvas.getBoundingClientRect();
    const scale = devicePixelRatio;
    const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height });
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    pen.font = "11px system-ui, sans-serif";
    const top = niceAbove(this.highest());
    const view = {
      pen, now, top,
      right: box.width - MARGIN.right,
      bottom: box.height - MARGIN.bottom,
      x: (t) => MARGIN.left + (1 - (now - t) / SPAN_S) * (box.width - MARGIN.left - MARGIN.right),
      y: (value) => box.height - MARGIN.bottom - (value / top) * (box.height - MARGIN.top - MARGIN.bottom),
    };
    this.axes(view);
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN.left, 0, view.right - MARGIN.left, box.height);
    pen.clip();
    this.content(view);
    pen.restore();
  }

  axes({ pen, x, y, top, right, bottom, now }) {
    pen.strokeStyle = color("--grid");
    pen.fillStyle = color("--dim");
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const value of ticks(top)) {
      line(pen, MARGIN.left, y(value), right, y(value));
      pen.fillText(`${value}`, MARGIN.left - 6, y(value));
    }
    pen.textBaseline = "alphabetic";
    pen.textAlign = "center";
    for (let ago = 0; ago <= SPAN_S; ago += 10) {
      pen.textAlign = ago === 0 ? "right" : ago === SPAN_S ? "left" : "center";
      pen.fillText(ago === 0 ? "now" : `−${ago} s`, x(now - ago), bottom + 14);
    }
  }
}

/** Samples {t, parts: [[name, value]...], total, width: seconds}. */
export class StackedBars extends Plot {
  constructor(canvas, colorOf, limit) {
    super(canvas);
    this.colorOf = colorOf;
    this.limit = limit; // {value, label}: a dashed line
  }

  highest() {
    const totals = this.samples.map((sample) => sample.total);
    return Math.max(this.limit.value * 1.2, ...totals);
  }

  content({ pen, x, y, right }) {
    for (const { t, parts, total, width } of this.samples) {
      const [left, wide] = [x(t - width), Math.max(1, x(t) - x(t - width) - 1)];
      let sum = 0;
      for (const [name, value] of parts) {
        pen.fillStyle = this.colorOf(name);
        pen.fillRect(left, y(sum + value), wide, y(sum) - y(sum + value));
        sum += value;
      }
      pen.fillStyle = color("--ink");
      pen.fillRect(left, y(total) - 1, wide, 1.5);
    }
    pen.strokeStyle = pen.fillStyle = color("--warn");
    pen.setLineDash([5, 4]);
    line(pen, MARGIN.left, y(this.limit.value), right, y(this.limit.value));
    pen.setLineDash([]);
    pen.textAlign = "left";
    pen.fillText(this.limit.label, MARGIN.left + 4, y(this.limit.value) - 4);
  }
}

/** Samples {t, name: value, ...}; a name that a sample lacks keeps its last value. */
export class SteppedLines extends Plot {
  constructor(canvas, lines) {
    super(canvas);
    this.lines = lines; // name -> {color, width, dash}
  }

  highest() {
    const names = Object.keys(this.lines);
    return Math.max(2, ...this.samples.flatMap((sample) => names.map((name) => sample[name] ?? 0)));
  }

  content({ pen, x, y, right }) {
    for (const [name, { color: shade, width, dash }] of Object.entries(this.lines)) {
      pen.strokeStyle = color(shade);
      pen.lineWidth = width;
      pen.setLineDash(dash);
      pen.beginPath();
      let last = null;
      for (const sample of this.samples) {
        if (!(name in sample)) continue;
        if (last === null) pen.moveTo(x(sample.t), y(sample[name]));
        else pen.lineTo(x(sample.t), y(last));
        pen.lineTo(x(sample.t), y(sample[name]));
        last = sample[name];
      }
      if (last !== null) pen.lineTo(right, y(last));
      pen.stroke();
    }
  }
}

// Asking for a computed style is slow, and a plot has a thousand bars.
const palette = new Map();

/** A colour of the style sheet, in the theme of the moment. */
export function color(name) {
  const root = document.documentElement;
  const key = `${root.dataset.theme} ${name}`;
  if (!palette.has(key)) palette.set(key, getComputedStyle(root).getPropertyValue(name).trim());
  return palette.get(key);
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, Math.round(y0) + 0.5);
  pen.lineTo(x1, Math.round(y1) + 0.5);
  pen.stroke();
}

/** The end of the axis: a number that divides into few round ticks. */
function niceAbove(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value && step >= 2);
}

function ticks(top) {
  const lead = top / 10 ** Math.floor(Math.log10(top));
  const count = { 1: 2, 1.5: 3, 2: 2, 3: 3, 4: 4, 5: 5, 6: 3, 8: 4 }[lead] ?? 2;
  return Array.from({ length: count + 1 }, (_, index) => (top * index) / count);
}
