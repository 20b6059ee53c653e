// Nodes of the document, made without markup: text that comes from outside is set as text and
// nothing else, so that no name, message or address can become an element.

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element with attributes and children, which are nodes or text. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Makes an element of a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    setAttribute(node, name, value);
  }
  node.append(...children);
  return node;
}

/** Sets an attribute, or removes it if the value is null, undefined or false. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, value);
  }
}

/** Sets the text of a node. One that is unchanged is not touched, so that nothing is read aloud
 * twice and no selection is lost. */
export function setText(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

/** A list of nodes, one for each item. A node stays as long as its item, so that focus and opened
 * parts survive a refresh. `make` returns `{ node, update(item) }`. */
export class KeyedList {
  #parent;
  #keyOf;
  #make;
  #parts = new Map();

  constructor(parent, keyOf, make) {
    this.#parent = parent;
    this.#keyOf = keyOf;
    this.#make = make;
  }

  /** Shows these items, in this order. */
  show(items) {
    const wanted = new Map(items.map((item) => [this.#keyOf(item), item]));
    for (const [key, part] of this.#parts) {
      if (!wanted.has(key)) {
        part.node.remove();
        this.#parts.delete(key);
      }
    }
    let before = null;
    for (const [key, item] of wanted) {
      const part = this.#parts.get(key) ?? this.#made(key, item);
      part.update(item);
      const place = before === null ? this.#parent.firstChild : before.nextSibling;
      if (part.node !== place) {
        this.#parent.insertBefore(part.node, place);
      }
      before = part.node;
    }
  }

  #made(key, item) {
    const part = this.#make(item);
    this.#parts.set(key, part);
    return part;
  }
}
