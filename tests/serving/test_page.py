"""The page in Chromium: every verdict, on a phone and a desk, in light and dark, by keyboard alone.

Needs Chromium (Debian: `apt-get install chromium`); without it these tests are skipped. With
`MASM_JAX_SCREENSHOTS=DIR` set, what the browser showed is left there to be looked at.
"""

import base64
import dataclasses
import os
import pathlib
import threading

import pytest

from masm_jax.prediction import answers
from masm_jax.serving import app as app_lib
from masm_jax.serving import listening, scoring
from masm_jax.serving.jobs import Result
from masm_jax.serving.store import Store
from tests.serving import fakes, media
from tests.serving.conftest import wait_until

TOKEN = 'correct-horse-battery-staple'
STRANGE = '<img src=x onerror=window.ran=1>.mp4'


def cases():
  """Answers of every kind, by the name of their file."""
  two = [fakes.track(0, 'fake', x=420.0), fakes.track(1, 'real', x=160.0)]
  unfit = fakes.track(1, 'no_answer', x=160.0, count=8, reasons=['face_too_small'])
  undecided = {'reasons': ['near_threshold', 'out_of_domain']}
  views = {f'view-{10 * i}.jpg': media.picture(0.4 * i, people=2) for i in range(0, 30, 5)}
  first = {'view-0.jpg': media.picture()}
  picture = f'data:image/jpeg;base64,{base64.b64encode(media.picture()).decode()}'
  explained = {
    'parts': ['subspace 1', 'subspace 2'], 'maps_shown': True,
    'measured': 'Measured: better than the middle.',
    'faces': [{
      'track': 0, 'frame': 0, 'base_logit': -1.0, 'logit': 2.0, 'shapley': [3.5, -0.5],
      'standard_errors': [0.1, 0.1], 'token_share': 0.2, 'completeness_error': 0.0,
      'maps': [[[0.2, -0.1], [0.5, 0.0]], [[0.0, 0.0], [0.0, -0.3]]], 'picture': picture,
    }],
  }  # fmt: skip
  made = {
    'fake.mp4': (fakes.answer('fake', tracks=two), views),
    'real.jpg': (fakes.answer('real', kind='image'), first),
    'undecided.mp4': (
      fakes.answer('undecided', tracks=[fakes.track(0, 'undecided', count=12, **undecided), unfit],
                   warnings=['3 more people were in it; the 20 largest were judged.'], **undecided),
      views,
    ),
    'no_answer.mp4': (fakes.answer('no_answer', reasons=['unreadable']), {}),
    'everything.mp4': (fakes.answer('no_answer', reasons=answers.REASONS), {}),
    STRANGE: (fakes.answer('fake', tracks=[fakes.track(0, 'fake', count=6)]), views),
    'heat.jpg': (fakes.answer('fake', kind='image') | {'explanation': explained}, first),
  }  # fmt: skip
  for name, (answer, _) in made.items():
    answer['input']['name'] = name
  return {name: Result(answer, pictures) for name, (answer, pictures) in made.items()}


@dataclasses.dataclass
class Site:
  url: str
  scorer: fakes.FakeScorer
  files: pathlib.Path


@pytest.fixture(scope='module', params=[None])
def site(request, tmp_path_factory):
  """A server on loopback, with real files to send; `params` may set a token."""
  folder = tmp_path_factory.mktemp('site')
  (folder / 'data').mkdir()
  scorer = fakes.FakeScorer()
  scorer.prepared = cases()
  clip, picture = media.video(people=2), media.picture()
  (folder / 'files').mkdir()
  for name in scorer.prepared:
    content = picture if name.endswith('.jpg') else clip
    content = b'damaged' if name == 'no_answer.mp4' else content
    (folder / 'files' / name).write_bytes(content)
  (folder / 'files' / 'hold.mp4').write_bytes(b'hold 1')
  store = Store(folder / 'data')
  app = app_lib.build(
    store, scorer, app_lib.Settings(token=request.param, max_bytes=1_000_000, hosts=('127.0.0.1',)),
    model={'model': fakes.MODEL, 'policy': fakes.POLICY}, read=scoring.read,
    report=lambda answer, pictures: '<!doctype html><title>Report</title>',
  )  # fmt: skip
  socket = listening.bind('127.0.0.1', 0)
  server = listening.Server(app)
  thread = threading.Thread(target=server.run, args=([socket],))
  thread.start()
  wait_until(lambda: server.started)
  yield Site(listening.address_of(socket), scorer, folder / 'files')
  scorer.close()
  server.stop()
  thread.join()
  store.close()


