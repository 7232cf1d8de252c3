// The tracer: recorded steps of connections, drawn run by run on a canvas and stepped through together.
//
// What is shown is the sum of the steps until now; `apply` is the rule, the same as `Moment.after` of
// docs/_tools/tracer_moment.py. A process is a house, a worker thread a room, a connection a dot. No library, no kernel:
// `mount(element, {runs, palette})` is all that a static page needs.

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const GAP = 8;            // pixels between houses
const MOVE = 260;         // ms that a dot takes to its next place, at the most
const JUMP = 20;          // steps of PageUp and PageDown
const READ = 80;          // ms for which words stay while it plays: faster ones cannot be read
const BUSY = "RWKLC";
const PACES = [["1 step/s", 1, "steps"], ["3 steps/s", 3, "steps"], ["10 steps/s", 10, "steps"],
  ["60 steps/s", 60, "steps"], ["real time / 10", 0.1, "time"], ["real time", 1, "time"]];
const OF_A_THREAD = new Set(["ended", "starting", "idle", "reading", "handling", "waiting", "logging", "closing",
  "leaving"]);
const QUEUES = { KEEPALIVE: "its next request", WRITE_COMPLETION: "room to send more",
  LINGER_NORMAL: "its client to close, 30 s at most", LINGER_SHORT: "its client to close, 2 s at most" };

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b < 140 ? "#ffffff" : "#111111";
}

// ---- the model: what a run's scoreboard and listener show after some of its steps

class Run {
  constructor(run) {
    this.mpm = run.mpm;
    this.threads = run.threads;
    this.clients = run.clients;
    this.lines = run.lines;
    this.steps = run.steps.map(([t, child, pid, thread, conn, before, after, cause, line]) =>
      ({ t, child, pid, thread, conn, before, after, cause, line }));
    this.children = [...new Set(this.steps.map((step) => step.child))].filter((child) => child >= 0)
      .sort((a, b) => a - b);
    this.reset();
    // The most connections that are in a place of one process at once, so that it has room for them.
    this.most = {};
    const counts = {};
    const add = (conn, change) => {
      const one = this.conns.get(conn);
      if (!one) return;
      const now = counts[`${one.place} ${one.child}`] = (counts[`${one.place} ${one.child}`] || 0) + change;
      this.most[one.place] = Math.max(this.most[one.place] || 1, now);
    };
    for (const step of this.steps) {
      add(step.conn, -1);
      this.apply(step);
      add(step.conn, 1);
    }
    this.reset();
  }

  reset() {
    this.done = 0;
    this.letters = new Map(this.children.map((child) => [child, Array(this.threads).fill(".")]));
    this.pids = new Map();
    this.conns = new Map();      // number -> { state, child, pid, place, thread }
    this.reserved = new Map();   // child -> idle workers that its listener holds
    this.open = new Map();       // child -> the listening sockets are in its epoll
  }

  to(count) {
    if (count < this.done) this.reset();
    while (this.done < count) this.apply(this.steps[this.done++]);
  }

  apply(step) {
    const { child, pid, thread, conn, after, cause } = step;
    if (cause === "born") {
      this.pids.set(child, pid);
      this.reserved.set(child, 0);
      this.open.set(child, this.mpm === "worker");
    } else if (cause === "died") {
      this.letters.get(child).fill(".");
      for (const [number, one] of this.conns)
        if (one.child === child && one.pid === this.pids.get(child)) this.conns.delete(number);
      this.pids.delete(child);
    } else if (OF_A_THREAD.has(cause)) {
      this.letters.get(child)[thread] = after;
    }
    if (cause === "enabled" || cause === "disabled") this.open.set(child, cause === "enabled");
    const held = this.reserved.get(child) || 0;
    if (cause === "reserved") this.reserved.set(child, held + 1);
    if (cause === "released" || (cause === "pushed" && step.before === "ACCEPTED"))
      this.reserved.set(child, Math.max(0, held - 1));
    if (!conn) return;
    const one = this.conns.get(conn) || {};
    if (cause === "closed") {
      this.conns.delete(conn);
      return;
    }
    const place = { connected: "waiting", accepted: thread < 0 ? "listener" : "room", pushed: "queue",
      parked: "epoll", edge: one.place }[cause] || (thread < 0 ? "listener" : "room");
    // epoll may report a socket before the worker that parks it has said so: it is still in that worker's room.
    this.conns.set(conn, { state: after, child, pid, place, thread: cause === "edge" ? one.thread : thread });
  }

