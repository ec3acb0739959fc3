// The console works without this file. It adds keys, local times, the reveal button and select-all.
"use strict";

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const key = event.key.toLowerCase();
  if (key === " " && event.target.closest("button, a, summary, input")) return;
  const target = Array.from(document.querySelectorAll("[data-key]")).find(
    (element) => element.dataset.key === key,
  );
  if (!target || event.repeat) return;
  event.preventDefault();
  if (target.tagName === "INPUT") target.focus();
  else target.click();
});

// Times in the reader's own zone; without this file they are in the server's, which they name.
// Those of long ago say how long, which grows while a page is open, and exactly when on hover.
const zoned = new Intl.DateTimeFormat(document.documentElement.lang, {
  dateStyle: "medium",
  timeStyle: "long",
});
const relative = new Intl.RelativeTimeFormat(document.documentElement.lang);
const UNITS = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(moment) {
  const seconds = Math.max(1, (Date.now() - moment) / 1000);
  // As the server rounds them.
  const [unit, length] = UNITS.find(([, length]) => seconds / length >= 0.85) || UNITS.at(-1);
  return relative.format(-Math.max(1, Math.round(seconds / length)), unit);
}

function localise(element) {
  const text = zoned.format(new Date(element.dateTime));
  if (!("local" in element.dataset)) element.title = text;
  else if (element.textContent !== text) element.textContent = text;
}

for (const element of document.querySelectorAll("time[datetime]")) localise(element);
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (node.nodeType !== Node.ELEMENT_NODE) continue;
    for (const element of node.matches("time") ? [node] : node.querySelectorAll("time[datetime]")) localise(element);
  }
}).observe(document.body, { childList: true, subtree: true });
setInterval(() => {
  for (const element of document.querySelectorAll("time[datetime]:not([data-local])")) element.textContent = ago(new Date(element.dateTime));
}, 30_000);

for (const button of document.querySelectorAll("[data-reveal]")) {
  button.addEventListener("click", () => {
    const shown = button.closest(".picture").classList.toggle("shown");
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? button.dataset.hide : button.dataset.show;
  });
}

const missing = (image) => image.closest?.(".picture")?.classList.add("missing");
for (const image of document.querySelectorAll(".picture img[src]")) {
  if (image.complete && !image.naturalWidth) missing(image);
}
document.addEventListener("error", (event) => missing(event.target), true);
document.addEventListener("load", (event) => event.target.closest?.(".picture")?.classList.remove("missing"), true);

// How pictures are shown changes at once; the server is told for the next page.
for (const choice of document.querySelectorAll("[data-look-choice]")) {
  choice.addEventListener("click", (event) => {
    event.preventDefault();
    document.documentElement.dataset.look = choice.dataset.lookChoice;
    for (const one of choice.parentElement.children) one.removeAttribute("aria-current");
    choice.setAttribute("aria-current", "true");
    // It is told also when the page is left in this moment.
    fetch(choice.href, { redirect: "manual", keepalive: true });
  });
}

for (const form of document.querySelectorAll("form[data-rows]")) {
  const all = form.querySelector("[data-all]");
  const boxes = Array.from(form.querySelectorAll("input[name=item]"));
  const buttons = Array.from(form.querySelectorAll("button[name=what]"));
  const update = () => {
    const count = boxes.filter((box) => box.checked).length;
    for (const button of buttons) button.disabled = count === 0;
    if (all) {
      all.checked = count > 0 && count === boxes.length;
      all.indeterminate = count > 0 && count < boxes.length;
    }
  };
  if (all) {
    all.addEventListener("change", () => {
      for (const box of boxes) box.checked = all.checked;
      update();
    });
  }
  form.addEventListener("change", update);
  update();
}

// On a phone the navigation is a strip; the current page must be in sight.
const here = document.querySelector(".side nav a[aria-current]");
if (here) here.parentElement.scrollLeft = here.offsetLeft - 60;

// Pictures of an open page stay with whoever looks at it; one that went to somebody else says so.
for (const form of document.querySelectorAll("form[data-claims]")) {
  const renew = async () => {
    if (document.hidden) return;
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (!answer.ok) return;
    const { mine } = await answer.json();
    document.getElementById("lost").hidden = mine.includes(form.querySelector("[name=item]").value);
  };
  setInterval(() => renew().catch(() => {}), form.dataset.claims * 1000);
  document.addEventListener("visibilitychange", () => renew().catch(() => {}));
}

// A double click must not decide about two pictures.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
