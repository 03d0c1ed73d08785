// Three views of many heads, after BertViz (Vig 2019): headView, modelView, neuronView.
// This follows attention.js in one module and uses its drawing helpers. No imports and no requests.
//
// Beside what attention.js reads, the model holds: shown (1 for each head that headView draws), head (the one
// that modelView and neuronView show), and for neuronView width, query_vectors and key_vectors (thousandths,
// flat: layers, heads, tokens, width).

const DASHES = ["", "7 3", "2 3", "9 3 2 3", "14 4", "5 2 1 2", "1 2", "3 1"];
const THUMB_ROW = 5, THUMB_WIDTH = 74, POSITIVE = "#0072B2", NEGATIVE = "#D55E00";

const dash = (head) => DASHES[head % DASHES.length];
const ink = (head) => COLOURS[head % COLOURS.length];
const nameOf = (model, head) => model.get("head_names")[head];

// The index of each key's largest weight is what a line of text can say of a row.
function strongest(data, head, query) {
  let best = 0;
  for (let key = 1; key < data.keys; key++) {
    if (data.weight(head, query, key) > data.weight(head, query, best)) best = key;
  }
  return best;
}

function picker(bar, model, set, title, names, state) {
  if (names.length < 2) return;
  const label = node("label", {}, `${title} `), list = node("select", { class: `course-pick-${state}` });
  names.forEach((name, index) => list.append(node("option", { value: index }, name)));
  list.value = String(model.get(state));
  list.addEventListener("change", () => set({ [state]: Number(list.value) }));
  model.on(`change:${state}`, () => { list.value = String(model.get(state)); });
  label.append(list);
  bar.append(label);
}

// The frame of each view: controls, a panel that answers to pointer and keys, and a sentence below it.
function frame(model, el, about) {
  el.classList.add("course-attention", "course-many-heads");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const set = (state) => {
    for (const [key, value] of Object.entries(state)) model.set(key, value);
    model.save_changes();
  };
  const bar = node("div", { class: "course-controls" });
  const panel = node("div", { class: "course-heads", tabindex: "0", role: "group", "aria-label": about });
  const spoken = node("div", { class: "course-spoken", "aria-live": "polite" });
  el.append(bar, panel, spoken);
  const rowOf = (event) => {
    const row = event.target instanceof Element ? event.target.closest("[data-query]") : null;
    return row ? Number(row.getAttribute("data-query")) : -1;
  };
  panel.addEventListener("pointerover", (event) => {
    const query = rowOf(event);
    if (query >= 0 && !model.get("pinned") && query !== model.get("query")) set({ query });
  });
  panel.addEventListener("pointerleave", () => {
    const home = model.get("home");
    if (!model.get("pinned") && model.get("query") !== home) set({ query: home });
  });
  panel.addEventListener("click", (event) => {
    const query = rowOf(event);
    if (query >= 0) set({ query, pinned: !(model.get("pinned") && model.get("query") === query) });
  });
  panel.addEventListener("keydown", (event) => {
    if (event.target === panel) onKey(event, model, set);
  });
  return { bar, panel, spoken, set };
}

function redraw(model, names, draw) {
  for (const name of names) model.on(`change:${name}`, draw);
  draw();
}

function tokenColumn(svg, model, x, width, act) {
  model.get("query_labels").forEach((text, query) => {
    const y = TOP + ROW * query, chosen = query === model.get("query");
    const row = shape(svg, "g", { class: "course-query" + (chosen ? " course-chosen" : "") });
    shape(row, "rect", { x: x + 0.5, y: y + 1.5, width: width - 3, height: ROW - 3, rx: 3 });
    shape(row, "text", { x: x + width - 8, y: y + 15, "text-anchor": "end" }, shorten(text));
    act(row, query);
  });
}

const mark = (row, query) => row.setAttribute("data-query", String(query));

// --- head view: the lines of all chosen heads in one picture ------------------------------------

