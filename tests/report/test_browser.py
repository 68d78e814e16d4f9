"""The page in a real browser: whole, quiet, within its width, and readable, on a phone and a desk.

Needs Chromium (Debian: `apt-get install chromium`); without it these tests are skipped. With
`MASM_JAX_SCREENSHOTS=DIR` set, what the browser showed is left there to be looked at.
"""

import os
import pathlib

import pytest

from masm_jax.report import __main__ as report

WIDTHS = (390, 1400)


@pytest.fixture(scope='module')
def pages(evaluation, make_evaluation, tmp_path_factory):
  """The report of one run, and of two side by side."""
  folder = tmp_path_factory.mktemp('pages')
  linear = make_evaluation(folder / 'linear', method='linear', seed=1, skill=0.4)
  quick = ['--tsne-points=40']
  assert report.main([str(evaluation), f'--out={folder / "one.html"}', *quick]) == 0
  assert report.main([str(evaluation), str(linear), f'--out={folder / "two.html"}', *quick]) == 0
  return {name: folder / f'{name}.html' for name in ('one', 'two')}


@pytest.fixture
def visit(browser, pages):
  """Opens a page and collects what it says and asks for; `close` ends all tabs."""
  tabs = []

  def opened(name, width, scheme='light'):
    tab = browser.new_page(
      viewport={'width': width, 'height': 900}, color_scheme=scheme, reduced_motion='reduce'
    )
    tabs.append(tab)
    tab.said, tab.asked = [], []
    tab.on('console', lambda message: tab.said.append(message.text))
    tab.on('pageerror', lambda error: tab.said.append(str(error)))
    tab.on('request', lambda request: tab.asked.append(request.url))
    tab.goto(pages[name].as_uri())
    screenshot(tab, f'{name}_{width}_{scheme}')
    return tab

  yield opened
  for tab in tabs:
    tab.close()


def screenshot(tab, name):
  if folder := os.environ.get('MASM_JAX_SCREENSHOTS'):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=pathlib.Path(folder) / f'{name}.png', full_page=True)


def unfold(tab):
  tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
  tab.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")


OVERFLOWING = """() => {
  const wide = [...document.querySelectorAll('body *')].filter(e =>
    !e.closest('pre, nav, svg') && e.getBoundingClientRect().right > innerWidth + 0.5);
  return {page: document.documentElement.scrollWidth - innerWidth,
          parts: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 200))};
}"""

