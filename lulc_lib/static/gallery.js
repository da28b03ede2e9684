(() => {
  "use strict";
  const page = document.documentElement;
  const find = (id) => document.getElementById(id);
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  const columns = JSON.parse(find("maps").textContent).columns;
  for (const column of columns) {
    column.grid = new Int8Array(bytesOf(column.values).buffer);
    column.table = bytesOf(column.colours);
  }
  page.classList.add("js");

  function drawColumn(canvas) {
    const column = columns[canvas.dataset.column];
    const tile = Number(canvas.dataset.tile);
    const cells = column.rows * column.columns;
    const grid = column.grid.subarray(tile * cells, (tile + 1) * cells);
    drawMap(canvas, { ...column, grid, peak: column.peaks[tile] }, find("cells").checked);
  }

  // Draws the tile in grey below its maps.
  function drawGrey(card) {
    const under = document.createElement("canvas");
    under.width = under.height = 64;
    under.className = "under";
    const context = under.getContext("2d");
    context.drawImage(card.querySelector(".tile"), 0, 0, 64, 64);
    context.putImageData(toGrey(context.getImageData(0, 0, 64, 64)), 0, 0);
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
    all(".over", card).forEach(drawColumn);
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
  find("cells").addEventListener("change", () => all(".card[data-drawn] .over").forEach(drawColumn));
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
