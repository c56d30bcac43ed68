// Sorting, filters and hidden columns.
const tensors = data.tables.tensors;
const column = (key) => tensors.columns.findIndex((c) => c.key === key);

// Numbers by size, texts by their own order; what has no value stands last, whichever way.
function compare(a, b, way) {
  const none = (v) => v === null || v === undefined;
  if (none(a) || none(b)) return none(a) - none(b);
  if (isNumber(a) && isNumber(b)) return way * (a - b);
  return way * String(a).localeCompare(String(b), "en", { numeric: true });
}

// values: rows of values in the order of the table's rows. The first click on numbers puts the largest first.
function makeSortable(table, values) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, i) => ({ row, i, values: values[i] }));
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = element("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = rows.some((r) => isNumber(r.values[at]));
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : numeric && !["layer", "stack"].includes(head.textContent);
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const way = descending ? -1 : 1;
      rows.sort((a, b) => compare(a.values[at], b.values[at], way) || a.i - b.i);
      body.append(...rows.map((r) => r.row));
    });
  });
}

for (const table of document.querySelectorAll("table[data-table]")) makeSortable(table, data.tables[table.dataset.table].rows);

for (const box of document.querySelectorAll("[data-all]")) {
  box.addEventListener("change", () => byId(box.dataset.all).classList.toggle("all", box.checked));
}

for (const field of document.querySelectorAll("[data-filter]")) {
  const table = byId(field.dataset.filter);
  const found = document.querySelector(`[data-found="${table.id}"]`);
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let n = 0;
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      n += !row.hidden;
    }
    found.textContent = wanted ? `${n} of ${table.tBodies[0].rows.length}` : "";
  });
}
