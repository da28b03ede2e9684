// Drawing that the page and the widgets share. Python puts this file before each of their scripts.

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Where each of `side` drawn pixels falls on a grid of n cells: two neighbours and the share of the
// second (bilinear, align_corners=False). With whole cells both are the cell itself.
function samples(side, n, whole) {
  return Array.from({ length: side }, (_, pixel) => {
    const cell = Math.floor((pixel * n) / side);
    if (whole) return [cell, cell, 0];
    const at = Math.min(Math.max(((pixel + 0.5) * n) / side - 0.5, 0), n - 1);
    const low = Math.floor(at);
    return [low, Math.min(low + 1, n - 1), at - low];
  });
}

// A map has rows, columns, grid (Int8Array), peak (what 127 stands for), limit (end of the scale),
// signed, and table (256 colours, low to high).
function enlarge(map, side, whole) {
  const { rows, columns, grid } = map;
  const unit = map.peak / 127;
  const xs = samples(side, columns, whole);
  const values = new Float32Array(side * side);
  samples(side, rows, whole).forEach(([top, bottom, down], y) => {
    const a = top * columns;
    const b = bottom * columns;
    xs.forEach(([left, right, along], x) => {
      const upper = grid[a + left] * (1 - along) + grid[a + right] * along;
      const lower = grid[b + left] * (1 - along) + grid[b + right] * along;
      values[y * side + x] = unit * (upper * (1 - down) + lower * down);
    });
  });
  return values;
}

// Draws the colours of a map, and a line at half of the scale, dashed below 0.
function drawMap(canvas, map, whole) {
  const side = canvas.width;
  const values = enlarge(map, side, whole);
  const { limit, signed, table } = map;
  const level = (at) => (values[at] > limit / 2 ? 1 : signed && values[at] < -limit / 2 ? -1 : 0);
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  for (let at = 0; at < values.length; at += 1) {
    const share = signed ? (values[at] / limit + 1) / 2 : values[at] / limit;
    const colour = 3 * Math.min(255, Math.max(0, Math.round(share * 255)));
    const x = at % side;
    const y = (at - x) / side;
    const here = level(at);
    const left = x > 0 ? level(at - 1) : here;
    const above = y > 0 ? level(at - side) : here;
    const gap = Math.min(here, left, above) < 0 && (x + y) % 7 > 3;
    const line = (here !== left || here !== above) && !gap;
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[4 * at + channel] = line ? 0 : table[colour + channel];
    }
    image.data[4 * at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Turns the pixels of a tile (ImageData) grey in place, spread around mid-grey so that dark tiles
// carry a map.
function toGrey(image) {
  const grey = new Float32Array(image.data.length / 4).map((_, i) => {
    const [red, green, blue] = image.data.subarray(4 * i, 4 * i + 3);
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
  });
  const sorted = grey.slice().sort();
  const quantile = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const gain = Math.min(2.5, 0.7 / Math.max(quantile(0.98) - quantile(0.02), 1e-3));
  grey.forEach((value, i) => {
    const shown = 255 * Math.min(1, Math.max(0.1, 0.5 + gain * (value - quantile(0.5))));
    image.data.fill(shown, 4 * i, 4 * i + 3);
  });
  return image;
}
