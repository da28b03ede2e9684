// Drawing while one paints: a tile in grey and a map over it, in one pass without any allocation
// for each pixel. It shows what drawMap and toGrey of shared.js show.

const OPACITY = 0.65; // of a map over its tile

// Gives a canvas a size only where it has another: to set it again takes milliseconds.
function sized(canvas, side) {
  if (canvas.width !== side) canvas.width = canvas.height = side;
  return canvas.getContext("2d");
}

// Where each drawn pixel falls on n cells: two neighbours and the share of the second.
const kept = new Map();
function placesOn(drawn, n, whole) {
  const key = `${drawn} ${n} ${whole}`;
  if (!kept.has(key)) {
    const places = samples(drawn, n, whole);
    kept.set(key, { low: Int32Array.from(places, (p) => p[0]), high: Int32Array.from(places, (p) => p[1]), share: Float32Array.from(places, (p) => p[2]) });
  }
  return kept.get(key);
}

// Pixels (3, side, side) as grey (side, side) in 0..255, spread around mid-grey.
function greyOf(pixels, side) {
  const n = side * side;
  const grey = new Float32Array(n);
  for (let i = 0; i < n; i += 1) grey[i] = 0.299 * pixels[i] + 0.587 * pixels[n + i] + 0.114 * pixels[2 * n + i];
  const sorted = grey.slice().sort();
  const quantile = (share) => sorted[Math.round(share * (n - 1))];
  const gain = Math.min(2.5, 0.7 / Math.max(quantile(0.98) - quantile(0.02), 1e-3));
  const middle = quantile(0.5);
  for (let i = 0; i < n; i += 1) grey[i] = 255 * Math.min(1, Math.max(0.1, 0.5 + gain * (grey[i] - middle)));
  return grey;
}

// A map's values on drawn x drawn pixels.
function spread(map, drawn, whole) {
  const { rows, columns, grid } = map;
  const unit = map.peak / 127;
  const [down, along] = [placesOn(drawn, rows, whole), placesOn(drawn, columns, whole)];
  const values = new Float32Array(drawn * drawn);
  for (let y = 0, at = 0; y < drawn; y += 1) {
    const top = down.low[y] * columns;
    const bottom = down.high[y] * columns;
    const v = down.share[y];
    for (let x = 0; x < drawn; x += 1, at += 1) {
      const left = along.low[x];
      const right = along.high[x];
      const u = along.share[x];
      const upper = grid[top + left] * (1 - u) + grid[top + right] * u;
      const lower = grid[bottom + left] * (1 - u) + grid[bottom + right] * u;
      values[at] = unit * (upper * (1 - v) + lower * v);
    }
  }
  return values;
}

// Draws the tile in grey and, where there is one, the map over it, with lines at half of the scale.
function drawOver(canvas, pixels, side, map, whole, drawn) {
  const context = sized(canvas, drawn);
  const image = context.createImageData(drawn, drawn);
  const out = new Uint32Array(image.data.buffer);
  const grey = greyOf(pixels, side);
  const near = placesOn(drawn, side, true).low;
  const values = map && spread(map, drawn, whole);
  const half = map ? map.limit / 2 : 0;
  const scale = map ? 255 / (map.signed ? 2 * map.limit : map.limit) : 0;
  const shift = map?.signed ? 127.5 : 0;
  for (let y = 0, at = 0; y < drawn; y += 1) {
    for (let x = 0; x < drawn; x += 1, at += 1) {
      const below = grey[near[y] * side + near[x]];
      let red = below;
      let green = below;
      let blue = below;
      if (map) {
        const value = values[at];
        const colour = 3 * Math.min(255, Math.max(0, Math.round(value * scale + shift)));
        const here = levelOf(value, half, map.signed);
        const left = x > 0 ? levelOf(values[at - 1], half, map.signed) : here;
        const above = y > 0 ? levelOf(values[at - drawn], half, map.signed) : here;
        const gap = Math.min(here, left, above) < 0 && (x + y) % 7 > 3;
        const line = (here !== left || here !== above) && !gap;
        red += OPACITY * ((line ? 0 : map.table[colour]) - red);
        green += OPACITY * ((line ? 0 : map.table[colour + 1]) - green);
        blue += OPACITY * ((line ? 0 : map.table[colour + 2]) - blue);
      }
      out[at] = (255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red);
    }
  }
  context.putImageData(image, 0, 0);
}
function levelOf(value, half, signed) {
  return value > half ? 1 : signed && value < -half ? -1 : 0;
}
