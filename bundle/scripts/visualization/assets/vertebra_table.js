// SPDX-License-Identifier: Apache-2.0
// Rows of the table of vertebrae select a vertebra: it is ringed in the overview, and the viewer of the page jumps to it.
"use strict";
(() => {
  const select = (scan, number) => document.dispatchEvent(new CustomEvent("vertebra", { detail: { scan, number } }));

  document.querySelectorAll(".vertebrae").forEach((block) => {
    const scan = block.dataset.scan;
    const rows = [...block.querySelectorAll("tr[data-vertebra]")];
    const ring = block.querySelector(".ring");
    const place = (row) => {
      const box = row && row.dataset.mark ? row.dataset.mark.split(" ").map(Number) : null;
      if (!ring) return;
      ring.hidden = !box;
      if (box) ["left", "top", "width", "height"].forEach((side, n) => (ring.style[side] = `${100 * box[n]}%`));
    };
    rows.forEach((row, n) => {
      row.addEventListener("click", () => {
        select(scan, Number(row.dataset.vertebra));
        const viewer = [...document.querySelectorAll(".viewer")].find((v) => v.dataset.scan === scan && v.dataset.ready === "true");
        if (viewer) viewer.scrollIntoView({ block: "nearest", behavior: "smooth" });
      });
      row.addEventListener("keydown", (event) => {
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (event.key === "Enter" || event.key === " ") row.click();
        else if (step) (rows[n + step] || row).focus();
        else return;
        event.preventDefault();
      });
    });
    const image = block.querySelector(".overview img");
    if (image)
      image.addEventListener("click", (event) => {
        const at = [event.offsetX / image.clientWidth, event.offsetY / image.clientHeight];
        const distance = (row) => {
          const [x, y, width, height] = row.dataset.mark.split(" ").map(Number);
          return Math.hypot(x + width / 2 - at[0], y + height / 2 - at[1]);
        };
        const marked = rows.filter((row) => row.dataset.mark).sort((a, b) => distance(a) - distance(b));
        if (marked.length) marked[0].click();
      });
    document.addEventListener("vertebra", (event) => {
      if (event.detail.scan !== scan) return;
      rows.forEach((row) => row.setAttribute("aria-selected", String(Number(row.dataset.vertebra) === event.detail.number)));
      place(rows.find((row) => Number(row.dataset.vertebra) === event.detail.number));
    });
  });
})();
