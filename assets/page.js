// What the page does in the browser itself: keep race and tab in the address, forms filled and what is open open,
// enlarge pictures.
window.playground = {
  // A random id of this browser, under which the server keeps its index; without storage, of this page.
  visitor() {
    const name = 'playground-visitor';
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const fresh = Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
    try {
      const kept = window.localStorage.getItem(name);
      if (/^[0-9a-f]{32}$/.test(kept || '')) return kept;
      window.localStorage.setItem(name, fresh);
    } catch { /* storage is not allowed here */ }
    return fresh;
  },
  remember(group) {
    const address = new URL(window.location.href);
    if (group) address.searchParams.set('group', group);
    address.searchParams.delete('run');
    window.history.replaceState(null, '', address);
  },
  // The tab in sight, so that a reload and a link open it.
  at(tab) {
    const address = new URL(window.location.href);
    if (tab === 'start') address.searchParams.delete('tab');
    else address.searchParams.set('tab', tab);
    window.history.replaceState(null, '', address);
  },
  // What a form holds outlives a reload, in this tab of the browser. One that was just drawn (each time under another
  // number) is filled first: what it holds until then is not kept.
  filled: new Map(),
  keep(form, drawn, values) {
    if (this.filled.get(form) !== drawn) return;
    try {
      window.sessionStorage.setItem(`playground-${form}`, JSON.stringify(values));
    } catch { /* storage is full, or not allowed here */ }
  },
  kept(form, drawn, values) {
    this.filled.set(form, drawn);
    try {
      const found = JSON.parse(window.sessionStorage.getItem(`playground-${form}`));
      if (Array.isArray(found) && found.length === values.length) return found;
    } catch { /* as above */ }
    return values;
  },
  isOpen(fold) {
    return !!document.querySelector(`#${fold} > button.open`);
  },
  // A download button serves the file that it has when it is pressed, so the file is made first.
  download(id) {
    setTimeout(() => {
      const hit = document.querySelector(`#${id}`);
      const link = hit && (hit.matches('a, button') ? hit : hit.querySelector('a, button'));
      if (link) link.click();
    }, 150);
  },
  // Marks tables that go on beyond their right edge, and keeps their place when they are drawn anew.
  edges(root) {
    const lefts = [];
    const mark = () => root.querySelectorAll('.pg-table-scroll').forEach((box, number) => {
      if (lefts[number] && !box.scrollLeft) box.scrollLeft = lefts[number];
      box.classList.toggle('pg-more', box.scrollWidth - box.clientWidth - box.scrollLeft > 2);
      box.classList.toggle('pg-wide', box.scrollWidth - box.clientWidth > 2);
    });
    root.addEventListener('scroll', event => {
      const number = [...root.querySelectorAll('.pg-table-scroll')].indexOf(event.target);
      if (number >= 0) lefts[number] = event.target.scrollLeft;
      mark();
    }, true);
    new MutationObserver(mark).observe(root, { childList: true, subtree: true });
    new ResizeObserver(mark).observe(root);
  },
  // Keeps folds open or shut, and a log where it was read, when they are drawn anew; a log begins at its newest line.
  folds(root) {
    const open = new Map(), logs = [];
    const folds = () => [...root.querySelectorAll('details')];
    const key = fold => `${folds().indexOf(fold)} ${fold.firstElementChild.textContent}`;
    const restore = () => {
      folds().forEach(fold => { if (open.has(key(fold))) fold.open = open.get(key(fold)); });
      root.querySelectorAll('.pg-log').forEach((log, number) => {
        const { top, end } = logs[number] || { end: true };
        log.scrollTop = end ? log.scrollHeight : top;
      });
    };
    // A toggle is told of later than it happens: of a fold that is drawn anew meanwhile, the click alone is left.
    root.addEventListener('click', ({ target, defaultPrevented }) => {
      const fold = !defaultPrevented && target.closest('summary')?.parentElement;
      if (fold) open.set(key(fold), !fold.open);
    });
    root.addEventListener('toggle', event => {
      if (event.target.isConnected) open.set(key(event.target), event.target.open);
    }, true);
    root.addEventListener('scroll', ({ target }) => {
      const number = [...root.querySelectorAll('.pg-log')].indexOf(target);
      const end = target.scrollHeight - target.clientHeight - target.scrollTop < 4;
      if (number >= 0) logs[number] = { top: target.scrollTop, end };
    }, true);
    new MutationObserver(restore).observe(root, { childList: true, subtree: true });
  },
  toAnswers() {
    setTimeout(() => {
      const answers = document.querySelector('#answers .pg-answers');
      if (answers) answers.scrollIntoView({ behavior: 'smooth', block: 'start' });
    }, 350);
  },
};
// Marks the field that a refusal is about, until it is changed or the refusal goes.
function markWrong() {
  const said = new Map();
  document.querySelectorAll('.pg-notice[data-field]').forEach(box => said.set(box.dataset.field, box.textContent));
  document.querySelectorAll('[data-wrong]').forEach(field => {
    if (!said.has(field.id)) tell(field, null);
  });
  said.forEach((words, id) => {
    const field = document.getElementById(id);
    if (field && field.dataset.wrong !== words) tell(field, words);
  });
  function tell(field, words) {
    if (words === null) delete field.dataset.wrong;
    else field.dataset.wrong = words;
    field.querySelectorAll('input, textarea').forEach(input => input.setAttribute('aria-invalid', words !== null));
  }
}
new MutationObserver(markWrong).observe(document.documentElement, { childList: true, subtree: true });
document.addEventListener('input', event => {
  const field = event.target.closest('[data-wrong]');
  if (!field) return;
  document.querySelectorAll('.pg-notice[data-field]').forEach(box => {
    if (box.dataset.field === field.id) box.removeAttribute('data-field');
  });
  markWrong();
});
// A picture that is pressed is shown large, with its words, until the next press or Escape.
document.addEventListener('click', event => {
  const small = event.target.closest && event.target.closest('[data-zoom] img');
  if (!small) return;
  const large = document.createElement('dialog');
  large.className = 'pg-large';
  const picture = document.createElement('img');
  picture.src = small.src;
  picture.alt = small.alt;
  if (small.naturalWidth <= 128) picture.className = 'pg-few-pixels';
  const words = document.createElement('p');
  words.textContent = small.alt;
  large.append(picture, words);
  large.addEventListener('click', () => large.close());
  large.addEventListener('close', () => large.remove());
  document.body.append(large);
  large.showModal();
});
