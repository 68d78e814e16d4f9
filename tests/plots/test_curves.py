"""Pictures hold what they should at the pixels where it should be, and repeat byte for byte."""

import numpy as np
import pytest
from PIL import Image

from masm_jax.errors import UserError
from masm_jax.metrics import binary as metrics
from masm_jax.plots import curves as plots
from masm_jax.plots import masks

NOTE = 'Synthetic portraits: these figures prove nothing about real deepfakes.'
ON, OFF = (59, 143, 214), (243, 248, 252)  # The colour of masks on white, full and palest.


@pytest.fixture
def figures(monkeypatch):
  """Every figure that is saved, to look into."""
  saved = []
  save = plots.save_figure

  def recorded(figure, path, note):
    saved.append(figure)
    return save(figure, path, note)

  monkeypatch.setattr(plots, 'save_figure', recorded)
  return saved


def toy_curves(seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, 60)
  return {
    'masm': (labels, (0.6 * labels + rng.random(60)) / 1.6),
    'linear': (labels, rng.random(60)),
  }


def shares(axes):
  """What the squares of an image show: [rows, columns] in [0, 1]."""
  return (np.asarray(axes.images[0].get_array())[..., 3] - 0.06) / 0.94


def texts(figure):
  return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, 'get_text'))]


def test_roc_curves_and_areas(tmp_path, figures):
  curves = toy_curves() | {'reals': (np.zeros(3), np.full(3, 0.1))}
  path = plots.roc_figure(curves, tmp_path / 'new' / 'roc.png', 'checkerboard', NOTE)
  with Image.open(path) as image:
    assert image.format == 'PNG' and min(image.size) > 600
  (axes,) = figures[0].axes
  assert axes.get_title(loc='left') == 'checkerboard'
  legend = [text.get_text() for text in axes.get_legend().get_texts()]
  area = metrics.auroc(*curves['masm'])
  assert 0.5 < area < 1
  assert legend[0] == f'{area:.3f}  masm'
  assert legend[2].strip() == 'n/a   reals (one class only)'
  _, masm, linear, reals = axes.get_lines()
  fpr, tpr = metrics.roc_curve(*curves['masm'])
  np.testing.assert_array_equal(masm.get_xydata(), np.stack([fpr, tpr], axis=1))
  assert np.trapezoid(linear.get_ydata(), linear.get_xdata()) == pytest.approx(
    metrics.auroc(*curves['linear']), abs=1e-12
  )
  assert len(reals.get_xdata()) == 0
  assert NOTE in ' '.join(texts(figures[0])).replace('\n', ' ')
  assert sorted(p.name for p in path.parent.iterdir()) == ['roc.png']


def test_small_print_lies_below_the_plot(tmp_path, figures):
  plots.roc_figure(toy_curves(), tmp_path / 'roc.png', 'x', NOTE * 3)
  figure = figures[0]
  (note,) = figure.texts
  assert note.get_window_extent().y1 < figure.axes[0].get_tightbbox().y0
  assert note.get_window_extent().x1 < figure.bbox.x1


def test_mask_over_time_and_duty(tmp_path, figures):
  history = np.zeros((3, 2, 2))
  history[0] = 1  # Everything on from step 0 to 10,
  history[1:, 0, 1] = 1  # then block 0 of subspace 1 alone, to step 20 and to step 40.
  path = plots.mask_figure(history, [0, 10, 20], tmp_path / 'm.png', NOTE, end_step=40)
  first, second, duty = figures[0].axes
  assert [axes.get_title(loc='left') for axes in (first, second)] == ['subspace 0', 'subspace 1']
  ten = np.ones(10)
  np.testing.assert_allclose(shares(first), [[*ten, *0 * ten, *0 * ten, *0 * ten]] * 2, atol=1e-12)
  np.testing.assert_allclose(
    shares(second), [np.ones(40), [*ten, *0 * ten, *0 * ten, *0 * ten]], atol=1e-12
  )
  assert second.images[0].get_extent() == [0, 40, 1.5, -0.5]
  np.testing.assert_allclose(shares(duty), [[0.25, 1], [0.25, 0.25]], atol=1e-12)
  assert [text.get_text() for text in duty.texts] == ['25', '100', '25', '25']

  with Image.open(path) as image:
    pixels = np.asarray(image.convert('RGB'))

  def colour(axes, step, block):
    x, y = axes.transData.transform((step, block))
    return tuple(int(value) for value in pixels[pixels.shape[0] - 1 - int(y), int(x)])

  assert colour(first, 5, 0) == colour(second, 30, 0) == ON
  assert colour(first, 15, 0) == colour(second, 30, 1) == OFF
  # Block 0 is on top.
  assert first.transData.transform((5, 0))[1] > first.transData.transform((5, 1))[1]


