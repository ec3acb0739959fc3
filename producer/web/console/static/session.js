// What this person decided in this tab, newest first; each can be taken back.

const MOST_KEPT = 1000;

export class Session {
  constructor({ name, root, words, undo }) {
    Object.assign(this, { name, words, undo });
    this.list = root.querySelector("ol");
    this.count = root.querySelector("b");
    this.template = root.querySelector("template");
    this.decided = JSON.parse(sessionStorage.getItem(name) || "[]");
    for (const one of this.decided) this.list.prepend(this.row(one));
    this.show();
  }

  add(one) {
    this.decided = [...this.decided, one].slice(-MOST_KEPT);
    this.list.prepend(this.row(one));
    while (this.list.children.length > MOST_KEPT) this.list.lastElementChild.remove();
    this.show();
  }

  // The newest that stands, or that of one upload.
  last(id) {
    return this.decided.findLast((one) => !one.gone && (!id || one.id === id));
  }

  // Mark one as taken back, or as refused with a text.
  end(one, text) {
    one.gone = text;
    const row = this.rowOf(one);
    if (row) this.mark(row, one);
    this.show();
  }

  update(one) {
    const row = this.rowOf(one);
    if (row) this.mark(row, one);
    this.show();
  }

  rowOf(one) {
    return [...this.list.children].find((row) => row.dataset.key === one.key);
  }

  row(one) {
    const row = this.template.content.firstElementChild.cloneNode(true);
    row.dataset.key = one.key;
    row.querySelector("img").src = one.picture;
    const link = row.querySelector("a");
    link.href = one.href;
    link.textContent = one.id;
    row.querySelector("time").textContent = new Date(one.at).toLocaleTimeString(document.documentElement.lang, { timeStyle: "long" });
    row.querySelector("button").addEventListener("click", () => this.undo(one));
    this.mark(row, one);
    return row;
  }

  mark(row, one) {
    const reason = one.reason ? `: ${this.words[one.reason]}` : "";
    row.querySelector(".badge").textContent = this.words[one.verdict] + reason;
    row.querySelector(".badge").className = `badge ${one.verdict}`;
    row.querySelector(".fate").textContent = one.gone || "";
    row.querySelector("button").hidden = Boolean(one.gone);
  }

  show() {
    this.count.textContent = this.decided.filter((one) => !one.gone).length;
    sessionStorage.setItem(this.name, JSON.stringify(this.decided));
  }
}