  parked(child) {
    const states = [...this.conns.values()].filter((one) => one.child === child).map((one) => one.state);
    const count = (...names) => states.filter((state) => names.includes(state)).length;
    return [states.length, count("WRITE_COMPLETION"), count("KEEPALIVE"), count("LINGER_NORMAL", "LINGER_SHORT")];
  }

  client(conn) { return this.clients[conn - 1]; }

  sentence(step) {
    const { child, thread, conn, before, after, cause } = step;
    const who = conn ? `Client ${this.client(conn)}` : "";
    const alone = this.mpm === "prefork";
    const worker = alone ? `process ${child}` : `thread ${thread} of process ${child}`;
    const listener = `the listener of process ${child}`;
    const by = thread < 0 ? listener : worker;
    const queued = before === "ACCEPTED" ? "the worker that was reserved" : "the next idle worker";
    return {
      connected: `${who} connects. Until a process accepts, the connection waits in the kernel's listen queue.`,
      accepted: alone ? `${who}: ${worker} accepts, and belongs to this client until the close.`
        : `${who}: ${by} accepts the connection.`,
      reserved: `${listener} reserves an idle worker; only then does it accept.`,
      released: `${listener} releases the reserved worker: there was nothing to accept.`,
      pushed: `${who}: ${listener} puts the connection into the queue, for ${queued}.`,
      popped: `${who}: ${worker} takes the connection out of the queue.`,
      reading: `${who}: ${worker} reads the request (R).`,
      handling: `${who}: the request has arrived; ${worker} makes and sends the response (W).`,
      logging: `${who}: the response is sent; ${worker} writes the log (L).`,
      waiting: `${who} is idle, and ${worker} waits for its next request (K): no other client can use it.`,
      closing: `${who}: ${worker} begins to close (C).`,
      parked: `${who}: parked. No thread has the connection; epoll waits for ${QUEUES[after]}.`,
      edge: `${who}: epoll reports its socket to ${listener}.`,
      claimed: `${who}: ${by} takes the connection out of the time-out queue.`,
      expired: `${who}: its time in the queue is over; ${by} takes it out.`,
      lingered: `${who}: ${by} has shut its side and waits for the client to close.`,
      closed: `${who}: ${by} closes the socket.`,
      enabled: `${listener} puts the listening sockets into its epoll.`,
      disabled: `${listener} takes the listening sockets out of its epoll: it accepts no more for now.`,
      idle: `${worker} is idle (_).`,
      starting: `${worker} starts (S).`,
      leaving: `${worker} finishes and takes no new client (G).`,
      ended: `${worker} has ended.`,
      born: `process ${child} is forked (pid ${step.pid}).`,
      died: `process ${child} is gone.`,
    }[cause].replace(/^./, (letter) => letter.toUpperCase());
  }
}

// ---- one run on its canvas

class Scene {
  constructor(run) {
    this.run = run;
    this.node = make("section", "tr-run");
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.counts = make("p", "tr-counts");
    this.say = make("p", "tr-say");
    this.code = make("p", "tr-code");
    this.node.append(make("h3", "", run.mpm), this.canvas, this.counts, this.say, this.code);
    this.layer = make("canvas");  // the houses; each is redrawn when part of it has changed
    this.drawn = new Map();
    this.looks = new Map();
    this.dots = new Map();  // number -> { x, y: where it is drawn; a, b: from; u, v: to; since }
    this.radius = run.clients.length <= 40 ? 9 : run.clients.length <= 120 ? 5.5 : 4;
  }

