// Sorts tables of the class "sortable" by the column whose heading is pressed; the page can be read without it.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const body = table.tBodies[0];
  const value = (row, at) => {
    const cell = row.cells[at];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return text === "" ? NaN : text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
  };
  headings.forEach((heading, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const numbers = heading.dataset.sort === "number";
      const rows = [...body.rows].map((row) => [numbers ? value(row, at) : row.cells[at].textContent.trim(), row]);
      rows.sort(([a], [b]) => {
        if (!numbers) return down * a.localeCompare(b, undefined, { numeric: true });
        // what is missing comes last, whichever way
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return a === b ? 0 : down * (a < b ? -1 : 1);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
