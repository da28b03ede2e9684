// A plain Vision Transformer: its logits, and maps of what counts for a class. It needs `product.js` alone.
//
// T tokens of D values; N of them are patches, in h rows and w columns, and come after the prefix (a
// class token). K classes. A matrix lies row by row in one memory, `heap`: it begins at `at`, its rows
// are `step` values apart, a multiple of 8, and there is space for a multiple of 4 rows.

const up = (n, to) => Math.ceil(n / to) * to;

// The normal distribution's area below x, on [-8, 8], by Simpson's rule; GELU is x times it.
const FINE = 1024;
const PHI = (() => {
  const table = new Float64Array(16 * FINE + 2);
  const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  for (let i = 1; i < table.length; i += 1) {
    const x = i / FINE - 8;
    table[i] = table[i - 1] + (density(x - 1 / FINE) + 4 * density(x - 0.5 / FINE) + density(x)) / (6 * FINE);
  }
  return Float32Array.from(table);
})();
function phi(x) {
  const at = (x + 8) * FINE;
  if (!(at > 0)) return 0;
  if (at >= 16 * FINE) return 1;
  const low = Math.floor(at);
  return PHI[low] + (PHI[low + 1] - PHI[low]) * (at - low);
}

// Pixels (3, side, side) brought to another size, bilinearly, the middles of pixels where they were.
function resized(pixels, side, size) {
  if (side === size) return pixels;
  const near = Array.from({ length: size }, (_, i) => {
    const at = Math.max(((i + 0.5) * side) / size - 0.5, 0);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, side - 1), at - low];
  });
  const large = new Float32Array(3 * size * size);
  for (let c = 0, to = 0; c < 3; c += 1) {
    for (const [top, bottom, down] of near) {
      for (const [left, right, along] of near) {
        const at = (y, x) => pixels[(c * side + y) * side + x];
        const upper = at(top, left) * (1 - along) + at(top, right) * along;
        large[to] = upper * (1 - down) + (at(bottom, left) * (1 - along) + at(bottom, right) * along) * down;
        to += 1;
      }
    }
  }
  return large;
}

// --- the network -------------------------------------------------------------------------------------

