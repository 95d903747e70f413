/* What is certified at each pair of budgets: columns of quantiles per token budget, and curves against epsilon. */

/** The record with columns that charts and table read; equal certificates are stored once, as kinds. */
function readData() {
  const data = JSON.parse(at("data").textContent);
  const column = (name) => (data.kinds.some((kind) => name in kind) ? data.kinds.map((kind) => kind[name]) : null);
  const weight = new Float64Array(data.kinds.length);
  for (const kind of data.kind) weight[kind] += 1;
  const statement = data.statement;
  const radius = column("radius");
  const reached = statement.budgets.map((_, k) => k).filter((k) => radius.some((r) => r[k] >= 0));
  return {
    ...data, column, weight, radius, reached,
    budgets: statement.budgets,
    total: data.ids.length,
    tokens: statement.kernel !== "none" && statement.budgets.length > 1,
    pixels: statement.sigma !== null,
    largest: radius.reduce((top, r) => Math.max(top, ...r.slice(0, 1)), 0),
  };
}

/** Distinct radii at a budget, falling, with the number of inputs certified at least that far. */
function ladder(data, k) {
  data.ladders ??= new Map();
  if (!data.ladders.has(k)) {
    const kinds = data.radius.map((_, kind) => kind).filter((kind) => data.radius[kind][k] >= 0);
    kinds.sort((a, b) => data.radius[b][k] - data.radius[a][k]);
    const steps = [];
    let count = 0;
    for (const kind of kinds) {
      count += data.weight[kind];
      const r = data.radius[kind][k];
      if (steps.length && steps[steps.length - 1].r === r) steps[steps.length - 1].count = count;
      else steps.push({ r, count });
    }
    data.ladders.set(k, steps);
  }
  return data.ladders.get(k);
}

/** How many inputs are certified at a budget and epsilon. */
function certifiedAt(data, k, epsilon) {
  const steps = ladder(data, k);
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle].r >= epsilon) low = middle + 1;
    else high = middle;
  }
  return low ? steps[low - 1].count : 0;
}

/** The radius that so many inputs reach at a budget; -1 where fewer are certified. */
function radiusOfCount(data, k, count) {
  return ladder(data, k).find((step) => step.count >= count)?.r ?? -1;
}

/** The radius that at least `share` of all inputs reach at a budget. */
function radiusOfShare(data, k, share) {
  return radiusOfCount(data, k, Math.max(1, Math.ceil(share * data.total)));
}

/** The median radius, the lower one of two: that of the summary. */
function medianRadius(data, k) {
  return radiusOfCount(data, k, Math.floor(data.total / 2) + 1);
}

const SHARES = [
  { share: 0, name: "any input" }, { share: 0.25, name: "25 %" }, { share: 0.5, name: "50 %" },
  { share: 0.75, name: "75 %" }, { share: 0.9, name: "90 %" }, { share: 1, name: "all inputs" },
];

