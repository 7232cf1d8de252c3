// What the sweep panel needs of the page: whether it is dark, and that keys stay in the control that has
// the focus (d d would delete the cell; Lab looks for this mark on the focused element first).

function keepKeys(event) {
  if (!event.target.closest?.(".mk-sweep")) return;
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !event.ctrlKey && !event.metaKey);
}

function render({ model }) {
  const look = () => {
    model.set("dark", document.body.dataset.jpThemeLight === "false");
    model.save_changes();
  };
  const themes = new MutationObserver(look);
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  window.addEventListener("keydown", keepKeys, true);
  look();
  return () => {
    themes.disconnect();
    window.removeEventListener("keydown", keepKeys, true);
  };
}

export default { render };