  // Where everything is, for a width in CSS pixels.
  layout(width) {
    const { run } = this;
    const alone = run.mpm === "prefork";
    const pad = 6, size = 2 * this.radius + 8, room = size + (this.radius > 8 ? 18 : 6);  // a letter, a dot
    const pair = (width - GAP) / 2, wide = alone ? room + 2 * pad : pair < 132 ? width : pair;
    const across = Math.max(1, Math.floor((width + GAP) / (wide + GAP)));
    const columns = alone ? 1 : Math.max(1, Math.floor((wide - 2 * pad) / (room + 4)));
    const rows = Math.ceil(run.threads / columns);
    const each = 2 * this.radius + 3;
    const high = (place, w) => 20 + each * Math.ceil((run.most[place] || 1) / Math.max(1, Math.floor((w - 6) / each)));
    const half = (wide - 3 * pad) / 2;
    const yard = run.mpm === "event" ? high("epoll", wide - 2 * pad) : 0;
    const part = Math.max(high("queue", half), high("listener", half));
    const tall = 16 + 18 + rows * (size + 4) + pad + (alone ? 0 : part + pad) + (yard ? yard + pad : 0);
    const queue = high("waiting", width) + 4;
    const houses = new Map(run.children.map((child, i) => {
      const x = (i % across) * (wide + GAP);
      const y = queue + 8 + Math.floor(i / across) * (tall + GAP);
      const top = y + 16 + 18;
      const rooms = Array.from({ length: run.threads }, (_, n) => ({
        x: x + pad + (n % columns) * (room + 4), y: top + Math.floor(n / columns) * (size + 4), w: room, h: size }));
      const below = top + rows * (size + 4) + pad - 4;
      return [child, { x, y, wide, tall, rooms,
        listener: { x: x + pad, y: below, w: half, h: part },
        queue: { x: x + 2 * pad + half, y: below, w: half, h: part },
        epoll: { x: x + pad, y: below + part + pad, w: wide - 2 * pad, h: yard } }];
    }));
    const bottom = queue + 8 + Math.ceil(run.children.length / across) * (tall + GAP);
    return { width, height: bottom, each, houses, waiting: { x: 0, y: 0, w: width, h: queue } };
  }

  // Give each dot its place; `ms` is how long the way there may take.
  settle(now, ms) {
    const { plan, run, radius } = this;
    const taken = new Map();
    const inside = (box, key, head) => {
      const n = taken.get(key) || 0;
      taken.set(key, n + 1);
      const fit = Math.max(1, Math.floor((box.w - 6) / plan.each));
      const y = box.y + head + radius + Math.floor(n / fit) * plan.each;
      return [box.x + 5 + radius + (n % fit) * plan.each, Math.min(y, box.y + box.h - radius - 1)];
    };
    for (const [number, one] of run.conns) {
      const house = plan.houses.get(one.child);
      let place;
      if (one.place === "waiting") place = inside(plan.waiting, "waiting", 18);
      else if (one.place === "room") {
        const { x, y, w, h } = house.rooms[one.thread];
        place = [x + w - radius - 4, y + h / 2];
      } else place = inside(house[one.place], `${one.place} ${one.child}`, 18);
      let dot = this.dots.get(number);
      if (!dot) this.dots.set(number, dot = { x: place[0], y: place[1] - (ms ? 14 : 0), a: place[0], b: place[1] - 14 });
      if (dot.u === place[0] && dot.v === place[1] && ms) continue;
      Object.assign(dot, { a: dot.x, b: dot.y, u: place[0], v: place[1], since: now, ms });
    }
    for (const number of this.dots.keys()) if (!run.conns.has(number)) this.dots.delete(number);
  }

