"use strict";
// Draws the figures of the page, follows its colour scheme, sorts its tables and opens it up for print.
(() => {
  const { figures, dark } = JSON.parse(document.getElementById("figures").textContent);
  const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
  const paper = window.matchMedia("print");
  const PAPER_WIDTH = 680; // CSS pixels between the margins of A4 and US letter
  const PAPER_SCALE = 0.75; // so that two figures stand on a page
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const config = {
    displaylogo: false,
    responsive: true,
    modeBarButtons: [["toImage", "resetScale2d"]], // none that uploads a figure, and few stops for a keyboard
  };
  let printing = false;

  // Figures are written in the colours of the light scheme; each has its partner in the dark one.
  const themed = (value, colours) => {
    if (typeof value === "string") return Object.hasOwn(colours, value) ? colours[value] : value;
    if (Array.isArray(value)) return value.map((item) => themed(item, colours));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, colours)]));
  };

  const draw = (place) => {
    const figure = figures[place.dataset.figure];
    const colours = darkScheme.matches && !printing ? dark : {};
    const { data, layout } = themed(figure, colours);
    layout.dragmode = touch ? false : "zoom"; // a finger on a figure scrolls the page
    const page = getComputedStyle(document.documentElement);
    layout.hoverlabel = {
      ...layout.hoverlabel,
      bgcolor: page.getPropertyValue("--panel").trim(),
      bordercolor: page.getPropertyValue("--line").trim(),
      font: { ...layout.hoverlabel.font, color: page.getPropertyValue("--ink").trim() },
    };
    if (printing) {
      const columns = place.closest(".grid")?.childElementCount ?? 1;
      layout.width = PAPER_WIDTH / columns - (columns - 1) * 5;
      layout.height *= PAPER_SCALE;
      layout.autosize = false;
    }
    place.dataset.drawn = "yes";
    return Plotly.react(place, data, layout, config);
  };

  const places = () => [...document.querySelectorAll("[data-figure]")];
  const isShown = (place) => place.closest("details:not([open])") === null; // folded figures wait
  const drawShown = () => Promise.all(places().filter(isShown).map(draw));

  const openForPrint = () => {
    if (printing) return;
    printing = true;
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      details.dataset.closed = "yes";
    }
    drawShown();
  };
  const closeAfterPrint = () => {
    if (!printing) return;
    printing = false;
    for (const details of document.querySelectorAll("details[data-closed]")) {
      details.open = false;
      delete details.dataset.closed;
    }
    drawShown();
  };

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    return number === undefined ? cell.textContent.trim() : number === "" ? -Infinity : Number(number);
  };
  const sortBy = (header) => {
    const column = header.cellIndex;
    const body = header.closest("table").tBodies[0];
    const descending = header.getAttribute("aria-sort") !== "descending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const compare = (a, b) => (a < b ? 1 : a > b ? -1 : 0);
    const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
    body.append(...(descending ? rows : rows.reverse()));
  };
  const makeSortable = (header) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(header));
    header.append(button);
  };

  for (const header of document.querySelectorAll("table[data-sortable] thead th")) makeSortable(header);
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      for (const place of details.querySelectorAll("[data-figure]")) if (isShown(place)) draw(place);
    });
  }
  darkScheme.addEventListener("change", drawShown);
  paper.addEventListener("change", (event) => (event.matches ? openForPrint() : closeAfterPrint()));
  window.addEventListener("beforeprint", openForPrint);
  window.addEventListener("afterprint", closeAfterPrint);
  drawShown().then(() => document.documentElement.setAttribute("data-drawn", "yes"));
})();
