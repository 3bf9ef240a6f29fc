// Wheel: zoom at the pointer; drag: move; double click: all of it. Without it the whole trace stands there.
for (const f of document.querySelectorAll(".power")) {
  const plot = f.querySelector("svg svg"), ticks = f.querySelector(".t"), names = f.querySelector(".names");
  const wide = +plot.dataset.w, seconds = +plot.dataset.s, left = +plot.getAttribute("x");
  let a = 0, b = wide, grip = null;
  const nice = (x) => {
    const p = 10 ** Math.floor(Math.log10(x));
    return p * [1, 2, 5, 10].find((m) => m * p >= x * 0.999);
  };
  const show = () => {
    plot.setAttribute("viewBox", `${a} 0 ${b - a} ${plot.dataset.h}`);
    names.style.display = b - a < wide * 0.999 ? "none" : "";
    const t0 = (a / wide) * seconds, t1 = (b / wide) * seconds, step = nice((t1 - t0) / 6);
    ticks.textContent = "";
    for (let k = Math.ceil(t0 / step); k * step <= t1 + step * 1e-6; k++) {
      const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
      text.setAttribute("class", "small");
      text.setAttribute("text-anchor", "middle");
      text.setAttribute("x", left + ((k * step - t0) / (t1 - t0)) * wide);
      text.setAttribute("y", ticks.dataset.y);
      text.textContent = +(k * step).toPrecision(6);
      ticks.append(text);
    }
  };
  const at = (e) => {
    const r = plot.getBoundingClientRect();
    return a + ((e.clientX - r.left) / r.width) * (b - a);
  };
  const from = (start, n) => {
    a = Math.max(0, Math.min(wide - n, start));
    b = a + n;
    show();
  };
  plot.addEventListener("wheel", (e) => {
    e.preventDefault();
    const x = at(e), n = Math.min(wide, Math.max(wide / 2e4, (b - a) * (e.deltaY < 0 ? 0.8 : 1.25)));
    from(x - ((x - a) / (b - a)) * n, n);
  }, { passive: false });
  plot.addEventListener("pointerdown", (e) => { grip = at(e); plot.setPointerCapture(e.pointerId); });
  plot.addEventListener("pointerup", () => { grip = null; });
  plot.addEventListener("pointermove", (e) => { if (grip !== null) from(a + grip - at(e), b - a); });
  plot.addEventListener("dblclick", () => from(0, wide));
}
