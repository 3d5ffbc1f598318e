# The gateway. Built in the root of a clone, for a model on a server:
#   docker build -f deploy/gateway.Dockerfile -t genrank .
# The smallest, for chat endpoints (llama.cpp, Ollama, OpenAI; vLLM is read by its token ids, which need the tokenizer):
#   docker build -f deploy/gateway.Dockerfile -t genrank-remote --build-arg EXTRAS=remote,server .
# With the model in the gateway itself, on the CPU:
#   docker build -f deploy/gateway.Dockerfile -t genrank-cpu --build-arg EXTRAS=server,transformers \
#     --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=gateway
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /src
RUN python -m venv --without-pip /opt/genrank
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY prompts prompts
COPY genrank genrank
RUN pip --python /opt/genrank/bin/python install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
RUN groupadd --gid 10001 genrank \
    && useradd --uid 10001 --gid genrank --home-dir /var/lib/genrank --create-home genrank
COPY --from=build /opt/genrank /opt/genrank
ENV PATH=/opt/genrank/bin:$PATH \
    GENRANK_HOME=/var/lib/genrank \
    HF_HOME=/var/lib/genrank/huggingface \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --start-period=2m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=3)"]
ENTRYPOINT ["genrank"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
