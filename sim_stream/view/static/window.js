// The last frames: thumbnails of those that were shown, and what is in the third slot. Of a token
// model they are the window that its video decoder looks at.
// A reply to step n shows frame n - lag; its right neighbour exists as ids only, or not at all.

const SLOTS = 3;
const GRID = 16;

export class FrameWindow {
  constructor(slots, facts) {
    this.slots = slots; // canvases
    this.facts = facts;
    this.clear();
  }

  clear() {
    this.images = new Map(); // frame id -> bitmap
    this.tokens = false; // whether the model predicts frames as ids
  }

  /** Slots of this shape. */
  shape(height, width) {
    for (const canvas of this.slots) canvas.height = Math.round((canvas.width * height) / width);
  }

  show(header, frameId, bitmap) {
    if (header.step === 0) this.clear();
    this.tokens ||= header.passes > 0;
    this.images.set(frameId, bitmap);
    for (const id of this.images.keys()) {
      if (id <= frameId - SLOTS) this.images.delete(id);
    }
    const left = this.images.get(frameId - 1);
    this.slot(0, frameId - 1, left, left ? "decoded" : "from before");
    this.slot(1, frameId, bitmap, header.final ? "shown, final" : "shown, comes again");
    const behind = this.tokens ? `${header.codes} ids, no pixels` : "predicted, no pixels";
    if (header.lag_frames > 0) this.slot(2, frameId + header.lag_frames, null, behind);
    else this.slot(2, frameId + 1, null, header.final && this.tokens ? "zero padding" : "to be predicted");
    this.tell(header, frameId);
  }

  slot(index, frameId, bitmap, text) {
    const canvas = this.slots[index];
    const pen = canvas.getContext("2d");
    const { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    if (bitmap) pen.drawImage(bitmap, 0, 0, width, height);
    else if (text.includes("ids")) grid(pen, width, height);
    const caption = canvas.nextElementSibling;
    caption.replaceChildren(bold(frameId < 0 ? `prompt ${frameId}` : `frame ${frameId}`), text);
  }

  tell(header, frameId) {
    const lookahead = header.lag_frames > 0 || !header.final ? 1 : 0;
    const frames = (count) => `${count} frame${count === 1 ? "" : "s"}`;
    const facts = {
      "committed step": header.committed_step,
      "frame shown": frameId,
      lag: frames(header.lag_frames),
      lookahead: frames(lookahead),
      "codes / passes": header.passes ? `${header.codes} / ${header.passes}` : "–",
    };
    this.facts.replaceChildren(
      ...Object.entries(facts).map(([name, value]) => {
        const row = document.createElement("div");
        const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
        [term.textContent, detail.textContent] = [name, value];
        row.append(term, detail);
        return row;
      }),
    );
  }
}

/** The latent grid: a frame that exists as ids only. */
function grid(pen, width, height) {
  pen.strokeStyle = getComputedStyle(pen.canvas).color;
  pen.globalAlpha = 0.35;
  pen.beginPath();
  for (let cell = 1; cell < GRID; cell += 1) {
    pen.moveTo((cell * width) / GRID, 0);
    pen.lineTo((cell * width) / GRID, height);
    pen.moveTo(0, (cell * height) / GRID);
    pen.lineTo(width, (cell * height) / GRID);
  }
  pen.stroke();
  pen.globalAlpha = 1;
}

function bold(text) {
  const element = document.createElement("b");
  element.textContent = text;
  return element;
}
