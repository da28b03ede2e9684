// Shows a view and its answer: the tile, bars, maps, and whether the map turned. It changes no state.

const DRAWN = 192; // pixels of a drawn map
const KINDS = { relaxed: "relaxed SIMD", simd: "SIMD", JavaScript: "plain JavaScript" };

function showingOn(page) {
  const { part, data, tiles, answers } = page;
  const { classes, cells } = data;
  const { methods, beside, tokenOf } = answers;
  const { side, count } = tiles;
  const tables = { signed: bytesOf(data.tables.signed), plain: bytesOf(data.tables.plain) };
  const tableOf = (signed) => (signed ? tables.signed : tables.plain);

  function show(view, answer) {
    sized(part("tile"), side).putImageData(imageData(answer.pixels, side), 0, 0);
    if (answer.logits) showAnswer(view, answer);
    else showNoAnswer(view);
    showMap(view, answer);
    showBeside(view, answer.pixels);
    showTurned(view, answer);
  }

  // --- bars --------------------------------------------------------------------------------------

  const rows = classes.map((name, k) => {
    const row = make("li");
    const button = make("button", "ll-row");
    button.type = "button";
    const track = make("span", "ll-track");
    const [bar, before, other] = [make("span", "ll-bar"), make("span", "ll-before"), make("span", "ll-other")];
    bar.style.background = data.colours[k];
    track.append(bar, before, other);
    const value = make("span", "ll-value");
    button.append(make("span", "ll-name", name), track, value);
    button.addEventListener("click", () => page.set({ target: page.state.target === k ? null : k }));
    row.append(button);
    part("bars").append(row);
    return { button, bar, before, other, value };
  });
  function showAnswer(view, { logits, ms }) {
    const now = softmax(logits);
    const start = view.tile < count ? data.logits[view.tile] : tiles.own.logits;
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
      row.button.setAttribute("aria-pressed", view.target === k);
      row.button.setAttribute("aria-label", `${classes[k]} ${words(now[k])}${changed ? `, before ${words(before[k])}` : ""}; show its map`);
    });
    const top = topOf(now);
    const was = changed ? ` (${topOf(before) === top ? "" : `${classes[topOf(before)]} `}${words(before[topOf(before)])} before)` : "";
    part("said").textContent = `${data.model.name} says ${classes[top]}, ${words(now[top])}${was}`;
    if (ms !== null) part("status").textContent = `live: ${page.running}, ${ms.toFixed(0)} ms`;
  }
  function showNoAnswer(view) {
    rows.forEach((row, k) => {
      row.bar.style.width = share(0);
      row.value.textContent = "";
      row.before.hidden = row.other.hidden = true;
      row.button.setAttribute("aria-pressed", view.target === k);
      row.button.setAttribute("aria-label", `${classes[k]}; show its map`);
    });
    part("said").textContent = "No answer: the engine is not running";
  }

  // --- maps --------------------------------------------------------------------------------------

  const overlay = (canvas, pixels, map) => drawOver(canvas, pixels, side, map, page.state.whole, DRAWN);
  const barsDrawn = new Map();
  function scaleBar(name, signed, limit) {
    const table = tableOf(signed);
    part(`${name}low`).textContent = number(signed ? -limit : 0);
    part(`${name}high`).textContent = number(limit);
    if (barsDrawn.get(name) === table) return;
    barsDrawn.set(name, table);
    const image = new ImageData(256, 1);
    for (let i = 0; i < 256; i += 1) image.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    part(`${name}bar`).getContext("2d").putImageData(image, 0, 0);
  }
  function strongest(grid, rowCount, columns) {
    const at = topOf(Array.from(grid));
    return `strongest in row ${Math.floor(at / columns) + 1} of ${rowCount}, column ${(at % columns) + 1} of ${columns}`;
  }
  function questionOf(view, logits) {
    const token = tokenOf(view);
    if (methods[view.method].method === "attention") {
      const name = token < 0 ? "the class token" : `the token in row ${Math.floor(token / cells) + 1}, column ${(token % cells) + 1}`;
      return `what ${name} attends to`;
    }
    const target = view.target ?? (logits ? topOf(logits) : null);
    const against = view.against === null || view.against === target ? "" : ` rather than ${classes[view.against]}`;
    return `${target === null ? "" : classes[target]}${against}`;
  }
  function showMap(view, { logits, grid, pixels }) {
    const { method, layer, where, limit, signed, verdict } = methods[view.method];
    overlay(part("map"), pixels, grid && { rows: cells, columns: cells, grid, peak: 127, limit, signed, table: tableOf(signed) });
    scaleBar("", signed, limit);
    const of = questionOf(view, logits);
    part("mapped").textContent = `${data.model.name}: ${of}`;
    part("verdict").textContent = `${method}${where ? ` at ${where}` : ""}, ${cells}x${cells} cells. ${verdict}`;
    part("verdict").title = layer ?? "";
    part("map").setAttribute("aria-label", grid ? `Map by ${method} of ${of}: ${strongest(grid, cells, cells)}` : "No map yet: the engine is starting");
  }

  let besideDrawn = "";
  function showBeside(view, pixels) {
    part("beside").hidden = !beside;
    if (!beside) return;
    const { limit, signed, rows: rowCount, columns } = beside;
    const n = rowCount * columns;
    const target = view.target ?? beside.predicted[view.tile];
    const at = view.tile < count ? beside.pairs.findIndex(([tile, k]) => tile === view.tile && k === target) : -1;
    const straight = view.tile < count && !view.turn && !view.flip;
    const grid = at >= 0 && straight ? beside.values.subarray(at * n, (at + 1) * n) : null;
    const drawn = JSON.stringify([at, view.tile, straight, view.whole]);
    if (grid && drawn === besideDrawn) return; // painting changes nothing here
    besideDrawn = grid ? drawn : "";
    overlay(part("besidemap"), grid ? tiles.pixelsOf(view.tile) : pixels, grid && { rows: rowCount, columns, grid, peak: beside.peaks[at], limit, signed, table: tableOf(signed) });
    scaleBar("beside", signed, limit);
    const said = view.tile < count ? `says ${classes[beside.predicted[view.tile]]}` : "has not seen this picture";
    part("besidename").textContent = `${beside.name} ${said}${grid ? `; map of ${classes[target]}` : ""}`;
    const why = grid ? "" : straight ? "No map of this class was made before. " : "Maps were made of the tiles as they are. ";
    part("besidewords").textContent = `${why}${beside.method}. ${beside.verdict} The maps were made before: this network is not live, since it would take ${beside.size} and about a second for a map.`;
    part("besidemap").setAttribute("aria-label", grid ? `Map of ${classes[target]} by ${beside.name}: ${strongest(grid, rowCount, columns)}` : "The tile in grey, without a map");
  }

  function showTurned(view, answer) {
    if (!view.turn && !view.flip) {
      part("turned").textContent = "The tile lies as it came.";
    } else if (answer.straight) {
      const from = turning(cells, view.turn, view.flip);
      const back = Float32Array.from(from, (at) => answer.straight.grid[at]);
      const k = view.target ?? topOf(answer.logits);
      part("turned").textContent = `Rank correlation of the two maps of ${questionOf(view, answer.logits)}: ${spearman(back, answer.grid).toFixed(2).replace("-", "−")}. The probability of ${classes[k]} went from ${words(softmax(answer.straight.logits)[k])} to ${words(softmax(answer.logits)[k])}.`;
    } else if (!answer.logits) {
      part("turned").textContent = "Maps are compared once the engine runs.";
    } else if (view.removed) {
      part("turned").textContent = "Maps are compared while no cells are taken away: set the slider to 0.";
    }
  }
  return { show };
}
