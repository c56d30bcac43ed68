// The map: a grid of layers and kinds of tensors, coloured by one statistic. Arrow keys walk, Enter opens the layer.
const [atName, atLayer, atKind] = ["name", "layer", "kind"].map(column);
const inLayers = tensors.rows.filter((row) => row[atLayer] !== null);
const layers = [...new Set(inLayers.map((row) => row[atLayer]))].sort((a, b) => a - b).slice(0, 2000);
const allKinds = new Map();
for (const row of inLayers) allKinds.set(row[atKind], (allKinds.get(row[atKind]) || 0) + 1);
// A map of too many cells would stop the browser: then the kinds that most layers have.
const room = Math.max(1, Math.floor(20000 / layers.length));
const few = [...allKinds.keys()].sort((a, b) => allKinds.get(b) - allKinds.get(a)).slice(0, room);
const kinds = [...allKinds.keys()].filter((kind) => allKinds.size <= room || few.includes(kind));
const place = new Map(inLayers.map((row) => [`${row[atLayer]} ${row[atKind]}`, row]).reverse());
const held = (kind, layer) => place.get(`${layer} ${kind}`);
const choice = byId("figure");
const cells = [];
let figure = null;
let roomy = true;
let opened = null;

// How a value becomes a place from 0 to 1 on a ramp (at), and what the legend says. A statistic of scale "own" compares
// only within its kind of tensor, "ratio" is no change at 1, "tail" has a few huge values, "change" none at 0.
function scaleOf(at, within) {
  const rows = kinds.map((kind) => layers.map((layer) => (held(kind, layer) || [])[at]).filter(isNumber));
  const all = rows.flat();
  const [least, most] = [Math.min(...all), Math.max(...all)];
  if (!all.length) return { name: "sequential", title: "", ticks: [], at: () => 0.5 };
  if (within && figure.scale === "own" && least >= 0) return multiples(rows, rows.map(median), "Multiples of the kind’s median");
  if (within) return spans(rows);
  if (figure.scale === "ratio" && least > 0) return multiples(rows, rows.map(() => 1), `${figure.title} (logarithmic)`);
  const { f, back, said } = bending(all, least, most);
  const widest = Math.max(-least, most);
  if (Math.min(-least, most) > widest / 20) {
    return { name: "diverging", title: figure.title + said, ticks: [[0, words(-widest)], [0.5, "0"], [1, words(widest)]],
      at: (v) => 0.5 + f(v) / f(widest) / 2 };
  }
  const [low, high] = [f(least), f(most)];
  const ticks = [[0, words(least)], [0.5, words(back((low + high) / 2))], [1, words(most)]];
  return { name: "sequential", title: figure.title + said, ticks: high > low ? ticks : [[0.5, words(least)]],
    at: (v) => (high > low ? (f(v) - low) / (high - low) : 0.5) };
}
// Straight, or bent so that a few great values do not bleach the others.
function bending(all, least, most) {
  if (figure.scale === "tail") {
    const unit = median(all.map(Math.abs)) || 1;
    return { f: (v) => Math.asinh(v / unit), back: (t) => unit * Math.sinh(t), said: " (logarithmic from the median on)" };
  }
  if (figure.scale === "own" && least > 0 && most / least > 30) return { f: Math.log, back: Math.exp, said: " (logarithmic)" };
  return { f: (v) => v, back: (t) => t, said: "" };
}
function median(values) {
  const sorted = values.filter((v) => v > 0).sort((a, b) => a - b);
  const n = sorted.length;
  return n ? (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2 : NaN;
}
function multiples(rows, medians, title) {
  const ratios = rows.flatMap((row, i) => row.filter((v) => v > 0).map((v) => Math.abs(Math.log(v / medians[i]))));
  // As far as all but three percent go: one odd layer must not bleach the others.
  const far = [...ratios].sort((a, b) => a - b)[Math.floor(0.97 * (ratios.length - 1))] || 0;
  const widest = Math.log([1.25, 1.5, 2, 3, 5].find((end) => end >= 0.999 * Math.exp(far)) || 10);
  const times = (t) => `${Number(Math.exp(t).toPrecision(2))}×`;
  const over = Math.max(0, ...ratios) > widest + 1e-9;
  return { name: "diverging", title,
    ticks: [[0, (over ? "≤ " : "") + times(-widest)], [0.25, times(-widest / 2)], [0.5, "1×"], [0.75, times(widest / 2)],
      [1, (over ? "≥ " : "") + times(widest)]],
    at: (v, row) => (v > 0 ? 0.5 + Math.log(v / medians[row]) / widest / 2 : 0),
    told: (v, row) => (medians[row] > 0 && figure.scale === "own" ? `${Number((v / medians[row]).toPrecision(3))} × the kind’s median` : "") };
}
function spans(rows) {
  const ends = rows.map((row) => [Math.min(...row), Math.max(...row)]);
  if (ends.some(([least, most]) => least < 0 && most > 0)) {
    const widest = ends.map(([least, most]) => Math.max(-least, most));
    return { name: "diverging", title: "Against the kind’s largest by size", ticks: [[0, "−1×"], [0.5, "0"], [1, "1×"]],
      at: (v, row) => 0.5 + (widest[row] > 0 ? v / widest[row] / 2 : 0) };
  }
  return { name: "sequential", title: "From the kind’s least to its greatest", ticks: [[0, "least"], [1, "greatest"]],
    at: (v, row) => (ends[row][1] > ends[row][0] ? (v - ends[row][0]) / (ends[row][1] - ends[row][0]) : 0.5) };
}

function paint() {
  const at = Number(choice.value);
  figure = tensors.columns[at];
  roomy = (byId("heat").clientWidth - 120) / layers.length > 54;
  const within = document.querySelector("[name=scale]:checked").value === "kind";
  const scale = scaleOf(at, within);
  byId("map-title").textContent = `${figure.title}, by layer and kind of tensor`;
  const left = allKinds.size - kinds.length;
  byId("figure-note").textContent = figure.note + (left ? ` ${left} kinds of tensors are left out of the map; the table has them.` : "");
  kinds.forEach((kind, i) => {
    const sorted = layers.map((layer) => (held(kind, layer) || [])[at]).filter(isNumber).sort((a, b) => b - a);
    layers.forEach((layer, j) => paintCell(cells[i][j], held(kind, layer), { at, scale, i, sorted }));
  });
  drawLegend("", scale.title, scale.name, scale.ticks);
}
function paintCell(cell, row, { at, scale, i, sorted }) {
  const value = row ? row[at] : null;
  const none = !isNumber(value);
  cell.classList.toggle("none", none);
  const rgb = none ? null : colourAt(scale.name, scale.at(value, i));
  cell.style.backgroundColor = none ? "" : css(rgb);
  cell.style.color = none ? "" : inkOn(rgb);
  cell.textContent = none || !roomy ? "" : brief(value);
  const rank = none ? "" : sorted.length > 1 ? `${ordinal(sorted.indexOf(value) + 1)} greatest of ${sorted.length}` : "";
  cell.told = { name: row ? row[atName] : `no ${kinds[i]}`, value: row ? words(value) : "",
    more: [none || !scale.told ? "" : scale.told(value, i), rank].filter(Boolean).join(", ") };
  cell.setAttribute("aria-label", told(cell));
}
const ordinal = (n) => n + (n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th");
function told(cell) {
  const { name, value, more } = cell.told;
  return `Layer ${layers[cell.j]}, ${name}${value ? `: ${figure.title} ${value}` : ""}${more ? ` (${more})` : ""}`;
}

function build() {
  const table = byId("heat");
  const head = element("tr");
  head.append(element("th", "layer", { scope: "col" }));
  const step = Math.max(1, Math.ceil(layers.length / 40));
  layers.forEach((layer, j) => {
    const cell = element("th", null, { scope: "col" });
    const button = element("button", j % step ? "" : String(layer),
      { type: "button", "aria-label": `Layer ${layer}`, "aria-expanded": "false", "aria-controls": "panel", title: `Layer ${layer}`, "data-layer": layer });
    button.addEventListener("click", () => open(opened === layer ? null : layer));
    cell.append(button);
    head.append(cell);
  });
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  kinds.forEach((kind, i) => {
    const row = element("tr");
    row.append(element("th", kind, { scope: "row", title: kind }));
    cells.push(layers.map((layer, j) => {
      const cell = element("td", "", { tabindex: i + j ? -1 : 0, role: "gridcell" });
      Object.assign(cell, { i, j });
      row.append(cell);
      return cell;
    }));
    table.tBodies[0].append(row);
  });
  const label = Math.min(160, 24 + 7 * Math.max(...kinds.map((kind) => kind.length)));
  head.cells[0].style.width = `${label}px`;
  table.style.minWidth = `${label + layers.length * 13}px`;
}

function show(cell, x, y) {
  const tip = byId("tip");
  const { name, value, more } = cell.told;
  const line = element("span", value ? `${figure.title}: ${value}` : "no value", { class: "value" });
  tip.replaceChildren(element("b", name), line, element("span", `Layer ${layers[cell.j]}${more ? ` · ${more}` : ""}`));
  tip.hidden = false;
  tip.style.left = "0"; // its width is that of its words, not of the room to the right
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
}
const hide = () => { byId("tip").hidden = true; };

function listen() {
  const table = byId("heat");
  const cellOf = (event) => event.target.closest("#heat td");
  table.addEventListener("pointermove", (event) => (cellOf(event) ? show(cellOf(event), event.clientX, event.clientY) : hide()));
  table.addEventListener("pointerleave", hide);
  table.addEventListener("focusout", hide);
  table.addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    const box = cell.getBoundingClientRect();
    show(cell, box.left, box.bottom - 12);
    byId("readout").textContent = told(cell);
    for (const other of cells.flat()) other.tabIndex = other === cell ? 0 : -1;
  });
  table.addEventListener("click", (event) => cellOf(event) && open(layers[cellOf(event).j]));
  table.addEventListener("keydown", walk);
  document.addEventListener("keydown", (event) => event.key === "Escape" && (byId("tip").hidden ? open(null) : hide()));
  document.addEventListener("scroll", hide, { passive: true });
  choice.addEventListener("change", choose);
  for (const radio of document.querySelectorAll("[name=scale]")) radio.addEventListener("change", paint);
  night.addEventListener("change", paint);
  addEventListener("resize", paint);
  addEventListener("beforeprint", () => { printing = true; paint(); });
  addEventListener("afterprint", () => { printing = false; paint(); });
  byId("panel-close").addEventListener("click", () => {
    const layer = opened;
    open(null);
    document.querySelector(`[data-layer="${layer}"]`).focus();
  });
  byId("panel-before").addEventListener("click", () => open(layers[layers.indexOf(opened) - 1]));
  byId("panel-after").addEventListener("click", () => open(layers[layers.indexOf(opened) + 1]));
}
function walk(event) {
  const cell = event.target.closest("#heat td");
  if (!cell) return;
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -1e9], End: [0, 1e9] };
  if (event.key === "Enter" || event.key === " ") open(layers[cell.j]);
  else if (!steps[event.key]) return;
  else {
    const clamp = (v, n) => Math.max(0, Math.min(n - 1, v));
    const [down, right] = steps[event.key];
    cells[clamp(cell.i + down, kinds.length)][clamp(cell.j + right, layers.length)].focus();
  }
  event.preventDefault();
}

