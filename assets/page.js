// What the page does in the browser itself: open a tab, keep the race in the address, scroll to answers.
window.playground = {
  open(name) {
    const tab = [...document.querySelectorAll('#tabs button[role="tab"]')].find((b) => b.textContent.trim() === name);
    if (tab) tab.click();
    window.scrollTo({ top: 0 });
  },
  remember(group) {
    const address = new URL(window.location.href);
    if (group) address.searchParams.set('group', group);
    address.searchParams.delete('run');
    window.history.replaceState(null, '', address);
  },
  toAnswers() {
    setTimeout(() => {
      const answers = document.querySelector('#answers .pg-answers');
      if (answers) answers.scrollIntoView({ behavior: 'smooth', block: 'start' });
    }, 350);
  },
};
