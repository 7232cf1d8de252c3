// What axe finds in the theme's pages: names that are missing or lack the words one sees, tables that only a
// mouse scrolls.
addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".search-button__button")) button.removeAttribute("aria-label");
  for (const arrow of document.querySelectorAll("nav summary")) arrow.setAttribute("aria-label", "pages below");
  for (const table of document.querySelectorAll("table")) if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
});
