// The word map: every word a point; hover or search one, and see its nearest words.
// No imports and no requests. The same file is a widget's module and the script of the static page.
//
// The model holds: words, places (thousandths across and down, flat), groups (a number each), group_names,
// neighbours and cosines (thousandths; as many a word, flat), axes, and the state: search, word (-1: none), pinned.

const NAMESPACE = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072B2", "#B87A00", "currentColor", "#2E8BBF", "#D55E00", "#00815F", "#B4578C"];
const WIDTH = 560, HEIGHT = 400, MARGIN = 26, MOST_LABELS = 24;

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

// A marker of its own for each group, so that the groups differ without colour.
const MARKS = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z", "M-3.5,-3.5H3.5V3.5H-3.5Z", "M0,-4.5L4,3H-4Z", "M0,-4.8L4,0L0,4.8L-4,0Z",
  "M0,4.5L4,-3H-4Z", "M-1.5,-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
  "M-4.2,-2.8L-2.8,-4.2L0,-1.4L2.8,-4.2L4.2,-2.8L1.4,0L4.2,2.8L2.8,4.2L0,1.4L-2.8,4.2L-4.2,2.8L-1.4,0Z",
];
const mark = (group) => ({ d: MARKS[group % MARKS.length], fill: COLOURS[group % COLOURS.length] });

function legend(names) {
  const list = node("div", { class: "course-legend" });
  names.forEach((name, group) => {
    const entry = node("span");
    const svg = shape(entry, "svg", { class: "course-legend-mark", width: 10, height: 10, viewBox: "-5 -5 10 10" });
    shape(svg, "path", mark(group));
    entry.append(name);
    list.append(entry);
  });
  return list;
}

// Wide characters take two columns, so that a Chinese word gets the room it needs.
const columns = (text) => Array.from(text).reduce((sum, c) => sum + (c.codePointAt(0) > 0x2e7f ? 2 : 1), 0);

const overlaps = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];

function matches(words, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const found = words.map((word, index) => [word.toLowerCase(), index]).filter(([word]) => word.includes(wanted));
  const rank = (word) => (word === wanted ? 0 : word.startsWith(wanted) ? 1 : 2);
  return found.sort((one, other) => rank(one[0]) - rank(other[0]) || one[1] - other[1]).map(([, index]) => index);
}