def test_long_histories_are_averaged_without_a_change_of_duty(tmp_path, figures):
  rng = np.random.default_rng(0)
  history = rng.random((1000, 3, 5)) < 0.4
  plots.mask_figure(history, np.arange(1000) * 7 + 3, tmp_path / 'm.png')
  *panels, duty = figures[0].axes[:6]
  for subspace, axes in enumerate(panels):
    assert shares(axes).shape[1] == 160 and axes.images[0].get_extent()[:2] == [3, 7003]
    mean = shares(axes).mean(axis=1)
    assert mean == pytest.approx(history[:, :, subspace].mean(0), abs=1e-12)
    assert shares(duty)[:, subspace] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize('shape', [(1, 1, 1), (2, 24, 8), (3, 40, 12)])
def test_any_shape_is_drawn(tmp_path, figures, shape):
  plots.mask_figure(np.ones(shape), np.arange(shape[0]), tmp_path / 'm.png')
  titles = [axes.get_title(loc='left') for axes in figures[0].axes]
  panels = [f'subspace {k}' for k in range(shape[2])] if shape[2] > 1 else ['groups']
  assert titles[: shape[2] + 1] == [*panels, 'on, % of steps']


def test_rows_that_are_not_just_blocks_are_named(tmp_path, figures):
  names = ('embeddings', 'block_00', 'block_01')
  plots.mask_figure(np.ones((2, 3, 1)), [1, 5], tmp_path / 'm.png', names=names)
  panel, duty = figures[0].axes[:2]
  assert [label.get_text() for label in panel.get_yticklabels()] == [*names]
  assert not any(label.get_text() for label in duty.get_yticklabels())
  plots.mask_figure(np.ones((2, 3, 1)), [1, 5], tmp_path / 'm.png', names=(*names[1:], 'block_02'))
  assert figures[1].axes[0].get_ylabel() == 'block'


@pytest.mark.parametrize(
  ('shape', 'steps', 'message'),
  [
    ((2, 3), [0, 1], r'is \[T, L, K\]'),
    ((2, 3, 4), [0], r'is \[T, L, K\]'),
    ((0, 3, 4), [], r'is \[T, L, K\]'),
    ((2, 3, 4), [5, 5], 'steps must rise'),
  ],
)
def test_wrong_histories_are_refused(tmp_path, shape, steps, message):
  with pytest.raises(ValueError, match=message):
    plots.mask_figure(np.ones(shape), steps, tmp_path / 'm.png')


def test_demo_picture_repeats_byte_for_byte(tmp_path, figures):
  sets = {name: toy_curves(seed) for seed, name in enumerate(('known', 'poisson', 'smoothing'))}
  history = np.random.default_rng(0).random((5, 6, 4)) < 0.5
  paths = [tmp_path / 'a.png', tmp_path / 'b.png']
  for path in paths:
    plots.demo_figure(sets, history, np.arange(5) * 10, path, 'MASM demo', NOTE)
  assert paths[0].read_bytes() == paths[1].read_bytes()
  titles = [axes.get_title(loc='left') for axes in figures[0].findobj(plots.Axes)]
  assert titles == [*sets, *(f'subspace {k}' for k in range(4)), 'on, % of steps']
  shown = texts(figures[0])
  assert {'MASM demo', NOTE, f'{metrics.auroc(*sets["poisson"]["linear"]):.3f}  linear'} <= set(
    shown
  )
  with pytest.raises(ValueError, match='no test set'):
    plots.demo_figure({}, history, np.arange(5), paths[0])


def test_mask_image_has_a_square_per_group():
  image = masks.mask_image(np.array([[1, 0, 0], [0, 1, 1]]), cell_px=4)
  assert image.shape == (8, 12, 3) and image.dtype == np.uint8
  assert tuple(image[3, 3]) == tuple(image[4, 11]) == ON
  np.testing.assert_allclose([image[3, 4], image[7, 3]], [OFF] * 2, atol=1)  # Agg rounds down.
  with pytest.raises(ValueError, match=r'\[L, K\]'):
    masks.mask_image(np.ones(3))


def test_unwritable_path_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match=r'cannot write the picture .*roc\.png'):
    plots.roc_figure(toy_curves(), tmp_path / 'file' / 'roc.png')
