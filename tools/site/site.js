// Light or dark, the contents on a phone, and the search. The page is complete without any of it.
'use strict';

const root = document.documentElement;
root.classList.add('js');

const stored = () => { try { return localStorage.getItem('theme'); } catch { return null; } };
const isDark = () => root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
if (stored()) root.dataset.theme = stored();

function setUpTheme(button) {
  const label = () => { button.textContent = isDark() ? 'Light' : 'Dark'; button.setAttribute('aria-label', `${button.textContent} theme`); };
  button.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    try { localStorage.setItem('theme', root.dataset.theme); } catch { /* private window: the choice holds for this page */ }
    label();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', label);
  label();
}

function setUpMenu(button, contents) {
  button.addEventListener('click', () => button.setAttribute('aria-expanded', contents.classList.toggle('open')));
  const here = contents.querySelector('[aria-current]');
  if (here) contents.scrollTop = here.offsetTop - contents.clientHeight / 3;
}

// The index is loaded when it is first needed. A script, unlike a fetched file, also loads when pages are opened from disk.
let loading;
const loadIndex = () => loading ??= new Promise((resolve, reject) => {
  const script = Object.assign(document.createElement('script'), {src: 'search-index.js', onload: () => resolve(searchIndex), onerror: reject});
  document.head.append(script);
});

// Every word must occur. A word in a heading counts more than one in the title of the page, and that more than one in the text.
function rank(records, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const points = (record, word) => {
    const heading = record.heading.toLowerCase();
    if (heading === word) return 100;
    if (heading.includes(word)) return 20;
    return (record.page.toLowerCase().includes(word) ? 5 : 0) + Math.min(record.text.toLowerCase().split(word).length - 1, 4);
  };
  const score = record => words.reduce((sum, word) => sum && points(record, word) ? sum + points(record, word) : 0, 1);
  return records.map(record => [score(record), record]).filter(([s]) => s > 0).sort((a, b) => b[0] - a[0]).map(([, record]) => record);
}

// The text around the first word found, with the words marked.
function excerpt(text, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const places = words.map(word => text.toLowerCase().indexOf(word)).filter(place => place >= 0);
  const start = places.length ? text.lastIndexOf(' ', Math.max(0, Math.min(...places) - 50)) + 1 : 0;
  const part = text.slice(start, start + 170).replace(/\S+$/, '\u2026');
  const escaped = words.map(word => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const small = document.createElement('small');
  for (const [i, piece] of part.split(RegExp(`(${escaped.join('|')})`, 'i')).entries())
    small.append(i % 2 ? Object.assign(document.createElement('mark'), {textContent: piece}) : piece);
  return small;
}

function showResults(box, found, query) {
  const list = document.createElement('ol');
  for (const record of found.slice(0, 20)) {
    const link = Object.assign(document.createElement('a'), {href: record.url, textContent: record.heading});
    if (record.page !== record.heading) link.append(` (${record.page})`);
    link.append(excerpt(record.text, query));
    list.append(document.createElement('li'));
    list.lastChild.append(link);
  }
  const count = Object.assign(document.createElement('p'), {textContent: found.length ? `${found.length} sections` : 'Nothing found: try fewer words.'});
  box.replaceChildren(count, list);
  box.hidden = false;
}

function setUpSearch(input, box) {
  const update = async () => {
    const query = input.value.trim();
    if (query.length < 2) { box.hidden = true; return; }
    const records = await loadIndex();
    if (query === input.value.trim()) showResults(box, rank(records, query), query);
  };
  input.addEventListener('input', update);
  input.form.addEventListener('submit', event => { event.preventDefault(); box.querySelector('a')?.click(); });
  document.addEventListener('click', event => { if (event.target !== input && (!box.contains(event.target) || event.target.closest('a'))) box.hidden = true; });
  document.addEventListener('keydown', event => {
    if (event.key === '/' && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { event.preventDefault(); input.focus(); }
    if (event.key === 'Escape') { box.hidden = true; }
  });
}

document.addEventListener('DOMContentLoaded', () => {
  setUpTheme(document.getElementById('site-theme'));
  setUpMenu(document.getElementById('site-menu'), document.getElementById('site-contents'));
  setUpSearch(document.getElementById('site-query'), document.getElementById('site-results'));
});
