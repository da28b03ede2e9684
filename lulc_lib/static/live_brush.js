// What a reader does to the tile: brush, eraser, covering square, pointing, by pointer and by keys.

function brushOn(page) {
  const { root, part, data, tiles, answers, seen } = page;
  const { side } = tiles;
  let tool = "paint";
  let size = 10;
  let cursor = [side / 2, side / 2]; // in pixels of what is shown
  let hovered = null; // where the covering square lies
  let stroke = null; // what is being painted
  let painter = null; // the pointer that paints it
  let redone = []; // strokes taken back

  function paint(points, finished) {
    stroke = { kind: tool === "erase" ? "erase" : page.state.fill, size, points };
    if (!finished) {
      page.wish();
      return;
    }
    const added = stroke;
    stroke = null;
    redone = [];
    page.set({ strokes: merged([...page.state.strokes, added], side) });
  }
  const release = () => { if (stroke) paint(stroke.points, true); };
  const place = ([x, y]) => seen.straight([x, y], page.state);
  function cover(at) {
    hovered = at;
    page.wish();
  }
  function point(at) {
    const [column, row] = seen.cellAt(at);
    const attention = answers.methods.findIndex((method) => method.method === "attention");
    page.set({ token: row * data.cells + column, method: attention });
  }
  function take(name) {
    release();
    tool = name;
    hovered = null;
    root.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.tool === name));
    draw();
    page.wish();
  }

  const ACTS = {
    undo({ strokes }) {
      if (!strokes.length) return;
      redone.push(strokes.at(-1));
      page.set({ strokes: strokes.slice(0, -1) });
    },
    redo({ strokes }) { if (redone.length) page.set({ strokes: [...strokes, redone.pop()] }); },
    clear({ strokes }) {
      if (!strokes.length) return;
      redone = [];
      page.set({ strokes: [...strokes, { kind: "clear", size: 1, points: [] }], removed: 0 });
    },
    turn({ turn }) { page.set({ turn: (turn + 1) % 4 }); },
    flip({ turn, flip }) { page.set({ turn: turn % 2 ? (turn + 2) % 4 : turn, flip: !flip }); },
  };
  function act(name) {
    release();
    ACTS[name](page.state);
  }

  function draw() {
    const scale = 6;
    const context = sized(part("cursor"), scale * side);
    context.clearRect(0, 0, scale * side, scale * side);
    const [x, y] = cursor.map((at) => at * scale);
    const ring = (colour, width) => {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      if (tool === "point") {
        const [column, row] = seen.cellAt(cursor);
        const cell = (side / data.cells) * scale;
        context.rect(seen.edge(column) * scale, seen.edge(row) * scale, cell, cell);
      } else if (tool === "occlude") context.rect(x - (size * scale) / 2, y - (size * scale) / 2, size * scale, size * scale);
      else context.arc(x, y, (size * scale) / 2, 0, 7);
      context.stroke();
    };
    ring("#000", 4);
    ring("#fff", 2);
  }

  // --- pointer and keys --------------------------------------------------------------------------

  const placeOn = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  };
  function down(event) {
    if (event.button !== 0 || stroke) return;
    const canvas = event.currentTarget;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    cursor = placeOn(event, canvas);
    draw();
    if (tool === "point") point(cursor);
    else if (tool === "occlude") cover(cursor);
    else {
      painter = event.pointerId;
      canvas.setPointerCapture(painter);
      paint([place(cursor)], false);
    }
  }
  function move(event) {
    if (stroke && event.pointerId !== painter) return; // another finger
    cursor = placeOn(event, event.currentTarget);
    draw();
    if (stroke) paint([...stroke.points, place(cursor)], false);
    else if (tool === "occlude") cover(cursor);
  }
  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = event.shiftKey ? Math.round(side / 8) : 1;
    const steps = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
    const letter = { b: "paint", e: "erase", o: "occlude", t: "point" }[event.key];
    if (steps) {
      cursor = cursor.map((at, i) => Math.min(side, Math.max(0, at + steps[i])));
      if (tool === "occlude") cover(cursor);
      draw();
      page.tell(`row ${Math.round(cursor[1])}, column ${Math.round(cursor[0])}`);
    } else if (event.key === " ") {
      if (tool === "point") point(cursor);
      else if (tool !== "occlude") paint([place(cursor)], true);
    } else if (event.key === "Backspace") act(event.shiftKey ? "redo" : "undo");
    else if (letter) take(letter);
    else if (event.key === "r") act("turn");
    else if (event.key === "f") act("flip");
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function controls() {
    part("sizewords").textContent = `${size} px`;
    const { strokes } = page.state;
    const button = (name) => root.querySelector(`[data-act="${name}"]`);
    button("undo").disabled = button("clear").disabled = !strokes.length;
    button("redo").disabled = !redone.length;
  }
  function listen() {
    const canvas = part("tile");
    canvas.addEventListener("pointerdown", down);
    canvas.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => { if (event.pointerId === painter) release(); });
    }
    for (const name of ["pointerleave", "blur"]) {
      canvas.addEventListener(name, () => { if (hovered) cover(null); });
    }
    canvas.addEventListener("keydown", key);
    part("map").addEventListener("click", (event) => {
      if (answers.methods[page.state.method].method === "attention") point(placeOn(event, part("map")));
    });
    part("size").addEventListener("input", (event) => {
      size = Number(event.target.value);
      controls();
      draw();
    });
  }
  return {
    act, take, draw, controls, listen, acts: Object.keys(ACTS),
    forget() { // another tile, or another picture
      redone = [];
      stroke = null;
      hovered = null;
    },
    get stroke() { return stroke; },
    get square() { return hovered && { at: hovered, size }; },
  };
}
