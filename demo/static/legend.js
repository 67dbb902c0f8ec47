// The names asked, one row each, built of text nodes: a name may hold anything. Value: [{name, colour, share, score, regions}].
const place = element.querySelector(".legend");
const make = (kind, text, name) => {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
};
const percent = (share) => share >= 0.001 ? (100 * share).toFixed(1) + " %" : "< 0.1 %";
const show = () => {
  const rows = Array.isArray(props.value) ? props.value : [];
  place.replaceChildren();
  if (!rows.length) return;
  const head = make("tr");
  for (const text of ["Name", "Area", "Score", "Regions"]) {
    const cell = make("th", text);
    cell.scope = "col";
    head.append(cell);
  }
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  for (const row of rows) {
    const line = make("tr", undefined, row.share ? "" : "absent");
    const name = make("th", undefined, "name");
    name.scope = "row";
    const swatch = make("span", undefined, "swatch");
    if (row.share) swatch.style.backgroundColor = row.colour;
    name.append(swatch, make("span", row.name));
    line.append(name);
    line.append(make("td", row.share ? percent(row.share) : "not found"));
    line.append(make("td", row.share ? row.score.toFixed(2) : ""));
    line.append(make("td", row.share ? String(row.regions) : ""));
    body.append(line);
  }
  place.append(top, body);
};
watch("value", show);
show();
