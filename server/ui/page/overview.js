// Members, their health and progress, and charts of the last minutes.
import {h, fill, table} from "./base/dom.js";
import {bytes, count, decode, hex, name, nanos, seconds} from "./base/format.js";
import {Chart} from "./base/chart.js";

const WRITES = ["/etcdserverpb.KV/Put", "/etcdserverpb.KV/DeleteRange", "/etcdserverpb.KV/Txn"];
const READS = ["/etcdserverpb.KV/Range"];

export class Overview {
  constructor() {
    this.before = new Map(); // member id -> its look before
    this.charts = {
      writes: new Chart("Writes / s", count, {help: "Put, DeleteRange and Txn"}),
      reads: new Chart("Reads / s", count, {help: "Range"}),
      fsync: new Chart("Log sync, p99", seconds, {help: "how long the log takes to be on disk"}),
      writeTime: new Chart("Write, p99", seconds),
      readTime: new Chart("Read, p99", seconds),
      size: new Chart("Database in use", bytes),
    };
    this.trouble = h("div");
    this.members = h("div", {class: "panel"});
    this.prefixes = h("div", {class: "two"});
    this.certificates = h("div");
    this.el = h("section", {class: "stack"}, this.trouble, this.members,
      h("div", {class: "charts"}, Object.values(this.charts).map((c) => h("div", {class: "panel"}, c.el))),
      this.prefixes, this.certificates);
  }

  looked(r) {
    const values = Object.fromEntries(Object.keys(this.charts).map((k) => [k, {}]));
    for (const m of r.members) {
      const label = title(m), look = m.look, before = this.before.get(m.id);
      const fresh = look && before && Number(look.started) === Number(before.started) && look.time !== before.time;
      const of = (f) => (fresh ? f(look, before, (Number(look.time) - Number(before.time)) / 1e9) : NaN);
      values.writes[label] = of((a, b, s) => (ended(a, WRITES) - ended(b, WRITES)) / s);
      values.reads[label] = of((a, b, s) => (ended(a, READS) - ended(b, READS)) / s);
      values.writeTime[label] = of((a, b) => quantile(0.99, took(a, WRITES), took(b, WRITES)));
      values.readTime[label] = of((a, b) => quantile(0.99, took(a, READS), took(b, READS)));
      values.fsync[label] = of((a, b) => quantile(0.99, [a.wal_fsync], [b.wal_fsync]));
      values.size[label] = look ? Number(look.store.db_size_in_use || 0) : NaN;
      if (look) this.before.set(m.id, look);
    }
    const now = Date.now() / 1000;
    for (const [k, chart] of Object.entries(this.charts)) chart.push(now, values[k]);
    this.draw(r);
  }

  draw(r) {
    const troubles = new Set(r.members.flatMap((m) => [...(m.look?.errors || []).map((e) => `${title(m)}: ${e}`), m.error && `${title(m)}: ${m.error}`]).filter(Boolean));
    fill(this.trouble, troubles.size > 0 && h("div", {class: "panel trouble"}, [...troubles].map((t) => h("div", {class: "bad"}, t))));
    fill(this.members, h("h2", {}, "Members"), table(columns(r), r.members));
    const seen = r.members.filter((m) => m.look?.prefixes && !m.look.prefixes.hidden);
    fill(this.prefixes, seen.length > 0 && [hottest(seen), biggest(seen)]);
    fill(this.certificates, certificates(r.members));
  }
}

const title = (m) => m.name || hex(m.id);

// methods of a look that are meant.
const methods = (look, names) => (look.methods || []).filter((m) => names.includes(m.name));
const ended = (look, names) => methods(look, names).reduce((n, m) => n + Object.values(m.handled || {}).reduce((a, b) => a + Number(b), 0), 0);
const took = (look, names) => methods(look, names).map((m) => m.durations);

// quantile of what was counted between two looks, in seconds; NaN if nothing was.
function quantile(q, after, before) {
  const sum = (all, i) => all.reduce((n, d) => n + Number(d?.counts?.[i] || 0), 0);
  const bounds = after.find((d) => d?.bounds)?.bounds || [];
  const total = after.reduce((n, d) => n + Number(d?.count || 0), 0) - before.reduce((n, d) => n + Number(d?.count || 0), 0);
  if (!total) return NaN;
  let low = 0, below = 0;
  for (let i = 0; i < bounds.length; i++) {
    const n = sum(after, i) - sum(before, i);
    if (n >= q * total) return low + (bounds[i] - low) * (n > below ? (q * total - below) / (n - below) : 1);
    low = bounds[i];
    below = n;
  }
  return low;
}

