import jax
import pytest

from masm_jax.parallel import sharding
from masm_jax.training import program, steps

pytestmark = pytest.mark.usefixtures('standard_promotion')


@pytest.mark.parametrize('fsdp', [1, 2])
def test_the_update_is_traced_once_for_its_report_and_the_step(tiny_run, monkeypatch, fsdp):
  traced = []

  def counted(make=steps.make_update, **kwargs):
    update = make(**kwargs)
    return lambda *args: traced.append(1) or update(*args)

  monkeypatch.setattr(steps, 'make_update', counted)
  run = tiny_run('linear')
  mesh = sharding.make_mesh(fsdp, devices=jax.devices()[: 2 * fsdp])
  traced.clear()
  parts = run.method.init(run.params, jax.random.key(0))
  made = program.make_program(
    run.config, method=run.method, detector_config=run.detector_config, parts=parts,
    total_steps=100, mesh=mesh,
  )  # fmt: skip
  frozen, reference = sharding.place_frozen((parts.frozen, parts.reference), mesh)
  step = steps.jit_train_step(made.train_step, mesh, frozen, reference)
  step.lower(
    made.place_state(parts.trainable, mesh), frozen, reference,
    sharding.place_batch(run.batch(size=run.config.train.batch_size), mesh),
  )  # fmt: skip
  assert len(traced) == 1
