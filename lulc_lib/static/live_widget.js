// The live page as a notebook's element. Python puts the page's script and `MARKUP`, a constant, before.

function render({ model, el }) {
  el.innerHTML = MARKUP;
  const root = el.querySelector(".ll-root");
  root.dataset.theme = document.body.dataset.jpThemeLight === "false" ? "dark" : "light";
  root.querySelector('[data-part="theme"]').value = root.dataset.theme;
  root.querySelector('[data-act="link"]').hidden = true; // a notebook has no address for it
  const view = model.get("weights");
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
  const page = lulcLive(root, model.get("data"), async () => bytes);
  el.lulcPage = page;
  return () => page.end();
}

export default { render };
