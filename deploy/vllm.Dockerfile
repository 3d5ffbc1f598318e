# vLLM's own server with genrank's plug-in, for NVIDIA GPUs. Built in the root of a clone:
#   docker build -f deploy/vllm.Dockerfile -t genrank-vllm .
# genrank is tested with this version of vLLM, and with the transformers that its extra names.
ARG VLLM=v0.32.0

FROM vllm/vllm-openai:${VLLM}
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY prompts prompts
COPY genrank genrank
RUN uv pip install --system --no-cache ".[transformers,vllm]" \
    && groupadd --gid 10001 genrank \
    && useradd --uid 10001 --gid genrank --create-home genrank \
    && install --directory --owner=genrank --group=genrank /var/lib/genrank
WORKDIR /home/genrank
ENV HOME=/home/genrank \
    GENRANK_HOME=/var/lib/genrank \
    HF_HOME=/var/lib/genrank/huggingface \
    VLLM_NO_USAGE_STATS=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=15m \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["genrank"]
CMD ["vllm", "--host", "0.0.0.0", "--port", "8000"]
