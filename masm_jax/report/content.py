"""The report's content: what each section says, as plain values for the page's template."""

import json
import math
from collections.abc import Sequence
from typing import Any

from masm_jax.evaluation import results
from masm_jax.evaluation.schema import FramesPerVideo
from masm_jax.plots import analysis, panels, style
from masm_jax.report import pictures, plain, sections
from masm_jax.report.runs import LEVELS, VALIDATION, Run, calibrated, interval, set_names
from masm_jax.report.words import HEADLINES, RESCALED, cell, number, percent

_CHANCE = 0.5
# Of warnings that stand alone, by their urgency; the others are put together in a list.
_HEADINGS = {0: 'Leak.', 1: 'Not searched for leaks.'}


def build(runs: Sequence[Run], *, title: str, tsne_points: int) -> dict[str, Any]:
  """Everything that the template shows.

  Args:
    runs: at least one.
    title: of the page.
    tsne_points: features drawn for each set; 0 for none.
  """
  names = set_names(runs)
  tests = [name for name in names if name != VALIDATION]
  return {
    'title': style.clean(title),
    'runs': [_run(run) for run in runs],
    'notes': list(dict.fromkeys(run.results.note for run in runs if run.results.note)),
    'warnings': _warnings(runs),
    'plain': [plain.first_page(run, tests) for run in runs],
    'verdicts': [_verdict(run, tests) for run in runs],
    'forest': _forest(runs, tests) if tests else None,
    'tables': [(level, _table(runs, names, level)) for level in LEVELS],
    'headlines': (*HEADLINES, RESCALED) if _has_temperature(runs) else HEADLINES,
    'intervals': _intervals(runs),
    'sets': [
      sections.data_set(runs, name, i, tsne_points, len(names)) for i, name in enumerate(names)
    ],
    'inside': [_inside(run) for run in runs],
    'protocol': [_protocol(run) for run in runs],
  }


def _run(run: Run) -> dict[str, Any]:
  about = run.results.run
  return {
    'name': style.clean(run.name),
    'series': run.series % len(style.PAGE.series),
    'backbone': style.clean(about.backbone),
    'checkpoint': f'{style.clean(about.checkpoint)} checkpoint, step {about.step}',
    'seed': about.seed,
    'started': style.clean(run.results.started),
    'trained_on': style.clean(_trained_on(run)),
    'crops': style.clean(_crops(run)),
    'trainable': about.trainable_parameters,
  }


