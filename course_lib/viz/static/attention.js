// The attention explorer: one panel a head, and one query token at a time.
// No imports and no requests. The same file is a widget's module and the script of the static page.
//
// The model holds: query_labels, key_labels (what to show for each token), shape [layers, heads, queries, keys],
// weights (thousandths, flat, in that order), blocked (1 where the mask forbids, flat, or empty),
// gold (query and key of each link to mark, one after the other),
// head_names, layer_names, and the state: layer, query (-1: none),
// home (the query shown while none is hovered), pinned, view ("lines" or "grid").

const NAMESPACE = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072B2", "#B87A00", "currentColor", "#2E8BBF", "#D55E00", "#00815F", "#B4578C"];
const ROW = 22, TOP = 10, GAP = 62, CELL = 18;
let patterns = 0;

function node(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shape(parent, name, attributes, text = null) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

const number = (thousandths) => (thousandths / 1000).toFixed(3);

// Wide characters take two columns, so that a Chinese token gets the room it needs.
const columns = (text) => Array.from(text).reduce((sum, c) => sum + (c.codePointAt(0) > 0x2e7f ? 2 : 1), 0);

function shorten(text, most = 14) {
  if (columns(text) <= most) return text;
  let kept = "";
  for (const character of text) {
    if (columns(kept + character) >= most) break;
    kept += character;
  }
  return kept + "…";
}

function labelWidth(labels) {
  return 10 + 7.2 * Math.max(...labels.map((text) => columns(shorten(text))));
}

function reader(model) {
  const [, heads, queries, keys] = model.get("shape");
  const weights = model.get("weights"), blocked = model.get("blocked"), gold = model.get("gold") ?? [];
  const place = (head, query, key) => ((model.get("layer") * heads + head) * queries + query) * keys + key;
  return {
    heads, queries, keys,
    weight: (head, query, key) => weights[place(head, query, key)],
    gold: Array.from({ length: gold.length / 2 }, (_, link) => [gold[2 * link], gold[2 * link + 1]]),
    isBlocked: (head, query, key) => blocked.length > 0 && blocked[place(head, query, key)] === 1,
  };
}

function hatch(svg) {
  const id = `course-hatch-${++patterns}`;
  const pattern = shape(shape(svg, "defs", {}), "pattern", {
    id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
  });
  shape(pattern, "rect", { width: 5, height: 5, class: "course-hatch-ground" });
  shape(pattern, "line", { x1: 0, y1: 0, x2: 0, y2: 5, class: "course-hatch-line" });
  return `url(#${id})`;
}

function drawLines(svg, model, head, act) {
  const data = reader(model), chosen = model.get("query"), colour = COLOURS[head % COLOURS.length];
  const left = labelWidth(model.get("query_labels")), right = left + GAP;
  const keyWidth = labelWidth(model.get("key_labels"));
  const middle = (row) => TOP + ROW * row + ROW / 2;
  svg.setAttribute("width", right + keyWidth + 48);
  svg.setAttribute("height", TOP + ROW * Math.max(data.queries, data.keys) + 4);
  const striped = hatch(svg);
  for (let query = 0; query < data.queries; query++) {
    if (chosen >= 0 && chosen !== query) continue;
    for (let key = 0; key < data.keys; key++) {
      const weight = data.weight(head, query, key) / 1000;
      if (weight < 0.002) continue;
      const line = shape(svg, "line", {
        x1: left, y1: middle(query), x2: right, y2: middle(key), stroke: colour, "stroke-linecap": "round",
        "stroke-width": 0.6 + 5.4 * weight, "stroke-opacity": (chosen < 0 ? 0.05 : 0.3) + 0.7 * weight,
      });
      shape(line, "title", {}, `${model.get("query_labels")[query]} → ${model.get("key_labels")[key]}: ${number(1000 * weight)}`);
    }
  }
  for (const [query, key] of data.gold) {
    if (chosen >= 0 && chosen !== query) continue;
    shape(svg, "line", { x1: left, y1: middle(query), x2: right, y2: middle(key), class: "course-gold" });
  }
  for (let key = 0; key < data.keys; key++) {
    const y = TOP + ROW * key;
    if (chosen >= 0) {
      const isBlocked = data.isBlocked(head, chosen, key), weight = data.weight(head, chosen, key);
      if (isBlocked) {
        shape(svg, "rect", { x: right + 1, y: y + 3, width: keyWidth + 44, height: ROW - 6, fill: striped });
      } else {
        shape(svg, "rect", { x: right + 1, y: y + 2, height: ROW - 4, fill: colour, "fill-opacity": 0.22,
          width: (keyWidth + 44) * weight / 1000 });
        shape(svg, "text", { x: right + keyWidth + 4, y: y + 15, class: "course-number" }, number(weight));
      }
    }
    const text = shape(svg, "text", { x: right + 6, y: y + 15 }, shorten(model.get("key_labels")[key]));
    shape(text, "title", {}, model.get("key_labels")[key]);
  }
  for (let query = 0; query < data.queries; query++) {
    const y = TOP + ROW * query;
    const row = shape(svg, "g", { class: "course-query" + (query === chosen ? " course-chosen" : "") });
    shape(row, "rect", { x: 0.5, y: y + 1.5, width: left - 3, height: ROW - 3, rx: 3 });
    shape(row, "text", { x: left - 8, y: y + 15, "text-anchor": "end" }, shorten(model.get("query_labels")[query]));
    act(row, query);
  }
}

function drawGrid(svg, model, head, act) {
  const data = reader(model), chosen = model.get("query");
  const left = labelWidth(model.get("query_labels")), top = labelWidth(model.get("key_labels"));
  svg.setAttribute("width", left + CELL * data.keys + 0.5 * top + 8);
  svg.setAttribute("height", top + CELL * data.queries + 6);
  const striped = hatch(svg);
  for (let key = 0; key < data.keys; key++) {
    const x = left + CELL * key + 12;
    shape(svg, "text", { x, y: top - 6, transform: `rotate(-60 ${x} ${top - 6})` }, shorten(model.get("key_labels")[key]));
  }
  for (let query = 0; query < data.queries; query++) {
    const y = top + CELL * query;
    const row = shape(svg, "g", { class: "course-query" + (query === chosen ? " course-chosen" : "") });
    shape(row, "rect", { x: 0.5, y: y + 0.5, width: left - 3, height: CELL - 1, rx: 3 });
    shape(row, "text", { x: left - 8, y: y + 13, "text-anchor": "end" }, shorten(model.get("query_labels")[query]));
    for (let key = 0; key < data.keys; key++) {
      const weight = data.weight(head, query, key), isBlocked = data.isBlocked(head, query, key);
      const cell = shape(row, "rect", {
        x: left + CELL * key, y, width: CELL, height: CELL, class: "course-cell",
        fill: isBlocked ? striped : `rgb(${[255, 255, 255].map((c, i) => Math.round(c - (c - [8, 48, 107][i]) * weight / 1000))})`,
      });
      const value = isBlocked ? "blocked" : number(weight);
      shape(cell, "title", {}, `${model.get("query_labels")[query]} → ${model.get("key_labels")[key]}: ${value}`);
    }
    act(row, query);
  }
  for (const [query, key] of data.gold) {
    shape(svg, "rect", {
      x: left + CELL * key + 2, y: top + CELL * query + 2, width: CELL - 4, height: CELL - 4, class: "course-gold",
    });
  }
  if (chosen >= 0) {
    shape(svg, "rect", { x: left, y: top + CELL * chosen, width: CELL * data.keys, height: CELL, class: "course-frame" });
  }
}

// What a screen reader hears, and a sighted reader sees below the panels.
function sentence(model) {
  const chosen = model.get("query");
  if (chosen < 0) return "Hover a token on the left, or use the arrow keys, to see what it attends to. Click or press Enter to pin it.";
  const data = reader(model), parts = [];
  for (let head = 0; head < data.heads; head++) {
    let best = 0;
    for (let key = 1; key < data.keys; key++) {
      if (data.weight(head, chosen, key) > data.weight(head, chosen, best)) best = key;
    }
    const weight = data.weight(head, chosen, best);
    parts.push(weight === 0 ? `${model.get("head_names")[head]}: nothing (all blocked)`
      : `${model.get("head_names")[head]}: “${model.get("key_labels")[best]}” ${number(weight)}`);
  }
  const pinned = model.get("pinned") ? ", pinned; Escape lets go" : "";
  return `Query “${model.get("query_labels")[chosen]}” (position ${chosen}${pinned}) attends most to — ${parts.join("; ")}.`;
}

function controls(model, root, set) {
  const bar = node("div", { class: "course-controls" });
  if (model.get("layer_names").length > 1) {
    const label = node("label", {}, "Layer ");
    const list = node("select", { class: "course-layer" });
    model.get("layer_names").forEach((name, index) => list.append(node("option", { value: index }, name)));
    list.value = String(model.get("layer"));
    list.addEventListener("change", () => set({ layer: Number(list.value) }));
    model.on("change:layer", () => { list.value = String(model.get("layer")); });
    label.append(list);
    bar.append(label);
  }
  for (const [view, name] of [["lines", "Lines"], ["grid", "Grid"]]) {
    const button = node("button", { type: "button", class: "course-view" }, name);
    const mark = () => button.setAttribute("aria-pressed", String(model.get("view") === view));
    button.addEventListener("click", () => set({ view }));
    model.on("change:view", mark);
    mark();
    bar.append(button);
  }
  root.append(bar);
}

function onKey(event, model, set) {
  const last = model.get("query_labels").length - 1, chosen = model.get("query");
  const targets = {
    ArrowDown: Math.min(last, chosen + 1), ArrowRight: Math.min(last, chosen + 1),
    ArrowUp: Math.max(0, chosen - 1), ArrowLeft: Math.max(0, chosen - 1), Home: 0, End: last,
  };
  if (event.key in targets) set({ query: targets[event.key], pinned: true });
  else if (event.key === "Enter" || event.key === " ") set({ pinned: chosen >= 0 && !model.get("pinned") });
  else if (event.key === "Escape") set({ query: model.get("home"), pinned: false });
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function render({ model, el }) {
  el.classList.add("course-attention");
  // Without this attribute JupyterLab takes the arrow keys for itself and moves to the next cell.
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const set = (state) => {
    for (const [key, value] of Object.entries(state)) model.set(key, value);
    model.save_changes();
  };
  controls(model, el, set);
  const panels = node("div", {
    class: "course-heads", tabindex: "0", role: "group",
    "aria-label": "Attention heads. Arrow keys move the query token, Enter pins it, Escape lets go.",
  });
  const spoken = node("div", { class: "course-spoken", "aria-live": "polite" });
  el.append(panels, spoken);
  const act = (row, query) => row.setAttribute("data-query", String(query));
  const rowOf = (event) => {
    const row = event.target instanceof Element ? event.target.closest("[data-query]") : null;
    return row ? Number(row.getAttribute("data-query")) : -1;
  };
  const draw = () => {
    panels.replaceChildren();
    const { heads } = reader(model);
    for (let head = 0; head < heads; head++) {
      const panel = node("div", { class: "course-head" });
      panel.append(node("div", { class: "course-title" }, model.get("head_names")[head]));
      const svg = shape(panel, "svg", { "aria-hidden": "true" });
      (model.get("view") === "grid" ? drawGrid : drawLines)(svg, model, head, act);
      panels.append(panel);
    }
    spoken.textContent = sentence(model);
  };
  panels.addEventListener("pointerover", (event) => {
    const query = rowOf(event);
    if (query >= 0 && !model.get("pinned") && query !== model.get("query")) set({ query });
  });
  panels.addEventListener("pointerleave", () => {
    const home = model.get("home");
    if (!model.get("pinned") && model.get("query") !== home) set({ query: home });
  });
  panels.addEventListener("click", (event) => {
    const query = rowOf(event);
    if (query < 0) return;
    const lets = model.get("pinned") && model.get("query") === query;
    set({ query, pinned: !lets });
  });
  panels.addEventListener("keydown", (event) => onKey(event, model, set));
  for (const name of ["layer", "query", "pinned", "view"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
