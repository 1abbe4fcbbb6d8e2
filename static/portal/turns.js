// Waterfalls of the turns, newest first, and their median.
const KEPT = 20;
const totals = [];

function row(name, ms, before, total, inside = false) {
  const tr = document.createElement("tr");
  if (inside) tr.className = "inside";
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name.replaceAll("_", " ") + (inside ? " (meanwhile)" : "");
  const track = document.createElement("td");
  track.className = "track";
  const bar = document.createElement("span");
  bar.style.setProperty("--left", `${(before / total) * 100}%`);
  bar.style.setProperty("--width", `${(ms / total) * 100}%`);
  track.append(bar);
  const cell = document.createElement("td");
  cell.className = "ms";
  cell.textContent = `${ms.toFixed(1)} ms`;
  tr.append(head, track, cell);
  return tr;
}

export function showTurn(list, summary, { segments, overlapped = [], first_audio_ms: first }) {
  const total = segments.reduce((sum, s) => sum + s.ms, 0) || 1;
  const ms = first ?? total;
  totals.push(ms);
  const sorted = [...totals].sort((a, b) => a - b);
  summary.textContent = `${totals.length} ${totals.length === 1 ? "turn" : "turns"}, median ${sorted[Math.floor(sorted.length / 2)].toFixed(0)} ms from the end of your words to the first sound`;
  const box = document.createElement("details");
  box.className = "waterfall";
  box.open = true;
  const title = document.createElement("summary");
  title.textContent = `Turn ${totals.length}: ${ms.toFixed(0)} ms`;
  const body = document.createElement("tbody");
  let before = 0;
  for (const segment of segments) {
    body.append(row(segment.name, segment.ms, before, total));
    if (segment === segments[0]) {
      let inside = 0;
      for (const done of overlapped) {
        body.append(row(done.name, done.ms, inside, total, true));
        inside += done.ms;
      }
    }
    before += segment.ms;
  }
  const table = document.createElement("table");
  table.append(body);
  box.append(title, table);
  for (const older of list.querySelectorAll("details")) older.open = false;
  list.prepend(box);
  while (list.children.length > KEPT) list.lastChild.remove();
}
