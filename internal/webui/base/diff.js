// The lines by which two texts differ, after Myers, "An O(ND) Difference Algorithm and Its Variations" (1986).

// diff returns [{kind: " " | "+" | "-", line}]. Texts that differ in more than most lines are shown as wholly different.
export function diff(before, after, most = 2000) {
  const a = before === "" ? [] : before.split("\n"), b = after === "" ? [] : after.split("\n");
  const trace = edits(a, b, most);
  if (!trace) return [...a.map((line) => ({kind: "-", line})), ...b.map((line) => ({kind: "+", line}))];
  const out = [];
  let x = a.length, y = b.length;
  for (let d = trace.length - 1; d >= 0; d--) {
    const v = trace[d], k = x - y;
    const down = k === -d || (k !== d && get(v, k - 1) < get(v, k + 1));
    const fromX = d === 0 ? 0 : down ? get(v, k + 1) : get(v, k - 1);
    const fromY = d === 0 ? 0 : fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > fromY && x > 0 && y > 0 && a[x - 1] === b[y - 1]) { out.push({kind: " ", line: a[x - 1]}); x--; y--; }
    if (d === 0) break;
    if (down) out.push({kind: "+", line: b[--y]});
    else out.push({kind: "-", line: a[--x]});
  }
  return out.reverse();
}

const get = (v, k) => v.get(k) ?? -1;

// edits returns for each number of edits how far each diagonal was reached before it, or null if there are too many.
function edits(a, b, most) {
  const v = new Map([[1, 0]]), trace = [];
  for (let d = 0; d <= Math.min(a.length + b.length, most); d++) {
    trace.push(new Map(v));
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && get(v, k - 1) < get(v, k + 1)) ? get(v, k + 1) : get(v, k - 1) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      v.set(k, x);
      if (x >= a.length && x - k >= b.length) return trace;
    }
  }
  return null;
}
