// What the page does in the browser itself: keep the race in the address, scroll to answers.
window.playground = {
  remember(group) {
    const address = new URL(window.location.href);
    if (group) address.searchParams.set('group', group);
    address.searchParams.delete('run');
    window.history.replaceState(null, '', address);
  },
  // A download button serves the file that it has when it is pressed, so the file is made first.
  download(id) {
    setTimeout(() => {
      const hit = document.querySelector(`#${id}`);
      const link = hit && (hit.matches('a, button') ? hit : hit.querySelector('a, button'));
      if (link) link.click();
    }, 150);
  },
  toAnswers() {
    setTimeout(() => {
      const answers = document.querySelector('#answers .pg-answers');
      if (answers) answers.scrollIntoView({ behavior: 'smooth', block: 'start' });
    }, 350);
  },
};
