"use strict";
// Walk a connectome: columns of concepts, edges of the chosen one, and chains to the classes.
// An edge is [lower, upper, effect, score]; edges[l] lead from layer l to the next, the largest
// effects first. A chain is [a concept of each layer …, class, effect].
const graph = JSON.parse(document.getElementById("data").textContent);
const columns = document.getElementById("columns");
const details = document.getElementById("details");
const LAST = graph.layers.length - 1;
const MOST_DRAWN = 40;
const MOST_CHAINS = 8;
const buttons = [];

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function nameOf(layer, index) {
  const name = graph.layers[layer].concepts[index].name;
  return layer < LAST && name === String(index) ? `concept ${index}` : name;
}

function kindOf(effect) {
  return effect > 0 ? "raises" : "lowers";
}

function signed(effect) {
  const digits = Math.abs(effect) < 0.1 ? effect.toPrecision(2) : effect.toFixed(2);
  return (effect > 0 ? "+" : "") + digits.replace("-", "\u2212");
}

/** Returns a button that chooses a concept or class. In a short one, a number stands for itself. */
function node(layer, index, short = true) {
  const concept = graph.layers[layer].concepts[index];
  const button = element("button", "", { type: "button", "aria-label": nameOf(layer, index), title: nameOf(layer, index) });
  if (concept.crops.length) button.append(element("img", "", { src: concept.crops[0], alt: "" }));
  button.append(element("bdi", short ? concept.name : nameOf(layer, index)));
  const own = `#${layer}/${index}`;
  // Choosing what is chosen shows everything again.
  button.addEventListener("click", () => { location.hash = location.hash === own ? "#all" : own; });
  return button;
}

// ------------------------------------------------------------------------------ the graph

function makersOf(layer, index) {
  return layer ? graph.edges[layer - 1].filter((edge) => edge[1] === index) : [];
}

function madeBy(layer, index) {
  return layer < LAST ? graph.edges[layer].filter((edge) => edge[0] === index) : [];
}

/** Returns the strongest chain of edges from a concept to each class, the strongest first. */
function waysFrom(layer, index) {
  let best = new Map([[index, { effect: 1, nodes: [index] }]]);
  for (let l = layer; l < LAST; l += 1) {
    const next = new Map();
    for (const [lower, upper, effect] of graph.edges[l]) {
      const way = best.get(lower);
      if (!way) continue;
      const longer = { effect: way.effect * effect, nodes: [...way.nodes, upper] };
      const known = next.get(upper);
      if (!known || Math.abs(longer.effect) > Math.abs(known.effect)) next.set(upper, longer);
    }
    best = next;
  }
  return [...best.values()].sort((one, other) => Math.abs(other.effect) - Math.abs(one.effect));
}

function edgesOfChain(chain) {
  return chain.slice(0, -2).map((lower, layer) => [layer,
    graph.edges[layer].find((edge) => edge[0] === lower && edge[1] === chain[layer + 1])]);
}

/** Returns the edges to draw for what is chosen, as [layer, edge]; for a class, its chains too. */
function edgesFor(layer, index) {
  if (layer < 0) return graph.edges.flatMap((edges, l) => edges.slice(0, MOST_DRAWN).map((edge) => [l, edge]));
  const direct = [
    ...makersOf(layer, index).map((edge) => [layer - 1, edge]),
    ...madeBy(layer, index).map((edge) => [layer, edge]),
  ];
  const chained = layer === LAST ? graph.chains[index].flatMap(edgesOfChain) : [];
  return [...new Map([...direct, ...chained].map((pair) => [`${pair[0]}/${pair[1][0]}/${pair[1][1]}`, pair])).values()];
}

function draw(pairs) {
  columns.querySelector("svg")?.remove();
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("width", columns.scrollWidth);
  svg.setAttribute("height", columns.scrollHeight);
  const origin = columns.getBoundingClientRect();
  const largest = graph.edges.map((_, l) => Math.max(1e-9, ...pairs.filter(([layer]) => layer === l).map(([, edge]) => Math.abs(edge[2]))));
  for (const [layer, edge] of pairs) {
    const from = buttons[layer][edge[0]].getBoundingClientRect();
    const to = buttons[layer + 1][edge[1]].getBoundingClientRect();
    const line = document.createElementNS(space, "line");
    line.setAttribute("x1", from.right - origin.left + columns.scrollLeft);
    line.setAttribute("y1", (from.top + from.bottom) / 2 - origin.top);
    line.setAttribute("x2", to.left - origin.left + columns.scrollLeft);
    line.setAttribute("y2", (to.top + to.bottom) / 2 - origin.top);
    line.setAttribute("stroke-width", 0.5 + 4.5 * Math.abs(edge[2]) / largest[layer]);
    line.setAttribute("class", kindOf(edge[2]));
    svg.append(line);
  }
  columns.append(svg);
}

// ------------------------------------------------------------------------------ the details

