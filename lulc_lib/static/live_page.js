// Starts the live page once its weights, the last block of the file, have been read.
(() => {
  const text = (name) => document.querySelector(`script[data-block="${name}"]`).textContent;
  const whole = () => new Promise((go) => {
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", go, { once: true });
    else go();
  });
  const page = lulcLive(document.querySelector(".ll-root"), JSON.parse(text("data")), () => whole().then(() => text("weights")), {
    link: location.hash.slice(1),
    pasteOn: document,
  });
  addEventListener("hashchange", () => page.follow(location.hash.slice(1)));
  window.lulcPage = page; // for tests and for the curious
})();
