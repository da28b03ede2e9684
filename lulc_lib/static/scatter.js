// The embedding map: a point per tile, coloured by class. The pointer shows the nearest tile, a
// click opens it, a drag draws a lasso that keeps what lies inside it, the wheel zooms. Python puts
// shared.js before this file.

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
  clear.className = "lulc-button";
  const whole = document.createElement("button");
  whole.type = "button";
  whole.className = "lulc-button";
  whole.textContent = "whole map";
  whole.addEventListener("click", () => zoom(1, [SIZE / 2, SIZE / 2]));
  const count = document.createElement("strong");
  count.className = "lulc-count";
  count.setAttribute("role", "status");
  const hover = document.createElement("div");
  hover.className = "lulc-hover";
  hover.hidden = true;
  el.replaceChildren(canvas, clear, " ", whole, " ", count, words, legend, hover);

  let points = [];
  let way = null; // of the lasso under way
  let scale = 1; // of the drawing
  let origin = [0, 0]; // what lies at its top left corner
  let near = -1; // the point below the pointer
  let soon = 0; // a question to the kernel that waits

  const onMap = ([x, y]) => [(x - origin[0]) * scale, (y - origin[1]) * scale];

  function zoom(to, [x, y]) {
    const wanted = Math.min(16, Math.max(1, to));
    const fixed = [origin[0] + x / scale, origin[1] + y / scale];
    const most = SIZE - SIZE / wanted;
    origin = [fixed[0] - x / wanted, fixed[1] - y / wanted]
      .map((v) => Math.min(most, Math.max(0, v)));
    scale = wanted;
    draw();
  }

  function draw() {
    const shown = { ...model.get("cloud"), ...model.get("shown") }; // the points, and which count
    words.textContent = shown.words;
    clear.disabled = !shown.lassoed;
    whole.disabled = scale === 1;
    const tiles = shown.inside === 1 ? "tile" : "tiles";
    count.textContent = shown.lassoed ? `${shown.inside} ${tiles} in the lasso` : "";
    canvas.hidden = !shown.places;
    legend.hidden = !shown.places;
    if (!shown.places) return;
    canvas.setAttribute("aria-label", shown.words);
    const places = new Float32Array(bytesOf(shown.places).buffer);
    const labels = bytesOf(shown.labels);
    const kept = bytesOf(shown.kept);
    points = Array.from(labels, (_, i) => onMap([
      SIZE / 2 + (SIZE / 2 - 8) * places[2 * i],
      SIZE / 2 - (SIZE / 2 - 8) * places[2 * i + 1],
    ]));
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, SIZE, SIZE);
    for (const inside of [0, 1]) {
      points.forEach(([x, y], i) => {
        if (kept[i] !== inside) return;
        context.globalAlpha = inside ? 0.85 : 0.12;
        context.fillStyle = shown.colours[labels[i]];
        const side = 3 + Math.min(4, scale - 1);
        context.fillRect(x - side / 2, y - side / 2, side, side);
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
  function nearest([x, y]) {
    const apart = points.map(([px, py]) => Math.hypot(px - x, py - y));
    const index = apart.indexOf(Math.min(...apart));
    return apart[index] < 12 ? index : -1;
  }

  // Shows the tile below the pointer; the kernel sends its picture.
  function point(event) {
    const index = nearest(place(event));
    const box = el.getBoundingClientRect();
    hover.style.left = `${Math.min(event.clientX - box.left + 14, box.width - 100)}px`;
    hover.style.top = `${event.clientY - box.top + 14}px`;
    if (index === near) return;
    near = index;
    hover.hidden = true;
    clearTimeout(soon);
    drawHover(); // what the kernel sent last, where it is of this point
    if (near >= 0) soon = setTimeout(() => model.send({ kind: "hover", index: near }), 60);
  }

  function drawHover() {
    const told = model.get("hover");
    if (told.index !== near || near < 0) return;
    const picture = document.createElement("canvas");
    picture.width = picture.height = 64;
    const rgb = bytesOf(told.tile);
    const image = new ImageData(64, 64);
    for (let i = 0; i < 64 * 64; i += 1) {
      image.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
    }
    picture.getContext("2d").putImageData(image, 0, 0);
    hover.replaceChildren(picture, told.words);
    hover.hidden = false;
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(scale * (event.deltaY < 0 ? 1.3 : 1 / 1.3), place(event));
  }, { passive: false });
  canvas.addEventListener("pointerleave", () => {
    near = -1;
    clearTimeout(soon);
    hover.hidden = true;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!way) return point(event);
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
    const index = nearest(first);
    if (index >= 0) model.send({ kind: "point", index });
  });
  canvas.addEventListener("pointercancel", () => {
    way = null;
    draw();
  });
  model.on("change:shown change:cloud", draw);
  model.on("change:hover", drawHover);
  draw();
  return () => {
    model.off("change:shown change:cloud", draw);
    model.off("change:hover", drawHover);
    clearTimeout(soon);
  };
}

export default { render };
