// Speed and yaw rate, which the keys steer. Knows numbers; no sessions.

const YAW_FULL_RADPS = 0.3; // what the keys reach (sim_stream/view/controls.py)
const find = (id) => document.getElementById(id);

/** Those that this model takes. */
export function offerGauges(fields, keyed) {
  const speed = fields.find(({ name }) => name === "speed_mps");
  if (speed) find("speed-bar").max = speed.high;
  find("pad").hidden = keyed.length === 0;
  find("speed-gauge").hidden = !keyed.includes("speed_mps");
  find("yaw-gauge").hidden = !keyed.includes("yaw_rate_radps");
}

/** Of the step that is shown; null: unknown. */
export function showGauges(inputs) {
  const { speed_mps: speed, yaw_rate_radps: yaw } = inputs ?? {};
  if (speed !== undefined) {
    find("speed").textContent = `${speed.toFixed(1)} m/s`;
    find("speed-bar").value = speed;
  }
  if (yaw !== undefined) showYaw(yaw);
}

function showYaw(yaw) {
  const side = yaw > 0.001 ? " left" : yaw < -0.001 ? " right" : "";
  find("yaw").textContent = `${Math.abs(yaw).toFixed(2)} rad/s${side}`;
  const share = Math.min(1, Math.abs(yaw) / YAW_FULL_RADPS) * 50;
  Object.assign(find("yaw-bar").style, { width: `${share}%`, left: `${yaw > 0 ? 50 - share : 50}%` });
}
