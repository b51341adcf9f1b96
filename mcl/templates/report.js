'use strict';
(() => {
  const at = id => document.getElementById(id);
  const album = JSON.parse(at('album').textContent);
  const canvas = at('map'), hint = at('hint'), which = at('which');
  const named = cluster => cluster < 0 ? 'outliers' : `cluster ${cluster}`;
  const thumbnail = i => 'data:image/jpeg;base64,' + album.thumbnails[i];
  let chosen = -1;

  function colour(cluster) {
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    return cluster < 0 ? '#999' : `hsl(${cluster * 137.508 % 360} 65% ${dark ? 65 : 42}%)`;
  }

  // --- the map: points are kept in 0..1 of the canvas
  const margin = 0.03;
  const placed = i => [album.x[i], album.y[i]].map(v => (margin + (1 - 2 * margin) * v) * canvas.clientWidth);

  function draw() {
    const scale = window.devicePixelRatio || 1, side = canvas.clientWidth;
    canvas.width = canvas.height = Math.round(side * scale);
    const pen = canvas.getContext('2d');
    pen.scale(scale, scale);
    const dot = (i, radius) => {
      const [x, y] = placed(i);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      return pen;
    };
    album.clusters.forEach((cluster, i) => {
      pen.fillStyle = colour(cluster);
      dot(i, cluster < 0 ? 2 : 3.5).fill();
    });
    if (chosen < 0) return;
    pen.strokeStyle = getComputedStyle(document.body).color;
    pen.lineWidth = 1.5;
    album.near[chosen].forEach(i => dot(i, 6).stroke());
    pen.lineWidth = 3;
    dot(chosen, 8).stroke();
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, least = 14 ** 2;
    album.names.forEach((_, i) => {
      const [x, y] = placed(i);
      const away = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (away < least) [best, least] = [i, away];
    });
    return best;
  }

  // --- pictures one can press
  function press(i, text) {
    const button = document.createElement('button'), image = new Image();
    button.type = 'button';
    button.title = album.names[i];
    button.classList.toggle('chosen', i === chosen);
    image.alt = album.names[i];
    image.src = thumbnail(i);
    button.append(image, text);
    button.onclick = () => choose(i);
    return button;
  }

  function choose(i) {
    chosen = i;
    const image = new Image(), words = document.createElement('p');
    image.src = thumbnail(i);
    image.alt = album.names[i];
    const fit = album.silhouettes[i] === null ? '' : `, silhouette ${album.silhouettes[i].toFixed(2)}`;
    words.textContent = `${album.names[i]}: ${album.clusters[i] < 0 ? 'an outlier' : named(album.clusters[i])}${fit}`;
    at('crop').replaceChildren(image, words);
    at('near').replaceChildren(...album.near[i].map((j, rank) => press(j, album.similarities[i][rank].toFixed(2))));
    open(album.clusters[i]);
    draw();
  }

  function open(cluster) {
    which.value = cluster;
    const members = album.clusters.flatMap((c, i) => c === cluster ? [i] : []);
    at('sheet').replaceChildren(...members.map(i => press(i, '')));
    at('before').disabled = which.selectedIndex <= 0;
    at('after').disabled = which.selectedIndex >= which.length - 1;
  }

  for (const [cluster, images] of album.sheets) {
    const held = album.clusters.filter(c => c === cluster).length;
    which.append(new Option(`${named(cluster)}: ${held} of ${images} images`, cluster));
  }
  which.onchange = () => open(Number(which.value));
  for (const [id, step] of [['before', -1], ['after', 1]])
    at(id).onclick = () => { which.selectedIndex += step; open(Number(which.value)); };
  canvas.onclick = event => { const i = under(event); if (i >= 0) choose(i); };
  canvas.onmouseleave = () => { hint.hidden = true; };
  canvas.onmousemove = event => {
    const i = under(event);
    hint.hidden = i < 0;
    if (i < 0) return;
    const [x, y] = placed(i);
    hint.src = thumbnail(i);
    hint.style.left = `${Math.min(x + 12, canvas.clientWidth - 80)}px`;
    hint.style.top = `${Math.min(y + 12, canvas.clientWidth - 100)}px`;
  };
  new ResizeObserver(draw).observe(canvas);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
  if (album.names.length) choose(0);
})();
