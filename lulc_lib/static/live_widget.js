// The live page as a notebook's element. Python puts the page's script, keys.js and `MARKUP`, a
// constant, before.

function render({ model, el }) {
  el.innerHTML = MARKUP;
  const root = el.querySelector(".ll-root");
  const leaveKeys = keepKeys(root);
  root.tabIndex = -1; // a click beside the controls does not give the keys to a cell
  root.dataset.theme = document.body.dataset.jpThemeLight === "false" ? "dark" : "light";
  root.querySelector('[data-part="theme"]').value = root.dataset.theme;
  root.querySelector('[data-act="link"]').hidden = true; // a notebook has no address for it
  const view = model.get("weights");
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice();
  const page = lulcLive(root, model.get("data"), async () => bytes);
  el.lulcPage = page;
  return () => {
    leaveKeys();
    page.end();
  };
}

export default { render };