function headButtons(bar, model, set) {
  model.get("head_names").forEach((name, head) => {
    const button = node("button", { type: "button", class: "course-toggle" });
    const sample = shape(button, "svg", { width: 30, height: 10, "aria-hidden": "true" });
    shape(sample, "line", { x1: 1, y1: 5, x2: 29, y2: 5, stroke: ink(head), "stroke-width": 2.5, "stroke-dasharray": dash(head) });
    button.append(name);
    const press = () => button.setAttribute("aria-pressed", String(model.get("shown")[head] === 1));
    button.addEventListener("click", () => {
      set({ shown: model.get("shown").map((one, index) => (index === head ? 1 - one : one)) });
    });
    model.on("change:shown", press);
    press();
    bar.append(button);
  });
}

function drawHeads(svg, model) {
  const data = reader(model), chosen = model.get("query"), shown = model.get("shown");
  const left = labelWidth(model.get("query_labels")), right = left + 150;
  const heads = [...shown.keys()].filter((head) => shown[head] === 1);
  const boxes = right + labelWidth(model.get("key_labels"));
  svg.setAttribute("width", boxes + 12 * heads.length + 6);
  svg.setAttribute("height", TOP + ROW * Math.max(data.queries, data.keys) + 4);
  // Heads that look at the same key would hide one another: each has its own height within a row.
  const shift = (place) => (heads.length < 2 ? 0 : 9 * (place / (heads.length - 1) - 0.5));
  const middle = (row, place) => TOP + ROW * row + ROW / 2 + shift(place);
  heads.forEach((head, place) => {
    for (let query = 0; query < data.queries; query++) {
      if (chosen >= 0 && chosen !== query) continue;
      for (let key = 0; key < data.keys; key++) {
        const weight = data.weight(head, query, key) / 1000;
        if (weight < (chosen < 0 ? 0.04 : 0.01)) continue;
        const line = shape(svg, "line", {
          x1: left, y1: middle(query, place), x2: right, y2: middle(key, place), stroke: ink(head), class: "course-line",
          "stroke-width": 0.8 + 2.4 * weight, "stroke-opacity": 0.1 + 0.9 * weight, "stroke-dasharray": dash(head),
        });
        const names = `${model.get("query_labels")[query]} → ${model.get("key_labels")[key]}`;
        shape(line, "title", {}, `${nameOf(model, head)}: ${names}: ${number(1000 * weight)}`);
      }
      if (chosen < 0) continue;
      for (let key = 0; key < data.keys; key++) {
        const weight = data.weight(head, query, key);
        const box = shape(svg, "rect", {
          x: boxes + 12 * place, y: TOP + ROW * key + 5, width: 10, height: 12, class: "course-box",
          fill: ink(head), "fill-opacity": weight / 1000,
        });
        shape(box, "title", {}, `${nameOf(model, head)}: ${model.get("key_labels")[key]}: ${number(weight)}`);
      }
    }
  });
  model.get("key_labels").forEach((text, key) => {
    shape(shape(svg, "text", { x: right + 6, y: TOP + ROW * key + 15 }, shorten(text)), "title", {}, text);
  });
  tokenColumn(svg, model, 0, left, mark);
}

function headSentence(model) {
  const data = reader(model), chosen = model.get("query"), shown = model.get("shown");
  if (chosen < 0) return "Hover a token on the left, or use the arrow keys, to follow its lines; click or press Enter to pin it. The buttons show and hide heads.";
  const said = [...shown.keys()].filter((head) => shown[head] === 1).map((head) => {
    const key = strongest(data, head, chosen);
    return `${nameOf(model, head)}: “${model.get("key_labels")[key]}” ${number(data.weight(head, chosen, key))}`;
  });
  return `“${model.get("query_labels")[chosen]}” (position ${chosen}${model.get("pinned") ? ", pinned" : ""}) — ${said.join("; ") || "no head is shown"}.`;
}

function headView({ model, el }) {
  const { bar, panel, spoken, set } = frame(model, el, "Lines of attention of several heads. Arrow keys move the query token, Enter pins it, Escape lets go.");
  picker(bar, model, set, "Layer", model.get("layer_names"), "layer");
  headButtons(bar, model, set);
  redraw(model, ["layer", "query", "pinned", "shown"], () => {
    panel.replaceChildren();
    const box = node("div", { class: "course-head" });
    drawHeads(shape(box, "svg", { "aria-hidden": "true" }), model);
    panel.append(box);
    spoken.textContent = headSentence(model);
  });
}