DRAWINGS = """() => [...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const sizes = [...svg.querySelectorAll('text')].map(t =>
    parseFloat(getComputedStyle(t).fontSize));
  const outside = [...svg.querySelectorAll('text')].filter(t => {
    const r = t.getBoundingClientRect();
    return r.left < box.left - 2 || r.right > box.right + 2 || r.top < box.top - 2
      || r.bottom > box.bottom + 2;
  }).map(t => t.textContent);
  return {label: svg.getAttribute('aria-label'), width: box.width, height: box.height,
          strokes: svg.querySelectorAll('path, image').length, outside,
          smallest: Math.min(...sizes) * scale};
})"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', WIDTHS)
@pytest.mark.parametrize('name', ['one', 'two'])
def test_page_is_quiet_whole_and_within_its_width(visit, pages, name, width, scheme):
  tab = visit(name, width, scheme)
  assert tab.evaluate(OVERFLOWING) == {'page': 0, 'parts': []}
  unfold(tab)
  tab.wait_for_function('[...document.images].every(image => image.complete)')
  assert tab.evaluate(OVERFLOWING) == {'page': 0, 'parts': []}
  drawings = tab.evaluate(DRAWINGS)
  assert len(drawings) == pages[name].read_text().count('<svg ')
  for drawing in drawings:
    assert drawing['label'] and drawing['strokes'] > 2, drawing
    assert 280 < drawing['width'] <= 760 and drawing['height'] > 100, drawing
    assert drawing['smallest'] > 8, drawing
    assert drawing['outside'] == [], drawing
  broken = tab.evaluate('[...document.images].filter(i => !i.naturalWidth).map(i => i.alt)')
  assert broken == [] and tab.evaluate('document.images.length') >= 8
  screenshot(tab, f'{name}_{width}_{scheme}_unfolded')
  assert tab.said == []
  assert {url.split(':')[0] for url in tab.asked} <= {'file', 'data'}
  assert [url for url in tab.asked if url.startswith('file')] == [pages[name].as_uri()]


def test_cards_of_runs_side_by_side_are_level(visit):
  tops = visit('two', 1400).evaluate(
    "[...document.querySelectorAll('.verdicts section')].map(e => e.getBoundingClientRect().top)"
  )
  assert len(tops) == 4 and tops[0] == tops[1] < tops[2] == tops[3]  # Plain words, verdicts.


def test_every_kind_of_figure_is_there(visit):
  captions = visit('one', 1400).evaluate(
    "[...document.querySelectorAll('details.set')].map(set => [set.querySelector('summary')"
    ".firstChild.textContent.trim(), [...set.querySelectorAll('figure svg')].map(svg =>"
    "svg.getAttribute('aria-label').split(' of ')[0])])"
  )
  curves = ['ROC curves', 'DET curves', 'Reliability diagram', 'Risk against coverage', 'Histogram']
  robustness = ['AUROC'] * 6
  assert dict(captions) == {
    'ffpp': [*curves, *robustness, 't-SNE'],
    'celebdf_v2': [*curves, *robustness, 't-SNE'],
    'reals_only': ['Histogram', 't-SNE'],  # One class has no curve.
    'val': curves,
  }
  inside = visit('one', 1400).evaluate(
    "[...document.querySelectorAll('.masks svg')].map(svg => svg.getAttribute('aria-label'))"
  )
  assert [text.split(' of masm')[0] for text in inside] == [
    *(f'Mask of subspace {k}' for k in range(4)),
    'Share of the steps in which each group',
  ]


def test_the_first_lines_are_the_warnings(visit):
  for width in WIDTHS:
    lines = visit('one', width).evaluate('document.body.innerText.trim()').splitlines()
    assert lines[0].startswith('Leak. celebdf_v2 shares 3 identities with the training manifest')
    shown = ' '.join(lines[:6])
    assert 'Synthetic data. Synthetic portraits: these metrics show' in shown
    assert 'val has 36 videos: intervals are wide' in shown


def test_names_are_shown_and_never_run(visit):
  tab = visit('one', 1400)
  unfold(tab)
  assert tab.evaluate('document.scripts.length') == 0
  text = tab.evaluate('document.body.innerText')
  assert '<script>alert("x")</script> $\\frac{1}{0}$ & �� 名前' in text
  drawn = tab.evaluate("[...document.querySelectorAll('svg text')].map(t => t.textContent)")
  assert any(name.startswith('<script>ale') for name in drawn)
  # What slipped through would be stopped: the page forbids itself scripts and requests.
  tab.evaluate("""() => {
    const script = document.createElement('script');
    script.textContent = 'window.ran = true';
    document.body.append(script);
    const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
  }""")
  assert tab.evaluate('window.ran === undefined')
  assert any('Content Security Policy' in said for said in tab.said)


def test_a_row_becomes_a_card_on_a_phone(visit):
  tab = visit('one', 390)
  cells = tab.evaluate(
    "[...document.querySelectorAll('table.cards tbody tr')][0].innerText.split('\\n')"
  )
  heads = tab.evaluate(
    "[...[...document.querySelectorAll('table.cards tbody tr')][0].cells].map(cell =>"
    "getComputedStyle(cell, '::before').content)"
  )
  assert cells[0].strip() == 'ffpp'
  assert heads[2] == '"AUROC"' and '"TPR at 1% FPR"' in heads
  assert tab.evaluate("getComputedStyle(document.querySelector('table.cards thead')).display") == (
    'none'
  )