@pytest.fixture
def visit(browser, site):
  """Opens the page and collects what it says and asks for; closes all at the end."""
  tabs = []

  def opened(width=1400, scheme='light', **options):
    tab = browser.new_page(
      viewport={'width': width, 'height': 900}, color_scheme=scheme, reduced_motion='reduce',
      **options,
    )  # fmt: skip
    tab.said, tab.asked = [], []
    tab.on('console', lambda message: tab.said.append(message.text))
    tab.on('pageerror', lambda error: tab.said.append(str(error)))
    tab.on('request', lambda request: tab.asked.append(request.url))
    tab.goto(site.url)
    tab.wait_for_selector('#detector:not(:empty)')
    tabs.append(tab)
    return tab

  yield opened
  for tab in tabs:
    hosts = {url.split('/')[2] for url in tab.asked if not url.startswith(('blob:', 'data:'))}
    assert hosts == {site.url.removeprefix('http://')}  # No request to another host.
    tab.close()


def wait(tab, expression):
  """`wait_for_function` evaluates a text within the page, which its policy forbids."""
  wait_until(lambda: tab.evaluate(expression), within_s=60.0)


def give(tab, site, name):
  """Chooses a file and waits for its answer."""
  tab.set_input_files('#file', site.files / name)
  tab.wait_for_selector('#verdict')
  wait(tab, '[...document.images].every(image => image.complete)')
  return tab


def screenshot(tab, name):
  if folder := os.environ.get('MASM_JAX_SCREENSHOTS'):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=pathlib.Path(folder) / f'{name}.png', full_page=True)


@pytest.fixture(scope='module')
def axe():
  package = pytest.importorskip('axe_playwright_python')
  return (pathlib.Path(package.__file__).parent / 'axe.min.js').read_text()


def check_accessible(tab, axe):
  """axe-core finds nothing, of WCAG 2.2 AA and of its best practices."""
  tab.evaluate(axe)
  found = tab.evaluate('axe.run(document, {resultTypes: ["violations"]})')
  problems = [
    (item['id'], [node['html'][:200] for node in item['nodes']]) for item in found['violations']
  ]
  assert not problems
  assert len(found['passes']) > 15  # It looked.


OVERFLOWING = """() => [document.documentElement.scrollWidth - innerWidth,
  [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .unseen')
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 200))]"""


LOOKS = [(width, scheme) for width in (390, 1400) for scheme in ('light', 'dark')]


def looks(tab, name):
  """The page on a phone and a desk, in light and dark."""
  for width, scheme in LOOKS:
    tab.set_viewport_size({'width': width, 'height': 900})
    tab.emulate_media(color_scheme=scheme, reduced_motion='reduce')
    screenshot(tab, f'{name}_{width}_{scheme}')
    yield width, scheme


def test_every_verdict_is_accessible_quiet_and_within_its_width(visit, site, axe):
  tab = visit()
  for _ in looks(tab, 'start'):
    check_accessible(tab, axe)
  for name, result in site.scorer.prepared.items():
    give(tab, site, name)
    if name.endswith('.mp4') and result.answer['tracks']:
      wait(tab, "document.querySelector('video').readyState >= 2")
    for width, scheme in looks(tab, name.split('.')[0].replace(STRANGE[:-4], 'strange')):
      tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
      assert tab.evaluate(OVERFLOWING) == [0, []], (name, width, scheme)
      check_accessible(tab, axe)
      tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = false)")
    tab.click('text=Check another file')
  assert tab.said == []


