"""Every setting with its default. Recipes are laid over this file; `a.b=c` on the command line goes over both.

A section with a `name` chooses a plugin; its other keys are that plugin's arguments.
"""

from easydict import EasyDict as edict

config = edict()

config.run = edict()
config.run.name = ""  # folder under run.root; "" = the recipe's file name
config.run.root = "runs"  # where run folders go
config.run.seed = 0  # sample order, flips, degradation, class centres and adapters are functions of it

config.needs = []  # files a recipe cannot do without: dicts of path and help, the sentence that says how to get it

config.backbone = edict(name="r50")  # the network; arguments as its signature says (tools/train.py --list)
config.backbone.weights = ""  # to start from: a file, or hf://owner/repo/file[@revision]; "" = random, from scratch

config.adapter = edict(name="full")  # what is trained of the backbone: full, lora, dual_lora, ...
config.adapter.weights = ""  # adapter to go on from: its folder or a finished run, its gate with it; "" = a new one

config.scorer = edict(name="sharpness")  # quality score of what the network sees; used only by adapters with a gate
config.gate = edict()
config.gate.shape = "linear"  # from score to gate: linear, sigmoid, petal, steps, learned, per_layer (iqa/gates)
config.gate.midpoint = 1.4  # score at which the gate is 0.5, in the scorer's own units; "auto" = gate.fit=roles
config.gate.slope = 0.7  # change of the gate per unit of score at the midpoint; sigmoid, learned, per_layer: times 4
config.gate.fit = ""  # midpoint and slope from the images when a run starts: roles, otsu, quantiles; "" = as written
config.gate.sample = 2000  # images that the fit looks at; 0 = an epoch of them
config.gate.levels = 4  # of steps: how many gates there are
config.gate.lr_scale = 1.0  # of learned, per_layer: times optim.lr, for what the gate learns

config.margin = edict(name="cosface", margin=0.4, scale=64.0)  # the classification loss on cosines
config.objectives = []  # losses on embeddings beside it: dicts of name, weight and arguments

config.classifier = edict()
config.classifier.sample_rate = 1.0  # share of the class centres that a step compares with, in (0, 1]
config.classifier.sampling = "uniform"  # which they are beside the batch's own: uniform, or hard_negatives
config.classifier.hard_share = 0.5  # hard_negatives: share of the others that are those nearest to the batch, in [0, 1]
config.classifier.state = "all"  # momentum is kept of all centres, or of those of the last step: sampled (sgd only)
config.classifier.precision = "fp32"  # products with the centres: fp32, or bf16 with float32 sums
config.classifier.filter_threshold = 0.0  # negatives with a cosine above it are ignored, in (0, 1); 0 = off
config.classifier.filter_mode = "remove"  # from the softmax, or zero: they count as cosine 0, as in arcface_torch
config.classifier.init = "random"  # class centres: random, class_means of the starting model, or a run's: its path
config.classifier.lr_scale = 1.0  # times optim.lr, for the class centres
config.classifier.weight = 1.0  # of the classification loss beside the objectives; 0 = objectives alone
config.classifier.twins = False  # classify each picture as it was before degradation, too; doubles a step's cost

config.data = edict()
config.data.records = []  # .rec files or their folders; one or many shards
config.data.classes = ""  # equal labels in several sets: offset = other people, shared = the same; "" = an error
config.data.most_classes = 0  # labels from here on are bad records; 0 = the number of images, more would be empty
config.data.hold_out = 0  # keep classes divisible by this out of training, to choose settings on; 0 = none
config.data.loader = "auto"  # auto = dali on CUDA where it is installed, else torch; dali or torch by name
config.data.batch_size = 128  # images per process and micro-step
config.data.sampling = "shuffled"  # each image once an epoch; balanced = batches of identities, per_class images each
config.data.per_class = 4  # balanced: images of an identity in a global batch, that of all processes together
config.data.workers = 1  # decoding processes (torch) or threads (dali), for each training process
config.data.flip = True  # mirror half of the images
config.data.augment = []  # before degradation: adaface, arcface_torch, or dicts of name (crop, hsv, ...) and arguments
config.data.scores = "auto"  # for gates: sidecar = each stored picture once, kept beside the records; online; auto
config.data.on_bad_record = "error"  # error = stop, naming it; skip = list it, and take another one in its place
config.data.bad_record_limit = 0.001  # skip: share of the set's images that may be bad before the run stops

config.degradation = edict()
config.degradation.share = 0.0  # share of images made low-resolution, in [0, 1]
config.degradation.choose = "independent"  # half_batch = exactly that share of each global batch; or legacy_epoch_head
config.degradation.sides = [7, 56]  # smallest and largest side they are reduced to, pixels
config.degradation.spread = "log"  # of sides: log = 7 to 14 px as often as 14 to 28; uniform = each side alike
config.degradation.blur = 0.0  # largest standard deviation of the blur, pixels of the small image
config.degradation.noise = 0.0  # largest standard deviation of the noise, grey levels
config.degradation.jpeg = []  # lowest and highest JPEG quality of the small image, 1 to 100; [] = none
config.degradation.chain = "plain"  # plain = area, blur, noise, JPEG, bicubic; realistic = many kinds in random order
config.degradation.kernels = ["isotropic", "anisotropic", "generalised", "motion", "sinc"]  # realistic: of its blurs
config.degradation.noises = ["gaussian", "grey", "shot", "sensor"]  # realistic: of its noises
config.degradation.down = ["area", "bilinear", "bicubic", "nearest"]  # realistic: ways to reduce
config.degradation.up = ["bicubic", "bilinear"]  # realistic: ways back to 112 pixels; a name twice is twice as likely
config.degradation.first_stage = 4.0  # realistic: half go through a side up to this many times larger, 1 to 16

