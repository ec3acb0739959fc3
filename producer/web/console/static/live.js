// What waits, in the navigation and in the title, and what changed on the page that is open.
//
// Parts of a page say how they are brought up to date without a jump: `now` are of one size whatever
// they say, `rows` change one by one, by their keys, and of all else it is only said that there is
// something new.

const EVERY_MS = 10_000;
const title = document.title;
const nav = document.querySelector("[data-live]");
const news = document.getElementById("news");

export function show(counts, waiting) {
  for (const element of document.querySelectorAll("[data-count]")) {
    const text = counts[element.dataset.count];
    if (text !== undefined && element.textContent !== text) element.textContent = text;
    if (element.classList.contains("count")) element.classList.toggle("none", text === "0");
  }
  document.title = waiting ? `(${waiting}) ${title}` : title;
}

async function ask() {
  const answer = await fetch(nav.dataset.live, { headers: { accept: "application/json" } });
  if (!answer.ok || answer.redirected) return;
  const { counts, waiting } = await answer.json();
  show(counts, waiting);
}

// -- the page -------------------------------------------------------------------------------------

const parts = (page) => [...page.querySelectorAll("[data-fresh]")];

// Without what scripts have changed, and without times, which only grow.
function plain(element) {
  const copy = element.cloneNode(true);
  for (const time of copy.querySelectorAll("time")) time.replaceWith(time.dateTime);
  for (const picture of copy.querySelectorAll(".picture")) {
    picture.classList.remove("missing", "shown");
  }
  return copy.innerHTML;
}

const differs = (one, other) => plain(one) !== plain(other);

function change(row, fresh) {
  [...row.children].forEach((cell, at) => {
    const other = fresh.children[at];
    if (other && differs(cell, other)) cell.replaceWith(other.cloneNode(true));
  });
}

// Whether there are rows that are not here yet.
function changeRows(part, fresh) {
  const here = new Map([...part.children].map((row) => [row.dataset.key, row]));
  for (const row of fresh.children) {
    if (here.has(row.dataset.key)) change(here.get(row.dataset.key), row);
  }
  const there = new Set([...fresh.children].map((row) => row.dataset.key));
  for (const [key, row] of here) row.classList.toggle("gone", !there.has(key));
  return [...there].some((key) => !here.has(key));
}

function bringUpToDate(page) {
  const known = new Map(parts(document).map((part) => [part.id, part]));
  let isNew = false;
  for (const fresh of parts(page)) {
    const part = known.get(fresh.id);
    const how = fresh.dataset.fresh;
    if (part && how === "rows") isNew = changeRows(part, fresh) || isNew;
    else if (!part || (differs(part, fresh) && how !== "now")) isNew = true;
    else if (differs(part, fresh)) part.replaceChildren(...fresh.cloneNode(true).childNodes);
  }
  news.hidden = !isNew;
}

async function look() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok || answer.redirected) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const counts = [...page.querySelectorAll("[data-count]")];
  show(
    Object.fromEntries(counts.map((one) => [one.dataset.count, one.textContent])),
    Number(page.querySelector("[data-live]").dataset.waiting),
  );
  bringUpToDate(page);
}

if (nav) {
  const waiting = Number(nav.dataset.waiting);
  if (waiting) document.title = `(${waiting}) ${title}`;
  if (!document.getElementById("shots")) {
    const again = parts(document).length ? look : ask;
    const unlessHidden = () => document.hidden || again().catch(() => {});
    setInterval(unlessHidden, EVERY_MS);
    document.addEventListener("visibilitychange", unlessHidden);
    news.querySelector("button").addEventListener("click", () => location.reload());
  }
}
