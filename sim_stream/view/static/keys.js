// The four driving keys, from the keyboard (arrows, WASD) and from the buttons of the pad (mouse,
// touch). Tells what is held whenever that changes. Knows no sessions.

const CODES = {
  ArrowUp: "up", KeyW: "up",
  ArrowDown: "down", KeyS: "down",
  ArrowLeft: "left", KeyA: "left",
  ArrowRight: "right", KeyD: "right",
};

export class Keys {
  /** `changed({up, down, left, right})`; `buttons`: elements with data-key. */
  constructor(buttons, changed) {
    this.buttons = [...buttons];
    this.changed = changed;
    this.sources = new Map(); // what holds a key down -> the key; two sources may hold the same one
    addEventListener("keydown", (event) => this.keyboard(event, true));
    addEventListener("keyup", (event) => this.keyboard(event, false));
    addEventListener("blur", () => this.releaseAll());
    for (const button of this.buttons) this.listen(button);
  }

  get held() {
    const down = new Set(this.sources.values());
    return Object.fromEntries(["up", "down", "left", "right"].map((key) => [key, down.has(key)]));
  }

  keyboard(event, down) {
    const key = CODES[event.code];
    if (!key || isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); // arrows scroll
    this.hold(event.code, key, down);
  }

  listen(button) {
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      this.hold(event.pointerId, button.dataset.key, true);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, (event) => this.hold(event.pointerId, button.dataset.key, false));
    }
  }

  hold(source, key, down) {
    if (down === this.sources.has(source)) return; // a key that repeats
    if (down) this.sources.set(source, key);
    else this.sources.delete(source);
    this.tell();
  }

  releaseAll() {
    if (!this.sources.size) return;
    this.sources.clear();
    this.tell();
  }

  tell() {
    const held = this.held;
    for (const button of this.buttons) button.classList.toggle("held", held[button.dataset.key]);
    this.changed(held);
  }
}

export function isTyping(element) {
  return element instanceof HTMLInputElement || element instanceof HTMLSelectElement;
}
