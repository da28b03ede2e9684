// A page of thumbnails: each a button; arrow keys move between them, Page Up and Down turn pages.
// Python puts shared.js before this file.

function render({ model, el }) {
  el.classList.add("lulc-thumbnails");
  const head = document.createElement("div");
  head.className = "lulc-pages";
  const words = document.createElement("span");
  words.setAttribute("role", "status");
  const turn = [[-1, "‹", "previous page"], [1, "›", "next page"]].map(([by, sign, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "lulc-button";
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
  let address = ""; // of the sprite: a short one, since every button names it

  function takeSprite() {
    if (address) URL.revokeObjectURL(address);
    const [head, data] = model.get("sprite").split(",");
    const type = head.slice(5).split(";")[0];
    address = data ? URL.createObjectURL(new Blob([bytesOf(data)], { type })) : "";
    draw();
  }

  function thumbnail(item, i, count) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `lulc-thumbnail lulc-is-${item.mark}`;
    button.dataset.name = item.name;
    button.title = item.title;
    button.setAttribute("role", "option");
    button.setAttribute("aria-label", item.title);
    button.style.backgroundImage = `url(${address})`;
    button.style.backgroundPosition = `0 ${count > 1 ? (100 * i) / (count - 1) : 0}%`;
    button.style.backgroundSize = `100% ${100 * count}%`;
    button.addEventListener("click", () => model.send({ kind: "pick", name: item.name }));
    return button;
  }

  function draw() {
    const shown = model.get("shown");
    words.textContent = shown.words;
    turn[0].disabled = !shown.before;
    turn[1].disabled = !shown.after;
    const held = list.contains(document.activeElement);
    list.replaceChildren(...shown.items.map((item, i) => thumbnail(item, i, shown.items.length)));
    choose();
    if (held) list.querySelector('[tabindex="0"]')?.focus();
  }

  function choose() {
    const name = model.get("chosen");
    const buttons = Array.from(list.children);
    const at = buttons.findIndex((button) => button.dataset.name === name);
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", i === at);
      button.tabIndex = i === Math.max(at, 0) ? 0 : -1;
    });
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
  model.on("change:shown", draw);
  model.on("change:sprite", takeSprite);
  model.on("change:chosen", choose);
  takeSprite();
  return () => {
    model.off("change:shown", draw);
    model.off("change:sprite", takeSprite);
    model.off("change:chosen", choose);
    if (address) URL.revokeObjectURL(address);
  };
}

export default { render };
