// The table of inputs: sort by a column, filter by name, budget and radius. Without it the page shows every row.
"use strict";

const table = document.getElementById("rows");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const heads = Array.from(table.tHead.rows[0].cells);
const form = document.getElementById("filters");
const count = document.getElementById("count");
const whole = count.textContent;

/** The number of a cell, which may be written as a difference from one: -1 where there is a dash, as in files. */
function number(cell) {
  const [, one, rest] = /^(1 - )?(.*)$/.exec(cell.textContent);
  const value = one ? 1 - Number(rest) : Number(rest);
  return Number.isNaN(value) ? -1 : value;
}

/** Compare two rows by a column: numbers as numbers, names as a reader would. */
function comparison(column) {
  if (heads[column].dataset.kind === "text") {
    const names = new Intl.Collator("en", { numeric: true });
    return (a, b) => names.compare(a.cells[column].textContent, b.cells[column].textContent);
  }
  return (a, b) => number(a.cells[column]) - number(b.cells[column]);
}

/** Sort by a column: names from the first on, numbers from the largest on; once more turns the order round. */
function sortBy(column) {
  const head = heads[column];
  const first = head.dataset.kind === "text" ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const compare = comparison(column);
  rows.sort(order === "ascending" ? compare : (a, b) => compare(b, a));
  body.append(...rows);
}

/** Whether a row passes the form. */
function passes(row, words, column, least) {
  if (words && !row.cells[0].textContent.toLowerCase().includes(words)) return false;
  if (column < 0) return true;
  const value = number(row.cells[column]);
  return value >= 0 && value >= least;
}

/** Hide the rows that do not pass, and say how many are left. */
function filter() {
  const words = document.getElementById("filter-text").value.trim().toLowerCase();
  const chosen = document.getElementById("filter-budget")?.value ?? "";
  const column = chosen === "" ? -1 : heads.findIndex((head) => head.dataset.name === chosen);
  const least = Number(document.getElementById("filter-radius")?.value || 0);
  let shown = 0;
  for (const row of rows) {
    row.hidden = !passes(row, words, column, least);
    if (!row.hidden) shown += 1;
  }
  count.textContent = words || column >= 0 ? `${shown} of ${rows.length} inputs match.` : whole;
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sortBy(column));
  head.append(button);
});
form.hidden = rows.length < 2;
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("beforeprint", () => rows.forEach((row) => { row.hidden = false; }));
addEventListener("afterprint", filter);
