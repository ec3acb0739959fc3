// The picture in focus, larger: an animation plays, with its frames in a row below it.

const DWELL_MS = 250; // Nothing is fetched for a picture that is only passed.
const LEAST_FRAME_S = 0.02;

export class Preview {
  constructor(root) {
    this.box = root.querySelector(".zoom");
    this.image = root.querySelector(".zoom img");
    this.film = root.querySelector(".zoom canvas");
    this.strip = root.querySelector(".film");
    this.about = root.querySelector(".about");
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  show(tile) {
    clearTimeout(this.dwell);
    clearTimeout(this.next);
    this.tile = tile;
    this.film.hidden = true;
    this.strip.hidden = true;
    this.box.hidden = !tile;
    this.about.replaceChildren();
    if (!tile) return;
    this.image.src = tile.picture.src;
    this.image.alt = tile.id;
    this.reveal(tile.shown);
    this.about.append(tile.li.querySelector(".about").content.cloneNode(true));
    this.dwell = setTimeout(() => this.look(tile), DWELL_MS);
  }

  reveal(shown) {
    for (const part of [this.box, this.strip]) part.classList.toggle("shown", shown);
  }

  async look(tile) {
    const large = new Image();
    large.src = tile.picture.src.replace("?size=small", "");
    large.decode().then(() => {
      if (this.tile === tile) this.image.src = large.src;
    }, () => {});
    const answer = await fetch(large.src.replace("/picture/", "/frames/")).catch(() => null);
    if (!answer || answer.status !== 200) return;
    const lengths = answer.headers.get("avatarmod-durations").split(",").map(Number);
    const row = await createImageBitmap(await answer.blob());
    if (this.tile === tile) this.play(row, lengths);
  }

  play(row, lengths) {
    const side = row.height;
    Object.assign(this.strip, { width: row.width, height: side, hidden: false });
    this.strip.getContext("2d").drawImage(row, 0, 0);
    if (this.still) return;
    Object.assign(this.film, { width: side, height: side, hidden: false });
    const paint = (number) => {
      this.film.getContext("2d").drawImage(row, number * side, 0, side, side, 0, 0, side, side);
      const length = Math.max(lengths[number], LEAST_FRAME_S) * 1000;
      this.next = setTimeout(() => paint((number + 1) % lengths.length), length);
    };
    paint(0);
  }
}
