"""Every field of a run, once, with its default. Other configs change values; none adds a field.

Durations are text with a unit: '2000 steps', '3 epochs' or '100000 examples'. Paths may be relative
to the directory that the command runs in.
"""

import importlib

import ml_collections

# Each has a file of its name in this folder, whose `preset(config)` sets what the method is.
METHODS = (
  'masm',  # Artifact subspaces under a dynamic layer mask, 2601.01041v1.
  'fmsd',  # Artifact subspaces in layers that a probe chose, 2601.01041v3.
  'effort',  # A rank-1 residual of each attention kernel, 2411.15633.
  'effort_published',  # The same, with both of its losses.
  'gend',  # LayerNorms on features of length 1, alignment and uniformity, 2508.06248.
  'ln',  # LayerNorms.
  'linear',  # The head alone.
  'bitfit',  # Biases, 2106.10199.
  'lora',  # Low-rank updates, 2106.09685.
  'full',  # Everything.
  'bvg_ls',  # Everything, one layer in each step, ACCV 2024.
)


def dataset(
  manifest: str = '', split: str = '', methods: tuple[str, ...] = ()
) -> ml_collections.ConfigDict:
  """A set of face crops."""
  return ml_collections.ConfigDict(
    {
      'manifest': manifest,  # Parquet, CSV, TFDS folder; 'synthetic' is built in; '' leaves it out.
      'root': '',  # Folder that the manifest's paths start from; '' is the manifest's own folder.
      'split': split,  # train, val or test; '' takes every row.
      'dataset': '',  # Only rows of this data set; '' takes every one.
      'methods': methods,  # Only fakes of these methods, and the real ones; () takes all.
      'flagged': False,  # Also crops that preprocessing flagged: no face, upside down, ...
    }
  )


