// Many pictures, decided by keys. Where this file is absent, each tile leads to a page of its own.
import { show as showCounts } from "./live.js";
import { Preview } from "./preview.js";
import { Queue } from "./queue.js";
import { Session } from "./session.js";

const shots = document.getElementById("shots");
const form = document.getElementById("grid-form");
const ask = document.getElementById("ask");
const trouble = document.getElementById("trouble");
const { lane, user, most, first, poll } = shots.dataset;
const words = JSON.parse(shots.dataset.words);
const isAudit = lane === "audits";
const verdictOf = { a: isAudit ? "harmless" : "approved", b: isAudit ? "explicit" : "blocked" };
const put = (text, values) => text.replace(/{(\w+)}/g, (_, name) => values[name]);

// -- tiles ----------------------------------------------------------------------------------------

// By upload id, also those that left the page: a refusal brings them back.
const tiles = new Map();
let ahead = []; // Fetched for the next page.
let later = []; // Put off; they come when nothing else is left.
let focused = null;
let anchor = null;
const selected = new Set();

class Tile {
  constructor(li) {
    this.li = li;
    this.link = li.querySelector("a");
    this.picture = li.querySelector("img");
    const { id, seq, sha256 } = li.dataset;
    Object.assign(this, { id, seq, sha256, status: "", shown: false });
    tiles.set(id, this);
  }

  get isOpen() {
    return this.status === "";
  }

  mark(status, text = "", problem = "") {
    if (this.status) this.li.classList.remove(this.status);
    if (status) this.li.classList.add(status);
    this.status = status;
    this.li.classList.toggle("problem", Boolean(problem));
    this.li.querySelector(".mark").textContent = problem || text;
    this.reveal(this.shown);
    if (selected.delete(this)) showSelection();
  }

  reveal(shown) {
    this.shown = shown;
    this.li.querySelector(".picture").classList.toggle("shown", shown);
    if (focused === this) preview.reveal(shown);
  }
}

// Those that are here already stay as they are.
const read = (html) => {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const here = new Set([...open(), ...ahead, ...later].map((tile) => tile.id).concat(queue.ids));
  const lis = [...holder.content.querySelectorAll("li")].filter((li) => !here.has(li.dataset.id));
  for (const li of lis) tiles.get(li.dataset.id)?.li.remove();
  return lis.map((li) => new Tile(li));
};
const onPage = () => [...shots.children].map((li) => tiles.get(li.dataset.id));
const open = () => onPage().filter((tile) => tile.isOpen);
const columns = () => getComputedStyle(shots).gridTemplateColumns.split(" ").length;

function room() {
  const width = columns();
  const tile = shots.firstElementChild;
  const height = tile ? tile.getBoundingClientRect().height + 10 : 160;
  const rows = Math.max(2, Math.ceil((innerHeight - shots.offsetTop) / height));
  return Math.max(Number(first), Math.min(width * rows, Math.floor(most / width) * width));
}

function focus(tile) {
  if (focused) {
    focused.link.tabIndex = -1;
    focused.li.classList.remove("focus");
  }
  focused = tile || null;
  preview.show(focused);
  document.getElementById("actions").disabled = !focused;
  if (!focused) return;
  tile.link.tabIndex = 0;
  tile.li.classList.add("focus");
  tile.link.focus({ preventScroll: true });
  tile.li.scrollIntoView({ block: "nearest" });
}

function place(fresh) {
  const wasDone = !open().length;
  for (const tile of fresh) tile.link.tabIndex = -1;
  shots.append(...fresh.map((tile) => tile.li));
  document.getElementById("nothing").hidden = shots.children.length > 0;
  if (!focused?.li.isConnected || (wasDone && fresh.length)) focus(open()[0] || onPage()[0]);
  progress();
}

// The next one to decide; where none is left, the next page.
function goOn(from) {
  const all = onPage();
  const at = all.indexOf(from);
  const next = [...all.slice(at + 1), ...all.slice(0, at + 1)].find((tile) => tile.isOpen);
  if (next) focus(next);
  else turn();
  if (open().length <= room() / 2 && !ahead.length) news(room());
  progress();
}

async function turn() {
  if (!ahead.length) await news(room());
  if (open().length) return;
  if (!ahead.length && later.length) {
    ahead = later;
    later = [];
    for (const tile of ahead) tile.mark("");
  }
  if (!ahead.length && shots.children.length) return;
  shots.replaceChildren();
  place(ahead.splice(0));
  scrollTo({ top: 0 });
}

// -- the server -----------------------------------------------------------------------------------

async function post(path, fields, items = []) {
  const body = new URLSearchParams(new FormData(form));
  for (const [name, value] of Object.entries(fields)) body.append(name, value ?? "");
  for (const item of items) body.append("item", item);
  return fetch(form.action + path, { method: "POST", body, headers: { accept: "application/json" } });
}

let asking = null;

