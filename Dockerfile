# The paper's stack: Python 3.8 with TensorFlow 2.4.1; docs/stacks.md says how to use it.
# For a GPU: --build-arg BASE=nvidia/cuda:11.0.3-cudnn8-runtime-ubuntu20.04
ARG BASE=python:3.8-slim
FROM ${BASE}

# Ubuntu 20.04 has Python 3.8 among its own packages. NVIDIA's lists are left out, since nothing is
# taken from them and their key was exchanged in 2022.
RUN command -v python3.8 && python3.8 -m ensurepip --version || { \
        rm -f /etc/apt/sources.list.d/cuda*.list /etc/apt/sources.list.d/nvidia*.list \
        && apt-get update \
        && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3.8-venv \
        && rm -rf /var/lib/apt/lists/*; }

RUN python3.8 -m venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1

COPY requirements.txt .
RUN pip install --no-cache-dir --upgrade pip && pip install --no-cache-dir -r requirements.txt

RUN useradd --create-home lhc && mkdir /lhc-net && chown lhc /lhc-net
USER lhc
WORKDIR /lhc-net
COPY --chown=lhc . .
# A volume that is mounted over one of these takes over its owner.
RUN mkdir Data Data_Images Models Downloaded_Models Results Exports Quickstart

CMD ["bash"]