def get_config() -> ml_collections.ConfigDict:
  """The defaults: MASM on CLIP ViT-L/14, as `docs/methods.md` states them."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Seeds the head, the order of the data, augmentation and random masks.
  config.method = 'masm'  # One of METHODS; set it with set_method or `:method=`, which do the rest.
  config.deterministic = True  # Ask the backend for operations that repeat bit for bit.

  config.backbone = ml_collections.ConfigDict()
  config.backbone.name = 'clip_l14'  # A preset of masm_jax/backbones.
  config.backbone.weights = ''  # A .safetensors file, or random; '' is what ships with the demo.
  config.backbone.image_size = 0  # Side of the input, pixels; 0 is the preset's own.
  config.backbone.dtype = 'auto'  # Compute type: float32, bfloat16; auto: bfloat16 on accelerators.
  config.backbone.remat = False  # Recompute activations in the backward pass: less memory.

  config.head = ml_collections.ConfigDict()
  config.head.normalize_features = False  # Put features on the unit sphere before the head (GenD).
  config.head.label_smoothing = 0.0  # Share of the target spread over both classes.
  config.head.class_weights = (1.0, 1.0)  # Weight of (real, fake) in the cross-entropy.

  config.loss = ml_collections.ConfigDict()  # Beside the cross-entropy, over the global batch.
  config.loss.alignment = 0.0  # Weight of the distance between features of one class (GenD).
  config.loss.uniformity = 0.0  # Weight of the loss that spreads features over the sphere (GenD).

  config.lsda = ml_collections.ConfigDict()  # Latent augmentation (LSDA), for any method.
  config.lsda.weight = 0.0  # Weight of the cross-entropy on augmented features; 0 leaves it out.
  config.lsda.within = 1.0  # Longest step towards another example of the class or off its mean.
  config.lsda.noise = 1.0  # Of the Gaussian noise, in units of the class's spread.
  config.lsda.cross = 0.5  # Chance that a fake is mixed with one of another forgery instead.

  config.subspace = ml_collections.ConfigDict()
  config.subspace.num_subspaces = 4  # K artifact subspaces per kernel.
  config.subspace.rank = 8  # q, rank of each.
  config.subspace.split = 'interleaved'  # How components are dealt out: interleaved or contiguous.
  config.subspace.semantic_rank = 0  # Size of the semantic part; 0: all that is not artifact.
  config.subspace.semantic_energy = 1.0  # In its place: so many as hold this share of |W|^2.
  config.subspace.parametrization = 'svd'  # svd: U, S, V; balanced: U sqrt(S), sqrt(S) V; core: M.
  config.subspace.targets = 'all'  # attention, mlp, all, or a pattern over dense layers' paths.
  config.subspace.forward = 'auto'  # factored, materialized, or auto: fewer operations.
  config.subspace.keep_factors = False  # Keep U_sem, S_sem, V_sem even where no loss needs them.
  config.subspace.cache_dir = ''  # Where decompositions are kept; '' is inside the workdir.

  config.lora = ml_collections.ConfigDict()
  config.lora.targets = 'attention'  # attention, mlp, all, or a pattern over dense layers' paths.
  config.lora.rank = 8  # r, rank of the update.
  config.lora.alpha = 16.0  # The update is scaled by alpha / r.
  config.lora.dropout = 0.0  # Share of the update's input that is dropped in training.

  config.mask = ml_collections.ConfigDict()
  config.mask.kind = 'dynamic'  # dynamic; oneshot (FMSD); controls: none, all, random, inverse.
  config.mask.score = 'grad_norm'  # grad_norm, rgn, bvr, bvr_unbiased, gsnr or forgery.
  config.mask.select = 'per_subspace'  # per_subspace, per_layer or global.
  config.mask.granularity = 'block_subspace'  # A group: block, block_subspace or kernel_subspace.
  config.mask.keep = 0.9  # Share that stays on: of the groups, or of their scores.
  config.mask.keep_by = 'score'  # share: of the groups; score: the fewest that hold so much of it.
  config.mask.keep_count = 0  # So many of each ranking stay on, in place of a share; 0: the share.
  config.mask.hysteresis = 0.1  # A group that is on counts as if its score were so much higher.
  config.mask.probe_batches = 16  # Batches that FMSD measures gradients on before it trains.
  config.mask.head_batches = 16  # Batches before them that the probe's head is fitted on; 0: none.
  config.mask.warmup_steps = 200  # Steps before the first mask is drawn; at least 2.
  config.mask.close_steps = 0  # Steps in which masks close behind them, from everything to `keep`.
  config.mask.refresh_steps = 200  # Steps between two masks.
  config.mask.decay = 0.99  # Of the gradient's running mean and square.
  config.mask.eps = 1e-6  # Least variance of a group, as a share of its mean square.

  config.regularizer = ml_collections.ConfigDict()
  config.regularizer.orthogonality = 1.0  # lambda_orth; 0 leaves the loss out.
  config.regularizer.spectral = 1.0  # lambda_spec; 0 leaves the loss out.
  config.regularizer.w_self = 1.0  # Each artifact basis orthonormal.
  config.regularizer.w_cross = 2.0  # Artifact bases orthogonal to each other.
  config.regularizer.w_sem = 0.0  # Artifact bases orthogonal to the semantic one.
  config.regularizer.spectral_kind = 'energy'  # energy or singular_values.
  config.regularizer.relative_energy = True  # Divide by an energy; False is Effort's own form.
  config.regularizer.energy_of = 'artifact'  # By whose: artifact, |S_0|^2, or kernel, |W|^2.
  config.regularizer.squared = True  # Squared norms of Gram matrices; False: norms, as Effort's.
  config.regularizer.mode = 'loss'  # Orthogonality as a loss, decoupled from Adam, or exact.

  config.optim = ml_collections.ConfigDict()
  config.optim.name = 'adam'  # adam (weight decay as L2 in the gradient) or adamw (decoupled).
  config.optim.learning_rate = 2e-4  # Peak.
  config.optim.b1 = 0.9  # Decay of Adam's first moment.
  config.optim.b2 = 0.999  # Decay of Adam's second moment.
  config.optim.eps = 1e-8  # Adam's epsilon.
  config.optim.weight_decay = 0.0  # On every trainable leaf.
  config.optim.decay_towards = 'zero'  # zero, or start: the leaves as they began (the head: zero).
  config.optim.clip_norm = 0.0  # Global gradient norm over the trainable leaves; 0: no clipping.
  config.optim.schedule = 'constant'  # constant or cosine.
  config.optim.warmup = '0 steps'  # Linear warm-up.
  config.optim.warmup_from = 0.0  # Learning rate where the warm-up starts.
  config.optim.final_learning_rate = 0.0  # Where the cosine ends.
  config.optim.restart_every = '0 epochs'  # Length of each cosine after the warm-up; 0: just one.

  config.data = ml_collections.ConfigDict()
  config.data.train = dataset(split='train')  # What is learned from.
  config.data.val = dataset(split='val')  # Chooses the best checkpoint; never a test set.
  config.data.tests = ml_collections.ConfigDict()  # Name -> dataset(...), evaluated at the end.
  config.data.sampler = 'uniform'  # uniform; balanced, per_method, paired: real and fake in turn.
  config.data.augment = 'gend'  # none, flip, deepfakebench, effort, gend; sbi: fakes of real faces.
  config.data.num_workers = 0  # Worker processes that load images; 0 loads in this one.
  config.data.num_threads = 4  # Threads per process that load images.
  config.data.max_replaced_share = 0.01  # Stop when more records than this cannot be decoded.
  config.data.synthetic = ml_collections.ConfigDict()  # The built-in set.
  config.data.synthetic.root = ''  # Where it is drawn; '' is the user's cache folder.
  config.data.synthetic.seed = 0  # Of every portrait and forgery.
  config.data.synthetic.size_px = 64  # Side of a crop, pixels.
  config.data.synthetic.identities = 90  # People over all splits; no one is in two of them.
  config.data.synthetic.strength = 1.0  # Of the forgeries' traces: above 1 they are easier to find.

  config.train = ml_collections.ConfigDict()
  config.train.batch_size = 32  # Global: over all devices of all hosts.
  config.train.duration = '10 epochs'  # Of the whole run.

  config.eval = ml_collections.ConfigDict()
  config.eval.batch_size = 64  # Global.
  config.eval.every = '1 epochs'  # How often the validation set is scored; also at the end.
  config.eval.select_by = 'video_auroc'  # Metric of the best checkpoint: {frame,video}_{auroc,ap}.
  config.eval.on_train = False  # Also score the training set, without augmentation, at the end.

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every = '1 epochs'  # How often the run is saved; also when it is stopped.
  config.checkpoint.keep = 2  # Newest checkpoints kept, beside the best one.

  config.log = ml_collections.ConfigDict()
  config.log.every_steps = 10  # Steps over which training metrics are averaged and then written.

  config.mesh = ml_collections.ConfigDict()
  config.mesh.fsdp = 1  # Devices that share one copy of the frozen kernels.
  return config.lock()


def get_suite() -> ml_collections.ConfigDict:
  """The defaults of an evaluation, for `python -m masm_jax.evaluate --suite=...`."""
  suite = ml_collections.ConfigDict()
  suite.sets = ml_collections.ConfigDict()  # Name -> dataset(...); none: those of the run's config.
  suite.val = dataset(split='val')  # Fixes the thresholds; no manifest: the run's validation set.
  suite.train = dataset(split='train')  # Searched for leaks; no manifest: the run's training set.
  suite.synthetic = ml_collections.ConfigDict()  # The built-in set, as `data.synthetic` of a run.
  suite.synthetic.root = ''  # Where it is drawn; '' is the user's cache folder.
  suite.synthetic.seed = 0  # Of every portrait and forgery.
  suite.synthetic.size_px = 64  # Side of a crop, pixels.
  suite.synthetic.identities = 90  # People over all splits; no one is in two of them.
  suite.synthetic.strength = 1.0  # Of the forgeries' traces: above 1 they are easier to find.

  suite.batch_size = 64  # Global: over all devices of all hosts.
  suite.num_threads = 4  # Threads per process that load images.
  suite.fsdp = 1  # Devices that share one copy of the large kernels.
  suite.video_score = 'mean'  # Of a video's frames: mean, median or max.
  suite.temperature = False  # Also report probabilities rescaled by a temperature fitted on val.
  suite.groups = ('method', 'compression')  # Columns whose values get metrics of their own.
  suite.max_groups = 40  # A column with more values than this is left out, with a warning.
  suite.features_per_set = 2000  # Features kept per set, for the report's map; 0 keeps none.
  suite.mistakes_per_set = 12  # Worst mistakes of each kind kept as thumbnails; 0 keeps none.

  suite.bootstrap = ml_collections.ConfigDict()
  suite.bootstrap.draws = 2000  # Per interval.
  suite.bootstrap.confidence = 0.95  # Share of the draws within an interval.
  suite.bootstrap.unit = 'auto'  # video, identity, or auto: identity where that leaves enough.
  suite.bootstrap.seed = 0  # Of the draws.

  suite.abstention = ml_collections.ConfigDict()  # Scores that are left undecided.
  suite.abstention.fpr = 0.01  # Share of validation's reals above the upper end of the band.
  suite.abstention.fnr = 0.01  # Share of validation's fakes below its lower end.

  suite.robustness = ml_collections.ConfigDict()
  suite.robustness.perturbations = ()  # Of crops: 'CS', 'gend_jpeg'; of videos: 'VC', 'video_CS'.
  suite.robustness.levels = ()  # Levels of each, 1 the mildest; () for all.
  suite.robustness.sets = ()  # Which sets are perturbed; () for all but val.
  suite.robustness.copies = 'data/{set}_{key}{level}/manifest.parquet'  # Crops of perturbed videos.
  suite.robustness.seed = 0  # Of noise and of the places of blocks.
  return suite.lock()


def with_arguments(
  config: ml_collections.ConfigDict, arg: str | None, names: dict[str, str]
) -> ml_collections.ConfigDict:
  """Sets fields from a config file's argument, `method=linear,backbone=clip_b16`.

  `method=` does what `set_method` does: give it before changing what a method may set.

  Args:
    config: what to change.
    arg: what stands behind the colon of --config, if anything.
    names: which arguments there are, and the dotted field that each sets.
  """
  for part in filter(None, (arg or '').split(',')):
    name, equals, value = part.partition('=')
    if name not in names or not equals:
      known = ', '.join(f'{known}=...' for known in names)
      raise ValueError(f'config argument {part!r}: there are {known}')
    if names[name] == 'method':
      set_method(config, value)
    else:
      config.update_from_flattened_dict({names[name]: value})
  return config


def set_method(config: ml_collections.ConfigDict, method: str) -> None:
  """Sets a method in a config: its name, and what `configs/METHOD.py` says that it is."""
  if method not in METHODS:
    raise ValueError(f'there is no method {method!r}: choose one of {", ".join(METHODS)}')
  config.method = method  # Checked above; its file knows the rest.
  importlib.import_module(f'configs.{method}').preset(config)
