// The tiles of the page and the reader's own picture, which stands behind the last of them.

function tilesOf(data) {
  const { side, names, across } = data.tiles;
  const count = names.length;
  const sprite = new Image();
  const seen = new Map(); // tile -> its pixels
  const tiles = { side, count, own: null }; // own: {serial, pixels, name, words, logits}
  tiles.load = () => {
    sprite.src = data.tiles.sprite;
    return sprite.decode();
  };
  tiles.keyOf = (tile) => (tile < count ? tile : `own ${tiles.own.serial}`);
  tiles.nameOf = (tile) => (tile < count ? names[tile] : tiles.own.name);
  tiles.draw = (tile, canvas = document.createElement("canvas")) => {
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (tile >= count) context.putImageData(imageData(tiles.own.pixels, side), 0, 0);
    else context.drawImage(sprite, (tile % across) * side, Math.floor(tile / across) * side, side, side, 0, 0, side, side);
    return canvas;
  };
  tiles.pixelsOf = (tile) => {
    if (tile >= count) return tiles.own.pixels;
    if (!seen.has(tile)) seen.set(tile, planes(tiles.draw(tile).getContext("2d").getImageData(0, 0, side, side).data));
    return seen.get(tile);
  };
  return tiles;
}

// From bytes (side, side, 4) to values (3, side, side) in [0, 1], and back.
function planes(rgba) {
  const n = rgba.length / 4;
  const values = new Float32Array(3 * n);
  for (let i = 0; i < n; i += 1) for (let c = 0; c < 3; c += 1) values[c * n + i] = rgba[4 * i + c] / 255;
  return values;
}
function imageData(pixels, side) {
  const image = new ImageData(side, side);
  const n = side * side;
  for (let i = 0; i < n; i += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = Math.round(255 * pixels[c * n + i]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

const LARGEST_FILE = 50e6; // bytes

// Reads a picture and takes its middle square, shrunk, or its middle pixels as they are.
async function fitPicture(file, side, crop) {
  if (file.size > LARGEST_FILE) throw new Error(`it has ${Math.round(file.size / 1e6)} MB, and at most ${LARGEST_FILE / 1e6} are taken`);
  const picture = await createImageBitmap(file);
  const [w, h] = [picture.width, picture.height];
  const short = Math.min(w, h);
  const cut = crop && short >= side ? side : short;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // below transparent pixels
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, Math.floor((w - cut) / 2), Math.floor((h - cut) / 2), cut, cut, 0, 0, side, side);
  picture.close();
  const how = cut === side ? "cut out as they are" : cut > side ? "shrunk" : "enlarged";
  return {
    pixels: planes(context.getImageData(0, 0, side, side).data),
    name: file.name || "pasted picture",
    words: `The middle ${cut}x${cut} of ${w}x${h} pixels, ${how}.`,
    logits: null, // what the network says of it as it came
  };
}
