// The keys as a tree by slashes, a key's value, its history and the differences between revisions.
import {h, fill, table, confirm} from "./base/dom.js";
import {bytes, bytesOf, count, decode, encode, end, hex, name, pretty, text} from "./base/format.js";
import {diff} from "./base/diff.js";

const PAGE = 100; // rows of a list
const HISTORY = 500; // revisions of a key that are shown, the last ones
const SLASH = 47;

export class Keys {
  constructor(app) {
    this.app = app;
    this.search = h("input", {type: "search", placeholder: "prefix", class: "grow mono", "aria-label": "prefix", spellcheck: "false"});
    this.crumbs = h("div", {class: "crumbs mono"});
    this.list = h("div", {class: "list"});
    this.detail = h("div", {class: "panel"});
    this.el = h("section", {class: "stack"},
      h("form", {class: "row", onsubmit: (e) => { e.preventDefault(); location.hash = "#keys/" + encodeURI(this.search.value); }},
        this.search, h("button", {}, "Show")),
      h("div", {class: "browser"}, h("div", {class: "panel"}, this.crumbs, this.list), this.detail));
  }

  show(path) {
    this.search.value = path;
    this.prefix = bytesOf(path);
    this.open(this.prefix, [], this.prefix);
    const key = this.prefix.length && this.prefix[this.prefix.length - 1] !== SLASH ? this.prefix : null;
    if (key) this.look(key, true);
    else fill(this.detail, h("p", {class: "quiet"}, "Choose a key."), this.changes());
  }

  hide() { this.loading?.abort(); }

  // open lists what lies under a prefix, from a place on: parts that end with a slash, and keys.
  async open(prefix, rows, from) {
    this.loading?.abort();
    const stop = (this.loading = new AbortController());
    fill(this.crumbs, crumbs(prefix));
    const base = prefix.lastIndexOf(SLASH) + 1; // names begin behind the last slash
    const last = end(prefix);
    try {
      const at = await this.app.api.post("/v3/kv/range", {key: encode(prefix.length ? prefix : Uint8Array.of(0)), range_end: encode(last), count_only: true}, stop.signal);
      const total = Number(at.count || 0), most = rows.length + PAGE;
      while (from && rows.length < most) {
        const r = await this.app.api.post("/v3/kv/range", {key: encode(from.length ? from : Uint8Array.of(0)), range_end: encode(last), limit: 1, keys_only: true}, stop.signal);
        if (!r.kvs?.length) { from = null; break; }
        const key = decode(r.kvs[0].key), slash = key.indexOf(SLASH, Math.max(base, prefix.length));
        if (slash < 0) {
          rows.push({key, kv: r.kvs[0]});
          from = Uint8Array.from([...key, 0]);
          continue;
        }
        const part = key.slice(0, slash + 1), after = end(part);
        const n = await this.app.api.post("/v3/kv/range", {key: encode(part), range_end: encode(after), count_only: true}, stop.signal);
        rows.push({key: part, count: n.count});
        from = after;
      }
      this.draw(prefix, rows, from, total);
    } catch (e) {
      this.app.failed(e);
      if (e.name !== "AbortError") fill(this.list, h("p", {class: "bad"}, e.message));
    }
  }

  draw(prefix, rows, from, total) {
    const base = prefix.lastIndexOf(SLASH) + 1;
    fill(this.list, table([
      {name: `${count(total)} keys`, class: "key", cell: (r) => (r.kv
        ? h("button", {class: "link", onclick: () => this.look(r.key)}, name(r.key.slice(base)))
        : h("a", {href: "#keys/" + encodeURI(name(r.key))}, name(r.key.slice(base))))},
      {name: "", num: true, cell: (r) => (r.kv ? `revision ${r.kv.mod_revision}` : `${count(r.count)} keys`)},
    ], rows, "No keys."),
    from && h("button", {onclick: () => this.open(prefix, rows, from)}, "More"));
  }

