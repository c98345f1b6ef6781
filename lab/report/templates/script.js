(() => {
  'use strict';
  const root = document.documentElement, all = (selector, within = document) => [...within.querySelectorAll(selector)];
  root.classList.add('js');

  const remembered = () => { try { return localStorage.getItem('lab-report-theme'); } catch { return null; } };
  const remember = theme => { try { localStorage.setItem('lab-report-theme', theme); } catch { /* not allowed to */ } };
  if (remembered()) root.dataset.theme = remembered();
  document.getElementById('theme').addEventListener('click', () => {
    const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
    root.dataset.theme = dark ? 'light' : 'dark';
    remember(root.dataset.theme);
  });

  for (const tabs of all('.tabs')) {
    const buttons = [...tabs.firstElementChild.children], panes = [...tabs.children].slice(1);
    const show = chosen => buttons.forEach((button, i) => {
      button.setAttribute('aria-selected', i === chosen);
      button.tabIndex = i === chosen ? 0 : -1;
      panes[i].hidden = i !== chosen;
    });
    buttons.forEach((button, i) => {
      button.addEventListener('click', () => show(i));
      button.addEventListener('keydown', event => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) { const next = (i + step + buttons.length) % buttons.length; show(next); buttons[next].focus(); }
      });
    });
    show(0);
  }

  // The target of a link may be in a collapsed list of runs.
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let e = target; e; e = e.parentElement) if (e.tagName === 'DETAILS') e.open = true;
    target.scrollIntoView();
  };
  addEventListener('hashchange', reveal);
  reveal();

  const tip = document.getElementById('tip');
  const place = event => {
    const { width, height } = tip.getBoundingClientRect();
    const right = event.clientX + 16 + width < innerWidth - 8;
    tip.style.left = `${Math.max(8, right ? event.clientX + 16 : event.clientX - 16 - width)}px`;
    tip.style.top = `${Math.max(8, Math.min(event.clientY - height / 2, innerHeight - height - 8))}px`;
  };
  const hide = () => { tip.hidden = true; };

  const axis = text => {
    const [low, high, kind] = text.split(' '), [a, b] = [Number(low), Number(high)];
    return share => kind === 'log' ? a * (b / a) ** share : a + (b - a) * share;
  };
  const formatted = value => {
    const size = Math.abs(value);
    if (size >= 1e4) {
      const power = Math.min(6, Math.floor(Math.log10(size) / 3));
      return (value / 1000 ** power).toPrecision(3) + ['', 'k', 'M', 'G', 'T', 'P', 'E'][power];
    }
    return (size === 0 ? '0' : size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(5)))).replace('-', '−');
  };
  const points = element => (element.getAttribute('points') || '').split(' ').filter(Boolean).map(pair => pair.split(',').map(Number));
  const nearest = (list, x) => {
    let low = 0, high = list.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (list[middle][0] < x) low = middle; else high = middle; }
    return Math.abs(list[low][0] - x) <= Math.abs(list[high][0] - x) ? list[low] : list[high];
  };

  for (const plot of all('.plot')) {
    let lines = null;
    const cross = plot.querySelector('.cross');
    const load = () => all('g.c', plot).map(g => {
      const band = g.querySelector('polygon'), edge = band ? points(band) : [];
      return { slot: g.dataset.s, name: g.dataset.n, detail: g.dataset.d, line: points(g.querySelector('polyline')), edge };
    }).filter(series => series.line.length);
    const scaleX = axis(plot.dataset.x), scaleY = axis(plot.dataset.y), value = y => scaleY(1 - y / 10000);
    plot.addEventListener('pointermove', event => {
      if (event.target.closest('[data-t]')) { cross.style.visibility = 'hidden'; return; }
      lines = lines || load();
      if (!lines.length) { hide(); return; }
      const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * 10000;
      let at = null;
      const rows = lines.map(series => {
        const first = series.line[0][0], last = series.line[series.line.length - 1][0];
        if (x < first - 150 || x > last + 150) return null;
        const point = nearest(series.line, x), half = series.edge.length / 2;
        let between = '';
        if (half) {
          const top = nearest(series.edge.slice(0, half), point[0]), bottom = nearest(series.edge.slice(half).reverse(), point[0]);
          between = ` [${formatted(value(bottom[1]))}, ${formatted(value(top[1]))}]`;
        }
        if (at === null || Math.abs(point[0] - x) < Math.abs(at - x)) at = point[0];
        return { series, y: point[1], text: formatted(value(point[1])) + between };
      }).filter(Boolean).sort((a, b) => a.y - b.y);
      if (at === null) { hide(); cross.style.visibility = 'hidden'; return; }
      cross.setAttribute('x1', `${at / 100}%`); cross.setAttribute('x2', `${at / 100}%`);
      cross.style.visibility = 'visible';
      const head = document.createElement('b');
      head.textContent = `${plot.dataset.xt} ${formatted(scaleX(at / 10000))}`;
      tip.replaceChildren(head, ...rows.map(({ series, text }) => {
        const row = document.createElement('div'), name = document.createElement('span'), spot = document.createElement('i'), number = document.createElement('span');
        spot.className = `sw b${series.slot}`; name.className = 'tn'; number.className = 'tv';
        name.append(spot, series.detail ? `${series.name} (${series.detail})` : series.name);
        number.textContent = text;
        row.append(name, number);
        return row;
      }));
      tip.hidden = false;
      place(event);
    });
    plot.addEventListener('pointerleave', () => { hide(); cross.style.visibility = 'hidden'; });
  }

  document.addEventListener('pointerover', event => {
    const spot = event.target.closest && event.target.closest('[data-t]');
    if (!spot) return;
    tip.textContent = spot.dataset.t;
    tip.hidden = false;
    place(event);
  });
  document.addEventListener('pointerout', event => { if (event.target.closest && event.target.closest('[data-t]')) hide(); });

  for (const picture of all('.map img')) picture.addEventListener('click', () => picture.closest('.map').classList.toggle('large'));

  for (const item of all('.legend li')) {
    const section = item.closest('section');
    item.addEventListener('pointerenter', () => {
      section.classList.add('hot');
      all('.c', section).forEach(mark => mark.classList.toggle('on', mark.dataset.s === item.dataset.s));
    });
    item.addEventListener('pointerleave', () => section.classList.remove('hot'));
  }
})();
