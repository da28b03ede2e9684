
(() => {
  "use strict";
  const SIDE = 192; // pixels of a drawn map
  const page = document.documentElement;
  const find = (id) => document.getElementById(id);
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  const columns = JSON.parse(find("maps").textContent).columns;
  for (const column of columns) {
    column.grid = new Int8Array(bytes(column.values).buffer);
    column.table = bytes(column.colours);
  }
  page.classList.add("js");

  // Where each drawn pixel falls on a grid of n cells: two neighbours and the share of the second
  // (bilinear, align_corners=False). With whole cells both are the cell itself.
  function samples(n, whole) {
    return Array.from({ length: SIDE }, (_, pixel) => {
      const cell = Math.floor((pixel * n) / SIDE);
      if (whole) return [cell, cell, 0];
      const at = Math.min(Math.max(((pixel + 0.5) * n) / SIDE - 0.5, 0), n - 1);
      const low = Math.floor(at);
      return [low, Math.min(low + 1, n - 1), at - low];
    });
  }

  function enlarge(column, tile, whole) {
    const { rows, columns: across, grid } = column;
    const start = tile * rows * across;
    const unit = column.peaks[tile] / 127;
    const xs = samples(across, whole);
    const values = new Float32Array(SIDE * SIDE);
    samples(rows, whole).forEach(([top, bottom, down], y) => {
      const a = start + top * across;
      const b = start + bottom * across;
      xs.forEach(([left, right, along], x) => {
        const upper = grid[a + left] * (1 - along) + grid[a + right] * along;
        const lower = grid[b + left] * (1 - along) + grid[b + right] * along;
        values[y * SIDE + x] = unit * (upper * (1 - down) + lower * down);
      });
    });
    return values;
  }

  // Draws the colours of one map, and a line at half of the scale, dashed below 0.
  function drawMap(canvas) {
    const column = columns[canvas.dataset.column];
    const values = enlarge(column, Number(canvas.dataset.tile), find("cells").checked);
    const { limit, signed, table } = column;
    const level = (at) => (values[at] > limit / 2 ? 1 : signed && values[at] < -limit / 2 ? -1 : 0);
    const context = canvas.getContext("2d");
    const image = context.createImageData(SIDE, SIDE);
    for (let at = 0; at < values.length; at += 1) {
      const share = signed ? (values[at] / limit + 1) / 2 : values[at] / limit;
      const colour = 3 * Math.min(255, Math.max(0, Math.round(share * 255)));
      const x = at % SIDE;
      const y = (at - x) / SIDE;
      const here = level(at);
      const left = x > 0 ? level(at - 1) : here;
      const above = y > 0 ? level(at - SIDE) : here;
      const gap = Math.min(here, left, above) < 0 && (x + y) % 7 > 3;
      const line = (here !== left || here !== above) && !gap;
      for (let channel = 0; channel < 3; channel += 1) {
        image.data[4 * at + channel] = line ? 0 : table[colour + channel];
      }
      image.data[4 * at + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  // Draws the tile in grey below its maps, spread around mid-grey so that dark tiles carry a map.
  function drawGrey(card) {
    const tile = card.querySelector(".tile");
    const under = document.createElement("canvas");
    under.width = under.height = 64;
    under.className = "under";
    const context = under.getContext("2d");
    context.drawImage(tile, 0, 0, 64, 64);
    const image = context.getImageData(0, 0, 64, 64);
    const grey = new Float32Array(64 * 64).map((_, i) => {
      const [red, green, blue] = image.data.subarray(4 * i, 4 * i + 3);
      return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
    });
    const sorted = grey.slice().sort();
    const quantile = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const gain = Math.min(2.5, 0.7 / Math.max(quantile(0.98) - quantile(0.02), 1e-3));
    grey.forEach((value, i) => {
      const shown = 255 * Math.min(1, Math.max(0.1, 0.5 + gain * (value - quantile(0.5))));
      image.data.fill(shown, 4 * i, 4 * i + 3);
    });
    context.putImageData(image, 0, 0);
    for (const stack of all(".stack", card)) {
      const copy = under.cloneNode();
      copy.setAttribute("aria-hidden", "true");
      copy.getContext("2d").drawImage(under, 0, 0);
      stack.prepend(copy);
    }
  }

  function draw(card) {
    if (card.dataset.drawn) return;
    const tile = card.querySelector(".tile");
    if (!tile.complete || tile.naturalWidth === 0) {
      tile.addEventListener("load", () => draw(card), { once: true });
      return;
    }
    card.dataset.drawn = "yes";
    drawGrey(card);
    all(".over", card).forEach(drawMap);
  }

  // The value below the pointer, as a tooltip.
  function tell(event) {
    const canvas = event.target.closest(".stack")?.querySelector(".over");
    if (!canvas) return;
    const { rows, columns: across, grid, peaks } = columns[canvas.dataset.column];
    const box = canvas.getBoundingClientRect();
    const cell = (at, size, n) => Math.min(n - 1, Math.max(0, Math.floor((at / size) * n)));
    const row = cell(event.clientY - box.top, box.height, rows);
    const across_ = cell(event.clientX - box.left, box.width, across);
    const tile = Number(canvas.dataset.tile);
    const value = (grid[(tile * rows + row) * across + across_] * peaks[tile]) / 127;
    canvas.title = `row ${row + 1}, column ${across_ + 1}: ${value.toPrecision(2)}`;
  }

  const cards = all(".card");
  function choose() {
    const label = find("label")?.value ?? "";
    const verdict = find("verdict")?.value ?? "";
    let shown = 0;
    for (const card of cards) {
      const fits =
        (!label || card.dataset.label === label) &&
        (!verdict ||
          (verdict === "disagree" ? card.dataset.agree === "no" : card.dataset.verdict === verdict));
      card.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    find("count").textContent = `${shown} of ${cards.length} tile${cards.length === 1 ? "" : "s"}`;
    find("none").hidden = shown > 0;
  }

  function setOpacity() {
    const value = find("opacity").value;
    page.style.setProperty("--opacity", value / 100);
    find("opacity-value").textContent = `${value} %`;
  }

  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((e) => draw(e.target)),
    { rootMargin: "600px" },
  );
  cards.forEach((card) => watcher.observe(card));
  cards.filter((card) => card.getBoundingClientRect().top < 2 * innerHeight).forEach(draw);
  addEventListener("beforeprint", () => cards.forEach(draw));
  find("label")?.addEventListener("change", choose);
  find("verdict")?.addEventListener("change", choose);
  find("opacity").addEventListener("input", setOpacity);
  find("cells").addEventListener("change", () => all(".card[data-drawn] .over").forEach(drawMap));
  find("theme").addEventListener("change", (event) => { page.dataset.theme = event.target.value; });
  find("cards").addEventListener("pointermove", tell);
  for (const box of all(".toggle")) {
    box.addEventListener("change", () => {
      all(`.map[data-column="${box.dataset.column}"]`).forEach((map) => { map.hidden = !box.checked; });
    });
  }
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  choose();
  setOpacity();
})();