// Keep what is here, hear what became of it, and get more; one question at a time.
function news(count) {
  asking ??= hear(count).catch(() => {}).finally(() => (asking = null));
  return asking;
}

async function hear(count) {
  const have = [...open(), ...ahead, ...later].map((tile) => tile.id);
  const answer = await post("/tiles", { count }, [...new Set([...have, ...queue.ids])]);
  if (!answer.ok) return;
  const { tiles: html, lost, counts, waiting } = await answer.json();
  showCounts(counts, waiting);
  for (const [id, text] of Object.entries(lost)) {
    const tile = tiles.get(id);
    ahead = ahead.filter((one) => one !== tile);
    later = later.filter((one) => one !== tile);
    if (tile?.isOpen && tile.li.isConnected && !queue.ids.includes(id)) tile.mark("lost", text);
  }
  const fresh = read(html);
  const free = Math.max(0, room() - shots.children.length);
  place(fresh.slice(0, free));
  ahead.push(...fresh.slice(free));
  if ((fresh.length || later.length) && !open().length) turn();
}

const queue = new Queue({
  name: `queue:${user}:${lane}`,
  post: ({ id, verdict, reason, seq, sha256 }) =>
    post("/decide", { upload_id: id, verdict, reason, seq, sha256 }),
  onAnswer: answered,
  onChange(state) {
    trouble.hidden = !state;
    if (state) trouble.querySelector("span").textContent = put(words[state], { n: queue.length });
    trouble.querySelector("a").hidden = state !== "signed_out";
    progress();
  },
});

function answered(entry, status, answer) {
  const tile = tiles.get(entry.id);
  const said = session.decided.find((one) => one.key === entry.key);
  if (tile) tile.seq = answer.seq;
  if (entry.verdict === "undo" && (status === 200 || answer.waits)) {
    if (said) session.end(said, words.undone);
    const isDecidedAgain = queue.entries.some((one) => one.id === entry.id);
    if (answer.tile && !tile?.li.isConnected) place(read(answer.tile));
    else if (!isDecidedAgain) tile?.mark(answer.waits ? "" : "lost", answer.waits ? "" : answer.word);
  } else if (status !== 200) {
    if (said) session.end(said, answer.problem);
    tile?.mark(answer.waits ? "" : "lost", "", answer.problem);
    if (tile && !tile.li.isConnected) place([tile]);
    say(`${entry.id}: ${answer.problem}`);
  } else if (said) {
    session.update(Object.assign(said, { seq: answer.seq }));
  }
}

// -- what a person does ---------------------------------------------------------------------------

const say = (text) => (document.getElementById("said").textContent = text);
const preview = new Preview(document.getElementById("loupe"));
const session = new Session({
  name: `decided:${user}:${lane}`,
  root: document.getElementById("session"),
  words,
  undo: takeBack,
});

function chosen() {
  const found = onPage().filter((tile) => selected.has(tile) && tile.status !== "lost");
  return found.length ? found : focused && focused.status !== "lost" ? [focused] : [];
}

function decide(verdict, these) {
  const waits = verdict === "blocked";
  for (const tile of these.filter((one) => one.status !== verdict)) {
    const key = `${Date.now()}.${Math.random()}`;
    const { id, seq, sha256 } = tile;
    later = later.filter((one) => one !== tile);
    tile.mark(verdict, words[verdict]);
    const picture = tile.picture.getAttribute("src");
    session.add({ key, id, verdict, seq, sha256, at: Date.now(), picture, href: tile.li.dataset.href });
    queue.add({ key, id, verdict, reason: "", seq, sha256, open: waits });
  }
  if (waits) askReason(these.at(-1));
  if (these.length) goOn(these.at(-1));
  say(`${words[verdict]}. ${document.getElementById("progress").textContent}`);
}

function askReason(tile) {
  const bar = document.getElementById("reasons");
  bar.querySelector("p").textContent = put(words.reason_for, { id: tile.id });
  bar.classList.add("asked");
}

function closeReason(reason) {
  document.getElementById("reasons").classList.remove("asked");
  for (const entry of queue.entries.filter((one) => one.open)) {
    const said = session.decided.find((one) => one.key === entry.key);
    if (said && reason) session.update(Object.assign(said, { reason }));
    const tile = tiles.get(entry.id);
    if (tile && reason) tile.mark("blocked", `${words.blocked}: ${words[reason]}`);
  }
  queue.close(reason);
}

function putOff(these) {
  for (const tile of these.filter((one) => one.isOpen)) {
    tile.mark("later", words.later);
    later.push(tile);
  }
  if (these.length) goOn(these.at(-1));
}

function takeBack(one) {
  const said = one || session.last();
  if (!said || isAudit) return closeReason();
  const tile = tiles.get(said.id);
  if (queue.takeBack(said.id)) {
    closeReason();
    session.end(said, words.undone);
    tile?.mark("");
    if (tile && !tile.li.isConnected) place([tile]);
  } else {
    const { key, id, seq, sha256 } = said;
    queue.add({ key, id, verdict: "undo", reason: "", seq, sha256, open: false });
    // Open again at once: the next key may come before the answer.
    tile?.mark("");
  }
  if (tile?.li.isConnected) focus(tile);
  say(`${said.id}: ${words.undone}`);
  progress();
}