  // look shows a key. What looks like a key in the address may be a prefix only.
  async look(key, maybe) {
    const stop = (this.looking?.abort(), (this.looking = new AbortController()));
    try {
      const r = await this.app.api.post("/v3/kv/range", {key: encode(key)}, stop.signal);
      if (!r.kvs?.length && maybe) { fill(this.detail, h("p", {class: "quiet"}, "Choose a key."), this.changes(key)); return; }
      const kv = r.kvs?.[0];
      const history = h("div", {}, h("p", {class: "quiet"}, "Reading the history…"));
      fill(this.detail, h("div", {class: "row"}, h("span", {class: "title grow"}, name(key)), kv && this.save(key, kv)),
        kv ? [facts(kv), h("pre", {class: "value"}, pretty(decode(kv.value)))] : h("p", {class: "bad"}, "The key is deleted."),
        this.changes(key, kv), h("h2", {class: "history"}, "History"), history);
      fill(history, this.history(await this.read(key, kv, stop)));
    } catch (e) {
      this.app.failed(e);
      if (e.name !== "AbortError") fill(this.detail, h("p", {class: "bad"}, e.message));
    }
  }

  // read returns the events of a key since the last compaction, oldest first, as a watch from there tells them.
  async read(key, kv, stop) {
    const from = Math.max(1, Number(this.app.own?.store?.compact_revision || 0) + 1);
    const until = new AbortController();
    stop.signal.addEventListener("abort", () => until.abort());
    let idle = setTimeout(() => until.abort(), 3000);
    const events = [];
    try {
      for await (const r of this.app.api.stream("/v3/watch", [{create_request: {key: encode(key), start_revision: String(from)}}], until.signal)) {
        clearTimeout(idle);
        idle = setTimeout(() => until.abort(), 1000); // a key that was deleted has no revision to wait for
        if (r.canceled) throw new Error(r.cancel_reason || "the watch was refused");
        events.push(...(r.events || []));
        if (events.length > 2 * HISTORY) events.splice(0, events.length - HISTORY);
        if (kv && events.length && Number(events[events.length - 1].kv.mod_revision) >= Number(kv.mod_revision)) break;
      }
    } catch (e) {
      if (e.name !== "AbortError" || stop.signal.aborted) throw e;
    } finally {
      clearTimeout(idle);
      until.abort();
    }
    return events.slice(-HISTORY);
  }

  // history lists revisions; one that is chosen is compared with the one before it.
  history(events) {
    const shown = h("div");
    const rows = events.map((e, i) => ({...e, i})).reverse();
    const value = (e) => (e && e.type !== "DELETE" ? pretty(decode(e.kv.value)) : "");
    const list = h("div");
    const choose = (chosen) => {
      fill(list, table([
        {name: "Revision", num: true, cell: (e) => h("button", {class: "link", onclick: () => choose(e)}, e.kv.mod_revision)},
        {name: "", cell: (e) => (e.type === "DELETE" ? h("span", {class: "tag bad"}, "deleted") : h("span", {class: "tag"}, `version ${e.kv.version}`))},
        {name: "Size", num: true, cell: (e) => (e.type === "DELETE" ? "" : bytes(decode(e.kv.value).length))},
        {name: "Lease", cell: (e) => (e.kv.lease && e.kv.lease !== "0" ? h("span", {class: "mono"}, hex(e.kv.lease)) : "")},
      ], rows.map((e) => ({...e, class: e.i === chosen?.i ? "chosen" : null})), "Nothing since the last compaction."));
      if (!chosen) return;
      const before = events[chosen.i - 1];
      fill(shown, h("h2", {}, before ? `From revision ${before.kv.mod_revision} to ${chosen.kv.mod_revision}` : `As of revision ${chosen.kv.mod_revision}`),
        h("div", {class: "diff"}, diff(value(before), value(chosen)).map((d) =>
          h("div", {class: {"+": "added", "-": "removed"}[d.kind]}, d.kind + " " + d.line))));
    };
    choose(rows[0]);
    return h("div", {class: "two"}, list, shown);
  }

