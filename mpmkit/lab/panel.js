// The scoreboard and its history in the browser, on two canvases; the form around them is ipywidgets'.
//
// Python sends `frame` (a sample and the letters) and `status`; this file paints. A scoreboard of 400
// slots is 400 rectangles, not 400 elements. The room is reported to Python as long as it is shown.

const WINDOW = 60;        // seconds of history shown
const GUTTER = 192;       // pixels for the names on the left of scoreboard and strips
const NARROW = 62;        // the same where only a slot's number has room
const STRIP = 58;         // height of one strip: readable at the back of a room
const HERE = 5000;        // ms between two reports
const FORM = ".mk-head, .mk-load, .mk-side";
const SILENT = 10000;     // ms without a frame of a running server, after which that is shown
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
// One word for each letter; the whole sentence (states.WORDS) is the title.
const SHORT = { _: "idle", R: "reading", W: "writing", K: "keep-alive", C: "closing", L: "logging",
  S: "starting", G: "finishing" };
const ENDED = "The kernel of this control room has ended, and with it its server and its load. Run this "
  + "cell again for a new control room.";
const NO_WORD = "The kernel sends nothing any more. If it was shut down, its server has ended with it: "
  + "start it, and run this cell again.";

const STRIPS = [
  { name: "requests/s", digits: 0, lines: [
    { key: "qps", label: "served", role: "mpm" },
    { key: "load_qps", label: "load got", role: "ink", dash: [4, 3] },
    { key: "load_failed", label: "failed", role: "warn", hush: true }] },
  { name: "load latency, ms", log: true, digits: 1, lines: [
    { key: "load_p50_ms", label: "p50", role: "mpm" },
    { key: "load_p95_ms", label: "p95", role: "ink", dash: [4, 3] },
    { key: "load_p99_ms", label: "p99", role: "warn" }] },
  { name: "new client, ms", log: true, digits: 1, lines: [
    { key: "wait_p50_ms", label: "p50", role: "warn", dash: [4, 3] },
    { key: "wait_ms", label: "p99", role: "warn" },
    { key: "service_ms", label: "in the server", role: "mpm", dash: [4, 3] }] },
  { name: "processes, threads", digits: 0, lines: [
    { key: "threads", label: "threads", role: "mpm" },
    { key: "busy", label: "busy", role: "W" },
    { key: "processes", label: "processes", role: "ink", dash: [4, 3] }] },
  { name: "connections", digits: 0, stack: true, lines: [
    { key: "reading", label: "R", role: "R" },
    { key: "writing", label: "W", role: "W" },
    { key: "held", label: "K", role: "K" },
    { key: "without_thread", label: "no thread", role: "parked" },
    { key: "closing", label: "C", role: "C" }] },
  { name: "listen queue", digits: 0, lines: [{ key: "waiting", label: "waiting", role: "warn" }] },
  { name: "memory, MB", digits: 1, lines: [{ key: "pss_mb", label: "PSS, all", role: "mpm" }] },
];

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Plain keys belong to the focused control, and JupyterLab takes none of them as a shortcut (d d would
// delete the cell). Keys with Ctrl or Cmd pass. Lab looks for this mark on the focused element first.
function keepKeys(event) {
  if (!event.target.closest?.(".mk-room")) return;
  const plain = !event.ctrlKey && !event.metaKey;
  event.target.toggleAttribute("data-lm-suppress-shortcuts", plain);
}

function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt((colour || "#ffffff").slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b < 140 ? "#ffffff" : "#111111";
}

function render({ model, el }) {
  const view = Math.random().toString(36).slice(2);
  const say = (what) => model.send({ do: what });
  const status = () => model.get("status");
  let history = [];
  let events = [];

  const board = make("canvas", "mk-board");
  const legend = make("div", "mk-legend");
  const strips = make("canvas", "mk-strips");
  const ended = make("div", "mk-ended");
  ended.setAttribute("role", "alert");
  board.setAttribute("role", "img");
  strips.setAttribute("role", "img");
  el.append(ended, board, legend, strips, make("div", "mk-caveat", model.get("palette").caveat));

  // ---- colours of the page we are on

  function colours() {
    const style = getComputedStyle(el);
    const paper = style.getPropertyValue("--mk-paper").trim() || "#ffffff";
    const probe = document.createElement("canvas").getContext("2d");
    probe.fillStyle = paper;
    const hex = probe.fillStyle.startsWith("#") ? probe.fillStyle : "#ffffff";
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const name = 0.3 * r + 0.59 * g + 0.11 * b < 128 ? "dark" : "light";
    const { letters, mpms } = model.get("palette")[name];
    const grey = name === "dark" ? "#9aa4b1" : "#5c6670";
    return {
      name, paper, grey, letters, mpms,
      ink: name === "dark" ? "#e8e8e8" : "#222222",
      faint: name === "dark" ? "#343a43" : "#e4e7ea",
      slot: name === "dark" ? "#565f6b" : "#d3d8dd",
      warn: name === "dark" ? "#ff8a5c" : "#c2410c",
      parked: name === "dark" ? "#7d6a35" : "#f3d9a0",
    };
  }

  const of = (role, c, mpm) => (role === "mpm" ? c.mpms[mpm] : c[role] || c.letters[role]);

  function canvas(node, width, height) {
    const ratio = window.devicePixelRatio || 1;
    if (node.width !== Math.round(width * ratio) || node.height !== Math.round(height * ratio)) {
      node.width = Math.round(width * ratio);
      node.height = Math.round(height * ratio);
      node.style.width = `${width}px`;
      node.style.height = `${height}px`;
    }
    const g = node.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = FONT;
    g.textBaseline = "middle";
    return g;
  }

  // ---- the scoreboard

  function paintBoard(frame, c) {
    const width = el.clientWidth;
    if (!frame.rows) {
      const g = canvas(board, width, 76);
      g.fillStyle = c.grey;
      g.fillText("No server runs. Choose an MPM, set what you like, press Start.", 8, 38);
      board.setAttribute("aria-label", "scoreboard: no server runs");
      board.dataset.letters = "";
      legend.replaceChildren();
      return;
    }
    const one = frame.threads === 1;
    const bySlot = new Map(frame.rows.map((row) => [row[0], row]));
    const all = frame.rows.map((row) => row[5]).join("");
    board.dataset.letters = all;
    const room = width - GUTTER - 8;
    let g;
    if (one) {
      // prefork: a process is one cell, so cells flow like the lines of mod_status
      const slots = Math.max(frame.slots, ...frame.rows.map((row) => row[0] + 1));
      let size = 22;
      while (size > 7 && Math.ceil(slots / Math.floor(room / size)) * size > 136) size -= 1;
      const per = Math.floor(room / size);
      const lines = Math.ceil(slots / per);
      g = canvas(board, width, Math.max(lines * size + 6, 62));
      title(g, c, frame, `${frame.rows.length} of ${frame.slots} processes`, "a cell is a process");
      for (let slot = 0; slot < slots; slot += 1) {
        const row = bySlot.get(slot);
        cell(g, c, GUTTER + (slot % per) * size, 3 + Math.floor(slot / per) * size, size,
          row ? row[5][0] : ".", row && row[2] !== frame.generation);
      }
    } else {
      // worker, event: a row is a process, a cell is one of its threads
      const last = Math.max(frame.slots, ...frame.rows.map((row) => row[0] + 1));
      // Side by side, all leave the room that event's parked connections need: rows stay level.
      const tail = frame.mpm === "event" || status().linked ? 64 : 0;
      // One column of rows with their pids if its cells are large enough, or what has the largest.
      let columns = 1, size = 0, gutter = GUTTER;
      for (const [n, names] of [[1, GUTTER], ...[1, 2, 3, 4, 5, 6].map((many) => [many, NARROW])]) {
        const wide = (Math.floor((width - 8) / n) - names - tail - 8) / frame.threads;
        const fits = Math.floor(Math.min(18, wide, 216 / Math.ceil(last / n) - 1));
        if (fits > size && size < 10) [columns, size, gutter] = [n, fits, names];
      }
      size = Math.max(size, 3);
      const high = Math.max(size + 1, 12);
      const per = Math.ceil(last / columns);
      const each = Math.floor((width - 8) / columns);
      g = canvas(board, width, Math.max(per * high + 6, 40));
      for (let slot = 0; slot < last; slot += 1) {
        const row = bySlot.get(slot);
        const x = Math.floor(slot / per) * each;
        const y = 3 + (slot % per) * high;
        const middle = y + high / 2;
        g.fillStyle = row ? c.ink : c.grey;
        const note = !row ? "" : row[3] ? " leaving" : row[4] ? " full" : "";
        const pid = row && gutter === GUTTER ? `  pid ${row[1]}` : "";
        g.globalAlpha = row ? 1 : 0.6;
        g.fillText(`${slot}${pid}${note}`, x + 8, middle);
        g.globalAlpha = 1;
        for (let thread = 0; thread < frame.threads; thread += 1) {
          cell(g, c, x + gutter + thread * size, y + (high - size) / 2, size,
            row ? row[5][thread] || "." : ".", row && row[2] !== frame.generation);
        }
        if (row && row[6]) {
          const from = x + gutter + frame.threads * size + 8;
          g.fillStyle = c.parked;
          const long = Math.min(30, 3 + row[6] / 4);
          g.fillRect(from, middle - 4, long, 8);
          g.fillStyle = c.ink;
          g.fillText(`+${row[6]}`, from + long + 4, middle);
        }
      }
    }
    const counts = {};
    for (const letter of all) counts[letter] = (counts[letter] || 0) + 1;
    const words = model.get("palette").words;
    board.setAttribute("aria-label", `scoreboard of ${frame.mpm}: ${frame.rows.length} processes; `
      + Object.entries(counts).map(([l, n]) => `${n} ${words[l]}`).join(", "));
    legend.replaceChildren(...[..."_RWKCLSG"]
      .filter((letter) => "_RWKC".includes(letter) || counts[letter]).map((letter) => {
        const item = make("span", "mk-key");
        item.title = words[letter];
        const swatch = make("i", "", letter);
        swatch.style.background = c.letters[letter];
        swatch.style.color = inkOn(c.letters[letter]);
        item.append(swatch, document.createTextNode(
          `${counts[letter] || 0} ${SHORT[letter]}`));
        return item;
      }));
    if (frame.mpm === "event") {
      const item = make("span", "mk-key");
      const swatch = make("i", "", "+");
      swatch.style.background = c.parked;
      swatch.style.color = inkOn(c.parked);
      item.append(swatch, document.createTextNode(
        `${frame.rows.reduce((sum, row) => sum + row[6], 0)} parked, no thread`));
      legend.append(item);
    }
  }

  function title(g, c, frame, first, second) {
    g.fillStyle = c.ink;
    g.fillText(first, 8, 16);
    g.fillStyle = c.grey;
    g.fillText(second, 8, 34);
    g.fillText(`generation ${frame.generation}`, 8, 52);
  }

  function cell(g, c, x, y, size, letter, old) {
    const side = size - (size > 5 ? 2 : 1);
    if (letter === ".") {
      g.strokeStyle = c.slot;
      g.lineWidth = 1;
      g.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
      return;
    }
    g.fillStyle = c.letters[letter] || c.grey;
    g.fillRect(x, y, side, side);
    if (old) {  // a generation that leaves
      g.strokeStyle = c.ink;
      g.lineWidth = 1.5;
      g.strokeRect(x + 0.75, y + 0.75, side - 1.5, side - 1.5);
    }
    if (side >= 9 && letter !== "_") {
      g.fillStyle = inkOn(c.letters[letter]);
      g.font = `bold ${Math.min(11, side - 1)}px ui-monospace, monospace`;
      g.textAlign = "center";
      g.fillText(letter, x + side / 2, y + side / 2 + 0.5);
      g.textAlign = "left";
      g.font = FONT;
    }
  }

  // ---- the history: strips over one time axis

  function paintStrips(frame, c) {
    const width = el.clientWidth;
    const height = STRIPS.length * STRIP + 20;
    const g = canvas(strips, width, height);
    if (!history.length) {
      strips.setAttribute("aria-label", "history: empty");
      strips.style.display = "none";
      return;
    }
    strips.style.display = "";
    const last = history[history.length - 1];
    // Rooms side by side: one time axis from the first start on, and one scale for each strip.
    const { shift, now, highs } = together(last.t);
    // A young history fills the width; later the last minute does.
    const span = Math.min(WINDOW, Math.max(20, now));
    const end = Math.max(now, span) - shift, begin = end - span;
    const left = GUTTER, right = width - 8;
    const at = (t) => left + ((t - begin) / span) * (right - left);
    const seen = history.filter((f) => f.t >= begin - 2);
    const mine = {};
    const spoken = [];

    for (const event of events) {  // behind the lines
      if (event[0] < begin || event[0] > end) continue;
      const bad = event[1] === "log" && /reached|full|no slot|exit|crash|signal/i.test(event[2]);
      g.strokeStyle = bad ? c.warn : event[1] === "note" ? c.grey : c.faint;
      g.setLineDash(event[1] === "note" || bad ? [2, 2] : []);
      g.beginPath();
      g.moveTo(at(event[0]), 4);
      g.lineTo(at(event[0]), height - 20);
      g.stroke();
    }
    g.setLineDash([]);

    STRIPS.forEach((strip, index) => {
      const top = index * STRIP + 6, bottom = (index + 1) * STRIP - 4;
      const lines = strip.lines.filter((line) => seen.some((f) => (
        line.hush ? value(f, line) : value(f, line) !== null)));
      let most = 0;
      for (const f of seen) {
        const values = lines.map((line) => value(f, line) ?? 0);
        most = Math.max(most, strip.stack ? values.reduce((a, b) => a + b, 0) : Math.max(0, ...values));
      }
      mine[strip.name] = most;
      most = Math.max(most, highs[strip.name] || 0);
      const high = strip.log ? Math.max(10, 10 ** Math.ceil(Math.log10(Math.max(most, 1)))) : nice(most);
      const y = (v) => (strip.log
        ? bottom - (Math.log10(Math.max(v, 0.1)) + 1) / (Math.log10(high) + 1) * (bottom - top)
        : bottom - (v / high) * (bottom - top));

      g.strokeStyle = c.faint;
      g.lineWidth = 1;
      g.beginPath();
      g.moveTo(left, bottom + 0.5);
      g.lineTo(right, bottom + 0.5);
      g.stroke();
      g.textAlign = "right";
      g.fillStyle = c.grey;
      g.font = FONT.replace("12px", "11px");
      g.fillText(high < 10_000 ? high.toLocaleString("en") : `${high / 1000}k`, left - 4, top + 3);
      g.fillText(strip.log ? "0.1" : "0", left - 4, bottom - 3);
      g.textAlign = "left";
      g.font = FONT;

      if (strip.stack) {
        let base = seen.map(() => 0);
        for (const line of lines) {
          const next = seen.map((f, i) => base[i] + (value(f, line) ?? 0));
          g.fillStyle = of(line.role, c, frame.mpm);
          g.beginPath();
          seen.forEach((f, i) => g.lineTo(at(f.t), y(next[i])));
          for (let i = seen.length - 1; i >= 0; i -= 1) g.lineTo(at(seen[i].t), y(base[i]));
          g.fill();
          base = next;
        }
      } else {
        for (const line of lines) {
          g.strokeStyle = of(line.role, c, frame.mpm);
          g.lineWidth = 2;
          g.lineJoin = "round";
          g.setLineDash(line.dash || []);
          g.beginPath();
          let pen = false;
          for (const f of seen) {
            const v = value(f, line);
            if (v === null) { pen = false; continue; }
            if (pen) g.lineTo(at(f.t), y(v)); else g.moveTo(at(f.t), y(v));
            pen = true;
          }
          g.stroke();
        }
        g.setLineDash([]);
      }

      // names and newest values: the labels of the lines
      g.fillStyle = c.ink;
      g.font = `600 ${FONT}`;
      g.fillText(strip.name + (strip.log ? " (log)" : ""), 8, top + 4);
      g.font = FONT;
      let x = 8, row = top + 20;
      for (const line of strip.lines) {
        const v = value(last, line);
        if ((v === null || line.hush) && !lines.includes(line)) continue;
        const number = v === null ? "–" : v.toLocaleString("en", {
          maximumFractionDigits: v >= 100 ? 0 : v < 1 && strip.digits ? 2 : strip.digits });
        const text = strip.stack ? `${line.label} ${number}` : `${number} ${line.label}`;
        if (x > 8 && x + 17 + g.measureText(text).width > left - (row > top + 22 ? 20 : 4)) {
          x = 8;
          row += 15;
        }
        swatch(g, of(line.role, c, frame.mpm), x, row, strip.stack ? null : line.dash || []);
        g.fillStyle = c.ink;
        g.fillText(text, x + 17, row);
        x += g.measureText(text).width + 23;
        spoken.push(`${strip.name}: ${text}`);
      }
      g.font = FONT;
    });
    strips.setAttribute("aria-label", `the last ${span.toFixed(0)} seconds; now ${spoken.join(", ")}`);
    tellOthers(last.t, mine);
    strips.dataset.axis = `${(begin + shift).toFixed(1)} ${(end + shift).toFixed(1)}`;
    strips.dataset.highs = JSON.stringify({ ...mine, ...Object.fromEntries(Object.entries(highs)
      .map(([name, most]) => [name, Math.max(most, mine[name] ?? 0)])) });
    strips.dataset.p99 = last.load_p99_ms ?? "";
    strips.dataset.qps = last.qps ?? "";
    strips.dataset.points = history.length;
    g.fillStyle = c.grey;
    g.font = FONT.replace("12px", "11px");
    for (let t = Math.ceil((begin + shift) / 10) * 10; t <= end + shift; t += span > 30 ? 10 : 5) {
      g.textAlign = t >= end + shift - 1 ? "right" : "center";
      g.fillText(`${t} s`, at(t - shift), height - 9);
    }
    g.textAlign = "left";
  }

  // What the rooms of one call know of each other, on this page: when their servers began (the
  // kernel's clock), how far they are, and the largest value of each strip.
  function others() {
    const all = globalThis.mpmkitRooms ??= new Map();
    const link = status().link;
    if (!all.has(link)) all.set(link, new Map());
    return all.get(link);
  }

  function tellOthers(t, highs) {
    others().set(view, { running: status().running, began: status().began, t, highs });
  }

  function together(t) {
    const s = status();
    const rest = [...others()].filter(([name, room]) => name !== view && room.running && s.running)
      .map(([, room]) => room);
    const origin = Math.min(s.began, ...rest.map((room) => room.began));
    const highs = {};
    for (const room of rest) {
      for (const [name, most] of Object.entries(room.highs)) {
        highs[name] = Math.max(highs[name] || 0, most);
      }
    }
    return { shift: s.began - origin, highs,
      now: Math.max(t + s.began - origin, ...rest.map((room) => room.t + room.began - origin)) };
  }

  function value(f, line) {
    if (line.key === "without_thread") return keptParked(f);
    if (line.key === "held") return Math.max(0, f.parked - keptParked(f));
    return f[line.key] ?? null;
  }
  // Of the kept-alive connections, those without a thread: all of event's.
  const keptParked = (f) => Math.min(f.without_thread, f.parked);

  // A piece of the line, dashed as it is; of a stack, a square.
  function swatch(g, colour, x, y, dash) {
    g.fillStyle = g.strokeStyle = colour;
    if (!dash) {
      g.fillRect(x + 4, y - 4, 8, 8);
      return;
    }
    g.lineWidth = 2.5;
    g.setLineDash(dash);
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(x + 14, y);
    g.stroke();
    g.setLineDash([]);
  }

  function nice(most) {
    if (most <= 1) return 1;
    const power = 10 ** Math.floor(Math.log10(most));
    return [1, 2, 2.5, 5, 10].map((f) => f * power).find((f) => f >= most);
  }


  // ---- what Python sends

  function paint() {
    const c = colours();
    const s = status();
    const room = el.closest(".mk");
    const chosen = c.mpms[s.mpm];
    room?.style.setProperty("--mk-chosen", chosen);
    room?.style.setProperty("--mk-on", inkOn(chosen));
    room?.style.setProperty("--mk-accent", c.mpms[s.running_mpm || s.mpm]);
    paintBoard(s.running ? model.get("frame") : {}, c);
    paintStrips(model.get("frame"), c);
  }

  let heard = 0;
  let framed = Date.now();
  function here() {
    if (Date.now() - heard > HERE / 2) {
      heard = Date.now();
      say("here");
    }
  }

  function onFrame() {
    const frame = model.get("frame");
    framed = Date.now();
    gone("");
    if (frame.figures) {
      if (history.length && frame.figures.t < history[history.length - 1].t) history = [];
      history.push(frame.figures);
      history = history.slice(-400);
      events = frame.events || events;
      here();
    }
    paint();
  }
  function onCustom(message) {
    if (!message.history) return;
    ({ history, events } = message);
    paint();
  }
  function onKernel() {  // a restarted kernel knows nothing of this room
    setTimeout(() => {
      if (!el.closest(".jupyter-widgets-disconnected")) return;
      gone(ENDED);
      for (const part of el.closest(".mk")?.querySelectorAll(FORM) || []) part.inert = true;
    }, 50);
  }
  function gone(text) {
    if (ended.textContent !== ENDED) ended.textContent = text;
    el.closest(".mk")?.classList.toggle("mk-gone", Boolean(ended.textContent));
  }
  function tick() {
    here();
    gone(status().running && Date.now() - framed > SILENT ? NO_WORD : "");
  }
  const heeded = { "change:frame": onFrame, "change:status": paint, "msg:custom": onCustom,
    comm_live_update: onKernel };
  for (const [event, act] of Object.entries(heeded)) model.on(event, act);
  const timer = setInterval(tick, HERE);
  const resize = new ResizeObserver(() => paint());
  resize.observe(el);
  const themes = new MutationObserver(paint);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "class"] });
  window.addEventListener("keydown", keepKeys, true);  // before Lab's listener, which is the document's

  paint();
  say("hello");

  return () => {
    others().delete(view);
    clearInterval(timer);
    resize.disconnect();
    themes.disconnect();
    window.removeEventListener("keydown", keepKeys, true);
    for (const [event, act] of Object.entries(heeded)) model.off(event, act);
  };
}

export default { render };