// --- model view: every head of every layer, small -----------------------------------------------

function drawThumb(svg, model, layer, head) {
  const [, heads, queries, keys] = model.get("shape"), weights = model.get("weights");
  const start = (layer * heads + head) * queries * keys;
  svg.setAttribute("width", THUMB_WIDTH);
  svg.setAttribute("height", THUMB_ROW * Math.max(queries, keys) + 4);
  for (let place = 0; place < queries * keys; place++) {
    const weight = weights[start + place] / 1000;
    if (weight < 0.05) continue;
    shape(svg, "line", {
      x1: 4, y1: 4 + THUMB_ROW * Math.floor(place / keys), x2: THUMB_WIDTH - 4, y2: 4 + THUMB_ROW * (place % keys),
      stroke: ink(head), "stroke-width": 0.5 + weight, "stroke-opacity": weight,
    });
  }
}

function modelView({ model, el }) {
  const { bar, panel, spoken, set } = frame(model, el, "Every head of every layer. Tab reaches the small pictures, Enter enlarges one; in the large one arrow keys move the query token.");
  const grid = node("div", { class: "course-thumbs", role: "group", "aria-label": "small pictures, a row for each layer" });
  bar.replaceWith(grid);
  grid.style.gridTemplateColumns = `max-content repeat(${model.get("head_names").length}, max-content)`;
  grid.append(node("span"), ...model.get("head_names").map((name) => node("span", { class: "course-title" }, name)));
  const buttons = model.get("layer_names").flatMap((name, layer) => {
    grid.append(node("span", { class: "course-title" }, name));
    return model.get("head_names").map((headName, head) => {
      const button = node("button", { type: "button", class: "course-thumb", "aria-label": `${name}, ${headName}` });
      drawThumb(shape(button, "svg", { "aria-hidden": "true" }), model, layer, head);
      button.addEventListener("click", () => set({ layer, head }));
      grid.append(button);
      return { button, layer, head };
    });
  });
  redraw(model, ["layer", "head", "query", "pinned"], () => {
    for (const { button, layer, head } of buttons) {
      button.setAttribute("aria-pressed", String(layer === model.get("layer") && head === model.get("head")));
    }
    const head = model.get("head"), data = reader(model), chosen = model.get("query");
    const title = `${model.get("layer_names")[model.get("layer")]}, ${nameOf(model, head)}`;
    const box = node("div", { class: "course-head" });
    box.append(node("div", { class: "course-title" }, title));
    drawLines(shape(box, "svg", { "aria-hidden": "true" }), model, head, mark);
    panel.replaceChildren(box);
    const key = chosen < 0 ? -1 : strongest(data, head, chosen);
    spoken.textContent = chosen < 0 ? `${title}. Click a small picture to enlarge it; hover a token of the large one to follow its lines.`
      : `${title}: “${model.get("query_labels")[chosen]}” (position ${chosen}) attends most to “${model.get("key_labels")[key]}” ${number(data.weight(head, chosen, key))}.`;
  });
}

// --- neuron view: how the numbers of a query and of the keys make a score -------------------------

function strip(svg, values, x, y, cell, most, title) {
  values.forEach((value, index) => {
    const made = shape(svg, "rect", {
      x: x + cell * index, y: y + 3, width: cell, height: ROW - 6, class: "course-neuron",
      fill: value < 0 ? NEGATIVE : POSITIVE, "fill-opacity": Math.min(1, Math.abs(value) / most),
    });
    shape(made, "title", {}, `${title}, feature ${index}: ${value.toFixed(3)}`);
  });
}

function neuronData(model) {
  const [, heads, queries, keys] = model.get("shape"), width = model.get("width");
  const vectors = (name, count) => (row) => {
    const start = ((model.get("layer") * heads + model.get("head")) * count + row) * width;
    return model.get(name).slice(start, start + width).map((value) => value / 1000);
  };
  return { width, query: vectors("query_vectors", queries), key: vectors("key_vectors", keys) };
}

