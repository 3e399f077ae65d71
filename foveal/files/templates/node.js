"use strict";
/* An element with attributes, handlers (onclick, ...) and children: text is never read as HTML. */
function node(name, attributes, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) one[key] = value; else if (value !== null) one.setAttribute(key, value);
  }
  one.append(...children);
  return one;
}
