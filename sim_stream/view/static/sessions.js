// The list of sessions: one line each, a click watches. Knows what a line shows, sends nothing.

export class SessionList {
  /** `on`: {watch(sid), close(sid)} */
  constructor(tbody, on) {
    this.tbody = tbody;
    this.on = on;
  }

  /** `away`: the server is; then none can be ended. */
  show(sessions, watching, viewer, away) {
    this.away = away;
    this.tbody.replaceChildren(...sessions.map((session) => this.line(session, watching, viewer)));
  }

  line(session, watching, viewer) {
    const line = document.createElement("tr");
    line.dataset.sid = session.sid;
    line.classList.toggle("watched", session.sid === watching);
    line.title = session.note || session.sid;
    const dot = document.createElement("span");
    dot.className = `dot ${session.state}`;
    const watch = button(nameOf(session), "Watch this session", () => this.on.watch(session.sid));
    const wheel = session.driver === viewer ? "you" : session.driver === null ? "–" : `viewer ${session.driver}`;
    const cells = [
      [dot, ` ${session.state}`],
      [watch],
      [session.committed_step < 0 ? "–" : session.committed_step],
      [session.seed ?? "–"],
      [session.late],
      [wheel],
      [session.viewers],
      session.state === "foreign" ? [] : [this.closing(session)],
    ];
    line.append(...cells.map((content) => {
      const cell = document.createElement("td");
      cell.append(...content);
      return cell;
    }));
    line.addEventListener("click", () => this.on.watch(session.sid));
    return line;
  }

  closing(session) {
    const element = button("×", "End this session", () => this.on.close(session.sid));
    element.disabled = this.away;
    return element;
  }
}

function nameOf(session) {
  if (session.state === "foreign") return `${session.name} (another client's)`;
  return session.parent === null ? `${session.name}` : `${session.name} (fork of ${session.parent})`;
}

function button(text, title, pressed) {
  const element = document.createElement("button");
  element.className = "link";
  Object.assign(element, { textContent: text, title });
  element.addEventListener("click", (event) => {
    event.stopPropagation();
    pressed();
  });
  return element;
}
