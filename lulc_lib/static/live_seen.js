// The image that the network sees: a tile, painted, turned, and with cells taken away. Pure functions
// of a view, which is the state with the stroke that is being painted.

function seenBy(data, tiles) {
  const { cells, empty } = data;
  const { side, pixelsOf } = tiles;
  const edge = (cell) => Math.round((cell * side) / cells);

  const painted = (view) => filled(pixelsOf(view.tile), ownersOf(view.strokes, side), side, pixelsOf(view.other), empty);
  function turned(pixels, { turn, flip }) {
    if (!turn && !flip) return pixels;
    const from = turning(side, turn, flip);
    const n = side * side;
    return Float32Array.from({ length: 3 * n }, (_, i) => pixels[Math.floor(i / n) * n + from[i % n]]);
  }
  const shown = (view) => turned(painted(view), view);

  const takenAt = (order, step) => order.slice(0, Math.round((step / STEPS) * cells * cells));
  // Takes cells away, and what lies under a covering square {at, size}.
  function without(pixels, view, taken, square = null) {
    const owner = new Uint8Array(side * side);
    const kind = FILLS.indexOf(view.fill) + 1;
    for (const cell of taken) {
      for (let y = edge(Math.floor(cell / cells)); y < edge(Math.floor(cell / cells) + 1); y += 1) {
        owner.fill(kind, y * side + edge(cell % cells), y * side + edge((cell % cells) + 1));
      }
    }
    if (square) {
      const { at, size } = square;
      const [x, y] = at.map((middle) => Math.round(middle - size / 2));
      for (let row = Math.max(0, y); row < Math.min(side, y + size); row += 1) {
        if (x < side && x + size > 0) owner.fill(kind, row * side + Math.max(0, x), row * side + Math.min(side, x + size));
      }
    }
    return filled(pixels, owner, side, pixelsOf(view.other), empty);
  }
  // From a place on what is shown to the tile as it came, where strokes lie.
  function straight([x, y], { turn, flip }) {
    let [u, v] = [x, y];
    for (let t = 0; t < turn; t += 1) [u, v] = [v, side - u];
    return [flip ? side - u : u, v];
  }
  const cellAt = (at) => at.map((value) => Math.min(cells - 1, Math.max(0, Math.floor((value * cells) / side))));
  return { painted, shown, takenAt, without, straight, cellAt, edge };
}
