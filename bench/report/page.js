"use strict";
// Everything on the page is there without this script: it rescales bars, sorts the table and
// lights up a solver's curve under the pointer.
const parts = ["solve", "setup", "compile"];

function show(mode) {
  const counted = parts.slice(0, 1 + ["solve", "setup", "compile"].indexOf(mode));
  for (const chart of document.querySelectorAll(".bars")) {
    const bars = [...chart.querySelectorAll(".bar[data-solve]")];
    const total = (bar) => counted.reduce((sum, part) => sum + Number(bar.dataset[part]), 0);
    const good = bars.filter((bar) => !bar.classList.contains("failed"));
    const longest = Math.max(...(good.length ? good : bars).map(total));
    for (const bar of bars) {
      for (const part of parts) {
        const share = counted.includes(part) ? Number(bar.dataset[part]) / longest : 0;
        bar.querySelector("i." + part).style.width = 100 * share + "%";
      }
      bar.querySelector(".track").classList.toggle("over", total(bar) > 1.001 * longest);
    }
  }
  for (const button of document.querySelectorAll(".modes button"))
    button.setAttribute("aria-pressed", button.dataset.mode === mode);
}
for (const button of document.querySelectorAll(".modes button"))
  button.addEventListener("click", () => show(button.dataset.mode));

for (const section of document.querySelectorAll("section")) {
  for (const item of section.querySelectorAll("[data-solver]")) {
    const light = (on) => {
      for (const other of section.querySelectorAll("[data-solver]"))
        other.classList.toggle("lit", on && other.dataset.solver === item.dataset.solver);
      for (const svg of section.querySelectorAll("svg"))
        svg.classList.toggle("dim", on && svg.querySelector(".lit") !== null);
    };
    item.addEventListener("pointerenter", () => light(true));
    item.addEventListener("pointerleave", () => light(false));
  }
}

for (const head of document.querySelectorAll("th")) {
  head.addEventListener("click", () => {
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
