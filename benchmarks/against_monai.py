"""How fast is whole-volume inference beside MONAI's sliding window and beside a network of nnU-Net's size?

    python benchmarks/against_monai.py [--roi MASK.nii.gz] [--device cuda] [--precision float32 bf16]
        [--repetitions 3] [--output results.json]

In turn in one process, on one volume of 240x240x155 voxels with two channels and five classes (random intensities;
the ROI is the mask given, or an ellipsoid):

  ours         the default three-pathway model with `tiling = "auto"`, as an inference session predicts a case
  twin         a twin of that model whose convolutions are padded, so that it can be used like any other network, by
               MONAI's `sliding_window_inference` (windows of 96^3, its default overlap of 0.25)
  nnU-Net      a U-Net of the size that nnU-Net plans for such scans (MONAI's DynUNet; 32 to 320 feature maps), windows
               of 128^3 that overlap by half, weighted

The two others are given the bounding box of the ROI only.

Times are from tensors on the host to probabilities on the host; medians after one run of each.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet
from throughput import CLASSES, default_model, scan, scan_options
from torch import Tensor, nn

from deepmedic import devices
from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.config.sections import ExecutionConfig
from deepmedic.inference.execution import InferenceSettings
from deepmedic.inference.predictor import predict_volume
from deepmedic.model.network import DeepMedicNet

TWIN_WINDOW, UNET_WINDOW = (96, 96, 96), (128, 128, 128)


class PaddedTwin(nn.Module):
    """The same pathways with padded convolutions; every output is as large as its input."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.factors = [pathway.factor for pathway in architecture.parallel]
        self.pathways = nn.ModuleList(
            _blocks(pathway, architecture.input_channels) for pathway in architecture.parallel
        )
        self.fc = _blocks(architecture.fc, sum(pathway.feature_maps[-1] for pathway in architecture.parallel))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes, x, y, z] of images [B, channels, x, y, z]."""
        outputs = []
        for pathway, (x, y, z) in zip(self.pathways, self.factors, strict=True):
            output = pathway(images[:, :, ::x, ::y, ::z])
            outputs.append(nn.functional.interpolate(output, size=images.shape[2:], mode="nearest"))
        logits: Tensor = self.fc(torch.cat(outputs, dim=1))
        return logits


def _blocks(pathway: Pathway, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for maps, kernel in zip(pathway.feature_maps, pathway.kernels, strict=True):
        layers += [nn.BatchNorm3d(channels), nn.PReLU(channels), nn.Conv3d(channels, maps, kernel, padding="same")]
        channels = maps
    return nn.Sequential(*layers)


def unet(channels: int) -> nn.Module:
    """A plain U-Net as nnU-Net's 3d_fullres plans it for 128^3 voxels of 1 mm."""
    return DynUNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=CLASSES,
        kernel_size=[3] * 6,
        strides=[1, 2, 2, 2, 2, 2],
        upsample_kernel_size=[2] * 5,
        filters=[32, 64, 128, 256, 320, 320],
    )


def windows(
    network: nn.Module, images: Tensor, device: torch.device, precision: devices.Precision, way: dict[str, object]
) -> Tensor:
    """Probabilities by MONAI's sliding window, on the CPU."""
    with torch.inference_mode(), devices.numerical_precision(precision, device):
        logits = sliding_window_inference(images.to(device), sw_batch_size=1, predictor=network, **way)
    return torch.softmax(logits.float(), dim=1).cpu()


def main(words: list[str] | None = None) -> None:
    """Command line."""
    arguments = scan_options(__doc__).parse_args(words)
    device = devices.choose_device(arguments.device)
    config = default_model()
    case = scan(config.architecture.input_channels, arguments.roi)
    assert case.roi is not None
    box = tuple(slice(int(of.min()), int(of.max()) + 1) for of in case.roi.nonzero().unbind(1))
    images = case.channels[(slice(None), *box)][None]
    ours = DeepMedicNet(config.architecture).to(device).eval()
    twin = PaddedTwin(config.architecture).to(device).eval()
    large = unet(config.architecture.input_channels).to(device).eval()
    results: dict[str, dict[str, float]] = {}
    for precision in arguments.precision:
        settings = InferenceSettings(
            segment=config.segment_size_inference, tiling="auto", precision=precision, device=device
        )
        by_window = partial(windows, images=images, device=device, precision=precision)
        ways: dict[str, Callable[[], object]] = {
            "ours": partial(predict_volume, ours, case, settings),
            "twin, MONAI": partial(by_window, twin, way={"roi_size": TWIN_WINDOW}),
            "nnU-Net's size": partial(
                by_window, large, way={"roi_size": UNET_WINDOW, "overlap": 0.5, "mode": "gaussian"}
            ),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        with devices.session_numerics(device, ExecutionConfig(precision=precision, deterministic=False)):
            for repetition in range(arguments.repetitions + 1):
                for way, work in ways.items():
                    started = time.perf_counter()
                    work()
                    if repetition or arguments.repetitions == 0:
                        times[way].append(time.perf_counter() - started)
        for way, seconds in times.items():
            median = statistics.median(seconds)
            results[f"{way}, {precision}"] = {"median": median, "least": min(seconds), "most": max(seconds)}
            ratio, spread = median / statistics.median(times["ours"]), f"({min(seconds):.2f} to {max(seconds):.2f})"
            print(f"{way:16} {precision:8} {median:8.2f} s   {spread}   {ratio:.2f} x ours")
    print(f"on {devices.describe(device)}, torch {torch.__version__}")
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
