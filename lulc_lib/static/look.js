// The tile with its brush, and beside it what each model says: probabilities and maps.
// Python puts shared.js before this file; `shown` is all that there is to see.

const SIDE = 64; // pixels of a tile
const DRAWN = 192; // pixels of a drawn map

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
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

function bars(answer, classes, colours) {
  const order = answer.probabilities.map((_, i) => i);
  order.sort((a, b) => answer.probabilities[b] - answer.probabilities[a]);
  const list = make("ol", "lulc-bars");
  for (const i of order.slice(0, 4)) {
    const share = answer.probabilities[i];
    const row = make("li");
    row.append(make("span", "lulc-bar-name", classes[i]));
    const track = make("span", "lulc-bar-track");
    const bar = make("span", "lulc-bar");
    bar.style.width = `${100 * share}%`;
    bar.style.background = colours[i];
    track.append(bar);
    if (answer.before) {
      const mark = make("span", "lulc-bar-before");
      mark.style.left = `${100 * answer.before[i]}%`;
      mark.title = `before painting ${(100 * answer.before[i]).toFixed(1)} %`;
      track.append(mark);
    }
    row.append(track, make("span", "lulc-bar-value", `${(100 * share).toFixed(1)} %`));
    list.append(row);
  }
  return list;
}

function mapFigure(map, grey, shown) {
  const figure = make("figure", "lulc-map");
  if (map.problem) {
    figure.append(make("p", "lulc-problem", map.problem));
    return figure;
  }
  if (map.waiting) {
    figure.append(make("p", "lulc-waiting", map.waiting));
    return figure;
  }
  const stack = make("div", "lulc-stack");
  const over = make("canvas", "lulc-over");
  over.width = over.height = DRAWN;
  over.style.opacity = shown.opacity;
  over.setAttribute("role", "img");
  over.setAttribute("aria-label", map.alt);
  const table = bytesOf(shown.tables[map.signed ? "diverging" : "sequential"]);
  const grid = new Int8Array(bytesOf(map.values).buffer);
  drawMap(over, { ...map, grid, table }, false);
  const under = tileCanvas(grey, "lulc-under");
  under.setAttribute("aria-hidden", "true");
  stack.append(under, over);
  const limit = map.limit.toPrecision(2);
  const scale = make("div", "lulc-scale");
  const bar = make("canvas", "lulc-scale-bar");
  bar.width = 256;
  bar.height = 1;
  const strip = new ImageData(256, 1);
  for (let i = 0; i < 256; i += 1) strip.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  bar.getContext("2d").putImageData(strip, 0, 0);
  scale.append(make("span", "", map.signed ? `−${limit}` : "0"), bar, make("span", "", limit));
  scale.title = map.clipped ? "the strongest values lie beyond the scale" : "";
  const caption = make("figcaption");
  caption.append(make("b", "", `${map.method} · ${map.target}`), make("br"));
  caption.append(map.words.join(" · "));
  for (const text of map.warnings) caption.append(make("p", "lulc-warning", `⚠ ${text}`));
  figure.append(stack, scale, caption);
  return figure;
}

function render({ model, el }) {
  el.classList.add("lulc-look");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const left = make("div", "lulc-left");
  const holder = make("div", "lulc-painter");
  const canvas = make("canvas", "lulc-tile");
  canvas.width = canvas.height = SIDE;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  const ink = make("canvas", "lulc-ink"); // the stroke under way, until the kernel has painted it
  ink.width = ink.height = 4 * SIDE;
  holder.append(canvas, ink);
  const caption = make("p", "lulc-caption");
  left.append(holder, caption);
  const right = make("div", "lulc-answers");
  el.replaceChildren(left, right);

  let points = null; // of the stroke under way
  let asked = false; // the kernel has not answered the last part of it
  let cursor = [SIDE / 2, SIDE / 2];

  function draw() {
    const shown = { ...model.get("fixed"), ...model.get("shown") };
    asked = false;
    if (!shown.tile) {
      holder.hidden = true;
      caption.textContent = shown.words || "";
      right.replaceChildren();
      return;
    }
    holder.hidden = false;
    const image = tileData(shown.tile);
    canvas.getContext("2d").putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `${shown.words}. Arrow keys move the brush, Space paints`);
    caption.textContent = shown.words;
    if (!points) ink.getContext("2d").clearRect(0, 0, ink.width, ink.height);
    const grey = toGrey(tileData(shown.tile));
    right.replaceChildren(
      ...shown.answers.map((answer) => {
        const section = make("section", "lulc-answer");
        section.dataset.model = answer.name;
        const head = make("h4");
        const sign = { right: "✓ ", wrong: "✗ ", open: "" }[answer.verdict];
        head.append(make("span", "", answer.name), " ");
        head.append(make("span", `lulc-${answer.verdict}`, sign + answer.words));
        section.append(head);
        if (answer.known) {
          section.append(make("p", "lulc-warning", "⚠ the model was trained on this tile"));
        }
        section.append(bars(answer, shown.classes, shown.colours));
        const maps = make("div", "lulc-maps");
        maps.append(...answer.maps.map((map) => mapFigure(map, grey, shown)));
        section.append(maps);
        return section;
      }),
    );
    el.dataset.pending = shown.pending;
    el.dataset.serial = shown.serial;
    if (points && points.grown) send(false);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const at = (value, size) => Math.min(SIDE, Math.max(0, (value / size) * SIDE));
    return [at(event.clientX - box.left, box.width), at(event.clientY - box.top, box.height)];
  }

  function dab([x, y]) {
    const context = ink.getContext("2d");
    context.fillStyle = "rgb(255 255 255 / 0.35)";
    context.beginPath();
    context.arc(4 * x, 4 * y, 4 * model.get("shown").radius, 0, 2 * Math.PI);
    context.fill();
  }

  function send(done) {
    if (asked && !done) return;
    asked = true;
    points.grown = false;
    const rounded = points.map((point) => point.map((v) => Math.round(10 * v) / 10));
    model.send({ kind: "stroke", points: rounded, done });
    if (done) points = null;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    points = [place(event)];
    dab(points[0]);
    send(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!points) return;
    points.push(place(event));
    points.grown = true;
    dab(points[points.length - 1]);
    send(false);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, () => points && send(true));
  }
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-2, 0], ArrowRight: [2, 0], ArrowUp: [0, -2], ArrowDown: [0, 2] };
    if (step[event.key]) {
      cursor = cursor.map((v, i) => Math.min(SIDE, Math.max(0, v + step[event.key][i])));
      ink.getContext("2d").clearRect(0, 0, ink.width, ink.height);
      dab(cursor);
    } else if (event.key === " " || event.key === "Enter") {
      points = [cursor];
      send(true);
    } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      model.send({ kind: "undo" });
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:shown", draw);
  draw();
  return () => model.off("change:shown", draw);
}

export default { render };
