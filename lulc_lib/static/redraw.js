// Drawing anew what a reader may be using. Python puts this file before the scripts that use it.

// Replaces the parts of `parent`. What had the focus, or the part that stands for it now (the one
// with the same `data-key`), has it again; where there is none now, `parent` has it, so that keys go
// on from here.
function drawAnew(parent, parts) {
  const held = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  parent.replaceChildren(...parts);
  if (!held) return;
  const anew = [...parent.querySelectorAll("[data-key]")].find((one) => one.dataset.key === held && !one.disabled);
  if (!anew) parent.tabIndex = -1;
  (anew ?? parent).focus({ preventScroll: true });
}
