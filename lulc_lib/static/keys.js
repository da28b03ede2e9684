// Keys in a notebook. Python puts this file before the scripts that use it.

// Gives an element's keys to it: JupyterLab, which would edit cells with them, looks for this
// attribute on what has the focus before anything else. It keeps Shift and Enter, and what is
// pressed with Ctrl, Alt or Meta. Returns a function that ends it.
function keepKeys(el) {
  const mark = (event) => {
    if (!el.contains(event.target)) return;
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey;
    const runs = event.shiftKey && event.key === "Enter";
    event.target.toggleAttribute("data-lm-suppress-shortcuts", plain && !runs);
  };
  window.addEventListener("keydown", mark, true); // JupyterLab listens further in
  return () => window.removeEventListener("keydown", mark, true);
}
