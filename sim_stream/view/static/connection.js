// The WebSocket to the page's server: commands out, events and frames in, again after a break.
// Knows what a message looks like (sim_stream/view/messages.py), not what it is for.

const LENGTH_BYTES = 4;
const AGAIN_MS = 1000;

export class Connection {
  /** `on`: {event(message), frames(header, jpegs), opened(), lost()} */
  constructor(on) {
    this.on = on;
    this.open();
  }

  open() {
    this.socket = new WebSocket(`ws://${location.host}/socket`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.on.opened();
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.on.event(JSON.parse(data));
      else this.on.frames(...split(data));
    };
    this.socket.onclose = () => {
      this.on.lost();
      setTimeout(() => this.open(), AGAIN_MS);
    };
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ t: type, ...fields }));
    }
  }
}

/** A binary message: the header's length, big-endian, the header, JPEGs of the sizes it says. */
function split(buffer) {
  let end = LENGTH_BYTES + new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, LENGTH_BYTES, end - LENGTH_BYTES)));
  const jpegs = header.sizes.map((size) => {
    end += size;
    return new Blob([new Uint8Array(buffer, end - size, size)], { type: "image/jpeg" });
  });
  return [header, jpegs];
}
