// Taking pixels away, as `lulc_lib/faithfulness/fills.py` does. An image is Float32Array (3, side, side)
// in [0, 1]; a hole is Uint8Array (side, side), 1 where pixels go.

const FILLS = ["blur", "mean", "texture", "swap"];
const BLUR_SIGMA = 6; // pixels

function meanOf(image, hole) {
  const cells = hole.length;
  const sums = [0, 0, 0];
  let kept = 0;
  for (let i = 0; i < cells; i += 1) {
    if (hole[i]) continue;
    kept += 1;
    for (let c = 0; c < 3; c += 1) sums[c] += image[c * cells + i];
  }
  return sums.map((sum) => sum / Math.max(kept, 1));
}

// A Gaussian over rows, then over columns, zeros beyond the border.
function smooth(plane, side) {
  const reach = 3 * BLUR_SIGMA;
  const kernel = Float64Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / BLUR_SIGMA) ** 2));
  const total = kernel.reduce((sum, value) => sum + value, 0);
  const once = (from, along, across) => {
    const to = new Float32Array(side * side);
    for (let line = 0; line < side; line += 1) {
      for (let at = 0; at < side; at += 1) {
        let sum = 0;
        const end = Math.min(side - 1, at + reach);
        for (let near = Math.max(0, at - reach); near <= end; near += 1) {
          sum += kernel[near - at + reach] * from[line * across + near * along];
        }
        to[line * across + at * along] = sum / total;
      }
    }
    return to;
  };
  return once(once(plane, 1, side), side, 1);
}

function blurred(image, hole, side) {
  const cells = side * side;
  const weights = smooth(Float32Array.from(hole, (gone) => 1 - gone), side);
  const mean = meanOf(image, hole);
  const out = new Float32Array(3 * cells);
  for (let c = 0; c < 3; c += 1) {
    const colours = smooth(Float32Array.from(hole, (gone, i) => (gone ? 0 : image[c * cells + i])), side);
    for (let i = 0; i < cells; i += 1) out[c * cells + i] = weights[i] > 1e-4 ? colours[i] / weights[i] : mean[c];
  }
  return out;
}

// Each lost pixel takes the colour of its mirror image at the nearest pixel that stays.
function mirrored(image, hole, side) {
  const cells = side * side;
  const out = Float32Array.from(image);
  const edge = []; // the nearest pixel that stays lies at the edge of the hole
  for (let i = 0; i < cells; i += 1) {
    const [y, x] = [Math.floor(i / side), i % side];
    const beside = [[y - 1, x], [y + 1, x], [y, x - 1], [y, x + 1], [y - 1, x - 1], [y - 1, x + 1], [y + 1, x - 1], [y + 1, x + 1]];
    if (!hole[i] && beside.some(([v, u]) => v >= 0 && u >= 0 && v < side && u < side && hole[v * side + u])) edge.push([y, x]);
  }
  if (edge.length === 0) return out;
  for (let i = 0; i < cells; i += 1) {
    if (!hole[i]) continue;
    const [y, x] = [Math.floor(i / side), i % side];
    let [best, near] = [Infinity, null];
    for (const place of edge) {
      const far = (place[0] - y) ** 2 + (place[1] - x) ** 2;
      if (far < best) [best, near] = [far, place];
    }
    const inside = (value) => Math.min(Math.max(value, 0), side - 1);
    const mirror = inside(2 * near[0] - y) * side + inside(2 * near[1] - x);
    const source = hole[mirror] ? near[0] * side + near[1] : mirror;
    for (let c = 0; c < 3; c += 1) out[c * cells + i] = image[c * cells + source];
  }
  return out;
}

// The image with each pixel as `owner` says: 0 stays, k is lost and filled by FILLS[k - 1]. `other` is
// the image that swapped pixels come from; `empty` the colour of a tile of which nothing stays.
function filled(image, owner, side, other, empty) {
  const cells = side * side;
  const hole = Uint8Array.from(owner, (value) => (value ? 1 : 0));
  if (!hole.includes(1)) return image;
  const out = Float32Array.from(image);
  const nothing = !hole.includes(0);
  FILLS.forEach((fill, f) => {
    if (!owner.includes(f + 1)) return;
    const mean = nothing ? empty : meanOf(image, hole);
    const flat = () => Float32Array.from({ length: 3 * cells }, (_, i) => mean[Math.floor(i / cells)]);
    let from = flat;
    if (fill === "swap") from = () => other;
    else if (fill === "blur" && !nothing) from = () => blurred(image, hole, side);
    else if (fill === "texture" && !nothing) from = () => mirrored(image, hole, side);
    const values = from();
    for (let i = 0; i < cells; i += 1) {
      if (owner[i] !== f + 1) continue;
      for (let c = 0; c < 3; c += 1) out[c * cells + i] = Math.min(1, Math.max(0, values[c * cells + i]));
    }
  });
  return out;
}

// Which filling owns each pixel after some strokes. A stroke has `kind`, one of FILLS, "erase",
// "clear" or "painting", a `size` across, and `points` [[x, y], ...], in pixels; a painting is the
// sum of earlier strokes, as the text `cells` of live_state.js.
function ownersOf(strokes, side) {
  const owner = new Uint8Array(side * side);
  for (const stroke of strokes) {
    const { kind } = stroke;
    if (kind === "clear") owner.fill(0);
    else if (kind === "painting") owner.set(readPainting(stroke.cells, side));
    else {
      const value = FILLS.indexOf(kind) + 1;
      touchedBy(stroke, side).forEach((is, i) => { if (is) owner[i] = value; });
    }
  }
  return owner;
}

// Which pixels a stroke touches: those whose middle is nearer to its line than half its size.
const touched = new WeakMap(); // strokes never change
function touchedBy(stroke, side) {
  if (!touched.has(stroke)) {
    const mask = new Uint8Array(side * side);
    stroke.points.forEach((end, i) => stamp(mask, side, stroke.points[Math.max(0, i - 1)], end, stroke.size / 2));
    touched.set(stroke, mask);
  }
  return touched.get(stroke);
}
function stamp(mask, side, [u, v], [x, y], radius) {
  const [dx, dy] = [x - u, y - v];
  const long = dx * dx + dy * dy;
  const within = (value) => Math.min(side, Math.max(0, Math.floor(value)));
  const left = within(Math.min(u, x) - radius);
  const right = within(Math.max(u, x) + radius + 1);
  const bottom = within(Math.max(v, y) + radius + 1);
  for (let row = within(Math.min(v, y) - radius); row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) {
      const [a, b] = [column + 0.5 - u, row + 0.5 - v];
      const along = long ? Math.min(1, Math.max(0, (a * dx + b * dy) / long)) : 0;
      if ((a - along * dx) ** 2 + (b - along * dy) ** 2 <= radius * radius) mask[row * side + column] = 1;
    }
  }
}

// Where each pixel of a turned and flipped image comes from: quarter turns clockwise after a flip
// from left to right.
function turning(side, turn, flip) {
  return Int32Array.from({ length: side * side }, (_, i) => {
    let [y, x] = [Math.floor(i / side), i % side];
    for (let t = 0; t < turn; t += 1) [y, x] = [side - 1 - x, y];
    return y * side + (flip ? side - 1 - x : x);
  });
}
