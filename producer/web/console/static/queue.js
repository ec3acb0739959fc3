// Decisions on their way: in their order, one at a time, kept in this tab until the server answered.

const PAUSES_MS = [500, 1000, 2000, 4000, 8000, 15000];

export class Queue {
  // name: of the place in sessionStorage; post: (entry) => Response;
  // onAnswer(entry, status, answer); onChange(state) with "", "offline" or "signed_out".
  constructor({ name, post, onAnswer, onChange }) {
    Object.assign(this, { name, post, onAnswer, onChange });
    this.entries = JSON.parse(sessionStorage.getItem(name) || "[]");
    for (const entry of this.entries) entry.open = false;
    this.running = false;
    this.failures = 0;
  }

  get length() {
    return this.entries.length;
  }

  get ids() {
    return this.entries.map((entry) => entry.id);
  }

  // An entry {id, verdict, reason, seq, sha256, open}; while it is open, it waits for its reason.
  add(entry) {
    this.entries.push(entry);
    this.save();
    this.run();
  }

  // What was not sent yet is gone as if nobody had pressed a key; false: it is on its way.
  takeBack(id) {
    const at = this.entries.findLastIndex((entry) => entry.id === id);
    if (at < 0 || (at === 0 && this.sending)) return false;
    this.entries.splice(at, 1);
    this.save();
    this.run();
    return true;
  }

  close(reason) {
    for (const entry of this.entries.filter((one) => one.open)) {
      entry.open = false;
      entry.reason = reason || "";
    }
    this.save();
    this.run();
  }

  async run() {
    if (this.running) return;
    this.running = true;
    while (this.entries.length && !this.entries[0].open) {
      const entry = this.entries[0];
      this.sending = true;
      const response = await this.post(entry).catch(() => null);
      this.sending = false;
      const status = response ? response.status : 0;
      if (status === 401 || status === 403) {
        this.onChange("signed_out");
        break;
      }
      const answer = response && (await response.json().catch(() => null));
      if (!answer || status >= 500 || status === 429) {
        this.onChange("offline");
        await new Promise((go) => setTimeout(go, PAUSES_MS[Math.min(this.failures++, 5)]));
        continue;
      }
      this.failures = 0;
      this.entries.shift();
      // What follows about the same picture is about how it stands now.
      for (const later of this.entries) if (later.id === entry.id) later.seq = answer.seq;
      this.save();
      this.onAnswer(entry, status, answer);
      this.onChange("");
    }
    this.running = false;
  }

  save() {
    sessionStorage.setItem(this.name, JSON.stringify(this.entries));
  }
}
