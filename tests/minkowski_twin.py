"""The MinkUNet of MinkowskiEngine's own layers, with the parameter names of released weights."""

from typing import Any

from torch import nn

from lg3d_core.networks import NETWORK_PLANS

OUTER_MOMENTUM = 0.02


def build_twin(
    engine: Any, plan_name: str, *, num_classes: int | None = None, final_relu: bool = False, stem_size: int = 3
) -> nn.Module:
    """Build the network; it takes a MinkowskiEngine.SparseTensor and gives one, of logits or features."""

    def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1, **choices: bool) -> nn.Module:
        return engine.MinkowskiConvolution(
            in_channels, out_channels, kernel_size=size, stride=stride, dimension=3, **choices
        )

    class Block(nn.Module):
        def __init__(self, in_channels: int, channels: int, ends_with_relu: bool) -> None:
            super().__init__()
            self.conv1 = convolution(in_channels, channels, 3)
            self.norm1 = engine.MinkowskiBatchNorm(channels)
            self.conv2 = convolution(channels, channels, 3)
            self.norm2 = engine.MinkowskiBatchNorm(channels)
            self.relu = engine.MinkowskiReLU()
            self.ends_with_relu = ends_with_relu
            self.downsample = None
            if in_channels != channels:
                self.downsample = nn.Sequential(
                    convolution(in_channels, channels, 1),
                    engine.MinkowskiBatchNorm(channels, momentum=OUTER_MOMENTUM),
                )

        def forward(self, x: Any) -> Any:
            shortcut = x if self.downsample is None else self.downsample(x)
            x = self.relu(self.norm1(self.conv1(x)))
            x = self.norm2(self.conv2(x)) + shortcut
            return self.relu(x) if self.ends_with_relu else x

    def stage(in_channels: int, channels: int, depth: int, *, ends_with_relu: bool = True) -> nn.Module:
        widths = [in_channels, *[channels] * depth]
        blocks = [Block(widths[k], channels, ends_with_relu or k < depth - 1) for k in range(depth)]
        return nn.Sequential(*blocks)

    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths, depths = NETWORK_PLANS[plan_name]
            self.conv0p1s1 = convolution(3, 32, stem_size)
            self.bn0 = engine.MinkowskiBatchNorm(32, momentum=OUTER_MOMENTUM)
            width, skipped = 32, [32]
            for k in range(4):
                self.add_module(f"conv{k + 1}p{2**k}s2", convolution(width, width, 2, 2))
                self.add_module(f"bn{k + 1}", engine.MinkowskiBatchNorm(width, momentum=OUTER_MOMENTUM))
                self.add_module(f"block{k + 1}", stage(width, widths[k], depths[k]))
                width = widths[k]
                skipped.append(width)
            for k in range(4, 8):
                up = engine.MinkowskiConvolutionTranspose(width, widths[k], kernel_size=2, stride=2, dimension=3)
                self.add_module(f"convtr{k}p{2 ** (8 - k)}s2", up)
                self.add_module(f"bntr{k}", engine.MinkowskiBatchNorm(widths[k], momentum=OUTER_MOMENTUM))
                joined = widths[k] + skipped[7 - k]
                ends_with_relu = final_relu or k < 7
                self.add_module(f"block{k + 1}", stage(joined, widths[k], depths[k], ends_with_relu=ends_with_relu))
                width = widths[k]
            self.final = None if num_classes is None else convolution(width, num_classes, 1, bias=True)
            self.relu = engine.MinkowskiReLU()

        def forward(self, x: Any) -> Any:
            levels = [self.relu(self.bn0(self.conv0p1s1(x)))]
            for k in range(4):
                down = self.get_submodule(f"conv{k + 1}p{2**k}s2")(levels[-1])
                levels.append(self.get_submodule(f"block{k + 1}")(self.relu(self.get_submodule(f"bn{k + 1}")(down))))
            x = levels.pop()
            for k in range(4, 8):
                x = self.relu(self.get_submodule(f"bntr{k}")(self.get_submodule(f"convtr{k}p{2 ** (8 - k)}s2")(x)))
                x = self.get_submodule(f"block{k + 1}")(engine.cat(x, levels.pop()))
            return x if self.final is None else self.final(x)

    return Twin()
