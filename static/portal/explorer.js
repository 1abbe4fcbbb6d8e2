// Try an operation with a key or the reader's own session; find operations; open the one an address names.
const caller = document.getElementById("caller");
caller.hidden = false;
caller.onsubmit = (event) => event.preventDefault();
const operations = [...document.querySelectorAll(".operation")];

function request(operation, form) {
  let path = operation.dataset.path;
  const query = new URLSearchParams();
  const headers = { Accept: "application/json" };
  for (const input of form.querySelectorAll("input[data-where]")) {
    if (!input.value) continue;
    if (input.dataset.where === "path") path = path.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.dataset.where === "query") query.set(input.name, input.value);
    else headers[input.name] = input.value;
  }
  const key = document.getElementById("key").value.trim();
  const tenant = document.getElementById("tenant").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  else headers["X-CSRFToken"] = caller.querySelector("[name=csrfmiddlewaretoken]").value;
  if (tenant) headers["X-Vivavoce-Tenant"] = tenant;
  const body = form.querySelector("textarea")?.value;
  if (body) headers["Content-Type"] = "application/json";
  return fetch(`${path}${query.size ? `?${query}` : ""}`, { method: operation.dataset.method.toUpperCase(), headers, body, credentials: key ? "omit" : "same-origin" });
}

async function send(operation, form) {
  const output = form.querySelector("output");
  output.textContent = "…";
  const began = performance.now();
  try {
    const answer = await request(operation, form);
    const text = await answer.text();
    const badge = document.createElement("span");
    badge.className = `badge ${answer.ok ? "ok" : "bad"}`;
    badge.textContent = `${answer.status} ${answer.statusText} in ${Math.round(performance.now() - began)} ms`;
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.textContent = pretty(text);
    output.replaceChildren(badge, pre);
  } catch (error) {
    output.textContent = `It could not be sent: ${error.message}`;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

for (const operation of operations) {
  const form = operation.querySelector("form.try");
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    send(operation, form);
  };
}

document.getElementById("find").oninput = ({ target }) => {
  const wanted = target.value.trim().toLowerCase();
  for (const operation of operations) operation.hidden = !operation.querySelector("summary").textContent.toLowerCase().includes(wanted);
  for (const section of document.querySelectorAll(".docs section")) section.hidden = !section.querySelector(".operation:not([hidden])");
};

const open = () => document.getElementById(location.hash.slice(1))?.closest(".operation")?.setAttribute("open", "");
addEventListener("hashchange", open);
open();
