// Stories of a minute: a tile, a question, and what happens then. `find` returns a tile's number or -1;
// `then` changes the state; `tell` says what came of it, from the answers before and after.

const percent = (value) => (value >= 0.995 || value < 0.005 ? words(value) : `${(100 * value).toFixed(0)} %`);

function storiesOf(data) {
  const { labels } = data.tiles;
  const count = data.tiles.names.length;
  const top = data.logits.map((row) => row.indexOf(Math.max(...row)));
  const sure = data.logits.map((row) => 1 / row.reduce((sum, v) => sum + Math.exp(v - Math.max(...row)), 0));
  const best = (fits, key) => {
    const found = Array.from({ length: count }, (_, i) => i).filter(fits);
    return found.length ? found.reduce((a, b) => (key(a) >= key(b) ? a : b)) : -1;
  };
  const right = (i) => labels === null || labels[i] === top[i];
  const named = (...names) => (i) => names.includes(data.classes[top[i]]) && right(i);
  const whole = { kind: "mean", size: data.tiles.side, points: [[0, 0], [data.tiles.side, data.tiles.side]] };
  return [
    {
      title: "Take the evidence away",
      find: () => best(named("River", "Highway", "Residential"), (i) => sure[i]),
      ask: (words) => `The network says ${words.predicted} (${words.sure}). A quarter of the cells, those that its map marks most strongly, will be blurred. What happens to ${words.predicted}?`,
      options: ["It falls below one half", "It stays above one half"],
      then: (api) => api.remove(4),
      tell: (before, after) => [after[before.target] < 0.5 ? 0 : 1, `It went from ${percent(before.p)} to ${percent(after[before.target])}. Now move the slider under “Delete” and compare with random cells: a map is worth something when its curve falls first.`],
    },
    {
      title: "Colour alone",
      find: () => best(named("SeaLake", "Forest"), (i) => sure[i]),
      ask: (words) => `Most of the tile will be painted with the mean colour of the rest: no shape is left there. Does the network still say ${words.predicted}?`,
      options: ["Yes", "No"],
      then: (api) => api.set({ strokes: [{ ...whole, size: Math.round(0.7 * data.tiles.side) }] }),
      tell: (before, after) => [after.indexOf(Math.max(...after)) === before.target ? 0 : 1, `It says ${data.classes[after.indexOf(Math.max(...after))]} with ${percent(Math.max(...after))}. Where a smooth colour is all that a class needs, no map of places can tell you so.`],
    },
    {
      title: "Sure and wrong",
      find: () => (labels === null ? -1 : best((i) => labels[i] !== top[i], (i) => sure[i])),
      ask: (words) => `The network says ${words.predicted} (${words.sure}), and the label says something else. Look at the tile: would you have known?`,
      options: ["I see what the label says", "I would have said the same"],
      then: (api, i) => api.set({ target: labels[i] }),
      tell: (before, after, i) => [-1, `The label is ${data.classes[labels[i]]}, to which the network gives ${percent(after[labels[i]])}. The map now shows what the method counts for ${data.classes[labels[i]]}. A map explains the answer; it does not make it right, and labels are wrong at times as well.`],
    },
    {
      title: "Why this and not that?",
      find: () => best(right, (i) => -sure[i]),
      ask: (words) => `The network hesitates between ${words.predicted} and ${words.second}. Its map of ${words.predicted} is on the page. Will the map of “${words.predicted} rather than ${words.second}” show the same cells?`,
      options: ["The same", "Others"],
      then: (api, i) => api.set({ target: top[i], against: data.logits[i].indexOf(Math.max(...data.logits[i].filter((_, k) => k !== top[i]))) }),
      tell: () => [-1, "What two classes share counts for both and cancels in the difference. Choose another class under “rather than”: each asks another question, and each has its own map."],
    },
    {
      title: "Turn it round",
      find: () => best(named("Highway", "Industrial", "Residential", "AnnualCrop"), (i) => sure[i]),
      ask: () => "A tile has no up and down. It will be turned by a quarter. Does the map turn with it?",
      options: ["Yes, nearly", "No"],
      then: (api) => api.set({ turn: 1 }),
      tell: (before, after) => [-1, `${data.classes[before.target]} went from ${percent(before.p)} to ${percent(after[before.target])}. How well the map turned stands under “Turn and flip”. A map that depends on how the satellite flew tells of the network as much as of the ground.`],
    },
    {
      title: "Two networks, one tile",
      find: () => (data.beside === null || labels === null ? -1 : best((i) => data.beside.predicted[i] !== top[i], (i) => sure[i])),
      ask: (words, i) => `${data.model.name} says ${words.predicted}, ${data.beside.name} says ${data.classes[data.beside.predicted[i]]}. Which of them do you believe?`,
      options: [data.model.name, data.beside?.name ?? "", "Neither"],
      then: (api, i) => api.set({ target: labels[i] }),
      tell: (before, after, i) => [labels[i] === top[i] ? 0 : labels[i] === data.beside.predicted[i] ? 1 : 2, `The label is ${data.classes[labels[i]]}. Both maps now show it. Maps of two networks have different units and grids: compare where, not how much.`],
    },
  ].map((story) => ({ ...story, tile: story.find() })).filter((story) => story.tile >= 0);
}

// Tells the stories: a question, the answer that a reader gives, then what happens.
function storiesOn(page) {
  const { part, data } = page;
  let telling = 0; // the story that was begun last

  function tell() {
    for (const story of storiesOf(data)) {
      const item = make("li", "ll-story");
      const start = make("button", "ll-story-title", story.title);
      start.type = "button";
      const body = make("div");
      body.setAttribute("aria-live", "polite");
      item.append(start, body);
      start.addEventListener("click", () => begin(story, body));
      part("stories").append(item);
    }
  }
  const open = ({ tile }) => page.set({ ...START, whole: page.state.whole, other: page.state.other, tile, anew: true });
  async function begin(story, body) {
    const serial = (telling += 1);
    part("stories").querySelectorAll("div").forEach((other) => other.replaceChildren());
    open(story);
    await page.settled();
    if (serial !== telling) return;
    const logits = data.logits[story.tile];
    const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
    const before = { target: order[0], p: softmax(logits)[order[0]] };
    const said = { predicted: data.classes[order[0]], second: data.classes[order[1]], sure: words(before.p) };
    const options = make("div", "ll-buttons");
    story.options.forEach((text, i) => {
      const option = make("button", "", text);
      option.type = "button";
      option.addEventListener("click", () => reveal(story, body, before, i, serial));
      options.append(option);
    });
    body.replaceChildren(make("p", "", story.ask(said, story.tile)), options);
  }
  async function reveal(story, body, before, answered, serial) {
    body.querySelectorAll("button").forEach((button) => { button.disabled = true; });
    if (!(await page.started) || serial !== telling) return;
    const remove = (step) => {
      page.set({ removed: step });
      page.curve.grow();
    };
    open(story); // a reader may have looked at another view before answering
    story.then({ set: page.set, remove }, story.tile);
    await page.settled();
    if (serial !== telling || page.state.tile !== story.tile) return;
    const [right, text] = story.tell(before, softmax(page.last.logits), story.tile);
    const verdict = right < 0 ? "" : right === answered ? "As you said. " : "Not as you said. ";
    body.append(make("p", "ll-reveal", verdict + text));
  }
  return { tell };
}
