"""What is done to pictures of training before they are degraded; one file each, found by name.

An augmentation is a class; `probability` in [0, 1] is its first argument, and its methods are those of
recognition.data.augmentations.sequence.Augmentation. It keeps every point of the face where it is, so that landmarks
stay true.
"""

from recognition.registry import Registry

AUGMENTATIONS = Registry("augmentation", package="recognition.data.augmentations")

PRESETS = {  # the published lists, which are their plugins' defaults
    "adaface": ("crop", "low_res", "photometric"),  # Kim et al. 2022 (2204.00964), the program's augmenter
    "arcface_torch": ("resize", "blur", "hsv", "gray"),  # insightface, arcface_torch's DALI loader with dali_aug
}
