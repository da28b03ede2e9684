// The tile with its tools, and beside it what each model says: probabilities, and a table of maps
// with a row for each method; `shown` is all there is to see. Python puts keys.js, redraw.js and
// shared.js before this file.

const SIDE = 64; // pixels of a tile
const DRAWN = 192; // pixels of a drawn map
const ICONS = {
  blur: "M12 3c4 5 6 8 6 11a6 6 0 0 1-12 0c0-3 2-6 6-11z",
  mean: "M4 4h16v16H4z",
  texture: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  linear: "M4 8c3-4 5 4 8 0s5 4 8 0M4 16c3-4 5 4 8 0s5 4 8 0",
  swap: "M4 8h13l-4-4M20 16H7l4 4",
  erase: "M4 16 13 7l6 6-6 6H7zM13 19h7",
  undo: "M9 5 4 10l5 5M4 10h10a5 5 0 0 1 0 10h-3",
  redo: "M15 5l5 5-5 5M20 10H10a5 5 0 0 0 0 10h3",
  clean: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  take: "M12 3v10M8 9l4 4 4-4M4 15v5h16v-5",
  before: "M12 4v16M4 6h5v12H4zM15 6h5v12h-5z",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
};
const TOOLS = [ // name, words, key
  ["blur", "blur", "b"],
  ["mean", "mean colour", "m"],
  ["texture", "texture", "t"],
  ["linear", "blend + noise", "n"],
  ["swap", "other tile", "s"],
  ["erase", "give back", "e"],
];
const ACTS = [
  ["undo", "undo", "z"],
  ["redo", "redo", "y"],
  ["clean", "clean tile", "x"],
  ["take", "take from it", "p"],
  ["before", "compare", "c"],
  ["previous", "previous", "j"],
  ["next", "next", "k"],
];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  path.setAttribute("fill", "none");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "2");
  svg.append(path);
  return svg;
}

function tileData(base64) {
  const rgb = bytesOf(base64);
  const image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i += 1) {
    image.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  }
  return image;
}

