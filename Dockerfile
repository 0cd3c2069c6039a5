# lg3d in a container, for a CPU:
#     docker build -t lg3d .
#     docker run --rm -v "$PWD:/work" lg3d predict scan.ply
# For an NVIDIA GPU (the image then has PyTorch's CUDA libraries; the host needs a driver and the NVIDIA container toolkit):
#     docker build -t lg3d:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg TORCH_INDEX=https://pypi.org/simple .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" lg3d:cuda finetune
# `make docker-steps` runs the RUN steps below without Docker.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# A C compiler for the CPU kernels and for Triton; libusb, EGL, GL and X11 for open3d.
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc libc6-dev libgomp1 \
        libusb-1.0-0 libegl1 libgl1 libx11-6 \
    && rm -rf /var/lib/apt/lists/*

ARG PREFIX=/opt/lg3d
RUN python3 -m venv ${PREFIX}

# The only step that depends on the hardware. Later steps keep these versions, since each torchvision needs one of torch.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN ${PREFIX}/bin/pip install --no-cache-dir --index-url ${TORCH_INDEX} 'torch>=2.10' torchvision

ARG EXTRAS=view-cpu,las,e57
COPY pyproject.toml README.md LICENSE /src/
COPY lg3d_cli /src/lg3d_cli
COPY lg3d_core /src/lg3d_core
RUN ${PREFIX}/bin/pip install --no-cache-dir "/src[${EXTRAS}]"

RUN ${PREFIX}/bin/lg3d --version && ${PREFIX}/bin/lg3d doctor

# Downloads and compiled kernels are kept in /cache: mount a volume there to keep them between containers.
RUN mkdir -p /work /cache && chmod 777 /work /cache
ENV PATH=${PREFIX}/bin:${PATH} HOME=/cache XDG_CACHE_HOME=/cache
WORKDIR /work
ENTRYPOINT ["lg3d"]
CMD ["--help"]
