(() => {
  'use strict';
  // A button below each figure that saves it as an SVG file of its own: shapes with the styles that they have now, text
  // where the page shows it, and the legend of the panel. The file needs neither the page nor its style sheet.
  const SVG = 'http://www.w3.org/2000/svg', MARGIN = 12, LINE = 18;
  const STYLES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linejoin', 'opacity', 'vector-effect', 'visibility'];
  const make = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const shapes = (from, to) => {
    const style = getComputedStyle(from);
    if (!(from instanceof SVGSVGElement) && !(from instanceof SVGGElement) && from.tagName !== 'a') {
      for (const name of STYLES) if (style.getPropertyValue(name)) to.setAttribute(name, style.getPropertyValue(name));
    }
    for (const name of [...to.attributes].map(attribute => attribute.name)) {
      if (name === 'class' || name === 'tabindex' || name.startsWith('data-')) to.removeAttribute(name);
    }
    [...from.children].forEach((child, i) => shapes(child, to.children[i]));
  };
  const plot = (svg, origin) => {
    const box = svg.getBoundingClientRect(), copy = svg.cloneNode(true);
    shapes(svg, copy);
    const place = { x: box.left - origin.left, y: box.top - origin.top, width: box.width, height: box.height };
    for (const [key, value] of Object.entries(place)) copy.setAttribute(key, value.toFixed(2));
    copy.setAttribute('overflow', getComputedStyle(svg).overflow);
    // A link of the page leads nowhere outside of it.
    for (const link of [...copy.querySelectorAll('a')]) link.replaceWith(...link.childNodes);
    for (const cross of [...copy.querySelectorAll('[visibility=hidden]')]) cross.remove();
    return copy;
  };

  // The lines of text in an element, where they stand: a text is cut where the browser has broken it.
  const lines = (element, origin) => {
    const found = [], walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    let line = null, of = null;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const parent = node.parentElement, style = getComputedStyle(parent);
      if (!node.data.trim() || parent.closest('svg, button') || style.visibility === 'hidden') continue;
      const range = document.createRange();
      if (of !== parent) line = null;
      of = parent;
      for (const word of node.data.matchAll(/\S+/g)) {
        range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
        const box = range.getBoundingClientRect();
        if (!box.width) continue;
        // A name that may be broken is several nodes, without a space between them.
        if (line && Math.abs(line.top - box.top) < 2) { line.words += (word.index ? ' ' : '') + word[0]; continue; }
        line = { words: word[0], top: box.top };
        found.push({ line, x: box.left - origin.left, y: box.top - origin.top + box.height * 0.78, style });
      }
    }
    return found.map(({ line, x, y, style }) => make('text', {
      x: x.toFixed(2), y: y.toFixed(2), fill: style.color, 'font-family': style.fontFamily, 'font-size': style.fontSize,
      'font-weight': style.fontWeight, 'font-style': style.fontStyle,
    }, line.words));
  };
  const swatches = (element, origin) => [...element.querySelectorAll('.sw')].map(swatch => {
    const box = swatch.getBoundingClientRect();
    return make('circle', {
      cx: (box.left - origin.left + box.width / 2).toFixed(2), cy: (box.top - origin.top + box.height / 2).toFixed(2),
      r: (box.width / 2).toFixed(2), fill: getComputedStyle(swatch).backgroundColor,
    });
  });
  const legend = (figure, top) => {
    const list = figure.closest('section').querySelector('.legend');
    if (!list || figure.querySelector('.sw')) return [];
    return [...list.children].flatMap((item, i) => {
      const y = top + i * LINE, style = getComputedStyle(item), name = item.querySelector('a');
      return [
        make('circle', { cx: 6, cy: y - 4, r: 4.5, fill: getComputedStyle(item.querySelector('.sw')).backgroundColor }),
        make('text', { x: 18, y, fill: style.color, 'font-family': style.fontFamily, 'font-size': style.fontSize }, name.title || name.textContent),
      ];
    });
  };

  const drawing = figure => {
    const box = figure.getBoundingClientRect(), origin = { left: box.left, top: box.top };
    const outer = [...figure.querySelectorAll('svg')].filter(svg => !svg.parentElement.closest('svg'));
    const parts = [...outer.map(svg => plot(svg, origin)), ...swatches(figure, origin), ...lines(figure, origin)];
    const button = figure.querySelector('.save'), height = box.height - (button ? button.getBoundingClientRect().height : 0);
    const names = legend(figure, height + LINE), bottom = height + names.length / 2 * LINE + MARGIN;
    const root = make('svg', {
      xmlns: SVG, width: (box.width + 2 * MARGIN).toFixed(0), height: (bottom + MARGIN).toFixed(0),
      viewBox: `${-MARGIN} ${-MARGIN} ${(box.width + 2 * MARGIN).toFixed(2)} ${(bottom + MARGIN).toFixed(2)}`,
    });
    const paper = getComputedStyle(document.body).backgroundColor;
    root.append(make('rect', { x: -MARGIN, y: -MARGIN, width: '100%', height: '100%', fill: paper }), ...parts, ...names);
    return new XMLSerializer().serializeToString(root);
  };

  const sweep = document.querySelector('.kicker b').textContent;
  for (const section of document.querySelectorAll('section')) {
    [...section.querySelectorAll('figure:not(.map)')].forEach((figure, i) => {
      const button = document.createElement('button');
      button.type = 'button'; button.className = 'save'; button.textContent = 'Save as SVG';
      button.addEventListener('click', () => {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(new Blob([drawing(figure)], { type: 'image/svg+xml' }));
        link.download = `${sweep}-${section.id}-${i + 1}.svg`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      });
      figure.append(button);
    });
  }
})();