// Opens the tensors of a layer below the map; null closes them.
function open(layer) {
  opened = layer;
  for (const button of document.querySelectorAll("[data-layer]")) {
    button.setAttribute("aria-expanded", String(Number(button.dataset.layer) === layer));
  }
  for (const cell of cells.flat()) cell.classList.toggle("chosen", layers[cell.j] === layer);
  byId("panel").hidden = layer === null;
  if (layer === null) {
    byId("readout").textContent = "";
    return;
  }
  const chosen = tensors.rows.map((row, i) => [row, i]).filter(([row]) => row[atLayer] === layer);
  byId("panel-title").textContent = `Layer ${layer}: ${chosen.length} tensor${chosen.length === 1 ? "" : "s"}`;
  byId("readout").textContent = `${byId("panel-title").textContent}, below.`;
  byId("panel-before").disabled = layers.indexOf(layer) < 1;
  byId("panel-after").disabled = layers.indexOf(layer) > layers.length - 2;
  const [panel, source] = [byId("t-panel"), byId("t-tensors")];
  const head = source.tHead.cloneNode(true);
  for (const cell of head.rows[0].cells) {
    cell.removeAttribute("aria-sort");
    cell.textContent = cell.textContent;
  }
  const body = element("tbody");
  body.append(...chosen.map(([, i]) => Object.assign(original[i].cloneNode(true), { hidden: false })));
  panel.replaceChildren(head, body);
  makeSortable(panel, chosen.map(([row]) => row));
}
const original = [...byId("t-tensors").tBodies[0].rows];

function choose() {
  const within = tensors.columns[Number(choice.value)].scale === "own";
  document.querySelector(`[name=scale][value=${within ? "kind" : "all"}]`).checked = true;
  paint();
}
if (layers.length && data.figures.length) {
  choice.append(...data.figures.map((at) => element("option", tensors.columns[at].title, { value: at })));
  choice.value = String(data.figures.find((at) => tensors.columns[at].key === data.first) ?? data.figures[0]);
  build();
  listen();
  choose();
} else {
  byId("figure-note").textContent = "No tensor with a statistic lies in a layer, so there is no map.";
  document.querySelector("#map .controls").hidden = true;
  byId("readout").hidden = true;
}
