// A confusion matrix whose cells are buttons: one shows its tiles. Python puts redraw.js before this
// file.

function render({ model, el }) {
  el.classList.add("lulc-matrix");

  function draw() {
    const shown = model.get("shown");
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = shown.words;
    if (!shown.counts.length) {
      drawAnew(el, [table]);
      return;
    }
    const head = table.createTHead().insertRow();
    head.insertCell();
    shown.classes.forEach((name) => {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.innerHTML = "<span></span>";
      cell.firstChild.textContent = name;
      head.append(cell);
    });
    const body = table.createTBody();
    shown.counts.forEach((row, i) => {
      const line = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = shown.classes[i].replace(/(?<=[a-z])(?=[A-Z])/g, "\u200b");
      line.append(name);
      const total = row.reduce((a, b) => a + b, 0) || 1;
      row.forEach((count, j) => {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.key = `${i} ${j}`;
        button.textContent = count > 999 ? `${Math.round(count / 1000)}k` : count || "·";
        const kind = i === j ? "right" : "wrong";
        // Shares of a row differ by orders of magnitude: their square root is drawn.
        const share = count ? 12 + 68 * Math.sqrt(count / total) : 0;
        button.style.setProperty("--share", `${share}%`);
        button.className = `lulc-cell lulc-cell-${kind}`;
        button.disabled = count === 0;
        const picked = shown.label === shown.classes[i] && shown.predicted === shown.classes[j];
        button.setAttribute("aria-pressed", picked);
        const words = `${count} tile${count === 1 ? "" : "s"} with label ${shown.classes[i]} predicted as ${shown.classes[j]}`;
        button.title = words;
        button.setAttribute("aria-label", words);
        button.addEventListener("click", () => {
          model.send(picked ? { kind: "clear" } : { kind: "cell", row: i, column: j });
        });
        line.insertCell().append(button);
      });
    });
    drawAnew(el, [table]);
  }

  model.on("change:shown", draw);
  draw();
  return () => model.off("change:shown", draw);
}

export default { render };
