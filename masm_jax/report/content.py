"""The report's content: what each section says, as plain values for the page's template."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from masm_jax.evaluation import results
from masm_jax.report import model_panels, panels, pictures, sections, svg
from masm_jax.report.runs import LEVELS, VALIDATION, Run, calibrated, interval, set_names
from masm_jax.report.words import HEADLINES, RESCALED, cell, number

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
    'title': svg.clean(title),
    'runs': [_run(run) for run in runs],
    'notes': list(dict.fromkeys(run.results['note'] for run in runs if run.results.get('note'))),
    'warnings': _warnings(runs),
    'verdicts': [_verdict(run, tests) for run in runs],
    'forest': _forest(runs, tests) if tests else None,
    'tables': [(level, _table(runs, names, level)) for level in LEVELS],
    'headlines': (*HEADLINES, RESCALED) if _has_temperature(runs) else HEADLINES,
    'intervals': _intervals(runs),
    'sets': [sections.data_set(runs, name, i, tsne_points) for i, name in enumerate(names)],
    'inside': [_inside(run) for run in runs],
    'protocol': [_protocol(run) for run in runs],
  }


def _run(run: Run) -> dict[str, Any]:
  about = run.results['run']
  return {
    'name': svg.clean(run.name),
    'series': run.series % len(svg.SERIES),
    'backbone': svg.clean(about.get('backbone', '')),
    'checkpoint': f'{about.get("checkpoint", "")} checkpoint, step {about.get("step", "?")}',
    'seed': about.get('seed'),
    'trainable': about.get('trainable_parameters'),
  }


def _warnings(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Every warning once, with the runs that it was given for; leaks first."""
  found: dict[tuple[str, str, str], list[str]] = {}
  for run in runs:
    for entry in run.results.get('warnings', []):
      key = tuple(str(entry.get(part, '')) for part in ('kind', 'set', 'text'))
      found.setdefault(key, []).append(run.name)
  entries = [
    {
      'kind': kind,
      'heading': _HEADINGS.get(results.urgency(kind), ''),
      'set': name,
      'text': svg.clean(text),
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
      text = f'the runs scored different rows of {name} ({whose}): do not compare their figures'
      shown = {'set': svg.clean(name), 'text': svg.clean(text), 'runs': []}
      entries.append({'kind': 'rows_differ', 'heading': '', **shown})
  return entries


def _intervals(runs: Sequence[Run]) -> str:
  """What the intervals of the tables are: '95% intervals'."""
  if len({run.confidence for run in runs}) == 1:
    return f'{runs[0].confidence} intervals'
  listed = ', '.join(f'{run.confidence} for {svg.label(run.name)}' for run in runs)
  return f'intervals that differ between the runs ({listed})'


def _verdict(run: Run, tests: Sequence[str]) -> dict[str, Any]:
  """The run in a few figures and sentences, all at video level."""

  def of_tests(metric: str) -> dict[str, tuple[float, float, float]]:
    values = {name: run.value(name, 'video', metric) for name in tests}
    return {name: value for name, value in values.items() if math.isfinite(value[0])}

  auroc, fpr, tpr = of_tests('auroc'), of_tests('fpr@threshold'), of_tests('tpr@threshold')
  ece = of_tests('ece')
  verdict = {'name': svg.clean(run.name), 'tiles': [], 'sentences': []}
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
    tiles.append((number(auroc[worst][0]), f'lowest: {svg.label(worst)}'))
    tiles.append((number(auroc[best][0]), f'highest: {svg.label(best)}'))
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
      f'At the threshold that validation fixed, {_percent(fpr[alarm][0])} of real videos are called'
      f' fake on {svg.label(alarm)} (the most), and {_percent(tpr[miss][0])} of fakes are found on'
      f' {svg.label(miss)} (the fewest).'
    )
  if ece:
    off = max(ece, key=lambda name: ece[name][0])
    verdict['sentences'].append(
      f'Scores differ from the observed share of fakes by {number(ece[off][0])} at worst'
      f' (expected calibration error, on {svg.label(off)}).'
    )
  return verdict


def _listed(names: Sequence[str]) -> str:
  shown = ', '.join(svg.label(name) for name in names[:8])
  return f'{shown} and {len(names) - 8} more' if len(names) > 8 else shown


def _percent(share: float) -> str:
  return f'{100 * share:.0f}%'


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
      figures = run.figures(name, level)
      if not figures:
        continue
      rescaled = [cell(interval(calibrated(figures), RESCALED[0]))] if has_temperature else []
      rows.append(
        {
          'set': svg.clean(name),
          'role': sections.role([run]) if name == VALIDATION else '',
          'run': svg.clean(run.name),
          'series': run.series % len(svg.SERIES),
          'count': f'{figures["num_real"]:,} + {figures["num_fake"]:,}',
          'cells': [cell(interval(figures, key)) for key, _, _ in HEADLINES] + rescaled,
        }
      )
  return rows


def _has_temperature(runs: Sequence[Run]) -> bool:
  return any(run.results['protocol'].get('temperature') for run in runs)


def _inside(run: Run) -> dict[str, Any]:
  analysis = run.results.get('subspaces') or {}
  return {
    'name': svg.clean(run.name),
    'masks': pictures.masks(run),
    'subspaces': model_panels.draw(run),
    'note': svg.clean((analysis.get('semantics') or {}).get('note', '')),
  }


def _protocol(run: Run) -> dict[str, Any]:
  """How the figures came about: what was run, on what, with which threshold."""
  about, protocol = run.results['run'], run.results['protocol']
  threshold, bootstrap = protocol['threshold'], protocol['bootstrap']
  temperature = protocol.get('temperature')
  facts = [
    ('Run', about.get('workdir')),
    ('Method', f'{about.get("method")} on {about.get("backbone")}, seed {about.get("seed")}'),
    ('Checkpoint', f'{about.get("checkpoint")}, step {about.get("step")}; {_chosen(run)};'
     f' last step {about.get("last_step")}'),
    ('Trainable parameters', f'{about.get("trainable_parameters", 0):,}'),
    ('Threshold', f'{threshold.get("origin")}: {number(run.threshold("frame"))} for frames,'
     f' {number(run.threshold("video"))} for videos'),
    ('Temperature', f'{float(temperature["frame"]):.3f}, {temperature.get("origin")}'
     if temperature else 'none'),
    ('Score of a video', f'{protocol.get("video_score")} of its frames'),
    ('Intervals', f'{run.confidence} percentile bootstrap,'
     f' {bootstrap["draws"]:,} draws over clusters ({bootstrap.get("unit")}),'
     f' seed {bootstrap.get("seed")}'),
    ('Image side', f'{protocol.get("image_size")} px'),
    ('SHA-256 of the configuration', about.get('config_sha256')),
    ('SHA-256 of the base weights', about.get('base_weights')),
    ('SHA-256 of the trained weights', about.get('trained_weights')),
    ('SHA-256 of the training manifest', about.get('train_manifest')),
    ('SHA-256 of the validation manifest', about.get('val_manifest')),
  ]  # fmt: skip
  sets = [
    {
      'name': svg.clean(name),
      'manifest': svg.clean(entry.get('manifest', '')),
      'split': svg.clean(entry.get('split', '')),
      'sha256': svg.clean(entry.get('manifest_sha256', '')),
      'frames': f'{entry.get("frames", 0):,}',
      'videos': f'{entry.get("videos", 0):,}',
      'per_video': _per_video(entry.get('frames_per_video', {})),
      'undecodable': f'{entry.get("undecodable", 0):,}',
      'clusters': f'{entry.get("clusters", 0):,} by {svg.clean(entry.get("unit", "?"))}',
    }
    for name, entry in protocol.get('sets', {}).items()
  ]
  configs = {'Configuration of the run': about.get('config'), 'Suite': run.results.get('suite')}
  return {
    'name': svg.clean(run.name),
    'facts': [(what, svg.clean(value)) for what, value in facts if value not in (None, '')],
    'sets': sets,
    'configs': [
      (title, json.dumps(value, indent=1, ensure_ascii=False))
      for title, value in configs.items()
      if value
    ],
  }


def _chosen(run: Run) -> str:
  about = run.results['run']
  how = f'by {about.get("selected_by")} on validation'
  if run.is_best:
    return f'chosen {how}'
  best = f' (best {how}: step {about["best_step"]})' if about.get('best_step') else ''
  return f'chosen by hand{best}'


def _per_video(counts: Mapping[str, Any]) -> str:
  low, middle, high = (float(counts.get(key, math.nan)) for key in ('min', 'median', 'max'))
  return f'{low:g}' if low == high else f'{low:g} to {high:g}, median {middle:g}'