function columns(r) {
  const leader = r.members.map((m) => m.look?.raft?.leader).find(Boolean);
  const lead = r.members.find((m) => m.id === leader)?.look;
  const follower = (m) => lead?.raft?.followers?.find((f) => f.id === m.id);
  const at = (f) => (m) => (m.look ? f(m.look, m) : "–");
  return [
    {name: "Member", cell: (m) => [h("b", {}, title(m)), " ", h("span", {class: "quiet mono"}, hex(m.id))]},
    {name: "Role", cell: (m) => h("span", {class: m.id === leader ? "tag good" : "tag"}, m.id === leader ? "leader" : m.is_learner ? "learner" : "follower")},
    {name: "Health", cell: (m) => (m.error ? h("span", {class: "tag bad"}, "no answer") : m.look?.errors?.length ? h("span", {class: "tag bad"}, "trouble") : h("span", {class: "tag good"}, "healthy"))},
    {name: "Version", cell: at((l) => l.member.server_version)},
    {name: "Term", num: true, cell: at((l) => l.raft.term || 0)},
    {name: "Applied", num: true, title: "index of the last entry that was applied", cell: at((l) => l.raft.applied || 0)},
    {name: "Behind", num: true, title: "entries that the leader has and the member's log has not", cell: (m) => (follower(m) && lead ? count(Math.max(0, Number(lead.raft.last_index) - Number(follower(m).match || 0))) : "–")},
    {name: "State", cell: (m) => follower(m)?.state || (m.id === leader ? "leads" : "–")},
    {name: "Round trip", num: true, title: "from the leader", cell: (m) => { const p = lead?.peers?.find((p) => p.id === m.id); return p?.round_trip ? nanos(p.round_trip) : "–"; }},
    {name: "Database", num: true, cell: at((l) => [bytes(l.store.db_size), " ", meter(l.store.db_size_in_use, l.store.db_size_quota)])},
    {name: "Keys", num: true, cell: at((l) => count(l.store.keys))},
    {name: "Watchers", num: true, cell: at((l) => count(l.watches?.watchers))},
    {name: "Leases", num: true, cell: at((l) => count(l.leases))},
    {name: "Clients", num: true, title: "connections", cell: at((l) => count(l.process.connections))},
    {name: "Memory", num: true, cell: at((l) => bytes(l.process.heap_bytes))},
    {name: "Up", num: true, cell: at((l) => nanos(Number(l.time) - Number(l.started)))},
  ];
}

// meter shows how much of the quota is in use.
function meter(used, quota) {
  const part = quota > 0 ? Math.min(1, Number(used || 0) / Number(quota)) : 0;
  return h("svg", {class: "meter", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": `${Math.round(part * 100)} % of the quota`},
    h("rect", {width: Math.max(1, part * 100), height: 10}));
}

const link = (p) => h("a", {href: "#keys/" + encodeURI(name(decode(p.prefix)))}, name(decode(p.prefix)) || "(empty)");

function hottest(members) {
  const sums = new Map();
  for (const m of members) {
    for (const p of m.look.prefixes.hottest || []) {
      const s = sums.get(p.prefix) || {prefix: p.prefix, reads: 0, writes: 0};
      s.reads += p.reads || 0;
      s.writes += p.writes || 0;
      sums.set(p.prefix, s);
    }
  }
  const rows = [...sums.values()].sort((a, b) => b.reads + b.writes - a.reads - a.writes).slice(0, 12);
  return h("div", {class: "panel"}, h("h2", {}, "Hottest prefixes"), table([
    {name: "Prefix", class: "key", cell: link},
    {name: "Reads / s", num: true, cell: (p) => count(p.reads)},
    {name: "Writes / s", num: true, cell: (p) => count(p.writes)},
  ], rows, "No traffic in the last seconds."));
}

function biggest(members) {
  return h("div", {class: "panel"}, h("h2", {}, "Biggest prefixes"), table([
    {name: "Prefix", class: "key", cell: link},
    {name: "Keys", num: true, cell: (p) => count(p.keys)},
    {name: "Bytes", num: true, cell: (p) => bytes(p.bytes)},
  ], members[0].look.prefixes.biggest || [], "No keys."));
}

function certificates(members) {
  const rows = members.flatMap((m) => (m.look?.certificates || []).map((c) => ({...c, member: title(m)})));
  if (!rows.length) return null;
  const left = (c) => Number(c.not_after) / 1e9 - Date.now() / 1000;
  return h("div", {class: "panel"}, h("h2", {}, "Certificates"), table([
    {name: "Member", cell: (c) => c.member},
    {name: "For", cell: (c) => `${c.side}, ${c.what}`},
    {name: "Subject", cell: (c) => c.subject},
    {name: "File", class: "key", cell: (c) => c.file},
    {name: "Ends in", num: true, cell: (c) => h("span", {class: left(c) < 7 * 86400 ? "bad" : left(c) < 30 * 86400 ? "warn" : ""}, left(c) < 0 ? "expired" : seconds(left(c)))},
  ], rows.sort((a, b) => left(a) - left(b))));
}