  // save offers a value as a file, and deletion to who may.
  save(key, kv) {
    const url = URL.createObjectURL(new Blob([decode(kv.value)]));
    const file = name(key).split("/").pop() || "value";
    return [h("a", {href: url, download: file}, "Download"), this.app.mayChange && h("button", {class: "danger", onclick: () => this.remove(key, kv)}, "Delete")];
  }

  // changes is the form by which a user who has signed in writes a key.
  changes(key, kv) {
    if (!this.app.mayChange) return null;
    const old = kv ? text(decode(kv.value)) : "";
    if (old === null) return null; // not text: not edited here
    const at = h("input", {value: key ? name(key) : name(this.prefix || []), class: "mono grow", "aria-label": "key", readonly: Boolean(kv)});
    const value = h("textarea", {value: old, "aria-label": "value", spellcheck: "false"});
    const note = h("span", {class: "bad", role: "alert"});
    const submit = async (e) => {
      e.preventDefault();
      try {
        await this.put(bytesOf(at.value), value.value, kv);
        this.look(bytesOf(at.value));
        this.open(this.prefix, [], this.prefix);
      } catch (e) {
        fill(note, e.message);
        this.app.failed(e);
      }
    };
    return h("details", {class: "edit"}, h("summary", {}, kv ? "Change" : "Write a key"),
      h("form", {onsubmit: submit}, kv ? null : h("div", {class: "row"}, at), value,
        h("div", {class: "row end"}, note, h("button", {class: "main"}, "Write"))));
  }

  // put writes a key, unless somebody else has changed it meanwhile.
  async put(key, value, kv) {
    if (!key.length) throw new Error("The key is empty.");
    const r = await this.app.api.post("/v3/kv/txn", {
      compare: [{key: encode(key), target: "MOD", result: "EQUAL", mod_revision: kv?.mod_revision || "0"}],
      success: [{request_put: {key: encode(key), value: encode(value), ignore_lease: Boolean(kv)}}],
    });
    if (!r.succeeded) throw new Error(kv ? "The key has been changed meanwhile." : "The key is there already.");
  }

  async remove(key, kv) {
    if (!await confirm(`Delete ${name(key)}?`, "Delete")) return;
    try {
      const r = await this.app.api.post("/v3/kv/txn", {
        compare: [{key: encode(key), target: "MOD", result: "EQUAL", mod_revision: kv.mod_revision}],
        success: [{request_delete_range: {key: encode(key)}}],
      });
      if (!r.succeeded) throw new Error("The key has been changed meanwhile.");
      this.look(key);
      this.open(this.prefix, [], this.prefix);
    } catch (e) {
      this.app.failed(e);
    }
  }
}

function facts(kv) {
  const fact = (term, value) => h("div", {}, h("dt", {}, term), h("dd", {}, value));
  return h("dl", {class: "facts"}, fact("Size", bytes(decode(kv.value).length)), fact("Version", kv.version), fact("Created at", kv.create_revision), fact("Changed at", kv.mod_revision),
    kv.lease && kv.lease !== "0" ? fact("Lease", h("a", {href: "#leases", class: "mono"}, hex(kv.lease))) : null);
}

// crumbs leads to each part of a prefix.
function crumbs(prefix) {
  const out = [h("a", {href: "#keys"}, "all keys")];
  let from = 0;
  for (let i = 0; i < prefix.length; i++) {
    if (prefix[i] !== SLASH && i !== prefix.length - 1) continue;
    out.push(from ? "" : " · ", h("a", {href: "#keys/" + encodeURI(name(prefix.slice(0, i + 1)))}, name(prefix.slice(from, i + 1))));
    from = i + 1;
  }
  return out;
}
