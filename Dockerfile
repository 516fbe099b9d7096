# gradlint with torch for CPUs alone. TORCH_INDEX is the index of PyTorch's builds for CPUs (pytorch.org, "Get started"):
#
#     docker build -t gradlint --build-arg TORCH_INDEX=… .
#     docker run --rm -v "$PWD:/src:ro" gradlint model.py
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY gradlint ./gradlint
COPY rules ./rules
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX:?is the index of the builds of PyTorch for CPUs}" "${TORCH}"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/gradlint-*.whl)[notebook]"
# The model's Python runs in here: not as root, and with a home of its own for caches.
RUN useradd --create-home gradlint
USER gradlint
WORKDIR /src
ENTRYPOINT ["gradlint"]
CMD ["--help"]
