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
const LEAST = 250; // of a panel beside something

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

function merged(one, other) {
  const both = { ...one };
  for (const [key, value] of Object.entries(other))
    both[key] = typeof value === "object" ? merged(one[key] ?? {}, value) : value;
  return both;
}

// Lines fit the page: panels go side by side and the legend beside them, the legend below, or all below each
// other.  Bars and pictures keep their size, as text stands beside them; their box scrolls.
function fitted(spec, room) {
  const panels = spec.hconcat ?? spec.vconcat ?? [spec];
  if (panels.some((panel) => panel.layer.some((layer) => ["bar", "image"].includes(layer.mark.type)))) return spec;
  const names = panels[0].layer[0].encoding.color.scale.domain;
  const legend = 60 + 7.5 * Math.max(...names.map((name) => String(name).length));
  const across = spec.hconcat ? panels.length : 1;
  const ways = [[across, legend], [across, 0], [1, 0]];
  const width = ([count, beside]) => Math.floor((room - beside) / count) - MARGIN;
  const way = ways.find((way) => width(way) >= LEAST) ?? ways[2];
  for (const panel of panels) panel.width = Math.min(panel.width, Math.max(180, width(way)));
  if (!way[1]) {
    spec.config.legend.orient = "bottom";
    for (const panel of panels)
      for (const { encoding } of panel.layer)
        for (const channel of [encoding.color, encoding.strokeDash]) if (channel?.legend) channel.legend.columns = 1;
  }
  if (way[0] < across) {
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
    if (dark.matches) spec = merged(forDark(spec), { config: DARK });
    spec.config.font = getComputedStyle(document.body).fontFamily;
    const options = { renderer: "svg", actions: false, tooltip: { theme: dark.matches ? "dark" : "light" } };
    try {
      await vegaEmbed(target, fitted(spec, target.clientWidth), options);
    } catch (error) {
      target.textContent = `This chart could not be drawn: ${error.message}`;
      console.error(error);
    }
  }
  document.documentElement.dataset.drawn = dark.matches ? "dark" : "light";
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
