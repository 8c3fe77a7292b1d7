// Leases with what is left of them, and the keys that go with them.
import {h, fill, table, confirm} from "./base/dom.js";
import {count, decode, hex, name, seconds} from "./base/format.js";

const MOST = 300; // leases of which the details are asked

export class Leases {
  constructor(app) {
    this.app = app;
    this.el = h("section", {class: "stack"});
  }

  async show() {
    this.stop?.abort();
    const stop = (this.stop = new AbortController());
    try {
      const all = (await this.app.api.post("/v3/lease/leases", {}, stop.signal)).leases || [];
      const rows = [];
      for (const l of all.slice(0, MOST)) {
        rows.push(await this.app.api.post("/v3/lease/timetolive", {ID: l.ID, keys: true}, stop.signal).catch((e) => {
          if (e.name === "AbortError") throw e;
          return {ID: l.ID, error: e.message};
        }));
      }
      rows.sort((a, b) => Number(a.TTL || 0) - Number(b.TTL || 0));
      this.draw(rows, all.length);
    } catch (e) {
      this.app.failed(e);
      if (e.name !== "AbortError") fill(this.el, h("p", {class: "bad"}, e.message));
    }
  }

  hide() { this.stop?.abort(); }

  draw(rows, total) {
    fill(this.el, h("div", {class: "panel"},
      h("div", {class: "row"}, h("h2", {class: "grow"}, total > rows.length ? `${count(rows.length)} of ${count(total)} leases` : `${count(total)} leases`),
        h("button", {onclick: () => this.show()}, "Refresh")),
      table([
        {name: "Lease", class: "key", cell: (l) => hex(l.ID)},
        {name: "Left", num: true, cell: (l) => (l.error ? "–" : Number(l.TTL) < 0 ? "ended" : seconds(Number(l.TTL || 0)))},
        {name: "Granted", num: true, cell: (l) => (l.error ? "–" : seconds(Number(l.grantedTTL || 0)))},
        {name: "Keys", class: "key", cell: (l) => l.error || (l.keys || []).slice(0, 20).map((k) => h("div", {}, h("a", {href: "#keys/" + encodeURI(name(decode(k)))}, name(decode(k)))))
          .concat((l.keys || []).length > 20 ? h("div", {class: "quiet"}, `and ${l.keys.length - 20} more`) : [])},
        {name: "", cell: (l) => this.app.mayChange && h("button", {class: "danger", onclick: () => this.revoke(l)}, "Revoke")},
      ], rows, "No leases.")));
  }

  async revoke(l) {
    const keys = (l.keys || []).length;
    if (!await confirm(`Revoke the lease ${hex(l.ID)}? ${keys} keys are deleted with it.`, "Revoke")) return;
    try {
      await this.app.api.post("/v3/lease/revoke", {ID: l.ID});
    } catch (e) {
      this.app.failed(e);
    }
    this.show();
  }
}