function tileCanvas(image, className) {
  const canvas = make("canvas", className);
  canvas.width = canvas.height = SIDE;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// As `plots.describe_probability`: never 100 % for what only comes near.
const inPercent = (share) => (share >= 0.9995 ? ">99.9 %" : `${(100 * share).toFixed(1)} %`);

function bars(answer, classes, colours) {
  const order = answer.probabilities.map((_, i) => i);
  order.sort((a, b) => answer.probabilities[b] - answer.probabilities[a]);
  const list = make("ol", "lulc-bars");
  for (const i of order.slice(0, 4)) {
    const share = answer.probabilities[i];
    const row = make("li");
    row.append(make("span", "lulc-bar-name", classes[i].replace(/(?<=[a-z])(?=[A-Z])/g, "\u200b")));
    const track = make("span", "lulc-bar-track");
    const bar = make("span", "lulc-bar");
    bar.style.width = `${100 * share}%`;
    bar.style.background = colours[i];
    track.append(bar);
    if (answer.before) {
      const mark = make("span", "lulc-bar-before");
      mark.style.left = `${100 * answer.before[i]}%`;
      mark.title = `before painting ${inPercent(answer.before[i])}`;
      track.append(mark);
    }
    row.append(track, make("span", "lulc-bar-value", inPercent(share)));
    list.append(row);
  }
  return list;
}

function heading(answer) {
  const head = make("h4");
  const sign = { right: "✓ ", wrong: "✗ " }[answer.verdict] ?? "";
  head.append(make("span", "", answer.name), " ");
  head.append(make("span", `lulc-${answer.verdict}`, sign + answer.words.replaceAll(" %", "\u00a0%")));
  return head;
}

function mapStack(map, grey, shown) {
  const stack = make("div", "lulc-stack lulc-spot");
  const over = make("canvas", "lulc-over");
  over.width = over.height = DRAWN;
  over.style.opacity = shown.opacity;
  over.setAttribute("role", "img");
  over.setAttribute("aria-label", map.alt);
  const table = bytesOf(shown.tables[map.signed ? "diverging" : "sequential"]);
  drawMap(over, { ...map, grid: new Int8Array(bytesOf(map.values).buffer), table }, false);
  const under = tileCanvas(grey, "lulc-under");
  under.setAttribute("aria-hidden", "true");
  stack.append(under, over);
  return stack;
}

// What stands below a map. `named` says by which method it was drawn.
function mapWords(map, shown, named) {
  const words = [`${named ? `${map.method}, ` : ""}map for ${map.target}`];
  if (map.clipped) words.push("the strongest values lie beyond the scale");
  if (shown.scale === "shared" && !map.shared) {
    words.push("its own range until the shared scale is made");
  }
  return words.join(" · ");
}

// The details of the maps of a model by a method; with two, each is told of by its side's name.
// What is in `unfolded`, a set of keys, is open from the start.
function mapDetails(maps, sides, key, unfolded) {
  const more = make("details");
  const parts = [];
  const warned = new Map(); // text -> the sides that it is about
  maps.forEach((map, at) => {
    if (!map.values) return;
    const side = sides.length > 1 ? `${sides[at]}: ` : "";
    const words = make("div", "", side + map.words.join(" · "));
    words.title = map.layer;
    parts.push(words);
    for (const text of map.warnings) warned.set(text, [...(warned.get(text) ?? []), sides[at]]);
  });
  for (const [text, about] of warned) {
    const side = about.length < sides.length ? `${about[0]}: ` : "";
    parts.push(make("p", "lulc-warning", `⚠ ${side}${text}`));
  }
  const count = warned.size;
  const warnings = `, ${count} warning${count > 1 ? "s" : ""} ⚠`;
  const summary = make("summary", "", `details${count ? warnings : ""}`);
  summary.dataset.key = key;
  more.append(summary, ...parts);
  more.open = unfolded.has(key);
  return more;
}

// One cell of the table: the map of a model by a method, and beside it that of the other tile.
function mapFigure(maps, greys, shown, named, key, unfolded) {
  const figure = make("figure", "lulc-map");
  const pair = make("div", "lulc-pair");
  maps.forEach((map, at) => {
    if (map.problem) pair.append(make("p", "lulc-problem", map.problem));
    else if (map.waiting) pair.append(make("p", "lulc-waiting", `${map.waiting}: to be computed …`));
    else pair.append(mapStack(map, greys[at], shown));
  });
  figure.append(pair);
  const sides = shown.beside ? ["this tile", shown.beside.name] : ["this tile"];
  if (shown.beside) {
    const row = make("div", "lulc-sides");
    maps.forEach((map, at) => {
      const side = make("span");
      side.append(make("span", "", sides[at]));
      if (map.values) side.append(make("br"), mapWords(map, shown, named));
      row.append(side);
    });
    figure.append(row);
  }
  if (!maps.some((map) => map.values)) return figure;
  const caption = make("figcaption");
  if (!shown.beside) caption.append(mapWords(maps[0], shown, named));
  caption.append(mapDetails(maps, sides, key, unfolded));
  figure.append(caption);
  return figure;
}

// The colours of a map and what their ends stand for, after the model's name where one is given.
function legend(map, shown, name) {
  const table = bytesOf(shown.tables[map.signed ? "diverging" : "sequential"]);
  const scale = make("span", "lulc-scale");
  const bar = make("canvas", "lulc-scale-bar");
  bar.width = 256;
  bar.height = 1;
  const strip = new ImageData(256, 1);
  for (let i = 0; i < 256; i += 1) {
    strip.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  }
  bar.getContext("2d").putImageData(strip, 0, 0);
  const first = map.signed ? "against the class" : "nothing";
  const ends = map.blind ? ["low", "high"] : [first, "for the class"];
  const whose = name ? `${name}: ` : "";
  scale.append(make("span", "", whose + ends[0]), bar, make("span", "", ends[1]));
  scale.title = shown.scale !== "shared"
    ? "each map from its own lowest to its own highest value: not to be compared"
    : "the ends stand for what is strong among this model's maps by this method";
  return scale;
}

// The row of a method: its name, and one legend for all its maps, or one for each model where these
// differ. `drawn` has a map of each model that has one.
function methodRow(name, method, drawn, shown, send) {
  const row = make("div", "lulc-method");
  row.append(make("b", "", name));
  if (!drawn.length) return row;
  const kinds = new Set(drawn.map(({ map }) => `${map.signed} ${map.blind}`));
  if (kinds.size === 1) row.append(legend(drawn[0].map, shown));
  else row.append(...drawn.map(({ map, model }) => legend(map, shown, model)));
  const own = shown.scale !== "shared";
  const other = own ? "one scale for all tiles" : "each map its own range";
  const toggle = make("button", "lulc-link-button", other);
  toggle.type = "button";
  toggle.dataset.key = `scale of ${method}`;
  const value = own ? "shared" : "per map";
  toggle.addEventListener("click", () => send("set", { name: "scale", value }));
  row.append(toggle);
  if (own) row.append(make("span", "lulc-muted", "stretched: not to be compared with other maps"));
  return row;
}

function deletion(found) {
  const box = make("div", "lulc-deleted");
  for (const one of found) {
    const figure = make("figure");
    if (one.image) {
      const image = make("img");
      image.src = one.image;
      image.alt = one.alt;
      figure.append(image);
    }
    const caption = make("figcaption", "", one.words);
    if (one.sure) caption.append(" ", make("b", "", one.sure));
    figure.append(caption);
    box.append(figure);
  }
  return box;
}

function render({ model, el }) {
  el.classList.add("lulc-look");
  const send = (kind, more = {}) => model.send({ kind, ...more });
  const seen = () => model.get("shown").name; // the tile that the reader acts on

  const status = make("div", "lulc-status");
  const words = make("span", "lulc-doing");
  words.setAttribute("role", "status");
  const bar = make("progress");
  bar.max = 1;
  const stop = make("button", "lulc-button", "stop");
  stop.type = "button";
  stop.addEventListener("click", () => send("stop"));
  const problem = make("p", "lulc-note lulc-bad lulc-problems");
  problem.setAttribute("role", "alert");
  const story = make("div", "lulc-story lulc-note");
  story.setAttribute("aria-live", "polite");
  status.append(words, bar, stop);

  const board = make("div", "lulc-board");
  const bench = make("div", "lulc-bench");
  const tools = make("div", "lulc-tools");
  tools.setAttribute("role", "toolbar");
  tools.setAttribute("aria-label", "Tools");
  const keys = {};
  const buttons = {};
  function tool(name, text, key, act) {
    const button = make("button", "lulc-button");
    button.type = "button";
    button.dataset.tool = name;
    button.append(icon(name), make("span", "", text), make("kbd", "", key));
    button.setAttribute("aria-label", text);
    button.setAttribute("aria-keyshortcuts", key);
    button.addEventListener("click", act);
    keys[key] = () => button.disabled || act();
    buttons[name] = button;
    tools.append(button);
  }
  for (const [name, text, key] of TOOLS) {
    tool(name, text, key, () => send("set", { name: "tool", value: name }));
  }
  const size = make("label", "", "size of the brush");
  const radius = make("input");
  Object.assign(radius, { type: "range", min: 1, max: 20, step: 0.5 });
  radius.addEventListener("change", () => send("set", { name: "radius", value: Number(radius.value) }));
  size.append(radius);
  tools.append(size, make("hr"));
  for (const [name, text, key] of ACTS) tool(name, text, key, () => send("act", { name, tile: seen() }));

  const tiles = make("div", "lulc-tiles");
  const holder = make("div", "lulc-painter lulc-spot");
  const canvas = make("canvas", "lulc-tile");
  canvas.width = canvas.height = SIDE;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  const ink = make("canvas", "lulc-ink"); // the stroke under way, until the kernel has painted it
  ink.width = ink.height = 4 * SIDE;
  holder.append(canvas, ink);
  const other = make("div", "lulc-other lulc-spot");
  tiles.append(holder, other);
  const caption = make("p", "lulc-caption");
  bench.append(tools, tiles, caption);
  const right = make("div", "lulc-answers");
  board.append(bench, right);
  const deleted = make("div");
  el.replaceChildren(status, problem, story, board, deleted);

  const unfolded = new Set(); // of the maps' details
  let points = null; // of the stroke under way, with its tile and the pointer that draws it
  let asked = false; // the kernel has not answered the last part of it
  let cursor = [SIDE / 2, SIDE / 2];

  function drawProgress() {
    const now = model.get("progress");
    words.textContent = now.words;
    bar.hidden = !now.busy;
    if (now.share === null) bar.removeAttribute("value");
    else bar.value = now.share;
    stop.hidden = !now.busy && !now.held;
    stop.textContent = now.held ? "go on" : "stop";
    problem.textContent = now.problem;
    problem.hidden = !now.problem;
    if (now.problem) wipe();
    el.dataset.busy = now.busy;
  }

  function wipe() {
    if (!points) ink.getContext("2d").clearRect(0, 0, ink.width, ink.height);
  }

  function drawStory(shown) {
    story.hidden = !shown.story;
    if (!shown.story) return;
    const told = shown.story;
    const parts = [make("b", "", told.title), make("div", "", told.question)];
    if (told.hidden) {
      const row = make("div", "lulc-guess");
      row.setAttribute("role", "group");
      row.setAttribute("aria-label", "Your prediction");
      for (const name of told.guesses) {
        const button = make("button", "lulc-button", name);
        button.type = "button";
        button.dataset.key = name;
        button.addEventListener("click", () => send("guess", { value: name, tile: seen() }));
        row.append(button);
      }
      parts.push(row);
    } else if (told.guess) {
      parts.push(make("div", "", told.guess));
    }
    const end = make("button", "lulc-link-button", "end the story");
    end.type = "button";
    end.dataset.key = "end";
    end.addEventListener("click", () => send("set", { name: "story", value: "" }));
    drawAnew(story, [...parts, end]);
  }

  function drawTable(shown) {
    for (const { dataset, parentElement } of right.querySelectorAll("summary")) {
      if (parentElement.open) unfolded.add(dataset.key);
      else unfolded.delete(dataset.key);
    }
    const sides = [shown, ...(shown.beside ? [shown.beside] : [])];
    const greys = sides.map((one) => toGrey(tileData(one.tile)));
    right.style.setProperty("--models", Math.max(1, shown.answers.length));
    const parts = shown.answers.map((answer, m) => {
      const section = make("section", "lulc-answer");
      section.dataset.model = answer.name;
      section.append(heading(answer));
      if (shown.beside) {
        section.append(heading({ ...shown.beside.answers[m], name: `${shown.beside.name}:` }));
      }
      if (answer.known) section.append(make("p", "lulc-warning", "⚠ the model was trained on this tile"));
      section.append(bars(answer, shown.classes, shown.colours));
      return section;
    });
    for (let row = 0; row < (shown.answers[0]?.maps.length ?? 0); row += 1) {
      const method = shown.methods[row];
      const both = shown.answers.map((_, m) => sides.map((one) => one.answers[m].maps[row]));
      const drawn = shown.answers
        .map((answer, m) => ({ model: answer.name, map: both[m].find((map) => map.values) }))
        .filter(({ map }) => map);
      const names = new Set(drawn.map(({ map }) => map.method)); // report cards may differ
      const name = names.size === 1 ? [...names][0] : method;
      parts.push(methodRow(name, method, drawn, shown, send));
      shown.answers.forEach((answer, m) => {
        const key = `details of ${method} ${answer.name}`;
        parts.push(mapFigure(both[m], greys, shown, names.size > 1, key, unfolded));
      });
    }
    drawAnew(right, parts);
  }

  function draw() {
    const shown = { ...model.get("fixed"), ...model.get("shown") };
    asked = false;
    if (points && points.tile !== shown.name) points = null; // it ends where the tile changes
    board.hidden = !shown.tile;
    if (!shown.tile) return;
    canvas.getContext("2d").putImageData(tileData(shown.tile), 0, 0);
    canvas.setAttribute("aria-label", `${shown.words}. Arrow keys move the brush, Space paints`);
    caption.textContent = shown.words;
    wipe();
    bench.classList.toggle("lulc-compares", !!shown.beside);
    other.hidden = !shown.beside;
    if (shown.beside) {
      other.replaceChildren(tileCanvas(tileData(shown.beside.tile), "lulc-still"));
      other.title = shown.beside.words;
      if (shown.beside.caption) caption.append(make("br"), `${shown.beside.name}: ${shown.beside.caption}`);
    }
    for (const [name] of TOOLS) buttons[name].setAttribute("aria-pressed", name === shown.tool);
    buttons.before.setAttribute("aria-pressed", !!shown.beside);
    for (const [name, button] of Object.entries(buttons)) {
      button.disabled = !!shown.off[name];
      button.title = shown.off[name] || shown.help[name] || "";
    }
    radius.value = shown.radius;
    drawStory(shown);
    drawTable(shown);
    deleted.replaceChildren(...(shown.deletion.length ? [deletion(shown.deletion)] : []));
    el.dataset.pending = shown.pending;
    el.dataset.taken = shown.taken;
    el.dataset.serial = shown.serial;
    if (points && points.grown) sendStroke(false);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const at = (value, side) => Math.min(SIDE, Math.max(0, (value / side) * SIDE));
    return [at(event.clientX - box.left, box.width), at(event.clientY - box.top, box.height)];
  }

  function dab([x, y]) {
    const context = ink.getContext("2d");
    context.fillStyle = "rgb(255 255 255 / 0.35)";
    context.beginPath();
    context.arc(4 * x, 4 * y, 4 * model.get("shown").radius, 0, 2 * Math.PI);
    context.fill();
  }

  function begin(at, pointer) {
    points = Object.assign([at], { tile: seen(), pointer });
  }

  function sendStroke(done) {
    if (asked && !done) return;
    asked = true;
    points.grown = false;
    const rounded = points.map((point) => point.map((v) => Math.round(10 * v) / 10));
    send("stroke", { points: rounded, done, tile: points.tile });
    if (done) points = null;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || points) return; // another finger
    canvas.setPointerCapture(event.pointerId);
    begin(place(event), event.pointerId);
    if (model.get("shown").off.brush) { // the kernel says why
      sendStroke(true);
      return;
    }
    dab(points[0]);
    sendStroke(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!points || event.pointerId !== points.pointer) return;
    points.push(place(event));
    points.grown = true;
    dab(points[points.length - 1]);
    sendStroke(false);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, ({ pointerId }) => pointerId === points?.pointer && sendStroke(true));
  }
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] };
    const command = event.ctrlKey || event.metaKey;
    if (step[event.key]) {
      cursor = cursor.map((v, i) => Math.min(SIDE, Math.max(0, v + step[event.key][i])));
      ink.getContext("2d").clearRect(0, 0, ink.width, ink.height);
      dab(cursor);
    } else if (event.key === " " || event.key === "Enter") {
      if (!points) {
        begin(cursor);
        sendStroke(true);
      }
    } else if (event.key === "Backspace" || (event.key === "z" && command)) {
      send("act", { name: event.shiftKey ? "redo" : "undo" });
    } else if (event.key === "[" || event.key === "]") {
      const value = Math.min(20, Math.max(1, Number(radius.value) + (event.key === "]" ? 1 : -1)));
      send("set", { name: "radius", value });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });

  // The keys of the tools work wherever the panel has the focus, but where text is typed or chosen.
  // A click on what takes no focus gives it to the panel, so that no cell of the notebook has it.
  const panelOf = (target) => {
    const panel = target.closest?.(".lulc-explorer");
    return panel?.contains(el) ? panel : null;
  };
  let leaveKeys = () => {};
  let kept = null; // the panel whose keys are kept in it
  function takeFocus(event) {
    const panel = panelOf(event.target);
    panel?.setAttribute("tabindex", "-1");
    if (!panel || panel === kept) return;
    leaveKeys();
    leaveKeys = keepKeys(panel);
    kept = panel;
  }
  function takeKey(event) {
    if (!panelOf(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const typed = 'textarea, select, [contenteditable], input:not([type="range"], [type="checkbox"])';
    if (event.target.matches(typed) || event.defaultPrevented || !keys[event.key]) return;
    keys[event.key]();
    event.preventDefault();
    event.stopPropagation();
  }
  document.addEventListener("pointerdown", takeFocus, true);
  document.addEventListener("focusin", takeFocus);
  window.addEventListener("keydown", takeKey, true); // before JupyterLab hears it

  // One cursor: the same place is ringed on the tile, on the other tile and on all maps.
  board.addEventListener("pointermove", (event) => {
    const spot = event.target.closest(".lulc-spot");
    if (!spot) return leave();
    const box = spot.getBoundingClientRect();
    for (const one of board.querySelectorAll(".lulc-spot")) {
      one.style.setProperty("--x", (event.clientX - box.left) / box.width);
      one.style.setProperty("--y", (event.clientY - box.top) / box.height);
      one.style.setProperty("--cursor", one === spot ? "none" : "block");
    }
  });
  function leave() {
    for (const one of board.querySelectorAll(".lulc-spot")) one.style.setProperty("--cursor", "none");
  }
  board.addEventListener("pointerleave", leave);

  // A page of its own (not JupyterLab, whose address is not ours) carries the view in its address.
  const own = "voila" in document.body.dataset || !document.querySelector(".jp-LabShell");
  function drawLink() {
    const link = model.get("link");
    if (own && link) history.replaceState(null, "", `#view=${link}`);
  }
  function readLink() {
    const found = /^#view=([\w-]+)$/.exec(location.hash);
    if (own && found && found[1] !== model.get("link")) send("link", { text: found[1] });
  }
  addEventListener("hashchange", readLink);
  readLink();

  model.on("change:link", drawLink);
  model.on("change:shown", draw);
  model.on("change:progress", drawProgress);
  draw();
  drawProgress();
  return () => {
    leaveKeys();
    removeEventListener("hashchange", readLink);
    document.removeEventListener("pointerdown", takeFocus, true);
    document.removeEventListener("focusin", takeFocus);
    window.removeEventListener("keydown", takeKey, true);
    model.off("change:link", drawLink);
    model.off("change:shown", draw);
    model.off("change:progress", drawProgress);
  };
}

export default { render };