def _warnings(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Every warning once, with the runs that it was given for; leaks first."""
  found: dict[tuple[str, str, str], list[str]] = {}
  for run in runs:
    for entry in run.results.warnings:
      found.setdefault((entry.kind, entry.set, entry.text), []).append(run.name)
  entries = [
    {
      'kind': kind,
      'heading': _HEADINGS.get(results.urgency(kind), ''),
      'set': style.clean(name),
      'text': style.clean(text),
      'runs': whose if len(whose) < len(runs) else [],
    }
    for (kind, name, text), whose in found.items()
  ]
  return sorted(entries + _unlike(runs), key=lambda entry: results.urgency(entry['kind']))


def _unlike(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """A warning for each set of which runs have scored different rows under one name."""
  entries = []
  for name in set_names(runs):
    found: dict[str, list[str]] = {}
    for run in runs:
      if rows := run.rows_hash(name):
        found.setdefault(rows, []).append(run.name)
    if len(found) > 1:
      whose = '; '.join(f'{_listed(names)}: hash {rows[:12]}' for rows, names in found.items())
      text = f'the runs scored different rows of {name} ({whose}): do not compare their metrics'
      shown = {'set': style.clean(name), 'text': style.clean(text), 'runs': []}
      entries.append({'kind': 'rows_differ', 'heading': '', **shown})
  return entries


def _intervals(runs: Sequence[Run]) -> str:
  """What the intervals of the tables are: '95% intervals'."""
  if len({run.confidence for run in runs}) == 1:
    return f'{runs[0].confidence} intervals'
  listed = ', '.join(f'{run.confidence} for {style.label(run.name)}' for run in runs)
  return f'intervals that differ between the runs ({listed})'


def _verdict(run: Run, tests: Sequence[str]) -> dict[str, Any]:
  """The run in a few numbers and sentences, all at video level."""

  def of_tests(metric: str) -> dict[str, tuple[float, float, float]]:
    values = {name: run.value(name, 'video', metric) for name in tests}
    return {name: value for name, value in values.items() if math.isfinite(value[0])}

  auroc, fpr, tpr = of_tests('auroc'), of_tests('fpr@threshold'), of_tests('tpr@threshold')
  ece = of_tests('ece')
  verdict = {'name': style.clean(run.name), 'tiles': [], 'sentences': []}
  if not auroc:
    verdict['sentences'].append('No test set has both real and fake videos: there is no AUROC.')
    return verdict
  mean = sum(value for value, _, _ in auroc.values()) / len(auroc)
  worst = min(auroc, key=lambda name: auroc[name][0])
  best = max(auroc, key=lambda name: auroc[name][0])
  sets = f'{len(auroc)} test sets' if len(auroc) > 1 else '1 test set'
  tiles = verdict['tiles']
  tiles.append((number(mean), f'mean video AUROC of {sets}'))
  if len(auroc) > 1:
    tiles.append((number(auroc[worst][0]), f'lowest: {style.label(worst)}'))
    tiles.append((number(auroc[best][0]), f'highest: {style.label(best)}'))
  above = [name for name, (_, low, _) in auroc.items() if low > _CHANCE]
  if above:
    where = 'on every test set' if len(above) == len(tests) else f'on {_listed(above)}'
    verdict['sentences'].append(f'Better than chance {where}.')
  chance = [name for name, (_, low, high) in auroc.items() if low <= _CHANCE <= high]
  below = [name for name, (_, _, high) in auroc.items() if high < _CHANCE]
  if chance:
    verdict['sentences'].append(
      f'Not told from chance (the interval holds 0.5): {_listed(chance)}.'
    )
  if below:
    verdict['sentences'].append(f'Worse than chance: {_listed(below)}.')
  if fpr and tpr:
    alarm = max(fpr, key=lambda name: fpr[name][0])
    miss = min(tpr, key=lambda name: tpr[name][0])
    verdict['sentences'].append(
      f'At the threshold that validation fixed, {percent(fpr[alarm][0])} of real videos are called'
      f' fake on {style.label(alarm)} (the most), and {percent(tpr[miss][0])} of fakes are found on'
      f' {style.label(miss)} (the fewest).'
    )
  if ece:
    off = max(ece, key=lambda name: ece[name][0])
    verdict['sentences'].append(
      f'Scores differ from the observed share of fakes by {number(ece[off][0])} at worst'
      f' (expected calibration error, on {style.label(off)}).'
    )
  return verdict


def _listed(names: Sequence[str]) -> str:
  shown = ', '.join(style.label(name) for name in names[:8])
  return f'{shown} and {len(names) - 8} more' if len(names) > 8 else shown


def _forest(runs: Sequence[Run], tests: Sequence[str]) -> Any:
  values = [[run.value(name, 'video', 'auroc') for run in runs] for name in tests]
  return panels.forest(
    tests, values, [run.name for run in runs], title='AUROC, video level', key='forest'
  )


def _table(runs: Sequence[Run], names: Sequence[str], level: str) -> list[dict[str, Any]]:
  """A row for each set and run."""
  has_temperature = _has_temperature(runs)
  rows = []
  for name in names:
    for run in runs:
      found = run.level(name, level)
      if name not in run.results.sets:
        continue
      rescaled = [cell(interval(calibrated(found), RESCALED[0]))] if has_temperature else []
      rows.append(
        {
          'set': style.clean(name),
          'role': sections.role([run]) if name == VALIDATION else '',
          'run': style.clean(run.name),
          'series': run.series % len(style.PAGE.series),
          'count': f'{found.num_real:,} + {found.num_fake:,}',
          'cells': [cell(interval(found, key)) for key, _, _ in HEADLINES] + rescaled,
        }
      )
  return rows


def _has_temperature(runs: Sequence[Run]) -> bool:
  return any(run.results.protocol.temperature for run in runs)


def _inside(run: Run) -> dict[str, Any]:
  semantics = (run.results.subspaces or {}).get('semantics') or {}
  return {
    'name': style.clean(run.name),
    'masks': pictures.masks(run),
    'subspaces': analysis.svg_panels(
      run.results.subspaces or {}, run.name, key=f'analysis-{run.series}'
    ),
    'note': style.clean(semantics.get('note', '')),
  }


def _protocol(run: Run) -> dict[str, Any]:
  """How the metrics came about: what was run, on what, with which threshold."""
  about, protocol = run.results.run, run.results.protocol
  temperature, bootstrap = protocol.temperature, protocol.bootstrap
  parameters = about.trainable_parameters
  facts = [
    ('Date of the evaluation', run.results.started),
    ('Run', about.workdir),
    ('Method', f'{about.method} on {about.backbone}, seed {about.seed}'),
    ('Checkpoint', f'{about.checkpoint}, step {about.step}; {_chosen(run)};'
     f' last step {about.last_step}'),
    ('Trainable parameters', '' if parameters is None else f'{parameters:,}'),
    ('Trained on', _trained_on(run)),
    ('Crops', _crops(run)),
    ('Threshold', f'{protocol.threshold.origin}: {number(run.threshold("frame"))} for frames,'
     f' {number(run.threshold("video"))} for videos'),
    ('Abstention band', _band(run)),
    ('Temperature', f'{temperature.frame:.3f}, {temperature.origin}' if temperature else 'none'),
    ('Score of a video', f'{protocol.video_score} of its frames'),
    ('Intervals', f'{run.confidence} percentile bootstrap,'
     f' {bootstrap.draws:,} draws over clusters ({bootstrap.unit}), seed {bootstrap.seed}'),
    ('Image side', '' if protocol.image_size is None else f'{protocol.image_size} px'),
    ('SHA-256 of the configuration', about.config_sha256),
    ('SHA-256 of the base weights', about.base_weights),
    ('SHA-256 of the trained weights', about.trained_weights),
    ('SHA-256 of the training manifest', about.train_manifest),
    ('SHA-256 of the validation manifest', about.val_manifest),
  ]  # fmt: skip
  sets = [
    {
      'name': style.clean(name),
      'manifest': style.clean(entry.manifest),
      'split': style.clean(entry.split),
      'sha256': style.clean(entry.manifest_sha256),
      'frames': f'{entry.frames:,}',
      'videos': f'{entry.videos:,}',
      'per_video': _per_video(entry.frames_per_video),
      'undecodable': f'{entry.undecodable:,}',
      'clusters': f'{entry.clusters:,} by {style.clean(entry.unit)}',
    }
    for name, entry in protocol.sets.items()
  ]
  configs = {'Configuration of the run': about.config, 'Suite': run.results.suite}
  return {
    'name': style.clean(run.name),
    'facts': [(what, style.clean(value)) for what, value in facts if value],
    'sets': sets,
    'configs': [
      (title, style.clean_lines(json.dumps(value, indent=1, ensure_ascii=False)))
      for title, value in configs.items()
      if value
    ],
  }


def _band(run: Run) -> str:
  """Which scores are left undecided; '' where it was not recorded."""
  band = run.results.protocol.band
  if not band.origin:
    return ''
  ends = '; '.join(
    f'{number(low)} to {number(high)} for {level}s'
    for level, (low, high) in ((level, band.at(level)) for level in LEVELS)
  )
  return f'{band.origin}: FPR {100 * band.fpr:g}%, FNR {100 * band.fnr:g}%: {ends}'


def _chosen(run: Run) -> str:
  about = run.results.run
  how = f'by {about.selected_by} on validation'
  if run.is_best:
    return f'chosen {how}'
  best = f' (best {how}: step {about.best_step})' if about.best_step else ''
  return f'chosen by hand{best}'


def _trained_on(run: Run) -> str:
  """The training set as the config names it; '' where it does not."""
  data = run.results.run.config.get('data')
  spec = data.get('train') if isinstance(data, dict) else None
  if not isinstance(spec, dict) or not spec.get('manifest'):
    return ''
  methods = spec.get('methods')
  chosen = [
    f'split {spec["split"]}' if spec.get('split') else '',
    f'data set {spec["dataset"]}' if spec.get('dataset') else '',
    f'forgeries {", ".join(map(str, methods))}' if isinstance(methods, list) and methods else '',
  ]
  return ', '.join([str(spec['manifest']), *filter(None, chosen)])


def _crops(run: Run) -> str:
  """How the faces of the training data were cut out."""
  crops = run.results.run.crops
  if crops is None:
    return 'not recorded by the run'
  parts = [
    f'template {crops.template}' if crops.template else '',
    f'margin {crops.margin:g}' if crops.margin is not None else '',
    f'{crops.size_px} px' if crops.size_px is not None else '',
  ]
  return ', '.join(filter(None, parts)) or 'not recorded by the run'


def _per_video(counts: FramesPerVideo) -> str:
  low, middle, high = counts.min, counts.median, counts.max
  return f'{low:g}' if low == high else f'{low:g} to {high:g}, median {middle:g}'