config.optim = edict()
config.optim.name = "sgd"  # sgd or adamw
config.optim.lr = 0.1  # peak learning rate
config.optim.momentum = 0.9  # sgd only
config.optim.betas = [0.9, 0.999]  # adamw only
config.optim.weight_decay = 5e-4  # on weights and class centres; never on norms and biases
config.optim.clip = 5.0  # largest gradient norm of the network, 0 = none; class centres are not clipped
config.optim.average = 0.0  # decay of a running mean of the trained weights, such as 0.999: it is delivered; 0 = none
config.optim.accumulate = 1  # micro-steps per update; equals the big batch but for batch statistics and sampling

config.schedule = edict()
config.schedule.name = "polynomial"  # polynomial or cosine, from the peak to zero
config.schedule.power = 2.0  # polynomial only: 1 = linear
config.schedule.epochs = 20.0  # passes over the records
config.schedule.warmup_epochs = 0.0  # lr rises linearly over these, from the first update on
config.schedule.unfreeze = []  # layers that rest at first: dicts of layers (globs over their names) and from_epoch

config.train = edict()
config.train.device = "auto"  # auto = CUDA where there is one; cuda or cpu by name
config.train.precision = "fp32"  # fp32, bf16 or fp16 (with loss scaling)
config.train.compile = False  # torch.compile the network: slow start, faster steps
config.train.sharding = "none"  # full = backbone, gradients, optimizer state in shares over processes (FSDP2), not DDP
config.train.checkpoint_activations = False  # recompute blocks in backward: less memory, about a third more time
config.train.resume = "auto"  # auto = newest checkpoint of the run, never, or the path of a checkpoint or run
config.train.save_every = 1.0  # epochs between checkpoints, 0 = not by epochs
config.train.save_every_updates = 0  # updates between checkpoints, 0 = not by updates
config.train.save_every_minutes = 0.0  # minutes between checkpoints, 0 = not by time
config.train.keep = 2  # newest checkpoints that stay, beside the best one; 0 = all
config.train.async_save = True  # write checkpoints while training goes on; it waits for the copy only
config.train.on_save_error = "continue"  # a checkpoint could not be written: continue until the next, or stop
config.train.non_finite_limit = 10  # updates skipped in a row, for a loss or gradient not finite, before the run stops
config.train.deterministic = False  # only kernels that repeat bit for bit, or an error; slower on CUDA
config.train.timeout_minutes = 30.0  # how long a process waits for the others before it gives up
config.train.log_every = 10  # updates between log lines

config.evaluation = edict()
config.evaluation.sets = []  # dicts of name, kind (a protocol: tools/train.py --list) and its arguments
config.evaluation.low_res = [112]  # sides in pixels: N for N-against-N, [gallery, probe] where they differ
config.evaluation.far = [1e-2, 1e-3]  # false accept rates at which the true accept rate is reported
config.evaluation.ranks = [1, 5, 20]  # of identification
config.evaluation.flip = False  # add the embedding of the mirrored face
config.evaluation.batch_size = 128  # images per process
config.evaluation.bootstrap = 1000  # resamples behind each interval, 0 = no intervals
config.evaluation.seed = 0  # of the resamples
config.evaluation.every = 1.0  # epochs between evaluations during training, 0 = none
config.evaluation.budget = 0.02  # largest share of the wall time they take: put off until it allows one; 1 = no limit
config.evaluation.best = ""  # figure whose best checkpoint stays, such as lfw/14/accuracy; "" = mean of the first ones
config.evaluation.at_start = True  # evaluate the starting model too: the 'before' of every table

config.evaluation.edc = edict()  # quality scores against a matcher's errors: tools/evaluate.py --edc
config.evaluation.edc.scorers = []  # a text each: "sharpness:variance", "brisque weights=A ranges=B"; [] = all
config.evaluation.edc.share = 0.9  # share of the images that are reduced, each to a side of its own, in [0, 1]
config.evaluation.edc.sides = [7, 112]  # smallest and largest side, pixels; log-uniform
config.evaluation.edc.blur = 0.0  # as in the section degradation, and noise and jpeg
config.evaluation.edc.noise = 0.0  # grey levels
config.evaluation.edc.jpeg = []  # lowest and highest quality; [] = none
config.evaluation.edc.seed = 0  # of the sides, and of the random quality that is the control
config.evaluation.edc.least = [14]  # beside all pairs, those without an image of fewer pixels, for each of these sides
config.evaluation.edc.most = 0.3  # largest share of genuine pairs discarded: the range of pAUC
config.evaluation.edc.against = ["oracle"]  # scorers that all others are compared with
config.evaluation.edc.ladder = 64  # images whose scores at 112, 56, 28, 14, 7 px are told; 0 = none