  // Move the dots and draw. Returns whether one still moves.
  draw(now, c, followed) {
    const { plan, run, radius } = this;
    const ratio = window.devicePixelRatio || 1;
    this.houses(c, ratio);
    const g = this.canvas.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.canvas.width, this.canvas.height);
    g.drawImage(this.layer, 0, 0);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.textBaseline = "middle";
    g.textAlign = "center";
    g.font = `600 11px ${FONT}`;
    let moving = false;
    const half = radius + 2, at = (v) => Math.round((v - half) * ratio) / ratio;  // whole pixels: a plain copy
    for (const [number, dot] of this.dots) {
      const share = dot.ms ? Math.min(1, (now - dot.since) / dot.ms) : 1;
      const eased = 1 - (1 - share) ** 3;
      dot.x = dot.a + (dot.u - dot.a) * eased;
      dot.y = dot.b + (dot.v - dot.b) * eased;
      moving ||= share < 1;
      const client = run.client(number), mine = client === followed, look = this.look(c, ratio, mine);
      g.globalAlpha = followed && !mine ? 0.45 : 1;
      g.drawImage(look, at(dot.x), at(dot.y), look.width / ratio, look.height / ratio);
      if (radius > 8) {
        g.fillStyle = mine ? c.paper : c.ink;
        g.fillText(client, dot.x, dot.y + 0.5);
      }
    }
    g.globalAlpha = 1;
    return moving;
  }

  // A dot, drawn once: copying 200 of them costs less than 200 circles.
  look(c, ratio, mine) {
    const key = `${c.ink} ${c.paper} ${ratio} ${mine}`;
    if (!this.looks.has(key)) {
      const { radius } = this, look = make("canvas"), half = radius + 2;
      look.width = look.height = Math.ceil(2 * half * ratio);
      const g = look.getContext("2d");
      g.scale(ratio, ratio);
      g.arc(half, half, radius, 0, 7);
      Object.assign(g, { fillStyle: mine ? c.ink : c.paper, strokeStyle: c.ink, lineWidth: mine ? 2.5 : 1.5 });
      g.fill();
      g.stroke();
      this.looks.set(key, look);
    }
    return this.looks.get(key);
  }

  houses(c, ratio) {
    const { run, plan, canvas, layer, drawn } = this;
    const g = layer.getContext("2d");
    const sheet = `${canvas.width} ${canvas.height} ${c.paper}`;
    const box = (b, name) => {
      g.strokeStyle = c.line;
      g.setLineDash([3, 3]);
      g.strokeRect(b.x + 0.5, b.y + 0.5, b.w - 1, b.h - 1);
      g.setLineDash([]);
      g.fillStyle = c.quiet;
      g.textAlign = "left";
      g.fillText(name, b.x + 4, b.y + 9, b.w - 8);
    };
    if (drawn.get("sheet") !== sheet) {
      drawn.clear();
      drawn.set("sheet", sheet);
      Object.assign(layer, { width: canvas.width, height: canvas.height });
      g.setTransform(ratio, 0, 0, ratio, 0, 0);
      Object.assign(g, { font: `12px ${FONT}`, textBaseline: "middle", lineWidth: 1 });
      box(plan.waiting, "listen queue, in the kernel");
    }
    for (const [child, house] of plan.houses) {
      const now = [run.pids.has(child), run.open.get(child), run.reserved.get(child), ...run.letters.get(child)].join();
      if (drawn.get(child) === now) continue;
      drawn.set(child, now);
      g.clearRect(house.x, house.y, house.wide, house.tall);
      this.house(g, c, child, house, box);
    }
  }

  house(g, c, child, house, box) {
    const { run } = this;
    const { x, y, wide, tall } = house;
    const alive = run.pids.has(child);
    g.globalAlpha = alive ? 1 : 0.4;
    g.strokeStyle = c.mpm;
    g.lineWidth = 1.5;
    g.beginPath();
    g.moveTo(x + 1, y + 16);
    g.lineTo(x + wide / 2, y + 1);
    g.lineTo(x + wide - 1, y + 16);
    g.lineTo(x + wide - 1, y + tall - 1);
    g.lineTo(x + 1, y + tall - 1);
    g.closePath();
    g.stroke();
    g.fillStyle = c.quiet;
    g.textAlign = "center";
    g.fillText(run.mpm === "prefork" ? child : `process ${child}`, x + wide / 2, y + 24, wide - 6);
    house.rooms.forEach((room, n) => {
      const letter = run.letters.get(child)[n];
      g.fillStyle = c.letters[letter];
      g.fillRect(room.x, room.y, room.w, room.h);
      g.strokeStyle = c.line;
      g.strokeRect(room.x + 0.5, room.y + 0.5, room.w - 1, room.h - 1);
      g.fillStyle = inkOn(c.letters[letter]);
      if (this.radius > 8) g.fillText(letter, room.x + 10, room.y + room.h / 2 + 0.5);
    });
    if (run.mpm !== "prefork") {
      const held = run.reserved.get(child);
      box(house.listener, held ? `listener +${held}` : "listener");
      box(house.queue, "queue");
    }
    if (run.mpm === "event") {
      box(house.epoll, "epoll: parked");
      const lamp = run.open.get(child), right = house.epoll.x + house.epoll.w - 10;
      g.beginPath();
      g.arc(right, house.epoll.y + 9, 4, 0, 7);
      g.fillStyle = lamp ? c.mpm : c.paper;
      g.fill();
      g.strokeStyle = c.mpm;
      g.stroke();
      g.fillStyle = c.quiet;
      g.textAlign = "right";
      if (house.epoll.w > 150) g.fillText("accepts", right - 8, house.epoll.y + 9);
    }
    g.globalAlpha = 1;
  }

  // The words below the picture. `step` is the last one of what is followed.
  tell(step, now) {
    const { run } = this;
    const all = [...run.letters.values()].flat();
    const parts = ["_", ...BUSY].map((letter) => [letter, all.filter((one) => one === letter).length])
      .filter(([letter, count]) => count || letter === "_").map(([letter, count]) => `${letter} ${count}`);
    const places = [...run.conns.values()].map((one) => one.place);
    const count = (place) => places.filter((one) => one === place).length;
    parts.push(`listen queue ${count("waiting")}`);
    if (run.mpm === "event") parts.push(`parked ${count("epoll")}`);
    this.counts.textContent = parts.join(" · ");
    this.canvas.setAttribute("aria-label", `${run.mpm}: ${parts.join(", ")}`);
    this.say.classList.toggle("tr-now", now);
    if (this.saidStep === step && step) return;
    this.saidStep = step;
    this.say.textContent = step ? run.sentence(step) : "Nothing yet.";
    const [where, text] = step ? run.lines[step.line] : ["", ""];
    this.code.replaceChildren(make("b", "", where), ` ${text}`);
  }
}

