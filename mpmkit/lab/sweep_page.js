// What the sweep panel needs of the page: whether it is dark, that keys stay in the control that has the focus
// (d d would delete the cell; Lab looks for this mark on the focused element first), and a word when its kernel
// is gone.

const ENDED = "The kernel of this panel has ended, and a sweep with it; its finished points are in its file. Run "
  + "this cell again for a new panel.";

function keepKeys(event) {
  if (!event.target.closest?.(".mk-sweep")) return;
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !event.ctrlKey && !event.metaKey);
}

function render({ model, el }) {
  const look = () => {
    model.set("dark", document.body.dataset.jpThemeLight === "false");
    model.save_changes();
  };
  const onKernel = () => setTimeout(() => {  // a restarted kernel knows nothing of this panel
    const panel = el.closest(".mk-sweep");
    if (!panel || !el.closest(".jupyter-widgets-disconnected") || panel.querySelector(".mk-ended")) return;
    for (const part of panel.querySelectorAll(":scope > .mk-head, .mk-ask, .mk-at")) part.inert = true;
    const ended = Object.assign(document.createElement("div"), { className: "mk-ended", textContent: ENDED });
    ended.setAttribute("role", "alert");
    panel.prepend(ended);
  }, 50);
  model.on("comm_live_update", onKernel);
  const themes = new MutationObserver(look);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  window.addEventListener("keydown", keepKeys, true);
  look();
  return () => {
    model.off("comm_live_update", onKernel);
    themes.disconnect();
    window.removeEventListener("keydown", keepKeys, true);
  };
}

export default { render };
