// How many watch what on each member, and a watch of one's own.
import {h, fill, table} from "./base/dom.js";
import {bytes, bytesOf, count, decode, encode, end, hex, name, pretty} from "./base/format.js";

const MOST = 300; // events that are shown, the last ones

export class Watches {
  constructor(app) {
    this.app = app;
    this.members = h("div", {class: "panel"});
    this.prefix = h("input", {type: "search", placeholder: "prefix; empty: all keys", class: "grow mono", "aria-label": "prefix to watch", spellcheck: "false"});
    this.button = h("button", {class: "main"}, "Watch");
    this.note = h("p", {class: "quiet", role: "status"}, "Events appear here as they happen.");
    this.list = h("div");
    this.el = h("section", {class: "stack"}, this.members, h("div", {class: "panel"}, h("h2", {}, "Live"),
      h("form", {class: "row", onsubmit: (e) => { e.preventDefault(); this.stop ? this.end() : this.watch(); }}, this.prefix, this.button),
      this.note, this.list));
  }

  looked(r) {
    const of = (f) => (m) => (m.look ? count(f(m.look.watches || {})) : "–");
    fill(this.members, h("h2", {}, "Watches on each member"), table([
      {name: "Member", cell: (m) => m.name || hex(m.id)},
      {name: "Streams", num: true, cell: of((w) => w.streams)},
      {name: "Watchers", num: true, cell: of((w) => w.watchers)},
      {name: "Behind", num: true, title: "watchers that read history", cell: of((w) => w.slow_watchers)},
      {name: "Pending events", num: true, cell: of((w) => w.pending_events)},
    ], r.members));
  }

  hide() { this.end(); }

  end() {
    this.stop?.abort();
    this.stop = null;
    fill(this.button, "Watch");
  }

  async watch() {
    const stop = (this.stop = new AbortController());
    const prefix = bytesOf(this.prefix.value);
    const rows = [];
    fill(this.button, "Stop");
    fill(this.list);
    fill(this.note, "Asking…");
    try {
      const create = {key: encode(prefix.length ? prefix : Uint8Array.of(0)), range_end: encode(end(prefix))};
      for await (const r of this.app.api.stream("/v3/watch", [{create_request: create}], stop.signal)) {
        if (r.canceled) throw new Error(r.cancel_reason || "the watch was refused");
        if (r.created) fill(this.note, `Watching since revision ${r.header.revision || 0}.`);
        rows.unshift(...(r.events || []).reverse());
        rows.splice(MOST);
        if (rows.length) this.draw(rows);
      }
      fill(this.note, "The stream has ended.");
    } catch (e) {
      if (e.name !== "AbortError") fill(this.note, e.message);
      else fill(this.note, "Stopped.");
    }
    if (this.stop === stop) this.end();
  }

  draw(rows) {
    fill(this.list, table([
      {name: "Revision", num: true, cell: (e) => e.kv.mod_revision},
      {name: "", cell: (e) => (e.type === "DELETE" ? h("span", {class: "tag bad"}, "delete") : h("span", {class: "tag"}, e.kv.version === "1" ? "create" : "put"))},
      {name: "Key", class: "key", cell: (e) => h("a", {href: "#keys/" + encodeURI(name(decode(e.kv.key)))}, name(decode(e.kv.key)))},
      {name: "Value", class: "key", cell: (e) => { const v = decode(e.kv.value); return pretty(v.subarray(0, 200)).slice(0, 200) + (v.length > 200 ? ` … ${bytes(v.length)}` : ""); }},
    ], rows));
  }
}
