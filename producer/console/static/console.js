// The console works without this file. It adds keys, the reveal button and select-all.
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

for (const button of document.querySelectorAll("[data-reveal]")) {
  button.addEventListener("click", () => {
    const shown = button.closest(".picture").classList.toggle("shown");
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? button.dataset.hide : button.dataset.show;
  });
}

for (const image of document.querySelectorAll(".picture img")) {
  const fail = () => image.closest(".picture").classList.add("missing");
  if (image.complete && !image.naturalWidth) fail();
  image.addEventListener("error", fail);
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

// On a phone the places are a strip; the present one must be in sight.
const here = document.querySelector(".side nav a[aria-current]");
if (here) here.parentElement.scrollLeft = here.offsetLeft - 60;

// A double click must not decide about two pictures.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
