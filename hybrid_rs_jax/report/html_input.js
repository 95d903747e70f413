/* One input by itself: its text and picture, its frontier, its numbers. */

/** Build the dialog; gives `open(row, rows)`, where `rows` is the order in which Previous and Next go. */
function makeDialog(data) {
  const dialog = at("input");
  const state = { rows: [], place: 0 };

  function show(place) {
    state.place = place;
    const row = state.rows[place];
    at("input-title").textContent = data.ids[row];
    at("input-previous").disabled = place <= 0;
    at("input-next").disabled = place >= state.rows.length - 1;
    const body = at("input-body");
    body.replaceChildren(...given(data, row), ...facts(data, row));
    if (data.tokens && data.pixels) {
      const plot = element("div", { class: "plot" });
      const note = "Certified radius at each token budget; the line marks the median of all inputs.";
      body.append(element("h3", { text: "Frontier of this input" }), element("p", { class: "note", text: note }), plot);
      drawInput(plot, data, row);
    }
    body.append(numbersTable(data, row));
  }

  function step(by) {
    const place = state.place + by;
    if (place >= 0 && place < state.rows.length) show(place);
  }

  at("input-previous").addEventListener("click", () => step(-1));
  at("input-next").addEventListener("click", () => step(1));
  at("input-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest(".scroll")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  return (row, rows) => {
    state.rows = rows;
    dialog.showModal();
    dialog.scrollTop = 0;
    show(rows.indexOf(row));
    at("input-close").focus();
  };
}

/** Picture and text, where they are known. */
function given(data, row) {
  const [text, picture] = [data.texts?.[row], data.pictures?.[row]];
  if (!text && !picture) return [];
  const parts = [];
  if (picture) parts.push(element("img", { src: `data:image/png;base64,${picture}`, alt: `Picture of ${data.ids[row]}` }));
  if (text) parts.push(element("p", { text }));
  return [element("div", { class: "given" }, ...parts)];
}

/** A sentence with the counts and what they certify. */
function facts(data, row) {
  const kind = data.kind[row];
  const read = (name) => data.column(name)?.[kind];
  const parts = [];
  const decision = read("decision");
  if (decision) parts.push(decision === "abstain" ? "No decision is certified." : `Certified ${decision}.`);
  const side = decision === "safe" || data.statement.side === "below" ? "upper" : "lower";
  if (!Array.isArray(read("n"))) {
    const votes = read("successes") === undefined ? read("votes")[read("label")] : read("successes");
    const what = read("label") === undefined ? "positive" : `of class ${read("label")}`;
    parts.push(`${countText(votes)} of ${countText(read("n"))} noisy copies ${what}; ${side} bound p_A on the score: ${data.bounds[kind]}.`);
  }
  if (read("budget") < 0) {
    parts.push("Not certified, not even without any change.");
    const needed = read("needed_n");
    if (needed > 0) parts.push(`At this share of positive copies it would take ${countText(needed)} of them.`);
    if (needed === -1) parts.push("At this share of positive copies no number of them suffices.");
  } else if (data.tokens) parts.push(`Certified up to d = ${read("budget")} changed tokens.`);
  return [element("p", { text: parts.join(" ") })];
}

function drawInput(place, data, row) {
  const radius = data.radius[data.kind[row]];
  const y = numbers(Math.max(data.largest, 0), RADIUS, 5);
  const x = { top: data.budgets.length, title: "token budget d (changed tokens)" };
  const label = `Certified radius of ${data.ids[row]} at each token budget; numbers in the table below`;
  const { svg, box, scale, axis } = frame(place, { label, height: 260, x, y, columns: data.budgets });
  const gap = scale.wide > 6 ? Math.min(10, scale.wide * 0.22) : 0;
  data.budgets.forEach((d, k) => {
    const middle = { x: scale.x(k + 0.5), "text-anchor": "middle" };
    if (radius[k] < 0) {
      if (scale.wide > 14) svg.append(element("text", { ...middle, y: box.bottom - 8, text: DASH }));
      return;
    }
    const top = Math.min(scale.y(radius[k]), box.bottom - 2);
    const wide = Math.max(scale.wide - gap, 0.5);
    svg.append(element("rect", { class: "bar", x: scale.x(k) + gap / 2, width: wide, y: top, height: box.bottom - top }));
    if (scale.wide > 40) svg.append(element("text", { ...middle, class: "value", y: top - 5, text: radiusText(radius[k]) }));
  });
  data.reached.forEach((k) => {
    const median = medianRadius(data, k);
    const line = { class: "median", x1: scale.x(k), x2: scale.x(k + 1) };
    if (median >= 0 && data.total > 1) svg.append(element("line", { ...line, y1: scale.y(median), y2: scale.y(median) }));
  });
  axis();
}

/** The numbers behind the chart, one column per budget. */
function numbersTable(data, row) {
  const kind = data.kind[row];
  const read = (name) => data.column(name)?.[kind];
  const lines = [];
  const line = (title, values) => lines.push(element("tr", {},
    element("th", { scope: "row", text: title }), ...values.map((text) => element("td", { text }))));
  if (data.pixels) line("radius", data.radius[kind].map(radiusText));
  else line("certified", data.radius[kind].map((r) => (r < 0 ? DASH : "yes")));
  if (Array.isArray(read("n"))) {
    line("positive", read("successes").map(countText));
    line("copies", read("n").map(countText));
    line(`${data.statement.side === "below" ? "upper" : "lower"} bound p_A`, data.bounds[kind]);
  }
  const heads = data.budgets.map((d) => element("th", { scope: "col", text: d }));
  const head = element("thead", {}, element("tr", {}, element("th", { scope: "col", text: "token budget d" }), ...heads));
  const table = element("table", { class: "numbers" }, head, element("tbody", {}, ...lines));
  return element("div", { class: "scroll", role: "region", "aria-label": "Numbers of this input", tabindex: "0" }, table);
}