function listOf(title, edges, layer, end, nothing) {
  const parts = [element("h3", title)];
  if (!edges.length) return [...parts, element("p", nothing, { class: "muted" })];
  const items = element("ul");
  for (const edge of edges) {
    const item = element("li");
    const certain = Math.abs(edge[3]) === 1 || edge[3] === edge[2] ? "" : `, score ${signed(edge[3])}`;
    const verb = end ? { raises: "is raised", lowers: "is lowered" }[kindOf(edge[2])] : `${kindOf(edge[2])} it`;
    item.append(node(layer, edge[end], false),
      element("span", `${verb}, effect ${signed(edge[2])}${certain}`, { class: kindOf(edge[2]) }));
    items.append(item);
  }
  return [...parts, items];
}

function chainItem(nodes, first, effect) {
  const item = element("li");
  nodes.forEach((index, n) => {
    if (n) item.append("\u2192");
    item.append(node(first + n, index));
  });
  item.append(element("span", signed(effect), { class: kindOf(effect) }));
  return item;
}

function chainsOf(title, chains, nothing) {
  const parts = [element("h3", title)];
  if (!chains.length) return [...parts, element("p", nothing, { class: "muted" })];
  const items = element("ol");
  items.append(...chains);
  return [...parts, items];
}

function describeAll() {
  const table = element("table");
  graph.edges.forEach((edges, l) => {
    const row = element("tr");
    row.append(element("th", `${graph.layers[l].name} \u2192 ${graph.layers[l + 1].name}`, { scope: "row" }),
      element("td", `${edges.length} of ${graph.tested[l]} edges are significant` +
        (edges.length > MOST_DRAWN ? `; the ${MOST_DRAWN} with the largest effects are drawn` : "")));
    table.append(row);
  });
  details.append(element("h2", "Everything"),
    element("p", "Choose a concept to see what makes it and what it makes, or a class to see the strongest chains that lead to it."), table);
}

function describe(layer, index) {
  const concept = graph.layers[layer].concepts[index];
  const heading = element("h2", `${graph.layers[layer].name}: `, { tabindex: "-1" });
  heading.append(element("bdi", nameOf(layer, index)));
  const crops = element("p", "", { class: "crops" });
  concept.crops.forEach((source, n) => crops.append(element("img", "", { src: source, alt: `crop ${n + 1} of ${nameOf(layer, index)}` })));
  details.append(heading, crops);
  if (graph.report && layer === graph.ownLayer) {
    details.append(element("a", "This concept in the report", { href: `${graph.report}#/concept/${index}` }));
  }
  const nothing = "No significant edge.";
  if (layer === LAST) {
    details.append(
      ...chainsOf("Strongest chains to it", graph.chains[index].map((chain) => chainItem(chain.slice(0, -1), 0, chain.at(-1))),
        "No chain of significant edges leads from the first layer to this class."),
      ...listOf("What makes it", makersOf(layer, index), layer - 1, 0, nothing));
    return;
  }
  if (layer > 0) details.append(...listOf("What makes it", makersOf(layer, index), layer - 1, 0, nothing));
  details.append(...listOf("What it makes", madeBy(layer, index), layer + 1, 1, nothing));
  if (layer + 1 < LAST) {
    details.append(...chainsOf("Strongest chain to each class",
      waysFrom(layer, index).slice(0, MOST_CHAINS).map((way) => chainItem(way.nodes, layer, way.effect)),
      "No chain of significant edges leads from it to a class."));
  }
}

function show(event) {
  const chosen = location.hash.match(/^#(\d+)\/(\d+)$/);
  let [layer, index] = chosen ? [Number(chosen[1]), Number(chosen[2])] : [-1, -1];
  if (!graph.layers[layer]?.concepts[index]) [layer, index] = [-1, -1];
  const edges = edgesFor(layer, index);
  const near = new Set([`${layer}/${index}`]);
  edges.forEach(([l, edge]) => near.add(`${l}/${edge[0]}`).add(`${l + 1}/${edge[1]}`));
  buttons.forEach((column, l) => column.forEach((button, i) => {
    button.setAttribute("aria-pressed", String(l === layer && i === index));
    button.classList.toggle("faded", layer >= 0 && !near.has(`${l}/${i}`));
  }));
  draw(edges);
  if (event?.type === "resize") return;
  const hadFocus = details.contains(document.activeElement);
  details.replaceChildren();
  details.scrollTop = 0;
  if (layer < 0) { describeAll(); return; }
  describe(layer, index);
  if (hadFocus) details.querySelector("h2").focus({ preventScroll: true });
  // On a narrow screen the details are below the columns.
  if (event && getComputedStyle(details).position === "static") details.scrollIntoView();
}

graph.layers.forEach((layer, l) => {
  const column = element("div", "", { class: "column" });
  column.append(element("h2", layer.name));
  buttons.push(layer.concepts.map((_, i) => node(l, i)));
  column.append(...buttons[l]);
  columns.append(column);
});
document.getElementById("built").textContent = graph.built;
if (graph.report) document.getElementById("back").append(element("a", "The report of this network", { href: graph.report }));
for (const [word, meaning] of graph.words) document.getElementById("words").append(element("dt", word), element("dd", meaning));
window.addEventListener("hashchange", show);
window.addEventListener("resize", show);
show();
