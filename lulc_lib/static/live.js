// The live page: one state, what it shows, and what a reader does to it. Python puts shared.js, the
// engine, live_engine.js, live_fills.js, live_state.js and live_stories.js before this file.
//
// `data` is all but the weights; `weights` base64 or bytes. Every word of `data` is set as text.

const DRAWN = 192; // pixels of a drawn map
const RANDOM_ORDERS = 3;
const FRAME = 12; // milliseconds: at most one run a frame
const KINDS = { relaxed: "relaxed SIMD", simd: "SIMD", JavaScript: "plain JavaScript" };

function lulcLive(root, data, weights, options = {}) {
  const parts = new Map(Array.from(root.querySelectorAll("[data-part]"), (element) => [element.dataset.part, element]));
  const part = (name) => parts.get(name);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const { side, names, labels } = data.tiles;
  const count = names.length;
  const K = data.classes.length;
  const cells = data.cells;
  const bytes = (text) => new Int8Array(bytesOf(text).buffer);
  const methods = data.methods.map((method) => ({ ...method, values: bytes(method.values) }));
  const beside = data.beside && { ...data.beside, values: bytes(data.beside.values) };
  const tables = { signed: bytesOf(data.tables.signed), plain: bytesOf(data.tables.plain) };
  const limits = methods.map((method) => method.limit);

  let state = { ...START };
  let redone = []; // strokes taken back
  let own = null; // the reader's picture, {pixels, name}
  let engine = null;
  let tool = "paint";
  let fill = "blur";
  let size = 10;
  let cursor = [side / 2, side / 2]; // in pixels of what is shown
  let hovered = null; // where the covering square lies
  let stroke = null; // what is being painted
  let last = null; // what was drawn last
  let clean = null; // the answer for the reader's own picture as it came
  let ended = false;

  // --- tiles -------------------------------------------------------------------------------------

  const sprite = new Image();
  const across = data.tiles.across;
  const pixelsKept = new Map();
  function pixelsOf(tile) {
    if (tile >= count) return own.pixels;
    if (!pixelsKept.has(tile)) pixelsKept.set(tile, planes(drawTile(tile).getContext("2d").getImageData(0, 0, side, side).data));
    return pixelsKept.get(tile);
  }
  function drawTile(tile, canvas = document.createElement("canvas")) {
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (tile >= count) context.putImageData(imageData(own.pixels), 0, 0);
    else context.drawImage(sprite, (tile % across) * side, Math.floor(tile / across) * side, side, side, 0, 0, side, side);
    return canvas;
  }
  function planes(rgba) {
    const n = side * side;
    const values = new Float32Array(3 * n);
    for (let i = 0; i < n; i += 1) for (let c = 0; c < 3; c += 1) values[c * n + i] = rgba[4 * i + c] / 255;
    return values;
  }
  function imageData(pixels) {
    const image = new ImageData(side, side);
    const n = side * side;
    for (let i = 0; i < n; i += 1) {
      for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = Math.round(255 * pixels[c * n + i]);
      image.data[4 * i + 3] = 255;
    }
    return image;
  }
  const nameOf = (tile) => (tile < count ? names[tile] : own.name);

  // --- the image that the network sees ---------------------------------------------------------------

  function turned(pixels, { turn, flip }) {
    if (!turn && !flip) return pixels;
    const from = turning(side, turn, flip);
    const n = side * side;
    return Float32Array.from({ length: 3 * n }, (_, i) => pixels[Math.floor(i / n) * n + from[i % n]]);
  }
  const paintedOf = (view) => filled(pixelsOf(view.tile), ownersOf(view.strokes, side), side, pixelsOf(view.other), data.empty);
  const shownOf = (view) => turned(paintedOf(view), view);

  // Takes the first cells of an order away, or what lies under the covering square.
  function without(pixels, taken, square) {
    const owner = new Uint8Array(side * side);
    const kind = FILLS.indexOf(fill) + 1;
    for (const cell of taken) {
      for (let y = edge(Math.floor(cell / cells)); y < edge(Math.floor(cell / cells) + 1); y += 1) {
        owner.fill(kind, y * side + edge(cell % cells), y * side + edge((cell % cells) + 1));
      }
    }
    if (square) {
      const [x, y] = square.map((at) => Math.round(at - size / 2));
      for (let row = Math.max(0, y); row < Math.min(side, y + size); row += 1) {
        if (x < side && x + size > 0) owner.fill(kind, row * side + Math.max(0, x), row * side + Math.min(side, x + size));
      }
    }
    return filled(pixels, owner, side, pixelsOf(state.other), data.empty);
  }
  const edge = (cell) => Math.round((cell * side) / cells);
  const takenAt = (order, step) => order.slice(0, Math.round((step / STEPS) * cells * cells));
  const mapOrder = (grid) => Array.from(grid.keys()).sort((a, b) => grid[b] - grid[a] || a - b);
  function randomOrder(seed) {
    let at = seed + 1;
    const next = () => { // mulberry32
      at = (at + 0x6d2b79f5) | 0;
      let t = Math.imul(at ^ (at >>> 15), 1 | at);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
    const keys = Array.from({ length: cells * cells }, next);
    return Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b]);
  }

  // --- answers ---------------------------------------------------------------------------------------

  const softmax = (logits) => {
    const top = Math.max(...logits);
    const powers = Array.from(logits, (v) => Math.exp(v - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((v) => v / sum);
  };
  const topOf = (values) => values.indexOf(Math.max(...values));
  const untouched = (view) => view.tile < count && !view.strokes.length && !view.turn && !view.flip && !view.removed && !hovered;
  const tokenOf = (view) => view.token ?? data.token;

  // Asks the engine for logits and the chosen map of an image.
  async function ask(pixels, view) {
    const method = methods[view.method];
    const attends = method.method === "attention";
    const { target, against } = view;
    const answer = await engine.ask({
      image: pixels,
      maps: attends ? [] : [{ method, target, against: against === target ? null : against }],
      attention: attends ? method.block : null,
    });
    const logits = Array.from(answer.logits);
    const grid = attends ? attentionRow(answer.attention, tokenOf(view)) : answer.maps[0];
    return { logits, grid, ms: answer.ms };
  }
  function attentionRow(matrix, token) {
    const tokens = Math.sqrt(matrix.length);
    const prefix = tokens - cells * cells;
    const row = token < 0 ? 0 : token + prefix; // below 0: the class token
    return matrix.subarray(row * tokens + prefix, (row + 1) * tokens);
  }
  function stored(view) {
    const method = methods[view.method];
    const unasked = view.target === null && view.against === null && view.token === null;
    const n = cells * cells;
    const unit = method.peaks[view.tile] / 127;
    const grid = unasked ? Float32Array.from(method.values.subarray(view.tile * n, (view.tile + 1) * n), (q) => q * unit) : null;
    return { logits: data.logits[view.tile], grid, ms: null };
  }

  const orders = new Map(); // what the tile looks like before the deletion -> order of cells
  async function answerOf(view) {
    if (!engine) return untouched(view) ? { ...stored(view), pixels: shownOf(view) } : { logits: null, grid: null, pixels: shownOf(view) };
    const shown = shownOf(view);
    const key = JSON.stringify([{ ...view, removed: 0, order: "" }, fill]);
    if (view.removed && !orders.has(key)) {
      const { grid, logits } = await ask(shown, { ...view, removed: 0 });
      orders.clear();
      orders.set(key, { map: mapOrder(grid), random: randomOrder(view.tile), target: view.target ?? topOf(logits) });
    }
    const taken = view.removed ? takenAt(orders.get(key)[view.order], view.removed) : [];
    const pixels = taken.length || hovered ? without(shown, taken, hovered) : shown;
    const answer = { ...(await ask(pixels, view)), pixels };
    if ((view.turn || view.flip) && !stroke && !hovered && !taken.length) {
      const straight = await ask(paintedOf(view), { ...view, turn: 0, flip: false, target: view.target ?? topOf(answer.logits) });
      answer.straight = straight;
    }
    if (view.tile >= count && !view.strokes.length && untouchedOwn(view)) clean = answer.logits;
    return answer;
  }
  const untouchedOwn = (view) => !view.turn && !view.flip && !view.removed && !hovered;

  // --- one run at a time: the newest wish wins -------------------------------------------------------

  let wanted = 0;
  let done = 0;
  let busy = false;
  const frame = () => new Promise((go) => { requestAnimationFrame(go); setTimeout(go, 100); });
  function wish() {
    wanted += 1;
    if (!busy) work();
  }
  let began = -Infinity;
  async function work() {
    busy = true;
    while (done !== wanted && !ended) {
      if (performance.now() - began < FRAME) await frame();
      began = performance.now();
      const serial = wanted;
      const view = { ...state, strokes: stroke ? [...state.strokes, stroke] : state.strokes };
      const asked = JSON.stringify([view, fill, hovered && [hovered, size], (view.turn || view.flip) && stroke !== null, engine !== null]);
      try {
        const answer = last?.asked === asked && view.tile < count ? last : { ...(await answerOf(view)), asked };
        show(view, answer);
      } catch (error) {
        note(`the network could not be run: ${error.message}`);
      }
      done = serial;
      root.dataset.serial = serial;
      root.dispatchEvent(new CustomEvent("lulc-drawn", { detail: serial }));
    }
    busy = false;
  }
  function set(change) {
    const before = state;
    state = { ...state, ...change };
    if (before.tile !== state.tile) {
      if (!change.strokes) state.strokes = [];
      if (!change.keep) Object.assign(state, { turn: change.turn ?? 0, flip: change.flip ?? false, removed: change.removed ?? 0, token: change.token ?? null });
      redone = [];
      clean = null;
    }
    delete state.keep;
    const moved = JSON.stringify({ ...before, removed: 0, order: "" }) !== JSON.stringify({ ...state, removed: 0, order: "" });
    if (moved) dropCurve();
    controls();
    wish();
  }

  // --- drawing ---------------------------------------------------------------------------------------

  const words = (value) => `${(100 * value).toFixed(1)} %`;
  const share = (value) => `${100 * value}%`;
  const number = (value) => value.toPrecision(2).replace("-", "−");
  function show(view, answer) {
    sized(part("tile"), side).putImageData(imageData(answer.pixels), 0, 0);
    drawCursor();
    if (answer.logits) showAnswer(view, answer);
    showMap(view, answer);
    showBeside(view, answer.pixels);
    showTurned(view, answer);
    last = { ...answer, view };
    markCurve();
  }

  const overlay = (canvas, pixels, map) => drawOver(canvas, pixels, side, map, part("whole").checked, DRAWN);
  const barsDrawn = new Map();
  function scaleBar(name, table, low, high) {
    part(`${name}low`).textContent = low;
    part(`${name}high`).textContent = high;
    if (barsDrawn.get(name) === table) return;
    barsDrawn.set(name, table);
    const image = new ImageData(256, 1);
    for (let i = 0; i < 256; i += 1) image.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    part(`${name}bar`).getContext("2d").putImageData(image, 0, 0);
  }
  function strongest(grid, rows, columns) {
    const at = topOf(Array.from(grid));
    return `strongest in row ${Math.floor(at / columns) + 1} of ${rows}, column ${(at % columns) + 1} of ${columns}`;
  }

  function showMap(view, { logits, grid, pixels }) {
    const method = methods[view.method];
    const limit = limits[view.method];
    const table = method.signed ? tables.signed : tables.plain;
    overlay(part("map"), pixels, grid && { rows: cells, columns: cells, grid, peak: 127, limit, signed: method.signed, table });
    scaleBar("", table, number(method.signed ? -limit : 0), number(limit));
    const target = view.target ?? (logits ? topOf(logits) : null);
    const of = method.method === "attention"
      ? `what ${tokenOf(view) < 0 ? "the class token" : `the token in row ${Math.floor(tokenOf(view) / cells) + 1}, column ${(tokenOf(view) % cells) + 1}`} attends to`
      : `${target === null ? "" : data.classes[target]}${view.against === null || view.against === target ? "" : ` rather than ${data.classes[view.against]}`}`;
    part("mapped").textContent = `${data.model.name}: ${of}`;
    part("verdict").textContent = `${method.method}${method.layer ? ` at ${method.layer}` : ""}, ${cells}x${cells} cells. ${method.verdict}`;
    part("map").setAttribute("aria-label", grid ? `Map by ${method.method} of ${of}: ${strongest(grid, cells, cells)}` : "No map yet: the engine is starting");
  }

  let besideDrawn = "";
  function showBeside(view, pixels) {
    part("beside").hidden = !beside;
    if (!beside) return;
    const n = beside.rows * beside.columns;
    const target = view.target ?? beside.predicted[view.tile];
    const at = view.tile < count ? beside.pairs.findIndex(([tile, k]) => tile === view.tile && k === target) : -1;
    const straight = view.tile < count && !view.turn && !view.flip;
    const grid = at >= 0 && straight ? beside.values.subarray(at * n, (at + 1) * n) : null;
    const map = grid && { rows: beside.rows, columns: beside.columns, grid, peak: beside.peaks[at], limit: beside.limit, signed: beside.signed, table: beside.signed ? tables.signed : tables.plain };
    const drawn = JSON.stringify([at, view.tile, straight, part("whole").checked]);
    if (grid && drawn === besideDrawn) return; // painting changes nothing here
    besideDrawn = grid ? drawn : "";
    overlay(part("besidemap"), grid ? pixelsOf(view.tile) : pixels, map);
    scaleBar("beside", beside.signed ? tables.signed : tables.plain, number(beside.signed ? -beside.limit : 0), number(beside.limit));
    const said = view.tile < count ? `says ${data.classes[beside.predicted[view.tile]]}` : "has not seen this picture";
    part("besidename").textContent = `${beside.name} ${said}${grid ? `; map of ${data.classes[target]}` : ""}`;
    const why = grid ? "" : straight ? "No map of this class was made before. " : "Maps were made of the tiles as they are. ";
    part("besidewords").textContent = `${why}${beside.method}, made before: this network is not live, since it would take ${beside.size} and about a second for a map.`;
    part("besidemap").setAttribute("aria-label", grid ? `Map of ${data.classes[target]} by ${beside.name}: ${strongest(grid, beside.rows, beside.columns)}` : "The tile in grey, without a map");
  }

  const rows = data.classes.map((name, k) => {
    const row = make("li");
    const button = make("button", "ll-row");
    button.type = "button";
    const track = make("span", "ll-track");
    const [bar, before, other] = [make("span", "ll-bar"), make("span", "ll-before"), make("span", "ll-other")];
    bar.style.background = data.colours[k];
    track.append(bar, before, other);
    const value = make("span", "ll-value");
    button.append(make("span", "ll-name", name), track, value);
    button.addEventListener("click", () => set({ target: state.target === k ? null : k }));
    row.append(button);
    part("bars").append(row);
    return { button, bar, before, other, value };
  });
  function showAnswer(view, { logits, ms }) {
    const now = softmax(logits);
    const start = view.tile < count ? data.logits[view.tile] : clean;
    const before = start ? softmax(start) : null;
    const changed = before && now.some((p, k) => Math.abs(p - before[k]) > 5e-4);
    const others = beside && view.tile < count ? softmax(beside.logits[view.tile]) : null;
    rows.forEach((row, k) => {
      row.bar.style.width = share(now[k]);
      row.value.textContent = words(now[k]);
      row.before.hidden = !changed;
      if (changed) row.before.style.left = share(before[k]);
      row.other.hidden = !others;
      if (others) row.other.style.width = share(others[k]);
      row.button.setAttribute("aria-pressed", state.target === k);
      row.button.setAttribute("aria-label", `${data.classes[k]} ${words(now[k])}${changed ? `, before ${words(before[k])}` : ""}; show its map`);
    });
    const top = topOf(now);
    const was = changed ? ` (${topOf(before) === top ? "" : `${data.classes[topOf(before)]} `}${words(before[topOf(before)])} before)` : "";
    part("said").textContent = `${data.model.name} says ${data.classes[top]}, ${words(now[top])}${was}`;
    if (ms !== null) part("status").textContent = `live: ${KINDS[engine.kind] ?? engine.kind}, ${engine.where}, ${ms.toFixed(0)} ms`;
  }

  function showTurned(view, answer) {
    if (!view.turn && !view.flip) {
      part("turned").textContent = "The tile lies as it came.";
    } else if (answer.straight) {
      const from = turning(cells, view.turn, view.flip);
      const back = Float32Array.from(from, (at) => answer.straight.grid[at]);
      const k = view.target ?? topOf(answer.logits);
      part("turned").textContent = `Rank correlation of the two maps of ${data.classes[k]}: ${spearman(back, answer.grid).toFixed(2).replace("-", "−")}. Its probability went from ${words(softmax(answer.straight.logits)[k])} to ${words(softmax(answer.logits)[k])}.`;
    }
  }
  function ranksOf(values) {
    const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
    const ranks = new Float64Array(values.length);
    for (let i = 0; i < order.length;) {
      let end = i;
      while (end < order.length && values[order[end]] === values[order[i]]) end += 1;
      for (let j = i; j < end; j += 1) ranks[order[j]] = (i + end - 1) / 2;
      i = end;
    }
    return ranks;
  }
  function spearman(a, b) {
    const [x, y] = [ranksOf(a), ranksOf(b)];
    const mean = (x.length - 1) / 2;
    let [xy, xx, yy] = [0, 0, 0];
    x.forEach((_, i) => {
      xy += (x[i] - mean) * (y[i] - mean);
      xx += (x[i] - mean) ** 2;
      yy += (y[i] - mean) ** 2;
    });
    return xx && yy ? xy / Math.sqrt(xx * yy) : 0;
  }

  function drawCursor() {
    const scale = 6;
    const context = sized(part("cursor"), scale * side);
    context.clearRect(0, 0, scale * side, scale * side);
    const [x, y] = cursor.map((at) => at * scale);
    const ring = (colour, width) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      if (tool === "point") {
        const [column, row] = cursor.map((at) => Math.min(cells - 1, Math.floor((at * cells) / side)));
        context.rect(edge(column) * scale, edge(row) * scale, (side / cells) * scale, (side / cells) * scale);
      } else if (tool === "occlude") context.rect(x - (size * scale) / 2, y - (size * scale) / 2, size * scale, size * scale);
      else context.arc(x, y, (size * scale) / 2, 0, 7);
      context.stroke();
    };
    ring("#000", 4);
    ring("#fff", 2);
  }

  // --- the deletion's curve --------------------------------------------------------------------------

  let curve = null; // {map: [], random: [], target, running}
  const dropCurve = () => {
    if (!curve) return;
    curve = null;
    if (!root.querySelector('[data-panel="delete"]').hidden) part("curvewords").textContent = "Move the slider: the curve is drawn as you go.";
    drawCurve();
  };
  async function makeCurve() {
    if (curve || !engine) return;
    const view = { ...state };
    const own_ = (curve = { map: [], random: [], target: 0 });
    const shown = shownOf(view);
    const { grid, logits } = await ask(shown, view);
    own_.target = view.target ?? topOf(logits);
    const order = mapOrder(grid);
    for (let step = 0; step <= STEPS; step += 1) {
      const fall = async (cellsOf) => softmax((await ask(without(shown, takenAt(cellsOf, step), null), view)).logits)[own_.target];
      const falls = [];
      const down = await fall(order);
      for (let seed = 0; seed < RANDOM_ORDERS; seed += 1) falls.push(await fall(randomOrder(view.tile + seed)));
      if (curve !== own_ || ended) return;
      own_.map.push(down);
      own_.random.push(falls.reduce((a, b) => a + b, 0) / falls.length);
      drawCurve();
      markCurve();
    }
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    part("curvewords").textContent = `Mean probability of ${data.classes[own_.target]} along the way: ${words(mean(own_.map))} in the map’s order, ${words(mean(own_.random))} in ${RANDOM_ORDERS} random orders. The lower, the better the map.`;
    root.dataset.curve = "done";
  }
  function drawCurve() {
    const canvas = part("curve");
    const context = canvas.getContext("2d");
    const style = getComputedStyle(root);
    const [left, top, width, height] = [44, 10, canvas.width - 56, canvas.height - 44];
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = "13px system-ui, sans-serif";
    context.fillStyle = style.getPropertyValue("--ll-muted");
    context.strokeStyle = style.getPropertyValue("--ll-rule");
    for (const share of [0, 0.5, 1]) {
      const y = top + height * (1 - share);
      context.strokeRect(left, y, width, 0);
      context.fillText(`${100 * share} %`, 2, y + 5);
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) context.fillText(`${100 * share} %`, left + width * share - 12, top + height + 18);
    context.fillText("of the cells taken away", left + width / 2 - 70, top + height + 33);
    if (!curve) return;
    for (const [name, colour, dash] of [["map", "--ll-accent", []], ["random", "--ll-muted", [5, 4]]]) {
      context.strokeStyle = context.fillStyle = style.getPropertyValue(colour);
      context.setLineDash(dash);
      context.lineWidth = 2;
      context.beginPath();
      curve[name].forEach((p, i) => context.lineTo(left + (width * i) / STEPS, top + height * (1 - p)));
      context.stroke();
      const i = curve[name].length - 1;
      const at = Math.min(i, 9);
      if (i >= 0) context.fillText(name === "map" ? "map’s order" : "random", left + (width * at) / STEPS + 4, top + height * (1 - curve[name][at]) + (name === "map" ? 14 : -6));
    }
    context.setLineDash([]);
    if (state.removed) {
      context.strokeStyle = style.getPropertyValue("--ll-ink");
      context.strokeRect(left + (width * state.removed) / STEPS, top, 0, height);
    }
  }
  function markCurve() {
    part("removedwords").textContent = `${Math.round((100 * state.removed) / STEPS)} %`;
    if (!curve) return;
    const [a, b] = [curve.map[state.removed], curve.random[state.removed]];
    part("curve").setAttribute("aria-label", b === undefined ? "The curve is being drawn" : `With ${Math.round((100 * state.removed) / STEPS)} % of the cells taken away, ${data.classes[curve.target]} has ${words(a)} in the map's order and ${words(b)} in random order`);
  }

  // --- finding ---------------------------------------------------------------------------------------

  const predicted = data.logits.map(topOf);
  const sure = data.logits.map((row) => Math.max(...softmax(row)));
  const thumbs = [];
  function thumbnail(tile) {
    const canvas = drawTile(tile);
    const button = make("div", "ll-thumb");
    button.setAttribute("role", "option");
    button.id = `${root.id}-tile-${tile}`;
    const right = labels === null || tile >= count || labels[tile] === predicted[tile];
    if (!right) button.classList.add("ll-wrong");
    button.title = tile < count ? `${names[tile]}: ${data.model.name} says ${data.classes[predicted[tile]]}, ${words(sure[tile])}` : own.name;
    button.setAttribute("aria-label", button.title);
    button.append(canvas);
    button.addEventListener("click", () => set({ tile }));
    return button;
  }
  let found = [];
  function find() {
    const [label, answer, sort] = ["label", "answer", "sort"].map((name) => part(name).value);
    const fits = (i) => {
      const right = labels !== null && labels[i] === predicted[i];
      const agree = !beside || beside.predicted[i] === predicted[i];
      return (label === "" || (labels ?? predicted)[i] === Number(label)) && { "": true, right, wrong: !right, apart: !agree }[answer];
    };
    const key = { "": (i) => i, sure: (i) => -sure[i], unsure: (i) => sure[i] }[sort];
    found = Array.from({ length: count }, (_, i) => i).filter(fits).sort((a, b) => key(a) - key(b) || a - b);
    if (own) found.unshift(count);
    part("thumbs").replaceChildren(...found.map((tile) => thumbs[tile] ?? (thumbs[tile] = thumbnail(tile))));
    part("count").textContent = `${found.length} of ${count + (own ? 1 : 0)} tiles`;
    mark();
  }
  let marked = null;
  function mark() {
    marked?.setAttribute("aria-selected", false);
    marked = thumbs[state.tile] ?? null;
    marked?.setAttribute("aria-selected", true);
    if (thumbs[state.tile]) part("thumbs").setAttribute("aria-activedescendant", thumbs[state.tile].id);
  }
  function choose(name, choices) {
    part(name).replaceChildren(...choices.map(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      return option;
    }));
  }

  // --- the reader's own picture ----------------------------------------------------------------------

  async function take(file) {
    if (!file) return;
    try {
      if (file.size > 50e6) throw new Error(`it has ${Math.round(file.size / 1e6)} MB, and at most 50 are taken`);
      const picture = await createImageBitmap(file);
      const [w, h] = [picture.width, picture.height];
      const short = Math.min(w, h);
      const cut = part("crop").checked && short >= side ? side : short;
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = side;
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff"; // below transparent pixels
      context.fillRect(0, 0, side, side);
      context.imageSmoothingQuality = "high";
      context.drawImage(picture, Math.floor((w - cut) / 2), Math.floor((h - cut) / 2), cut, cut, 0, 0, side, side);
      picture.close();
      own = { pixels: planes(context.getImageData(0, 0, side, side).data), name: file.name || "pasted picture" };
      const how = cut === side ? "cut out as they are" : cut > side ? "shrunk" : "enlarged";
      part("fitted").textContent = `The middle ${cut}x${cut} of ${w}x${h} pixels, ${how}. Whatever it shows, the network knows only its ${K} classes.`;
      delete thumbs[count];
      clean = null;
      orders.clear();
      state.tile = -1; // even where one's own picture follows another
      set({ tile: count });
      find();
    } catch (error) {
      note(`${file.name || "this"} cannot be taken as a picture: ${error.message}`);
    }
  }

  // --- notes, links, pictures ------------------------------------------------------------------------

  function note(text) {
    part("notes").textContent = text;
    part("notes").hidden = !text;
  }
  function link() {
    if (state.tile >= count) {
      note("A link cannot carry your own picture, which stays on this device. Save the picture instead.");
      return;
    }
    const text = `${options.address ?? location.href.split("#")[0]}#${toLink(state, data)}`;
    part("linkline").hidden = false;
    part("linktext").value = text;
    part("linktext").select();
    const copied = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"));
    copied.then(() => tell("The link was copied."), () => tell("Copy the link from the field."));
  }
  function follow(text) {
    const { state: wished, problems } = fromLink(text, data);
    state = { ...START };
    set({ ...wished, keep: true });
    note(problems.length ? `The link was followed as far as it goes: ${problems.join("; ")}.` : "");
  }
  const tell = (text) => { part("told").textContent = text; };

  // Draws what is seen as one picture, with what it is written below.
  function picture() {
    const canvas = document.createElement("canvas");
    const shown = [part("tile"), part("map"), ...(beside ? [part("besidemap")] : [])];
    canvas.width = 20 + 320 * shown.length;
    canvas.height = 440;
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    shown.forEach((one, i) => context.drawImage(one, 20 + 320 * i, 20, 300, 300));
    context.fillStyle = "#1f2933";
    context.font = "14px sans-serif";
    const lines = [`${nameOf(state.tile)}: ${part("said").textContent}`, `${part("mapped").textContent}; ${part("verdict").textContent}`, ...(beside ? [part("besidename").textContent] : []), data.credit];
    lines.forEach((line, i) => context.fillText(line, 20, 350 + 22 * i, canvas.width - 40));
    const image = canvas.toDataURL("image/png");
    const anchor = make("a");
    anchor.href = image;
    anchor.download = "view.png";
    anchor.click();
    tell("The picture was saved.");
    return image;
  }

  // --- what a reader does ----------------------------------------------------------------------------

  function paint(points, finished) {
    stroke = { kind: tool === "erase" ? "erase" : fill, size, points };
    if (finished) {
      redone = [];
      const added = stroke;
      stroke = null;
      set({ strokes: [...state.strokes, added].slice(-MOST_STROKES) });
    } else wish();
  }
  // From what is shown to the tile as it came, where strokes lie.
  function straight([x, y]) {
    let [u, v] = [x, y];
    for (let t = 0; t < state.turn; t += 1) [u, v] = [v, side - u];
    return [state.flip ? side - u : u, v];
  }
  function act(name) {
    const { strokes } = state;
    if (name === "undo" && strokes.length) {
      redone.push(strokes.at(-1));
      set({ strokes: strokes.slice(0, -1) });
    } else if (name === "redo" && redone.length) set({ strokes: [...strokes, redone.pop()] });
    else if (name === "clear" && strokes.length) {
      redone = [];
      set({ strokes: [...strokes, { kind: "clear", size: 1, points: [] }], removed: 0 });
    } else if (name === "turn") set({ turn: (state.turn + 1) % 4 });
    else if (name === "flip") set({ turn: state.turn % 2 ? (state.turn + 2) % 4 : state.turn, flip: !state.flip });
    else if (name === "link") link();
    else if (name === "picture") picture();
  }
  function takeTool(name) {
    tool = name;
    hovered = null;
    root.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === name));
    drawCursor();
    wish();
  }
  function point([x, y]) {
    const [column, row] = [x, y].map((at) => Math.min(cells - 1, Math.max(0, Math.floor((at * cells) / side))));
    const attention = methods.findIndex((method) => method.method === "attention");
    set({ token: row * cells + column, method: attention });
  }
  const place = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  };
  function listenToTile() {
    const canvas = part("tile");
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      canvas.focus({ preventScroll: true });
      cursor = place(event, canvas);
      if (tool === "point") point(cursor);
      else if (tool !== "occlude") {
        canvas.setPointerCapture(event.pointerId);
        paint([straight(cursor)], false);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      cursor = place(event, canvas);
      drawCursor();
      if (stroke) paint([...stroke.points, straight(cursor)], false);
      else if (tool === "occlude") {
        hovered = cursor;
        wish();
      }
    });
    const release = () => { if (stroke) paint(stroke.points, true); };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => {
      if (!hovered) return;
      hovered = null;
      wish();
    });
    canvas.addEventListener("keydown", key);
    part("map").addEventListener("click", (event) => { if (methods[state.method].method === "attention") point(place(event, part("map"))); });
  }
  function key(event) {
    const by = event.shiftKey ? Math.round(side / 8) : 1;
    const move = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
    const letter = { b: "paint", e: "erase", o: "occlude", t: "point" }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) {
      cursor = cursor.map((at, i) => Math.min(side, Math.max(0, at + move[i])));
      if (tool === "occlude") { hovered = cursor; wish(); }
      drawCursor();
      tell(`row ${Math.round(cursor[1])}, column ${Math.round(cursor[0])}`);
    } else if (event.key === " ") {
      if (tool === "point") point(cursor);
      else if (tool !== "occlude") paint([straight(cursor)], true);
    } else if (event.key === "Backspace") act(event.shiftKey ? "redo" : "undo");
    else if (letter) takeTool(letter);
    else if (event.key === "r") act("turn");
    else if (event.key === "f") act("flip");
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function controls() {
    part("name").textContent = nameOf(Math.max(state.tile, 0));
    const label = labels !== null && state.tile < count ? labels[state.tile] : null;
    part("labelled").textContent = label === null ? "" : `label ${data.classes[label]}`;
    part("method").value = state.method;
    part("target").value = state.target ?? "";
    part("against").value = state.against ?? "";
    const attends = methods[state.method].method === "attention";
    part("target").disabled = part("against").disabled = attends;
    part("removed").value = state.removed;
    part("order").value = state.order;
    part("other").value = state.other;
    part("otherfield").hidden = fill !== "swap";
    part("sizewords").textContent = `${size} px`;
    root.querySelector('[data-act="undo"]').disabled = !state.strokes.length;
    root.querySelector('[data-act="redo"]').disabled = !redone.length;
    root.querySelector('[data-act="clear"]').disabled = !state.strokes.length;
    if (curve) drawCurve();
    mark();
  }
  function openTab(name) {
    root.querySelectorAll("[data-tab]").forEach((tab) => {
      tab.setAttribute("aria-selected", tab.dataset.tab === name);
      tab.tabIndex = tab.dataset.tab === name ? 0 : -1;
    });
    root.querySelectorAll("[data-panel]").forEach((panel) => { panel.hidden = panel.dataset.panel !== name; });
  }

  function listen() {
    listenToTile();
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.act) act(button.dataset.act);
      if (button?.dataset.tool) takeTool(button.dataset.tool);
      if (button?.dataset.tab) openTab(button.dataset.tab);
    });
    root.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
      const tabs = Array.from(root.querySelectorAll("[data-tab]"));
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
      openTab(next.dataset.tab);
      next.focus();
    });
    part("thumbs").addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by || !found.length) return;
      event.preventDefault();
      const at = found.indexOf(state.tile);
      set({ tile: found[Math.min(found.length - 1, Math.max(0, at + by))] });
      thumbs[state.tile].scrollIntoView({ block: "nearest" });
    });
    const on = (name, does) => part(name).addEventListener("change", (event) => does(event.target));
    for (const name of ["label", "answer", "sort"]) on(name, find);
    on("theme", (select) => { root.dataset.theme = select.value; drawCurve(); });
    on("method", (select) => set({ method: Number(select.value) }));
    on("target", (select) => set({ target: select.value === "" ? null : Number(select.value) }));
    on("against", (select) => set({ against: select.value === "" ? null : Number(select.value) }));
    on("whole", wish);
    on("fill", (select) => { fill = select.value; dropCurve(); controls(); wish(); });
    on("other", (select) => set({ other: Number(select.value) }));
    on("order", (select) => set({ order: select.value }));
    on("file", (input) => { take(input.files[0]); input.value = ""; });
    on("camera", (input) => { take(input.files[0]); input.value = ""; });
    part("size").addEventListener("input", (event) => { size = Number(event.target.value); part("sizewords").textContent = `${size} px`; drawCursor(); });
    part("removed").addEventListener("input", (event) => { set({ removed: Number(event.target.value) }); makeCurve().catch((error) => note(error.message)); });
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
    (options.pasteOn ?? root).addEventListener("paste", (event) => { if (event.clipboardData?.files.length) take(event.clipboardData.files[0]); });
  }

  // --- stories ---------------------------------------------------------------------------------------

  function tellStories() {
    for (const story of storiesOf(data)) {
      const item = make("li", "ll-story");
      const start = make("button", "ll-story-title", story.title);
      start.type = "button";
      const body = make("div");
      item.append(start, body);
      start.addEventListener("click", () => begin(story, body));
      part("stories").append(item);
    }
  }
  async function settled() {
    while (busy || done !== wanted) await frame();
  }
  async function begin(story, body) {
    set({ ...START, other: state.other, tile: story.tile });
    await settled();
    const order = Array.from(data.logits[story.tile].keys()).sort((a, b) => data.logits[story.tile][b] - data.logits[story.tile][a]);
    const before = { target: order[0], p: sure[story.tile] };
    const said = { predicted: data.classes[order[0]], second: data.classes[order[1]], sure: words(before.p) };
    body.replaceChildren(make("p", "", story.ask(said, story.tile)));
    const options_ = make("div", "ll-buttons");
    story.options.forEach((text, i) => {
      const option = make("button", "", text);
      option.type = "button";
      option.addEventListener("click", () => reveal(story, body, before, i));
      options_.append(option);
    });
    body.append(options_);
  }
  async function reveal(story, body, before, answered) {
    body.querySelectorAll("button").forEach((button) => { button.disabled = true; });
    if (!engine) {
      body.append(make("p", "", "The engine is still starting; try again in a moment."));
      return;
    }
    story.then({ set, remove: (step) => { set({ removed: step }); makeCurve().catch((error) => note(error.message)); } }, story.tile);
    await settled();
    const [right, text] = story.tell(before, softmax(last.logits), story.tile);
    const verdict = right < 0 ? "" : right === answered ? "As you said. " : "Not as you said. ";
    body.append(make("p", "ll-reveal", verdict + text));
  }

  // --- the start -------------------------------------------------------------------------------------

  function about() {
    for (const [heading, text] of data.about) part("about").append(make("h3", "", heading), make("p", "", text));
  }
  async function open() {
    part("title").textContent = data.title;
    part("facts").textContent = data.facts;
    part("status").textContent = "starting the engine";
    part("key").textContent = `Bars: ${data.model.name} now${beside ? `; thin grey bars: ${beside.name}` : ""}; a line marks the answer before painting. Choose a class for its map.`;
    root.querySelectorAll('[type="radio"]').forEach((radio) => { radio.name = `${root.id}-fit`; });
    const present = labels ?? predicted;
    choose("label", [["", "all"], ...data.classes.map((name, k) => [k, `${name} (${present.filter((label) => label === k).length})`])]);
    choose("answer", [["", "any"], ...(labels ? [["right", "right"], ["wrong", "wrong"]] : []), ...(beside ? [["apart", "networks disagree"]] : [])]);
    choose("sort", [["", "as chosen"], ["unsure", "least confident"], ["sure", "most confident"]]);
    choose("method", methods.map((method, i) => [i, `${method.method}${method.layer ? ` at ${method.layer.replace("network.", "")}` : ""}${method.recommended ? " (recommended)" : ""}`]));
    choose("target", [["", "the predicted class"], ...data.classes.map((name, k) => [k, name])]);
    choose("against", [["", "nothing"], ...data.classes.map((name, k) => [k, name])]);
    choose("other", names.map((name, i) => [i, name]));
    state.other = Math.min(1, count - 1);
    sprite.src = data.tiles.sprite;
    await sprite.decode();
    if (options.link?.length > 1) follow(options.link);
    controls();
    wish();
    await settled();
    root.dataset.first = Math.round(performance.now());
    find();
    about();
    drawCurve();
    tellStories();
    listen();
    root.dataset.ready = "tiles";
    const setup = { spec: data.spec, kernels: data.kernels, weights: await weights() };
    engine = await startEngine(setup);
    root.dataset.kernel = engine.kind;
    root.dataset.where = engine.where;
    part("status").title = engine.tried.join("; ");
    if (engine.tried.length) part("about").append(make("h3", "", "What this browser refused"), make("p", "", engine.tried.join("; ")));
    wish();
    await settled();
    root.dataset.live = Math.round(performance.now());
    root.dataset.ready = "live";
  }
  root.id ||= `lulc-live-${Math.random().toString(36).slice(2, 8)}`;
  open().catch((error) => {
    note(`The page could not start its engine: ${error.message}`);
    part("status").textContent = "not live";
    root.dataset.ready = "failed";
  });

  return { set, follow, settled, ask: (...given) => engine.ask(...given), look: () => ({ state, last, curve }), pixelsOf, end: () => { ended = true; engine?.end(); } };
}
