// How numbers, times and bytes are written.

export function bytes(n) {
  n = Number(n || 0);
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000) return (n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)) + " " + unit;
    n /= 1000;
  }
  return n.toFixed(1) + " TB";
}

export function count(n) {
  n = Number(n || 0);
  if (!Number.isFinite(n)) return "–";
  if (n >= 1e9) return (n / 1e9).toFixed(2) + " G";
  if (n >= 1e6) return (n / 1e6).toFixed(2) + " M";
  if (n >= 1e4) return (n / 1e3).toFixed(1) + " k";
  return n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
}

// seconds writes a duration given in seconds.
export function seconds(s) {
  if (s === undefined || s === null || Number.isNaN(s)) return "–";
  const a = Math.abs(s);
  if (a < 1e-3) return Math.round(s * 1e6) + " µs";
  if (a < 1) return (s * 1e3).toFixed(a < 0.01 ? 1 : 0) + " ms";
  if (a < 120) return s.toFixed(a < 10 ? 1 : 0) + " s";
  if (a < 7200) return Math.round(s / 60) + " min";
  if (a < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

export const nanos = (n) => seconds(Number(n || 0) / 1e9);

export const hex = (id) => BigInt(id || 0).toString(16);

// decode reads base64.
export function decode(b64) {
  const raw = atob(b64 || "");
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

// encode writes base64 of bytes or text.
export function encode(data) {
  if (typeof data === "string") data = new TextEncoder().encode(data);
  let raw = "";
  for (let i = 0; i < data.length; i += 0x8000) raw += String.fromCharCode(...data.subarray(i, i + 0x8000));
  return btoa(raw);
}

// text is the UTF-8 in bytes, or null if they are not text.
export function text(data) {
  try {
    const s = new TextDecoder("utf-8", {fatal: true}).decode(data);
    return /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.test(s) ? null : s;
  } catch {
    return null;
  }
}

// name writes a key: its text, with what is not printable as \x00.
export function name(data) {
  const s = text(data);
  if (s !== null) return s;
  return Array.from(data, (b) => (b >= 32 && b < 127 && b !== 92 ? String.fromCharCode(b) : "\\x" + b.toString(16).padStart(2, "0"))).join("");
}

// bytesOf reads what name has written.
export function bytesOf(s) {
  const out = [];
  const plain = new TextEncoder();
  for (let i = 0; i < s.length;) {
    const esc = /^\\x([0-9a-f]{2})/i.exec(s.slice(i, i + 4));
    if (esc) { out.push(parseInt(esc[1], 16)); i += 4; continue; }
    const c = String.fromCodePoint(s.codePointAt(i));
    out.push(...plain.encode(c));
    i += c.length;
  }
  return Uint8Array.from(out);
}

// end is the end of the range of all keys with a prefix.
export function end(prefix) {
  for (let i = prefix.length - 1; i >= 0; i--) {
    if (prefix[i] < 255) {
      const out = prefix.slice(0, i + 1);
      out[i]++;
      return out;
    }
  }
  return Uint8Array.of(0);
}

// dump writes bytes as a hex dump.
export function dump(data, most = 64 << 10) {
  const lines = [];
  for (let i = 0; i < Math.min(data.length, most); i += 16) {
    const row = Array.from(data.subarray(i, i + 16));
    lines.push(i.toString(16).padStart(8, "0") + "  " + row.map((b) => b.toString(16).padStart(2, "0")).join(" ").padEnd(48) + " " +
      row.map((b) => (b >= 32 && b < 127 ? String.fromCharCode(b) : "·")).join(""));
  }
  if (data.length > most) lines.push("… " + bytes(data.length) + " in all");
  return lines.join("\n");
}

// pretty is a value as people read it: JSON with indents, text, or a hex dump.
export function pretty(data) {
  const s = text(data);
  if (s === null) return dump(data);
  if (/^\s*[[{]/.test(s)) {
    try { return JSON.stringify(JSON.parse(s), null, 2); } catch { /* it is text */ }
  }
  return s;
}
