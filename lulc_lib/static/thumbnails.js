// A page of thumbnails: each a button; arrow keys move between them, Page Up and Down turn pages.

function render({ model, el }) {
  el.classList.add("lulc-thumbnails");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const head = document.createElement("div");
  head.className = "lulc-pages";
  const words = document.createElement("span");
  words.setAttribute("role", "status");
  const turn = [[-1, "‹", "previous page"], [1, "›", "next page"]].map(([by, sign, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = sign;
    button.title = text;
    button.setAttribute("aria-label", text);
    button.addEventListener("click", () => model.send({ kind: "page", by }));
    return button;
  });
  head.append(turn[0], words, turn[1]);
  const list = document.createElement("div");
  list.className = "lulc-grid";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Tiles found");
  el.replaceChildren(head, list);
  let held = false; // whether the focus was in the grid when it was drawn anew

  function draw() {
    const shown = model.get("shown");
    const sprite = model.get("sprite");
    held = list.contains(document.activeElement);
    words.textContent = shown.words;
    turn[0].disabled = !shown.before;
    turn[1].disabled = !shown.after;
    list.replaceChildren(
      ...shown.items.map((item, i) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = `lulc-thumbnail lulc-is-${item.mark}`;
        button.dataset.name = item.name;
        button.title = item.title;
        button.setAttribute("role", "option");
        button.setAttribute("aria-label", item.title);
        button.setAttribute("aria-selected", item.name === shown.chosen);
        button.tabIndex = item.name === shown.chosen || (!shown.onPage && i === 0) ? 0 : -1;
        button.style.backgroundImage = `url(${sprite})`;
        button.style.backgroundPosition = `0 ${shown.items.length > 1 ? (100 * i) / (shown.items.length - 1) : 0}%`;
        button.style.backgroundSize = `100% ${100 * shown.items.length}%`;
        button.addEventListener("click", () => model.send({ kind: "pick", name: item.name }));
        return button;
      }),
    );
    if (held) list.querySelector('[tabindex="0"]')?.focus();
  }

  list.addEventListener("keydown", (event) => {
    const buttons = Array.from(list.children);
    const at = buttons.indexOf(document.activeElement);
    const across = Math.max(1, Math.round(list.clientWidth / (buttons[0]?.offsetWidth || 1)));
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    if (event.key === "PageDown" || event.key === "PageUp") {
      model.send({ kind: "page", by: event.key === "PageDown" ? 1 : -1 });
    } else if (step && buttons[at + step]) {
      buttons[at + step].focus();
      buttons[at + step].click();
    } else if (!step) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:shown change:sprite", draw);
  draw();
  return () => model.off("change:shown change:sprite", draw);
}

export default { render };