// ---- the widget

export function mount(el, { runs, palette }) {
  const scenes = runs.map((run) => new Scene(new Run(run)));
  const merged = scenes.flatMap((scene) => scene.run.steps.map((step, i) => ({ scene, step, i: i + 1 })))
    .sort((a, b) => a.step.t - b.step.t || a.i - b.i);
  const first = Math.max(0, merged.findIndex(({ step }) => step.conn));
  const clients = [...new Set(scenes.flatMap((scene) => scene.run.clients))].sort((a, b) => a - b);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  let at = 0, followed = 0, playing = false, cursor = 0, owed = 0, last = 0, frame = 0, written = 0, late = false, colours;

  const root = make("div", "tr");
  root.style.setProperty("--tr-count", scenes.length);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Tracer of connections");
  root.tabIndex = 0;
  const bar = make("div", "tr-bar");
  const button = (text, title, act, name) => {
    const node = make("button", name, text);
    node.type = "button";
    node.title = title;
    node.setAttribute("aria-label", title);
    node.addEventListener("click", act);
    bar.append(node);
    return node;
  };
  const select = (title, options, act) => {
    const label = make("label", "", title), node = make("select");
    for (const [text, value] of options) node.append(new Option(text, value));
    node.setAttribute("aria-label", title);
    node.addEventListener("change", () => act(Number(node.value)));
    label.append(node);
    bar.append(label);
    return node;
  };
  button("◀", "Step back (left arrow)", () => step(-1));
  const play = button("Play", "Play or pause (space)", toggle, "tr-play");
  button("▶", "Step forward (right arrow)", () => step(1));
  const scrub = make("input");
  Object.assign(scrub, { type: "range", min: 0, max: merged.length, step: 1 });
  scrub.setAttribute("aria-label", "Step");
  scrub.addEventListener("input", () => { pause(); seek(Number(scrub.value)); });
  const clock = make("output");
  bar.append(scrub, clock);
  const pace = select("pace", PACES.map(([text], i) => [text, i]), () => { owed = 0; });
  pace.value = 1;
  const follow = select("follow", [["every step", 0], ...clients.map((n) => [`client ${n}`, n])], (client) => {
    followed = client;
    paint(true);
  });
  const row = make("div", "tr-runs");
  row.append(...scenes.map((scene) => scene.node));
  const legend = make("ul", "tr-legend");
  const keys = make("p", "tr-keys", "Keys: space plays, ← and → step, PageUp and PageDown by 20, Home and End. "
    + "Click a dot to follow its client.");
  root.append(bar, row, legend, keys);
  el.append(root);

  // -- colours of the page: whatever is behind the tracer decides

  function theme() {
    const style = getComputedStyle(root);
    let paper = style.getPropertyValue("--tr-paper").trim();
    for (let node = el; node && !getComputedStyle(root).getPropertyValue("--jp-layout-color1"); node = node.parentElement) {
      const behind = getComputedStyle(node).backgroundColor;
      if (!/^rgba\(.*, 0\)$|transparent/.test(behind)) { paper = behind; break; }
    }
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = paper;
    paper = probe.fillStyle.startsWith("#") ? probe.fillStyle : "#ffffff";
    const dark = inkOn(paper) === "#ffffff", tone = palette[dark ? "dark" : "light"];
    root.classList.toggle("tr-dark", dark);
    root.style.setProperty("--tr-paper", paper);
    const own = getComputedStyle(root);
    const of = (name) => own.getPropertyValue(`--tr-${name}`).trim();
    colours = { paper, ink: of("ink"), quiet: of("quiet"), line: of("line"), letters: tone.letters, mpms: tone.texts };
    for (const { node, run } of scenes) node.style.setProperty("--tr-mpm", tone.texts[run.mpm]);
    legend.replaceChildren(...["_", ...BUSY].map((letter) => {
      const item = make("li"), mark = make("i", "", letter), colour = tone.letters[letter];
      Object.assign(mark.style, { background: colour, color: inkOn(colour) });
      item.append(mark, palette.words[letter]);
      return item;
    }), make("li", "", "+1: a worker is reserved"), make("li", "", "lamp: the listening sockets are in epoll"));
  }

  function size() {
    for (const scene of scenes) {
      const width = Math.max(160, Math.floor(scene.node.clientWidth)), ratio = window.devicePixelRatio || 1;
      scene.plan = scene.plan?.width === width ? scene.plan : scene.layout(width);
      const { canvas } = scene, tall = scene.plan.height;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(tall * ratio)) {
        Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(tall * ratio) });
        Object.assign(canvas.style, { width: `${width}px`, height: `${tall}px` });  // not scaled: no blur
      }
    }
    // Next to each other, the words below the pictures begin at one height.
    const most = Math.max(...scenes.map((scene) => scene.plan.height));
    const sideBySide = getComputedStyle(row).gridTemplateColumns.split(" ").length > 1;
    for (const { canvas, plan } of scenes) canvas.style.marginBottom = `${sideBySide ? most - plan.height : 0}px`;
  }

  // -- time

  const chosen = ({ scene, step: one }) => !followed || (one.conn && scene.run.client(one.conn) === followed);

  function seek(count, ms = 0) {
    const to = Math.max(0, Math.min(merged.length, count));
    if (to < at) {
      const done = new Map(scenes.map((scene) => [scene, 0]));
      for (let i = 0; i < to; i++) done.set(merged[i].scene, merged[i].i);
      for (const [scene, until] of done) scene.run.to(until);
    } else for (; at < to; at++) merged[at].scene.run.to(merged[at].i);
    at = to;
    cursor = at ? merged[at - 1].step.t : 0;
    paint(true, ms);
  }

  function next(way, from = at) {
    let i = from;
    if (way > 0) {
      while (i < merged.length && !chosen(merged[i])) i++;
      return Math.min(merged.length, i + 1);
    }
    for (i = from - 2; i >= 0 && !chosen(merged[i]);) i--;
    return i + 1;
  }

  function step(way) {
    pause();
    seek(next(way), still.matches ? 0 : MOVE);
  }

  function pause() {
    const played = playing;
    playing = false;
    play.textContent = "Play";
    for (const { say } of scenes) say.setAttribute("aria-live", "polite");  // while it plays, too many
    if (played) write();  // the words of the last step
  }

  function toggle() {
    if (playing) return pause();
    if (at >= merged.length) seek(first);
    playing = true;
    owed = 1;
    play.textContent = "Pause";
    for (const { say } of scenes) say.setAttribute("aria-live", "off");
    last = performance.now();
    request();
  }

  // What playing has reached by now.
  function advance(now) {
    const [, speed, kind] = PACES[pace.value];
    const passed = Math.min(100, now - last);
    let to = at;
    if (kind === "time") {
      cursor += passed * 1000 * speed;
      while (to < merged.length && merged[to].step.t <= cursor) to++;
      if (to !== at) {
        const kept = cursor;
        seek(to, still.matches ? 0 : 120);
        cursor = kept;
      } else clock.textContent = time(cursor);
    } else {
      for (owed += passed * speed / 1000; owed >= 1 && to < merged.length; owed--) to = next(1, to);
      if (to !== at) seek(to, still.matches ? 0 : Math.min(MOVE, 900 / speed));
    }
    if (at >= merged.length) pause();
  }

  // -- pictures

  const time = (us) => `${(us / 1e6).toFixed(4)} s · step ${at} of ${merged.length}`;

  function paint(words, ms = 0) {
    const now = performance.now();
    for (const scene of scenes) scene.settle(now, ms);
    if (words) write();
    request();
  }

  function write() {
    const now = performance.now();
    late = playing && now - written < READ;
    if (late) return;
    written = now;
    const newest = merged[at - 1];
    for (const scene of scenes) {
      let i = scene.run.done - 1;
      while (i >= 0 && !chosen({ scene, step: scene.run.steps[i] })) i--;
      scene.tell(scene.run.steps[i], newest?.scene === scene && newest.i === i + 1);
    }
    scrub.value = at;
    clock.textContent = time(cursor);
  }

  function request() { frame ||= requestAnimationFrame(tick); }

  function tick(now) {
    frame = 0;
    if (playing) advance(now);
    if (late) write();
    last = now;
    let moving = false;
    for (const scene of scenes)
      moving = scene.draw(performance.now(), { ...colours, mpm: colours.mpms[scene.run.mpm] }, followed) || moving;
    if (playing || moving) request();
  }

  // -- what the reader does

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /SELECT/.test(event.target.tagName)) return;
    const slider = event.target === scrub;
    const act = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), " ": toggle, Home: () => seek(0),
      End: () => seek(merged.length), PageDown: () => seek(at + JUMP), PageUp: () => seek(at - JUMP) }[event.key];
    if (!act || (event.key === " " && event.target.tagName === "BUTTON")) return;
    if (slider && event.key === " ") pause();
    event.preventDefault();
    event.stopPropagation();
    act();
  });
  // JupyterLab takes no key from here as a shortcut of its own (d d would delete the cell).
  const keep = (event) => {
    if (root.contains(event.target))
      event.target.toggleAttribute("data-lm-suppress-shortcuts", !event.ctrlKey && !event.metaKey);
  };
  window.addEventListener("keydown", keep, true);
  for (const scene of scenes)
    scene.canvas.addEventListener("click", (event) => {
      const near = [...scene.dots].map(([number, dot]) =>
        [Math.hypot(dot.x - event.offsetX, dot.y - event.offsetY), scene.run.client(number)]).sort((a, b) => a[0] - b[0]);
      const [distance, client] = near[0] || [Infinity];
      followed = distance < scene.radius + 6 && client !== followed ? client : 0;
      follow.value = followed;
      paint(true);
    });

  const redraw = () => { theme(); size(); paint(true); };
  const resize = new ResizeObserver(() => { size(); paint(false); });
  resize.observe(root);
  const themes = new MutationObserver(redraw);
  for (const node of [document.documentElement, document.body])
    themes.observe(node, { attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-light"] });
  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);
  theme();
  size();
  seek(first);

  // For pages around it, and for tests: go to a step, and what each run shows there.
  root.tracer = { steps: merged.length, seek, shown: () => scenes.map(({ run }) => ({
    mpm: run.mpm, done: run.done,
    letters: Object.fromEntries([...run.letters].map(([child, row]) => [child, row.join("")])),
    parked: Object.fromEntries(run.children.map((child) => [child, run.parked(child)])) })) };

  return () => {
    cancelAnimationFrame(frame);
    resize.disconnect();
    themes.disconnect();
    scheme.removeEventListener("change", redraw);
    window.removeEventListener("keydown", keep, true);
    root.remove();
  };
}

function render({ model, el }) {
  return mount(el, { runs: model.get("runs"), palette: model.get("palette") });
}

export default { render };
