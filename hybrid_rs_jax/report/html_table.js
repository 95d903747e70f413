/* The table of inputs: sorting, filtering and paging over arrays of row numbers, so that 100,000 inputs are no matter. */

const MOST_COLUMNS = 10;

/** Columns of the table: how to read a value to sort by, and how to write a cell. */
function tableColumns(data) {
  const kinds = (name, title, write, extra = {}) => {
    const values = data.column(name);
    return { title, value: (row) => values[data.kind[row]], cell: (row) => write(values[data.kind[row]], data.kind[row]), ...extra };
  };
  const shared = data.radius.length > 0 && !Array.isArray(data.column("n")[0]);
  const columns = [{ title: "input", words: true, value: (row) => data.ids[row], cell: (row) => data.ids[row] }];
  if (data.texts?.some((text) => text)) {
    columns.push({ title: "text", words: true, cls: "words", value: (row) => data.texts[row] ?? "", cell: (row) => data.texts[row] ?? "" });
  }
  if (data.column("decision")) columns.push(kinds("decision", "decision", (value) => value, { words: true, cls: "left" }));
  if (data.column("label")) columns.push(kinds("label", "class", String));
  if (shared) {
    if (data.column("successes")) columns.push(kinds("successes", "successes", countText));
    if (new Set(data.column("n")).size > 1) columns.push(kinds("n", "n", countText));
    columns.push(kinds("p_a", "bound p_A", (_, kind) => data.bounds[kind]));
  }
  if (data.tokens) columns.push(kinds("budget", "max d", (value) => (value < 0 ? DASH : String(value))));
  if (data.pixels) {
    for (const k of thinned(data.reached.length, MOST_COLUMNS).map((i) => data.reached[i])) {
      const read = (row) => data.radius[data.kind[row]][k];
      columns.push({ title: data.tokens ? `r_${data.budgets[k]}` : "radius", value: read, cell: (row) => radiusText(read(row)) });
    }
  }
  return columns;
}

/** Row numbers in the order of a column; rows that are equal in it stay in the order of the file. */
function sorted(data, column, descending) {
  const rows = Array.from({ length: data.total }, (_, row) => row);
  const sign = descending ? -1 : 1;
  const values = rows.map(column.value);
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = column.words
    ? (a, b) => sign * collator.compare(values[a], values[b])
    : (a, b) => sign * (values[a] - values[b]);
  return rows.sort(compare);
}

/** Whether a row is wanted by the filters. */
function wanted(data, filter) {
  const text = filter.text.trim().toLowerCase();
  if (text) data.haystack ??= data.ids.map((id, row) => `${id}\n${data.texts?.[row] ?? ""}`.toLowerCase());
  const decision = data.column("decision");
  const fits = data.radius.map((radius, kind) => {
    if (filter.decision && decision?.[kind] !== filter.decision) return false;
    if (filter.budget === "") return filter.radius <= 0 || radius[0] >= filter.radius;
    if (filter.budget === "none") return radius.every((r) => r < 0);
    return radius[filter.budget] >= Math.max(filter.radius, 0);
  });
  return (row) => fits[data.kind[row]] && (!text || data.haystack[row].includes(text));
}

/** Build the table and its controls; gives `{show(filter), rows()}`. */
function makeTable(data, open) {
  const columns = tableColumns(data);
  const [head, body] = [at("rows").tHead, at("rows").tBodies[0]];
  const state = { sort: -1, descending: false, page: 0 };
  let order = sorted(data, { value: (row) => row }, false);
  let rows = order;

  const heads = columns.map((column, index) => {
    const button = element("button", { type: "button", text: column.title });
    button.addEventListener("click", () => sortBy(index));
    return element("th", { scope: "col", class: column.words ? `left ${column.cls ?? ""}` : null }, button);
  });
  head.replaceChildren(element("tr", {}, ...heads));

  function sortBy(index) {
    const first = !columns[index].words;
    if (state.sort !== index) Object.assign(state, { sort: index, descending: first });
    else if (state.descending === first) state.descending = !first;
    else state.sort = -1;
    order = state.sort < 0 ? sorted(data, { value: (row) => row }, false) : sorted(data, columns[index], state.descending);
    heads.forEach((cell, i) => {
      if (i === state.sort) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    filterRows();
  }

  function filterRows() {
    const radius = at("filter-radius").valueAsNumber;
    rows = order.filter(wanted(data, {
      text: at("filter-text").value,
      decision: at("filter-decision").value,
      budget: at("filter-budget").value,
      radius: Number.isNaN(radius) ? 0 : radius,
    }));
    state.page = 0;
    fill();
  }

  function fill() {
    const size = Number(at("size").value);
    const last = Math.max(0, Math.ceil(rows.length / size) - 1);
    state.page = Math.min(state.page, last);
    const [from, to] = [state.page * size, Math.min((state.page + 1) * size, rows.length)];
    body.replaceChildren(...rows.slice(from, to).map((row) => {
      const name = element("button", { type: "button", text: columns[0].cell(row), title: columns[0].cell(row) });
      const cells = columns.slice(1).map((column) => element("td", { class: column.cls, text: column.cell(row) }));
      return element("tr", { "data-row": row }, element("th", { scope: "row" }, name), ...cells);
    }));
    at("count").textContent = rows.length === data.total
      ? `${countText(data.total)} ${data.total === 1 ? "input" : "inputs"}`
      : `${countText(rows.length)} of ${countText(data.total)} inputs`;
    at("range").textContent = rows.length ? `${countText(from + 1)} to ${countText(to)} of ${countText(rows.length)}` : "no input";
    at("previous").disabled = state.page === 0;
    at("next").disabled = state.page === last;
    at("pages").hidden = data.total <= 25;
  }

  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line && !String(getSelection())) {
      line.querySelector("button").focus();
      open(Number(line.dataset.row));
    }
  });
  at("previous").addEventListener("click", () => { state.page -= 1; fill(); });
  at("next").addEventListener("click", () => { state.page += 1; fill(); });
  at("size").addEventListener("change", () => { state.page = 0; fill(); });
  at("filters").addEventListener("input", filterRows);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("reset", () => setTimeout(filterRows));

  if (data.column("decision")) {
    at("filter-decision-label").hidden = false;
    at("filter-decision").append(...["unsafe", "safe", "abstain"].map((text) => element("option", { value: text, text })));
  }
  const options = [element("option", { value: "", text: "or not" })];
  data.budgets.forEach((d, k) => options.push(element("option", { value: k, text: data.tokens ? `at d ≥ ${d}` : "yes" })));
  at("filter-budget").append(...options, element("option", { value: "none", text: "not at all" }));
  at("filter-radius-label").hidden = !data.pixels;
  const missing = data.reached.length > MOST_COLUMNS || data.reached.length < data.budgets.length;
  const hidden = data.pixels && missing ? "Budgets that have no column are shown for each input when it is opened. " : "";
  at("columns-note").textContent = `${hidden}${data.pixels && data.tokens ? "r_d: certified ℓ2 radius with d changed tokens. " : ""}${DASH} not certified.`;
  fill();
  return { rows: () => rows, filterRows };
}
