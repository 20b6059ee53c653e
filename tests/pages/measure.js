// Returns what is wrong with the visible page, in words. arguments[0]: it is on a phone.

const problems = [];
const isShown = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
const named = (node) => `${node.tagName.toLowerCase()}#${node.id} "${node.textContent.trim().slice(0, 40)}"`;

if (document.documentElement.scrollWidth > innerWidth) {
  problems.push(`the page is ${document.documentElement.scrollWidth} wide, and the window ${innerWidth}`);
}
if (!document.documentElement.lang) {
  problems.push("the page has no language");
}
if (document.querySelectorAll("h1").length !== 1) {
  problems.push("the page has not one main heading");
}
for (const [id, count] of Object.entries(Object.groupBy(document.querySelectorAll("[id]"), (node) => node.id))) {
  if (count.length > 1) {
    problems.push(`the id ${id} is there ${count.length} times`);
  }
}

for (const node of document.querySelectorAll("button, input, select, summary, a[href], textarea")) {
  if (!isShown(node) || node.matches(".skip, .unseen")) {
    continue;
  }
  const labels = [...(node.labels ?? [])].map((label) => label.textContent);
  const words = [node.getAttribute("aria-label"), node.textContent, ...labels].join("").trim();
  if (words === "" && !node.getAttribute("aria-labelledby")) {
    problems.push(`${named(node)} has no name`);
  }
  const label = node.labels?.[0];
  const box = (node.matches("[type=checkbox], [type=radio]") && label ? label : node).getBoundingClientRect();
  if (arguments[0] && (box.height < 44 || box.width < 44)) {
    problems.push(`${named(node)} is ${box.width} x ${box.height}: too small for a finger`);
  }
}

const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
function rgba(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function ground(node) {
  for (let at = node; at; at = at.parentElement) {
    const color = rgba(getComputedStyle(at).backgroundColor);
    if (color[3] > 0.99) {
      return color;
    }
  }
  return [255, 255, 255, 1];
}
function light([r, g, b]) {
  const parts = [r, g, b].map((part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const isText = walker.currentNode.textContent.trim() !== "";
  if (!isText || seen.has(node) || !isShown(node) || node.closest(".unseen, .skip, :disabled, [aria-disabled=true]")) {
    continue;
  }
  seen.add(node);
  const style = getComputedStyle(node);
  const [one, two] = [light(rgba(style.color)), light(ground(node))];
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const size = parseFloat(style.fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (isLarge ? 3 : 4.5)) {
    problems.push(`${named(node)} has a contrast of ${ratio.toFixed(2)}`);
  }
}
return problems;
