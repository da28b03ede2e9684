// Answers to a view: those made before, until the engine runs, then the engine's.

function answersTo(data, tiles, seen) {
  const { cells } = data;
  const n = cells * cells;
  const bytes = (text) => new Int8Array(bytesOf(text).buffer);
  const methods = data.methods.map((method) => ({ ...method, values: bytes(method.values) }));
  const asItCame = (view, square) => !view.strokes.length && !view.turn && !view.flip && !view.removed && !square;
  const tokenOf = (view) => view.token ?? data.token;
  const orders = new Map(); // what the tile looks like before the deletion -> order of cells
  let engine = null;

  // Asks the engine for logits and the chosen map of an image.
  async function ask(pixels, view) {
    const method = methods[view.method];
    const attends = method.method === "attention";
    const answer = await engine.ask({
      image: pixels,
      maps: attends ? [] : [{ method, target: view.target, against: view.against }],
      attention: attends ? method.block : null,
    });
    const logits = Array.from(answer.logits);
    const grid = attends ? attentionRow(answer.attention, tokenOf(view)) : answer.maps[0];
    return { logits, grid, ms: answer.ms };
  }
  function attentionRow(matrix, token) {
    const tokens = Math.sqrt(matrix.length);
    const prefix = tokens - n;
    const row = token < 0 ? 0 : token + prefix; // below 0: the class token
    return matrix.subarray(row * tokens + prefix, (row + 1) * tokens);
  }
  function stored(view) {
    const method = methods[view.method];
    const unasked = view.target === null && view.against === null && view.token === null;
    const unit = method.peaks[view.tile] / 127;
    const grid = unasked ? Float32Array.from(method.values.subarray(view.tile * n, (view.tile + 1) * n), (q) => q * unit) : null;
    return { logits: data.logits[view.tile], grid, ms: null };
  }
  async function orderOf(view, shown) {
    const key = JSON.stringify([tiles.keyOf(view.tile), { ...view, removed: 0, order: "", whole: false }]);
    if (!orders.has(key)) {
      const { grid } = await ask(shown, { ...view, removed: 0 });
      orders.clear();
      orders.set(key, { map: mapOrder(grid), random: randomOrder(view.tile, n) });
    }
    return orders.get(key)[view.order];
  }

  // The answer to a view under a covering square or none. With `compare`, where the tile is turned,
  // that to the tile as it lay comes along.
  async function answerTo(view, square, compare) {
    const shown = seen.shown(view);
    const { own } = tiles;
    if (!engine) {
      const known = view.tile < tiles.count && asItCame(view, square);
      return { ...(known ? stored(view) : { logits: null, grid: null }), pixels: shown };
    }
    const taken = view.removed ? seen.takenAt(await orderOf(view, shown), view.removed) : [];
    const pixels = taken.length || square ? seen.without(shown, view, taken, square) : shown;
    const answer = { ...(await ask(pixels, view)), pixels };
    if (compare && (view.turn || view.flip) && !square && !taken.length) {
      const target = view.target ?? topOf(answer.logits);
      const shownToken = tokenOf(view);
      const token = shownToken < 0 ? shownToken : turning(cells, view.turn, view.flip)[shownToken];
      answer.straight = await ask(seen.painted(view), { ...view, turn: 0, flip: false, target, token });
    }
    if (view.tile >= tiles.count && asItCame(view, square)) own.logits = answer.logits;
    return answer;
  }
  return {
    methods,
    beside: data.beside && { ...data.beside, values: bytes(data.beside.values) },
    tokenOf,
    ask,
    answerTo,
    start: (started) => { engine = started; },
    get live() { return engine !== null; },
  };
}
