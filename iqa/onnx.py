"""Any quality network from an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iqa import SCORERS
from iqa._image import check_images, find_file, full_precision
from recognition.types import Needs

if TYPE_CHECKING:
    import onnxruntime

WHERE_FROM = "give the network's .onnx file: scorer.file=FILE, or scorer.name=onnx:FILE for short"
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
BLANK = 112  # side in pixels of the grey picture that tries a network whose file leaves its size open


@SCORERS.register("onnx")
class OnnxFile(nn.Module):
    """A quality network from an ONNX file (LightQNet, eDifFIQA ...), run by onnxruntime; needs that file.

    file: one image input, float32 or float16, with a batch of 1 or of any size; one figure per image out.
    output: name of the output to take; empty: the only one.
    size: side of the square picture that the network takes; 0: what the file says, and the picture's own size where the
        file leaves it open. Pictures of another size are resized (bilinear, pixel centres, no antialiasing).
    layout, colour: what the network takes. white: its value of white before mean and std, mostly 1 or 255.
    mean, std: one number or three in the order of `colour`: (white * image - mean) / std. With the defaults that is
        [-1, 1], as most face networks want; ImageNet's is mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225).
    higher_is_better: False turns the sign. low, high: typical raw figures, for `range`.
    threads: of onnxruntime on the CPU; 0: as many as torch has.
    Images on a CUDA device are scored there where onnxruntime-gpu is installed, else on the CPU.
    ValueError for a file that is missing, cannot be read, or has other inputs and outputs.
    """

    needs: Needs = "image"
    version = 1
    exportable = False
    export_obstacle = (
        "onnxruntime runs its network, which torch cannot see; two ONNX files are joined by onnx.compose outside"
    )

    def __init__(
        self,
        file: str | None = None,
        output: str = "",
        size: int = 0,
        layout: Literal["NCHW", "NHWC"] = "NCHW",
        colour: Literal["RGB", "BGR"] = "RGB",
        white: float = 1.0,
        mean: float | Sequence[float] = (0.5, 0.5, 0.5),
        std: float | Sequence[float] = (0.5, 0.5, 0.5),
        higher_is_better: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        threads: int = 0,
    ) -> None:
        super().__init__()
        for name, value, known in (("layout", layout, ("NCHW", "NHWC")), ("colour", colour, ("RGB", "BGR"))):
            if value not in known:
                raise ValueError(f"scorer 'onnx': unknown {name} '{value}'; take one of {', '.join(known)}")
        if size < 0 or threads < 0 or not low < high:
            raise ValueError(
                f"scorer 'onnx': size={size} and threads={threads} must be 0 or more, and low={low} below high={high}"
            )
        self.file = str(find_file(file, "onnx", "file", WHERE_FROM))
        self.layout, self.colour, self.white, self.threads = layout, colour, float(white), threads
        self.mean, self.std = _channels("mean", mean), _channels("std", std)
        self.higher_is_better = higher_is_better
        self.range = (float(low), float(high)) if higher_is_better else (-float(high), -float(low))
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        session = self._session(torch.device("cpu"))
        self.input, self.type, self.side, self.one_by_one = self._read_input(session, size)
        self.output = self._read_output(session, output)
        self._score(torch.full((2, 3, *(self.side or (BLANK, BLANK))), 0.5))  # what only a run can tell

    def forward(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) RGB in [0, 1]. Returns (B,) float32, without gradient.

        RuntimeError in an exported graph, which would hold the figures of its example alone.
        """
        check_images(image, "onnx")
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(f"scorer 'onnx' cannot be exported: {self.export_obstacle}")
        return self._score(image)

    def extra_repr(self) -> str:
        return f"file={self.file}, output={self.output}, higher_is_better={self.higher_is_better}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_sessions": {}}  # a session can be neither copied nor pickled: it is opened again

    @torch.no_grad()
    def _score(self, image: Tensor) -> Tensor:
        with full_precision(image):
            prepared = self._prepare(image.float()).cpu().numpy().astype(self.type)
        session = self._session(image.device)
        batches = np.split(prepared, len(prepared)) if self.one_by_one and len(prepared) else [prepared]
        figures = [self._run(session, batch) for batch in batches]
        score = torch.from_numpy(np.concatenate(figures)).to(image.device)
        return score if self.higher_is_better else -score

    def _prepare(self, image: Tensor) -> Tensor:
        if self.side and tuple(image.shape[2:]) != self.side:
            image = F.interpolate(image, size=self.side, mode="bilinear", align_corners=False)
        if self.colour == "BGR":
            image = image.flip(1)
        mean, std = (torch.tensor(v, device=image.device).reshape(1, 3, 1, 1) for v in (self.mean, self.std))
        image = (image * self.white - mean) / std
        return image.permute(0, 2, 3, 1).contiguous() if self.layout == "NHWC" else image

    def _run(self, session: onnxruntime.InferenceSession, batch: np.ndarray) -> np.ndarray:
        """One batch -> (B,) float32."""
        if not len(batch):
            return np.zeros(0, np.float32)
        try:
            (figures,) = session.run([self.output], {self.input: batch})
        except _faults() as error:
            raise ValueError(f"scorer 'onnx': {self.file} does not run on input {batch.shape}: {error}") from None
        if np.size(figures) != len(batch) or np.shape(figures)[:1] != batch.shape[:1]:
            raise ValueError(
                f"scorer 'onnx': output '{self.output}' of {self.file} is {np.shape(figures)} for {len(batch)} images; "
                "wanted one figure per image, (B,) or (B, 1): name another in scorer.output, or add the sum to the file"
            )
        return np.asarray(figures, np.float32).reshape(-1)

    def _session(self, device: torch.device) -> onnxruntime.InferenceSession:
        """The device's session, opened at its first use."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "scorer 'onnx' needs onnxruntime: `pip install onnxruntime` or onnxruntime-gpu"
            ) from error
        on_card = device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        place = str(device) if on_card else "cpu"
        if place in self._sessions:
            return self._sessions[place]
        options = onnxruntime.SessionOptions()
        options.use_deterministic_compute = True
        options.intra_op_num_threads = self.threads or torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors come as exceptions
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if on_card:
            # searching for the fastest convolution picks another at each start, and TF32 keeps 10 bits
            settings = {"device_id": str(device.index or 0), "cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
            providers.insert(0, ("CUDAExecutionProvider", settings))
        try:
            session = onnxruntime.InferenceSession(self.file, options, providers=providers)
        except _faults() as error:
            raise ValueError(f"scorer 'onnx': onnxruntime cannot open {self.file}: {error}") from None
        return self._sessions.setdefault(place, session)

    def _read_input(
        self, session: onnxruntime.InferenceSession, size: int
    ) -> tuple[str, type[np.generic], tuple[int, int] | None, bool]:
        """Name, type, (height, width) or None, and whether it takes one image at a time."""
        inputs = session.get_inputs()
        if len(inputs) != 1:
            named = ", ".join(f"{i.name} {i.shape}" for i in inputs)
            raise ValueError(
                f"scorer 'onnx': {self.file} has {len(inputs)} inputs ({named}); wanted one, the picture: a network "
                "that also wants a second picture or landmarks cannot be used here"
            )
        found = inputs[0]
        shape = [axis if isinstance(axis, int) and axis > 0 else None for axis in found.shape]  # others are left open
        wanted = "(B, 3, H, W)" if self.layout == "NCHW" else "(B, H, W, 3)"
        channel = 1 if self.layout == "NCHW" else 3
        sides = [side for axis, side in enumerate(shape) if axis not in (0, channel)]
        fits = shape[channel : channel + 1] in ([3], [None]) and 3 not in sides and shape[:1] in ([1], [None])
        if found.type not in TYPES or len(shape) != 4 or not fits:
            raise ValueError(
                f"scorer 'onnx': the input of {self.file} is {found.type} {found.shape}; wanted float or float16 "
                f"{wanted} with a batch of 1 or open: set scorer.layout, or export the network again"
            )
        height, width = sides
        if size and ({height, width} - {None, size}):
            raise ValueError(
                f"scorer 'onnx': {self.file} takes {height}x{width} pixels and scorer.size is {size}; leave it out"
            )
        known = (height or size, width or size)
        return found.name, TYPES[found.type], known if all(known) else None, shape[0] == 1

    def _read_output(self, session: onnxruntime.InferenceSession, name: str) -> str:
        names = [o.name for o in session.get_outputs()]
        if name in names or (not name and len(names) == 1):
            return name or names[0]
        problem = f"has no output '{name}'" if name else f"has {len(names)} outputs"
        raise ValueError(f"scorer 'onnx': {self.file} {problem}; set scorer.output to one of {', '.join(names)}")


def _channels(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),) * 3
    if len(values) != 3 or (name == "std" and 0.0 in values):
        raise ValueError(f"scorer 'onnx': {name} must be one number or three{', not 0' * (name == 'std')}, got {value}")
    return values


def _faults() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: classes of its own that share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