function render({ model, el }) {
  el.classList.add("course-map");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const words = model.get("words"), places = model.get("places"), count = model.get("neighbours").length / words.length;
  let scale = 1, shift = [0, 0], hovered = -1;
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const chosen = () => (hovered >= 0 ? hovered : model.get("word"));
  const at = (index) => [
    MARGIN + (WIDTH - 2 * MARGIN) * (places[2 * index] / 1000) * scale + shift[0],
    MARGIN + (HEIGHT - 2 * MARGIN) * (places[2 * index + 1] / 1000) * scale + shift[1],
  ];
  const nearest = (index) => Array.from({ length: count }, (_, place) => [
    model.get("neighbours")[count * index + place], model.get("cosines")[count * index + place] / 1000,
  ]);

  const bar = node("div", { class: "course-controls" });
  const label = node("label", {}, "Search ");
  const box = node("input", { type: "search", placeholder: "a word", spellcheck: "false", autocomplete: "off" });
  label.append(box);
  bar.append(label);
  for (const [name, text, factor] of [["zoom in", "+", 1.5], ["zoom out", "−", 1 / 1.5], ["whole map", "whole map", 0]]) {
    const button = node("button", { type: "button", "aria-label": name }, text);
    button.addEventListener("click", () => zoom(factor));
    bar.append(button);
  }
  if (model.get("group_names").length > 1) bar.append(legend(model.get("group_names")));
  const body = node("div", { class: "course-body" }), side = node("div", { class: "course-side" });
  const spoken = node("div", { class: "course-hidden", "aria-live": "polite" });
  const svg = shape(body, "svg", { class: "course-plane", width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    tabindex: 0, role: "img", "aria-label": `A map of ${words.length} words. Search for one, or move through the words with the arrow keys.` });
  body.append(side);
  el.append(bar, body, spoken);

  const links = shape(svg, "g", {}), dots = shape(svg, "g", {}), labels = shape(svg, "g", {});
  const [across, up] = model.get("axes");
  shape(svg, "text", { class: "course-axis", x: WIDTH / 2, y: HEIGHT - 7, "text-anchor": "middle" }, across);
  shape(svg, "text", { class: "course-axis", transform: `translate(13 ${HEIGHT / 2}) rotate(-90)`, "text-anchor": "middle" }, up);
  const points = words.map((word, index) => {
    const point = shape(dots, "path", { ...mark(model.get("groups")[index]), class: "course-point", "data-word": index });
    shape(point, "title", {}, word);
    return point;
  });

  function zoom(factor) {
    const index = chosen(), middle = index >= 0 && factor ? at(index) : [WIDTH / 2, HEIGHT / 2];
    const next = factor ? Math.min(30, Math.max(1, scale * factor)) : 1, ratio = next / scale;
    shift = next === 1 ? [0, 0] : [0, 1].map((axis) => {
      const origin = MARGIN + shift[axis];
      return origin + (middle[axis] - origin) * (1 - ratio) - MARGIN;
    });
    scale = next;
    draw();
  }

  // Beside its point, on the side where no other label is; a label with no room anywhere is left out.
  function write(index, taken, main = false) {
    const [x, y] = at(index), width = (main ? 8 : 6.4) * columns(words[index]), height = main ? 15 : 12;
    const sides = [["start", x + 7, y], ["end", x - 7, y], ["middle", x, y - 12], ["middle", x, y + 13]];
    for (const [anchor, across, down] of sides) {
      const left = across - { start: 0, middle: width / 2, end: width }[anchor];
      const box = [left, down - height / 2, left + width, down + height / 2];
      const inside = box[0] >= 0 && box[2] <= WIDTH && box[1] >= 0 && box[3] <= HEIGHT;
      if (!inside || taken.some((other) => overlaps(box, other))) continue;
      taken.push(box);
      shape(labels, "text", { class: `course-label${main ? " course-main" : ""}`, x: across, y: down + 4,
        "text-anchor": anchor }, words[index]);
      return;
    }
  }

  function draw() {
    const index = chosen(), found = matches(words, model.get("search"));
    const taken = [], near = index >= 0 ? nearest(index) : [], bright = new Set([...found, ...near.map(([word]) => word), index]);
    svg.classList.toggle("course-dim", found.length > 0 || index >= 0);
    points.forEach((point, word) => {
      const [x, y] = at(word);
      point.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      point.classList.toggle("course-match", bright.has(word));
    });
    links.replaceChildren();
    labels.replaceChildren();
    if (index >= 0) {
      const [x1, y1] = at(index);
      shape(labels, "circle", { class: "course-ring", cx: x1, cy: y1, r: 7 });
      write(index, taken, true);
      for (const [word] of near) {
        const [x2, y2] = at(word);
        shape(links, "line", { class: "course-link", x1, y1, x2, y2 });
        write(word, taken);
      }
    } else {
      found.slice(0, MOST_LABELS).forEach((word) => write(word, taken));
    }
    tell(index, near, found);
  }

  function tell(index, near, found) {
    side.replaceChildren();
    if (index < 0) {
      const text = model.get("search").trim();
      const said = !text ? "Hover a word to see its nearest words. A click keeps it."
        : found.length ? `${found.length} of ${words.length} words contain “${text}”. Enter takes the first.`
        : `None of the ${words.length} words contains “${text}”.`;
      side.append(node("p", {}, said));
      spoken.textContent = said;
      return;
    }
    const table = node("table"), body = node("tbody");
    table.append(node("caption", {}, `nearest to “${words[index]}”, by cosine`), body);
    for (const [word, cosine] of near) {
      const row = node("tr"), name = node("td"), value = node("td"), go = node("button", { type: "button" }, words[word]);
      go.addEventListener("click", () => { hovered = -1; set({ word, pinned: true, search: "" }); });
      name.append(go);
      value.append(node("span", { class: "course-bar", style: `width:${Math.max(0, 70 * cosine).toFixed(0)}px` }), cosine.toFixed(2));
      row.append(name, value);
      body.append(row);
    }
    side.append(table);
    if (model.get("pinned")) side.append(node("p", {}, "Kept. Escape or a click beside it lets go."));
    spoken.textContent = `Nearest to ${words[index]}: ${near.map(([word, cosine]) => `${words[word]} ${cosine.toFixed(2)}`).join(", ")}.`;
  }

  let from = null, moved = false;
  svg.addEventListener("pointerover", (event) => {
    const word = event.target.dataset?.word;
    if (word === undefined || from || (model.get("pinned") && model.get("word") >= 0)) return;
    hovered = Number(word);
    draw();
  });
  svg.addEventListener("pointerout", () => { if (hovered >= 0) { hovered = -1; draw(); } });
  svg.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY, ...shift]; moved = false; });
  svg.addEventListener("pointermove", (event) => {
    if (!from) return;
    const step = [event.clientX - from[0], event.clientY - from[1]];
    moved = moved || Math.hypot(...step) > 4;
    if (!moved || scale === 1) return;
    shift = [from[2] + step[0], from[3] + step[1]];
    draw();
  });
  svg.addEventListener("pointerup", (event) => {
    const word = event.target.dataset?.word, wasMoved = moved;
    from = null;
    if (wasMoved) return;
    hovered = -1;
    set(word === undefined ? { word: -1, pinned: false } : { word: Number(word), pinned: true });
  });
  svg.addEventListener("pointerleave", () => { from = null; });

  function move(step) {
    const found = matches(words, model.get("search")), list = found.length ? found : words.map((_, index) => index);
    const place = list.indexOf(model.get("word"));
    const next = place < 0 ? (step > 0 ? 0 : list.length - 1) : Math.min(list.length - 1, Math.max(0, place + step));
    hovered = -1;
    set({ word: list[next], pinned: true });
  }
  el.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.target !== box) Object.assign(steps, { ArrowRight: 1, ArrowLeft: -1 });
    if (event.target !== box && event.target !== svg) return;
    if (event.key in steps) move(steps[event.key]);
    else if (event.key === "Escape") { box.value = ""; hovered = -1; set({ word: -1, pinned: false, search: "" }); }
    else if (event.key === "Enter" && event.target === box && matches(words, box.value).length) {
      hovered = -1;
      set({ search: box.value, word: matches(words, box.value)[0], pinned: true });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  box.addEventListener("input", () => { hovered = -1; set({ search: box.value, word: -1, pinned: false }); });
  model.on("change:search", () => { if (box.value !== model.get("search")) box.value = model.get("search"); draw(); });
  model.on("change:word", draw);
  model.on("change:pinned", draw);
  box.value = model.get("search");
  draw();
}

export default { render };
