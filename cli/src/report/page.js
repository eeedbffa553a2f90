// One cursor for all plots: each legend shows its values at the cursor's time.
const data = JSON.parse(document.getElementById("data").textContent);
const plots = [...document.querySelectorAll("svg")];
const form = {
  rate: v => v >= 1e3 ? (v / 1e3).toFixed(1) + " k/s" : v.toFixed(0) + " /s",
  bytes: v => (v / 1048576).toFixed(0) + " MiB",
  percent: v => v.toFixed(0) + " %",
  latency: v => v >= 1e6 ? (v / 1e6).toFixed(2) + " s" : v >= 1e3 ? (v / 1e3).toFixed(1) + " ms" : v.toFixed(0) + " µs",
};
const at = (points, t) => {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (points[middle][0] <= t) low = middle; else high = middle - 1;
  }
  return points[low];
};
const show = t => {
  for (const svg of plots) {
    const { from, to, left, right } = svg.dataset;
    const x = t === null ? -9 : +left + (t - from) / (to - from) * (right - left);
    const cursor = svg.querySelector(".cursor");
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
  }
  for (const key of document.querySelectorAll("[data-layer]")) {
    const points = data[key.dataset.layer];
    const point = t === null || !points.length ? null : at(points, t);
    key.querySelector("b").textContent =
      point && point[1] !== null ? form[key.dataset.form](point[1]) : key.dataset.whole;
  }
  for (const clock of document.querySelectorAll(".clock"))
    clock.textContent = t === null ? "" : (t / 1000).toFixed(1) + " s";
};
for (const svg of plots) {
  svg.addEventListener("pointermove", event => {
    const { from, to, left, right } = svg.dataset;
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * 1000;
    const share = Math.min(1, Math.max(0, (x - left) / (right - left)));
    show(+from + share * (to - from));
  });
  svg.addEventListener("pointerleave", () => show(null));
}
