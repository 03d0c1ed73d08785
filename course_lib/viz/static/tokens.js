// The tokenizer explorer: a text box, and every tokenizer's pieces as chips, side by side.
// No imports and no requests. Python cuts the text; this file draws what comes back.
//
// The model holds: text, limit (most characters), and rows: one a tokenizer, with
// name, count, bytes_per_token, error (or ""), pieces: [[shown, token, id, is_unknown], …].

const TINTS = 6;

function node(name, attributes = {}, text = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function chip([shown, token, id, isUnknown], position, withIds) {
  const made = node("span", {
    class: `course-chip course-tint-${position % TINTS}` + (isUnknown ? " course-unknown" : ""),
    title: `token ${position}: ${token}\nid ${id}` + (isUnknown ? "\nunknown: not in the vocabulary" : ""),
  });
  made.append(node("span", { class: "course-place" }, withIds ? id : position));
  made.append(node("bdi", {}, (isUnknown ? "? " : "") + shown));
  return made;
}

function tableRow(row, withIds) {
  const made = node("tr");
  made.append(node("th", { scope: "row" }, row.name));
  if (row.error) {
    made.append(node("td", { colspan: 3, class: "course-error" }, row.error));
    return made;
  }
  made.append(node("td", { class: "course-count" }, row.count));
  made.append(node("td", { class: "course-count" }, row.count ? row.bytes_per_token.toFixed(2) : "–"));
  const chips = node("td", { class: "course-chips" });
  row.pieces.forEach((piece, position) => chips.append(chip(piece, position, withIds)));
  if (row.left_out) chips.append(node("span", { class: "course-place" }, `… and ${row.left_out} more`));
  made.append(chips);
  return made;
}

function render({ model, el }) {
  el.classList.add("course-tokens");
  el.setAttribute("data-lm-suppress-shortcuts", "true");
  const label = node("label", { class: "course-label" }, "Text to cut into tokens");
  const box = node("textarea", { rows: 2, maxlength: model.get("limit"), spellcheck: "false", dir: "auto" });
  label.append(box);
  const ids = node("input", { type: "checkbox" });
  const idsLabel = node("label", { class: "course-ids" });
  idsLabel.append(ids, " show ids");
  const table = node("table"), spoken = node("div", { class: "course-hidden", "aria-live": "polite" });
  el.append(label, idsLabel, table, spoken);

  let waiting = null;
  box.value = model.get("text");
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      model.set("text", box.value);
      model.save_changes();
    }, 120);
  });
  const draw = () => {
    const head = node("tr"), body = node("tbody"), top = node("thead");
    for (const name of ["tokenizer", "tokens", "bytes per token", "pieces"]) head.append(node("th", { scope: "col" }, name));
    top.append(head);
    for (const row of model.get("rows")) body.append(tableRow(row, ids.checked));
    table.replaceChildren(top, body);
    spoken.textContent = model.get("rows").map((row) => `${row.name}: ${row.error || `${row.count} tokens`}`).join(", ");
  };
  ids.addEventListener("change", draw);
  model.on("change:rows", draw);
  model.on("change:text", () => { if (box.value !== model.get("text") && document.activeElement !== box) box.value = model.get("text"); });
  draw();
}

export default { render };
