// Names for screen readers: of the theme's triangles that open a part of the navigation, and of the gallery's cards.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("nav summary")) summary.setAttribute("aria-label", "Show the pages below");
  for (const card of document.querySelectorAll(".sphx-glr-thumbcontainer")) {
    const title = card.querySelector(".sphx-glr-thumbnail-title");
    for (const link of card.querySelectorAll("a")) link.setAttribute("aria-label", title.textContent);
  }
});