/** Axes with ticks; gives the scales and the element to draw in. `columns`: one tick per column instead of numbers. */
function frame(place, { label, height, x, y, columns }) {
  const width = Math.max(280, Math.floor(place.clientWidth) || 480);
  const box = { left: 52, right: width - 14, top: 14, bottom: height - 42 };
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const scale = {
    x: (value) => box.left + ((box.right - box.left) * value) / x.top,
    y: (value) => box.bottom - ((box.bottom - box.top) * value) / y.top,
  };
  for (let tick = 0; tick * y.step <= y.top * 1.0001; tick += 1) {
    const level = scale.y(tick * y.step);
    svg.append(element("line", { class: "grid", x1: box.left, x2: box.right, y1: level, y2: level }));
    svg.append(element("text", { x: box.left - 8, y: level + 4, "text-anchor": "end", text: y.name(tick * y.step) }));
  }
  if (columns) {
    const wide = (box.right - box.left) / columns.length;
    const stride = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => n * wide >= 22) ?? 1000;
    for (let i = 0; i < columns.length; i += stride) {
      svg.append(element("text", { x: scale.x(i + 0.5), y: box.bottom + 17, "text-anchor": "middle", text: columns[i] }));
    }
    scale.wide = wide;
  } else {
    for (let tick = 0; tick * x.step <= x.top * 1.0001; tick += 1) {
      const text = x.name(tick * x.step);
      svg.append(element("text", { x: scale.x(tick * x.step), y: box.bottom + 17, "text-anchor": "middle", text }));
    }
  }
  const middle = (box.left + box.right) / 2;
  svg.append(element("text", { x: middle, y: height - 6, "text-anchor": "middle", text: x.title }));
  const side = { transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" };
  svg.append(element("text", { ...side, text: y.title }));
  place.replaceChildren(svg);
  const axis = () => svg.append(element("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  return { svg, box, scale, axis };
}

/** An axis from 0 past `largest`, with at most about `ticks` ticks. */
function numbers(largest, title, ticks = 6) {
  const top = largest > 0 ? largest * 1.04 : 1;
  const step = niceStep(top / ticks) * (top / niceStep(top / ticks) > 1.6 * ticks ? 2 : 1);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const name = (value) => (decimals > 6 || step >= 1e6 ? value.toExponential(0) : value.toFixed(decimals));
  return { top, step, title, name };
}

const PERCENT = { top: 100, step: 25, title: "inputs certified (%)", name: (value) => String(value) };
const RADIUS = "certified radius r (ℓ2)";

/** Columns of quantiles: up to where all, 90 %, ... any of the inputs are certified, per token budget. */
function drawShares(place, data, state, choose) {
  const label = "Certified radius reached by shares of the inputs, for each token budget; numbers in the table below";
  const y = data.pixels ? numbers(data.largest, RADIUS) : PERCENT;
  const x = { top: data.budgets.length, title: "token budget d (changed tokens)" };
  const { svg, box, scale, axis } = frame(place, { label, height: 320, x, y, columns: data.budgets });
  const gap = scale.wide > 6 ? Math.min(6, scale.wide * 0.18) : 0;
  data.budgets.forEach((d, k) => {
    const bar = (height, cls) => {
      const top = Math.min(scale.y(height), box.bottom - 2);
      const wide = Math.max(scale.wide - gap, 0.5);
      svg.append(element("rect", { class: cls, x: scale.x(k) + gap / 2, width: wide, y: top, height: box.bottom - top }));
    };
    if (!data.reached.includes(k)) {
      if (scale.wide > 14) svg.append(element("text", { x: scale.x(k + 0.5), y: box.bottom - 8, "text-anchor": "middle", text: DASH }));
    } else if (data.pixels) {
      SHARES.forEach(({ share }, i) => {
        const r = radiusOfShare(data, k, share);
        if (r >= 0) bar(r, `s${i}`);
      });
      if (scale.wide > 6) bar(radiusOfShare(data, k, 0), "outline");
    } else {
      const count = certifiedAt(data, k, 0);
      bar((100 * count) / data.total, "bar");
      const over = { x: scale.x(k + 0.5), y: scale.y((100 * count) / data.total) - 4, "text-anchor": "middle", class: "value" };
      if (scale.wide > 26) svg.append(element("text", { ...over, text: Math.floor((100 * count) / data.total) }));
    }
  });
  axis();
  const cursor = element("g");
  svg.append(cursor);
  follow(svg, box, (px, py) => {
    const k = Math.floor(((px - box.left) / (box.right - box.left)) * data.budgets.length);
    choose(Math.min(Math.max(k, 0), data.budgets.length - 1), ((box.bottom - py) / (box.bottom - box.top)) * y.top);
  });
  return () => {
    const across = { class: "cursor", x1: scale.x(state.k), x2: scale.x(state.k + 1) };
    const level = scale.y(Math.min(state.epsilon, y.top));
    cursor.replaceChildren(element("rect", {
      class: "cursor", x: scale.x(state.k), width: scale.wide, y: box.top, height: box.bottom - box.top,
    }));
    if (data.pixels) cursor.append(element("line", { ...across, y1: level, y2: level }));
  };
}

/** Certified accuracy: one curve per token budget, exact steps, merged below the width of a pixel to the lower side. */
function drawAccuracy(place, data, state, choose, shown) {
  const label = "Share of inputs certified against the pixel budget, one curve per token budget; numbers in the table below";
  const x = numbers(data.largest, "pixel budget ε (ℓ2, in the unit of the inputs)");
  const { svg, box, scale, axis } = frame(place, { label, height: 320, x, y: PERCENT });
  axis();
  const curves = element("g");
  const cursor = element("g");
  svg.append(curves, cursor);
  const path = (k) => {
    const steps = ladder(data, k);
    const height = (count) => scale.y((100 * count) / data.total).toFixed(2);
    let line = `M${scale.x(0)} ${height(steps.length ? steps[steps.length - 1].count : 0)}`;
    for (let i = steps.length - 1; i >= 0; i -= 1) {
      const first = scale.x(steps[i].r);
      while (i > 0 && scale.x(steps[i - 1].r) - first < 0.3) i -= 1;
      line += `H${first.toFixed(2)}V${height(i ? steps[i - 1].count : 0)}`;
    }
    return line;
  };
  const paths = new Map();
  follow(svg, box, (px) => choose(state.k, ((px - box.left) / (box.right - box.left)) * x.top));
  return () => {
    const order = [...shown.filter((k) => k !== state.k).reverse(), ...(data.reached.includes(state.k) ? [state.k] : [])];
    curves.replaceChildren(...order.map((k) => {
      if (!paths.has(k)) paths.set(k, path(k));
      return element("path", { class: `curve c${shade(shown, k)}${k === state.k && shown.length > 1 ? " on" : ""}`, d: paths.get(k) });
    }));
    const place = scale.x(Math.min(state.epsilon, x.top));
    const level = scale.y((100 * certifiedAt(data, state.k, state.epsilon)) / data.total);
    cursor.replaceChildren(
      element("line", { class: "cursor", x1: place, x2: place, y1: box.top, y2: box.bottom }),
      element("circle", { class: "dot", cx: place, cy: level, r: 5 }),
    );
  };
}

/** The shade of a budget's curve: dark for the smallest, from nine. */
function shade(shown, k) {
  const rank = shown.filter((other) => other < k).length;
  return Math.round((8 * Math.min(rank, shown.length - 1)) / Math.max(shown.length - 1, 1));
}

/** Call `moved` with the place of the pointer in the coordinates of the drawing. */
function follow(svg, box, moved) {
  const handle = (event) => {
    const bounds = svg.getBoundingClientRect();
    const zoom = svg.viewBox.baseVal.width / bounds.width;
    const [px, py] = [(event.clientX - bounds.left) * zoom, (event.clientY - bounds.top) * zoom];
    if (px >= box.left && px <= box.right) moved(px, Math.min(Math.max(py, box.top), box.bottom));
  };
  svg.addEventListener("pointermove", handle);
  svg.addEventListener("pointerdown", handle);
}
