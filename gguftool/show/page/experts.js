// Tokens per layer and expert, on a canvas: up to tens of thousands of cells.
function expertMap() {
  const canvas = byId("expert-map");
  const choice = byId("expert-kind");
  const pen = canvas.getContext("2d");
  let group, side, across, cursor = null;
  choice.append(...data.experts.map((g, i) => element("option", g.kinds.join(", "), { value: i })));
  choice.closest(".controls").hidden = data.experts.length < 2;
  const label = 34;

  function draw() {
    group = data.experts[Number(choice.value)];
    across = Math.max(...group.tokens.map((row) => row.length));
    const most = group.tokens.flat().reduce((a, b) => Math.max(a, b), 1);
    const room = canvas.parentElement.clientWidth - label - 2;
    side = Math.max(4, Math.min(26, room / across));
    const high = Math.max(8, Math.min(22, Math.floor(side)));
    const sharp = devicePixelRatio || 1;
    const [width, height] = [label + across * side, group.layers.length * high + 18];
    Object.assign(canvas, { width: width * sharp, height: height * sharp, high });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "10px system-ui, sans-serif";
    pen.fillStyle = getComputedStyle(canvas).color;
    const step = Math.ceil(12 / high);
    group.layers.forEach((layer, i) => i % step || pen.fillText(String(layer), 4, i * high + high / 2 + 18 + 3));
    const skip = [1, 2, 4, 8, 16, 32, 64].find((n) => n * side > 26) || 128;
    for (let e = 0; e < across; e += skip) pen.fillText(String(e), label + e * side, 11);
    const gap = side > 6 ? 1 : 0;
    const left = (e) => Math.round(label + e * side);
    group.tokens.forEach((row, i) => row.forEach((n, e) => {
      pen.fillStyle = n ? css(colourAt("sequential", group.counted ? Math.log1p(n) / Math.log1p(most) : 0.5)) : "#d55e00";
      pen.fillRect(left(e), 18 + i * high, left(e + 1) - left(e) - gap, high - 1);
    }));
    mark();
    const unreached = group.tokens.flat().filter((n) => !n).length;
    const total = group.tokens.flat().length;
    byId("expert-note").textContent = `${(total - unreached).toLocaleString("en-US")} of ${total.toLocaleString("en-US")} ` +
      `experts of ${group.kinds.join(", ")} got tokens. Rows are layers, columns experts; arrow keys walk over them.` +
      (group.counted ? "" : " The file says only which were reached, not how many tokens each got.");
    canvas.setAttribute("aria-label", `Tokens per expert of ${group.kinds.join(", ")}`);
    drawLegend("expert-", group.counted ? "Tokens (logarithmic)" : "Reached", "sequential",
      group.counted ? [[0, "1"], [0.5, words(Math.round(Math.expm1(Math.log1p(most) / 2)))], [1, words(most)]] : [[0, "reached"]]);
    if (!group.counted) byId("expert-ramp").style.background = css(colourAt("sequential", 0.5));
  }
  function mark() {
    if (!cursor) return;
    pen.lineWidth = 2;
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.strokeRect(label + cursor[1] * side - 1, 18 + cursor[0] * canvas.high - 1, side + 1, canvas.high + 1);
  }
  function tell([i, e]) {
    const n = group.tokens[i][e];
    const got = group.counted ? `${n.toLocaleString("en-US")} token${n === 1 ? "" : "s"}` : n ? "reached" : "not reached";
    return [`Layer ${group.layers[i]}, expert ${e}`, got];
  }
  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const [e, i] = [Math.floor((event.clientX - box.left - label) / side), Math.floor((event.clientY - box.top - 18) / canvas.high)];
    return i >= 0 && e >= 0 && group.tokens[i] && e < group.tokens[i].length ? [i, e] : null;
  }
  canvas.addEventListener("pointermove", (event) => {
    const cell = cellAt(event);
    if (!cell) return hide();
    const tip = byId("tip");
    const [where, got] = tell(cell);
    tip.replaceChildren(element("b", where), element("span", got, { class: "value" }));
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8)}px`;
  });
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!steps[event.key]) return;
    event.preventDefault();
    const [i, e] = cursor ? cursor.map((v, at) => v + steps[event.key][at]) : [0, 0];
    const row = Math.max(0, Math.min(group.tokens.length - 1, i));
    cursor = [row, Math.max(0, Math.min(group.tokens[row].length - 1, e))];
    draw();
    byId("expert-readout").textContent = tell(cursor).join(": ");
  });
  choice.addEventListener("change", () => { cursor = null; draw(); });
  night.addEventListener("change", draw);
  addEventListener("resize", draw);
  draw();
}
if (data.experts.length) expertMap();
