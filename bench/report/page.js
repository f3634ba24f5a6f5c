"use strict";
// The page is whole without this script but for its charts: it draws them, sorts tables and filters their rows.

// ---- charts -------------------------------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
const DARK = {
  axis: { labelColor: "#c9ccd1", titleColor: "#c9ccd1", gridColor: "#2c3036", domainColor: "#6b7078", tickColor: "#6b7078" },
  legend: { labelColor: "#c9ccd1" },
  style: {
    figures: { color: "#b4b8be" }, failures: { color: "#ff7a78" }, cross: { color: "#ff7a78" }, level: { color: "#9aa0aa" },
  },
};
const MARGIN = 100; // of a panel: its axis, the axis's title and what is around

// A colour that was chosen for white paper, as light as dark paper needs it.
function lightened(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255);
  const [most, least] = [Math.max(r, g, b), Math.min(r, g, b)];
  const light = (most + least) / 2;
  const share = Math.max(0, (0.42 + 0.5 * light - light) / (1 - light)); // of white
  const mixed = [r, g, b].map((part) => Math.round(255 * (part + share * (1 - part))));
  return "#" + mixed.map((part) => part.toString(16).padStart(2, "0")).join("");
}

function forDark(part) {
  if (Array.isArray(part)) return part.map(forDark);
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(
    Object.entries(part).map(([key, value]) => [
      key,
      key === "range" && typeof value[0] === "string" ? value.map(lightened) : key === "datasets" ? value : forDark(value),
    ]),
  );
}

// Lines fit the page: where panels do not go side by side they go below each other, legend last.  Bars and
// pictures keep their size, as text stands beside them; their box scrolls.
function fitted(spec, room) {
  const panels = spec.hconcat ?? spec.vconcat ?? [spec];
  if (panels.some((panel) => panel.layer.some((layer) => ["bar", "image"].includes(layer.mark.type)))) return spec;
  const names = panels[0].layer[0].encoding.color.scale.domain;
  const legend = names.length > 0 ? 60 + 7.5 * Math.max(...names.map((name) => String(name).length)) : 0;
  const widths = panels.map((panel) => panel.width + MARGIN);
  const wide = spec.hconcat ? widths.reduce((sum, width) => sum + width) : Math.max(...widths);
  if (wide + legend <= room) return spec;
  spec.config.legend.orient = "bottom";
  for (const panel of panels) panel.width = Math.min(panel.width, Math.max(180, room - MARGIN));
  if (spec.hconcat) {
    spec.vconcat = spec.hconcat;
    delete spec.hconcat;
  }
  return spec;
}

async function draw() {
  for (const source of document.querySelectorAll("script.spec")) {
    const target = source.parentNode.querySelector(".chart");
    target.style.display = "block"; // an empty one has no width
    let spec = JSON.parse(source.textContent);
    if (dark.matches) spec = forDark(spec);
    if (dark.matches) spec.config = vega.mergeConfig(spec.config, DARK);
    spec.config.font = getComputedStyle(document.body).fontFamily;
    const theme = dark.matches ? "dark" : "light";
    await vegaEmbed(target, fitted(spec, target.clientWidth), { renderer: "svg", actions: false, tooltip: { theme } });
  }
  document.documentElement.dataset.drawn = "yes";
}

if (globalThis.vegaEmbed) {
  let waiting, width = document.body.clientWidth;
  draw();
  dark.addEventListener("change", draw);
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (width !== document.body.clientWidth) draw();
      width = document.body.clientWidth;
    }, 200);
  });
}

// ---- tables -------------------------------------------------------------------------------------------------
for (const head of document.querySelectorAll("th")) {
  head.querySelector("button").addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const numeric = head.classList.contains("n");
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // nothing measured: always last
      return (numeric ? x - y : x.localeCompare(y)) * (up ? 1 : -1);
    };
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order));
  });
}

const filter = document.querySelector(".filter");
const [words, byName, told] = ["#filter", "#names", "output"].map((name) => filter.querySelector(name));
filter.hidden = false;
filter.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", () => {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const table of document.querySelectorAll("table")) {
    const names = [...table.tHead.rows[0].cells].filter((head) => head.classList.contains("names"));
    for (const row of table.tBodies[0].rows) {
      const cells = byName.checked && names.length ? names.map((head) => row.cells[head.cellIndex]) : [row];
      const text = cells.map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += !row.hidden;
      all += 1;
    }
  }
  told.textContent = wanted.length ? `${shown} of ${all} rows` : "";
});