def test_words_numbers_and_reasons_are_those_of_the_api(visit, site):
  tab = visit()
  for name, result in site.scorer.prepared.items():
    give(tab, site, name)
    said = scoring.read(result.answer)
    shown = tab.inner_text('#result')
    assert tab.inner_text('#verdict') == said['headline']
    for text in (said['explanation'], said['number'], said['fine_print'], *said['reasons']):
      assert text in shown, name
    for track in said['tracks']:
      assert track['title'] in shown and track['text'] in shown
    for warning in result.answer['warnings']:
      assert warning in shown
    assert ('0 %' not in shown.split('What was not')[0]) or result.answer['probability'] is not None
    assert ('What the detector reacted to' in shown) == (name == 'heat.jpg')
    if name == 'heat.jpg':
      assert 'Measured: better' in shown and said['explanation_lines'][0] in shown
      # All changes together, then each one; and what each adds to the score.
      assert tab.locator('.maps rect').count() == 3 * 4
      assert tab.locator('.shares td:nth-child(2)').all_inner_texts() == [
        '−1.00', '+3.50', '−0.50', '+2.00'
      ]  # fmt: skip
    assert tab.title().startswith(said['headline'])
    tab.click('text=Check another file')
  assert tab.evaluate('window.ran') is None  # A name is text.
  assert tab.said == []


def test_faces_have_boxes_that_follow_the_slider(visit, site):
  tab = give(visit(), site, 'fake.mp4')
  wait(tab, "document.querySelector('video').readyState >= 2")
  assert tab.locator('.stage text').all_text_contents() == ['Person 1', 'Person 2']
  slider = tab.locator('input[type=range]').first
  slider.focus()
  tab.keyboard.press('Home')
  box = lambda: [float(tab.locator('.stage rect').first.get_attribute(k)) for k in ('x', 'y')]
  first = site.scorer.prepared['fake.mp4'].answer['tracks'][0]['frames']
  wait(tab, "document.querySelector('video').currentTime === 0")
  assert box() == pytest.approx(first[0]['box'][:2])
  for _ in range(11):
    tab.keyboard.press('ArrowRight')
  assert box() == pytest.approx(first[11]['box'][:2])
  assert slider.get_attribute('aria-valuetext') == '0:04.4: not judged'
  wait(tab, "Math.abs(document.querySelector('video').currentTime - 4.4) < 0.01")


def test_keyboard_alone_from_the_file_to_the_end(visit, site):
  tab = visit(390)
  walk = lambda: (tab.keyboard.press('Tab'), tab.evaluate(
    "document.activeElement.id || document.activeElement.textContent.trim()"
  ))[1]  # fmt: skip
  assert [walk() for _ in range(3)] == ['Skip to the content', 'masm_jax', 'file']
  ring = "getComputedStyle(document.querySelector('label.button')).outlineStyle"
  assert tab.evaluate(ring) == 'solid'  # The focus is seen.
  choosers = []
  tab.on('filechooser', lambda chooser: choosers.append(chooser))
  tab.wait_for_timeout(100)  # Until the browser has heard that choosers are waited for.
  tab.keyboard.press('Space')
  wait_until(lambda: tab.wait_for_timeout(20) or choosers)
  choosers[0].set_files(site.files / 'undecided.mp4')
  tab.wait_for_selector('#verdict')
  assert tab.evaluate('document.activeElement.id') == 'verdict'  # Read out next.
  reached = [walk() for _ in range(30)]
  for name in ('Check another file', 'Printable report', 'JSON', 'Delete now', 'API description'):
    assert name in reached
  unseen = tab.evaluate("""() => [...document.querySelectorAll('a, button, input, summary')]
    .filter(e => e.checkVisibility() && !e.matches('.skip, #file')).filter(e => {
      const box = e.getBoundingClientRect(); return box.height < 24 || box.width < 24; })
    .map(e => e.outerHTML.slice(0, 120))""")
  assert unseen == []  # WCAG 2.5.8, targets of 24 px.
  while walk() != 'Delete now':
    pass
  place = tab.evaluate('location.hash.slice(1)')
  tab.keyboard.press('Enter')
  tab.wait_for_selector('#start:not([hidden])')
  assert tab.evaluate('document.activeElement.id') == 'file'
  gone = 'async id => (await fetch(`v1/predictions/${id}`)).status'
  wait_until(lambda: tab.evaluate(gone, place) == 404)


