// Elements without a framework. Text always becomes a text node, so nothing that a user stored is read as HTML.

// h makes an element: h("td", {class: "num", onclick: f}, "text", child, [children]).
export function h(tag, props = {}, ...children) {
  const ns = SVG.has(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const el = document.createElementNS(ns, tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "value") el.value = value;
    else el.setAttribute(name, value === true ? "" : value);
  }
  add(el, children);
  return el;
}

const SVG = new Set(["svg", "path", "line", "g", "circle", "rect", "text"]);

function add(el, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    el.append(child instanceof Node ? child : String(child));
  }
}

// fill replaces what is in an element.
export function fill(el, ...children) {
  el.replaceChildren();
  add(el, children);
  return el;
}

// table makes a table of columns [{name, num, cell(row)}].
export function table(columns, rows, empty = "Nothing here.") {
  const head = h("tr", {}, columns.map((c) => h("th", {class: c.num && "num", title: c.title}, c.name)));
  const body = rows.map((row) =>
    h("tr", {class: row.class}, columns.map((c) => h("td", {class: [c.num && "num", c.class].filter(Boolean).join(" ") || null}, c.cell(row)))));
  if (!rows.length) body.push(h("tr", {}, h("td", {colspan: columns.length, class: "quiet"}, empty)));
  return h("div", {class: "scroll"}, h("table", {}, h("thead", {}, head), h("tbody", {}, body)));
}

// confirm asks in a dialog, and resolves to whether the answer was yes.
export function confirm(question, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", {onclose: () => { dialog.remove(); resolve(dialog.returnValue === "yes"); }},
      h("p", {}, question),
      h("div", {class: "row end"},
        h("button", {type: "button", onclick: () => dialog.close("no")}, "Cancel"),
        h("button", {type: "button", class: "danger", onclick: () => dialog.close("yes")}, yes)));
    document.body.append(dialog);
    dialog.showModal();
  });
}
