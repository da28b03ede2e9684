// The curve of a deletion: what is left of the target's probability while cells go, in the map's order
// and in random orders.

const RANDOM_ORDERS = 3;

function curveOn(page) {
  const { part, data, tiles, answers, seen } = page;
  let curve = null; // {map: [], random: [], target}

  function drop() {
    if (!curve) return;
    curve = null;
    part("curvewords").textContent = "Move the slider: the curve is drawn as you go.";
    draw();
  }
  // Draws the curve of the present view as it grows; a change of the view drops it.
  async function grow() {
    if (curve || !answers.live) return;
    const view = { ...page.state };
    const made = (curve = { map: [], random: [], target: 0 });
    const shown = seen.shown(view);
    const { grid, logits } = await answers.ask(shown, view);
    made.target = view.target ?? topOf(logits);
    const order = mapOrder(grid);
    const fall = async (cells, step) => softmax((await answers.ask(seen.without(shown, view, seen.takenAt(cells, step)), view)).logits)[made.target];
    for (let step = 0; step <= STEPS; step += 1) {
      const down = await fall(order, step);
      const falls = [];
      for (let seed = 0; seed < RANDOM_ORDERS; seed += 1) falls.push(await fall(randomOrder(view.tile + seed, order.length), step));
      if (curve !== made || page.ended) return;
      made.map.push(down);
      made.random.push(meanOfAll(falls));
      draw();
      mark();
    }
    part("curvewords").textContent = `Mean probability of ${data.classes[made.target]} along the way: ${words(meanOfAll(made.map))} in the map’s order, ${words(meanOfAll(made.random))} in ${RANDOM_ORDERS} random orders. The lower, the better the map.`;
    page.root.dataset.curve = "done";
  }

  function draw() {
    const canvas = part("curve");
    const context = canvas.getContext("2d");
    const [left, top, width, height] = [44, 10, canvas.width - 74, canvas.height - 44];
    const [muted, rule, accent, ink] = ["muted", "rule", "accent", "ink"].map((name) => page.colour(name));
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.font = "13px system-ui, sans-serif";
    context.fillStyle = muted;
    context.strokeStyle = rule;
    context.lineWidth = 1;
    for (const level of [0, 0.5, 1]) {
      const y = top + height * (1 - level);
      context.strokeRect(left, y, width, 0);
      context.fillText(`${100 * level} %`, 2, y + 5);
    }
    for (const level of [0, 0.25, 0.5, 0.75, 1]) context.fillText(`${100 * level} %`, left + width * level - 12, top + height + 18);
    context.fillText("of the cells taken away", left + width / 2 - 70, top + height + 33);
    if (!curve) return;
    context.lineWidth = 2;
    for (const [name, colour, dash] of [["map", accent, []], ["random", muted, [5, 4]]]) {
      context.strokeStyle = context.fillStyle = colour;
      context.setLineDash(dash);
      context.beginPath();
      curve[name].forEach((p, i) => context.lineTo(left + (width * i) / STEPS, top + height * (1 - p)));
      context.stroke();
      const at = Math.min(curve[name].length - 1, 9);
      if (at >= 0) context.fillText(name === "map" ? "map’s order" : "random", left + (width * at) / STEPS + 4, top + height * (1 - curve[name][at]) + (name === "map" ? 14 : -6));
    }
    context.setLineDash([]);
    const { removed } = page.state;
    if (!removed) return;
    context.strokeStyle = ink;
    context.strokeRect(left + (width * removed) / STEPS, top, 0, height);
  }
  function mark() {
    const { removed } = page.state;
    const gone = `${Math.round((100 * removed) / STEPS)} %`;
    part("removedwords").textContent = gone;
    const [a, b] = [curve?.map[removed], curve?.random[removed]];
    const empty = curve ? "The curve is being drawn" : "No curve yet: move the slider";
    part("curve").setAttribute("aria-label", b === undefined ? empty : `With ${gone} of the cells taken away, ${data.classes[curve.target]} has ${words(a)} in the map's order and ${words(b)} in random order`);
  }
  return { drop, grow: () => grow().catch((error) => page.note(error.message)), draw, mark, get now() { return curve; } };
}
