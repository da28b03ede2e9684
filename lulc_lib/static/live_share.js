// Sharing: a link that carries the state, and a picture of what is seen.

const PICTURE_FONT = "14px sans-serif";

// Breaks a text into lines of at most some pixels, between words.
function wrapped(context, text, width) {
  context.font = PICTURE_FONT;
  return text.split(" ").reduce((lines, word) => {
    const longer = `${lines.at(-1)} ${word}`;
    if (lines.length && context.measureText(longer).width <= width) return [...lines.slice(0, -1), longer];
    return [...lines, word];
  }, []);
}

function sharingOn(page) {
  const { part, data, tiles, answers } = page;

  function link() {
    const { state } = page;
    if (state.tile >= tiles.count) {
      page.note("A link cannot carry your own picture, which stays on this device. Save the picture instead.");
      return;
    }
    page.note("");
    const text = `${page.options.address ?? location.href.split("#")[0]}#${toLink(state, data)}`;
    part("linkline").hidden = false;
    part("linktext").value = text;
    part("linktext").select();
    const copied = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("no clipboard"));
    copied.then(() => page.tell("The link was copied."), () => page.tell("Copy the link from the field."));
  }

  // Draws what is seen as one picture, with what it is written below.
  function picture() {
    const canvas = document.createElement("canvas");
    const shown = [part("tile"), part("map"), ...(answers.beside ? [part("besidemap")] : [])];
    canvas.width = 20 + 320 * shown.length;
    const context = canvas.getContext("2d");
    const text = (name) => part(name).textContent;
    const scale = (name) => `The scale goes from ${text(`${name}low`)} to ${text(`${name}high`)}.`;
    const lines = [
      `${tiles.nameOf(page.state.tile)}: ${text("said")}`,
      `${text("mapped")}; ${text("verdict")} ${scale("")}`,
      ...(answers.beside ? [`${text("besidename")}; ${text("besidewords")} ${scale("beside")}`] : []),
      data.credit,
    ].flatMap((line) => wrapped(context, line, canvas.width - 40));
    canvas.height = 360 + 20 * lines.length;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    shown.forEach((one, i) => context.drawImage(one, 20 + 320 * i, 20, 300, 300));
    context.fillStyle = "#1f2933";
    context.font = PICTURE_FONT;
    lines.forEach((line, i) => context.fillText(line, 20, 350 + 20 * i, canvas.width - 40));
    const image = canvas.toDataURL("image/png");
    const anchor = make("a");
    anchor.href = image;
    anchor.download = "view.png";
    anchor.click();
    page.tell("The picture was saved.");
    return image;
  }
  return { link, picture };
}
