"""What a classifier takes, told before it is allocated."""

from __future__ import annotations

from recognition.partial_fc.centres import class_range

FLOAT = 4  # bytes


def estimate(
    num_classes: int,
    embedding_size: int,
    global_batch: int,
    *,
    sample_rate: float = 1.0,
    state: str = "all",
    moments: int = 1,
    accumulate: int = 1,
    world_size: int = 1,
) -> dict[str, int]:
    """Bytes of the process that holds most classes, by purpose; their sum is the peak of an update.

    moments: numbers that the optimizer keeps for each of a centre's: SGD with momentum 1, AdamW 2. state: see
    PartialFC. accumulate: micro-steps of an update. Not in it: a few numbers per class and image, what a margin
    keeps for backward, two more buffers of the logits' size where negatives are filtered, on CUDA what bf16 rounds,
    and that a batch of more classes than the share compares with all of its own.
    "compared centres" is what a step makes of the centres it compares with: unit rows and their gradient; after that
    the rows, gradients and momenta that the optimizer is shown, and its own work space.
    """
    classes = class_range(num_classes, world_size, 0)[1]
    sampled = sample_rate < 1
    rows = min(classes, max(1, round(sample_rate * classes)))
    centres, compared, logits = classes * embedding_size, rows * embedding_size, global_batch * rows
    kept = moments * (compared if sampled and state == "sampled" else centres)
    if sampled:  # gradients of micro-steps are strung together until the optimizer's step sums them
        waiting = (accumulate - 1) * compared
        step = compared * (3 + moments) + (accumulate * compared if accumulate > 1 else 0)
    else:
        waiting = compared if accumulate > 1 else 0
        step = 2 * compared
    work = max(waiting + max(2 * logits + compared, logits + 2 * compared), step)
    return {
        "class centres": FLOAT * centres,
        "their optimizer state": FLOAT * kept,
        "compared centres": FLOAT * (work - 2 * logits),
        "logits": FLOAT * 2 * logits,
    }
