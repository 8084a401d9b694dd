// What can be done with a session, and what is said of it. Knows states; no page.

export function drivable(current, welcome) {
  return current && welcome.step_inputs.length > 0 && !["foreign", "ended"].includes(current.state);
}

/** By the keys. */
export function steerable(current, welcome) {
  return welcome.keyed.length > 0 && drivable(current, welcome);
}

export function owner(current, mine, welcome) {
  if (welcome.obstacle) return "no session can be driven here";
  if (!welcome.step_inputs.length) return "this model takes no inputs";
  if (!current || current.state === "foreign") return "not yours to drive";
  if (mine) return "you have the wheel";
  return current.driver === null ? "nobody has the wheel" : `viewer ${current.driver} has the wheel`;
}

export function hintFor(current, welcome) {
  if (!current && welcome.obstacle) return `No session: ${welcome.obstacle}. Those of other clients can be watched.`;
  if (!current) return "No session: press N for a new one.";
  if (current.state === "ended") return `${current.note} Press N for a new one.`;
  if (current.note) return current.note;
  const paused = current.state === "paused" ? `Paused. Space starts${welcome.keyed.length ? ", arrow keys drive" : ""}.` : "";
  return current.warning ? `Careful: ${current.warning}. ${paused}` : paused;
}
