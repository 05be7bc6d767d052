"use strict";
// Walk a connectome: columns of concepts, edges of the chosen one, and chains to a class.
const graph = JSON.parse(document.getElementById("data").textContent);
const columns = document.getElementById("columns");
const details = document.getElementById("details");
const buttons = [];

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function picture(source) {
  return element("img", "", { src: source, alt: "" });
}

function node(layer, index) {
  const concept = graph.layers[layer].concepts[index];
  const button = element("button", "", { type: "button", "aria-pressed": "false" });
  if (concept.crops.length) button.append(picture(concept.crops[0]));
  button.append(element("span", concept.name));
  button.addEventListener("click", () => { location.hash = `#${layer}/${index}`; });
  return button;
}

function makers(layer, index) {
  return layer ? graph.edges[layer - 1].filter((edge) => edge[1] === index) : [];
}

function made(layer, index) {
  return layer < graph.edges.length ? graph.edges[layer].filter((edge) => edge[0] === index) : [];
}

function list(title, edges, layer, end) {
  const parts = [element("h3", title)];
  if (!edges.length) return [...parts, element("p", "nothing significant")];
  const items = element("ol");
  for (const edge of edges) {
    const item = element("li");
    item.append(node(layer, edge[end]));
    const kind = edge[2] > 0 ? "raises" : "lowers";
    item.append(element("span", ` ${kind}, effect ${edge[2].toFixed(2)}, score ${edge[3].toFixed(2)}`, { class: kind }));
    items.append(item);
  }
  return [...parts, items];
}

function chains(index) {
  const items = element("ol");
  for (const chain of graph.chains[index]) {
    const effect = chain[chain.length - 1];
    const item = element("li", "", { class: effect > 0 ? "raises" : "lowers" });
    chain.slice(0, -1).forEach((concept, layer) => {
      if (layer) item.append(" → ");
      item.append(node(layer, concept));
    });
    item.append(` ${effect.toFixed(3)}`);
    items.append(item);
  }
  return graph.chains[index].length ? [element("h3", "Strongest chains"), items] : [];
}

function lines(pairs) {
  const old = columns.querySelector("svg");
  if (old) old.remove();
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("width", columns.scrollWidth);
  svg.setAttribute("height", columns.scrollHeight);
  const origin = columns.getBoundingClientRect();
  const largest = Math.max(...pairs.map(([, edge]) => Math.abs(edge[2])), 1e-9);
  for (const [layer, edge] of pairs) {
    const from = buttons[layer][edge[0]].getBoundingClientRect();
    const to = buttons[layer + 1][edge[1]].getBoundingClientRect();
    const line = document.createElementNS(space, "line");
    line.setAttribute("x1", from.right - origin.left + columns.scrollLeft);
    line.setAttribute("y1", (from.top + from.bottom) / 2 - origin.top);
    line.setAttribute("x2", to.left - origin.left + columns.scrollLeft);
    line.setAttribute("y2", (to.top + to.bottom) / 2 - origin.top);
    line.setAttribute("stroke", edge[2] > 0 ? "#b3172b" : "#2166ac");
    line.setAttribute("stroke-width", 0.5 + 4.5 * Math.abs(edge[2]) / largest);
    if (edge[2] < 0) line.setAttribute("stroke-dasharray", "6 4");
    svg.append(line);
  }
  columns.append(svg);
}

function show() {
  const chosen = location.hash.match(/^#(\d+)\/(\d+)$/);
  const [layer, index] = chosen ? [Number(chosen[1]), Number(chosen[2])] : [-1, -1];
  const known = layer in graph.layers && index in graph.layers[layer].concepts;
  const before = known ? makers(layer, index) : [];
  const after = known ? made(layer, index) : [];
  const near = new Set([`${layer}/${index}`]);
  before.forEach((edge) => near.add(`${layer - 1}/${edge[0]}`));
  after.forEach((edge) => near.add(`${layer + 1}/${edge[1]}`));
  buttons.forEach((column, l) => column.forEach((button, i) => {
    button.setAttribute("aria-pressed", String(l === layer && i === index));
    button.classList.toggle("faded", known && !near.has(`${l}/${i}`));
  }));
  const all = graph.edges.flatMap((edges, l) => edges.map((edge) => [l, edge]));
  lines(known
    ? [...before.map((edge) => [layer - 1, edge]), ...after.map((edge) => [layer, edge])]
    : all.slice(0, 400));
  details.replaceChildren();
  if (!known) return;
  const concept = graph.layers[layer].concepts[index];
  details.append(element("h2", `${graph.layers[layer].name}: ${concept.name}`));
  concept.crops.forEach((source) => details.append(picture(source)));
  if (layer > 0) details.append(...list("What makes it", before, layer - 1, 0));
  if (layer < graph.edges.length) details.append(...list("What it makes", after, layer + 1, 1));
  else details.append(...chains(index));
}

graph.layers.forEach((layer, l) => {
  const column = element("div", "", { class: "column" });
  column.append(element("h2", layer.name));
  buttons.push(layer.concepts.map((_, i) => node(l, i)));
  column.append(...buttons[l]);
  columns.append(column);
});
window.addEventListener("hashchange", show);
window.addEventListener("resize", show);
show();