def test_progress_is_told_while_it_works_and_a_job_is_found_again(visit, site):
  tab = visit()
  site.scorer.gate.clear()
  tab.set_input_files('#file', site.files / 'hold.mp4')
  tab.wait_for_selector('#work:not([hidden])')
  wait(tab, "document.querySelector('#stage').textContent === 'Judging the faces'")
  assert tab.inner_text('#work_name') == 'hold.mp4'
  assert tab.evaluate("document.querySelector('#said').textContent") == 'Judging the faces'
  screenshot(tab, 'work_1400_light')
  tab.reload()  # The address holds the job.
  wait(tab, "document.querySelector('#stage').textContent === 'Judging the faces'")
  site.scorer.gate.set()
  tab.wait_for_selector('#verdict')
  assert tab.said == []


def test_problems_are_told_in_one_sentence(visit, site, tmp_path):
  tab = visit(390)
  (tmp_path / 'large.mp4').write_bytes(b'x' * 1_100_000)
  tab.set_input_files('#file', tmp_path / 'large.mp4')
  assert '1.1 MB' in tab.inner_text('#problem')
  (tmp_path / 'crash.mp4').write_bytes(b'crash 1')
  tab.set_input_files('#file', tmp_path / 'crash.mp4')
  tab.wait_for_selector('#problem:not(:empty)')
  wait(tab, "document.querySelector('#problem').textContent.includes('log')")
  assert tab.is_visible('#drop')
  screenshot(tab, 'problem_390_light')
  assert tab.said == []


def test_nothing_foreign_can_run_or_be_asked(visit, site):
  tab = visit()
  tab.evaluate("""() => {
    const script = document.createElement('script');
    try { script.textContent = 'window.ran = true'; document.body.append(script); } catch {}
    try { document.body.innerHTML += '<b>x</b>'; } catch { window.refused = true; }
    const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
  }""")
  assert tab.evaluate('window.ran === undefined && window.refused')
  assert any('Content Security Policy' in said for said in tab.said)
  tab.asked[:] = [url for url in tab.asked if ':9/' not in url]


@pytest.mark.parametrize('site', [TOKEN], indirect=True)
def test_a_token_is_typed_in_once_and_kept_in_the_tab_alone(browser, site, axe):
  tab = browser.new_page(accept_downloads=True)
  tab.goto(site.url)
  tab.wait_for_selector('#token:not([hidden])')
  check_accessible(tab, axe)
  assert tab.is_hidden('#drop')
  tab.fill('#token_text', 'a wrong one of some length')
  tab.keyboard.press('Enter')
  wait(tab, "document.querySelector('#problem').textContent.includes('token')")
  screenshot(tab, 'token_1280_light')
  tab.fill('#token_text', TOKEN)
  tab.keyboard.press('Enter')
  tab.wait_for_selector('#drop:not([hidden])')
  give(tab, site, 'fake.mp4')
  assert tab.locator('.faces svg').count() == 12  # Asked for with the token.
  with tab.expect_download() as download:
    tab.click('text=Printable report')
  assert pathlib.Path(download.value.path()).read_text() == '<!doctype html><title>Report</title>'
  assert tab.context.cookies() == [] and TOKEN not in tab.content() and TOKEN not in tab.url
  tab.reload()
  tab.wait_for_selector('#verdict')
  assert tab.locator('video').count() == 0  # The file is gone; frames came with the answer.
  wait(tab, "document.querySelector('.stage img').naturalWidth === 640")
  screenshot(tab, 'again_1280_light')
  slider = tab.locator('input[type=range]').first
  slider.focus()
  tab.keyboard.press('End')
  assert '0:10.0, one of 6' in tab.inner_text('#result')
  tab.close()
