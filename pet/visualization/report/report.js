"use strict";
(() => {
  const NS = "http://www.w3.org/2000/svg";
  const HEIGHT = 240, LEFT = 54, RIGHT = 12, TOP = 12, BOTTOM = 26;

  const svg = (name, attributes, parent) => {
    const made = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  };
  const make = (name, attributes, parent, ...children) => {
    const made = document.createElement(name);
    Object.assign(made, attributes);
    made.append(...children);
    if (parent) parent.append(made);
    return made;
  };
  const short = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(Number(value.toPrecision(4)));
  };
  const ticks = (low, high, count) => {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step + 0); // + 0: no negative zero
    return found;
  };
  const decades = (low, high) => {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const f of high / low > 300 ? [1] : high / low > 20 ? [1, 3] : [1, 2, 3, 5, 7]) {
        const value = f * 10 ** p;
        if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
      }
    return found;
  };
  const colour = (index) => `var(--s${index % 8})`;

  class Chart {
    constructor(figure, panel) {
      this.panel = panel;
      this.series = panel.series.map((one, index) => ({ ...one, index }));
      this.log = false;
      const head = make("div", {}, figure, make("h3", { textContent: panel.title }));
      const positive = this.series.some((s) => s.y.some((v) => v > 0)) && !this.series.some((s) => s.y.some((v) => v < 0));
      if (positive) {
        const box = make("input", { type: "checkbox" });
        box.addEventListener("change", () => { this.log = box.checked; this.draw(); });
        make("label", {}, head, box, " log");
      }
      this.plot = make("div", { className: "plot" }, figure);
      if (this.series.length > 1 || this.series[0].name !== panel.title) this.legend(make("div", { className: "legend" }, figure));
      new ResizeObserver(() => this.resized()).observe(this.plot);
      this.draw();
    }

    legend(parent) {
      for (const one of this.series) {
        const button = make("button", { type: "button", ariaPressed: String(one.on) }, parent, make("i", {}), one.name);
        button.firstChild.style.background = colour(one.index);
        button.addEventListener("click", () => {
          one.on = !one.on;
          button.ariaPressed = String(one.on);
          this.draw();
        });
      }
    }

    resized() {
      if (Math.abs(this.plot.clientWidth - this.width) > 1) this.draw();
    }

    usable(value) {
      return value !== null && (!this.log || value > 0);
    }

    draw() {
      this.width = Math.max(this.plot.clientWidth, 240);
      this.plot.replaceChildren();
      const root = svg("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, role: "img" }, this.plot);
      svg("title", {}, root).textContent = this.panel.title;
      const shown = this.series.filter((s) => s.on);
      const values = shown.flatMap((s) => s.y.filter((v) => this.usable(v)));
      if (!values.length) {
        const text = svg("text", { x: this.width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, root);
        text.textContent = shown.length ? "no finite values" : "nothing is chosen";
        return;
      }
      this.scale(shown, values);
      this.axes(root);
      for (const one of shown) this.line(root, one);
      this.follow(root, shown);
    }

    scale(shown, values) {
      const [lowX, highX] = [0, lastUpdate];
      let [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
      if (this.log) {
        if (high / low < 1.2) { low /= 1.2; high *= 1.2; }
      } else {
        if (high - low <= 1e-12 * Math.max(Math.abs(low), Math.abs(high))) {
          const spread = Math.abs(high) * 0.1 || 1;
          low -= spread; high += spread;
        }
        const margin = (high - low) * 0.05;
        low = low >= 0 && low < (high - low) * 0.5 ? 0 : low - margin;
        high += margin;
      }
      const inner = this.width - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
      const [from, to] = this.log ? [Math.log(low), Math.log(high)] : [low, high];
      this.range = { lowX, highX, low, high };
      this.x = (v) => LEFT + ((v - lowX) / (highX - lowX)) * inner;
      this.y = (v) => TOP + (1 - ((this.log ? Math.log(v) : v) - from) / (to - from)) * tall;
    }

    axes(root) {
      const { lowX, highX, low, high } = this.range;
      for (const value of this.log ? decades(low, high) : ticks(low, high, 5)) {
        const y = this.y(value);
        svg("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }, root);
        svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, root).textContent = short(value);
      }
      for (const value of ticks(lowX, highX, this.width > 420 ? 6 : 4)) {
        if (!Number.isInteger(value)) continue;
        const end = this.x(value) > this.width - 40;
        svg("text", { x: this.x(value), y: HEIGHT - 8, "text-anchor": end ? "end" : "middle" }, root).textContent = value.toLocaleString("en");
      }
    }

    line(root, one) {
      let path = "", pen = false, points = 0;
      const dots = [];
      one.x.forEach((x, i) => {
        if (!this.usable(one.y[i])) { pen = false; return; }
        const at = `${this.x(x).toFixed(1)} ${this.y(one.y[i]).toFixed(1)}`;
        path += `${pen ? "L" : "M"}${at}`;
        pen = true;
        points += 1;
        dots.push(at.split(" "));
      });
      svg("path", { class: "line", d: path, stroke: colour(one.index), "stroke-dasharray": one.index > 7 ? "6 3" : "none" }, root);
      if (points <= 24) for (const [cx, cy] of dots) svg("circle", { cx, cy, r: 2.6, fill: colour(one.index) }, root);
    }

    follow(root, shown) {
      const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, root);
      const tip = make("div", { className: "tip", hidden: true }, this.plot);
      const places = [...new Set(shown.flatMap((s) => s.x))];
      const hide = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
      root.addEventListener("pointerleave", hide);
      root.addEventListener("pointermove", (event) => {
        const box = root.getBoundingClientRect();
        const at = ((event.clientX - box.left) / box.width) * this.width;
        const near = places.reduce((a, b) => (Math.abs(this.x(b) - at) < Math.abs(this.x(a) - at) ? b : a));
        const epoch = this.panel.epoch ? `, epoch ${short(near / this.panel.epoch)}` : "";
        tip.replaceChildren(make("b", { textContent: `update ${near.toLocaleString("en")}${epoch}` }));
        for (const one of shown) {
          const value = one.y[one.x.indexOf(near)];
          if (value === undefined) continue;
          const mark = make("i", {});
          mark.style.background = colour(one.index);
          make("div", {}, tip, mark, `${one.name}  ${value === null ? "not finite" : short(value) + " " + this.panel.unit}`);
        }
        tip.hidden = false;
        const place = (this.x(near) / this.width) * box.width;
        tip.style.left = `${place > box.width / 2 ? Math.max(place - tip.offsetWidth - 12, 0) : place + 12}px`;
        for (const end of ["x1", "x2"]) cursor.setAttribute(end, this.x(near));
        cursor.setAttribute("visibility", "visible");
      });
    }
  }

  const sortable = (table) => {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const down = head.ariaSort !== "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const text = row.cells[column].textContent, numeric = Number(text.replaceAll(",", ""));
        return text !== "" && !Number.isNaN(numeric) ? numeric : text === "\u2013" ? -Infinity : text;
      };
      const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
      const rows = [...body.rows].sort((a, b) => order(value(a), value(b)) * (down ? -1 : 1));
      body.append(...rows);
    }));
  };

  const panels = JSON.parse(document.getElementById("curves-data").textContent);
  const lastUpdate = Math.max(1, ...panels.flatMap((panel) => panel.series.map((one) => one.x[one.x.length - 1])));
  document.querySelectorAll("figure.chart").forEach((figure, index) => new Chart(figure, panels[index]));
  document.querySelectorAll("table.sortable").forEach(sortable);
  // Paper shows what is folded, except what would fill pages.
  addEventListener("beforeprint", () => document.querySelectorAll("details:not(.long)").forEach((one) => { one.open = true; }));
})();