// Only what was seen: a picture that has not come yet is left out.
const rest = () => open().filter((tile) => tile.picture.complete && tile.picture.naturalWidth);

function askRest() {
  if (!rest().length) return;
  ask.querySelector("p").textContent = put(words.ask_rest, { n: rest().length });
  ask.showModal();
}

function toggleShown() {
  for (const tile of chosen()) tile.reveal(!tile.shown);
}

function select(tile, { extend, toggle }) {
  const all = onPage();
  if (!extend && !toggle) selected.clear();
  if (!extend) anchor = tile;
  if (toggle && !selected.delete(tile)) selected.add(tile);
  if (extend) {
    const ends = [all.indexOf(anchor ?? focused ?? tile), all.indexOf(tile)].sort((a, b) => a - b);
    selected.clear();
    for (const one of all.slice(Math.max(0, ends[0]), ends[1] + 1)) selected.add(one);
  }
  focus(tile);
  showSelection();
}

function showSelection() {
  for (const tile of onPage()) {
    const isIn = selected.has(tile);
    tile.li.classList.toggle("selected", isIn);
    tile.li.querySelector(".chosen").textContent = isIn ? words.selected : "";
  }
}

function progress() {
  const sent = queue.length ? ` · ${put(words.sending, { n: queue.length })}` : "";
  document.getElementById("progress").textContent = put(words.left, { n: open().length }) + sent;
  const rest = document.querySelector("[data-do=rest]");
  if (rest) rest.disabled = !open().length;
}

// -- keys, buttons, touch -------------------------------------------------------------------------

const actions = {
  a: () => decide(verdictOf.a, chosen()),
  b: () => decide(verdictOf.b, chosen()),
  n: () => putOff(chosen()),
  u: () => takeBack(),
  " ": toggleShown,
  escape: () => (selected.clear(), showSelection()),
  enter: () => focused && location.assign(focused.link.href),
};

function move(event, step) {
  const all = onPage();
  const at = focused ? all.indexOf(focused) : -1;
  const tile = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  if (tile) select(tile, { extend: event.shiftKey });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || ask.open) return;
  if (event.target.closest("input, select, textarea, summary")) return;
  const key = event.key.toLowerCase();
  const isElsewhere = event.target.closest("a, button") && !event.target.closest("#shots");
  if ((key === " " || key === "enter") && (isElsewhere || key === "enter")) {
    if (isElsewhere || event.target.closest("#shots")) return;
  }
  const steps = { arrowleft: -1, arrowright: 1, arrowup: -columns(), arrowdown: columns() };
  const ends = { home: -Infinity, end: Infinity };
  const isReason = document.getElementById("reasons").classList.contains("asked");
  const digit = /^[1-9]$/.test(key) ? Number(key) : 0;
  if (digit && isReason) {
    const button = document.querySelectorAll("#reasons [data-reason]")[digit - 1];
    if (button) closeReason(button.dataset.reason);
  } else if (key !== "shift") {
    if (key !== "u") closeReason(); // A block that is taken back at once was never sent.
    if (key in steps || key in ends) move(event, steps[key] ?? ends[key]);
    else if (digit) onPage()[digit - 1] && select(onPage()[digit - 1], {});
    else if (event.repeat) return;
    else if (key === "a" && event.shiftKey) askRest();
    else if (actions[key]) actions[key]();
    else return;
  }
  event.preventDefault();
});

shots.addEventListener("click", (event) => {
  const li = event.target.closest("li");
  // Enter on a link is a click without a mouse: it opens the picture's own page.
  if (!li || event.detail === 0 || event.detail === 2) return;
  event.preventDefault();
  closeReason();
  select(tiles.get(li.dataset.id), { extend: event.shiftKey, toggle: event.ctrlKey || event.metaKey });
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], [data-reason]");
  if (!button) return;
  if (button.dataset.reason) return closeReason(button.dataset.reason);
  if (button.dataset.do !== "u") closeReason();
  if (button.dataset.do === "rest") askRest();
  else actions[button.dataset.do]();
});

ask.addEventListener("close", () => {
  if (ask.returnValue === "yes") decide(verdictOf.a, rest());
  ask.returnValue = "";
});

addEventListener("beforeunload", (event) => {
  closeReason();
  if (queue.length) event.preventDefault();
});

for (const li of shots.children) new Tile(li);
place([]);
if (queue.length) queue.run();
if (form.elements.csrf) {
  news(room() - shots.children.length);
  setInterval(() => {
    const missing = ahead.length ? 0 : Math.max(0, room() - shots.children.length);
    if (!document.hidden) news(missing);
  }, poll * 1000);
}
