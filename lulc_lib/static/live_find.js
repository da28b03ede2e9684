// Finding a tile: filters, thumbnails, and the reader's own picture.

function findingOn(page) {
  const { part, data, tiles, answers } = page;
  const { classes } = data;
  const { names, labels } = data.tiles;
  const { count } = tiles;
  const { beside } = answers;
  const predicted = data.logits.map(topOf);
  const sure = data.logits.map((row) => Math.max(...softmax(row)));
  const thumbs = [];
  let found = [];
  let marked = null;

  function thumbnail(tile) {
    const thumb = make("div", "ll-thumb");
    thumb.setAttribute("role", "option");
    thumb.id = `${page.root.id}-tile-${tile}`;
    if (labels !== null && tile < count && labels[tile] !== predicted[tile]) thumb.classList.add("ll-wrong");
    thumb.title = tile < count ? `${names[tile]}: ${data.model.name} says ${classes[predicted[tile]]}, ${words(sure[tile])}` : tiles.nameOf(tile);
    thumb.setAttribute("aria-label", thumb.title);
    thumb.setAttribute("aria-selected", false);
    thumb.append(tiles.draw(tile));
    thumb.addEventListener("click", () => page.set({ tile }));
    return thumb;
  }
  function find() {
    const [label, answer, sort] = ["label", "answer", "sort"].map((name) => part(name).value);
    const fits = (i) => {
      const right = labels !== null && labels[i] === predicted[i];
      const agree = !beside || beside.predicted[i] === predicted[i];
      return (label === "" || (labels ?? predicted)[i] === Number(label)) && { "": true, right, wrong: !right, apart: !agree }[answer];
    };
    const key = { "": (i) => i, sure: (i) => -sure[i], unsure: (i) => sure[i] }[sort];
    found = Array.from({ length: count }, (_, i) => i).filter(fits).sort((a, b) => key(a) - key(b) || a - b);
    if (tiles.own) found.unshift(count);
    part("thumbs").replaceChildren(...found.map((tile) => thumbs[tile] ?? (thumbs[tile] = thumbnail(tile))));
    part("count").textContent = `${found.length} of ${count + (tiles.own ? 1 : 0)} tiles`;
    mark();
  }
  function mark() {
    const { tile } = page.state;
    marked?.setAttribute("aria-selected", false);
    marked = found.includes(tile) ? thumbs[tile] : null;
    marked?.setAttribute("aria-selected", true);
    if (marked) part("thumbs").setAttribute("aria-activedescendant", marked.id);
    else part("thumbs").removeAttribute("aria-activedescendant");
  }
  function step(by) {
    const at = found.indexOf(page.state.tile);
    const tile = found[Math.min(found.length - 1, Math.max(0, at + by))];
    page.set({ tile });
    thumbs[tile].scrollIntoView({ block: "nearest" });
  }

  let asked = 0; // pictures; the newest wins
  async function take(file) {
    if (!file) return;
    const serial = (asked += 1);
    try {
      const picture = await fitPicture(file, tiles.side, part("crop").checked);
      if (serial !== asked) return;
      part("fitted").textContent = `${picture.words} Whatever it shows, the network knows only its ${classes.length} classes.`;
      tiles.own = { ...picture, serial };
      delete thumbs[count];
      page.set({ tile: count, anew: true });
      find();
    } catch (error) {
      page.note(`${file.name || "this"} cannot be taken as a picture: ${error.message}`);
    }
  }

  function choices() {
    const present = labels ?? predicted;
    page.choose("label", [["", "all"], ...classes.map((name, k) => [k, `${name} (${present.filter((label) => label === k).length})`])]);
    page.choose("answer", [["", "any"], ...(labels ? [["right", "right"], ["wrong", "wrong"]] : []), ...(beside ? [["apart", "networks disagree"]] : [])]);
    page.choose("sort", [["", "as chosen"], ["unsure", "least confident"], ["sure", "most confident"]]);
  }
  function listen() {
    part("thumbs").addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by || !found.length) return;
      event.preventDefault();
      step(by);
    });
    for (const name of ["label", "answer", "sort"]) part(name).addEventListener("change", find);
    for (const name of ["file", "camera"]) {
      part(name).addEventListener("change", ({ target }) => {
        take(target.files[0]);
        target.value = "";
      });
    }
    page.root.addEventListener("dragover", (event) => event.preventDefault());
    page.root.addEventListener("drop", (event) => {
      event.preventDefault();
      take(event.dataTransfer.files[0]);
    });
    (page.options.pasteOn ?? page.root).addEventListener("paste", (event) => take(event.clipboardData?.files[0]));
  }
  return { find, mark, choices, listen };
}
