"use strict";
(() => {
  // each heading becomes a button that sorts the rows; rows without a value stay last
  const table = document.getElementById("board");
  const rows = table.querySelector("tbody.rows");
  const said = document.getElementById("sorted");
  const headings = [...table.querySelectorAll("thead th")];
  const shown = new Map([...rows.rows].map((row, place) => [row, place]));

  function sort(heading, place) {
    const falling = heading.getAttribute("aria-sort") ? heading.getAttribute("aria-sort") === "ascending" : place > 0;
    const valueOf = (row) => place ? row.cells[place].dataset.value : row.cells[0].textContent;
    const order = [...rows.rows].sort((a, b) => {
      const [x, y] = [valueOf(a), valueOf(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || shown.get(a) - shown.get(b);
      const found = place ? Number(x) - Number(y) : x.localeCompare(y);
      return (falling ? -found : found) || shown.get(a) - shown.get(b);
    });
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    rows.append(...order);
    said.textContent = `Sorted by ${heading.textContent}, ${falling ? "highest" : "lowest"} first.`;
  }

  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(heading, place));
    heading.append(button);
  });
})();
