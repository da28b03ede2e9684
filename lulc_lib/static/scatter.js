// The embedding map: a point per tile, coloured by class. A click opens the nearest tile, a drag
// draws a lasso that keeps what lies inside it. Python puts shared.js before this file.

const SIZE = 480; // drawn pixels

function render({ model, el }) {
  el.classList.add("lulc-scatter");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  canvas.setAttribute("role", "img");
  const words = document.createElement("p");
  const legend = document.createElement("ul");
  legend.className = "lulc-legend";
  const clear = document.createElement("button");
  clear.type = "button";
  clear.textContent = "clear the lasso";
  clear.addEventListener("click", () => model.send({ kind: "lasso", indices: [] }));
  el.replaceChildren(canvas, clear, words, legend);

  let points = [];
  let way = null; // of the lasso under way

  function draw() {
    const shown = { ...model.get("cloud"), ...model.get("shown") }; // the points, and which count
    words.textContent = shown.words;
    clear.disabled = !shown.lassoed;
    canvas.hidden = !shown.places;
    legend.hidden = !shown.places;
    if (!shown.places) return;
    canvas.setAttribute("aria-label", shown.words);
    const places = new Float32Array(bytesOf(shown.places).buffer);
    const labels = bytesOf(shown.labels);
    const kept = bytesOf(shown.kept);
    points = Array.from(labels, (_, i) => [
      SIZE / 2 + (SIZE / 2 - 8) * places[2 * i],
      SIZE / 2 - (SIZE / 2 - 8) * places[2 * i + 1],
    ]);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, SIZE, SIZE);
    for (const inside of [0, 1]) {
      points.forEach(([x, y], i) => {
        if (kept[i] !== inside) return;
        context.globalAlpha = inside ? 0.85 : 0.12;
        context.fillStyle = shown.colours[labels[i]];
        context.fillRect(x - 1.5, y - 1.5, 3, 3);
      });
    }
    context.globalAlpha = 1;
    if (shown.chosen >= 0) {
      const [x, y] = points[shown.chosen];
      context.lineWidth = 2;
      for (const [colour, radius] of [["#ffffff", 8], ["#000000", 6]]) {
        context.strokeStyle = colour;
        context.beginPath();
        context.arc(x, y, radius, 0, 2 * Math.PI);
        context.stroke();
      }
    }
    legend.replaceChildren(
      ...shown.classes.map((name, i) => {
        const item = document.createElement("li");
        const chip = document.createElement("span");
        chip.style.background = shown.colours[i];
        item.append(chip, name);
        return item;
      }),
    );
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * SIZE,
      ((event.clientY - box.top) / box.height) * SIZE,
    ];
  }

  // Whether a point lies inside a closed way: how often a ray to the right crosses it.
  function inside([x, y], edges) {
    let odd = false;
    edges.forEach(([ax, ay], i) => {
      const [bx, by] = edges[(i + 1) % edges.length];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    });
    return odd;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    way = [place(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!way) return;
    way.push(place(event));
    const context = canvas.getContext("2d");
    context.strokeStyle = "#d1495b";
    context.lineWidth = 2;
    context.beginPath();
    way.slice(-2).forEach(([x, y]) => context.lineTo(x, y));
    context.stroke();
  });
  canvas.addEventListener("pointerup", () => {
    const edges = way;
    way = null;
    if (!edges || !points.length) return;
    const [first] = edges;
    const far = Math.max(...edges.map(([x, y]) => Math.hypot(x - first[0], y - first[1])));
    if (far > 8) {
      const indices = points.flatMap((point, i) => (inside(point, edges) ? [i] : []));
      draw();
      if (indices.length) model.send({ kind: "lasso", indices });
      return;
    }
    const apart = points.map(([x, y]) => Math.hypot(x - first[0], y - first[1]));
    const index = apart.indexOf(Math.min(...apart));
    if (apart[index] < 12) model.send({ kind: "point", index });
  });
  canvas.addEventListener("pointercancel", () => {
    way = null;
    draw();
  });
  model.on("change:shown change:cloud", draw);
  draw();
  return () => model.off("change:shown change:cloud", draw);
}

export default { render };
