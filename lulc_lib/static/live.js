// The live page: one state, what it shows, and what a reader does to it. `set` changes the state, `work`
// asks for its answer and has it shown; the other files read the state and call `set`. Python puts
// shared.js, the engine and the other live_*.js before this file.
//
// `data` is all but the weights; `weights` base64 or bytes. Every word of `data` is set as text.

const FRAME = 12; // milliseconds: at most one run a frame
const FRESH = { strokes: [], turn: 0, flip: false, removed: 0, token: null }; // of another tile

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function lulcLive(root, data, weights, options = {}) {
  root.id ||= `lulc-live-${Math.random().toString(36).slice(2, 8)}`;
  const parts = new Map(Array.from(root.querySelectorAll("[data-part]"), (element) => [element.dataset.part, element]));
  const part = (name) => parts.get(name);
  const tiles = tilesOf(data);
  const seen = seenBy(data, tiles);
  const answers = answersTo(data, tiles, seen);
  let state = startOf(data);
  let last = null; // what was drawn last

  const page = {
    root, data, options, part, tiles, seen, answers, choose, set, wish, settled, note, tell, colour,
    running: "", // which kernel the engine took, and where it runs
    ended: false,
    get state() { return state; },
    get last() { return last; },
  };
  const view = showingOn(page);
  const curve = (page.curve = curveOn(page));
  const finding = findingOn(page);
  const sharing = sharingOn(page);
  const brush = brushOn(page);
  const stories = storiesOn(page);

  // --- the state ---------------------------------------------------------------------------------

  // Changes the state; with another tile, or `anew`, what belonged to the last one goes.
  function set({ anew = false, ...change }) {
    const before = state;
    const other = anew || (change.tile ?? before.tile) !== before.tile;
    if (other) {
      brush.forget();
      note(""); // it was about the last one
    }
    state = { ...state, ...(other ? FRESH : {}), ...change };
    const question = (one) => JSON.stringify({ ...one, removed: 0, order: "", whole: false });
    if (anew || question(before) !== question(state)) curve.drop();
    part("linkline").hidden = true; // its link leads to the view before
    controls();
    wish();
  }
  function follow(text) {
    const { state: wished, problems } = fromLink(text, data);
    set({ ...wished, anew: true });
    note(problems.length ? `The link was followed as far as it goes: ${problems.join("; ")}.` : "");
  }

  // --- one run at a time: the newest wish wins ---------------------------------------------------

  let wanted = 0;
  let done = 0;
  let busy = false;
  let failed = false; // the last run
  let began = -Infinity;
  const frame = () => new Promise((go) => { requestAnimationFrame(go); setTimeout(go, 100); });
  function wish() {
    wanted += 1;
    if (!busy) work();
  }
  async function work() {
    busy = true;
    while (done !== wanted && !page.ended) {
      if (performance.now() - began < FRAME) await frame();
      began = performance.now();
      const serial = wanted;
      try {
        await answerAndShow();
        if (failed) note("");
        failed = false;
      } catch (error) {
        failed = true;
        note(`the network could not be run: ${error.message}`);
      }
      done = serial;
      root.dataset.serial = serial;
      root.dispatchEvent(new CustomEvent("lulc-drawn", { detail: serial }));
    }
    busy = false;
  }
  async function answerAndShow() {
    const { stroke, square } = brush;
    const wished = { ...state, strokes: stroke ? [...state.strokes, stroke] : state.strokes };
    const asked = JSON.stringify([tiles.keyOf(wished.tile), { ...wished, whole: false }, square, stroke !== null, answers.live]);
    const answer = last?.asked === asked ? last : await answers.answerTo(wished, square, stroke === null);
    view.show(wished, answer);
    brush.draw();
    last = { ...answer, asked, view: wished };
    curve.mark();
  }
  async function settled() {
    while (busy || done !== wanted) await frame();
  }

  // --- controls ----------------------------------------------------------------------------------

  function note(text) {
    part("notes").textContent = text;
    part("notes").hidden = !text;
  }
  function tell(text) { part("told").textContent = text; }
  // A colour of style.css as the canvas takes it.
  function colour(name) {
    part("told").style.color = `var(--lulc-${name})`;
    return getComputedStyle(part("told")).color;
  }
  function choose(name, choices) {
    part(name).replaceChildren(...choices.map(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      return option;
    }));
  }
  function controls() {
    const { labels } = data.tiles;
    part("name").textContent = tiles.nameOf(state.tile);
    const label = labels !== null && state.tile < tiles.count ? labels[state.tile] : null;
    part("labelled").textContent = label === null ? "" : `label ${data.classes[label]}`;
    for (const name of ["method", "fill", "removed", "order", "other"]) part(name).value = state[name];
    for (const name of ["target", "against"]) part(name).value = state[name] ?? "";
    const attends = answers.methods[state.method].method === "attention";
    part("target").disabled = part("against").disabled = attends;
    part("whole").checked = state.whole;
    part("otherfield").hidden = state.fill !== "swap";
    brush.controls();
    if (curve.now) curve.draw();
    finding.mark();
  }
  function openTab(name) {
    root.querySelectorAll("[data-tab]").forEach((tab) => {
      tab.setAttribute("aria-selected", tab.dataset.tab === name);
      tab.tabIndex = tab.dataset.tab === name ? 0 : -1;
    });
    root.querySelectorAll("[data-panel]").forEach((panel) => { panel.hidden = panel.dataset.panel !== name; });
  }
  function press({ act, tool, tab }) {
    if (act === "link") sharing.link();
    else if (act === "picture") sharing.picture();
    else if (act) brush.act(act);
    if (tool) brush.take(tool);
    if (tab) openTab(tab);
  }
  function walkTabs(event) {
    const tabs = Array.from(root.querySelectorAll("[data-tab]"));
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
    openTab(next.dataset.tab);
    next.focus();
  }
  function listen() {
    finding.listen();
    brush.listen();
    root.addEventListener("click", (event) => press(event.target.closest("button")?.dataset ?? {}));
    root.querySelector('[role="tablist"]').addEventListener("keydown", walkTabs);
    const on = (name, does) => part(name).addEventListener("change", ({ target }) => does(target));
    const number = (value) => (value === "" ? null : Number(value));
    for (const name of ["method", "other", "target", "against"]) on(name, ({ value }) => set({ [name]: number(value) }));
    for (const name of ["fill", "order"]) on(name, ({ value }) => set({ [name]: value }));
    on("whole", ({ checked }) => set({ whole: checked }));
    on("theme", ({ value }) => {
      root.dataset.theme = value;
      curve.draw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", curve.draw);
    part("removed").addEventListener("input", ({ target }) => {
      set({ removed: Number(target.value) });
      curve.grow();
    });
  }

  // --- the start ---------------------------------------------------------------------------------

  function describe() {
    const { methods, beside } = answers;
    part("title").textContent = data.title;
    part("facts").textContent = data.facts;
    part("status").textContent = "starting the engine";
    part("key").textContent = `Bars: ${data.model.name} now${beside ? `; thin grey bars: ${beside.name}` : ""}; a line marks the answer before painting. Choose a class for its map.`;
    root.querySelectorAll('[type="radio"]').forEach((radio) => { radio.name = `${root.id}-fit`; });
    for (const [heading, text] of data.about) part("about").append(make("h3", "", heading), make("p", "", text));
    finding.choices();
    choose("method", methods.map((one, i) => [i, `${one.method}${one.where ? ` at ${one.where}` : ""}${one.recommended ? " (recommended)" : ""}`]));
    choose("target", [["", "the predicted class"], ...data.classes.map((name, k) => [k, name])]);
    choose("against", [["", "nothing"], ...data.classes.map((name, k) => [k, name])]);
    choose("other", data.tiles.names.map((name, i) => [i, name]));
  }
  async function open() {
    describe();
    await tiles.load();
    follow(options.link ?? "");
    await settled();
    root.dataset.first = Math.round(performance.now());
    finding.find();
    curve.draw();
    stories.tell();
    listen();
    root.dataset.ready = "tiles";
    const engine = await startEngine({ spec: data.spec, kernels: data.kernels, weights: await weights() });
    page.ask = engine.ask;
    answers.start(engine);
    page.running = `${KINDS[engine.kind] ?? engine.kind}, ${engine.where}`;
    root.dataset.kernel = engine.kind;
    root.dataset.where = engine.where;
    part("status").title = engine.tried.join("; ");
    if (engine.tried.length) part("about").append(make("h3", "", "What this browser refused"), make("p", "", engine.tried.join("; ")));
    page.stop = engine.end;
    if (page.ended) engine.end();
    if (state.removed) curve.grow();
    wish();
    await settled();
    root.dataset.live = Math.round(performance.now());
    root.dataset.ready = "live";
  }
  page.started = open().then(() => true, (error) => { // whether the engine runs
    note(`The page could not start its engine: ${error.message}`);
    part("status").textContent = "not live";
    root.dataset.ready = "failed";
    return false;
  });

  return {
    set, follow, settled,
    ask: (...given) => page.ask(...given),
    look: () => ({ state, last, curve: curve.now }),
    pixelsOf: tiles.pixelsOf,
    end() {
      page.ended = true;
      page.stop?.();
    },
  };
}
