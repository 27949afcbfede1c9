"use strict";
// Shows what a point stands for. The titles of the marks serve where there is no script; here they become texts, so as not to show twice.
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg.chart")) {
  const marks = [...chart.querySelectorAll(".m > title")].map((title) => {
    const mark = title.parentNode;
    title.remove();
    return { mark, said: title.textContent, x: Number(mark.dataset.x), y: Number(mark.dataset.y) };
  });
  let near = null;
  const leave = () => {
    if (near) near.mark.classList.remove("on");
    near = null;
    tip.hidden = true;
  };
  const point = (event) => {
    const box = chart.getBoundingClientRect();
    const unit = chart.viewBox.baseVal.width / box.width;
    const away = (item) => Math.hypot((event.clientX - box.left) * unit - item.x, (event.clientY - box.top) * unit - item.y);
    const best = marks.reduce((first, item) => (first && away(first) < away(item) ? first : item), null);
    leave();
    if (!best || away(best) > 24 * unit) return;
    near = best;
    near.mark.classList.add("on");
    tip.textContent = near.said;
    tip.hidden = false;
    const x = box.left + near.x / unit, y = box.top + near.y / unit;
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (y - tip.offsetHeight - 14 > 8 ? y - tip.offsetHeight - 14 : y + 18) + "px";
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", leave);
}
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
