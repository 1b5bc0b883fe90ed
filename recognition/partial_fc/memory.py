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
    in_place: bool = True,
) -> dict[str, int]:
    """Bytes of the process that holds most classes, by purpose; their sum is the peak of an update.

    moments: numbers that the optimizer keeps for each of a centre's: SGD with momentum 1, AdamW 2. state: see
    PartialFC. accumulate: micro-steps of an update. in_place: whether the margin has it, see types.Margin; without it
    there are two buffers of logits. Not in it: a few numbers per class and image, blocks of some MiB, what a margin
    keeps for backward, two more buffers of the logits' size where negatives are filtered, on CUDA what bf16 rounds,
    and that a batch of more classes than the share compares with all of its own.
    "compared centres" is what a step makes of the centres it compares with: their gradient, with state "sampled" the
    next momentum; with AdamW the rows and moments that the optimizer is shown, and its own work space, which on CUDA is
    smaller by as much as the gradient. Buffers of logits stay during the step on a CPU, see blocks.Memory; what CUDA's
    allocator makes of them meanwhile is not taken off.
    """
    classes = class_range(num_classes, world_size, 0)[1]
    sampled = sample_rate < 1
    rows = min(classes, max(1, round(sample_rate * classes)))
    centres, compared, logits = classes * embedding_size, rows * embedding_size, global_batch * rows
    kept = moments * (compared if sampled and state == "sampled" else centres)
    buffers = logits if in_place else 2 * logits
    by_blocks = moments < 2  # SGD
    if sampled:  # gradients of micro-steps are strung together until the optimizer's step sums them
        waiting = (accumulate - 1) * compared
        step = compared * ((2 if state == "sampled" else 1) if by_blocks else 4 + moments)
        step += accumulate * compared if accumulate > 1 else 0
    else:
        waiting = compared if accumulate > 1 else 0
        step = compared if by_blocks else 3 * compared
    work = max(waiting + compared, step)
    return {
        "class centres": FLOAT * centres,
        "their optimizer state": FLOAT * kept,
        "compared centres": FLOAT * work,
        "logits": FLOAT * buffers,
    }
