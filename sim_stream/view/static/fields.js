// Controls for a model's fields, made from its spec: a slider or a box for a number, a list for a
// choice, a line for a text. Knows fields and their values; no sessions.

const STEPS = 200; // of a slider

export class FieldControls {
  /** `changed(name, value)`: by hand; null: nothing is given. `sliders`: numbers have one. */
  constructor(element, { sliders = false, changed = () => {} } = {}) {
    Object.assign(this, { element, sliders, changed });
    this.controls = new Map(); // name -> {input, tell}
  }

  build(fields) {
    this.controls.clear();
    this.element.replaceChildren(...fields.map((field) => this.row(field)));
  }

  /** What is in force; not over what is being typed. */
  show(values) {
    for (const [name, { field, input, tell }] of this.controls) {
      const value = values[name] ?? null;
      if (input !== document.activeElement) input.value = value ?? (this.sliders && field.kind === "number" ? field.low : "");
      tell(value);
    }
  }

  /** By name, of what is given; what is not is as the model has it. */
  get values() {
    const given = [...this.controls].map(([name, { field, input }]) => [name, read(field, input)]);
    return Object.fromEntries(given.filter(([, value]) => value !== null));
  }

  get valid() {
    return [...this.controls.values()].every(({ input }) => input.checkValidity());
  }

  set disabled(off) {
    for (const { input } of this.controls.values()) input.disabled = off;
  }

  row(field) {
    const row = document.createElement("label");
    const output = document.createElement("output");
    const input = this.input(field);
    Object.assign(input, { name: field.name, required: field.required && !has(field.default) });
    const bounds = field.kind === "number" ? `${field.low} to ${field.high} ${field.unit}`.trim() : "";
    row.title = [field.doc, bounds].filter(Boolean).join(": ");
    const tell = (value) => { output.textContent = this.sliders ? said(field, value) : bounds; };
    tell(null);
    input.addEventListener("change", () => {
      const value = read(field, input);
      if (input.type !== "text" && input.type !== "number") input.blur(); // else arrows choose
      tell(value);
      if (input.checkValidity()) this.changed(field.name, value);
    });
    input.addEventListener("input", () => tell(read(field, input)));
    this.controls.set(field.name, { field, input, tell });
    row.append(field.name.replaceAll("_", " "), output, input);
    return row;
  }

  input(field) {
    if (field.kind === "choice") return list(field);
    const input = document.createElement("input");
    if (field.kind === "text") {
      return Object.assign(input, { type: "text", maxLength: field.max_chars, placeholder: field.default ?? "" });
    }
    const step = field.integer ? 1 : this.sliders ? (field.high - field.low) / STEPS || 1 : "any";
    const type = this.sliders ? "range" : "number";
    return Object.assign(input, { type, min: field.low, max: field.high, step, placeholder: field.default ?? "" });
  }
}

function list(field) {
  const select = document.createElement("select");
  if (!has(field.default) && !field.required) select.append(new Option("–", ""));
  select.append(...field.choices.map((choice) => new Option(choice)));
  select.value = field.default ?? select.options[0].value;
  return select;
}

function read(field, input) {
  if (input.value === "") return null;
  return field.kind === "number" ? Number(input.value) : input.value;
}

function said(field, value) {
  if (field.kind !== "number") return "";
  if (value === null) return "not given";
  return `${field.integer ? value : value.toFixed(2)} ${field.unit}`.trim();
}

function has(value) {
  return value !== null && value !== undefined;
}