const dot = (one, other) => one.reduce((sum, value, index) => sum + value * other[index], 0);
const most = (rows) => Math.max(1e-6, ...rows.flat().map(Math.abs));

function drawNeurons(svg, model) {
  const data = reader(model), { width, query, key } = neuronData(model);
  const chosen = Math.max(0, model.get("query")), head = model.get("head");
  const cell = Math.max(2, Math.min(9, Math.floor(150 / width))), long = cell * width + 16;
  const left = labelWidth(model.get("query_labels")), names = labelWidth(model.get("key_labels"));
  const asks = query(chosen), keys = Array.from({ length: data.keys }, (_, row) => key(row));
  const products = keys.map((row) => row.map((value, index) => value * asks[index]));
  const places = { query: left + 4, name: left + long + 8, key: left + long + names + 8 };
  places.product = places.key + long;
  places.score = places.product + long + 38;
  places.weight = places.score + 14;
  const title = (x, text, anchor = "start") => shape(svg, "text", { x, y: 14, class: "course-heading", "text-anchor": anchor }, text);
  title(places.query, "query q"); title(places.key, "key k"); title(places.product, "q × k, feature by feature");
  title(places.score, "q · k", "end"); title(places.weight, "softmax of q · k / √d");
  const body = shape(svg, "g", { transform: "translate(0 14)" });
  svg.setAttribute("width", places.weight + 150);
  svg.setAttribute("height", 18 + TOP + ROW * Math.max(data.queries, data.keys));
  const largest = most([asks, ...keys]), strongestProduct = most(products), striped = hatch(svg);
  strip(body, asks, places.query, TOP + ROW * chosen, cell, largest, `query of ${model.get("query_labels")[chosen]}`);
  keys.forEach((values, row) => {
    const y = TOP + ROW * row, text = model.get("key_labels")[row], weight = data.weight(head, chosen, row);
    shape(body, "text", { x: places.key - 8, y: y + 15, "text-anchor": "end" }, shorten(text));
    strip(body, values, places.key, y, cell, largest, `key of ${text}`);
    strip(body, products[row], places.product, y, cell, strongestProduct, `product with ${text}`);
    shape(body, "text", { x: places.score, y: y + 15, "text-anchor": "end", class: "course-number" }, dot(asks, values).toFixed(2));
    if (data.isBlocked(head, chosen, row)) {
      shape(body, "rect", { x: places.weight, y: y + 4, width: 90, height: ROW - 8, fill: striped });
      return;
    }
    shape(body, "rect", { x: places.weight, y: y + 4, width: 0.09 * weight, height: ROW - 8, class: "course-bar" });
    shape(body, "text", { x: places.weight + 0.09 * weight + 5, y: y + 15, class: "course-number" }, number(weight));
  });
  tokenColumn(body, model, 0, left, mark);
}

function neuronSentence(model) {
  const data = reader(model), { query, key } = neuronData(model);
  const chosen = Math.max(0, model.get("query")), row = strongest(data, model.get("head"), chosen);
  const products = key(row).map((value, index) => value * query(chosen)[index]);
  const best = products.indexOf(Math.max(...products));
  return `${nameOf(model, model.get("head"))}: “${model.get("query_labels")[chosen]}” (position ${chosen}) attends most to “${model.get("key_labels")[row]}” `
    + `${number(data.weight(model.get("head"), chosen, row))}; feature ${best} adds most to their score, ${products[best].toFixed(2)}. Blue is positive, orange negative.`;
}

function neuronView({ model, el }) {
  const { bar, panel, spoken, set } = frame(model, el, "Query and key vectors of one head. Arrow keys move the query token, Enter pins it, Escape lets go.");
  picker(bar, model, set, "Layer", model.get("layer_names"), "layer");
  picker(bar, model, set, "Head", model.get("head_names"), "head");
  redraw(model, ["layer", "head", "query", "pinned"], () => {
    panel.replaceChildren();
    const box = node("div", { class: "course-head" });
    drawNeurons(shape(box, "svg", { "aria-hidden": "true" }), model);
    panel.append(box);
    spoken.textContent = neuronSentence(model);
  });
}
