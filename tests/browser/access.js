// Judges what is visible just now. Gives a list of complaints.
(() => {
  const complaints = [];
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  // A colour laid over another one, as sRGB bytes.
  function over(top, under) {
    canvas.fillStyle = `rgb(${under})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = top;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  }

  function behind(element) {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
  }

  function luminance(rgb) {
    const [r, g, b] = rgb.map((byte) => (byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(a, b) {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  }

  const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".unseen, .skip");

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !visible(element) || element.matches("option, script, noscript")) continue;
    const ground = behind(element);
    const ratio = contrast(over(getComputedStyle(element).color, ground), ground);
    if (ratio < 4.5) complaints.push(`contrast ${ratio.toFixed(2)}: "${texts.currentNode.data.trim()}"`);
  }
  for (const field of document.querySelectorAll("input[placeholder]")) {
    const ground = behind(field);
    const ratio = contrast(over(getComputedStyle(field, "::placeholder").color, ground), ground);
    if (visible(field) && ratio < 4.5) complaints.push(`contrast ${ratio.toFixed(2)} of a placeholder`);
  }
  for (const control of document.querySelectorAll("button, input, select, a[href]")) {
    if (!visible(control)) continue;
    const { width, height } = control.getBoundingClientRect();
    if (width < 24 || height < 24) complaints.push(`${control.id} is ${width} x ${height}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) complaints.push(`id ${id} twice`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-controls], label[for]")) {
    for (const name of ["aria-labelledby", "aria-controls", "for"]) {
      const id = element.getAttribute(name);
      if (id && !ids.includes(id)) complaints.push(`${name} names ${id}, which is not there`);
    }
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) complaints.push(`${scrollWidth} px of content in ${clientWidth} px`);
  return complaints;
})();
