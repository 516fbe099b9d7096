"use strict";
const models = JSON.parse(document.getElementById("data").textContent);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

// Light and dark: what the system says, until the button is pressed.
const root = document.documentElement;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.classList.contains("dark") ||
    (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  root.classList.toggle("dark", !dark);
  root.classList.toggle("light", dark);
});

// A gain in bits as the factor a reader knows, as the rest of the report writes it.
const times = (bits) => {
  if (Math.abs(bits) > 1000) return `×2^${Math.round(bits)}`;
  const factor = 2 ** bits;
  if (factor >= 100 && factor < 1e4) return `×${factor.toFixed(0)}`;
  if (factor >= 1e-3 && factor < 100) return `×${Number(factor.toPrecision(2))}`;
  return `×${factor.toExponential(1).replace("e+", "e")}`;
};

const chart = (section, rows) => {
  const plot = section.querySelector(".plot");
  if (!plot) return;
  const svg = plot.querySelector("svg");
  const cursor = plot.querySelector(".cursor");
  const told = section.querySelector(".hover");
  const xs = cursor.dataset.xs.split(" ").map(Number);
  let at = -1;
  const show = (index) => {
    at = Math.min(Math.max(index, 0), xs.length - 1);
    cursor.setAttribute("x1", xs[at]);
    cursor.setAttribute("x2", xs[at]);
    cursor.setAttribute("visibility", "visible");
    const [name, kind, place, rms, gradient, codes] = rows[at];
    told.replaceChildren(...[["layer", name], [kind || "op", place || "–"], ["activation", rms], ["gradient", gradient], ["findings", codes || "none"]]
      .map(([label, value]) => {
        const cell = make("span", "", label);
        cell.append(make("b", "", value));
        cell.title = value;
        return cell;
      }));
  };
  plot.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    let best = 0;
    xs.forEach((value, index) => { if (Math.abs(value - x) < Math.abs(xs[best] - x)) best = index; });
    if (best !== at) show(best);
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(at < 0 ? 0 : at + step);
  });
};

// Children are made when a block is opened: a model of ten thousand layers opens as fast as a small one.
const branch = ([name, type, place, gain, rms, children]) => {
  const line = make(children.length ? "summary" : "div", children.length ? "" : "leaf");
  line.append(make("span", "", name), make("span", "type", type), make("code", "place", place), make("span", "number gain", gain), make("span", "number rms", rms));
  if (!children.length) return line;
  const details = make("details");
  details.append(line);
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const inside = make("div");
    const few = 200;
    const more = (start) => {
      inside.append(...children.slice(start, start + few).map(branch));
      if (start + few >= children.length) return;
      const button = make("button", "", `${children.length - start - few} more`);
      button.type = "button";
      button.addEventListener("click", () => { button.remove(); more(start + few); });
      inside.append(button);
    };
    more(0);
    details.append(inside);
  });
  return details;
};

// The closed forms of laws.py.
const rate = (law, gain) => {
  if (law.kind === "plain") return law.rate + law.weights * gain;
  if (law.kind === "residual" && law.rate > 0) return Math.log2(1 + (2 ** (2 * law.rate) - 1) * 2 ** (2 * law.weights * gain)) / 2;
  return law.rate;
};
const total = (law, depth, gain) => law.rest + (law.kind === "algebraic" ? law.rate * Math.log2(depth + 1) : rate(law, gain) * depth);
const RANGE = { float32: [-149, 128], bfloat16: [-133, 128], float16: [-24, 16] };
const LONGEST = 1e6;
const breaks = (law, gain, low, high) => { // the first depth outside; monotone, so by halving
  const outside = (depth) => { const bits = total(law, depth, gain); return bits < low || bits > high; };
  if (!outside(LONGEST)) return null;
  let [inside, beyond] = [0, LONGEST];
  while (beyond - inside > 1) {
    const middle = Math.floor((inside + beyond) / 2);
    if (outside(middle)) beyond = middle; else inside = middle;
  }
  return beyond;
};

const sliders = (field, law) => {
  const input = (name) => field.querySelector(`[name="${name}"]`);
  const [depth, gain, width, precision] = ["depth", "gain", "width", "precision"].map(input);
  const answer = field.querySelector(".answer");
  const most = Math.max(8 * law.count, 64);
  const depthAt = () => Math.max(Math.round(most ** (depth.value / 100)), 1);
  depth.value = Math.round((100 * Math.log(law.count)) / Math.log(most));
  let touched = false;
  const update = () => {
    const layers = touched ? depthAt() : law.count;
    const bits = gain.value / 50; // a quarter to four times
    const wider = 2 ** width.value;
    const spread = Math.sqrt(layers / law.count / wider);
    const middle = total(law, layers, bits) + law.shift * (layers / law.count / wider);
    const [low, high] = [middle - law.spread * spread, middle + law.spread * spread];
    const state = middle > law.explode ? "explodes" : middle < law.vanish ? "vanishes" : "healthy";
    depth.nextElementSibling.textContent = layers;
    gain.nextElementSibling.textContent = times(bits);
    width.nextElementSibling.textContent = width.dataset.width ? Math.max(Math.round(width.dataset.width * wider), 1) : "–";
    const at = breaks(law, bits, law.vanish, law.explode);
    const [least, greatest] = RANGE[precision.value];
    const lost = breaks(law, bits, least, greatest);
    const text = state === "healthy" ? "the gradient stays within bounds" : `the gradient ${state}`;
    const parts = [`At ${layers} ${law.unit} `, make("b", state, text), `: ${times(middle)}`];
    if (law.spread > 0) parts.push(`, 80 % of the draws ${times(low)} to ${times(high)}`);
    parts.push(at === null ? `. No number of ${law.unit} breaks it` : `. It breaks at ${at === 1 ? "the first of the" : at} ${law.unit}`);
    if (lost !== null) parts.push(`; ${precision.value} cannot hold it from ${lost} on`);
    answer.replaceChildren(...parts, ".");
  };
  depth.addEventListener("input", () => { touched = true; update(); });
  [gain, width, precision].forEach((element) => element.addEventListener("input", update));
  update();
};

document.querySelectorAll("section.model").forEach((section) => {
  const model = models[Number(section.dataset.model)];
  chart(section, model.rows);
  const top = branch(model.tree);
  section.querySelector(".tree").append(top);
  if (top.tagName === "DETAILS") top.open = true;
  section.querySelectorAll(".law").forEach((field) => sliders(field, model.laws[Number(field.dataset.law)]));
});
