// The conversation as it is said: one line an item, growing while it is spoken, cut where it was interrupted.
const NAMES = { user: "You", assistant: "Agent", tool: "Tool" };

export class Captions {
  constructor(list) {
    this.list = list;
    this.lines = new Map();
  }
  line(id, role) {
    let row = this.lines.get(id);
    if (!row) {
      row = document.createElement("li");
      row.className = role;
      const who = document.createElement("b");
      who.textContent = NAMES[role] ?? role;
      row.append(who, document.createElement("span"));
      this.list.append(row);
      this.lines.set(id, row);
    }
    return row;
  }
  set(id, role, text) {
    const row = this.line(id, role);
    row.querySelector("span").textContent = text;
    row.scrollIntoView({ block: "nearest" });
  }
  add(id, role, text) {
    const row = this.line(id, role);
    if (row.dataset.interim !== "0" && role === "user") row.querySelector("span").textContent = "";
    row.dataset.interim = "0";
    row.querySelector("span").append(text);
    row.scrollIntoView({ block: "nearest" });
  }
  // What was heard of an item that was interrupted, as the server keeps it.
  cut(id, text) {
    const row = this.lines.get(id);
    if (!row) return;
    row.classList.add("cut");
    row.querySelector("span").textContent = text;
    if (!row.querySelector("small")) {
      const note = document.createElement("small");
      note.textContent = "you interrupted here";
      row.append(note);
    }
  }
  // A function the agent calls: in a product your program answers; here the person does.
  call(id, name, args, answer) {
    const row = this.line(id, "tool");
    row.querySelector("span").textContent = `${name}(${args})`;
    const form = document.createElement("form");
    form.className = "inline";
    const input = document.createElement("input");
    input.value = '{"ok": true}';
    input.setAttribute("aria-label", `What ${name} answers`);
    const button = document.createElement("button");
    button.className = "small";
    button.textContent = "Answer";
    form.append(input, button);
    form.onsubmit = (event) => {
      event.preventDefault();
      form.replaceWith(` → ${input.value}`);
      answer(input.value);
    };
    row.append(form);
    row.scrollIntoView({ block: "nearest" });
  }
}
