// The translation explorer: a text box, its translation, and lines from each word written to those it looked at.
// No imports and no requests. Python translates the text; this file draws what comes back.
//
// The model holds: text, limit (most characters), language, languages: [[code, name], …], and answer:
// { error, written, source: [[word, is_known], …], target: [word, …], weights: per mille, row by row of target }.

const SVG = "http://www.w3.org/2000/svg", LEAST = 50, HEIGHT = 170, BOX = 28, GAP = 10;

function node(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function shape(parent, name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.append(made);
  return made;
}

// The width of a word in pixels: characters of Chinese and Japanese are about twice as wide.
function widthOf(word) {
  return [...word].reduce((sum, character) => sum + (character > "\u2e7f" ? 16 : 9), 0) + 14;
}

function places(words) {
  let x = GAP;
  return words.map((word) => {
    const place = { word, x, width: widthOf(word) };
    x += place.width + GAP;
    return place;
  });
}

function endOf(row) {
  return row.length ? row[row.length - 1].x + row[row.length - 1].width + GAP : 0;
}

function drawWord(svg, place, y, kind) {
  const group = shape(svg, "g", { class: `course-word ${kind}` });
  shape(group, "rect", { x: place.x, y, width: place.width, height: BOX, rx: 4 });
  shape(group, "text", { x: place.x + place.width / 2, y: y + BOX / 2, "text-anchor": "middle", "dominant-baseline": "central" }, place.word);
  return group;
}

function lookedAt(answer, row) {
  const columns = answer.source.length;
  return answer.weights.slice(row * columns, (row + 1) * columns);
}

function sentence(answer, row) {
  const weights = lookedAt(answer, row);
  const best = weights.indexOf(Math.max(...weights));
  return `${answer.target[row]} looks most at ${answer.source[best][0]}, with weight ${(weights[best] / 1000).toFixed(2)}.`;
}

function drawAnswer(box, answer, spoken) {
  const sources = places(answer.source.map(([word]) => word)), targets = places(answer.target);
  const width = Math.max(endOf(sources), endOf(targets), 200);
  const svg = shape(box, "svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": "alignment" });
  const lines = answer.target.map((_, row) => lookedAt(answer, row).flatMap((weight, column) => {
    if (weight < LEAST) return [];
    const from = targets[row], to = sources[column];
    return [shape(svg, "line", {
      class: "course-line", x1: from.x + from.width / 2, y1: HEIGHT - BOX - 4, x2: to.x + to.width / 2, y2: BOX + 4,
      "stroke-width": (1 + weight / 250).toFixed(2), "stroke-opacity": (0.15 + 0.85 * weight / 1000).toFixed(2),
    })];
  }));
  sources.forEach((place, column) => {
    const known = answer.source[column][1];
    const group = drawWord(svg, place, 2, known ? "" : "course-unknown");
    shape(group, "title", {}, known ? place.word : `${place.word}: not in the vocabulary`);
  });
  targets.forEach((place, row) => {
    const group = drawWord(svg, place, HEIGHT - BOX - 2, "course-target");
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", sentence(answer, row));
    const choose = (chosen) => {
      lines.forEach((found, other) => found.forEach((line) => line.classList.toggle("course-faint", chosen && other !== row)));
      spoken.textContent = chosen ? sentence(answer, row) : "Point at a word of the translation to see what it looked at.";
    };
    for (const event of ["mouseenter", "focus"]) group.addEventListener(event, () => choose(true));
    for (const event of ["mouseleave", "blur"]) group.addEventListener(event, () => choose(false));
  });
}

function render({ model, el }) {
  el.classList.add("course-translation");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const label = node("label", { class: "course-label" }, "English");
  const box = node("textarea", { rows: 2, maxlength: model.get("limit"), spellcheck: "false" });
  label.append(box);
  const into = node("label", { class: "course-into" }, "into "), list = node("select");
  for (const [code, name] of model.get("languages")) list.append(node("option", { value: code }, name));
  into.append(list);
  const written = node("output", { class: "course-written", dir: "auto" }), drawing = node("div", { class: "course-drawing" });
  const spoken = node("div", { class: "course-spoken", "aria-live": "polite" });
  el.append(label, into, written, drawing, spoken);

  let waiting = null;
  box.value = model.get("text");
  list.value = model.get("language");
  const send = (name, value) => { model.set(name, value); model.save_changes(); };
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => send("text", box.value), 300);
  });
  list.addEventListener("change", () => send("language", list.value));
  const draw = () => {
    const answer = model.get("answer");
    written.textContent = answer.error || answer.written;
    written.lang = model.get("language");
    drawing.replaceChildren();
    spoken.textContent = "";
    if (answer.error || !answer.target.length) return;
    spoken.textContent = "Point at a word of the translation to see what it looked at.";
    drawAnswer(drawing, answer, spoken);
  };
  model.on("change:answer", draw);
  model.on("change:language", () => { list.value = model.get("language"); });
  model.on("change:text", () => { if (box.value !== model.get("text") && document.activeElement !== box) box.value = model.get("text"); });
  draw();
}

export default { render };
