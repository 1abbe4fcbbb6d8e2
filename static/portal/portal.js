// Small comforts on pages that work without them: copy buttons, countdowns, times in the reader's zone.
for (const block of document.querySelectorAll(".snippet, .secret")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${block.dataset.name ?? "the key"}`);
  const text = (block.querySelector("code") ?? block).textContent;
  button.onclick = async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  if (block.classList.contains("secret")) block.after(button);
  else block.append(button);
}

const left = (until) => {
  const seconds = Math.max(0, Math.round((until - Date.now()) / 1000));
  const two = (n) => String(n).padStart(2, "0");
  return seconds >= 172800 ? `${Math.floor(seconds / 86400)} days` : `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
};
const clocks = [...document.querySelectorAll("[data-until]")];
const tick = () => clocks.forEach((clock) => (clock.textContent = left(new Date(clock.dataset.until))));
if (clocks.length) {
  tick();
  setInterval(tick, 1000);
}
