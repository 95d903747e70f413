/* The page: one pair of budgets that both charts and the reading share, the table, the dialog, the theme. */

function makeTheme() {
  const button = at("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const update = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    update();
  });
  dark.addEventListener("change", update);
  button.hidden = false;
  update();
}

/** Charts, the choice of a pair of budgets, and what is certified there. */
function makeCharts(data, table) {
  const shown = thinned(data.reached.length, 9).map((i) => data.reached[i]);
  const step = niceStep((data.largest || 1) / 500);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const top = Math.ceil(data.largest / step);
  const state = { k: data.reached[0] ?? 0, epsilon: 0 };
  let updates = [];

  /** `epsilon` becomes a number with few digits, so that what is written is what is counted. */
  function choose(k, epsilon) {
    const ticks = Math.min(Math.max(Math.round(epsilon / step), 0), top);
    Object.assign(state, { k, epsilon: data.pixels ? Number((ticks * step).toFixed(decimals)) : 0 });
    update();
  }

  function update() {
    for (const draw of updates) draw();
    for (const radio of at("budgets").querySelectorAll("input")) radio.checked = Number(radio.value) === state.k;
    const count = certifiedAt(data, state.k, state.epsilon);
    const where = [
      ...(data.tokens ? [`d = ${data.budgets[state.k]}`] : []),
      ...(data.pixels ? [`ε = ${state.epsilon.toFixed(decimals)}`] : []),
    ];
    at("epsilon").value = state.epsilon;
    at("epsilon").setAttribute("aria-valuetext", state.epsilon.toFixed(decimals));
    at("read").textContent = `At ${where.join(" and ")}: ${countText(count)} of ${countText(data.total)} `
      + `${data.total === 1 ? "input" : "inputs"} certified (${percentText(count, data.total)}).`;
  }

  function draw() {
    updates = [];
    if (data.tokens) updates.push(drawShares(at("share-plot"), data, state, choose));
    if (data.pixels) updates.push(drawAccuracy(at("accuracy-plot"), data, state, choose, shown));
    update();
  }

  at("share-figure").hidden = !data.tokens;
  at("accuracy-figure").hidden = !data.pixels;
  at("share-title").textContent = data.pixels ? "Certified frontier" : "Certified share";
  at("share-caption").textContent = data.pixels
    ? "Each column shows how far in radius the shares of the inputs are certified at that token budget."
    : "Share of the inputs that are certified at each token budget, with the pixels as they are.";
  const silent = data.budgets.filter((_, k) => !data.reached.includes(k));
  const none = silent.length && data.tokens ? ` Nothing is certified at d ${silent.length > 1 ? "≥" : "="} ${silent[0]}.` : "";
  at("reading").hidden = !data.reached.length;
  at("accuracy-caption").textContent = `Share of the inputs whose radius is at least ε${data.tokens ? ", one curve per token budget" : ""}.${none}`;
  at("shades").hidden = !data.pixels;
  at("shades").append(...SHARES.map(({ name }, i) => element("li", {},
    element("svg", { viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true" }, element("rect", { class: `s${i}`, width: 14, height: 14 })), name)).reverse());
  at("budgets").hidden = !data.tokens;
  at("budgets").append(...shown.map((k) => element("label", { class: "budget" },
    element("input", { type: "radio", name: "budget", value: k }),
    ...(data.pixels ? [element("svg", { viewBox: "0 0 16 8", width: 16, height: 8, "aria-hidden": "true" },
      element("path", { class: `curve c${shade(shown, k)}`, d: "M0 4H16", "stroke-width": 3 }))] : []), String(data.budgets[k]))));
  at("epsilon-label").hidden = !data.pixels;
  Object.assign(at("epsilon"), { max: Number((top * step).toFixed(decimals)), step: Number(step.toFixed(decimals)) });
  at("budgets").addEventListener("change", (event) => choose(Number(event.target.value), state.epsilon));
  at("epsilon").addEventListener("input", () => choose(state.k, at("epsilon").valueAsNumber));
  at("reading").addEventListener("submit", (event) => event.preventDefault());
  at("show-these").addEventListener("click", () => {
    at("filters").reset();
    setTimeout(() => {
      at("filter-budget").value = String(state.k);
      if (data.pixels && state.epsilon > 0) at("filter-radius").value = state.epsilon;
      table.filterRows();
      at("inputs").focus();
    });
  });
  at("charts").hidden = false;
  let width = 0;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (at("charts").clientWidth !== width) {
      width = at("charts").clientWidth;
      draw();
    }
  })).observe(at("charts"));
  draw();
}

makeTheme();
{
  const data = readData();
  const openInput = makeDialog(data);
  const table = makeTable(data, (row) => openInput(row, table.rows()));
  at("table-part").hidden = false;
  makeCharts(data, table);
}
