// Controls: fields, sections and buttons that Python describes in `fixed`; `shown` holds their
// values and what does not apply, with its reason. Every change goes back as a message.

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const MOST_BYTES = 10e6; // of a file: a server of Jupyter refuses messages beyond 10 MiB

// Returns a function that sets a field of text, unless the reader is typing there. What was typed
// for one tile does not stay for another.
function textSetter(control) {
  let last = ""; // what was set or sent last
  let tile = null;
  control.addEventListener("change", () => { last = control.value; });
  return (value, shown) => {
    const typed = document.activeElement === control && control.value !== last;
    const same = shown.values.tile === tile;
    tile = shown.values.tile;
    if (typed && same) return;
    control.value = value;
    last = control.value;
  };
}

function render({ model, el }) {
  el.classList.add("lulc-form");
  const seen = () => model.get("shown").values?.tile; // the tile that the reader acts on
  const set = (name, value) => model.send({ kind: "set", name, value, tile: seen() });
  const updates = []; // each brings one control up to `shown`

  function wrap(field, control) {
    const label = make("label", "lulc-field");
    label.dataset.name = field.name;
    label.append(make("span", "", field.label), control);
    if (field.help) label.title = field.help;
    for (const one of label.querySelectorAll("select, textarea, input:only-of-type")) {
      one.setAttribute("aria-label", field.label);
    }
    const why = make("span", "lulc-why");
    why.hidden = true;
    label.append(why);
    updates.push((shown) => {
      const reason = shown.off?.[field.name] ?? "";
      for (const one of label.querySelectorAll("select, input, textarea")) one.disabled = !!reason;
      label.toggleAttribute("data-off", !!reason);
      why.textContent = reason;
      why.hidden = !reason;
    });
    return label;
  }

  const kinds = {
    select(field) {
      const control = make("select");
      for (const [text, value] of field.options) {
        const option = make("option", "", text);
        option.value = value;
        control.append(option);
      }
      control.addEventListener("change", () => {
        const value = field.number ? Number(control.value) : control.value;
        set(field.name, value);
      });
      updates.push((shown) => { control.value = String(shown.values[field.name]); });
      return wrap(field, control);
    },
    percent(field) { // two ends of a range of probabilities
      const row = make("span", "lulc-inline");
      const percent = (share) => Math.round(1e4 * share) / 100;
      const ends = [0, 1].map((at) => {
        const input = make("input");
        input.type = "number";
        input.min = 0;
        input.max = 100;
        input.step = "any";
        input.setAttribute("aria-label", `${field.label} ${["from", "to"][at]}`);
        input.addEventListener("change", () => {
          const values = ends.map((one) => Math.min(1, Math.max(0, Number(one.value) / 100)));
          set(field.name, values.sort((a, b) => a - b));
        });
        return input;
      });
      row.append(ends[0], "to", ends[1], "%");
      const setters = ends.map(textSetter);
      updates.push((shown) => {
        shown.values[field.name].forEach((share, at) => setters[at](percent(share), shown));
      });
      return wrap(field, row);
    },
    range(field) {
      const row = make("span", "lulc-inline");
      const control = make("input");
      const words = make("output");
      Object.assign(control, { type: "range", min: field.min, max: field.max, step: field.step });
      const say = () => { words.textContent = `${Math.round(100 * control.value)} %`; };
      control.addEventListener("input", say);
      control.addEventListener("change", () => set(field.name, Number(control.value)));
      row.append(control, words);
      updates.push((shown) => {
        control.value = shown.values[field.name];
        say();
      });
      return wrap(field, row);
    },
    text(field) {
      const control = make("textarea");
      control.placeholder = field.placeholder;
      control.addEventListener("change", () => set(field.name, control.value));
      const setText = textSetter(control);
      updates.push((shown) => setText(shown.values[field.name], shown));
      return wrap(field, control);
    },
    methods(field) { // a box for each method, by family
      const list = make("div", "lulc-methods");
      list.setAttribute("role", "group");
      list.setAttribute("aria-label", field.label);
      const boxes = [];
      const stays = make("small", "", "one method stays: tick another one first");
      stays.setAttribute("role", "status");
      for (const family of field.families) {
        const group = make("div");
        group.append(make("h5", "", family.name));
        for (const one of family.methods) {
          const label = make("label");
          const box = make("input");
          box.type = "checkbox";
          box.value = one.name;
          box.addEventListener("change", () => {
            stays.remove();
            if (!boxes.some((any) => any.checked)) {
              box.checked = true;
              label.append(stays);
              return;
            }
            // One method, not the list: the page may not have drawn an earlier change yet.
            model.send({ kind: "toggle", name: field.name, value: one.name, on: box.checked });
          });
          boxes.push(box);
          const name = make("span", "", `${one.name} `);
          name.append(make("span", "lulc-muted", one.cost));
          label.append(box, name, make("small", "", one.help));
          if (one.figure) label.append(make("small", "", one.figure));
          group.append(label);
        }
        list.append(group);
      }
      updates.push((shown) => {
        for (const box of boxes) box.checked = shown.values[field.name].includes(box.value);
      });
      return list;
    },
    button(field) {
      const button = make("button", "lulc-button", field.label);
      button.type = "button";
      button.title = field.help ?? "";
      button.addEventListener("click", () => model.send({ kind: "press", name: field.name }));
      updates.push((shown) => {
        const reason = shown.off?.[field.name] ?? "";
        button.disabled = !!reason;
        button.title = reason || field.help || "";
      });
      return button;
    },
    upload(field) {
      const control = make("input");
      control.type = "file";
      control.accept = field.accept;
      const large = make("span", "lulc-why");
      large.setAttribute("role", "alert");
      large.hidden = true;
      control.addEventListener("change", async () => {
        const file = control.files[0];
        if (!file) return;
        large.hidden = file.size <= MOST_BYTES;
        if (large.hidden) {
          model.send({ kind: "upload", name: file.name }, undefined, [await file.arrayBuffer()]);
        } else {
          const view = file.name.toLowerCase().endsWith(".json");
          const open = view ? "restore(text)" : "add_picture(path)";
          large.textContent = `${file.name} has ${(file.size / 1e6).toFixed(1)} MB, and at most `
            + `${MOST_BYTES / 1e6} MB can be opened here: use explorer.${open} in a cell`;
        }
        control.value = "";
      });
      const row = make("span");
      row.append(control, large);
      return wrap(field, row);
    },
    saved() { // the file that was made last
      const link = make("a", "lulc-saved");
      updates.push((shown) => {
        const { name, address } = model.get("saved");
        link.hidden = !name;
        if (!name) return;
        link.download = name;
        if (link.href !== address) link.href = address;
        link.textContent = `save ${name}${shown.earlier ? ", as it was before the last change" : ""}`;
      });
      return link;
    },
    notes() { // all notes, each a way back to its tile
      const list = make("ul", "lulc-notes");
      list.setAttribute("aria-label", "Notes");
      updates.push((shown) => {
        drawAnew(list, (shown.notes ?? []).map(([tile, text]) => {
          const item = make("li");
          const button = make("button", "lulc-link-button", tile.split("/").pop());
          button.type = "button";
          button.dataset.key = tile;
          button.addEventListener("click", () => set("tile", tile));
          item.append(button, ` ${text}`);
          return item;
        }));
        list.hidden = !(shown.notes ?? []).length;
      });
      return list;
    },
    glossary(field) {
      const list = make("dl", "lulc-glossary");
      for (const [word, meaning] of field.words) {
        list.append(make("dt", "", word), make("dd", "", meaning));
      }
      return list;
    },
    section(field) {
      const section = make("details", "lulc-section");
      section.open = !!field.open;
      section.append(make("summary", "", field.label));
      const body = make("div");
      body.append(...field.fields.map((one) => kinds[one.kind](one)));
      section.append(body);
      return section;
    },
  };

  el.replaceChildren(...model.get("fixed").fields.map((field) => kinds[field.kind](field)));
  const draw = () => {
    const shown = model.get("shown");
    if (shown.values) updates.forEach((update) => update(shown));
  };
  model.on("change:shown change:saved", draw);
  draw();
  return () => model.off("change:shown change:saved", draw);
}

export default { render };