// `spec`: sizes, and `tensors`, [name, length] in the order of `weights` (Float32Array).
function makeVit(spec, weights, kernels) {
  const { dim: D, depth, heads, hidden: F, patch, size, side, prefix, classes: K, pool } = spec;
  const d = D / heads; // of one head
  const across = size / patch;
  const N = across * across;
  const T = prefix + N;
  const pixels = 3 * patch * patch;

  let values = 128;
  const matrix = (rows, columns) => {
    const made = { at: values, rows: up(rows, 4), step: up(columns, 8) };
    values += (made.rows + 4) * made.step + 8;
    return made;
  };
  const panels = (k, n) => matrix(up(n, 8) / 8, 8 * up(k, 4)); // b of a product

  const stored = {};
  let offset = 0;
  for (const [name, length] of spec.tensors) {
    stored[name] = weights.subarray(offset, offset + length);
    offset += length;
  }
  const blocks = Array.from({ length: depth }, (_, i) => ({
    name: `blocks.${i}.`,
    x: matrix(T, D), norm1: {}, qkv: matrix(T, 3 * D), attention: Array.from({ length: heads }, () => matrix(T, T)),
    y: matrix(T, D), norm2: {}, h: matrix(T, F), gate: new Float32Array(T * F),
  }));
  const layers = { "patch.": [D, pixels] };
  for (const { name } of blocks) {
    Object.assign(layers, { [`${name}qkv.`]: [3 * D, D], [`${name}proj.`]: [D, D], [`${name}fc1.`]: [F, D], [`${name}fc2.`]: [D, F] });
  }
  const forth = {}; // layer -> its weights as panels, out of (out, in)
  const back = {}; // the same turned round, for gradients; filled when first asked for
  for (const [name, [out, into]] of Object.entries(layers)) {
    forth[name] = panels(into, out);
    back[name] = { ...panels(out, into), filled: false };
  }
  const seen = matrix(N, pixels);
  const [normed, mixed, last, slope] = [matrix(T, D), matrix(T, D), matrix(T, D), matrix(T, D)];
  const [wide, triple, pooled, read] = [matrix(T, F), matrix(T, 3 * D), matrix(1, D), matrix(1, D)];
  const [square, other, part] = [matrix(T, T), matrix(T, T), matrix(T, d)];
  const [small, narrow] = [panels(T, d), panels(d, T)]; // b of a product with one head's attention

  const { kind, heap, product, tried } = chooseKernel(kernels, values);

  // Copies a matrix of k rows and n columns, whose values lie `row` and `column` apart, into panels.
  function pack(from, at, row, column, k, n, to) {
    const deep = up(k, 4);
    for (let j = 0; j < n; j += 8) {
      for (let c = 0; c < 8; c += 1) {
        const start = to.at + j * deep + c;
        for (let i = 0; i < deep; i += 1) {
          heap[start + 8 * i] = i < k && j + c < n ? from[at + i * row + (j + c) * column] : 0;
        }
      }
    }
  }
  for (const [name, [out, into]] of Object.entries(layers)) {
    pack(stored[`${name}weight`], 0, 1, into, into, out, forth[name]);
  }
  function turned(name) {
    const [out, into] = layers[name];
    if (!back[name].filled) pack(stored[`${name}weight`], 0, into, 1, out, into, back[name]);
    back[name].filled = true;
    return back[name];
  }
  const times = (a, b, c, k, n, rows = T) => product(a.at, a.step, b.at, c.at, c.step, up(rows, 4), up(k, 4), up(n, 8));
  const columns = (a, from) => ({ ...a, at: a.at + from });

  // Takes the mean off each row and divides by the deviation; both are kept for the way back.
  function layerNorm(x, name, rows, eps, to, kept) {
    const [scale, shift] = [stored[`${name}weight`], stored[`${name}bias`]];
    kept.mean = new Float64Array(rows);
    kept.inverse = new Float64Array(rows);
    for (let t = 0; t < rows; t += 1) {
      const at = x.at + t * x.step;
      let [mean, spread] = [0, 0];
      for (let i = 0; i < D; i += 1) mean += heap[at + i];
      mean /= D;
      for (let i = 0; i < D; i += 1) spread += (heap[at + i] - mean) ** 2;
      const inverse = 1 / Math.sqrt(spread / D + eps);
      const out = to.at + t * to.step;
      for (let i = 0; i < D; i += 1) heap[out + i] = (heap[at + i] - mean) * inverse * scale[i] + shift[i];
      kept.mean[t] = mean;
      kept.inverse[t] = inverse;
    }
  }

  // The gradient before a layer norm, from the one behind it; a held deviation passes none on.
  function normBack(gradient, x, name, rows, kept, held, to) {
    const scale = stored[`${name}weight`];
    for (let t = 0; t < rows; t += 1) {
      const [g, at, out, inverse] = [gradient.at + t * gradient.step, x.at + t * x.step, to.at + t * to.step, kept.inverse[t]];
      const centred = (i) => (heap[at + i] - kept.mean[t]) * inverse;
      let [mean, along] = [0, 0];
      for (let i = 0; i < D; i += 1) {
        mean += heap[g + i] * scale[i];
        if (!held) along += heap[g + i] * scale[i] * centred(i);
      }
      mean /= D;
      along /= D;
      for (let i = 0; i < D; i += 1) heap[out + i] += inverse * (heap[g + i] * scale[i] - mean - (held ? 0 : centred(i) * along));
    }
  }

  // to = x + y + bias, for T rows
  function join(x, y, bias, to) {
    for (let t = 0; t < T; t += 1) {
      const [a, b, c] = [x.at + t * x.step, y.at + t * y.step, to.at + t * to.step];
      for (let i = 0; i < D; i += 1) heap[c + i] = heap[a + i] + heap[b + i] + bias[i];
    }
  }

  function embed(image) {
    const large = resized(image, side, size);
    for (let c = 0; c < 3; c += 1) {
      const [mean, std] = [spec.mean[c], spec.std[c]];
      for (let y = 0; y < size; y += 1) {
        const row = seen.at + Math.floor(y / patch) * across * seen.step + (c * patch + (y % patch)) * patch;
        for (let x = 0; x < size; x += 1) {
          heap[row + Math.floor(x / patch) * seen.step + (x % patch)] = (large[(c * size + y) * size + x] - mean) / std;
        }
      }
    }
    times(seen, forth["patch."], normed, pixels, D, N); // (N, D)
    const [x, bias] = [blocks[0].x, stored["patch.bias"]];
    for (let t = 0; t < T; t += 1) {
      const from = normed.at + (t - prefix) * normed.step;
      for (let i = 0; i < D; i += 1) {
        heap[x.at + t * x.step + i] = stored.base[t * D + i] + stored.rest[t * D + i] + (t < prefix ? 0 : heap[from + i] + bias[i]);
      }
    }
  }

  function softmax(row, step, scale) {
    let [top, sum] = [-Infinity, 0];
    for (let j = 0; j < T; j += 1) top = Math.max(top, heap[row + j]);
    for (let j = 0; j < T; j += 1) sum += heap[row + j] = Math.exp((heap[row + j] - top) * scale);
    for (let j = 0; j < T; j += 1) heap[row + j] /= sum;
    for (let j = T; j < step; j += 1) heap[row + j] = 0;
  }

  function attend({ qkv, attention }) {
    attention.forEach((match, h) => {
      pack(heap, qkv.at + D + h * d, 1, qkv.step, d, T, narrow); // keys, turned
      times(columns(qkv, h * d), narrow, match, d, T); // (T, T)
      for (let t = 0; t < T; t += 1) softmax(match.at + t * match.step, match.step, d ** -0.5);
      pack(heap, qkv.at + 2 * D + h * d, qkv.step, 1, T, d, small); // values
      times(match, small, part, T, d); // (T, d)
      for (let t = 0; t < T; t += 1) heap.copyWithin(mixed.at + t * mixed.step + h * d, part.at + t * part.step, part.at + t * part.step + d);
    });
  }

  function runBlock(block, out) {
    const { name, x, y, qkv, h, gate } = block;
    layerNorm(x, `${name}norm1.`, T, spec.eps, normed, block.norm1);
    times(normed, forth[`${name}qkv.`], qkv, D, 3 * D); // (T, 3 D)
    const bias = stored[`${name}qkv.bias`];
    for (let t = 0; t < T; t += 1) for (let i = 0; i < 3 * D; i += 1) heap[qkv.at + t * qkv.step + i] += bias[i];
    attend(block);
    times(mixed, forth[`${name}proj.`], normed, D, D); // (T, D)
    join(x, normed, stored[`${name}proj.bias`], y);
    layerNorm(y, `${name}norm2.`, T, spec.eps, normed, block.norm2);
    times(normed, forth[`${name}fc1.`], h, D, F); // (T, F)
    const first = stored[`${name}fc1.bias`];
    for (let t = 0; t < T; t += 1) {
      const [from, to] = [h.at + t * h.step, wide.at + t * wide.step];
      for (let i = 0; i < F; i += 1) {
        const value = (heap[from + i] += first[i]);
        heap[to + i] = value * (gate[t * F + i] = phi(value));
      }
    }
    times(wide, forth[`${name}fc2.`], normed, F, D); // (T, D)
    join(y, normed, stored[`${name}fc2.bias`], out);
  }

  // What the head reads: the class token, or the mean of the patches.
  const [first, end] = pool === "token" ? [0, 1] : [prefix, T];
  const head = { norm: {}, fcNorm: {} };
  function runHead() {
    if (spec.norm) layerNorm(last, "norm.", T, spec.eps, normed, head.norm);
    const tokens = spec.norm ? normed : last;
    for (let i = 0; i < D; i += 1) {
      let sum = 0;
      for (let t = first; t < end; t += 1) sum += heap[tokens.at + t * tokens.step + i];
      heap[pooled.at + i] = sum / (end - first);
    }
    if (spec.fcNorm) layerNorm(pooled, "fc_norm.", 1, spec.eps, read, head.fcNorm);
    const from = spec.fcNorm ? read : pooled;
    return Float32Array.from({ length: K }, (_, k) => {
      let sum = stored["head.bias"][k];
      for (let i = 0; i < D; i += 1) sum += heap[from.at + i] * stored["head.weight"][k * D + i];
      return sum;
    });
  }

  // pixels: Float32Array (3, side, side) in [0, 1] -> logits (K,)
  function run(image) {
    embed(image);
    blocks.forEach((block, i) => runBlock(block, i + 1 < depth ? blocks[i + 1].x : last));
    return runHead();
  }

  // --- gradients: of a sum of logits, weighted by `direction` (K,) -----------------------------------

  const clear = (a) => heap.fill(0, a.at, a.at + a.rows * a.step);

  // From the logits to the last block's output, in `slope`.
  function headBack(direction, held) {
    for (let i = 0; i < D; i += 1) {
      let sum = 0;
      for (let k = 0; k < K; k += 1) sum += direction[k] * stored["head.weight"][k * D + i];
      heap[read.at + i] = sum;
    }
    let from = read;
    if (spec.fcNorm) {
      clear((from = triple));
      normBack(read, pooled, "fc_norm.", 1, head.fcNorm, held, from);
    }
    const tokens = spec.norm ? mixed : slope;
    clear(slope);
    clear(tokens);
    for (let t = first; t < end; t += 1) {
      for (let i = 0; i < D; i += 1) heap[tokens.at + t * tokens.step + i] = heap[from.at + i] / (end - first);
    }
    if (spec.norm) normBack(mixed, last, "norm.", T, head.norm, held, slope);
  }

  // Through one block: `slope` at its output becomes `slope` at its input; what is at the output of its
  // first norm stays in `normed`. Held gates (attention, norms, GELU) pass no gradient on.
  function blockBack({ name, x, y, h, gate, ...block }, held) {
    times(slope, turned(`${name}fc2.`), wide, D, F); // (T, F)
    for (let t = 0; t < T; t += 1) {
      for (let i = 0; i < F; i += 1) {
        const value = heap[h.at + t * h.step + i];
        const density = held ? 0 : (value * Math.exp((-value * value) / 2)) / Math.sqrt(2 * Math.PI);
        heap[wide.at + t * wide.step + i] *= gate[t * F + i] + density;
      }
    }
    times(wide, turned(`${name}fc1.`), normed, F, D); // (T, D)
    normBack(normed, y, `${name}norm2.`, T, block.norm2, held, slope);
    times(slope, turned(`${name}proj.`), mixed, D, D); // (T, D)
    clear(triple);
    block.attention.forEach((match, j) => headOfAttentionBack(match, block.qkv, j * d, held));
    times(triple, turned(`${name}qkv.`), normed, 3 * D, D); // (T, D)
    normBack(normed, x, `${name}norm1.`, T, block.norm1, held, slope);
  }

  // From the mixed values in `mixed` to queries, keys and values, in `triple`.
  function headOfAttentionBack(match, qkv, from, held) {
    const turn = (a) => { // a (T, T) into `square`, turned
      for (let i = 0; i < T; i += 1) for (let j = 0; j < T; j += 1) heap[square.at + j * square.step + i] = heap[a.at + i * a.step + j];
    };
    const into = (a, source, at, to) => { // a (T, T) times d columns of the source (T, d)
      pack(heap, source.at + at, source.step, 1, T, d, small);
      times(a, small, part, T, d);
      for (let t = 0; t < T; t += 1) heap.copyWithin(triple.at + t * triple.step + to, part.at + t * part.step, part.at + t * part.step + d);
    };
    turn(match);
    into(square, mixed, from, 2 * D + from); // values
    if (held) return;
    pack(heap, qkv.at + 2 * D + from, 1, qkv.step, d, T, narrow);
    times(columns(mixed, from), narrow, other, d, T); // (T, T), of the probabilities
    for (let t = 0; t < T; t += 1) {
      const [a, p] = [other.at + t * other.step, match.at + t * match.step];
      let sum = 0;
      for (let i = 0; i < T; i += 1) sum += heap[a + i] * heap[p + i];
      for (let i = 0; i < T; i += 1) heap[a + i] = (heap[a + i] - sum) * heap[p + i] * d ** -0.5;
    }
    into(other, qkv, D + from, from); // queries
    turn(other);
    into(square, qkv, from, D + from); // keys
  }

  // A map (N,) of what counts for a class in the tile that ran last. `method`: `block`, a number; `norm1`,
  // take that block's first norm instead of its output; `held`, hold the gates; `mean`, weigh channels by
  // their mean gradient (Grad-CAM), else multiply gradient and activation cell by cell.
  function map({ block, norm1, held, mean }, direction) {
    headBack(direction, held);
    for (let i = depth - 1; i > block - (norm1 ? 1 : 0); i -= 1) blockBack(blocks[i], held);
    const gradient = norm1 ? normed : slope;
    const cells = norm1 ? mixed : block + 1 < depth ? blocks[block + 1].x : last;
    if (norm1) layerNorm(blocks[block].x, `${blocks[block].name}norm1.`, T, spec.eps, mixed, {});
    const weight = new Float64Array(D);
    for (let t = prefix; t < T && mean; t += 1) {
      for (let i = 0; i < D; i += 1) weight[i] += heap[gradient.at + t * gradient.step + i] / N;
    }
    return Float32Array.from({ length: N }, (_, n) => {
      let sum = 0;
      for (let i = 0; i < D; i += 1) {
        const g = mean ? weight[i] : heap[gradient.at + (n + prefix) * gradient.step + i];
        sum += g * heap[cells.at + (n + prefix) * cells.step + i];
      }
      return sum;
    });
  }

  // How much each token reads of each in a block, (T, T), the mean over heads; rows sum to 1.
  function attention(block) {
    const mean = new Float32Array(T * T);
    for (const match of blocks[block].attention) {
      for (let i = 0; i < T; i += 1) for (let j = 0; j < T; j += 1) mean[i * T + j] += heap[match.at + i * match.step + j] / heads;
    }
    return mean;
  }

  return { run, map, attention, kind, tried, cells: across, tokens: T, prefix };
}
