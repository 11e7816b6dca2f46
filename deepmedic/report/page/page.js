"use strict";
// Tables that sort, and values of curves under the pointer. Text from the session only ever becomes textContent.
(function () {
  const data = JSON.parse(document.getElementById("report-data").textContent);

  function compare(first, second) {
    const one = first.dataset.value === undefined ? null : Number(first.dataset.value);
    const other = second.dataset.value === undefined ? null : Number(second.dataset.value);
    if (one !== null && other !== null) return one - other;
    if (one !== null || other !== null) return one !== null ? -1 : 1;
    return first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
  }

  function undefinedValue(cell) {
    return cell.textContent === "" || cell.textContent === "–" || cell.dataset.value === "nan";
  }

  function sortBy(table, column, direction) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    rows.sort(function (a, b) {
      const one = a.cells[column], other = b.cells[column];
      const lacks = undefinedValue(one) - undefinedValue(other);  // what is not defined stays last in both directions
      return lacks || direction * compare(one, other);
    });
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        const rising = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", rising ? "ascending" : "descending");
        sortBy(table, column, rising ? 1 : -1);
      });
    });
  }

  const filter = document.getElementById("class-filter");
  if (filter && data.classColumn >= 0) {
    const rows = Array.from(document.getElementById("metrics-table").tBodies[0].rows);
    const count = document.getElementById("row-count");
    const apply = function () {
      let shown = 0;
      for (const row of rows) {
        row.hidden = filter.value !== "" && row.cells[data.classColumn].textContent !== filter.value;
        shown += row.hidden ? 0 : 1;
      }
      count.textContent = shown + " rows";
    };
    filter.addEventListener("change", apply);
    apply();
  }

  function nearest(values, wanted) {
    let best = 0;
    for (let at = 1; at < values.length; at++) {
      if (Math.abs(values[at] - wanted) < Math.abs(values[best] - wanted)) best = at;
    }
    return best;
  }

  function number(value) {
    if (value === null) return "not defined";
    return Math.abs(value) >= 0.001 || value === 0 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  }

  function row(table, words, name) {
    const line = table.insertRow();
    for (const word of words) line.insertCell().textContent = word;
    line.className = name;
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const chart = data.charts[Number(figure.dataset.chart)];
    const svg = figure.querySelector(".plot svg");
    const cursor = svg.querySelector(".cursor");
    const tooltip = figure.querySelector(".tooltip");
    const places = Array.from(new Set(chart.lines.flatMap((line) => line.x))).sort((a, b) => a - b);
    let at = -1;
    const show = function (index) {
      at = Math.max(0, Math.min(places.length - 1, index));
      const x = places[at];
      const pixel = chart.left + (x - chart.x0) / (chart.x1 - chart.x0 || 1) * (chart.right - chart.left);
      cursor.removeAttribute("hidden");
      cursor.setAttribute("x1", pixel);
      cursor.setAttribute("x2", pixel);
      tooltip.replaceChildren();
      const table = document.createElement("table");
      row(table, ["epoch", number(x)], "");
      for (const line of chart.lines) {
        const found = nearest(line.x, x);
        if (Math.abs(line.x[found] - x) <= chart.reach) row(table, [line.name, number(line.y[found])], "");
      }
      tooltip.append(table);
      tooltip.hidden = false;
      const scale = svg.clientWidth / chart.width;
      const right = pixel > chart.width / 2;
      tooltip.style.left = right ? "auto" : pixel * scale + 10 + "px";
      tooltip.style.right = right ? (chart.width - pixel) * scale + 10 + "px" : "auto";
    };
    const hide = function () {
      tooltip.hidden = true;
      cursor.setAttribute("hidden", "");
    };
    svg.addEventListener("pointermove", function (event) {
      const box = svg.getBoundingClientRect();
      const pixel = (event.clientX - box.left) / box.width * chart.width;
      const x = chart.x0 + (pixel - chart.left) / (chart.right - chart.left) * (chart.x1 - chart.x0);
      show(nearest(places, x));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", function (event) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined || !places.length) return;
      event.preventDefault();
      show(at < 0 ? (step > 0 ? 0 : places.length - 1) : at + step);
    });
  }
})();
