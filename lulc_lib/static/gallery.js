(() => {
  "use strict";
  const page = document.documentElement;
  const find = (id) => document.getElementById(id);
  const all = (selector, from = document) => Array.from(from.querySelectorAll(selector));

  const { columns, models, labels, classes, apart } = JSON.parse(find("maps").textContent);
  for (const column of columns) {
    column.table = bytesOf(column.colours);
    for (const variant of Object.values(column.variants)) {
      variant.grid = new Int8Array(bytesOf(variant.values).buffer);
    }
  }
  page.classList.add("js");

  // The maps of a column for the target that the reader chose; where it has none, its first.
  function variantOf(column) {
    return column.variants[find("target")?.value] ?? Object.values(column.variants)[0];
  }

  function drawColumn(canvas) {
    const column = columns[canvas.dataset.column];
    const tile = Number(canvas.dataset.tile);
    const cells = column.rows * column.columns;
    const variant = variantOf(column);
    const grid = variant.grid.subarray(tile * cells, (tile + 1) * cells);
    const peak = variant.peaks[tile];
    const limit = find("own").checked && peak > 0 ? peak : column.limit;
    drawMap(canvas, { ...column, grid, peak, limit }, find("cells").checked);
  }

  // Brings words and maps up to the chosen target.
  function aim() {
    for (const figure of all(".map")) {
      const column = columns[figure.dataset.column];
      const canvas = figure.querySelector(".over");
      const tile = Number(canvas.dataset.tile);
      const variant = variantOf(column);
      const target = variant.target[tile];
      const model = models.find((one) => one.name === column.model);
      const words = figure.querySelector(".target");
      words.hidden = target === model.predicted[tile];
      words.querySelector("span").textContent = classes[target];
      figure.querySelector(".range").textContent = variant.range[tile];
      canvas.setAttribute(
        "aria-label",
        `Map by ${column.name} for ${classes[target]}: ${variant.where[tile]}`,
      );
    }
    all(".card[data-drawn] .over").forEach(drawColumn);
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
    const { rows, columns: across } = columns[canvas.dataset.column];
    const { grid, peaks } = variantOf(columns[canvas.dataset.column]);
    const box = canvas.getBoundingClientRect();
    const cell = (at, size, n) => Math.min(n - 1, Math.max(0, Math.floor((at / size) * n)));
    const row = cell(event.clientY - box.top, box.height, rows);
    const across_ = cell(event.clientX - box.left, box.width, across);
    const tile = Number(canvas.dataset.tile);
    const value = (grid[(tile * rows + row) * across + across_] * peaks[tile]) / 127;
    canvas.title = `row ${row + 1}, column ${across_ + 1}: ${value.toPrecision(2)}`;
  }

  const cards = all(".card");
  cards.forEach((card, i) => { card.dataset.tile = i; });

  function fits(i) {
    const asked = (id) => find(id)?.value ?? "";
    const judges = models.filter((model) => !asked("judge") || model.name === asked("judge"));
    const right = judges.every((model) => model.predicted[i] === labels?.[i]);
    const agree = models.every((model) => model.predicted[i] === models[0].predicted[i]);
    const verdict = { "": true, right, wrong: !right, disagree: !agree }[asked("verdict")];
    const label = !asked("label") || classes[labels[i]] === asked("label");
    const least = Number(asked("least") || 0) / 100;
    const most = Number(asked("most") || 100) / 100;
    const says = (model) =>
      (!asked("predicted") || model.predicted[i] === Number(asked("predicted"))) &&
      model.confidence[i] >= least - 5e-5 && model.confidence[i] <= most + 5e-5;
    return label && verdict && (labels === null || judges.some(says));
  }

  // What a card is sorted by: the lowest comes first.
  function key(i) {
    const order = find("sort")?.value ?? "";
    const judge = find("judge")?.value;
    const judges = models.filter((model) => !judge || model.name === judge);
    if (order === "loss") return -Math.max(...judges.map((model) => model.loss[i]));
    if (order === "confidence") return Math.min(...judges.map((model) => model.confidence[i]));
    return order === "disagreement" ? -apart[i] : i;
  }

  function choose() {
    const keys = cards.map((_, i) => key(i));
    const order = cards.map((_, i) => i).sort((a, b) => keys[a] - keys[b] || a - b);
    const sorted = order.map((i) => cards[i]);
    if (sorted.some((card, at) => find("cards").children[at] !== card)) find("cards").append(...sorted);
    let shown = 0;
    cards.forEach((card, i) => {
      card.hidden = !fits(i);
      shown += card.hidden ? 0 : 1;
    });
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
  for (const id of ["label", "predicted", "verdict", "judge", "least", "most", "sort"]) {
    find(id)?.addEventListener("change", choose);
  }
  find("target")?.addEventListener("change", aim);
  find("opacity").addEventListener("input", setOpacity);
  // With its own range, the ends of the colours are each map's own, not those of the scale.
  function redraw() {
    const own = find("own").checked;
    for (const [part, hidden] of [[".end", own], [".beyond", own], [".own-ends", !own]]) {
      all(part).forEach((one) => { one.hidden = hidden; });
    }
    for (const image of all(".bar img")) {
      image.dataset.alt ??= image.alt;
      image.alt = own ? `${image.dataset.alt.split(", from")[0]}, each map to its own strongest value` : image.dataset.alt;
    }
    all(".card[data-drawn] .over").forEach(drawColumn);
  }
  for (const id of ["cells", "own"]) find(id).addEventListener("change", redraw);
  find("more").addEventListener("click", () => {
    const open = page.classList.toggle("all-words");
    document.querySelector(".controls").classList.toggle("all", open);
    find("more").setAttribute("aria-expanded", open);
    find("more").textContent = open ? "fewer filters" : "all filters and scales";
  });

  // The address carries the view: what differs from the page as it opens stands behind its #.
  const kept = ["label", "predicted", "verdict", "judge", "least", "most", "sort", "target"];
  function readLink() {
    const values = new URLSearchParams(location.hash.slice(1));
    let changed = false;
    for (const id of kept.filter((one) => values.has(one) && find(one))) {
      const control = find(id);
      const before = control.value;
      control.value = values.get(id);
      if (control.value !== values.get(id)) control.value = before; // no such choice here
      changed = true;
    }
    if (changed) {
      choose();
      if (find("target")) aim();
    }
  }
  function writeLink() {
    const values = new URLSearchParams();
    for (const id of kept) {
      const control = find(id);
      const plain = { least: "0", most: "100" }[id] ?? control?.options?.[0]?.value ?? "";
      if (control && control.value !== plain) values.set(id, control.value);
    }
    history.replaceState(null, "", values.size ? `#${values}` : location.pathname + location.search);
  }
  addEventListener("hashchange", readLink);
  find("theme").addEventListener("change", (event) => { page.dataset.theme = event.target.value; });
  find("cards").addEventListener("pointermove", tell);
  for (const box of all(".toggle")) {
    const show = () => {
      all(`.map[data-column="${box.dataset.column}"]`).forEach((map) => { map.hidden = !box.checked; });
    };
    box.addEventListener("change", show);
    show();
  }
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  choose();
  setOpacity();
  redraw();
  readLink();
  for (const id of kept) find(id)?.addEventListener("change", writeLink);
})();
